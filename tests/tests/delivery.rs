//! Delivery with real processes: whatever is killed when, an accepted message has one reply, or is a dead letter.

#[path = "delivery/refused.rs"]
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::{Client, Received};
use tests::process::{Gateway, asked, configure, openclaw, processes, send_signal, until};
use tests::{binary, diary};

/// A state directory, and the folder of an agent.
struct Place {
    state: Arc<TempDir>,
    folder: TempDir,
}

impl Place {
    /// With these settings of delivery, as JSON.
    fn new(delivery: &Value) -> Self {
        // Small segments, which are read quickly at each start.
        let place =
            Self { state: Arc::new(tempfile::tempdir().unwrap()), folder: tempfile::tempdir().unwrap() };
        // The agent keeps its list in the folder.
        let agents = json!({"defaults": {"sandbox": {"workspace": place.folder.path()}}});
        let journal = json!({"segmentMib": 1, "retainMib": 1});
        let settings = json!({"delivery": delivery, "journal": journal, "agents": agents});
        configure(place.state(), &settings);
        place
    }

    fn state(&self) -> &Path {
        self.state.path()
    }

    /// Starts a gateway with the agent `slow`.
    fn start(&self, shards: &str) -> Gateway {
        let agent = format!("slow={} {}", binary("delivery-agent").display(), self.folder.path().display());
        Gateway::start_in(
            Arc::clone(&self.state),
            &["--shards", shards, "--runtime", "auto", "--agent", &agent],
        )
        .unwrap()
    }

    /// The attempts that the agent has seen, by content.
    fn seen(&self) -> BTreeMap<String, Vec<u64>> {
        diary::attempts(self.folder.path())
    }
}

/// Ends a gateway as a crash would.
fn kill(mut gateway: Gateway) {
    gateway.signal(Signal::KILL);
    assert_eq!(gateway.wait().code(), None);
}

