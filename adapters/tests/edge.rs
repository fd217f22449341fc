//! The edge over real sockets, with a shard that answers as each test wants.

#[path = "edge/admission.rs"]
mod admission;
#[path = "edge/completions.rs"]
mod completions;
#[path = "edge/conformance.rs"]
mod conformance;
#[path = "edge/connections.rs"]
mod connections;
#[path = "edge/drivers.rs"]
mod drivers;
#[path = "edge/openclaw.rs"]
mod openclaw;
mod support;
#[path = "edge/wishes.rs"]
mod wishes;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use adapters::client::{self, ClientError};
use adapters::edge::{EdgeOptions, Phase};
use serde_json::json;
use shm_transport::envelope::{BlockType, FailureCode};
use shm_transport::link::Limits;
use support::{Frame, Gateway, Raw, Replies, UPGRADE, request, until};

/// Answers with a block and an empty end.
fn echo(replies: &mut Replies<'_>, text: &str) {
    replies.block(BlockType::Text as u8, text);
    replies.end("");
}

/// Does not answer.
fn silent(_: &mut Replies<'_>, _: &str) {}

fn start(answer: support::Answer) -> Gateway {
    Gateway::start(EdgeOptions::default(), answer)
}

fn closing(id: &str, session: &str, text: &str) -> serde_json::Value {
    json!({"type":"message","id":id,"agent":"a","sessionId":session,
        "content":{"role":"assistant","content":text}})
}

/// A message is answered by its blocks and one closing frame with the whole text. By comparing all frames
/// of a reply of every kind of block.
#[test]
fn a_reply_is_streamed_and_closed() {
    let gateway = start(|replies, text| {
        replies.block(BlockType::Text as u8, text);
        replies.block(BlockType::ToolCall as u8, "tool");
        replies.block(BlockType::Markdown as u8, " \"and\" ");
        replies.end("end");
    });
    let mut client = Raw::connect(gateway.address);
    client.say("1", "s", "hello 🦞");
    let texts = [("text", "hello 🦞"), ("tool_call", "tool"), ("markdown", " \"and\" ")];
    for (index, (kind, text)) in texts.into_iter().enumerate() {
        let expected = json!({"type":"event","event":"block","id":"1","agent":"a","sessionId":"s",
            "content":{"blockType":kind,"index":index,"content":text}});
        assert_eq!(client.json(), expected);
    }
    assert_eq!(client.json(), closing("1", "s", "hello 🦞 \"and\" end"));
    assert!(until("drained", || gateway.shared.drained().then_some(true)));
    assert_eq!(gateway.shared.sum(|stats| &stats.received), 1);
    assert_eq!(gateway.shared.sum(|stats| &stats.answered), 1);
}

/// Replies of two connections in one session stay with their connection and in order. By many messages of
/// each, in flight at once.
#[test]
fn connections_do_not_mix_and_order_is_kept() {
    const COUNT: usize = 500;
    let gateway = start(echo);
    let mut clients = [Raw::connect(gateway.address), Raw::connect(gateway.address)];
    for number in 0..COUNT {
        for (index, client) in clients.iter_mut().enumerate() {
            client.say(&number.to_string(), "shared", &format!("{index}-{number}"));
        }
    }
    for number in 0..COUNT {
        for (index, client) in clients.iter_mut().enumerate() {
            let text = format!("{index}-{number}");
            assert_eq!(client.json()["content"]["content"], text);
            assert_eq!(client.json(), closing(&number.to_string(), "shared", &text));
        }
    }
}

/// A message without session gets one of its connection, and one without id gets no id back. By sending
/// such messages over two connections.
#[test]
fn session_and_id_are_optional() {
    let gateway = start(|replies, _| replies.end("x"));
    let session = |client: &mut Raw| {
        client.text(r#"{"type":"message","agent":"a","content":"x"}"#);
        let reply = client.json();
        assert_eq!(reply.get("id"), None);
        reply["sessionId"].as_str().unwrap().to_string()
    };
    let (mut first, mut second) = (Raw::connect(gateway.address), Raw::connect(gateway.address));
    let name = session(&mut first);
    assert!(name.starts_with("conn-0-"), "{name}");
    assert_eq!(session(&mut first), name);
    assert_ne!(session(&mut second), name);
}

/// Refusals of the shard, acceptance and bad frames become the frames of the dialect. By one row each.
#[test]
fn errors_and_acceptance_are_told() {
    let gateway = start(|replies, text| match text {
        "fail" => replies.failure(FailureCode::UnknownAgent as u16, "no agent a"),
        "busy" => replies.failure(FailureCode::Overloaded as u16, "full"),
        "late" => {
            replies.accepted(0);
            replies.failure(FailureCode::AgentDied as u16, "it died");
        }
        _ => {
            replies.accepted(0);
            replies.end("nobody reads this");
        }
    });
    let mut client = Raw::connect(gateway.address);
    client.say("1", "s", "fail");
    assert_eq!(
        client.json(),
        json!({"type":"error","id":"1","agent":"a","sessionId":"s","content":
            {"code":"unknown_agent","message":"no agent a","retryable":false,"retryAfterMs":250}})
    );
    client.say("2", "s", "busy");
    assert_eq!(client.json()["content"]["retryable"], true);
    client.text(
        r#"{"type":"message","id":"3","agent":"a","sessionId":"s","content":"x","metadata":{"requiresResponse":false}}"#,
    );
    assert_eq!(
        client.json(),
        json!({"type":"status","id":"3","agent":"a","sessionId":"s","content":{"state":"accepted"}})
    );
    // A failure after the acceptance is told all the same.
    client.text(
        r#"{"type":"message","id":"5","agent":"a","sessionId":"s","content":"late","metadata":{"requiresResponse":false}}"#,
    );
    assert_eq!(client.json()["type"], "status");
    assert_eq!(client.json()["content"]["code"], "agent_died");
    client.text(r#"{"type":"message","id":"4"}"#);
    assert_eq!(
        client.json(),
        json!({"type":"error","id":"4","content":{"code":"missing_field","message":"content is missing",
            "field":"content","expected":"a string, an object or another JSON value","retryable":false}})
    );
    client.text(&"[".repeat(10_000));
    assert_eq!(client.json()["content"]["code"], "too_deep");
    client.text(r#"{"type":"status","id":"5"}"#);
    let status = client.json();
    assert_eq!((&status["type"], &status["id"]), (&json!("status"), &json!("5")));
    assert_eq!(status["content"]["connected_channels"], json!(["websocket"]));
}

/// A later attempt replaces the text of an earlier one, and what an earlier one still says is dropped. By
/// a reply of two attempts.
#[test]
fn a_later_attempt_replaces_the_text() {
    let gateway = start(|replies, _| {
        replies.attempt(1);
        replies.block(0, "lost");
        replies.attempt(2);
        replies.block(0, "kept");
        replies.attempt(1);
        replies.end("late");
        replies.attempt(2);
        replies.end("!");
    });
    let mut client = Raw::connect(gateway.address);
    client.say("1", "s", "x");
    assert_eq!(client.json()["content"]["content"], "lost");
    assert_eq!(client.json()["content"]["index"], 1);
    assert_eq!(client.json(), closing("1", "s", "kept!"));
    assert_eq!(gateway.shared.sum(|stats| &stats.late), 1);
}

/// A failure of no attempt is the gateway's own word and ends a reply of any attempt, though an agent's of an earlier
/// one does not; the class and the duplicate bit of an acceptance are not taken for an attempt. By one reply of each.
#[test]
fn the_gateways_own_failure_is_not_late() {
    let gateway = start(|replies, _| {
        // Where a block has its attempt, an acceptance has words, and all have a place in a stream.
        replies.accepted(256 | 2);
        replies.attempt(2);
        replies.block(0, "some");
        replies.attempt(1);
        replies.failure(FailureCode::AgentDied as u16, "an earlier attempt");
        replies.attempt(0);
        replies.failure(FailureCode::JournalFailed as u16, "nothing can be kept");
    });
    let mut client = Raw::connect(gateway.address);
    client.text(
        r#"{"type":"message","id":"1","agent":"a","sessionId":"s","content":"x","metadata":{"ack":true}}"#,
    );
    let accepted = json!({"state": "accepted", "durability": "durable", "duplicate": true});
    assert_eq!(client.json()["content"], accepted);
    assert_eq!(client.json()["content"]["content"], "some");
    let failed = client.json();
    assert_eq!((&failed["type"], &failed["content"]["code"]), (&json!("error"), &json!("journal_failed")));
    assert!(until("drained", || gateway.shared.drained().then_some(true)));
    assert_eq!(gateway.shared.sum(|stats| &stats.late), 1);
}

/// Each way to break the protocol is answered with its close code, and no other connection notices. By one
/// row per way.
#[test]
fn broken_connections_are_closed_with_the_reason() {
    let gateway = start(echo);
    let mut bystander = Raw::connect(gateway.address);
    let large = vec![b'x'; 2 * 1024 * 1024];
    let ways: [(u8, &[u8], u16); 6] = [
        (0x81, &large, 1009),
        (0x81, b"\xff\xfe", 1007),
        (0x82, b"binary", 1003),
        (0xf1, b"reserved bits", 1002),
        (0x80, b"nothing to continue", 1002),
        (0x88, &[0x03, 0xe8], 1000),
    ];
    for (first, payload, code) in ways {
        let mut client = Raw::connect(gateway.address);
        client.frame(first, payload);
        assert_eq!(client.next(), Frame::Close(code), "{first:x}");
        assert_eq!(client.next(), Frame::End);
        bystander.say("1", "s", "still here");
        bystander.json();
        assert_eq!(bystander.json(), closing("1", "s", "still here"));
    }
    until("closed", || (gateway.shared.sum(|stats| &stats.connections) == 1).then_some(()));
}

/// A connection that sends nothing but nonsense is closed after its budget. By counting the answers.
#[test]
fn nonsense_has_a_budget() {
    let gateway = Gateway::start(EdgeOptions { bad_frames_max: 5, ..EdgeOptions::default() }, echo);
    let mut client = Raw::connect(gateway.address);
    for _ in 0..6 {
        client.text("nonsense");
    }
    for _ in 0..6 {
        assert_eq!(client.json()["content"]["code"], "invalid_json");
    }
    assert_eq!(client.next(), Frame::Close(1008));
}

/// Open turns are limited per connection. By filling the table of a shard that does not answer.
#[test]
fn open_turns_are_limited() {
    let gateway = Gateway::start(EdgeOptions { open_turns_max: 2, ..EdgeOptions::default() }, silent);
    let mut client = Raw::connect(gateway.address);
    for id in ["1", "2", "3"] {
        client.say(id, "s", "x");
    }
    let refused = client.json();
    assert_eq!((&refused["id"], &refused["content"]["code"]), (&json!("3"), &json!("overloaded")));
    assert_eq!(refused["content"]["retryAfterMs"], 100);
    drop(client);
    until("forgotten", || (gateway.shared.sum(|stats| &stats.open_turns) == 0).then_some(()));
}

/// A reply of four MiB arrives whole although the queue is smaller, and one byte more is an error. By a
/// shard that streams it.
#[test]
fn large_replies_arrive() {
    const PIECE: usize = 256 * 1024;
    let gateway = start(|replies, text| {
        let piece = "x".repeat(PIECE);
        for _ in 0..16 {
            replies.block(0, &piece);
        }
        replies.end(if text == "more" { "y" } else { "" });
    });
    let mut client = Raw::connect(gateway.address);
    for (request, code) in [("fits", None), ("more", Some("too_large"))] {
        client.say("1", "s", request);
        for _ in 0..16 {
            assert_eq!(client.json()["content"]["content"].as_str().map(str::len), Some(PIECE));
        }
        let last = client.json();
        assert_eq!(last["content"]["code"].as_str(), code);
        if code.is_none() {
            assert_eq!(last["content"]["content"].as_str().map(str::len), Some(16 * PIECE));
        }
    }
}

/// A shard that does not keep up stops the client and loses nothing, not even with pings unanswered. By
/// holding the shard until no more goes in, and counting the replies after that.
#[test]
fn a_slow_shard_stops_the_client() {
    const COUNT: usize = 3000;
    static GO: AtomicBool = AtomicBool::new(false);
    let options = EdgeOptions {
        open_turns_max: COUNT,
        ping_interval: Duration::from_millis(100),
        ..EdgeOptions::default()
    };
    let limits = Limits { backlog_bytes_max: 2 * 1024 * 1024, ..Limits::default() };
    let gateway = Gateway::start_over(limits, options, |replies, text| {
        until("go", || GO.load(Ordering::Acquire).then_some(()));
        replies.end(&text[..8]);
    });
    let mut client = Raw::connect(gateway.address);
    let writer = Arc::new(Mutex::new(Raw { stream: client.stream.try_clone().unwrap() }));
    let shared_writer = Arc::clone(&writer);
    let text = "x".repeat(8 * 1024);
    let writing = std::thread::spawn(move || {
        for number in 0..COUNT {
            let text = format!("{number:08}{text}");
            shared_writer.lock().unwrap().say(&number.to_string(), "s", &text);
        }
    });
    // Two intervals of silence would close it, if it were the client's fault.
    let (mut seen, mut since) = (0, Instant::now());
    until("stopped", || {
        let received = gateway.shared.sum(|stats| &stats.received);
        if received != seen {
            (seen, since) = (received, Instant::now());
        }
        (received > 0 && since.elapsed() > Duration::from_millis(500)).then_some(())
    });
    assert!(seen < COUNT as u64 / 2, "{seen}");
    GO.store(true, Ordering::Release);
    for number in 0..COUNT {
        let reply = until("reply", || match client.next() {
            Frame::Ping => {
                // A writer that holds it is heard by what it writes.
                if let Ok(mut writer) = writer.try_lock() {
                    writer.frame(0x8a, b"");
                }
                None
            }
            frame => Some(frame),
        });
        assert_eq!(reply, Frame::Json(closing(&number.to_string(), "s", &format!("{number:08}"))));
    }
    writing.join().unwrap();
    assert_eq!(gateway.shared.sum(|stats| &stats.refused), 0);
}

/// A socket that asks nothing is closed. By a short limit.
#[test]
fn a_request_must_come_in_time() {
    let options = EdgeOptions { head_timeout: Duration::from_millis(50), ..EdgeOptions::default() };
    let gateway = Gateway::start(options, echo);
    let (answer, _) = request(gateway.address, "GET / HTTP/1.1\r\n");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    until("closed", || (gateway.shared.sum(|stats| &stats.sockets) == 0).then_some(()));
}

/// A client that does not read is closed with 1013 once it holds more than its share, and only it. By
/// asking for much and reading late.
#[test]
fn slow_readers_are_closed() {
    let options = EdgeOptions {
        outbound_bytes_max: 64 * 1024,
        slow_grace: Duration::from_millis(50),
        ..EdgeOptions::default()
    };
    let gateway = Gateway::start(options, |replies, text| match text {
        "much" => (0..15).for_each(|_| replies.block(0, &"x".repeat(256 * 1024))),
        _ => replies.end(text),
    });
    let (mut slow, mut quick) = (Raw::connect(gateway.address), Raw::connect(gateway.address));
    for _ in 0..4 {
        slow.say("1", "s", "much");
    }
    until("closed", || (gateway.shared.sum(|stats| &stats.slow_closed) == 1).then_some(()));
    quick.say("2", "s", "here");
    assert_eq!(quick.json(), closing("2", "s", "here"));
    let end = until("gone", || match slow.next() {
        Frame::Json(_) => None,
        end => Some(end),
    });
    assert_eq!(end, Frame::Close(1013));
}

/// A client that does not answer pings is closed, one that does is not. By two clients and short intervals.
#[test]
fn silent_clients_are_closed() {
    let options = EdgeOptions { ping_interval: Duration::from_millis(100), ..EdgeOptions::default() };
    let gateway = Gateway::start(options, echo);
    let (mut dead, mut alive) = (Raw::connect(gateway.address), Raw::connect(gateway.address));
    for _ in 0..6 {
        assert_eq!(alive.next(), Frame::Ping);
        alive.frame(0x8a, b"");
    }
    let closed = until("closed", || match dead.next() {
        Frame::Ping => None,
        end => Some(end),
    });
    assert_eq!(closed, Frame::Close(1008));
}

/// While draining, new messages and connections are refused and open turns go on; closing reports the rest
/// and says 1001. By a shard that answers late and one turn that never ends.
#[test]
fn draining_finishes_and_closing_reports() {
    let mut gateway = start(|replies, text| {
        if text != "never" {
            replies.end(text);
        }
    });
    let mut client = Raw::connect(gateway.address);
    client.say("1", "s", "never");
    until("taken", || (gateway.shared.sum(|stats| &stats.received) == 1).then_some(()));
    gateway.phase.send_replace(Phase::Draining);
    let refused = until("refused", || {
        client.say("2", "s", "late");
        let answer = client.json();
        (answer["type"] == "error").then_some(answer)
    });
    assert_eq!((&refused["id"], &refused["content"]["code"]), (&json!("2"), &json!("shutting_down")));
    assert!(!gateway.shared.drained());
    gateway.phase.send_replace(Phase::Closing);
    let reported = client.json();
    assert_eq!((&reported["id"], &reported["content"]["code"]), (&json!("1"), &json!("shutting_down")));
    assert_eq!(client.next(), Frame::Close(1001));
    drop(client);
    gateway.join().unwrap();
    assert!(gateway.shared.drained());
    assert_eq!(gateway.shared.sum(|stats| &stats.connections), 0);
}

/// Requests get the right status, and the upgrade is refused to pages from elsewhere. By one row each.
#[test]
fn http_answers_by_path_and_origin() {
    let gateway = Gateway::start(EdgeOptions { connections_max: 1, ..EdgeOptions::default() }, echo);
    let address = gateway.address;
    let _only = Raw::connect(address);
    until("connected", || (gateway.shared.sum(|stats| &stats.connections) == 1).then_some(()));
    let local = format!("Host: {address}\r\n");
    for (line, headers, status) in [
        ("GET /healthz", local.clone(), "200"),
        ("GET /nothing", local.clone(), "404"),
        ("POST /health", local.clone(), "405"),
        ("GET /", local.clone(), "200"),
        ("GET /", format!("{local}{UPGRADE}"), "503"),
        ("GET /", format!("{local}{UPGRADE}").replace("dGhl", "dGh"), "400"),
        ("GET /", format!("{local}{UPGRADE}").replace("13", "8"), "426"),
        ("GET /", format!("{local}Origin: http://evil.example\r\n{UPGRADE}"), "403"),
        ("GET /", format!("{local}Origin: http://127.0.0.1.evil.example\r\n{UPGRADE}"), "403"),
        ("GET /health", "Host: rebound.example\r\n".into(), "403"),
    ] {
        let (head, _) = request(address, &format!("{line} HTTP/1.1\r\n{headers}\r\n"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{line} {headers}: {head}");
    }
    let (_, mut rest) =
        request(address, &format!("GET /health HTTP/1.1\r\n{local}Connection: close\r\n\r\n"));
    let mut body = String::new();
    rest.read_to_string(&mut body).unwrap();
    let expected = json!({"ok":true,"status":"healthy","uptime_seconds":1,"connected_channels":["websocket"],
        "active_sessions":2,"queued_messages":3,"registered_tools":4,"memory_usage_mb":5,"pid":6,"version":"v",
        "runtime":"none","shards":1,"agents":[]});
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), expected);
}

/// The command line's client gets replies, refusals and health, and says what to do when nobody answers.
/// By asking for each.
#[test]
fn the_client_talks_to_the_edge() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gateway = start(|replies, text| match text {
        "fail" => replies.failure(FailureCode::UnknownAgent as u16, "no agent"),
        text => {
            replies.block(0, text);
            replies.end("!");
        }
    });
    let url = gateway.url();
    runtime.block_on(async {
        let mut blocks = Vec::new();
        let reply =
            client::send(&url, None, "a", Some("s"), "hi \"you\"", |text| blocks.push(text.to_string()))
                .await;
        let reply = reply.unwrap();
        assert_eq!((reply.text.as_str(), reply.session.as_deref()), ("hi \"you\"!", Some("s")));
        assert_eq!(blocks, ["hi \"you\""]);
        let refused = client::send(&url, None, "a", None, "fail", |_| {}).await.unwrap_err();
        assert!(
            matches!(&refused, ClientError::Refused { code, .. } if code == "unknown_agent"),
            "{refused}"
        );
        assert!(client::health(&url).await.unwrap().contains("\"status\":\"healthy\""));
        assert!(matches!(client::health("nonsense").await, Err(ClientError::Address { .. })));
    });
    drop(gateway);
    let refused = runtime.block_on(client::send(&url, None, "a", None, "x", |_| {})).unwrap_err().to_string();
    assert!(refused.contains(&url) && refused.contains("openclaw gateway run"), "{refused}");
}
