//! The journal: what has been accepted and is not done yet, on disk. One log per shard, one thread that writes all.
//!
//! | module | holds |
//! |---|---|
//! | [`entry`] | what a shard asks to be kept |
//! | [`record`], [`segment`], [`ids`] | the formats, as in `docs/journal-format.md` |
//! | [`writer`] | the log of one shard, without its disk: entries in, operations out |
//! | [`disk`] | the seam: operations and completions as data |
//! | [`recovery`] | what is read back, and what is missing |
//! | [`follow`] | what is read while it is written |
//! | [`tail`] | what the thread and that reader tell each other |
//! | [`files`], `uring` | who executes operations on real files |
//! | [`thread`] | the thread that writes the logs of all shards |
//! | [`set`] | the directory of all logs, and what happens when the number of shards changes |
//! | [`simulated`] | a disk in memory that loses power, fills up and fails |

mod appender;
pub mod disk;
pub mod entry;
pub mod files;
pub mod follow;
pub mod ids;
pub mod record;
pub mod recovery;
#[cfg(test)]
mod rig;
pub mod segment;
pub mod set;
pub mod simulated;
pub mod tail;
pub mod thread;
#[expect(unsafe_code, reason = "entries of the ring point to buffers")]
mod uring;
pub mod writer;
