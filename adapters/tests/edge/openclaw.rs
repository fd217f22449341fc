//! OpenClaw clients: calls that are turns of agents, and what everybody sees of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adapters::edge::{EdgeOptions, Phase};
use adapters::openclaw::backend::{Answer, Backend, OwnedCall};
use adapters::openclaw::event::StateVersion;
use adapters::openclaw::method::{Method, MethodSet};
use serde_json::{Value, json};
use shm_transport::envelope::{BlockType, FLAG_WANTS_ACK, FailureCode};

use crate::support::{Frame, Gateway, Raw, Replies, Setup, TOKEN, by_token, guarded, until};

/// Says what it was told in two pieces; or does what the text says.
fn agent(replies: &mut Replies<'_>, text: &str) {
    assert_eq!(replies.said.map(|said| said.flags), Some(FLAG_WANTS_ACK));
    match text {
        "refuse" => replies.failure(FailureCode::UnknownAgent as u16, "no agent"),
        "fail" => {
            replies.accepted(0);
            replies.failure(FailureCode::AgentDied as u16, "it died");
        }
        "wait" => {
            replies.accepted(0);
            replies.block(BlockType::Text as u8, "part");
        }
        "tool" => {
            replies.accepted(0);
            replies.block(BlockType::ToolCall as u8, "search");
            replies.block(BlockType::ToolResult as u8, "found");
            replies.end("done");
        }
        text => {
            replies.accepted(0);
            replies.block(BlockType::Text as u8, text);
            replies.end("!");
        }
    }
}

fn start(edge_count: usize) -> Gateway {
    Gateway::set_up(Setup { edge_count, access: guarded(), ..Setup::default() }, agent)
}

/// An operator that was let in, and the payload of its `hello-ok`.
struct Operator {
    raw: Raw,
    hello: Value,
    /// Events that came while a response was awaited.
    events: Vec<Value>,
    seq: u64,
}

impl Operator {
    fn connect(address: SocketAddr, caps: &[&str]) -> Self {
        let mut raw = Raw::connect(address);
        let params = json!({
            "minProtocol": 3, "maxProtocol": 4, "caps": caps, "role": "operator",
            "client": {"id":"gateway-client","version":"1","platform":"linux","mode":"backend"},
            "scopes": ["operator.read","operator.write"], "auth": {"token": TOKEN},
        });
        raw.text(&json!({"type":"req","id":"c","method":"connect","params":params}).to_string());
        let response = raw.json();
        assert_eq!((&response["ok"], &response["id"]), (&json!(true), &json!("c")), "{response}");
        Self { raw, hello: response["payload"].clone(), events: Vec::new(), seq: 0 }
    }

    fn ask(&mut self, id: &str, method: &str, params: impl Into<Value>) {
        let params: Value = params.into();
        self.raw.text(&json!({"type":"req","id":id,"method":method,"params":params}).to_string());
    }

    fn call(&mut self, id: &str, method: &str, params: Value) -> Value {
        self.ask(id, method, params);
        self.response(id)
    }

    fn send(&mut self, key: &str, message: &str) -> Value {
        let params = json!({"sessionKey":"main","message":message,"idempotencyKey":key});
        self.call(key, "chat.send", params)
    }

    /// The next response, which must be to this request.
    fn response(&mut self, id: &str) -> Value {
        loop {
            let frame = self.frame();
            if frame["type"] == "res" {
                assert_eq!(frame["id"], id, "{frame}");
                return frame;
            }
            self.events.push(frame);
        }
    }

    fn frame(&mut self) -> Value {
        let frame = until("a frame", || match self.raw.next() {
            Frame::Ping => None,
            frame => Some(frame),
        });
        let Frame::Json(frame) = frame else { panic!("{frame:?}") };
        if frame["type"] == "event" {
            self.seq += 1;
            assert_eq!(frame["seq"], self.seq, "numbers have no gap: {frame}");
        }
        frame
    }

    /// Everything up to the end of a run, as event and stream or state.
    fn run(&mut self, id: &str) -> (Vec<String>, Value) {
        let mut names = Vec::new();
        loop {
            let event = if self.events.is_empty() { self.frame() } else { self.events.remove(0) };
            let payload = &event["payload"];
            assert_eq!((&event["type"], &payload["runId"]), (&json!("event"), &json!(id)), "{event}");
            let kind = payload.get("state").or(payload.get("stream")).unwrap().as_str().unwrap();
            names.push(format!("{}.{kind}", event["event"].as_str().unwrap()));
            if payload["state"] == "final"
                || payload["data"]["phase"] == "error"
                || payload["data"]["aborted"] == true
            {
                return (names, event);
            }
        }
    }
}

