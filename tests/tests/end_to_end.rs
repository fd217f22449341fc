//! The whole path with real processes: client, gateway, keeper, agent host, agent, and back.

use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::client::{Client, Received};
use tests::process::{Gateway, alive, configure, processes, send_signal, until};
use tests::{binary, workspace};

/// Both runtimes; io_uring only where the kernel allows it, which is said.
fn runtimes() -> Vec<&'static str> {
    match Gateway::start(&["--runtime", "uring"]) {
        Ok(_) => vec!["uring", "epoll"],
        Err(refused) => {
            assert!(refused.stderr.contains("io_uring is refused here"), "{}", refused.stderr);
            println!("not run with io_uring: {}", refused.stderr.trim());
            vec!["epoll"]
        }
    }
}

fn streaming_agent() -> String {
    format!("words=python3 {}", workspace().join("examples/streaming_agent.py").display())
}

fn code(frame: &Value) -> &str {
    frame["content"]["code"].as_str().unwrap_or_default()
}

/// A message goes to the built-in agent and back, in both runtimes, with one shard and with several, whose
/// agents then live elsewhere than some of the sessions.
#[tokio::test]
async fn a_message_comes_back() {
    for runtime in runtimes() {
        for shards in ["1", "3"] {
            let gateway = Gateway::start(&["--runtime", runtime, "--shards", shards]).unwrap();
            let mut client = Client::connect(&gateway.url()).await;
            for number in 0..40 {
                let (session, id) = (format!("s-{number}"), format!("m-{number}"));
                let text = format!("hello {number} 🦞 \"quoted\"\n");
                client.say("echo", &session, &id, &text).await;
                let (_, end) = client.reply().await;
                assert_eq!(
                    [&end["type"], &end["id"], &end["agent"], &end["sessionId"], &end["content"]],
                    [
                        &json!("message"),
                        &json!(id),
                        &json!("echo"),
                        &json!(session),
                        &json!({"role": "assistant", "content": text})
                    ],
                    "{runtime} {shards}"
                );
            }
        }
    }
}

