//! Foreign bytes to envelopes and back: the client side and the agent side.

pub mod agent;