/// What is advertised is what is served, and nothing else is. By calling what the edge does not serve by itself.
#[test]
fn what_is_not_there_is_not_advertised() {
    let gateway = start(1);
    let mut client = Operator::connect(gateway.address, &[]);
    let methods = client.hello["features"]["methods"].as_array().unwrap().clone();
    for name in ["chat.send", "chat.abort", "agent", "agent.wait", "sessions.send", "sessions.abort"] {
        assert!(methods.contains(&json!(name)), "{name}");
    }
    assert!(!methods.contains(&json!("sessions.list")));
    let refused = client.call("1", "sessions.list", json!({}));
    assert_eq!(refused["error"]["message"], "unknown method: sessions.list");
    assert_eq!(client.hello["policy"]["maxPayload"], 1024 * 1024);
}

/// A run is seen by every operator of every edge, each with numbers of its own without a gap, and its text is whole.
/// By one that sends and two that look on.
#[test]
fn everybody_sees_a_run() {
    let gateway = start(2);
    let mut clients: Vec<_> =
        [0, 0, 1].map(|index| Operator::connect(gateway.addresses[index], &[])).into_iter().collect();
    let started = clients[0].send("k", "hello");
    assert_eq!(started["payload"], json!({"runId":"k","status":"started"}));
    for client in &mut clients {
        let (names, last) = client.run("k");
        assert_eq!((names[0].as_str(), names[1].as_str()), ("agent.lifecycle", "agent.assistant"));
        assert_eq!(names.last().map(String::as_str), Some("chat.final"));
        let payload = &last["payload"];
        assert_eq!(
            (&payload["sessionKey"], &payload["agentId"]),
            (&json!("agent:main:main"), &json!("main"))
        );
        assert_eq!(payload["message"]["content"], json!([{"type":"text","text":"hello!"}]));
    }
    assert!(until("drained", || gateway.shared.drained().then_some(true)));
}

/// A request that comes again begins no second run, from whatever connection; another one under its key is refused.
/// By sending it while the run goes on and after.
#[test]
fn a_request_that_comes_again_begins_nothing() {
    let gateway = start(2);
    let mut first = Operator::connect(gateway.addresses[0], &[]);
    let mut second = Operator::connect(gateway.addresses[1], &[]);
    assert_eq!(first.send("k", "wait")["payload"]["status"], "started");
    assert_eq!(second.send("k", "wait")["payload"], json!({"runId":"k","status":"in_flight"}));
    let conflict = second.send("k", "other");
    assert_eq!(conflict["error"]["details"]["reason"], "chat-request-conflict");
    assert_eq!(second.send("done", "x")["payload"]["status"], "started");
    let waited = second.call("w", "agent.wait", json!({"runId":"done"}));
    assert_eq!(waited["payload"]["status"], "ok");
    assert_eq!(first.send("done", "x")["payload"], json!({"runId":"done","status":"ok"}));
    assert_eq!(gateway.shared.sum(|stats| &stats.received), 2);
}

/// A run that is stopped, from another edge, tells so to everybody, with what was said, before the call is answered;
/// what is over cannot be stopped. By stopping by session and by run.
#[test]
fn runs_are_stopped() {
    let gateway = start(2);
    let mut sender = Operator::connect(gateway.addresses[0], &[]);
    let mut other = Operator::connect(gateway.addresses[1], &[]);
    assert_eq!(sender.send("k", "wait")["payload"]["status"], "started");
    let nothing = other.call("a", "chat.abort", json!({"sessionKey":"other"}));
    assert_eq!(nothing["payload"], json!({"ok":true,"aborted":false,"runIds":[]}));
    let stopped = other.call("b", "chat.abort", json!({"sessionKey":"agent:main:main"}));
    assert_eq!(stopped["payload"], json!({"ok":true,"aborted":true,"runIds":["k"]}));
    let (names, _) = other.run("k");
    assert_eq!(names[names.len() - 2..], ["chat.aborted", "agent.lifecycle"]);
    assert!(other.events.is_empty());
    let (_, end) = sender.run("k");
    assert_eq!(
        (&end["payload"]["data"]["status"], &end["payload"]["data"]["aborted"]),
        (&json!("cancelled"), &json!(true))
    );
    assert_eq!(sender.send("l", "wait")["payload"]["status"], "started");
    let stopped = sender.call("c", "sessions.abort", json!({"runId":"l"}));
    assert_eq!(stopped["payload"]["runIds"], json!(["l"]));
    assert_eq!(other.run("l").1["payload"]["data"]["phase"], "end");
}

