//! Agents of which each process serves one conversation.

use std::time::Duration;

use rustix::process::Signal;
use tests::process::{PATIENCE, alive, send_signal};

use super::*;

/// How often it is looked whether a message has reached its agent.
const LOOK: Duration = Duration::from_millis(20);

/// An agent with that much room; its answers name its process, which a sandbox would not tell.
fn per_conversation(keys: &Value) -> Place {
    let mut agent = json!({"command": "COMMAND", "instancesPer": "conversation", "sandbox": {"mode": "off"}});
    agent.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    Place::new(&json!({"agents": {"entries": {"words": agent}}}))
}

/// The process that has answered, and how many messages it had then been given.
fn who(frame: &Value) -> (u32, u64) {
    let answer = text(frame).rsplit(": ").next().unwrap();
    let (process, rest) = answer.split_once('.').unwrap_or_else(|| panic!("{frame}"));
    let (count, _) = rest.split_once(',').unwrap();
    (process.parse().unwrap(), count.parse().unwrap())
}

/// What answers a message that there is room for. Room that a process leaves which is about to end may be a moment away:
/// then the message is sent again, as a client would.
async fn ask(client: &mut Client, session: &str, id: &str) -> (u32, u64) {
    let answered = async {
        loop {
            let frame = exchange(client, "words", session, id, "hello").await;
            if frame["content"]["code"] != "overloaded" {
                return frame;
            }
        }
    };
    let frame = tokio::time::timeout(PATIENCE, answered).await.expect("there is room");
    assert_eq!(frame["type"], "message", "{frame}");
    who(&frame)
}

fn running(place: &Place) -> usize {
    place.agents("words").iter().filter(|agent| agent["state"] == "running").count()
}

/// Sessions of two shards, message by message in turn: each has a process of its own that answers all of its messages and
/// no other; nothing runs before the first message.
#[tokio::test]
async fn each_conversation_has_a_process() {
    let place = per_conversation(&json!({"maxInstances": 12}));
    let gateway = place.start("2");
    assert_eq!(running(&place), 0);
    let mut client = Client::connect(&gateway.url()).await;
    let sessions: Vec<_> = (0..12).map(|number| format!("s-{number}")).collect();
    let mut processes = BTreeMap::new();
    for round in 1..=4 {
        for session in &sessions {
            let (process, count) = ask(&mut client, session, &format!("{round}")).await;
            assert_eq!(count, round, "{session} shares its process");
            assert_eq!(*processes.entry(session).or_insert(process), process, "{session} has another one");
        }
    }
    let mut distinct: Vec<_> = processes.into_values().collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((distinct.len(), running(&place)), (12, 12));
}

/// With as many conversations as processes a new one is told when to try again, and the others go on. Processes of
/// conversations that have been quiet for long end; then another conversation gets a new one, and so does a quiet one
/// that goes on.
#[tokio::test]
async fn quiet_conversations_make_room() {
    let place = per_conversation(&json!({"maxInstances": 2, "idleTimeoutMs": 1000}));
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    // They have something to do for as long as the test wants.
    for (number, session) in (1..).zip(["one", "two"]) {
        let text = format!("wait {session}");
        client.say("words", session, session, &text).await;
        while place.seen().len() < number {
            // As in `ask`: the other shard may be asking the process that is free.
            if let Ok(frame) = tokio::time::timeout(LOOK, client.frame()).await {
                assert_eq!(code(&frame), "overloaded", "{frame}");
                client.say("words", session, session, &text).await;
            }
        }
    }
    for number in 0..4 {
        let refused = exchange(&mut client, "words", &format!("other-{number}"), "r", "hello").await;
        assert_eq!(code(&refused), "overloaded", "{refused}");
        assert!(refused["content"]["retryAfterMs"].as_u64() > Some(0), "{refused}");
    }
    std::fs::write(place.folder.path().join("go"), "").unwrap();
    let mut before = Vec::new();
    for _ in 0..2 {
        let (_, end) = client.reply().await;
        assert_eq!((&end["type"], who(&end).1), (&json!("message"), 1), "{end}");
        before.push(who(&end).0);
    }
    until("both have ended", || (!before.iter().any(|&process| alive(process))).then_some(()));
    place.wait_for("words", &["created"]);
    for session in ["other-0", "one"] {
        let (process, count) = ask(&mut client, session, "later").await;
        assert!(count == 1 && !before.contains(&process), "{session}: {process}.{count}");
    }
}

/// A spare waits for the next conversation, which gets it; another one takes its place.
#[tokio::test]
async fn spares_are_taken() {
    let place = per_conversation(&json!({"maxInstances": 3, "spares": 1}));
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    let mut known = Vec::new();
    for (session, number) in [("a", 1), ("b", 2), ("c", 3)] {
        let spare = until("there is a spare", || {
            let agents = place.agents("words");
            let process = |agent: &Value| agent["processId"].as_u64().filter(|id| !known.contains(id));
            agents.iter().filter(|agent| agent["state"] == "running").find_map(process)
        });
        let served = place.agents("words").iter().filter(|agent| agent["state"] == "running").count();
        assert_eq!(served, number);
        known.push(spare);
        let (process, count) = ask(&mut client, session, "1").await;
        // The host is the agent's process, and the command its child.
        assert_eq!((parent(process), count), (spare, 1));
    }
    assert_eq!(running(&place), 3, "as many as may");
}

fn parent(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A process that is killed with a message in hand is replaced for its conversation only, which gets the answer.
#[tokio::test]
async fn the_next_process_of_a_conversation_answers() {
    let place = per_conversation(&json!({"maxInstances": 2}));
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    let (other, _) = ask(&mut client, "other", "1").await;
    let (first, _) = ask(&mut client, "killed", "2").await;
    client.say("words", "killed", "3", "wait").await;
    until("it is at work", || place.seen().get("wait").map(|_| ()));
    send_signal(u32::try_from(parent(first)).unwrap(), Signal::KILL);
    std::fs::write(place.folder.path().join("go"), "").unwrap();
    let (_, end) = client.reply().await;
    assert_eq!(end["type"], "message", "{end}");
    let (next, count) = who(&end);
    assert!(count == 1 && next != first && next != other, "{end}");
    assert_eq!(ask(&mut client, "killed", "4").await, (next, 2));
    assert_eq!(ask(&mut client, "other", "5").await, (other, 2));
}

/// An agent that ends with its conversation, and is not started again, makes room for the next one.
#[tokio::test]
async fn agents_may_end_by_themselves() {
    let script = r#"read line; id=$(echo "$line" | sed 's/.*"id":"\([^"]*\)".*/\1/')
        echo "{\"type\":\"end\",\"id\":\"$id\",\"content\":\"$OPENCLAW_INSTANCES_PER\"}""#;
    let restart = json!({"policy": "temporary"});
    let agent = json!({"command": ["sh", "-c", script], "instancesPer": "conversation", "maxInstances": 1,
        "restart": restart});
    let place = Place::new(&json!({"agents": {"entries": {"words": agent}}}));
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    for session in ["a", "b", "c"] {
        let end = exchange(&mut client, "words", session, "1", "hello").await;
        assert_eq!(text(&end), "conversation", "{end}");
        place.wait_for("words", &["created"]);
    }
}
