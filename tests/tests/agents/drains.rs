//! Drains, restarts and releases under load: each message has one reply, and none is given out twice.

use std::collections::BTreeSet;

use super::*;

/// What a client knows of messages that it has sent under numbers from 0.
#[derive(Default)]
struct Book {
    sent: usize,
    replied: BTreeSet<usize>,
}

impl Book {
    async fn send(&mut self, client: &mut Client, agent: &str, count: usize) {
        for id in self.sent..self.sent + count {
            let session = format!("s-{}", id % 11);
            client.say(agent, &session, &id.to_string(), &format!("m-{id}")).await;
        }
        self.sent += count;
    }

    /// Awaits so many replies.
    async fn hear(&mut self, client: &mut Client, count: usize) {
        for _ in 0..count {
            let (_, end) = client.reply().await;
            assert_eq!(end["type"], "message", "{end}");
            let id: usize = end["id"].as_str().unwrap().parse().unwrap();
            assert!(text(&end).starts_with(&format!("m-{id}: ")), "{end}");
            assert!(self.replied.insert(id), "{id} is answered twice");
        }
    }

    async fn hear_all(&mut self, client: &mut Client) {
        self.hear(client, self.sent - self.replied.len()).await;
    }

    /// Each message was seen by an agent once: nothing was lost, and nothing had to be given out again.
    fn check(&self, place: &Place) {
        let seen = place.seen();
        assert_eq!(seen.len(), self.sent);
        for (content, attempts) in seen {
            assert_eq!(attempts, [1], "{content}");
        }
    }
}

