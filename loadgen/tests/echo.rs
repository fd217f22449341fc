//! Runs the built binary against small servers in this process: one that echoes, and one with a known set of faults.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

/// What a server does with the messages of one connection.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Sends every frame back as it came.
    Verbatim,
    /// Answers as the gateway does: a status, a block, then the closing frame with an assistant object.
    Dialect,
    /// Drops message 10, answers message 20 twice, swaps messages 30 and 31, and changes message 40.
    Faulty,
    /// Refuses every message.
    Refusing,
}

/// Starts a server on a free port in a thread of its own, which ends with the test process.
fn serve(behaviour: Behaviour) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve_connection(stream, behaviour));
            }
        });
    });
    receiver.recv().unwrap()
}

async fn serve_connection(stream: TcpStream, behaviour: Behaviour) {
    // Not a WebSocket: the question for /health.
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let mut held = None;
    let mut index = 0;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let answers = match behaviour {
            Behaviour::Verbatim => vec![text.to_string()],
            Behaviour::Dialect => dialect(&text),
            Behaviour::Faulty => faulty(&text, index, &mut held),
            Behaviour::Refusing => refusal(&text),
        };
        index += 1;
        for answer in answers {
            socket.feed(Message::text(answer)).await.unwrap();
        }
        socket.flush().await.unwrap();
    }
}

fn dialect(text: &str) -> Vec<String> {
    let request: Value = serde_json::from_str(text).unwrap();
    let content = &request["content"];
    let (id, agent, session) = (&request["id"], &request["agent"], &request["sessionId"]);
    let block = json!({"type": "event", "event": "block", "id": id, "agent": agent, "sessionId": session,
        "content": {"blockType": "text", "index": 0, "content": content}, "timestamp": 1});
    let closing = json!({"type": "message", "id": id, "agent": agent, "sessionId": session,
        "content": {"role": "assistant", "content": content}, "timestamp": 2});
    vec![json!({"type": "status", "content": "busy"}).to_string(), block.to_string(), closing.to_string()]
}

fn faulty(text: &str, index: u32, held: &mut Option<String>) -> Vec<String> {
    let text = text.to_owned();
    match index {
        10 => vec![],
        20 => vec![text.clone(), text],
        30 => {
            *held = Some(text);
            vec![]
        }
        31 => std::iter::once(text).chain(held.take()).collect(),
        40 => {
            let mut frame: Value = serde_json::from_str(&text).unwrap();
            frame["content"] = json!("something else");
            vec![frame.to_string()]
        }
        _ => vec![text],
    }
}

fn refusal(text: &str) -> Vec<String> {
    let request: Value = serde_json::from_str(text).unwrap();
    let content = json!({"code": "agent_unknown", "message": "no such agent", "retryable": false});
    vec![json!({"type": "error", "id": request["id"], "content": content}).to_string()]
}

/// Runs the binary and reads its JSON file. `name` keeps the files of the tests apart.
fn loadgen(name: &str, address: SocketAddr, arguments: &str) -> (Output, Value) {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("loadgen-{name}-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["--url", &format!("ws://{address}"), "--json"])
        .arg(&file)
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    let figures = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    std::fs::remove_file(&file).unwrap();
    (output, serde_json::from_str(&figures).unwrap())
}

/// The counters that a fault may change, in the order of the rows below.
fn counters(figures: &Value) -> [u64; 8] {
    ["sent", "answered", "lost", "duplicated", "reordered", "mismatched", "errors", "unexpected"]
        .map(|key| figures[key].as_u64().unwrap())
}

/// Every message is answered, and the JSON file has all keys that scripts rely on.
#[test]
fn an_echo_passes_and_the_figures_are_complete() {
    let address = serve(Behaviour::Verbatim);
    let own = std::process::id();
    let (output, figures) = loadgen(
        "echo",
        address,
        &format!(
            "--connections 5 --sessions 12 --threads 2 --in-flight 4 --messages 2003 --server-pid {own}"
        ),
    );
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(counters(&figures), [2003, 2003, 0, 0, 0, 0, 0, 0]);
    assert!(figures["throughput_per_s"].as_f64().unwrap() > 0.0);
    assert!(figures["server_cpu_s"].as_f64().is_some());
    assert!(figures["server_rss_bytes"].as_u64().unwrap() > 0);
    let latency =
        ["p50", "p90", "p99", "p999", "max"].map(|key| figures["latency_ns"][key].as_u64().unwrap());
    assert!(latency[0] > 0 && latency.is_sorted(), "{latency:?}");
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.contains("2,003") && summary.ends_with("PASS\n"), "{summary}");
}

