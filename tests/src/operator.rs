//! An OpenClaw client for tests: requests and their responses, and the events that come meanwhile.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::client::Client;

/// A connection that was let in.
#[derive(Debug)]
pub struct Operator {
    client: Client,
    requests: u64,
    /// Events that came while a response was waited for.
    events: VecDeque<Value>,
}

impl Operator {
    /// Connects as the command line of this machine does, with these scopes.
    ///
    /// # Panics
    /// If it is not let in.
    pub async fn connect(url: &str, scopes: &[&str]) -> Self {
        let mut operator = Self { client: Client::connect(url).await, requests: 0, events: VecDeque::new() };
        let hello = operator.ask(
            "connect",
            json!({
                "minProtocol": 4,
                "maxProtocol": 4,
                "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
                "role": "operator",
                "scopes": scopes,
                "auth": {},
            }),
        );
        hello.await.expect("it is let in");
        operator
    }

    /// The payload of a response, or its error.
    ///
    /// # Errors
    /// If the gateway refuses.
    ///
    /// # Panics
    /// If no response comes.
    pub async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.send(method, params).await;
        self.response(&id).await
    }

    /// Sends a request; its id.
    pub async fn send(&mut self, method: &str, params: Value) -> String {
        self.requests += 1;
        let id = self.requests.to_string();
        self.client.send(&json!({"type": "req", "id": id, "method": method, "params": params})).await;
        id
    }

    /// The response to a request.
    ///
    /// # Errors
    /// If the gateway refuses.
    ///
    /// # Panics
    /// If another one comes first.
    pub async fn response(&mut self, id: &str) -> Result<Value, Value> {
        loop {
            let frame = self.client.frame().await;
            if frame["type"] == "event" {
                self.events.push_back(frame);
                continue;
            }
            assert_eq!(frame["id"], id, "{frame}");
            return if frame["ok"] == true {
                Ok(frame["payload"].clone())
            } else {
                Err(frame["error"].clone())
            };
        }
    }

    /// How many events of that name have come and were not taken.
    pub fn told(&self, name: &str) -> usize {
        self.events.iter().filter(|frame| frame["event"] == name).count()
    }

    /// The payload of the next event of that name for which this holds.
    ///
    /// # Panics
    /// If none comes.
    pub async fn event(&mut self, name: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = match self.events.pop_front() {
                Some(frame) => frame,
                None => self.client.frame().await,
            };
            if frame["event"] == name && holds(&frame["payload"]) {
                return frame["payload"].clone();
            }
        }
    }
}