/// A run goes on when the one who asked for it goes. By one that goes at once and one that looks on.
#[test]
fn a_run_outlives_its_sender() {
    static GO: AtomicBool = AtomicBool::new(false);
    let setup = Setup { access: guarded(), ..Setup::default() };
    let gateway = Gateway::set_up(setup, |replies, text| {
        replies.accepted(0);
        until("go", || GO.load(Ordering::Acquire).then_some(()));
        replies.end(text);
    });
    let mut sender = Operator::connect(gateway.address, &[]);
    let mut other = Operator::connect(gateway.address, &[]);
    sender.ask("k", "chat.send", json!({"sessionKey":"main","message":"hi","idempotencyKey":"k"}));
    until("taken", || (gateway.shared.sum(|stats| &stats.received) == 1).then_some(()));
    drop(sender);
    until("gone", || (gateway.shared.sum(|stats| &stats.connections) == 1).then_some(()));
    GO.store(true, Ordering::Release);
    assert_eq!(other.run("k").1["payload"]["message"]["content"][0]["text"], "hi");
    assert!(until("drained", || gateway.shared.drained().then_some(true)));
}

/// `agent` answers twice, also without a reply, and `agent.wait` when the run is over or its time is. By runs of each
/// end.
#[test]
fn agent_answers_twice() {
    let gateway = start(1);
    let mut client = Operator::connect(gateway.address, &[]);
    let params = |key: &str, message: &str| json!({"message":message,"agentId":"a","idempotencyKey":key});
    let accepted = client.call("1", "agent", params("k", "hi"));
    let payload = &accepted["payload"];
    assert_eq!((&payload["status"], &payload["sessionKey"]), (&json!("accepted"), &json!("agent:a:main")));
    assert!(payload["acceptedAt"].is_u64());
    let done = client.response("1");
    assert_eq!(
        (&done["payload"]["status"], &done["payload"]["summary"]),
        (&json!("ok"), &json!("completed"))
    );
    assert_eq!(done["payload"]["result"]["payloads"][0]["text"], "hi!");
    assert_eq!(client.call("2", "agent", params("f", "fail"))["payload"]["status"], "accepted");
    let failed = client.response("2");
    assert_eq!(
        (&failed["payload"]["status"], &failed["payload"]["summary"]),
        (&json!("error"), &json!("it died"))
    );
    let waited = client.call("3", "agent.wait", json!({"runId":"f"}));
    assert_eq!(
        (&waited["payload"]["status"], &waited["payload"]["error"]),
        (&json!("error"), &json!("it died"))
    );
    let refused = client.call("4", "agent", params("r", "refuse"));
    assert_eq!(refused["error"]["message"], "Agent \"a\" no longer exists in configuration");
    assert_eq!(client.call("5", "agent", params("w", "wait"))["payload"]["status"], "accepted");
    let waited = client.call("6", "agent.wait", json!({"runId":"w","timeoutMs":1}));
    assert_eq!(waited["payload"], json!({"runId":"w","status":"timeout"}));
}

/// Tools are told to those who ask for that, and sessions to those who have subscribed, if they say so. By one client
/// of each kind, whose numbers have no gap.
#[test]
fn caps_decide_what_is_seen() {
    let gateway = start(1);
    let mut plain = Operator::connect(gateway.address, &[]);
    let mut tools = Operator::connect(gateway.address, &["tool-events"]);
    let mut scoped = Operator::connect(gateway.address, &["session-scoped-events"]);
    let subscribed = scoped.call("s", "sessions.messages.subscribe", json!({"key":"agent:main:other"}));
    assert_eq!(subscribed["payload"]["subscribed"], true);
    plain.send("k", "tool");
    assert!(!plain.run("k").0.contains(&"agent.tool".to_owned()));
    let (names, _) = tools.run("k");
    assert_eq!(names.iter().filter(|name| *name == "agent.tool").count(), 2);
    let params = json!({"key":"other","message":"hi"});
    assert_eq!(plain.call("o", "sessions.send", params)["payload"]["status"], "started");
    // The first thing it hears is of the session it wants.
    assert_eq!(scoped.frame()["payload"]["sessionKey"], "agent:main:other");
}

/// A client that does not read its events is closed, after it has lost those that it can do without under their
/// numbers; one that reads has all that ends runs. By runs with more text than may wait, until that happens.
#[test]
fn slow_consumers_are_closed() {
    const PIECES: usize = 8;
    let options = EdgeOptions {
        event_bytes_max: 32 * 1024,
        outbound_bytes_max: 64 * 1024,
        slow_grace: Duration::from_secs(1),
        ..EdgeOptions::default()
    };
    let setup = Setup { options, access: guarded(), ..Setup::default() };
    let gateway = Gateway::set_up(setup, |replies, text| {
        replies.accepted(0);
        for _ in 0..PIECES {
            replies.block(BlockType::Text as u8, &text.repeat(64 * 1024));
        }
        replies.end("");
    });
    let mut slow = Operator::connect(gateway.address, &[]);
    let mut quick = Operator::connect(gateway.address, &[]);
    let mut number = 0;
    until("closed", || {
        let id = format!("run-{number}");
        number += 1;
        quick.ask(&id, "chat.send", json!({"sessionKey":"main","message":"x","idempotencyKey":id}));
        let text = until("the end", || {
            let frame = match quick.raw.next() {
                Frame::Json(frame) => frame,
                other => panic!("{other:?}"),
            };
            let payload = &frame["payload"];
            (payload["state"] == "final").then(|| payload["message"]["content"][0]["text"].clone())
        });
        assert_eq!(text.as_str().map(str::len), Some(PIECES * 64 * 1024));
        (gateway.shared.sum(|stats| &stats.slow_closed) == 1).then_some(())
    });
    assert!(gateway.shared.sum(|stats| &stats.dropped_events) > 0);
    let mut seqs = Vec::new();
    let end = until("the end", || match slow.raw.next() {
        Frame::Json(frame) => {
            seqs.extend(frame["seq"].as_u64());
            None
        }
        end => Some(end),
    });
    assert_eq!(end, Frame::Close(1008));
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
}

