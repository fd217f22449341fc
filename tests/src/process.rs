//! The gateway as a process of its own, on a free port, with a state directory of its own.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeper::client::PROGRAM;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary;

/// How long a test waits for what must come. Generous: a crowded machine is slow, and a right one is not
/// measured by it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running gateway. Killed, with its agents, when dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    // Arc: a test may start a second gateway in the directory of the first.
    state: Arc<TempDir>,
    port: u16,
    log: Option<std::thread::JoinHandle<String>>,
}

/// Settings that let everybody in, unless they say otherwise: most tests are not about access.
#[must_use]
pub fn open_to_all(mut settings: Value) -> Value {
    let gateway = &mut settings["gateway"];
    if gateway.get("auth").is_none() {
        gateway["auth"] = json!({"mode": "none"});
    }
    settings
}

/// Writes the configuration of a state directory, which lets everybody in unless it says otherwise.
///
/// # Panics
/// If that does not work.
pub fn configure(state: &Path, settings: &Value) {
    let text = open_to_all(settings.clone()).to_string();
    std::fs::write(state.join("openclaw.json"), text).expect("the configuration is written");
}

/// A gateway that did not start, and what it said.
#[derive(Debug)]
pub struct Refused {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard error.
    pub stderr: String,
}

impl Gateway {
    /// Starts a gateway with these arguments after `gateway run`, on a free port.
    ///
    /// # Errors
    /// If it exits instead of listening.
    pub fn start(arguments: &[&str]) -> Result<Self, Box<Refused>> {
        let state = tempfile::tempdir().expect("a temporary directory");
        Self::start_in(Arc::new(state), arguments)
    }

    /// As [`Self::start`], in a given state directory.
    ///
    /// # Errors
    /// If it exits instead of listening.
    pub fn start_in(state: Arc<TempDir>, arguments: &[&str]) -> Result<Self, Box<Refused>> {
        Self::start_as(Command::new(binary("openclaw")), state, arguments)
    }

    /// As [`Self::start_in`], by a command that ends with the program or with what runs it.
    ///
    /// # Errors
    /// If it exits instead of listening.
    pub fn start_as(
        mut command: Command,
        state: Arc<TempDir>,
        arguments: &[&str],
    ) -> Result<Self, Box<Refused>> {
        let given = |flag: &str| arguments.contains(&flag);
        if !given("--config") && !state.path().join("openclaw.json").exists() {
            configure(state.path(), &json!({}));
        }
        let free_port: &[&str] = if given("--port") { &[] } else { &["--port", "0"] };
        // Unless a test is about that: its agents end with it, and nobody starts it again.
        let mortal: &[&str] = if given("--restart") || given("--handover-timeout-ms") {
            &[]
        } else {
            &["--restart", "never", "--handover-timeout-ms", "0"]
        };
        let mut child = without_secrets(&mut command)
            .args(["gateway", "run", "--state-dir"])
            .arg(state.path())
            .args(free_port)
            .args(mortal)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the gateway starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        // The log is read to the end by a thread, so that the gateway never waits for a full pipe.
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            // Invalid bytes end the log early; the tests then miss what they look for and say so.
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let mut line = String::new();
        let read = stdout.read_line(&mut line).expect("standard output can be read");
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        match port {
            Some(port) if read > 0 => Ok(Self { child, _stdout: stdout, state, port, log: Some(log) }),
            _ => {
                let status = child.wait().expect("it can be waited for");
                Err(Box::new(Refused { status, stderr: log.join().unwrap_or_default() }))
            }
        }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    /// Its process id.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Its thread of this name, once it has one.
    pub fn thread(&self, name: &str) -> Option<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process_id())).ok()?;
        tasks.flatten().find_map(|task| {
            let found = std::fs::read_to_string(task.path().join("comm")).ok()?;
            (found.trim() == name).then(|| task.file_name().to_str()?.parse().ok()).flatten()
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within [`PATIENCE`].
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the gateway has ended", || child.try_wait().expect("it can be waited for"))
    }

    /// What it has logged, once it has ended.
    pub fn log(&mut self) -> String {
        // A second call has nothing more to tell.
        self.log.take().and_then(|log| log.join().ok()).unwrap_or_default()
    }

    /// The agent hosts it has now, by the name of their agent: processes whose environment names one.
    pub fn agents(&self) -> Vec<(String, u32)> {
        let Some(keeper) = self.keeper() else { return Vec::new() };
        processes()
            .into_iter()
            .filter(|process| process.parent == keeper)
            .filter_map(|process| Some((process.variable("OPENCLAW_AGENT_NAME")?, process.process_id)))
            .collect()
    }

    /// Its keeper's process id, if both live and the gateway has started it. A process that the keeper has
    /// forked looks the same until it has loaded its program, but is the keeper's child.
    pub fn keeper(&self) -> Option<u32> {
        let is_keeper = |process: &Process| process.parent == self.process_id() && process.is_keeper();
        processes().into_iter().find(is_keeper).map(|keeper| keeper.process_id)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Its keeper ends the agents when the gateway is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes the variables from a command that would count more than what a test says.
fn without_secrets(command: &mut Command) -> &mut Command {
    command.env_remove("OPENCLAW_GATEWAY_TOKEN").env_remove("OPENCLAW_GATEWAY_PASSWORD")
}

/// A command that asks the gateway of a state directory: `arguments`, then the directory.
pub fn openclaw(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("openclaw"));
    without_secrets(&mut command)
        .args(arguments)
        .arg("--state-dir")
        .arg(state)
        .env_remove("OPENCLAW_STATE_DIR");
    command
}

/// The JSON that such a command prints.
///
/// # Panics
/// If it fails, or prints something else.
pub fn asked(state: &Path, arguments: &[&str]) -> Value {
    let output = openclaw(state, arguments).arg("--json").output().expect("the command starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}: {output:?}"))
}

