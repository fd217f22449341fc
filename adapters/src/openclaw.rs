//! The OpenClaw gateway protocol, version 4, without its sockets: text in, text out, time as an argument.
//!
//! | module | decides |
//! |---|---|
//! | [`conversation`] | what the frames of one connection mean, in the order they come |
//! | [`connect`] | the handshake: what a client says of itself, and what it signs |
//! | [`method`] | which methods there are, who serves them, and who may call them |
//! | [`params`] | what the parameters of requests must be |
//! | [`event`] | which events there are, and who may see them |
//! | [`presence`] | who is connected |
//! | [`turn`] | requests that are turns of agents, or about them |
//! | [`run`] | one run of an agent, and the events that it becomes |
//! | [`runs`] | what clients are answered about runs |
//! | [`session_key`] | how sessions are named |
//! | [`surroundings`] | what a connection has to know of its gateway |
//! | [`frame`] | how responses and events are written |
//! | [`devices`] | the methods on paired devices |
//! | [`backend`] | what the gateway does for clients without an agent |

pub mod backend;
pub mod connect;
pub mod conversation;
pub mod devices;
pub mod event;
pub mod frame;
mod hello;
pub mod method;
pub mod params;
pub mod presence;
pub mod run;
pub mod runs;
pub mod session_key;
pub mod surroundings;
pub mod turn;
