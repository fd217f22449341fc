//! The journal: what has been accepted and is not done yet, on disk. One log per shard, one thread that writes all.
//!
//! | module | holds |
//! |---|---|
//! | [`entry`] | what a shard asks to be kept |
//! | [`record`], [`segment`], [`ids`] | the formats, as in `docs/journal-format.md` |
//! | [`writer`] | the log of one shard, without its disk: entries in, operations out |
//! | [`disk`] | the seam: operations and completions as data |
//! | [`recovery`] | what is read back, and what is missing |
//! | [`simulated`] | a disk in memory that loses power, fills up and fails |

mod appender;
pub mod disk;
pub mod entry;
pub mod ids;
pub mod record;
pub mod recovery;
#[cfg(test)]
mod rig;
pub mod segment;
pub mod simulated;
pub mod writer;