/// Sends a signal to a process that a test has started, or that such a process has.
pub fn send_signal(process_id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process_id).ok().and_then(Pid::from_raw) {
        // A process that is gone already needs no signal.
        let _ = kill_process(pid, signal);
    }
}

/// Whether a process is there and not a zombie.
pub fn alive(process_id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process_id}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// A process, as /proc tells it.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub process_id: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its arguments, the program first.
    pub arguments: Vec<String>,
}

impl Process {
    /// Whether it runs the program of a keeper.
    pub fn is_keeper(&self) -> bool {
        self.arguments.first().is_some_and(|program| program.ends_with(PROGRAM))
    }

    /// A variable of its environment.
    pub fn variable(&self, name: &str) -> Option<String> {
        let environment = std::fs::read(format!("/proc/{}/environ", self.process_id)).ok()?;
        let environment = String::from_utf8_lossy(&environment).into_owned();
        environment
            .split('\0')
            .find_map(|entry| Some(entry.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }
}

/// All processes of this machine that can be read.
pub fn processes() -> Vec<Process> {
    let folder = std::fs::read_dir("/proc").expect("/proc is mounted");
    folder
        .filter_map(|entry| {
            let process_id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let arguments = std::fs::read(format!("/proc/{process_id}/cmdline")).ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
            let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            let arguments = String::from_utf8_lossy(&arguments);
            let arguments = arguments.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
            Some(Process { process_id, parent, arguments })
        })
        .collect()
}

/// Ends every keeper, gateway and agent of a state directory: all at once, so that nobody starts another one.
pub fn end_all(state: &Path) {
    let place = state.to_string_lossy();
    let is_gateway = |process: &Process| process.arguments.get(1).is_some_and(|first| first == "gateway");
    let is_ours = |process: &Process| {
        (process.is_keeper() || is_gateway(process))
            && process.arguments.iter().any(|argument| argument.starts_with(&*place))
    };
    let ours: Vec<_> = processes().into_iter().filter(is_ours).collect();
    let is_agent = |process: &Process| {
        ours.iter().any(|parent| parent.process_id == process.parent)
            && process.variable("OPENCLAW_AGENT_NAME").is_some()
    };
    let agents: Vec<_> = processes().into_iter().filter(is_agent).collect();
    for signal in [Signal::STOP, Signal::KILL] {
        ours.iter().chain(&agents).for_each(|process| send_signal(process.process_id, signal));
    }
}

/// Looks again and again until there is something, and says what was waited for if it never comes.
///
/// # Panics
/// After [`PATIENCE`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