/// A client hears that the gateway is there, and a new secret ends its connection. By a short interval.
#[test]
fn ticks_come_and_secrets_end() {
    let access = guarded();
    let options = EdgeOptions { tick_interval: Duration::from_millis(20), ..EdgeOptions::default() };
    let gateway = Gateway::set_up(Setup { options, access: Arc::clone(&access), ..Setup::default() }, agent);
    let mut client = Operator::connect(gateway.address, &[]);
    assert_eq!(client.hello["policy"]["tickIntervalMs"], 20);
    for _ in 0..3 {
        let tick = client.frame();
        assert_eq!(tick["event"], "tick");
        assert!(tick["payload"]["ts"].is_u64());
    }
    access.change(&by_token(&TOKEN.replace('0', "f")));
    let closed = until("closed", || match client.raw.next() {
        Frame::Json(_) => None,
        end => Some(end),
    });
    assert_eq!(closed, Frame::Close(4001));
}

/// While the gateway drains nothing new begins, and before its connection ends a client is told why. By draining and
/// closing it.
#[test]
fn the_end_is_told() {
    let gateway = start(1);
    let mut client = Operator::connect(gateway.address, &[]);
    gateway.phase.send_replace(Phase::Draining);
    until("draining", || {
        let refused = client.send("k", "x");
        (refused["error"]["code"] == "UNAVAILABLE").then_some(())
    });
    gateway.phase.send_replace(Phase::Closing);
    let shutdown = until("shutdown", || Some(client.frame()).filter(|frame| frame["event"] == "shutdown"));
    assert_eq!(shutdown["payload"], json!({"reason":"the gateway is shutting down"}));
    assert_eq!(client.raw.next(), Frame::Close(1012));
}

#[derive(Debug)]
struct Status;

impl Backend for Status {
    fn methods(&self) -> MethodSet {
        MethodSet::of(&[Method::Status, Method::LastHeartbeat])
    }
    fn call(&self, call: OwnedCall, answer: Answer) {
        if call.method == Method::Status {
            // From another thread, later.
            std::thread::spawn(move || {
                answer.give(Ok(json!({"from": call.connection}).to_string().into_bytes()))
            });
        }
    }
    fn health(&self) -> Vec<u8> {
        b"{\"ok\":true}".to_vec()
    }
    fn presence(&self) -> Vec<u8> {
        b"[]".to_vec()
    }
    fn state_version(&self) -> StateVersion {
        StateVersion::default()
    }
}

/// Calls that are not of agents go to the gateway, and its answers come back from wherever; a call that it forgets is
/// answered too, and there are only so many at once. By a gateway that serves two methods.
#[test]
fn other_calls_go_to_the_gateway() {
    let backend: Option<Arc<dyn Backend>> = Some(Arc::new(Status));
    let options = EdgeOptions { open_calls_max: 1, ..EdgeOptions::default() };
    let gateway = Gateway::set_up(Setup { options, access: guarded(), backend, ..Setup::default() }, agent);
    let mut client = Operator::connect(gateway.address, &[]);
    assert_eq!(client.hello["snapshot"]["health"], json!({"ok":true}));
    let methods = client.hello["features"]["methods"].as_array().unwrap();
    assert!(methods.contains(&json!("status")) && !methods.contains(&json!("models.list")));
    let status = client.call("1", "status", json!({}));
    assert_eq!(status["payload"]["from"], client.hello["server"]["connId"]);
    let forgotten = client.call("2", "last-heartbeat", json!({}));
    assert_eq!(forgotten["error"]["code"], "UNAVAILABLE");
    client.send("k", "wait");
    client.ask("3", "agent.wait", json!({"runId":"k"}));
    let busy = client.call("4", "status", json!({}));
    assert_eq!(busy["error"]["message"], "The server is busy. Please try again in a moment.");
}
