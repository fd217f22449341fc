//! Agents outlive their gateway: one that crashes, one that is replaced, and one that comes back with other settings.

#[path = "handover/book.rs"]
mod book;
#[path = "handover/conversations.rs"]
mod conversations;
#[path = "handover/keepers.rs"]
mod keepers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use book::Book;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::Client;
use tests::process::{Gateway, PATIENCE, alive, asked, configure, end_all, openclaw, send_signal, until};
use tests::{binary, diary, workspace};

/// A state directory in which one gateway follows the other. Whatever runs there is ended when this is dropped.
struct Line {
    state: Arc<TempDir>,
}

impl Line {
    fn new(config: &Value) -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        let line = Self { state };
        line.configure(config);
        line
    }

    fn state(&self) -> &Path {
        self.state.path()
    }

    fn configure(&self, config: &Value) {
        configure(self.state(), config);
    }

    fn start(&self, arguments: &[&str]) -> Gateway {
        Gateway::start_in(Arc::clone(&self.state), arguments).unwrap()
    }

    /// The status of the gateway that follows the one with process id `before`.
    fn status_after(&self, before: u32) -> Value {
        until("the next gateway answers", || {
            let output = openclaw(self.state(), &["gateway", "status", "--json"]).output().unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["processId"] != before).then_some(status)
        })
    }

    /// The process ids of its agents, by name.
    fn agents(&self) -> BTreeMap<String, u32> {
        let list = asked(self.state(), &["agent", "list"]);
        let runs = |row: &Value| {
            let process_id = row["processId"].as_u64()?.try_into().ok()?;
            Some((row["name"].as_str()?.to_owned(), process_id))
        };
        list["agents"].as_array().unwrap().iter().filter_map(runs).collect()
    }

    /// As [`Self::agents`], once there are so many.
    fn all_agents(&self, count: usize) -> BTreeMap<String, u32> {
        until("all agents run", || Some(self.agents()).filter(|agents| agents.len() == count))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Most tests have stopped it themselves.
        end_all(self.state());
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap().try_into().unwrap()
}

/// Settings with two agents beside the built-in one; small segments, which are read quickly at each start.
fn settings() -> Value {
    let words = json!({"command": ["python3", workspace().join("examples/streaming_agent.py")]});
    json!({
        "journal": {"segmentMib": 1, "retainMib": 1},
        "agents": {"entries": {"words": words, "pool": {"command": words["command"], "instances": 2}}},
    })
}

/// The same with one that keeps a diary in that folder.
fn settings_with_diary(folder: &Path) -> Value {
    let mut settings = settings();
    settings["agents"]["entries"]["noted"] =
        json!({"command": [binary("delivery-agent"), folder], "sandbox": {"workspace": folder}});
    settings
}

/// `kill -9` of the gateway under load, four times: its keeper starts the next one, which has the same agents and the same
/// port; a client that comes back and sends again what it has no reply to gets one and the same reply to each message, in
/// the order of each session.
#[tokio::test]
async fn agents_go_on_when_their_gateway_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let line = Line::new(&settings_with_diary(folder.path()));
    let gateway = line.start(&["--shards", "2", "--restart", "always", "--runtime", "auto"]);
    let agents = line.all_agents(5);
    let keeper = gateway.keeper().expect("a keeper");
    let mut book = Book::default();
    let mut process = gateway.process_id();
    for round in 0..4 {
        let mut client = Client::connect(&gateway.url()).await;
        for id in book.open() {
            book.send(&mut client, id).await;
        }
        for _ in 0..20 {
            for agent in ["echo", "words", "pool", "noted"] {
                book.send_new(&mut client, agent).await;
            }
        }
        book.read(&mut client, 10 * round).await;
        send_signal(process, Signal::KILL);
        assert_eq!(book.read_to_end(&mut client).await, None);
        let status = line.status_after(process);
        process = number(&status["processId"]);
        assert_eq!(status["listenerTakenOver"], true, "{status}");
        assert_eq!(status["agents"], json!({"configured": 5, "alive": 5, "adopted": 5, "started": 0}));
        assert_eq!((line.agents(), number(&status["keeperProcessId"])), (agents.clone(), keeper));
    }
    until("all have said what software they are", || {
        let list = asked(line.state(), &["agent", "list"]);
        let known =
            |agent: &Value| agent["version"].as_str().is_some_and(|text| text.starts_with("agent-sdk/"));
        list["agents"]
            .as_array()
            .is_some_and(|agents| agents.len() == 5 && agents.iter().all(known))
            .then_some(())
    });
    let mut client = Client::connect(&gateway.url()).await;
    let open = book.open();
    for &id in &open {
        book.send(&mut client, id).await;
    }
    book.read(&mut client, open.len()).await;
    book.check();
    // No agent was given a message twice, though four gateways died over them.
    let mut seen: Vec<_> = diary::lines(folder.path()).into_iter().map(|(_, content)| content).collect();
    seen.sort_unstable();
    let noted = book.sent.iter().enumerate().filter(|(_, (agent, _))| *agent == "noted");
    let mut noted: Vec<_> = noted.map(|(id, _)| format!("message {id}")).collect();
    noted.sort_unstable();
    assert_eq!(seen, noted, "each once");
    // The same id has the same reply.
    for id in [0, 1, 2, 3] {
        let before = book.replies[&id].clone();
        book.send(&mut client, id).await;
        let (_, end) = client.reply().await;
        assert_eq!(
            (end["id"].as_str(), end["content"]["content"].as_str()),
            (Some(&*id.to_string()), Some(&*before))
        );
    }
    stopped(&line, process, keeper, &agents);
}

