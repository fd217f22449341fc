//! What the gateway does for clients without an agent: the seam between a connection and the gateway.

use std::fmt;
use std::net::IpAddr;

use serde_json::value::RawValue;

use super::event::StateVersion;
use super::method::{Method, MethodSet};
use crate::access::Identity;
use crate::refusal::RpcError;

/// Serves the calls that are not turns of agents.
pub trait Backend: Send + Sync + fmt::Debug {
    /// Which methods it serves. They alone are advertised, and they alone come to [`Backend::call`].
    fn methods(&self) -> MethodSet;

    /// Serves a call. On an edge thread, so it must not block: long work is done elsewhere and answered later.
    fn call(&self, call: OwnedCall, answer: Answer);

    /// The object of the method `health`, which is in the snapshot of `hello-ok` too.
    fn health(&self) -> Vec<u8>;

    /// The array of the method `system-presence`, which is in the snapshot of `hello-ok` too.
    fn presence(&self) -> Vec<u8>;

    /// How often presence and health have changed.
    fn state_version(&self) -> StateVersion;
}

/// A request that has left its connection.
#[derive(Debug)]
pub struct OwnedCall {
    /// What is called.
    pub method: Method,
    /// Its parameters, an object that satisfies the method's rules.
    pub params: Option<Box<RawValue>>,
    /// Who calls.
    pub identity: Identity,
    /// Where from.
    pub source: IpAddr,
    /// The connection that calls, as `hello-ok` named it.
    pub connection: String,
}

/// What comes of a call: the payload of its response as JSON, or why there is none.
pub type Outcome = Result<Vec<u8>, RpcError>;

/// The one answer to a call. Dropped without a word, it answers that the method gave none: no request hangs.
pub struct Answer {
    deliver: Option<Box<dyn FnOnce(Outcome) + Send>>,
}

impl Answer {
    /// `deliver` brings the outcome to the connection; on whatever thread it comes about, so it must not block.
    pub fn new(deliver: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self { deliver: Some(Box::new(deliver)) }
    }

    /// The outcome.
    pub fn give(mut self, outcome: Outcome) {
        if let Some(deliver) = self.deliver.take() {
            deliver(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(deliver) = self.deliver.take() {
            deliver(Err(RpcError::unavailable("the method gave no answer")));
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}
