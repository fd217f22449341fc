//! What a client remembers over many gateways, and what must be true of it.

use std::collections::BTreeMap;

use serde_json::Value;
use tests::client::{Client, Received};

/// What a client of many gateways, one after the other, has sent and been told.
#[derive(Default)]
pub struct Book {
    /// The agent and the session of each message, by id.
    pub sent: Vec<(&'static str, String)>,
    pub replies: BTreeMap<usize, String>,
    /// How often each was sent, by id: there may be as many replies.
    asked: Vec<u32>,
    /// How often each was answered, by id.
    told: Vec<u32>,
    /// By session, in the order of the replies.
    order: BTreeMap<String, Vec<usize>>,
}

impl Book {
    pub async fn send_new(&mut self, client: &mut Client, agent: &'static str) {
        let id = self.sent.len();
        self.sent.push((agent, format!("{agent}-{}", id % 5)));
        self.asked.push(0);
        self.told.push(0);
        self.send(client, id).await;
    }

    pub async fn send(&mut self, client: &mut Client, id: usize) {
        self.asked[id] += 1;
        let (agent, session) = &self.sent[id];
        client.say(agent, session, &id.to_string(), &format!("message {id}")).await;
    }

    pub fn open(&self) -> Vec<usize> {
        (0..self.sent.len()).filter(|id| !self.replies.contains_key(id)).collect()
    }

    /// Takes note of a frame.
    pub fn note(&mut self, frame: &Value) {
        if frame["type"] == "event" || frame["content"]["code"] == "shutting_down" {
            return;
        }
        assert_eq!(frame["type"], "message", "{frame}");
        let id: usize = frame["id"].as_str().unwrap().parse().unwrap();
        let text = frame["content"]["content"].as_str().unwrap().to_owned();
        let (agent, session) = &self.sent[id];
        let said = format!("message {id}");
        match *agent {
            "echo" => assert_eq!(text, said),
            // Tells who answers, and how often it has.
            "noted" => assert!(text.starts_with(&format!("{said}: ")), "{text}"),
            _ => assert_eq!(text, said.to_uppercase()),
        }
        self.told[id] += 1;
        assert!(self.told[id] <= self.asked[id], "a second reply to message {id}");
        if let Some(before) = self.replies.get(&id) {
            assert_eq!(*before, text, "another reply to message {id}");
        }
        if self.replies.insert(id, text).is_none() {
            self.order.entry(session.clone()).or_default().push(id);
        }
    }

    /// Reads until so many messages more are answered.
    pub async fn read(&mut self, client: &mut Client, count: usize) {
        let wanted = self.replies.len() + count;
        while self.replies.len() < wanted {
            self.note(&client.frame().await);
        }
    }

    /// Reads to the end of the connection, and gives the code it is closed with.
    pub async fn read_to_end(&mut self, client: &mut Client) -> Option<u16> {
        loop {
            match client.receive().await {
                Received::Frame(frame) => self.note(&frame),
                Received::Closed(code) => return code,
            }
        }
    }

    /// Every message has been answered, in the order of its session.
    pub fn check(&self) {
        assert_eq!(self.open(), Vec::<usize>::new());
        for (session, ids) in &self.order {
            assert!(ids.is_sorted(), "{session}: {ids:?}");
        }
    }
}