/// Messages of every size up to the limit come back whole, in fragments through rings smaller than they are.
#[tokio::test]
async fn large_messages_come_back_whole() {
    let gateway = Gateway::start(&[]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    for bytes in [1, 8_000, 8_200, 65_536, 300_000, 1_000_000] {
        let text: String = "0123456789abcdef".chars().cycle().take(bytes).collect();
        client.say("echo", "large", &bytes.to_string(), &text).await;
        let (_, end) = client.reply().await;
        assert_eq!(end["content"]["content"].as_str().map(str::len), Some(bytes));
        assert!(end["content"]["content"] == text);
    }
}

/// What the kernel says of a process under this name, as a number.
fn told(process: u32, file: &str, names: &[&str]) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap();
    let found = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| names.contains(name));
    found.map(|(_, value)| value.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Hosts do without huge pages, so that one which has nothing to do takes less than 3 MB that it shares with nobody; what a
/// host runs may have them, and is not told.
#[test]
fn hosts_are_small() {
    let gateway = Gateway::start(&["--agent", &streaming_agent()]).unwrap();
    let hosts = until("both agents run", || Some(gateway.agents()).filter(|agents| agents.len() == 2));
    let command = until("the command runs", || {
        processes().into_iter().find(|process| {
            hosts.iter().any(|host| host.1 == process.parent) && process.arguments[0].contains("python3")
        })
    });
    for (name, host) in hosts {
        assert_eq!(told(host, "status", &["THP_enabled"]), 0, "{name}");
        let private_kib = told(host, "smaps_rollup", &["Private_Clean", "Private_Dirty"]);
        assert!(private_kib < 3_000_000 / 1024, "{name}: {private_kib} KiB");
    }
    assert_eq!(told(command.process_id, "status", &["THP_enabled"]), 1);
    assert_eq!(command.variable("MIMALLOC_ALLOW_THP"), None);
    assert!(command.variable("PATH").is_some(), "its variables can be read");
}

/// Any command that reads and writes JSON lines is an agent: its blocks stream, its reply is closed once.
#[tokio::test]
async fn a_command_streams_its_reply() {
    for runtime in runtimes() {
        let gateway = Gateway::start(&["--runtime", runtime, "--agent", &streaming_agent()]).unwrap();
        let mut client = Client::connect(&gateway.url()).await;
        client.say("words", "s", "m", "one two three").await;
        let (blocks, end) = client.reply().await;
        assert!(blocks.len() >= 2, "{blocks:?}");
        let streamed: String =
            blocks.iter().filter_map(|block| block["content"]["content"].as_str()).collect();
        let whole = end["content"]["content"].as_str().unwrap();
        assert!(whole.starts_with(&streamed) && !streamed.is_empty(), "{streamed:?} {whole:?}");
        assert_eq!(end["type"], "message");
    }
}

/// The messages of a session are answered in the order of sending, also by an agent in another process.
#[tokio::test]
async fn a_session_is_answered_in_order() {
    let gateway = Gateway::start(&["--agent", &streaming_agent()]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    for number in 0..50 {
        let agent = if number % 2 == 0 { "echo" } else { "words" };
        client.say(agent, "one session", &number.to_string(), "a b").await;
    }
    for number in 0..50 {
        let (_, end) = client.reply().await;
        assert_eq!(end["id"], number.to_string());
    }
}

/// Every kind of bad input is answered by name, and nobody else notices.
#[tokio::test]
async fn bad_input_is_named() {
    let gateway = Gateway::start(&[]).unwrap();
    let mut other = Client::connect(&gateway.url()).await;
    let mut client = Client::connect(&gateway.url()).await;
    let deep = format!(
        "{{\"type\":\"message\",\"agent\":\"echo\",\"content\":{}1{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let rows = [
        ("not json at all", "invalid_json", None),
        ("[1,2]", "invalid_json", None),
        ("{\"type\":\"dance\"}", "unknown_type", Some("type")),
        ("{\"type\":\"cancel\"}", "missing_field", Some("id")),
        ("{\"type\":\"cancel\",\"id\":\"never sent\"}", "unknown_id", Some("id")),
        ("{\"type\":\"message\",\"agent\":\"echo\"}", "missing_field", Some("content")),
        ("{\"type\":\"message\",\"agent\":\"nobody\",\"content\":\"x\"}", "unknown_agent", None),
        (&deep, "too_deep", None),
    ];
    for (text, expected, field) in rows {
        client.send_raw(text.into()).await;
        let frame = client.frame().await;
        assert_eq!((frame["type"].as_str(), code(&frame)), (Some("error"), expected), "{frame}");
        if let Some(field) = field {
            assert_eq!(frame["content"]["field"], field, "{frame}");
        }
    }
    client.send_raw(vec![b'x'; 2 * 1024 * 1024].into()).await;
    assert_eq!(client.receive().await, Received::Closed(Some(1009)));
    other.say("echo", "s", "m", "still here").await;
    assert_eq!(other.reply().await.1["content"]["content"], "still here");
}

/// `kill -9` of an agent's command: what it had in hand is answered by its successor, and so is the next message.
#[tokio::test]
async fn a_killed_agent_is_replaced() {
    // Does nothing in its first life, and answers in the others.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("agent");
    let agent = streaming_agent();
    let (_, command) = agent.split_once('=').unwrap();
    let lived = folder.path().join("lived");
    let text = format!("mkdir {} 2>/dev/null && exec sleep infinity\nexec {command}\n", lived.display());
    std::fs::write(&script, text).unwrap();
    let config = folder.path().join("openclaw.json");
    let shown = json!([{"source": workspace().join("examples")}]);
    let sandbox = json!({"workspace": folder.path(), "binds": shown});
    let silent = json!({"silent": {"command": ["sh", script], "sandbox": sandbox}});
    configure(folder.path(), &json!({"agents": {"entries": silent}}));
    let gateway = Gateway::start(&["--agent", &agent, "--config", config.to_str().unwrap()]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("words", "s", "before", "a").await;
    assert_eq!(client.reply().await.1["type"], "message");

    client.say("silent", "t", "in hand", "x").await;
    let host = until("the silent agent runs", || {
        gateway.agents().into_iter().find(|(name, _)| name == "silent").map(|(_, process)| process)
    });
    let command = until("its command runs", || {
        processes().into_iter().find(|process| process.parent == host).map(|process| process.process_id)
    });
    until("it does nothing", || lived.is_dir().then_some(()));
    send_signal(command, Signal::KILL);
    let (_, end) = client.reply().await;
    assert_eq!((end["id"].as_str(), end["type"].as_str()), (Some("in hand"), Some("message")), "{end}");

    let host = gateway.agents().into_iter().find(|(name, _)| name == "words").unwrap().1;
    send_signal(host, Signal::KILL);
    until("its successor runs", || {
        gateway.agents().into_iter().find(|(name, process)| name == "words" && *process != host)
    });
    client.say("words", "s", "after", "b").await;
    assert_eq!(client.reply().await.1["type"], "message");
}

/// A command that exits at once is quarantined, and messages to it are refused with the reason; others
/// are answered.
#[tokio::test]
async fn a_crash_loop_is_quarantined() {
    let gateway = Gateway::start(&["--agent", "broken=false"]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    let mut number = 0;
    let end = loop {
        number += 1;
        client.say("broken", "s", &number.to_string(), "x").await;
        let (_, end) = client.reply().await;
        if code(&end) != "dead_lettered" {
            break end;
        }
    };
    assert_eq!(code(&end), "agent_unavailable", "{end}");
    let text = end["content"]["message"].as_str().unwrap();
    assert!(text.contains("\"broken\"") && text.contains("exit status 1"), "{text}");
    client.say("echo", "s", "m", "x").await;
    assert_eq!(client.reply().await.1["type"], "message");
}

/// Ctrl-C answers what is open, ends agents and keeper, leaves no socket behind, and exits with 0.
#[tokio::test]
async fn ctrl_c_leaves_nothing_behind() {
    for runtime in runtimes() {
        let patient = ["--runtime", runtime, "--agent", &streaming_agent(), "--drain-timeout-ms", "60000"];
        let mut gateway = Gateway::start(&patient).unwrap();
        let mut client = Client::connect(&gateway.url()).await;
        for number in 0..100 {
            client.say("words", &format!("s-{number}"), &number.to_string(), "a b c").await;
        }
        let agents = until("both agents run", || Some(gateway.agents()).filter(|agents| agents.len() == 2));
        let keeper = gateway.keeper().expect("a keeper");
        // Frames are taken in order: once this is answered, all hundred messages have been accepted.
        client.send(&json!({"type": "status"})).await;
        let mut ended = 0;
        loop {
            let frame = client.frame().await;
            match frame["type"].as_str() {
                Some("status") => break,
                Some("message") => ended += 1,
                _ => assert_eq!(frame["type"], "event", "{frame}"),
            }
        }
        gateway.signal(Signal::INT);
        let close = loop {
            match client.receive().await {
                Received::Frame(frame) if frame["type"] == "event" => {}
                Received::Frame(frame) => {
                    assert_eq!(frame["type"], "message", "{frame}");
                    ended += 1;
                }
                Received::Closed(code) => break code,
            }
        };
        assert_eq!((ended, close), (100, Some(1001)));
        assert_eq!(gateway.wait().code(), Some(0));
        assert!(!alive(keeper), "the keeper has ended");
        assert!(agents.iter().all(|&(_, agent)| !alive(agent)), "the agents have ended");
        assert!(!gateway.state().join("keeper.sock").exists(), "the control socket is gone");
    }
}

/// A message that nobody answers keeps a gateway that is going down, until it is told a second time; then
/// the message is reported. New ones are refused meanwhile.
#[tokio::test]
async fn a_second_signal_ends_the_waiting() {
    let forever = ["--agent", "silent=sleep infinity", "--drain-timeout-ms", "600000"];
    let mut gateway = Gateway::start(&forever).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("silent", "s", "open", "x").await;
    client.send(&json!({"type": "status"})).await;
    assert_eq!(client.frame().await["type"], "status");
    gateway.signal(Signal::TERM);
    let mut number = 0;
    let refused = loop {
        // Until the edge has heard of it, messages are accepted.
        number += 1;
        client.say("echo", "t", &number.to_string(), "x").await;
        let (_, end) = client.reply().await;
        if end["type"] == "error" {
            break end;
        }
    };
    assert_eq!((refused["id"].as_str(), code(&refused)), (Some(&*number.to_string()), "shutting_down"));
    gateway.signal(Signal::TERM);
    let (_, end) = client.reply().await;
    assert_eq!((end["id"].as_str(), code(&end)), (Some("open"), "shutting_down"));
    assert_eq!(client.receive().await, Received::Closed(Some(1001)));
    assert_eq!(gateway.wait().code(), Some(0));
}

/// Without the keeper's program beside its own, the gateway does not start, and says which file is missing and what
/// builds it.
#[test]
fn a_missing_keeper_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("openclaw");
    std::fs::copy(binary("openclaw"), &alone).unwrap();
    let state = Arc::new(tempfile::tempdir().unwrap());
    let Err(refused) = Gateway::start_as(Command::new(&alone), state, &[]) else { panic!("it starts") };
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let missing = format!("the keeper {} is missing", folder.path().join("openclaw-keeper").display());
    for fact in [&*missing, "cargo build --release --package keeper"] {
        assert!(refused.stderr.contains(fact), "{fact} is not in: {}", refused.stderr);
    }
}

/// `kill -9` of the gateway leaves no agent and no keeper behind, and a new gateway starts in its place.
#[tokio::test]
async fn a_killed_gateway_leaves_no_orphans() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let mut gateway = Gateway::start_in(Arc::clone(&state), &["--agent", &streaming_agent()]).unwrap();
    let agents = until("both agents run", || Some(gateway.agents()).filter(|agents| agents.len() == 2));
    let keeper = gateway.keeper().expect("a keeper");
    gateway.signal(Signal::KILL);
    assert_eq!(gateway.wait().code(), None);
    until("the keeper has ended", || (!alive(keeper)).then_some(()));
    until("the agents have ended", || agents.iter().all(|&(_, agent)| !alive(agent)).then_some(()));

    let next = Gateway::start_in(state, &[]).unwrap();
    let mut client = Client::connect(&next.url()).await;
    client.say("echo", "s", "m", "hello").await;
    assert_eq!(client.reply().await.1["content"]["content"], "hello");
}

/// A command that runs the gateway on a kernel that refuses io_uring; `None` where there is no strace.
fn without_io_uring() -> Option<std::process::Command> {
    let mut command = std::process::Command::new("strace");
    // -D: the gateway, not strace, is the child that the test waits for and ends.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup"]);
    command.args(["-e", "inject=io_uring_setup:error=EPERM"]).arg(tests::binary("openclaw"));
    let there = std::process::Command::new("strace").arg("-V").output().is_ok();
    there.then_some(command)
}

/// Where io_uring is refused, `auto` runs on epoll and says why, and `uring` says so and exits.
#[tokio::test]
async fn refused_io_uring_falls_back_to_epoll() {
    let Some(command) = without_io_uring() else {
        return println!("not run: strace is not installed");
    };
    let state = Arc::new(tempfile::tempdir().unwrap());
    let gateway = Gateway::start_as(command, state, &["--runtime", "auto"]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    client.send(&json!({"type": "status"})).await;
    assert_eq!(client.frame().await["content"]["runtime"], "epoll");
    client.say("echo", "s", "m", "hello").await;
    assert_eq!(client.reply().await.1["content"]["content"], "hello");

    let command = without_io_uring().unwrap();
    let refused = Gateway::start_as(command, Arc::new(tempfile::tempdir().unwrap()), &["--runtime", "uring"]);
    let refused = refused.expect_err("io_uring is refused");
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("io_uring is refused here (io_uring_setup: "), "{}", refused.stderr);
}

/// What cannot start says so in one line that names the thing, and exits with 1.
#[tokio::test]
async fn what_cannot_start_says_why() {
    let running = Gateway::start(&[]).unwrap();
    let port = running.port().to_string();
    let rows: [(&[&str], &str); 5] = [
        (&["--port", &port], "is taken"),
        (&["--host", "0.0.0.0"], "gateway.host = 0.0.0.0"),
        (
            &["--agent", "gone=no-such-program-here"],
            "agents.entries.gone.command[0] = \"no-such-program-here\"",
        ),
        (&["--shards", "0"], "engine.shards = 0"),
        (&["--config", "/no/such/file"], "/no/such/file"),
    ];
    for (arguments, expected) in rows {
        let refused = Gateway::start(arguments).expect_err(expected);
        assert_eq!(refused.status.code(), Some(1), "{expected}");
        assert!(refused.stderr.contains(expected), "{expected}: {}", refused.stderr);
    }
}

/// A hundred agents at once, each a process of its own, each answering.
#[tokio::test]
async fn a_hundred_agents_answer() {
    let state = tempfile::tempdir().unwrap();
    let entries: serde_json::Map<_, _> = (0..100)
        .map(|number| {
            let command = json!({"command": ["python3", workspace().join("examples/streaming_agent.py")]});
            (format!("agent-{number}"), command)
        })
        .collect();
    let config = json!({"agents": {"entries": entries}});
    configure(state.path(), &config);
    let gateway = Gateway::start_in(Arc::new(state), &[]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    for number in 0..100 {
        let agent = format!("agent-{number}");
        client.say(&agent, &agent, &agent, "x y").await;
    }
    let mut answered: Vec<String> = Vec::new();
    for _ in 0..100 {
        let (_, end) = client.reply().await;
        assert_eq!(end["type"], "message", "{end}");
        answered.push(end["id"].as_str().unwrap().to_owned());
    }
    answered.sort();
    answered.dedup();
    assert_eq!(answered.len(), 100);
}
