//! Rings, segments, envelope and doorbells: all that two processes must agree on.
//!
//! From the bottom up:
//!
//! | module | decides |
//! |---|---|
//! | [`layout`] | where each word lies in a segment, and what its config page says |
//! | [`record`] | the 16-byte record header and the arithmetic of positions |
//! | [`ring`] | the single-producer single-consumer byte ring: publish, release, sleep, wake |
//! | [`mapping`] | the mapped halves the ring runs over |
//! | [`segment`] | memfds: created and sealed by the keeper, checked by whoever attaches |
//! | [`doorbell`] | futex and eventfd |
//! | [`passage`], `sealed` | large messages in files of their own, and the side channel for their descriptors |
//! | [`link`] | whole messages: fragments, reassembly, backlog, large ones by descriptor |
//! | [`envelope`] | what the messages say |
//! | [`heart`] | how an agent shows that it is scheduled |
//! | [`roles`] | the ring between processes without messages: for other payloads than ours |
//! | [`observe`] | what a ring looks like to somebody who takes no part in it |
//! | `stop_point` | where a test may have the process killed; nothing without the feature `testing` |
//! | [`ports`] | the rings between edge threads and shards, and which shard owns a session |
//!
//! Unsafe code lives in [`mapping`], `copy` and [`doorbell`], in the one place of [`link`] that borrows a record in
//! place, and in the one of [`envelope`] that opens an archive known to be valid; the ring algorithm has none.

pub mod sync;

pub mod layout;
pub mod record;
pub mod ring;
#[cfg(feature = "testing")]
pub mod stop_point;
#[cfg(not(feature = "testing"))]
mod stop_point;

#[cfg(not(loom))]
mod copy;
#[cfg(not(loom))]
pub mod doorbell;
#[cfg(not(loom))]
pub mod envelope;
#[cfg(not(loom))]
pub mod heart;
#[cfg(not(loom))]
pub mod link;
#[cfg(not(loom))]
pub mod mapping;
#[cfg(not(loom))]
pub mod observe;
#[cfg(not(loom))]
pub mod passage;
#[cfg(not(loom))]
pub mod ports;
#[cfg(not(loom))]
pub mod roles;
#[cfg(not(loom))]
mod sealed;
#[cfg(not(loom))]
pub mod segment;
#[cfg(all(test, not(loom)))]
mod xorshift;
