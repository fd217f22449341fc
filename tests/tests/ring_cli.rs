//! `openclaw ring` against a running gateway: what is shown is what is there, and looking harms nobody.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::binary;
use tests::client::Client;
use tests::process::{Gateway, PATIENCE, send_signal, until};

fn ring(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("openclaw"));
    command.arg("ring").args(arguments).arg("--state-dir").arg(state).env_remove("OPENCLAW_STATE_DIR");
    command
}

fn output(gateway: &Gateway, arguments: &[&str]) -> Output {
    ring(gateway.state(), arguments).output().expect("the command starts")
}

/// The JSON of a command that succeeds.
fn seen(gateway: &Gateway, arguments: &[&str]) -> Value {
    let output = output(gateway, arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What `ring list` says of one ring.
fn listed(gateway: &Gateway, name: &str) -> Value {
    let mut list = seen(gateway, &["list", "--json"]);
    let rings = list["rings"].as_array_mut().expect("a list");
    let position = rings.iter().position(|ring| ring["name"] == name);
    rings.swap_remove(position.unwrap_or_else(|| panic!("{name} is not in {rings:?}")))
}

/// The agent host of an agent, once it is there.
fn agent(gateway: &Gateway, name: &str) -> u32 {
    until("the agent runs", || {
        gateway.agents().into_iter().find(|(found, _)| found == name).map(|(_, process_id)| process_id)
    })
}

/// A `ring watch` that runs, and the lines it prints.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(gateway: &Gateway, arguments: &[&str]) -> Self {
        let arguments = [&["watch", "--json"], arguments].concat();
        let mut child = ring(gateway.state(), &arguments).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the output, or when the test does not listen any more.
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    fn line(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line in time");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Waits for its end, and gives the exit code and the lines that were not read.
    fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let status = until("the watch has ended", || self.child.try_wait().expect("it can be waited for"));
        let lines = self.lines.iter().map(|line| serde_json::from_str(&line).expect("JSON"));
        (status.code(), lines.collect())
    }
}

/// Every ring is listed, agents' and those between threads. What an agent that stands still has not read is
/// in flight in its ring, record by record, and in no other; when it goes on, it is answered and gone.
#[tokio::test]
async fn what_waits_is_shown() {
    const MESSAGES: usize = 5;
    let gateway = Gateway::start(&["--shards", "2", "--edges", "1"]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("echo", "s", "first", "hello").await;
    client.reply().await;

    let list = seen(&gateway, &["list", "--json"]);
    let names: Vec<_> = list["rings"].as_array().unwrap().iter().map(|ring| ring["name"].clone()).collect();
    let threads =
        ["edge-0/shard-0", "edge-0/shard-1", "shard-0/shard-1", "shard-0/journal", "shard-1/journal"];
    assert_eq!(names, [&threads[..], &["echo"]].concat());
    for ring in list["rings"].as_array().unwrap() {
        for direction in ring["directions"].as_array().unwrap() {
            assert_eq!(direction["poison"], Value::Null);
            assert_eq!((&direction["producer_epoch"], &direction["consumer_epoch"]), (&json!(1), &json!(1)));
        }
    }
    let echo = agent(&gateway, "echo");
    let quiet = until("the agent sleeps", || {
        let ring = listed(&gateway, "echo");
        let to_agent = &ring["directions"][0];
        let asleep = to_agent["consumer"] == "asleep" && to_agent["in_flight_bytes"] == 0;
        asleep.then_some(ring)
    });
    assert_eq!((&quiet["kind"], &quiet["process_id"]), (&json!("agent"), &json!(echo)));
    let to_agent = &quiet["directions"][0];
    assert_eq!((&to_agent["from"], &to_agent["to"]), (&json!("gateway"), &json!("agent")));
    assert_eq!((&to_agent["capacity_bytes"], &to_agent["head"]), (&json!(65_536), &to_agent["tail"]));

    send_signal(echo, Signal::STOP);
    for number in 0..MESSAGES {
        client.say("echo", &format!("s-{number}"), &number.to_string(), "wait").await;
    }
    let inspected = until("all messages wait in the ring", || {
        let ring = seen(&gateway, &["inspect", "echo", "--json"]);
        (ring["unread"][0]["records"].as_array().unwrap().len() == MESSAGES).then_some(ring)
    });
    let mut bytes = 0;
    for record in inspected["unread"][0]["records"].as_array().unwrap() {
        assert_eq!((&record["kind_name"], &record["flags"]), (&json!("Message"), &json!([])));
        bytes += (16 + record["bytes"].as_u64().unwrap()).next_multiple_of(16);
    }
    assert_eq!(inspected["unread"][0]["rest"], "nothing");
    let to_agent = &inspected["directions"][0];
    assert_eq!(to_agent["in_flight_bytes"], bytes);
    assert_eq!(inspected["halves"][0]["words"]["tail"], to_agent["tail"]);
    assert_eq!(inspected["halves"][1]["words"]["head"], to_agent["head"]);
    assert_eq!(inspected["halves"][1]["config"]["instance"], inspected["instance"]);
    assert_eq!(listed(&gateway, "echo")["directions"][0], *to_agent);

    send_signal(echo, Signal::CONT);
    for _ in 0..MESSAGES {
        assert_eq!(client.reply().await.1["type"], "message");
    }
    until("nothing waits", || {
        (listed(&gateway, "echo")["directions"][0]["in_flight_bytes"] == 0).then_some(())
    });
}

/// A watch reports as often as it is told, and shows that something flows while something does.
#[tokio::test]
async fn a_watch_counts() {
    let gateway = Gateway::start(&["--shards", "1", "--edges", "1"]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("echo", "s", "first", "hello").await;
    client.reply().await;
    let mut watches = [["echo"], ["edge-0/shard-0"]]
        .map(|name| Watch::start(&gateway, &[&name[..], &["--count", "2", "--interval-ms", "500"]].concat()));
    // Each under an id of its own: what is sent again does not reach the agent.
    let mut number = 0;
    while watches.iter_mut().any(|watch| watch.child.try_wait().expect("it can be waited for").is_none()) {
        number += 1;
        client.say("echo", "s", &number.to_string(), "hello").await;
        client.reply().await;
    }
    for watch in watches {
        let (code, lines) = watch.end();
        assert_eq!((code, lines.len()), (Some(0), 2), "{lines:?}");
        for direction in 0..2 {
            let rates = lines
                .iter()
                .map(|line| line["rings"][0]["directions"][direction]["bytes_per_second"].as_u64());
            assert!(rates.flatten().any(|rate| rate > 0), "{lines:?}");
        }
    }
    let watch = Watch::start(&gateway, &["--count", "1", "--interval-ms", "10"]);
    assert_eq!(watch.line()["rings"].as_array().map(Vec::len), Some(3), "all rings, without a name");
    assert_eq!(watch.end().0, Some(0));
}

/// A watch ends well when its ring is gone, when the gateway is, and on Ctrl-C.
#[test]
fn a_watch_ends() {
    let mut gateway = Gateway::start(&[]).unwrap();
    let echo = agent(&gateway, "echo");
    let watch = Watch::start(&gateway, &["echo", "--interval-ms", "20"]);
    assert_eq!(watch.line()["rings"][0]["name"], "echo");
    send_signal(echo, Signal::KILL);
    let (code, lines) = watch.end();
    let gone = lines.last().expect("it says why")["gone"].as_str().expect("a sentence").to_owned();
    assert_eq!((code, gone.as_str()), (Some(0), "ring echo is gone: instance 1 of the agent has ended"));

    let watch = Watch::start(&gateway, &["--interval-ms", "20"]);
    watch.line();
    send_signal(watch.child.id(), Signal::INT);
    let (code, lines) = watch.end();
    assert_eq!((code, lines.iter().any(|line| line.get("gone").is_some())), (Some(0), false));

    let watch = Watch::start(&gateway, &["--interval-ms", "20"]);
    watch.line();
    gateway.signal(Signal::TERM);
    let (code, lines) = watch.end();
    assert_eq!((code, lines.last()), (Some(0), Some(&json!({"gone": "the gateway has ended"}))));
    assert_eq!(gateway.wait().code(), Some(0));
}

/// What cannot be looked at is named, and what could be instead; the text for people has every ring.
#[test]
fn mistakes_are_named() {
    let gateway = Gateway::start(&["--shards", "1", "--edges", "1"]).unwrap();
    agent(&gateway, "echo");
    let failed = |output: &Output, code: i32| {
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
    };
    let failure = |output: &Output| failed(output, 1);
    for command in ["inspect", "watch"] {
        let expected = "openclaw: no ring is named nobody; there are edge-0/shard-0, shard-0/journal, echo";
        assert_eq!(failure(&output(&gateway, &[command, "nobody"])), expected);
    }
    let empty = tempfile::tempdir().unwrap();
    let list = |state: &Path| ring(state, &["list"]).output().expect("the command starts");
    let expected = format!("openclaw: no gateway runs in state directory {}; ", empty.path().display());
    assert!(failed(&list(empty.path()), 3).starts_with(&expected));
    // Nothing is forbidden to root.
    if !rustix::process::geteuid().is_root() {
        std::fs::set_permissions(empty.path(), PermissionsExt::from_mode(0o000)).unwrap();
        let expected = "openclaw: not allowed to look at the gateway in state directory ";
        assert!(failure(&list(empty.path())).starts_with(expected));
    }
    let text = String::from_utf8(list(gateway.state()).stdout).unwrap();
    let rows: Vec<_> = text.lines().map(|line| line.split("  ").next().unwrap_or_default()).collect();
    assert_eq!(
        rows,
        ["RING", "edge-0/shard-0", "edge-0/shard-0", "shard-0/journal", "shard-0/journal", "echo", "echo"]
    );
    let text = output(&gateway, &["inspect", "edge-0/shard-0"]).stdout;
    assert!(String::from_utf8_lossy(&text).starts_with("ring edge-0/shard-0 inside the gateway, process "));
}
