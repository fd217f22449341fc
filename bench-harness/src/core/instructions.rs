//! Instructions of a message in the core, counted by valgrind: the same in every run, whatever else the machine does.
//!
//! Each cell runs in processes of its own: with ten times as many messages the second time, once with the core and
//! once making messages only. What neither difference explains is start and end.

use std::io;
use std::process::{Command, Stdio};

use super::rig::{Rig, Shape};
use super::{name, row};
use crate::results::Row;
use crate::table::Table;

/// The name of the hidden subcommand that runs a cell.
pub const SUBCOMMAND: &str = "core-cell";
const MESSAGES: u64 = 20_000;
const GROWTH: u64 = 5;
/// Shapes with more sessions take valgrind too long.
const SESSIONS_COUNTED_MAX: u32 = 1000;

/// A cell.
#[derive(Debug, clap::Args)]
pub struct CellOptions {
    #[arg(long)]
    sessions: u32,
    #[arg(long)]
    agents: u32,
    #[arg(long)]
    ids: bool,
    #[arg(long)]
    group: usize,
    #[arg(long)]
    content_bytes: usize,
    #[arg(long)]
    messages: u64,
    #[arg(long)]
    prepare_only: bool,
}

/// Runs a cell.
pub fn serve(options: &CellOptions) {
    let CellOptions { sessions, agents, ids, group, content_bytes, messages, prepare_only } = *options;
    let mut rig = Rig::new(Shape::new(sessions, agents, ids, group, content_bytes));
    if !prepare_only {
        return rig.warm_up(messages);
    }
    for _ in 0..messages.div_ceil(rig.group() as u64) {
        rig.prepare();
    }
}

/// Counts in all shapes, prints them, and gives their rows. Nothing without valgrind.
pub fn count(shapes: &[Shape]) -> io::Result<Vec<Row>> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("instructions: not available here (valgrind is not installed)");
        return Ok(Vec::new());
    }
    let mut table = Table::new(&["sessions", "agents", "ids", "instructions a message"]);
    let mut rows = Vec::new();
    for shape in shapes.iter().filter(|shape| shape.sessions <= SESSIONS_COUNTED_MAX) {
        let grown = |prepare_only| -> io::Result<u64> {
            let few = instructions(shape, MESSAGES, prepare_only)?;
            Ok(instructions(shape, MESSAGES * GROWTH, prepare_only)?.saturating_sub(few))
        };
        let core = grown(false)?.saturating_sub(grown(true)?);
        #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
        let value = core as f64 / (MESSAGES * (GROWTH - 1)) as f64;
        let ids = if shape.ids { "yes" } else { "no" };
        table.push(vec![
            shape.sessions.to_string(),
            shape.agents.to_string(),
            ids.into(),
            format!("{value:.0}"),
        ]);
        rows.push(row("core-whole-life", &name(shape), "instructions", "instructions/msg", value));
    }
    print!("{table}");
    Ok(rows)
}

/// All instructions of a process that runs a cell.
fn instructions(shape: &Shape, messages: u64, prepare_only: bool) -> io::Result<u64> {
    let Shape { sessions, agents, ids, group, content_bytes } = shape;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([SUBCOMMAND, "--sessions", &sessions.to_string(), "--agents", &agents.to_string()])
        .args(["--group", &group.to_string(), "--content-bytes", &content_bytes.to_string()])
        .args(["--messages", &messages.to_string()]);
    if *ids {
        command.arg("--ids");
    }
    if prepare_only {
        command.arg("--prepare-only");
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    total(&text).ok_or_else(|| io::Error::other(format!("valgrind counted nothing:\n{text}")))
}

/// The number of the line `I refs:`.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("I refs:") || line.contains("I   refs:"))?;
    line.rsplit(' ').next()?.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The total is found in both ways to write it.
    #[test]
    fn totals_are_found() {
        for line in ["==7== I refs:        1,234,567", "==7== I   refs:      1,234,567"] {
            assert_eq!(total(&format!("==7== Cachegrind\n{line}\n")), Some(1_234_567));
        }
        assert_eq!(total("==7== killed\n"), None);
    }
}
