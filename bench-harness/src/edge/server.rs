//! A gateway as it is found in `/proc`, and how long one takes to start.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use super::client::{Client, source};

/// Descriptors for the connections of both sides, and some for everything else.
pub const SPARE_DESCRIPTORS: u64 = 1_000;

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All that is resident, of files too.
    pub resident: u64,
    /// Its own.
    pub anonymous: u64,
}

/// Reads the memory of a process.
pub fn memory(process: u32) -> io::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (Some(resident), Some(anonymous)) = (field("VmRSS:"), field("RssAnon:")) else {
        return Err(io::Error::other(format!("the memory of process {process} is not told")));
    };
    Ok(Memory { resident: resident * 1024, anonymous: anonymous * 1024 })
}

/// Processor time that processes have used so far.
pub fn cpu_time(processes: &[u32]) -> io::Result<Duration> {
    let mut ticks = 0;
    for process in processes {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        ticks += fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1)))
}

/// Makes room for so many connections in the limits of this process, which the gateway inherits. How many have room.
pub fn room_for(connections: u64) -> u64 {
    let wanted = connections + SPARE_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return connections;
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    if setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok() {
        return connections;
    }
    // Only who is privileged may raise the upper limit.
    let current = limit.maximum.unwrap_or(wanted);
    match setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum }) {
        Ok(()) => connections.min(current.saturating_sub(SPARE_DESCRIPTORS)),
        Err(_) => connections.min(limit.current.unwrap_or(0).saturating_sub(SPARE_DESCRIPTORS)),
    }
}

/// From the spawn of a gateway until a client has its `hello-ok`; then the gateway is ended.
pub async fn cold_start(openclaw: &Path, state: &Path) -> io::Result<Duration> {
    let begun = Instant::now();
    let mut child = Command::new(openclaw)
        .args(["gateway", "run", "--port", "0", "--restart", "never", "--handover-timeout-ms", "0"])
        .arg("--state-dir")
        .arg(state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let outcome = first_hello(&mut child, begun).await;
    if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        kill_process(process, Signal::TERM)?;
    }
    child.wait()?;
    outcome
}

async fn first_hello(child: &mut Child, begun: Instant) -> io::Result<Duration> {
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("standard output is not piped"))?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok());
    let port = port.ok_or_else(|| io::Error::other(format!("the gateway said {line:?}")))?;
    Client::hello(source(0), port).await?;
    Ok(begun.elapsed())
}
