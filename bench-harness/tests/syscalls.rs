//! No system call for a message while both sides of a link are awake: strace counts two runs of the benchmark, one
//! with ten times the messages of the other, and the growth is looked at.

use std::path::PathBuf;
use std::process::{Command, Stdio};

const GROWTH: u64 = 10;
/// Calls that may differ between two runs for reasons of their own, such as the start of the processes.
const SLACK_CALLS: u64 = 20;
/// Anything a ring could be waited for or rung with.
const CALLS: [&str; 12] = [
    "futex",
    "read",
    "write",
    "preadv2",
    "poll",
    "ppoll",
    "epoll_wait",
    "epoll_pwait",
    "recvmsg",
    "sendmsg",
    "sched_yield",
    "clock_nanosleep",
];

/// Why nothing can be counted here, if so.
fn obstacle() -> Option<&'static str> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if cpus < 2 {
        return Some("two sides that spin need 2 CPUs");
    }
    let mut strace = Command::new("strace");
    strace.args(["-o", "/dev/null", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    match strace.status() {
        Err(_) => Some("strace is not installed"),
        Ok(status) if !status.success() => Some("strace may not trace here"),
        Ok(_) => None,
    }
}

fn summary_path() -> PathBuf {
    let number = std::thread::current().id();
    std::env::temp_dir().join(format!("bench-harness-test-{}-{number:?}", std::process::id()))
}

/// Calls of both processes of a run with this many messages.
fn calls(subject: &str, scenario: &str, messages: u64) -> u64 {
    let summary = summary_path();
    let status = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(&summary)
        .arg(env!("CARGO_BIN_EXE_bench-harness"))
        .args(["ring", "--rounds", "1", "--seconds-per-cell", "60", "--sizes", "64"])
        .args(["--subjects", subject, "--scenarios", scenario, "--messages", &messages.to_string()])
        .stdout(Stdio::null())
        .status()
        .expect("strace was there a moment ago");
    assert!(status.success(), "{subject} {scenario}: {status}");
    let text = std::fs::read_to_string(&summary).expect("strace has written its summary");
    std::fs::remove_file(&summary).expect("it can be removed");
    // Columns: part of the time, seconds, time of a call, calls, errors if any, name.
    let counts = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        CALLS.contains(words.last()?).then(|| words[3].parse::<u64>().expect("a count of calls"))
    });
    counts.sum()
}

/// By how many calls a run grows when it has `GROWTH` times the messages.
fn growth(subject: &str, scenario: &str, messages: u64) -> u64 {
    let short = calls(subject, scenario, messages);
    calls(subject, scenario, messages * GROWTH).saturating_sub(short)
}

/// Round trips between spinning sides, and messages one way for which the ring has room, make no call each;
/// a Unix socket, counted in the same way, makes at least two.
#[test]
fn an_awake_link_makes_no_system_call_for_a_message() {
    if let Some(why) = obstacle() {
        println!("not run: {why}");
        return;
    }
    // One way: 10,000 records of 80 bytes fit into the ring, so that nobody waits for room.
    let scenarios = [("round-trip-awake", 10_000), ("one-way", 1_000), ("one-way-batch16", 1_000)];
    for (scenario, messages) in scenarios {
        let grown = growth("shm-transport", scenario, messages);
        assert!(
            grown <= SLACK_CALLS,
            "{scenario}: {grown} calls more for {messages} messages times {GROWTH}"
        );
    }
    let (messages, grown) = (200, growth("unix-stream", "round-trip-awake", 200));
    assert!(grown >= 2 * messages * (GROWTH - 1), "the method finds {grown} calls of a socket only");
}
