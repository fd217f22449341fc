//! Foreign bytes to envelopes and back: the client side and the agent side.
//!
//! | module | decides |
//! |---|---|
//! | [`dialect`] | what the frames of clients say |
//! | [`refusal`] | how a refusal looks on every protocol |

#![forbid(unsafe_code)]

pub mod dialect;
pub mod refusal;
