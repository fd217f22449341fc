//! A gateway with its keeper and agents, and the gateways that follow it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The most native agents: members of one pool.
pub const NATIVE_MAX: u64 = 256;
/// The pool of native agents, and what the others are called.
const NATIVE: &str = "echo";
const HOSTED: &str = "hosted";
/// The longest that all agents may take to start, and a gateway to come up.
const START_MAX: Duration = Duration::from_secs(300);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(50);

/// An agent that runs.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Its process.
    pub process_id: u32,
}

impl Agent {
    /// Whether it is attached to its rings itself.
    pub fn is_native(&self) -> bool {
        self.name.split('~').next() == Some(NATIVE)
    }
}

#[derive(Deserialize)]
struct Listed {
    agents: Vec<Agent>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    process_id: u32,
    keeper_process_id: u32,
}

/// Ended when dropped, whoever is the gateway by then.
pub struct Line {
    openclaw: PathBuf,
    state: PathBuf,
    /// The first gateway.
    child: Child,
    /// Kept open: a gateway says more than its first line.
    _said: BufReader<ChildStdout>,
    port: u16,
    gateway: u32,
    keeper: u32,
    agents: u64,
}

impl Line {
    /// Starts a gateway with so many agents, and waits until all of them run.
    pub fn start(openclaw: &Path, state: PathBuf, agents: u64) -> io::Result<Self> {
        std::fs::write(state.join("openclaw.json"), settings(agents).to_string())?;
        let log = File::create(state.join("gateway.log"))?;
        let mut child = Command::new(openclaw)
            .args(["gateway", "run", "--port", "0", "--restart", "always", "--state-dir"])
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", openclaw.display())))?;
        let mut first = String::new();
        let said = child.stdout.take().ok_or_else(|| io::Error::other("standard output is not piped"))?;
        let mut said = BufReader::new(said);
        said.read_line(&mut first)?;
        let Some(port) = first.trim().rsplit(':').next().and_then(|port| port.parse().ok()) else {
            // It ends by itself; the log is what there is to say.
            child.wait()?;
            let log = std::fs::read_to_string(state.join("gateway.log")).unwrap_or_default();
            return Err(io::Error::other(format!("the gateway does not start: {}", log.trim())));
        };
        let gateway = child.id();
        let openclaw = openclaw.to_owned();
        let mut line = Self { openclaw, state, child, _said: said, port, gateway, keeper: 0, agents };
        line.wait_for_agents(|_| true)?;
        Ok(line)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process of the gateway.
    pub fn gateway(&self) -> u32 {
        self.gateway
    }

    /// The process of its keeper.
    pub fn keeper(&self) -> u32 {
        self.keeper
    }

    /// All agents that run, which have said hello.
    pub fn agents(&self) -> io::Result<Vec<Agent>> {
        let Listed { agents } = self.asked(&["agent", "list", "--state", "running"])?;
        Ok(agents)
    }

    /// Waits for the gateway that has come in the place of a killed one, and for its agents.
    pub fn meet_next(&mut self) -> io::Result<()> {
        let killed = self.gateway;
        self.wait_for_agents(|status| status.process_id != killed)?;
        // The first one is a child of this process, the others of the keeper.
        self.child.wait().map(drop)
    }

    fn wait_for_agents(&mut self, is_meant: impl Fn(&Status) -> bool) -> io::Result<()> {
        let end = Instant::now() + START_MAX;
        loop {
            match self.asked::<Status>(&["gateway", "status"]) {
                Ok(status) if is_meant(&status) => {
                    (self.gateway, self.keeper) = (status.process_id, status.keeper_process_id);
                    if self.agents().is_ok_and(|agents| agents.len() as u64 == self.agents) {
                        return Ok(());
                    }
                }
                // One that is killed, or that does not answer yet.
                Ok(_) | Err(_) => {}
            }
            if Instant::now() > end {
                let seconds = START_MAX.as_secs();
                let log = self.state.join("gateway.log");
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                return Err(io::Error::other(format!("not all agents run after {seconds} s: {last:?}")));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn asked<T: DeserializeOwned>(&self, arguments: &[&str]) -> io::Result<T> {
        let mut command = Command::new(&self.openclaw);
        let output = command.args(arguments).args(["--json", "--state-dir"]).arg(&self.state).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("{arguments:?}: {}", said.trim())));
        }
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)
    }

    /// Ends all of it, and removes its files.
    pub fn end(self) -> io::Result<()> {
        let mut command = Command::new(&self.openclaw);
        let output = command.args(["gateway", "stop", "--state-dir"]).arg(&self.state).output()?;
        let state = self.state.clone();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("the gateway does not stop: {}", said.trim())));
        }
        drop(self);
        std::fs::remove_dir_all(state)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // As a rule they have ended. None of them is to start another one meanwhile, so they stop first.
        let ours = [self.keeper, self.gateway].into_iter().filter(|&process| is_of(process, &self.state));
        let all: Vec<_> = ours.flat_map(|process| children(process).into_iter().chain([process])).collect();
        for signal in [Signal::STOP, Signal::KILL] {
            let named = all.iter().filter_map(|&process| Pid::from_raw(i32::try_from(process).ok()?));
            named.for_each(|process| {
                let _ = kill_process(process, signal); // It may just have ended.
            });
        }
        let _ = self.child.wait(); // Its exit status says nothing new.
        let _ = io::stdout().flush(); // Progress, for who looks on.
    }
}

/// Whether a process names this directory: a number may have become somebody else's.
fn is_of(process: u32, state: &Path) -> bool {
    let arguments = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&arguments).contains(&*state.to_string_lossy())
}

/// The processes that a process of one thread, or the first thread of a process, has started.
fn children(process: u32) -> Vec<u32> {
    let text =
        std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Default settings, with so many agents.
fn settings(agents: u64) -> Value {
    let mut entries = Map::new();
    let native = agents.min(NATIVE_MAX);
    entries.insert(NATIVE.to_owned(), json!({"instances": native}));
    let mut left = agents - native;
    while left > 0 {
        let instances = left.min(NATIVE_MAX);
        let name = format!("{HOSTED}-{}", entries.len());
        entries.insert(name, json!({"command": ["sleep", "infinity"], "instances": instances}));
        left -= instances;
    }
    json!({"gateway": {"auth": {"mode": "none"}}, "agents": {"entries": entries}})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many agents as are wanted, native ones first; both sides of the largest pool.
    #[test]
    fn settings_have_as_many_agents_as_wanted() {
        for (agents, native, pools) in [(1, 1, 1), (256, 256, 1), (257, 256, 2), (500, 256, 2), (513, 256, 3)]
        {
            let settings = settings(agents);
            let entries = settings["agents"]["entries"].as_object().unwrap();
            let sum: u64 = entries.values().filter_map(|entry| entry["instances"].as_u64()).sum();
            assert_eq!((sum, entries.len()), (agents, pools), "{agents}");
            assert_eq!(entries[NATIVE]["instances"], native, "{agents}");
        }
        let agent = |name: &str| Agent { name: name.into(), process_id: 1 };
        assert!(agent("echo").is_native() && agent("echo~7").is_native() && !agent("hosted-1~7").is_native());
    }
}
