//! Facts about where, of what and how a figure was measured.

use std::io;
use std::process::Command;
use std::sync::OnceLock;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// The machine of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// As the kernel names it.
    pub cpu_model: String,
    /// CPUs this program may run on.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// How the kernel chooses the frequency, if it says so.
    pub governor: Option<String>,
}

impl Machine {
    /// Reads the facts; what cannot be read is empty.
    pub fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.split(' ').next()?.parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024);
        let governor = text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim().to_owned();
        Self {
            cpu_model: field(&text("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: usable_cpus().len(),
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_bytes: memory,
            governor: Some(governor).filter(|governor| !governor.is_empty()),
        }
    }
}

/// The CPUs this program was given at its start, also after a thread has been pinned to one of them.
pub fn usable_cpus() -> Vec<usize> {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    let read = || {
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
    };
    CPUS.get_or_init(read).clone()
}

/// Keeps this thread on one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Gives this thread back all CPUs that the program was given.
pub fn unpin() -> io::Result<()> {
    let mut set = CpuSet::new();
    usable_cpus().into_iter().for_each(|cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// The commit of the working directory, with `-dirty` if files differ from it, or `unknown`.
pub fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain", "--untracked-files=no"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}-dirty"),
        (None, _) => "unknown".to_owned(),
    }
}

/// The command line of this run, the program without its folder.
pub fn command() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("bench-harness".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}