/// Ends a gateway as an operator would.
fn end(mut gateway: Gateway) {
    gateway.signal(Signal::TERM);
    // Twice: some of the messages here are never answered.
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

fn text(frame: &Value) -> &str {
    frame["content"]["content"].as_str().unwrap_or_default()
}

fn code(frame: &Value) -> &str {
    frame["content"]["code"].as_str().unwrap_or_default()
}

/// Sends a message and gives its reply.
async fn exchange(client: &mut Client, session: &str, id: &str, content: &str) -> Value {
    client.say("slow", session, id, content).await;
    let (_, end) = client.reply().await;
    assert_eq!(end["id"], id, "{end}");
    end
}

/// What a client of many gateways, one after the other, knows.
#[derive(Default)]
struct Book {
    /// Ids that were told to be accepted.
    accepted: BTreeSet<usize>,
    /// Replies by id.
    replies: BTreeMap<usize, String>,
}

impl Book {
    /// Takes note of a frame. `true`: it was the end of a reply.
    fn note(&mut self, frame: &Value) -> bool {
        let id = frame["id"].as_str().and_then(|id| id.parse().ok()).expect("a number");
        match frame["type"].as_str() {
            Some("status") => {
                let known = frame["content"]["duplicate"] == true;
                assert!(known || self.accepted.insert(id), "{id} was accepted, and forgotten: {frame}");
                false
            }
            Some("message") => {
                let reply = text(frame).to_owned();
                let before = self.replies.entry(id).or_insert_with(|| reply.clone());
                assert_eq!(*before, reply, "{id} has two replies");
                true
            }
            _ => panic!("{frame}"),
        }
    }
}

/// Sends a message that wants to be told of its acceptance.
async fn send(client: &mut Client, id: usize) {
    let frame = json!({"type": "message", "id": id.to_string(), "agent": "slow", "content": format!("m-{id}"),
        "sessionId": format!("s-{}", id % 7), "metadata": {"ack": true}});
    client.send(&frame).await;
}

/// `kill -9` of the gateway under load, 20 times: what was told to be accepted is known afterwards, each message has one
/// and the same reply however often it is sent, and the agent sees each attempt once. By a seeded number of messages
/// that are sent and replies that are awaited before each kill.
#[tokio::test]
async fn killed_gateways_lose_nothing() {
    const SEED: u64 = 9;
    let mut random = fastrand::Rng::with_seed(SEED);
    let place = Place::new(&json!({}));
    let mut book = Book::default();
    let mut sent = 0;
    for _ in 0..20 {
        let gateway = place.start("2");
        let mut client = Client::connect(&gateway.url()).await;
        let again: Vec<usize> =
            (0..sent).filter(|id| !book.replies.contains_key(id) || random.u8(..) < 16).collect();
        let new = sent..sent + random.usize(20..60);
        sent = new.end;
        let under_way = again.len() + new.len();
        for id in again.into_iter().chain(new) {
            send(&mut client, id).await;
        }
        let mut awaited = random.usize(0..under_way);
        while awaited > 0 {
            awaited -= usize::from(book.note(&client.frame().await));
        }
        kill(gateway);
        while let Received::Frame(frame) = client.receive().await {
            book.note(&frame);
        }
    }
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    for id in 0..sent {
        send(&mut client, id).await;
    }
    let mut ended = 0;
    while ended < sent {
        ended += usize::from(book.note(&client.frame().await));
    }
    client.send(&json!({"type": "status"})).await;
    assert_eq!(client.frame().await["content"]["ok"], true, "nothing comes twice, seed {SEED}");
    assert_eq!(book.replies.len(), sent);
    let seen = place.seen();
    assert_eq!(seen.len(), sent);
    for (content, attempts) in &seen {
        assert!(
            attempts.is_sorted_by(|a, b| a < b),
            "{content} is seen in attempts {attempts:?}, seed {SEED}"
        );
    }
    let redelivered = seen.values().filter(|attempts| attempts.len() > 1).count();
    assert!(redelivered > 0, "no gateway was killed in time, seed {SEED}");
}

/// A message in the hands of an agent when its gateway is killed is given out again by the next one, as attempt 2, to
/// nobody's harm; whoever sends it again gets the reply, and the same one later.
#[tokio::test]
async fn a_message_in_hand_is_given_out_again() {
    let place = Place::new(&json!({}));
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    client.say("slow", "s", "m", "hold it").await;
    until("the agent has it", || place.seen().contains_key("hold it").then_some(()));
    kill(gateway);
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    let reply = exchange(&mut client, "s", "m", "hold it").await;
    assert!(text(&reply).ends_with("attempt 2"), "{reply}");
    assert_eq!(text(&exchange(&mut client, "s", "m", "hold it").await), text(&reply));
    assert_eq!(place.seen()["hold it"], [1, 2]);
    end(gateway);
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    assert_eq!(text(&exchange(&mut client, "s", "m", "hold it").await), text(&reply));
    assert_eq!(place.seen()["hold it"], [1, 2]);
}

/// `kill -9` of an agent in the middle of a reply: the next incarnation is given the message as attempt 2, its text
/// replaces what had been said, and there is one closing frame.
#[tokio::test]
async fn a_killed_agent_answers_after_all() {
    let place = Place::new(&json!({}));
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    client.say("slow", "s", "m", "half of it").await;
    assert_eq!(client.frame().await["content"]["content"], "half of 1 ");
    let hosts = gateway.agents();
    let (_, host) = hosts.iter().find(|(name, _)| name == "slow").expect("the agent runs");
    let command = processes().into_iter().find(|process| process.parent == *host).expect("its command runs");
    send_signal(command.process_id, Signal::KILL);
    let (blocks, reply) = client.reply().await;
    assert_eq!(blocks.iter().map(text).collect::<Vec<_>>(), ["half of 2 "]);
    assert!(text(&reply).starts_with("half of 2 half of it: "), "{reply}");
    assert!(text(&reply).ends_with("attempt 2"), "{reply}");
    client.send(&json!({"type": "status"})).await;
    assert_eq!(client.frame().await["type"], "status");
    assert_eq!(text(&exchange(&mut client, "s", "m", "half of it").await), text(&reply));
}

/// An id stands for one message of its session: the same again has the same reply, another one is refused, also by
/// the next gateway.
#[tokio::test]
async fn an_id_stands_for_one_message() {
    let place = Place::new(&json!({}));
    let mut gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    let reply = exchange(&mut client, "s", "m", "one").await;
    for restart in [false, true] {
        if restart {
            end(gateway);
            gateway = place.start("1");
            client = Client::connect(&gateway.url()).await;
        }
        assert_eq!(text(&exchange(&mut client, "s", "m", "one").await), text(&reply), "{restart}");
        let other = exchange(&mut client, "s", "m", "another").await;
        assert_eq!(code(&other), "conflict", "{other}");
        let elsewhere = exchange(&mut client, &format!("elsewhere {restart}"), "m", "another").await;
        assert_eq!(elsewhere["type"], "message", "{elsewhere}");
    }
    assert_eq!(place.seen()["one"], [1]);
}

/// A durable acceptance is told as such.
#[tokio::test]
async fn durability_is_told() {
    let place = Place::new(&json!({}));
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    for durability in ["durable", "memory"] {
        let metadata = json!({"ack": true, "durability": durability});
        client
            .send(&json!({"type": "message", "id": durability, "agent": "slow", "content": "x", "metadata": metadata}))
            .await;
        let accepted = client.frame().await;
        assert_eq!(accepted["content"], json!({"state": "accepted", "durability": durability}), "{accepted}");
        assert_eq!(client.reply().await.1["type"], "message");
    }
}

/// Dead letters of a gateway, by the ids of their messages.
fn dead(state: &Path) -> BTreeMap<String, Value> {
    let list = asked(state, &["dlq", "list"]);
    let letters = list["letters"].as_array().expect("a list");
    assert_eq!(list["total"], letters.len(), "{list}");
    letters.iter().map(|letter| (letter["id"].as_str().expect("an id").to_owned(), letter.clone())).collect()
}

/// A message that ends its agent is given up and kept, over a restart too; a dry run changes nothing; when the agent is
/// mended, a replay has it answered; what is dropped is gone for good.
#[tokio::test]
async fn poison_is_a_dead_letter() {
    let place = Place::new(&json!({"attemptsMax": 2}));
    let state = place.state();
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    for id in ["a", "b", "c"] {
        let given_up = exchange(&mut client, &format!("of {id}"), id, &format!("poison {id}")).await;
        assert_eq!(code(&given_up), "dead_lettered", "{given_up}");
    }
    let letters = dead(state);
    assert_eq!(letters.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    for (id, letter) in &letters {
        let told = ["agent", "code", "session"].map(|field| letter[field].as_str().unwrap_or_default());
        assert_eq!(told, ["slow", "agent_died", &format!("of {id}")], "{letter}");
        assert_eq!(letter["attempts"], 2, "{letter}");
    }
    let turn = |id: &str| letters[id]["turn"].as_str().expect("a turn").to_owned();
    let shown = asked(state, &["dlq", "show", &turn("a")]);
    assert_eq!((&shown["content"], &shown["user"]), (&json!("poison a"), &json!("local")), "{shown}");
    assert_eq!(shown["history"].as_array().map(Vec::len), Some(2), "{shown}");

    end(gateway);
    let gateway = place.start("2");
    let again = dead(state);
    assert_eq!(again.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    for (id, letter) in &again {
        assert_eq!((&letter["turn"], &letter["agent"]), (&letters[id]["turn"], &json!("slow")), "{letter}");
        assert_eq!(letter["code"], "agent_died", "{letter}");
    }
    let seen = place.seen();
    let dry = asked(state, &["dlq", "replay", "--agent", "slow", "--dry-run"]);
    assert_eq!((&dry["count"], &dry["dryRun"]), (&json!(3), &json!(true)), "{dry}");
    assert_eq!(dead(state).len(), 3);
    assert_eq!(place.seen(), seen);

    std::fs::write(place.folder.path().join("healed"), "").unwrap();
    let replayed = asked(state, &["dlq", "replay", &turn("a")]);
    assert_eq!((&replayed["count"], &replayed["turns"]), (&json!(1), &json!([turn("a")])), "{replayed}");
    until("it has been given out again", || place.seen()["poison a"].contains(&3).then_some(()));
    let mut client = Client::connect(&gateway.url()).await;
    let reply = exchange(&mut client, "of a", "a", "poison a").await;
    assert!(text(&reply).starts_with("poison a: "), "{reply}");
    assert_eq!(text(&exchange(&mut client, "of a", "a", "poison a").await), text(&reply));
    let dropped = asked(state, &["dlq", "drop", "--session", "of b"]);
    assert_eq!(dropped["count"], 1, "{dropped}");
    let gone = openclaw(state, &["dlq", "show", &turn("b")]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("is no dead letter"), "{gone:?}");
    assert_eq!(dead(state).keys().collect::<Vec<_>>(), ["c"]);
    end(gateway);
    let _gateway = place.start("2");
    assert_eq!(dead(state).keys().collect::<Vec<_>>(), ["c"]);
}

/// Another number of shards finds open messages, dead letters and ids: from one shard to two and back.
#[tokio::test]
async fn shards_come_and_go() {
    let place = Place::new(&json!({"attemptsMax": 2}));
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    for number in 0..8 {
        let answered = exchange(&mut client, &format!("s-{number}"), "done", "done").await;
        assert_eq!(answered["type"], "message", "{answered}");
    }
    let given_up = exchange(&mut client, "of dead", "dead", "poison").await;
    assert_eq!(code(&given_up), "dead_lettered", "{given_up}");
    for number in 0..8 {
        client.say("slow", &format!("s-{number}"), "open", &format!("hold {number}")).await;
    }
    until("the agent has them", || (place.seen().len() == 10).then_some(()));
    kill(gateway);

    let check = async |shards: &str| {
        let gateway = place.start(shards);
        let mut client = Client::connect(&gateway.url()).await;
        let mut replies = Vec::new();
        for number in 0..8 {
            let session = format!("s-{number}");
            let other = exchange(&mut client, &session, "done", "something else").await;
            assert_eq!(code(&other), "conflict", "{other}");
            let same = exchange(&mut client, &session, "done", "done").await;
            assert!(same["type"] == "message" || code(&same) == "already_answered", "{same}");
            let other = exchange(&mut client, &session, "open", "something else").await;
            assert_eq!(code(&other), "conflict", "{other}");
            replies.push(exchange(&mut client, &session, "open", &format!("hold {number}")).await);
        }
        let letters = dead(place.state());
        assert_eq!(letters.keys().collect::<Vec<_>>(), ["dead"]);
        assert_eq!(letters["dead"]["code"], "agent_died");
        kill(gateway);
        replies
    };
    for (number, reply) in check("2").await.iter().enumerate() {
        assert!(text(reply).starts_with(&format!("hold {number}: ")), "{reply}");
        assert!(text(reply).ends_with("attempt 2"), "{reply}");
    }
    check("1").await;
    assert_eq!(place.seen()["done"], [1; 8]);
    let gateway = place.start("1");
    std::fs::write(place.folder.path().join("healed"), "").unwrap();
    assert_eq!(asked(place.state(), &["dlq", "replay", "--all"])["count"], 1);
    let mut client = Client::connect(&gateway.url()).await;
    let reply = exchange(&mut client, "of dead", "dead", "poison").await;
    assert!(text(&reply).starts_with("poison: "), "{reply}");
}