/// `gateway stop` ends everything.
fn stopped(line: &Line, process: u32, keeper: u32, agents: &BTreeMap<String, u32>) {
    let output = openclaw(line.state(), &["gateway", "stop"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!alive(process), "the command waits for the gateway");
    until("keeper and agents have ended", || {
        (!alive(keeper) && agents.values().all(|&agent| !alive(agent))).then_some(())
    });
    assert!(!line.state().join("keeper.sock").exists() && !line.state().join("gateway.sock").exists());
}

/// While nobody is there, clients who connect wait, and are served by the gateway that comes; its agents are those of the
/// one before.
#[tokio::test]
async fn clients_wait_in_the_backlog() {
    let line = Line::new(&settings());
    let alone = ["--restart", "never", "--handover-timeout-ms", "600000"];
    let mut gateway = line.start(&alone);
    let agents = line.all_agents(4);
    let keeper = gateway.keeper().expect("a keeper");
    let url = gateway.url();
    gateway.signal(Signal::KILL);
    assert_eq!(gateway.wait().code(), None);
    // Connected as far as the kernel goes; the upgrade waits.
    let port = gateway.port();
    let (stream, waiting) = {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let url = url.clone();
        (stream, tokio::spawn(async move { Client::connect(&url).await }))
    };
    let next = line.start(&alone);
    assert_eq!(next.port(), port, "the free port that the first one took");
    let mut client = waiting.await.unwrap();
    client.say("words", "s", "m", "hello").await;
    assert_eq!(client.reply().await.1["content"]["content"], "HELLO");
    assert!(stream.peer_addr().is_ok());
    assert_eq!(line.agents(), agents);
    stopped(&line, next.process_id(), keeper, &agents);
}

/// `gateway restart` under load: somebody who connects again and again is never refused, messages are answered, and the
/// agents are the same processes.
#[tokio::test]
async fn a_restart_refuses_nobody() {
    let line = Line::new(&settings());
    let gateway = line.start(&["--restart", "never", "--handover-timeout-ms", "60000"]);
    let agents = line.all_agents(4);
    let keeper = gateway.keeper().expect("a keeper");
    let url = gateway.url();
    let mut process = gateway.process_id();
    let mut book = Book::default();
    let port = gateway.port();
    let done = Arc::new(tokio::sync::Notify::new());
    let probing = {
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let mut connected = 0u64;
            loop {
                tokio::select! {
                    () = done.notified() => return connected,
                    stream = tokio::net::TcpStream::connect(("127.0.0.1", port)) => {
                        stream.expect("nobody is refused");
                        connected += 1;
                        tokio::task::yield_now().await;
                    }
                }
            }
        })
    };
    for _ in 0..2 {
        let mut client = Client::connect(&url).await;
        for _ in 0..10 {
            for agent in ["echo", "words", "pool"] {
                book.send_new(&mut client, agent).await;
            }
        }
        let state = Arc::clone(&line.state);
        let restarting = tokio::task::spawn_blocking(move || asked(state.path(), &["gateway", "restart"]));
        assert_eq!(book.read_to_end(&mut client).await, Some(1001));
        let restarted = restarting.await.unwrap();
        assert_eq!(number(&restarted["from"]), process, "{restarted}");
        process = number(&restarted["to"]);
        assert_eq!(restarted["agentsAdopted"], 4);
        assert_eq!(line.agents(), agents);
        let mut client = Client::connect(&url).await;
        let open = book.open();
        for &id in &open {
            book.send(&mut client, id).await;
        }
        book.read(&mut client, open.len()).await;
        book.check();
    }
    done.notify_one();
    assert!(probing.await.unwrap() > 0);
    stopped(&line, process, keeper, &agents);
}

