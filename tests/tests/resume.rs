//! Clients that come back: what they have missed, and what goes on.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::{Client, Received};
use tests::process::{Gateway, configure, end_all, openclaw, processes, send_signal, until};

/// Says as many blocks as the message asks for, each when a line comes through the gate. Numbers are those of the message.
const AGENT: &str = r#"
import json, os, sys
gate = os.fdopen(os.open("gate", os.O_RDWR), "rb", buffering=0)
free = False
def wait():
    global free
    free = free or gate.readline() == b"free\n"
for message in map(json.loads, sys.stdin):
    if message["type"] != "message": continue
    for number in range(int(message["content"])):
        wait()
        print(json.dumps({"type": "block", "id": message["id"], "content": f"{number} "}), flush=True)
    wait()
    print(json.dumps({"type": "end", "id": message["id"], "content": "end"}), flush=True)
"#;

/// A state directory with an agent that waits at a gate.
struct Place {
    state: Arc<TempDir>,
    folder: TempDir,
    gate: std::fs::File,
}

impl Place {
    fn new(settings: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        // Open in both directions, so that neither side ever finds the other gone.
        let gate = std::fs::OpenOptions::new().read(true).write(true).open(gate).unwrap();
        std::fs::write(folder.path().join("agent.py"), AGENT).unwrap();
        let state = Arc::new(tempfile::tempdir().unwrap());
        let script = format!("cd {0} && exec python3 agent.py", folder.path().display());
        let mut settings = settings;
        settings["agents"]["entries"]["gated"] =
            json!({"command": ["sh", "-c", script], "sandbox": {"workspace": folder.path()}});
        configure(state.path(), &settings);
        Self { state, folder, gate }
    }

    fn start(&self) -> Gateway {
        let arguments = ["--shards", "2", "--restart", "always", "--runtime", "auto"];
        Gateway::start_in(Arc::clone(&self.state), &arguments).unwrap()
    }

    /// Lets the agent say so much more.
    fn open(&mut self, steps: usize) {
        self.gate.write_all("go\n".repeat(steps).as_bytes()).unwrap();
    }

    /// Waits for the gateway that follows the one with this process id.
    fn status_after(&self, before: u32) -> Value {
        until("the next gateway answers", || {
            let output = openclaw(self.state.path(), &["gateway", "status", "--json"]).output().unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["processId"] != before).then_some(status)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        end_all(self.state.path());
    }
}

/// What one client, over several connections, was told of one session.
#[derive(Default, Debug)]
struct Told {
    blocks: Vec<String>,
    ends: Vec<Value>,
    gaps: Vec<Value>,
    resumed: Vec<Value>,
    last: Option<(u64, u64)>,
    offsets: Vec<u64>,
}

impl Told {
    /// Takes note of a frame; places never go back.
    fn take(&mut self, frame: &Value) {
        if let (Some(epoch), Some(offset)) = (frame["epoch"].as_u64(), frame["offset"].as_u64()) {
            assert!(
                self.last < Some((epoch, offset)),
                "twice, or out of order: {frame} after {:?}",
                self.last
            );
            self.last = Some((epoch, offset));
            self.offsets.push(offset);
        }
        match frame["type"].as_str() {
            Some("event") => self.blocks.push(frame["content"]["content"].as_str().unwrap().to_owned()),
            Some("message" | "error") => self.ends.push(frame.clone()),
            Some("gap") => self.gaps.push(frame["content"].clone()),
            Some("resumed") => self.resumed.push(frame["content"].clone()),
            other => panic!("{other:?}"),
        }
    }

    async fn read(&mut self, client: &mut Client, mut until: impl FnMut(&Self) -> bool) {
        while !until(self) {
            self.take(&client.frame().await);
        }
    }

    /// Connects anew and asks for what was missed.
    async fn come_back(&self, gateway: &Gateway, session: &str) -> Client {
        let mut client = Client::connect(&gateway.url()).await;
        let mut frame = json!({"type": "resume", "id": "r", "sessionId": session});
        if let Some((epoch, offset)) = self.last {
            (frame["epoch"], frame["offset"]) = (epoch.into(), offset.into());
        }
        client.send(&frame).await;
        client
    }

