//! Foreign bytes to envelopes and back: the client side and the agent side.
//!
//! | module | decides |
//! |---|---|
//! | [`access`] | who a client is, and what it may do |
//! | [`edge`] | sockets of clients: HTTP, WebSocket, limits, back-pressure, draining |
//! | [`dialect`] | what the frames of clients say |
//! | [`openclaw`] | the OpenClaw gateway protocol, version 4, without its sockets |
//! | [`refusal`] | how a refusal looks on every protocol |
//! | [`client`] | the other end, for the command line |
//! | [`agent`] | hosts that attach to the rings and pass messages on to something else |

#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
pub mod client;
pub mod dialect;
pub mod edge;
pub mod openclaw;
pub mod refusal;