/// Restarts of an agent that is alone, under load: what it has ends, what comes waits, each reply comes once, and each
/// time another process answers.
#[tokio::test]
async fn restarts_of_one_agent_lose_nothing() {
    let place =
        Place::new(&json!({"agents": {"entries": {"words": {"command": "COMMAND", "inFlightMax": 4}}}}));
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    let mut book = Book::default();
    let mut processes = BTreeSet::new();
    for _ in 0..5 {
        book.send(&mut client, "words", 60).await;
        book.hear(&mut client, 7).await;
        let output = openclaw(place.state(), &["agent", "restart", "words", "--wait"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "words has been restarted\n");
        let agent = place.agents("words").remove(0);
        assert!(processes.insert(agent["processId"].as_u64().unwrap()), "{agent}");
    }
    assert_eq!(place.agents("words")[0]["restarts"], 5);
    book.hear_all(&mut client).await;
    book.check(&place);
}

/// A rolling restart of a pool, under load: all members are other processes afterwards, and no message is given out
/// twice.
#[tokio::test]
async fn restarts_of_a_pool_lose_nothing() {
    let place = Place::new(
        &json!({"agents": {"entries": {"words": {"command": "COMMAND", "instances": 3, "inFlightMax": 4}}}}),
    );
    let gateway = place.start("2");
    place.wait_for("words", &["running"]);
    let processes = |agents: &[Value]| -> BTreeSet<u64> {
        agents.iter().map(|agent| agent["processId"].as_u64().unwrap()).collect()
    };
    let before = processes(&place.agents("words"));
    let mut client = Client::connect(&gateway.url()).await;
    let mut book = Book::default();
    book.send(&mut client, "words", 200).await;
    let restarted = asked(place.state(), &["agent", "restart", "words", "--wait"]);
    assert_eq!(restarted["agents"], json!(["words~1", "words~2", "words~3"]));
    book.send(&mut client, "words", 50).await;
    book.hear_all(&mut client).await;
    let after = place.agents("words");
    assert!(after.iter().all(|agent| agent["restarts"] == 1 && agent["state"] == "running"), "{after:?}");
    assert!(processes(&after).is_disjoint(&before), "{after:?}");
    book.check(&place);
}

/// Messages for an agent that is drained wait, and are answered when it is released; a member of a pool that is drained
/// leaves them to the others, and what the last one held goes to whoever is released first.
#[tokio::test]
async fn drained_agents_are_waited_for() {
    let place = Place::new(&json!({"agents": {"entries": {
        "alone": {"command": "COMMAND"},
        "pool": {"command": "COMMAND", "instances": 2},
    }}}));
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    let mut book = Book::default();
    let mut drained = 0;
    for name in ["alone", "pool"] {
        book.send(&mut client, name, 30).await;
        let told = asked(place.state(), &["agent", "drain", name, "--wait"]);
        drained += told["agents"].as_array().unwrap().len();
        for agent in place.agents(name) {
            assert_eq!(
                (&agent["state"], &agent["cause"]),
                (&json!("terminated"), &json!("it has been drained"))
            );
        }
        book.send(&mut client, name, 30).await;
    }
    assert_eq!(drained, 3);
    let queued = || {
        let list = asked(place.state(), &["agent", "list"]);
        list["agents"].as_array().unwrap().iter().map(|agent| agent["queued"].as_u64().unwrap()).sum::<u64>()
    };
    until("messages wait", || (queued() > 0).then_some(()));
    let second = asked(place.state(), &["agent", "release", "pool~1", "--wait"]);
    assert_eq!(second["agents"], json!(["pool~1"]));
    asked(place.state(), &["agent", "release", "alone", "--wait"]);
    book.hear_all(&mut client).await;
    book.check(&place);
    assert_eq!(place.agents("pool~2")[0]["state"], "terminated");
}

/// An agent that does not end what it has is told to finish after its time, and what it had is given out again.
#[tokio::test]
async fn drains_have_a_deadline() {
    let place =
        Place::new(&json!({"agents": {"entries": {"words": {"command": "COMMAND", "drainTimeoutMs": 100}}}}));
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    client.say("words", "s", "m", "hold it").await;
    until("the agent has it", || place.seen().contains_key("hold it").then_some(()));
    asked(place.state(), &["agent", "restart", "words", "--wait"]);
    let (_, end) = client.reply().await;
    assert!(text(&end).ends_with("attempt 2"), "{end}");
    assert_eq!(place.seen()["hold it"], [1, 2]);
}

/// A quarantine lets the agent end what it has and refuses the rest, by its reason, until it is released.
#[tokio::test]
async fn quarantined_agents_refuse() {
    let place = Place::new(&json!({"agents": {"entries": {"words": {"command": "COMMAND"}}}}));
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    assert_eq!(exchange(&mut client, "words", "s", "a", "one").await["type"], "message");
    asked(place.state(), &["agent", "quarantine", "words", "--reason", "it lies", "--wait"]);
    let agent = place.agents("words").remove(0);
    assert_eq!((&agent["state"], &agent["cause"]), (&json!("quarantined"), &json!("it lies")));
    let refused = exchange(&mut client, "words", "t", "b", "two").await;
    assert_eq!(code(&refused), "agent_unavailable", "{refused}");
    assert!(refused.to_string().contains("it lies"), "{refused}");
    asked(place.state(), &["agent", "release", "words", "--wait"]);
    assert_eq!(exchange(&mut client, "words", "t", "c", "three").await["type"], "message");
}

/// A restart of a pool ends with the first member that does not come up: the command says so, and the others keep what
/// they run.
#[tokio::test]
async fn a_restart_that_fails_leaves_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken");
    let program = format!("test ! -e {} && exec cat", broken.display());
    let sandbox = json!({"workspace": folder.path()});
    let agent = json!({"command": ["sh", "-c", program], "instances": 2, "sandbox": sandbox});
    let place = Place::new(&json!({"agents": {"entries": {"words": agent}}}));
    let _gateway = place.start("1");
    let before = until("both have said hello", || {
        let agents = place.agents("words");
        agents.iter().all(|agent| agent["version"] != "").then_some(agents)
    });
    std::fs::write(&broken, "").unwrap();
    let output = openclaw(place.state(), &["agent", "restart", "words", "--wait"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said, "openclaw: words~1 does not run; `openclaw agent status` says why\n");
    let after = place.agents("words");
    assert_eq!(after[0]["state"], "quarantined", "{after:?}");
    let same = ["state", "processId", "restarts", "restartPending"];
    for field in same {
        assert_eq!(after[1][field], before[1][field], "{field}");
    }
}
