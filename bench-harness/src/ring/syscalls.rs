//! System calls of a message while both sides are awake, counted by strace.
//!
//! Each cell runs twice in a process of its own, with ten times as many messages the second time: what the
//! growth does not explain is start, calibration and end. Nothing is timed, since strace slows each call.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Plan, Scenario, Subject, name};
use crate::machine;
use crate::results::Row;
use crate::table::Table;

/// Messages of the shorter run.
const MESSAGES: u64 = 100_000;
/// The same of a subject that calls for each message: strace makes a call a hundred times slower.
const MESSAGES_OF_STREAM: u64 = 2_000;
/// How many times as many the longer run has.
const GROWTH: u64 = 10;
/// The longest a run may measure: by far longer than it takes to carry its messages.
const SECONDS_MAX: &str = "60";

/// Counts in all awake cells of the plan, prints them, and gives their rows. Nothing without strace.
pub fn count(plan: &Plan) -> io::Result<Vec<Row>> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        println!("system calls: not run (strace is not installed)");
        return Ok(Vec::new());
    }
    if machine::usable_cpus().len() < 2 {
        println!("system calls: not run (needs 2 CPUs)");
        return Ok(Vec::new());
    }
    machine::unpin()?; // What is started here is to have all CPUs too.
    let mut table = Table::new(&["scenario", "bytes", "subject", "system calls a message"]);
    let mut rows = Vec::new();
    for &size_bytes in &plan.sizes {
        for &scenario in plan.scenarios.iter().filter(|scenario| **scenario != Scenario::RoundTripAsleep) {
            for &subject in &plan.subjects {
                if subject.obstacle(scenario, size_bytes).is_some() {
                    continue;
                }
                let calls = |messages| calls(subject, scenario, size_bytes, plan.ring_bytes, messages);
                let messages = match subject {
                    Subject::UnixStream | Subject::Pipe => MESSAGES_OF_STREAM,
                    _ => MESSAGES,
                };
                let (short, long) = (calls(messages)?, calls(messages * GROWTH)?);
                #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
                let value = long.saturating_sub(short) as f64 / (messages * (GROWTH - 1)) as f64;
                let (scenario, subject) = (name(&scenario), name(&subject));
                table.push(vec![
                    scenario.clone(),
                    size_bytes.to_string(),
                    subject.clone(),
                    format!("{value:.5}"),
                ]);
                rows.push(Row {
                    scenario,
                    subject,
                    size_bytes: size_bytes as u64,
                    metric: "syscalls_per_message".to_owned(),
                    unit: "calls/msg".to_owned(),
                    value,
                });
            }
        }
    }
    print!("{table}");
    Ok(rows)
}

/// All system calls of a run of both processes with this many messages.
fn calls(
    subject: Subject,
    scenario: Scenario,
    size_bytes: usize,
    ring_bytes: usize,
    messages: u64,
) -> io::Result<u64> {
    let summary = std::env::temp_dir().join(format!("bench-harness-{}-strace", std::process::id()));
    let program = std::env::current_exe()?;
    let status = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(&summary)
        .arg(&program)
        .args(["ring", "--rounds", "1", "--seconds-per-cell", SECONDS_MAX])
        .args(["--subjects", &name(&subject), "--scenarios", &name(&scenario)])
        .args(["--sizes", &size_bytes.to_string(), "--ring-bytes", &ring_bytes.to_string()])
        .args(["--messages", &messages.to_string()])
        .stdout(Stdio::null())
        .status()?;
    let text = std::fs::read_to_string(&summary);
    // A leftover in the temporary folder harms nothing.
    let _ = std::fs::remove_file(&summary);
    if !status.success() {
        return Err(io::Error::other(format!("strace {} ended with {status}", program.display())));
    }
    total(&text?, &summary)
}

/// The calls of the last line of a summary.
fn total(text: &str, path: &Path) -> io::Result<u64> {
    let line = text.lines().rev().find(|line| line.ends_with("total"));
    // Columns: part of the time, seconds, time of a call, calls, errors if any, name.
    let calls = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    calls.ok_or_else(|| io::Error::other(format!("{}: no line of totals", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The total is found with and without errors; a summary without one is refused by name.
    #[test]
    fn totals_are_found() {
        let with = "% time     seconds  usecs/call     calls    errors syscall\n\
             ------ ----------- ----------- --------- --------- ----------------\n\
              80.00    0.000100           1       100        25 futex\n\
             100.00    0.000123           0       175        25 total\n";
        assert_eq!(total(with, Path::new("f")).unwrap(), 175);
        assert_eq!(
            total("100.00    0.000123           0       175           total\n", Path::new("f")).unwrap(),
            175
        );
        assert_eq!(total("", Path::new("f")).unwrap_err().to_string(), "f: no line of totals");
    }
}
