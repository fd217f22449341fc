//! The journal: what has been accepted and is not done yet, on disk. One log per shard, one thread that writes all.

pub mod entry;
