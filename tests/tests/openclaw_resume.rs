//! Clients of the OpenClaw protocol that come back, through the real program.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::{Client, Received};
use tests::process::{Gateway, configure, end_all, openclaw, send_signal, until};

/// Says as many blocks as the message asks for, each when a line comes through the gate.
const AGENT: &str = r#"
import json, os, sys
gate = os.fdopen(os.open("gate", os.O_RDWR), "rb", buffering=0)
for message in map(json.loads, sys.stdin):
    if message["type"] != "message": continue
    for number in range(int(message["content"])):
        gate.readline()
        print(json.dumps({"type": "block", "id": message["id"], "content": f"{number} "}), flush=True)
    gate.readline()
    print(json.dumps({"type": "end", "id": message["id"], "content": "end"}), flush=True)
"#;

const KEY: &str = "agent:gated:main";

struct Place {
    state: Arc<TempDir>,
    _folder: TempDir,
    gate: std::fs::File,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        let gate = std::fs::OpenOptions::new().read(true).write(true).open(gate).unwrap();
        std::fs::write(folder.path().join("agent.py"), AGENT).unwrap();
        let state = Arc::new(tempfile::tempdir().unwrap());
        let script = format!("cd {0} && exec python3 agent.py", folder.path().display());
        let entry = json!({"command": ["sh", "-c", script], "sandbox": {"workspace": folder.path()}});
        configure(state.path(), &json!({"agents": {"entries": {"gated": entry}}}));
        Self { state, _folder: folder, gate }
    }

    fn start(&self) -> Gateway {
        let arguments = ["--shards", "2", "--restart", "always", "--runtime", "auto"];
        Gateway::start_in(Arc::clone(&self.state), &arguments).unwrap()
    }

    fn open(&mut self, steps: usize) {
        self.gate.write_all("go\n".repeat(steps).as_bytes()).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        end_all(self.state.path());
    }
}

/// A client that was let in.
struct Operator(Client);

impl Operator {
    async fn connect(gateway: &Gateway, caps: &Value, scopes: &Value) -> Self {
        let mut client = Client::connect(&gateway.url()).await;
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": scopes, "caps": caps,
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
        });
        client.send(&json!({"type": "req", "id": "c", "method": "connect", "params": params})).await;
        let hello = client.frame().await;
        assert_eq!((&hello["ok"], &hello["payload"]["type"]), (&json!(true), &json!("hello-ok")), "{hello}");
        Self(client)
    }

    async fn call(&mut self, id: &str, method: &str, params: &Value) {
        self.0.send(&json!({"type": "req", "id": id, "method": method, "params": params})).await;
    }

    /// The next frame about runs, or response.
    async fn next(&mut self) -> Value {
        loop {
            let frame = self.0.frame().await;
            if frame["type"] == "res" || matches!(frame["event"].as_str(), Some("chat" | "agent")) {
                return frame;
            }
        }
    }

    /// What is told up to the response to a request, that included.
    async fn until_answered(&mut self, id: &str) -> Vec<Value> {
        let mut told = Vec::new();
        loop {
            told.push(self.next().await);
            let last = &told[told.len() - 1];
            if last["type"] == "res" && last["id"] == id {
                return told;
            }
        }
    }

    /// What is told up to the last word to the chat, that included.
    async fn until_over(&mut self) -> Vec<Value> {
        let mut told = Vec::new();
        loop {
            told.push(self.next().await);
            let last = &told[told.len() - 1];
            if last["event"] == "chat" && last["payload"]["state"] == "final" {
                return told;
            }
        }
    }
}

/// The new text that `chat` has told, joined.
fn new_text(told: &[Value]) -> String {
    let chat = told.iter().filter(|frame| frame["event"] == "chat");
    chat.filter_map(|frame| frame["payload"]["deltaText"].as_str()).collect()
}

fn send(blocks: usize) -> Value {
    json!({"sessionKey": KEY, "message": blocks.to_string(), "idempotencyKey": "r"})
}

/// A client that says it can do that is told where events stand, and gets, when it comes back with such a place, what it
/// has missed and then what is said; each once, although all clients are told of the run. Also across `kill -9`.
#[tokio::test]
async fn a_run_is_resumed_at_a_place() {
    const BLOCKS: usize = 6;
    let (caps, scopes) = (json!(["openclaw-resume"]), json!(["operator.read", "operator.write"]));
    let mut place = Place::new();
    let gateway = place.start();
    let mut client = Operator::connect(&gateway, &caps, &scopes).await;
    client.call("s", "chat.send", &send(BLOCKS)).await;
    place.open(2);
    let mut told = Vec::new();
    while new_text(&told) != "0 1 " {
        told.push(client.next().await);
    }
    assert_eq!((&told[0]["type"], &told[0]["payload"]["status"]), (&json!("res"), &json!("started")));
    assert_eq!(told[1]["payload"]["data"]["phase"], "start");
    let seen = told.last().unwrap()["payload"]["place"].clone();
    assert_eq!(seen["offset"], 1, "{told:?}");
    drop(client);
    let resume = json!({"sessionKey": KEY, "epoch": seen["epoch"], "offset": seen["offset"]});
    for killed in [false, true] {
        if killed {
            let mut watcher = Operator::connect(&gateway, &caps, &scopes).await;
            send_signal(gateway.process_id(), Signal::KILL);
            while watcher.0.receive().await != Received::Closed(None) {}
            until("the next gateway answers", || {
                let output = openclaw(place.state.path(), &["gateway", "status", "--json"]).output().unwrap();
                let status: Value = serde_json::from_slice(&output.stdout).ok()?;
                (status["processId"] != gateway.process_id()).then_some(())
            });
        }
        place.open(1);
        let mut client = Operator::connect(&gateway, &caps, &scopes).await;
        client.call("r", "chat.resume", &resume).await;
        let mut told = client.until_answered("r").await;
        let answer = told.last().unwrap()["payload"].clone();
        assert_eq!((&answer["open"], &answer["gaps"]), (&json!(["r"]), &json!([])), "{answer}");
        assert!(
            told.iter().all(|frame| frame["payload"]["data"]["phase"] != "start"),
            "it was told: {told:?}"
        );
        if !killed {
            place.open(1);
            while new_text(&told) != "2 3 " {
                told.push(client.next().await);
            }
            continue;
        }
        place.open(2);
        told.extend(client.until_over().await);
        assert_eq!(new_text(&told), "2 3 4 5 end");
        let last = &told.last().unwrap()["payload"];
        assert_eq!(last["message"]["content"][0]["text"], "0 1 2 3 4 5 end");
        assert_eq!(last["place"]["offset"], BLOCKS);
    }
}

