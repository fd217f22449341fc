//! What the frames of clients say. Pure: bytes in, requests or refusals out, and back; no sockets.
//!
//! | module | reads and writes |
//! |---|---|
//! | [`simple`] | `message`, `cancel`, `status` and `resume` |
//! | [`driver`] | `message_in` and what else channel drivers say |
//! | [`fields`] | the rules on fields that both have |
//! | [`place`] | where something stands in the stream of its session |

pub mod driver;
pub mod fields;
pub mod place;
pub mod simple;
