//! stub

pub mod host;
mod echo;
mod stdio;