    /// Exactly one reply of so many blocks was told.
    fn assert_whole(&self, blocks: usize) {
        let expected: Vec<String> = (0..blocks).map(|number| format!("{number} ")).collect();
        assert_eq!(self.blocks, expected);
        let text = expected.concat() + "end";
        let ends: Vec<_> = self.ends.iter().map(|end| (&end["type"], &end["content"]["content"])).collect();
        assert_eq!(ends, [(&json!("message"), &json!(text))]);
        assert_eq!(self.gaps, [] as [Value; 0]);
    }
}

/// A client that goes at any boundary of a reply, and comes back at any later one, gets the rest of it: what was said
/// meanwhile, then what is said from then on, each once, and one end with the whole text. By all pairs of boundaries.
#[tokio::test]
async fn every_boundary_can_be_left_and_come_back_to() {
    const BLOCKS: usize = 4;
    let mut place = Place::new(json!({}));
    let gateway = place.start();
    for left in 0..=BLOCKS {
        for said in left..=BLOCKS + 1 {
            let session = format!("s-{left}-{said}");
            let mut told = Told::default();
            let mut client = Client::connect(&gateway.url()).await;
            let message = json!({"type": "message", "id": "m", "agent": "gated", "sessionId": session,
                "content": BLOCKS.to_string(), "metadata": {"ack": true}});
            client.send(&message).await;
            // What is not kept yet is nobody's to come back to.
            assert_eq!(client.frame().await["type"], "status");
            place.open(left);
            told.read(&mut client, |told| told.blocks.len() == left).await;
            // Somebody else sees that it goes on meanwhile.
            let mut witness = Told::default();
            let mut other = witness.come_back(&gateway, &session).await;
            witness.read(&mut other, |told| !told.resumed.is_empty()).await;
            drop(client);
            place.open(said - left);
            let seen = |told: &Told| told.blocks.len() + told.ends.len() == said;
            witness.read(&mut other, seen).await;
            let mut client = told.come_back(&gateway, &session).await;
            told.read(&mut client, |told| !told.resumed.is_empty()).await;
            assert_eq!(told.blocks.len() + told.ends.len(), said, "{told:?}");
            let open = if said > BLOCKS { json!([]) } else { json!(["m"]) };
            assert_eq!(told.resumed[0]["open"], open);
            place.open(BLOCKS + 1 - said);
            told.read(&mut client, |told| !told.ends.is_empty()).await;
            told.assert_whole(BLOCKS);
            witness.read(&mut other, |told| !told.ends.is_empty()).await;
            witness.assert_whole(BLOCKS);
            assert_eq!(told.ends[0]["id"], "m");
            assert_eq!(told.ends[0]["agent"], "gated");
        }
    }
}

/// While an agent speaks as fast as it can, a client that goes and comes back again and again misses nothing and gets
/// nothing twice, wherever it was between what is kept and what is said. By a long reply, of which each connection hears
/// a part.
#[tokio::test]
async fn nothing_lies_between_kept_and_live() {
    const BLOCKS: usize = 20_000;
    let mut place = Place::new(json!({}));
    let gateway = place.start();
    let mut random = fastrand::Rng::with_seed(4);
    let mut told = Told::default();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("gated", "s", "m", &BLOCKS.to_string()).await;
    place.gate.write_all(b"free\n").unwrap();
    told.read(&mut client, |told| !told.blocks.is_empty()).await;
    let mut connections = 0;
    while told.ends.is_empty() {
        client = told.come_back(&gateway, "s").await;
        connections += 1;
        let wanted = told.blocks.len() + random.usize(1..1500);
        told.read(&mut client, |told| told.blocks.len() >= wanted || !told.ends.is_empty()).await;
    }
    told.assert_whole(BLOCKS);
    println!("{connections} connections, {} of them heard live words", told.resumed.len());
    assert!(connections > 10);
}

/// `kill -9` of the gateway in the middle of a reply: a client that comes back to the next one gets the rest, at places
/// that go on; so does one whose reply has ended before. Two kills, one with words while nobody listens.
#[tokio::test]
async fn a_reply_goes_on_when_the_gateway_is_killed() {
    const BLOCKS: usize = 6;
    let mut place = Place::new(json!({"journal": {"segmentMib": 1, "retainMib": 1}}));
    let gateway = place.start();
    let mut told = Told::default();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("gated", "s", "m", &BLOCKS.to_string()).await;
    place.open(2);
    told.read(&mut client, |told| told.blocks.len() == 2).await;
    let mut process = gateway.process_id();
    for round in 1..=2 {
        send_signal(process, Signal::KILL);
        place.open(1);
        while client.receive().await != Received::Closed(None) {}
        process = place.status_after(process)["processId"].as_u64().unwrap().try_into().unwrap();
        client = told.come_back(&gateway, "s").await;
        place.open(1);
        told.read(&mut client, |told| told.blocks.len() == 2 + 2 * round).await;
    }
    place.open(1);
    told.read(&mut client, |told| !told.ends.is_empty()).await;
    told.assert_whole(BLOCKS);
    assert_eq!(told.last.map(|(_, offset)| offset), Some(BLOCKS as u64), "one epoch");
    // A third kill: the end is kept, too.
    let (mut late, before) = (Told { last: Some((told.last.unwrap().0, 0)), ..Told::default() }, process);
    send_signal(process, Signal::KILL);
    while client.receive().await != Received::Closed(None) {}
    place.status_after(before);
    let mut client = late.come_back(&gateway, "s").await;
    late.read(&mut client, |told| !told.resumed.is_empty()).await;
    assert_eq!((late.blocks.len(), late.ends.len(), late.gaps.len()), (BLOCKS - 1, 1, 0));
    assert_eq!(
        late.ends[0]["content"], told.ends[0]["content"],
        "the whole text, also of what had been seen"
    );
}

/// When the agent of a half-told reply is killed, what its successor says is of another attempt, said so, and one end
/// comes; also for one who comes back.
#[tokio::test]
async fn a_reply_that_is_replaced_says_so() {
    let mut place = Place::new(json!({}));
    let gateway = place.start();
    let mut told = Told::default();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("gated", "s", "m", "2").await;
    place.open(1);
    told.read(&mut client, |told| told.blocks.len() == 1).await;
    drop(client);
    let script = place.folder.path().to_string_lossy().into_owned();
    let is_agent = |arguments: &[String]| arguments.iter().any(|argument| argument == "agent.py");
    let agent = processes().into_iter().find(|process| {
        let of_this = std::fs::read_link(format!("/proc/{}/cwd", process.process_id));
        is_agent(&process.arguments) && of_this.is_ok_and(|cwd| cwd.to_string_lossy().contains(&script))
    });
    send_signal(agent.expect("the agent runs").process_id, Signal::KILL);
    place.open(3);
    let mut client = told.come_back(&gateway, "s").await;
    let mut attempts = Vec::new();
    while told.ends.is_empty() {
        let frame = client.frame().await;
        if frame["type"] == "event" {
            attempts.push(frame["content"]["attempt"].clone());
        }
        told.take(&frame);
    }
    assert_eq!(attempts, [json!(2), json!(2)]);
    assert_eq!((told.ends[0]["type"].as_str(), told.ends.len()), (Some("message"), 1));
    assert_eq!(told.ends[0]["content"]["content"], "0 1 end");
}

/// What the journal does not keep any more is a gap from where the client was to where the kept part begins, and that
/// comes whole. By more than a journal keeps, and a kill.
#[tokio::test]
async fn what_is_gone_is_a_gap() {
    let place = Place::new(json!({"journal": {"segmentMib": 1, "retainMib": 1}}));
    let gateway = place.start();
    let mut told = Told::default();
    let mut client = Client::connect(&gateway.url()).await;
    let text = "x".repeat(100_000);
    for number in 0..60 {
        client.say("echo", "s", &format!("m-{number}"), &text).await;
        told.read(&mut client, |told| told.ends.len() == number + 1).await;
    }
    let process = gateway.process_id();
    send_signal(process, Signal::KILL);
    while client.receive().await != Received::Closed(None) {}
    place.status_after(process);
    let first = told.ends[0].clone();
    let seen = (first["epoch"].as_u64().unwrap(), first["offset"].as_u64().unwrap());
    let mut late = Told { last: Some(seen), ..Told::default() };
    let mut client = late.come_back(&gateway, "s").await;
    late.read(&mut client, |told| !told.resumed.is_empty()).await;
    let [gap] = &late.gaps[..] else { panic!("one gap, and not {:?}", late.gaps) };
    assert_eq!((gap["from"]["epoch"].as_u64(), gap["from"]["offset"].as_u64()), (Some(seen.0), Some(seen.1)));
    let to = gap["to"]["offset"].as_u64().unwrap();
    let last = told.last.unwrap().1;
    assert_eq!(late.offsets, (to..=last).collect::<Vec<_>>());
    assert!(to > seen.1 + 1 && to < last, "{gap}");
    assert_eq!(late.ends.last().unwrap()["id"], "m-59");
}

/// What cannot be resumed is refused by name, and a session twice on one connection.
#[tokio::test]
async fn refusals_are_named() {
    let mut place = Place::new(json!({}));
    let gateway = place.start();
    let mut client = Client::connect(&gateway.url()).await;
    let rows = [
        (json!({"type": "resume", "id": "r"}), "missing_field"),
        (
            json!({"type": "resume", "id": "r", "sessionId": "never", "epoch": 1, "offset": 1}),
            "unknown_session",
        ),
        (json!({"type": "resume", "id": "r", "sessionId": "never"}), "unknown_session"),
        (json!({"type": "resume", "id": "r", "sessionId": "s", "epoch": 1}), "missing_field"),
    ];
    for (frame, code) in rows {
        client.send(&frame).await;
        let error = client.frame().await;
        assert_eq!((&error["type"], &error["content"]["code"]), (&json!("error"), &json!(code)), "{error}");
        assert_eq!(error["id"], "r");
    }
    let mut other = Client::connect(&gateway.url()).await;
    other.say("gated", "s", "m", "1").await;
    place.open(1);
    assert_eq!(other.frame().await["type"], "event");
    client.send(&json!({"type": "resume", "id": "a", "sessionId": "s"})).await;
    assert_eq!(client.frame().await["content"]["content"], "0 ");
    assert_eq!(client.frame().await["type"], "resumed");
    client.send(&json!({"type": "resume", "id": "b", "sessionId": "s"})).await;
    let refused = client.frame().await;
    assert_eq!((&refused["id"], &refused["content"]["code"]), (&json!("b"), &json!("conflict")));
    place.open(1);
    assert_eq!(client.frame().await["type"], "message");
    client.send(&json!({"type": "resume", "id": "c", "sessionId": "s"})).await;
    let (blocks, end) = client.reply().await;
    assert_eq!((blocks.len(), &end["id"]), (1, &json!("m")));
}

/// A driver gets the same in its own frames; blocks have the ids that they had.
#[tokio::test]
async fn drivers_resume() {
    let mut place = Place::new(json!({}));
    let gateway = place.start();
    let mut client = Client::connect(&gateway.url()).await;
    let payload = json!({"agent": "gated", "channel": "c", "sender": "u", "content": "3"});
    client.send(&json!({"type": "message_in", "id": "m", "session_id": "t", "payload": payload})).await;
    place.open(2);
    assert_eq!(client.frame().await["type"], "connected");
    assert_eq!(client.frame().await["type"], "message_ack");
    let (first, second) = (client.frame().await, client.frame().await);
    assert_eq!(second["payload"]["block_id"], "1-1");
    drop(client);
    let mut client = Client::connect(&gateway.url()).await;
    let payload = json!({"channel": "c", "sender": "u", "epoch": first["payload"]["epoch"],
        "offset": first["payload"]["offset"]});
    client.send(&json!({"type": "resume", "id": "r", "session_id": "t", "payload": payload})).await;
    assert_eq!(client.frame().await["type"], "connected");
    let missed = client.frame().await;
    assert_eq!((&missed["id"], &missed["session_id"]), (&json!("m"), &json!("t")));
    assert_eq!(missed["payload"], second["payload"]);
    let resumed = client.frame().await;
    assert_eq!((&resumed["type"], &resumed["id"]), (&json!("resumed"), &json!("r")));
    assert_eq!(resumed["payload"]["open"], json!(["m"]));
    place.open(2);
    let third = client.frame().await;
    assert_eq!((&third["payload"]["block_id"], &third["payload"]["content"]), (&json!("1-2"), &json!("2 ")));
    let rest = client.frame().await;
    assert_eq!(rest["payload"]["content"], "end");
    assert_eq!(rest["payload"].get("offset"), None, "the end that follows has it");
    let end = client.frame().await;
    assert_eq!((end["type"].as_str(), &end["payload"]["attempt"]), (Some("stream_end"), &json!(1)));
    assert_eq!(end["payload"]["offset"], 3);
}