/// An agent that the configuration describes in another way than before, or no more, is ended; the others go on. With another
/// number of shards none goes on.
#[tokio::test]
async fn other_settings_mean_other_agents() {
    let line = Line::new(&settings());
    let alone = ["--restart", "never", "--handover-timeout-ms", "600000", "--shards"];
    let start = |shards: &'static str| line.start(&[&alone[..], &[shards]].concat());
    let end = |mut gateway: Gateway| {
        gateway.signal(Signal::KILL);
        gateway.wait();
    };
    let gateway = start("1");
    let (first, keeper) = (line.all_agents(4), gateway.keeper().expect("a keeper"));
    end(gateway);

    let mut other = settings();
    other["agents"]["entries"]["words"]["environment"] = json!({"LANGUAGE": "en"});
    other["agents"]["entries"]["pool"]["instances"] = json!(1);
    line.configure(&other);
    let gateway = start("1");
    let second = until("the new agents run, and the old ones do not", || {
        let agents = line.agents();
        let names: BTreeSet<_> = agents.keys().map(String::as_str).collect();
        (names == ["echo", "pool", "words"].into() && agents["words"] != first["words"]).then_some(agents)
    });
    assert_eq!(second["echo"], first["echo"], "it goes on");
    let mut client = Client::connect(&gateway.url()).await;
    for agent in ["echo", "words", "pool"] {
        client.say(agent, agent, "m", "x").await;
        assert_eq!(client.reply().await.1["type"], "message");
    }
    end(gateway);

    let gateway = start("2");
    let third = until("all agents are new", || {
        let agents = line.agents();
        (agents.len() == 3 && second.iter().all(|(name, process)| agents[name] != *process)).then_some(agents)
    });
    let mut client = Client::connect(&gateway.url()).await;
    client.say("echo", "s", "m", "x").await;
    assert_eq!(client.reply().await.1["type"], "message");
    stopped(&line, gateway.process_id(), keeper, &third);
}

/// A gateway whose configuration cannot be used any more refuses to restart, says why, and goes on.
#[tokio::test]
async fn a_restart_that_would_fail_is_refused() {
    let line = Line::new(&settings());
    let gateway = line.start(&["--restart", "always"]);
    line.configure(&json!({"gateway": {"edgeThreads": 17}}));
    let output = openclaw(line.state(), &["gateway", "restart"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("gateway.edgeThreads = 17") && said.contains("(refused)"), "{said}");
    // Nor can another gateway take the place of one that lives.
    line.configure(&settings());
    let second = Gateway::start_in(Arc::clone(&line.state), &[]).expect_err("there is one");
    assert!(second.stderr.contains("is used by another gateway"), "{}", second.stderr);
    let mut client = Client::connect(&gateway.url()).await;
    client.say("echo", "s", "m", "x").await;
    assert_eq!(client.reply().await.1["type"], "message");
    let keeper = gateway.keeper().expect("a keeper");
    stopped(&line, gateway.process_id(), keeper, &line.agents());
}

/// A gateway that is started again lives, although nobody reads any more what the first one's terminal got.
#[test]
fn nobody_need_read_what_a_gateway_says() {
    let line = Line::new(&settings());
    let mut first = Command::new(binary("openclaw"))
        .args(["gateway", "run", "--port", "0", "--restart", "always", "--state-dir"])
        .arg(line.state())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("listening on "), "{said}");
    let agents = line.all_agents(4);
    // Standard output is closed already.
    drop(first.stderr.take());
    let mut process = first.id();
    for _ in 0..2 {
        send_signal(process, Signal::KILL);
        let status = line.status_after(process);
        process = number(&status["processId"]);
        assert_eq!((line.agents(), &status["agents"]["adopted"]), (agents.clone(), &json!(4)));
    }
    first.wait().unwrap();
    let keeper = number(&asked(line.state(), &["gateway", "status"])["keeperProcessId"]);
    stopped(&line, process, keeper, &agents);
}

