//! What the frames of clients say. Pure: bytes in, requests or refusals out, and back; no sockets.

pub mod simple;
