//! Agents that hang, as real processes: who is stopped is found and replaced, and nobody else is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::Client;
use tests::process::{Gateway, alive, asked, configure, send_signal, until};
use tests::{binary, diary};

/// How long everybody is stopped: ten times the patience with an agent.
const STALL: Duration = Duration::from_secs(3);

/// A gateway with an agent `slow` that keeps a diary in a folder, or several of them.
struct Place {
    gateway: Gateway,
    folder: TempDir,
}

impl Place {
    fn start(instances: u64, delivery: &Value, heartbeat: &Value) -> Self {
        let (state, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let command = [binary("delivery-agent").display().to_string(), folder.path().display().to_string()];
        let settings = json!({
            "journal": {"segmentMib": 1, "retainMib": 1},
            "delivery": delivery,
            "supervision": {"heartbeat": heartbeat},
            "agents": {
                "defaults": {"sandbox": {"workspace": folder.path()}},
                "entries": {"slow": {"command": command, "instances": instances}},
            },
        });
        configure(state.path(), &settings);
        let gateway = Gateway::start_in(Arc::new(state), &["--shards", "2"]).unwrap();
        Self { gateway, folder }
    }

    /// The hosts of all agents, once that many are there.
    fn hosts(&self, count: usize) -> BTreeMap<String, u32> {
        until("all agents run", || {
            let hosts: BTreeMap<_, _> = self.gateway.agents().into_iter().collect();
            (hosts.len() == count).then_some(hosts)
        })
    }

    /// Waits until the agent has seen a message.
    fn await_seen(&self, line: &str) {
        let seen = || {
            diary::lines(self.folder.path())
                .into_iter()
                .any(|(attempt, content)| format!("{attempt} {content}") == line)
        };
        until("the agent has seen the message", || seen().then_some(()));
    }
}

/// An agent that is stopped with a message in its hands is replaced; the message is answered once, by the replacement, as
/// attempt 2. Another agent of the gateway is left alone.
#[tokio::test]
async fn a_stopped_agent_is_replaced() {
    let place = Place::start(1, &json!({}), &json!({}));
    let hosts = place.hosts(2);
    let mut client = Client::connect(&place.gateway.url()).await;
    client.say("slow", "s", "m", "hold it").await;
    place.await_seen("1 hold it");
    send_signal(hosts["slow"], Signal::STOP);
    let (_, reply) = client.reply().await;
    assert_eq!((&reply["type"], &reply["id"]), (&json!("message"), &json!("m")), "{reply}");
    let text = reply["content"]["content"].as_str().unwrap_or_default();
    assert!(text.starts_with("hold it") && text.ends_with("attempt 2"), "{reply}");
    assert!(!alive(hosts["slow"]));
    // Nothing more comes for the first message: the next frames are of the next one.
    client.say("slow", "s", "n", "again").await;
    let (blocks, reply) = client.reply().await;
    assert_eq!((blocks.len(), &reply["id"]), (0, &json!("n")), "{reply}");
    let now = place.hosts(2);
    assert_ne!(now["slow"], hosts["slow"]);
    assert_eq!(now["echo"], hosts["echo"]);
}

/// The reason of the death is kept with a message that it ends.
#[tokio::test]
async fn a_dead_letter_names_the_hang() {
    let place = Place::start(1, &json!({"attemptsMax": 1}), &json!({}));
    let hosts = place.hosts(2);
    let mut client = Client::connect(&place.gateway.url()).await;
    client.say("slow", "s", "m", "hold it").await;
    place.await_seen("1 hold it");
    send_signal(hosts["slow"], Signal::STOP);
    let (_, reply) = client.reply().await;
    assert_eq!(reply["content"]["code"], "dead_lettered", "{reply}");
    let list = asked(place.gateway.state(), &["dlq", "list"]);
    let turn = list["letters"][0]["turn"].as_str().expect("a turn");
    let shown = asked(place.gateway.state(), &["dlq", "show", turn]).to_string();
    assert!(shown.contains("hung: no heartbeat for "), "{shown}");
}

/// An agent without work that is stopped is replaced, too, within the patience for such agents.
#[tokio::test]
async fn an_idle_stopped_agent_is_replaced() {
    let place = Place::start(1, &json!({}), &json!({"idleIntervalMs": 200}));
    let hosts = place.hosts(2);
    let mut client = Client::connect(&place.gateway.url()).await;
    // Who answers is attached.
    client.say("slow", "s", "m", "a message").await;
    assert_eq!(client.reply().await.1["type"], "message");
    send_signal(hosts["slow"], Signal::STOP);
    until("the stopped agent is dead", || (!alive(hosts["slow"])).then_some(()));
    let now = place.hosts(2);
    assert_ne!(now["slow"], hosts["slow"]);
    assert_eq!(now["echo"], hosts["echo"]);
}

/// A gateway that is stopped under load, and one that is stopped with all its agents, as if the machine had been suspended,
/// gives up nobody when it goes on: the agents are the same processes, and each message is answered in its first attempt.
#[tokio::test]
async fn a_stall_of_our_own_harms_nobody() {
    const AGENTS: u64 = 6;
    let place = Place::start(AGENTS, &json!({}), &json!({}));
    let hosts = place.hosts(AGENTS as usize + 1);
    let mut client = Client::connect(&place.gateway.url()).await;
    let mut sent = 0;
    for agents_too in [false, true] {
        for _ in 0..200 {
            client.say("slow", &format!("s-{}", sent % 40), &sent.to_string(), &format!("m-{sent}")).await;
            sent += 1;
        }
        let with = |signal| {
            place.gateway.signal(signal);
            for &host in hosts.values().filter(|_| agents_too) {
                send_signal(host, signal);
            }
        };
        with(Signal::STOP);
        std::thread::park_timeout(STALL);
        with(Signal::CONT);
        let mut ids = BTreeSet::new();
        while ids.len() < 200 {
            let (_, reply) = client.reply().await;
            let text = reply["content"]["content"].as_str().unwrap_or_default();
            assert!(text.ends_with("attempt 1"), "{reply}");
            assert!(ids.insert(reply["id"].to_string()), "{reply}");
        }
    }
    assert_eq!(place.hosts(AGENTS as usize + 1), hosts);
}