/// The gateway's frames are understood: blocks and status are counted and do not close a message.
#[test]
fn the_dialect_of_the_gateway_is_understood() {
    let address = serve(Behaviour::Dialect);
    let (output, figures) =
        loadgen("dialect", address, "--connections 2 --in-flight 3 --messages 500 --quiet");
    assert_eq!(output.status.code(), Some(0), "{figures}");
    assert_eq!(counters(&figures), [500, 500, 0, 0, 0, 0, 0, 0]);
    assert_eq!((figures["blocks"].as_u64(), figures["ignored"].as_u64()), (Some(500), Some(500)));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b""[..], &b""[..]));
}

/// In open loop the timetable decides how many messages there are, warm-up apart.
#[test]
fn open_loop_sends_exactly_the_timetable() {
    let address = serve(Behaviour::Verbatim);
    let (output, figures) =
        loadgen("open", address, "--connections 7 --rate 1000 --warmup 100ms --duration 500ms");
    assert_eq!(output.status.code(), Some(0), "{figures}");
    assert_eq!(counters(&figures), [500, 500, 0, 0, 0, 0, 0, 0]);
    assert_eq!(figures["warmup_sent"], 100);
}

/// Each kind of fault is counted as itself, exactly once, and fails the run.
#[test]
fn each_fault_of_the_server_is_found() {
    let address = serve(Behaviour::Faulty);
    let arguments = "--in-flight 4 --messages 200 --drain 300ms --payload-bytes-max 4096";
    let (output, figures) = loadgen("faulty", address, arguments);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(counters(&figures), [200, 199, 1, 1, 1, 1, 0, 0]);
    assert_eq!(figures["failure_samples"].as_array().unwrap().len(), 4);
    let summary = String::from_utf8(output.stdout).unwrap();
    assert!(summary.ends_with("FAIL\n"), "{summary}");

    let (output, figures) = loadgen("order", address, &format!("{arguments} --check order"));
    assert_eq!((output.status.code(), counters(&figures)), (Some(1), [200, 199, 1, 1, 1, 0, 0, 0]));
    let (output, figures) = loadgen("none", address, &format!("{arguments} --check none"));
    assert_eq!((output.status.code(), counters(&figures)), (Some(1), [200, 199, 1, 1, 0, 0, 0, 0]));
}

/// Error frames close their messages, so none is lost, and the first of them are shown in words.
#[test]
fn refusals_are_errors_and_not_losses() {
    let address = serve(Behaviour::Refusing);
    let (output, figures) = loadgen("refusing", address, "--messages 20");
    assert_eq!((output.status.code(), counters(&figures)), (Some(1), [20, 0, 0, 0, 0, 0, 20, 0]));
    assert_eq!(figures["failure_samples"][0], "error agent_unknown: no such agent");
}

/// Wrong command lines end with 2 and name the rule; an absent server ends with 1 and names the address.
#[test]
fn exit_codes_tell_usage_from_failure() {
    let run = |arguments: &str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_loadgen")).args(arguments.split_whitespace()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run("--url ws://192.0.2.1:80");
    assert_eq!(code, Some(2));
    assert!(message.contains("--url = ws://192.0.2.1:80: the host must be a loopback address"), "{message}");
    assert_eq!(run("--rate 5 --in-flight 5").0, Some(2));

    // Free a moment ago; the listener is closed at the end of the statement.
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (code, message) = run(&format!("--url ws://{free} --connect-timeout 100ms"));
    assert_eq!(code, Some(1));
    assert!(message.contains(&format!("cannot connect to {free}")), "{message}");
}
