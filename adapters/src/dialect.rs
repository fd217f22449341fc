//! What the frames of clients say. Pure: bytes in, requests or refusals out, and back; no sockets.
//!
//! | module | reads and writes |
//! |---|---|
//! | [`simple`] | `message`, `cancel` and `status` |
//! | [`driver`] | `message_in` and what else channel drivers say |
//! | [`fields`] | the rules on fields that both have |

pub mod driver;
pub mod fields;
pub mod simple;