/// The end of its terminal ends no gateway: SIGHUP has it read its configuration, and it goes on with its agents.
#[test]
fn a_closed_terminal_ends_no_gateway() {
    let line = Line::new(&settings());
    let gateway = line.start(&["--restart", "always"]);
    let (agents, keeper) = (line.all_agents(4), gateway.keeper().expect("a keeper"));
    let mut other = settings();
    other["gateway"] = json!({"drainTimeoutMs": 1234});
    line.configure(&other);
    gateway.signal(Signal::HUP);
    until("the configuration is read", || {
        (asked(line.state(), &["gateway", "status"])["drainTimeoutMs"] == 1234).then_some(())
    });
    assert_eq!(line.agents(), agents);
    stopped(&line, gateway.process_id(), keeper, &agents);
}

/// `gateway stop` waits for replies as long as it is told, and reports what is left undone.
#[tokio::test]
async fn a_stop_waits_as_long_as_it_is_told() {
    let line = Line::new(&settings());
    let silent = ["--agent", "silent=sleep infinity", "--drain-timeout-ms", "600000"];
    let mut gateway = line.start(&silent);
    let mut client = Client::connect(&gateway.url()).await;
    client.say("silent", "s", "open", "x").await;
    client.send(&json!({"type": "status"})).await;
    assert_eq!(client.frame().await["type"], "status");
    let output = openclaw(line.state(), &["gateway", "stop", "--timeout-ms", "0"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (_, end) = client.reply().await;
    assert_eq!((end["id"].as_str(), end["content"]["code"].as_str()), (Some("open"), Some("shutting_down")));
    assert_eq!(gateway.wait().code(), Some(0));
    let output = openclaw(line.state(), &["gateway", "status"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no gateway runs in state directory"), "{said}");
}

/// A gateway that systemd has started says when it is up and when it goes down, and is not started again by its keeper; without systemd it is.
#[test]
fn systemd_is_told_and_does_the_restarts() {
    let line = Line::new(&settings());
    let path = line.state().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(binary("openclaw"));
    command.env("NOTIFY_SOCKET", &path).env("INVOCATION_ID", "0123");
    let auto = ["--restart", "auto"];
    let mut gateway = Gateway::start_as(command, Arc::clone(&line.state), &auto).unwrap();
    let heard = || {
        let mut word = [0; 64];
        let bytes = manager.recv(&mut word).unwrap();
        // The status follows.
        String::from_utf8_lossy(&word[..bytes]).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(heard(), "READY=1");
    let status = asked(line.state(), &["gateway", "status"]);
    assert_eq!(status["restartsAfterCrash"], false, "{status}");
    stopped(&line, gateway.process_id(), number(&status["keeperProcessId"]), &line.agents());
    assert_eq!(heard(), "STOPPING=1");
    gateway.wait();

    let mut command = Command::new(binary("openclaw"));
    command.env_remove("NOTIFY_SOCKET").env("INVOCATION_ID", "0123");
    let gateway = Gateway::start_as(command, Arc::clone(&line.state), &auto).unwrap();
    let status = asked(line.state(), &["gateway", "status"]);
    assert_eq!(status["restartsAfterCrash"], true, "{status}");
    stopped(&line, gateway.process_id(), number(&status["keeperProcessId"]), &line.agents());
}

/// Gateways that are killed at any moment of their start, 15 in a row, at seeded times: the one that is left in peace has the
/// agents of the first one, and each answers.
#[tokio::test]
async fn a_takeover_can_be_killed_at_any_moment() {
    const SEED: u64 = 15;
    const MICROSECONDS_MAX: u64 = 120_000;
    let mut random = fastrand::Rng::with_seed(SEED);
    let line = Line::new(&settings());
    let alone = ["--restart", "never", "--handover-timeout-ms", "600000"];
    let mut gateway = line.start(&alone);
    let agents = line.all_agents(4);
    let keeper = gateway.keeper().expect("a keeper");
    gateway.signal(Signal::KILL);
    gateway.wait();
    for _ in 0..15 {
        let mut next = Command::new(binary("openclaw"))
            .args(["gateway", "run", "--port", "0", "--state-dir"])
            .arg(line.state())
            .args(alone)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // How far it gets meanwhile is what varies; nothing is awaited.
        std::thread::park_timeout(Duration::from_micros(random.u64(..MICROSECONDS_MAX)));
        next.kill().unwrap();
        next.wait().unwrap();
    }
    let last = line.start(&alone);
    let mut client = Client::connect(&last.url()).await;
    for agent in ["echo", "words", "pool"] {
        for session in 0..4 {
            client.say(agent, &format!("{agent}-{session}"), "m", "x").await;
            assert_eq!(client.reply().await.1["type"], "message");
        }
    }
    assert_eq!((line.agents(), last.port()), (agents.clone(), gateway.port()));
    stopped(&line, last.process_id(), keeper, &agents);
}