/// Without the capability events are those of the schema; without a place everything kept is told; a session that nobody
/// knows, and a place in parts, are refused; and so is a client that may not read.
#[tokio::test]
async fn resuming_is_opt_in_and_refused_by_name() {
    let mut place = Place::new();
    let gateway = place.start();
    let all = json!(["operator.read", "operator.write"]);
    let mut client = Operator::connect(&gateway, &json!([]), &all).await;
    client.call("s", "chat.send", &send(1)).await;
    place.open(2);
    let told = client.until_over().await;
    assert!(told.iter().all(|frame| frame["payload"].get("place").is_none()), "{told:?}");
    let mut again = Operator::connect(&gateway, &json!([]), &all).await;
    again.call("r", "chat.resume", &json!({"sessionKey": KEY})).await;
    let told = again.until_answered("r").await;
    assert_eq!(new_text(&told), "0 end");
    assert_eq!(told[0]["payload"]["data"]["phase"], "start");
    assert_eq!(told.last().unwrap()["payload"]["open"], json!([]));
    let rows = [
        (json!({"sessionKey": "never"}), "INVALID_REQUEST", "unknown session"),
        (json!({"sessionKey": KEY, "epoch": 1}), "INVALID_REQUEST", "both, or neither"),
        (json!({"sessionKey": KEY, "epoch": 0, "offset": 0}), "INVALID_REQUEST", "no place"),
    ];
    for (params, code, text) in rows {
        again.call("x", "chat.resume", &params).await;
        let answer = again.until_answered("x").await.pop().unwrap();
        assert_eq!((&answer["ok"], &answer["error"]["code"]), (&json!(false), &json!(code)));
        assert!(answer["error"]["message"].as_str().unwrap().contains(text), "{answer}");
    }
    let mut blind = Operator::connect(&gateway, &json!([]), &json!(["operator.pairing"])).await;
    blind.call("r", "chat.resume", &json!({"sessionKey": KEY})).await;
    let answer = blind.until_answered("r").await.pop().unwrap();
    assert_eq!(answer["error"]["code"], "FORBIDDEN");
}

/// While a run of its session goes on, a message that is not to wait is refused, and one that is to wait waits; where none
/// goes on, every mode means the same.
#[tokio::test]
async fn queue_modes_are_answered() {
    let mut place = Place::new();
    let gateway = place.start();
    let all = json!(["operator.read", "operator.write"]);
    let mut client = Operator::connect(&gateway, &json!([]), &all).await;
    let message = |id: &str, mode: &str| json!({"sessionKey": KEY, "message": "0", "idempotencyKey": id, "queueMode": mode});
    client.call("1", "chat.send", &message("a", "steer")).await;
    assert_eq!(client.until_answered("1").await.pop().unwrap()["payload"]["status"], "started");
    for mode in ["steer", "collect", "interrupt"] {
        client.call("2", "chat.send", &message("b", mode)).await;
        let refused = client.until_answered("2").await.pop().unwrap();
        assert_eq!(refused["error"]["details"]["reason"], "queue-mode-unsupported", "{refused}");
        assert_eq!(refused["error"]["details"]["supported"], json!(["followup"]));
    }
    client.call("3", "chat.send", &message("a", "steer")).await;
    assert_eq!(client.until_answered("3").await.pop().unwrap()["payload"]["status"], "in_flight");
    client.call("4", "chat.send", &message("c", "followup")).await;
    assert_eq!(client.until_answered("4").await.pop().unwrap()["payload"]["status"], "started");
    place.open(2);
    client.until_over().await;
    client.until_over().await;
}

/// Calls that the gateway refuses count as errors of the connection, which is closed for too many. By a call that names
/// nothing there is, again and again.
#[tokio::test]
async fn refused_calls_have_a_budget() {
    let place = Place::new();
    let gateway = place.start();
    let mut client = Operator::connect(&gateway, &json!([]), &json!(["operator.pairing"])).await;
    for number in 0..100 {
        client.call(&number.to_string(), "device.pair.approve", &json!({"requestId": "none"})).await;
    }
    let mut answers = 0;
    let code = loop {
        match client.0.receive().await {
            Received::Closed(code) => break code,
            Received::Frame(frame) => answers += u32::from(frame["ok"] == false),
        }
    };
    assert_eq!(code, Some(1008));
    assert!((20..100).contains(&answers), "{answers}");
}
