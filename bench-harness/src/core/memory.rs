//! What idle sessions cost: the growth of this process while a running core gets many of them.

use std::io;

use super::rig::{Rig, Shape};
use super::{CONTENT_BYTES, SESSIONS_FEW, WARM_UP_MESSAGES, row};
use crate::results::Row;
use crate::table::Table;

const BYTES_TARGET: f64 = 512.0;
const GROUP: usize = 64;

/// Resident bytes of an idle session, of which there are `sessions`.
///
/// The core is warm before: what it keeps of messages is bounded and has reached its bound. Then each session has one
/// message, is answered, and idle.
pub fn measure(sessions: u32) -> io::Result<Vec<Row>> {
    let few = Shape::new(SESSIONS_FEW, 1, true, GROUP, CONTENT_BYTES);
    let mut rig = Rig::new(few);
    rig.warm_up(WARM_UP_MESSAGES * 2);
    let before = resident_bytes()?;
    rig.widen(sessions);
    rig.warm_up(u64::from(sessions));
    let grown = resident_bytes()?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory stay below 2^53")]
    let value = grown as f64 / f64::from(sessions - SESSIONS_FEW);
    let mut table = Table::new(&["idle sessions", "resident bytes of each", "limit", ""]);
    let verdict = if value <= BYTES_TARGET { "met" } else { "missed" };
    table.push(vec![
        sessions.to_string(),
        format!("{value:.0}"),
        format!("<= {BYTES_TARGET:.0}"),
        verdict.into(),
    ]);
    print!("\n{table}");
    Ok(vec![row("core-idle-sessions", &sessions.to_string(), "resident_bytes_each", "B", value)])
}

/// Memory of this process that is in the machine's.
fn resident_bytes() -> io::Result<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    let pages = pages.ok_or_else(|| io::Error::other(format!("/proc/self/statm says \"{statm}\"")))?;
    Ok(pages * rustix::param::page_size())
}
