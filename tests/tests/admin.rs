//! The admin socket and its commands against running gateways: what is told is what is there, and everything has a limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::client::Client;
use tests::process::{Gateway, PATIENCE, asked, openclaw, until};
use tests::tracer::Tracer;

/// Says something to the echo agent, and waits for the reply.
async fn exchange(client: &mut Client, session: &str, id: &str) {
    client.say("echo", session, id, "hello").await;
    assert_eq!(client.reply().await.1["type"], "message");
}

/// A connection to the admin socket.
struct Asker(BufReader<UnixStream>);

impl Asker {
    fn connect(state: &Path) -> Self {
        let stream = UnixStream::connect(state.join("gateway.sock")).expect("the gateway listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &[u8]) {
        self.0.get_mut().write_all(line).expect("the gateway takes it");
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it can be read");
        (!line.is_empty())
            .then(|| serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.say(format!("{request}\n").as_bytes());
        self.line().expect("an answer")
    }
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or_default()
}

/// A command that fails says why on standard error, and ends with 1, or with 3 where no gateway runs.
fn complaint(state: &Path, arguments: &[&str]) -> String {
    let output = openclaw(state, arguments).output().expect("the command starts");
    let told = String::from_utf8(output.stderr.clone()).expect("text");
    let code = if told.contains("no gateway runs") { 3 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    told
}

/// `explain` shows each stage that an answered message passes, in order, with times that add up; by id, by session and
/// by turn; of a message that was sent again both; and of a refused one why.
#[tokio::test]
async fn an_answered_message_is_explained() {
    let gateway = Gateway::start(&["--shards", "2"]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    for session in ["s", "t", "u", "v"] {
        exchange(&mut client, session, "m").await;
    }
    let all = asked(gateway.state(), &["explain", "m"]);
    assert_eq!(all["matches"].as_array().map(Vec::len), Some(4), "{all}");
    let one = asked(gateway.state(), &["explain", "m", "--session", "t"]);
    let [flight] = one["matches"].as_array().expect("a list").as_slice() else { panic!("{one}") };
    let told = ["agent", "outcome"].map(|field| flight[field].as_str());
    assert_eq!((told, &flight["attempts"]), ([Some("echo"), Some("replied")], &json!(1)), "{flight}");
    let stages = flight["stages"].as_array().expect("a list");
    let names: Vec<_> = stages.iter().map(|stage| stage["stage"].as_str().expect("a name")).collect();
    let expected =
        ["ingest", "validate", "enrich", "route", "journal", "queue", "dispatch", "end", "kept", "respond"];
    // The echo agent says its reply at once, so there may be no block before the end.
    assert_eq!(names.iter().filter(|name| **name != "first_block").copied().collect::<Vec<_>>(), expected);
    let sum: f64 = stages.iter().map(|stage| stage["deltaUs"].as_f64().expect("a number")).sum();
    let total = flight["totalUs"].as_f64().expect("a number");
    assert!(total > 0.0 && (sum - total).abs() < 0.1, "{sum} and {total}");

    let turn = flight["turn"].as_str().expect("a turn");
    assert_eq!(asked(gateway.state(), &["explain", "--turn", turn])["matches"], one["matches"]);
    let output = openclaw(gateway.state(), &["explain", "m", "--session", "t"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        format!("turn     {turn} on shard "),
        "outcome  replied".into(),
        "  journal ".into(),
        "  total ".into(),
    ] {
        assert_eq!(text.lines().filter(|found| found.starts_with(&line)).count(), 1, "{line}: {text}");
    }

    exchange(&mut client, "t", "m").await;
    client.say("nobody", "t", "lost", "x").await;
    assert_eq!(client.reply().await.1["type"], "error");
    let outcomes = |id: &str| {
        let found = asked(gateway.state(), &["explain", id, "--session", "t"]);
        let matches = found["matches"].as_array().expect("a list").clone();
        let outcome = |flight: &Value| [flight["outcome"].clone(), flight["code"].clone()];
        matches.iter().map(outcome).collect::<Vec<_>>()
    };
    assert_eq!(outcomes("m"), [[json!("repeated"), Value::Null], [json!("replied"), Value::Null]]);
    assert_eq!(outcomes("lost"), [[json!("failed"), json!("unknown_agent")]]);
    let unknown = complaint(gateway.state(), &["explain", "never sent"]);
    assert!(unknown.contains("nothing is known of message \"never sent\""), "{unknown}");
}

/// `gateway stats` counts what happened, by shard and in sum, and says that journals can write.
#[tokio::test]
async fn counters_are_told() {
    let gateway = Gateway::start(&["--shards", "3"]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    for number in 0..30 {
        exchange(&mut client, &format!("s-{number}"), "m").await;
    }
    let stats = asked(gateway.state(), &["gateway", "stats"]);
    let shards = stats["shards"].as_array().expect("a list");
    assert_eq!((shards.len(), &stats["shardCount"]), (3, &json!(3)));
    for counter in ["messages_accepted", "replies_completed", "sessions"] {
        let each = shards.iter().map(|shard| shard["counters"][counter].as_u64().expect("a number"));
        assert_eq!((each.sum::<u64>(), &stats["sum"]["counters"][counter]), (30, &json!(30)), "{counter}");
    }
    for (name, latency) in stats["sum"]["latencies"].as_object().expect("an object") {
        let [p50, p99, p999, max] =
            ["p50Us", "p99Us", "p999Us", "maxUs"].map(|part| latency[part].as_f64().expect("a number"));
        assert_eq!(latency["count"], 30, "{name}");
        assert!(0.0 < p50 && p50 <= p99 && p99 <= p999 && p999 <= max, "{name}: {latency}");
    }
    assert!(shards.iter().all(|shard| shard["journal"] == "writing"), "{stats}");
    let output = openclaw(gateway.state(), &["gateway", "stats"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.lines().any(|line| line.split_whitespace().eq(["replies_completed", "30"])), "{text}");
}

/// A `gateway events` that runs.
struct Events {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Events {
    /// Comes back when it listens.
    fn start(gateway: &Gateway, arguments: &[&str]) -> Self {
        let arguments = [&["gateway", "events"], arguments].concat();
        let mut command = openclaw(gateway.state(), &arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("it can be read");
        assert_eq!(line, "listening\n");
        Self { stdout: BufReader::new(child.stdout.take().expect("piped")), child }
    }

    fn event(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `gateway events` tells the way of a message, in order, and of what was asked for only.
#[tokio::test]
async fn events_are_told_in_order() {
    let gateway = Gateway::start(&["--shards", "1"]).unwrap();
    let types = ["message.received", "message.routed", "response.generated", "response.delivered"];
    let arguments: Vec<_> = types.iter().flat_map(|name| ["--type", name]).chain(["--count", "8"]).collect();
    let mut events = Events::start(&gateway, &arguments);
    let mut client = Client::connect(&gateway.url()).await;
    for id in ["first", "second"] {
        exchange(&mut client, "s", id).await;
        let told: Vec<_> = (0..4).map(|_| events.event()).collect();
        assert_eq!(told.iter().map(|event| event["type"].as_str().unwrap()).collect::<Vec<_>>(), types);
        assert_eq!((&told[0]["id"], &told[0]["bytes"]), (&json!(id), &json!(5)));
        assert_eq!((&told[1]["agent"], &told[1]["attempt"]), (&json!("echo"), &json!(1)));
        assert_eq!((&told[3]["code"], &told[3]["turn"]), (&Value::Null, &told[1]["turn"]));
        assert!(told.iter().all(|event| event["sessionHash"] == told[0]["sessionHash"]));
    }
    let status = until("it has told enough", || events.child.try_wait().expect("it can be waited for"));
    assert_eq!(status.code(), Some(0));
    let wrong = complaint(gateway.state(), &["gateway", "events", "--type", "weather"]);
    assert!(wrong.contains("weather") && wrong.contains("message.received"), "{wrong}");
}

/// A client that does not read misses events, and is told how many; the gateway waits for nobody, and what was told and
/// what was missed are all there were.
#[tokio::test]
async fn slow_listeners_miss_events() {
    const MESSAGES: usize = 3000;
    let gateway = Gateway::start(&["--shards", "1"]).unwrap();
    let mut slow = Asker::connect(gateway.state());
    let types = json!(["message.received", "session.created"]);
    assert_eq!(slow.ask(&json!({"v": 1, "op": "events", "types": types}))["ok"]["types"], types);
    let mut client = Client::connect(&gateway.url()).await;
    for number in 0..MESSAGES {
        // Names of some length, so that not everything fits into the socket.
        client.say("echo", &format!("{number:0250}"), &format!("{number:0250}"), "x").await;
        if number % 100 == 99 {
            for _ in 0..100 {
                client.reply().await;
            }
        }
    }
    let (mut told, mut missed) = (0, 0);
    while told + missed < 2 * MESSAGES as u64 {
        let line = slow.line().expect("the connection stays");
        match line["missed"].as_u64() {
            Some(count) => missed += count,
            None => {
                told += 1;
                assert!(line["event"]["type"].is_string(), "{line}");
            }
        }
    }
    assert_eq!(told + missed, 2 * MESSAGES as u64);
    assert!(missed > 0 && told >= 1024, "{told} told, {missed} missed");
}

/// The socket is for its owner, is gone after the end, and is made anew after a crash.
#[tokio::test]
async fn the_socket_is_the_owners() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let socket = state.path().join("gateway.sock");
    for signal in [Signal::KILL, Signal::TERM] {
        let mut gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(asked(state.path(), &["gateway", "stats"])["sum"]["journal"], "writing");
        gateway.signal(signal);
        gateway.wait();
    }
    assert!(!socket.exists());
    let gone = complaint(state.path(), &["gateway", "stats"]);
    assert!(gone.contains("no gateway runs in state directory"), "{gone}");
    std::fs::write(&socket, "").unwrap();
    assert!(complaint(state.path(), &["dlq", "list"]).contains("no gateway runs"));
}

/// Lines that are wrong are refused by name and the connection goes on; lines that are too long end it; the ninth
/// connection is refused, until one of the others ends.
#[tokio::test]
async fn connections_have_limits() {
    let gateway = Gateway::start(&["--shards", "1"]).unwrap();
    let mut asker = Asker::connect(gateway.state());
    for (request, expected, field) in [
        (json!({"v": 1, "op": "dance"}), "unknown_op", "op"),
        (json!({"v": 1, "op": "stats", "verbose": true}), "unknown_field", "verbose"),
        (json!({"v": 9, "op": "stats"}), "unknown_version", "v"),
        (json!({"v": 1, "op": "dlq.list", "agent": "nobody"}), "invalid_field", "agent"),
    ] {
        let answer = asker.ask(&request);
        assert_eq!((code(&answer), &answer["error"]["field"]), (expected, &json!(field)), "{answer}");
    }
    assert_eq!(code(&asker.ask(&json!([]))), "invalid_json");
    assert_eq!(code(&asker.ask(&json!({"v": 1, "op": "dlq.show", "turn": "0000000000000001"}))), "not_found");
    let padded = |bytes: usize| {
        let mut line = br#"{"v":1,"op":"stats"}"#.to_vec();
        line.resize(bytes - 1, b' ');
        line.push(b'\n');
        line
    };
    asker.say(&padded(64 * 1024));
    assert!(asker.line().expect("an answer")["ok"].is_object());
    asker.say(&padded(64 * 1024 + 1)[..64 * 1024]);
    assert_eq!(code(&asker.line().expect("an answer")), "too_long");
    assert_eq!(asker.line(), None);

    let mut listeners: Vec<_> = (0..8).map(|_| Asker::connect(gateway.state())).collect();
    for listener in &mut listeners {
        assert!(listener.ask(&json!({"v": 1, "op": "events"}))["ok"].is_object());
    }
    let mut ninth = Asker::connect(gateway.state());
    assert_eq!(code(&ninth.line().expect("a refusal")), "busy");
    let mut rest = Vec::new();
    assert_eq!(ninth.0.read_to_end(&mut rest).expect("the end"), 0);
    assert!(complaint(gateway.state(), &["gateway", "stats"]).contains("(busy)"));
    listeners.pop();
    until("there is room again", || {
        openclaw(gateway.state(), &["gateway", "stats"]).output().unwrap().status.success().then_some(())
    });
}

/// A shard that hangs is named in bounded time, and asked again as soon as it goes on.
#[tokio::test]
async fn a_shard_that_hangs_is_named() {
    let gateway = Gateway::start(&["--shards", "2"]).unwrap();
    let ask = || Asker::connect(gateway.state()).ask(&json!({"v": 1, "op": "stats"}));
    // Both have begun: while they do, one may wait for the other.
    assert!(ask()["ok"].is_object());
    let thread = until("the shard runs", || gateway.thread("shard-1"));
    let Some(tracer) = Tracer::hold(thread) else {
        return println!("not run: strace is not installed, or may not trace");
    };
    // It answers until its next system call.
    let answer = until("it hangs", || Some(ask()).filter(|answer| code(answer) == "no_answer"));
    let message = answer["error"]["message"].as_str().expect("a sentence");
    assert!(message.starts_with("shard 1 does not answer: not within 2 s"), "{message}");
    drop(tracer);
    until("it answers again", || ask()["ok"].is_object().then_some(()));
}
