//! Requests that an agent answers, and what bodies and sockets of requests may take, with a shard that answers as each
//! test wants.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adapters::edge::{EdgeOptions, Phase};
use serde_json::{Value, json};
use shm_transport::envelope::{BlockType, FailureCode};
use shm_transport::link::Limits;

use crate::support::{self, Gateway, Setup, TOKEN, guarded, request, until};
use crate::{silent, start};

const TEXT: u8 = BlockType::Text as u8;

fn post(address: SocketAddr, headers: &str, body: &str) -> (String, TcpStream) {
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {address}\r\n{headers}");
    request(address, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()))
}

fn say(text: &str, stream: bool) -> String {
    json!({"model": "a", "stream": stream, "messages": [{"role": "user", "content": text}]}).to_string()
}

/// The head of the answer, and its body, which ends with the connection.
fn ask(gateway: &Gateway, body: &str) -> (String, String) {
    let (head, mut rest) = post(gateway.address, "Connection: close\r\n", body);
    let mut text = String::new();
    rest.read_to_string(&mut text).unwrap();
    (head, text)
}

fn asked(gateway: &Gateway, text: &str) -> (u16, Value) {
    let (head, body) = ask(gateway, &say(text, false));
    let body = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), body)
}

/// The data of all events of a stream.
fn events(body: &str) -> Vec<&str> {
    body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

/// The text of a stream, and its last event.
fn told(body: &str) -> (String, &str) {
    let events = events(body);
    let chunk = |event: &&str| serde_json::from_str::<Value>(event).ok();
    let texts = events.iter().filter_map(chunk);
    let text =
        texts.filter_map(|chunk| Some(chunk.pointer("/choices/0/delta/content")?.as_str()?.to_owned()));
    (text.collect(), events.last().copied().unwrap_or_default())
}

/// What an agent says is the answer, whole or piece by piece; what is no text is not. By both.
#[test]
fn an_agent_answers() {
    let gateway = start(|replies, text| {
        replies.accepted(0);
        replies.block(TEXT, text);
        replies.block(BlockType::ToolCall as u8, "tool");
        replies.end(" 🦞");
    });
    let (status, answer) = asked(&gateway, "hi");
    assert_eq!((status, &answer["object"]), (200, &json!("chat.completion")));
    assert_eq!(answer["choices"][0]["message"]["content"], "hi 🦞");
    assert_eq!(answer["usage"], json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}));
    let (head, body) = ask(&gateway, &say("hi", true));
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    assert_eq!(told(&body), ("hi 🦞".to_owned(), "[DONE]"));
    assert!(events(&body).len() >= 5, "role, two texts, the end and [DONE]: {body}");
    until("closed", || (gateway.shared.sum(|stats| &stats.connections) == 0).then_some(()));
    assert!(gateway.shared.drained());
}

/// What is refused before an answer begins has a status, whole or not, and says when to come again. One row each.
#[test]
fn refusals_have_a_status() {
    let gateway = start(|replies, text| {
        let number = text.parse::<u16>().unwrap();
        replies.failure(number, "why");
    });
    for (failure, status, code) in [
        (FailureCode::Overloaded, 429, "overloaded"),
        (FailureCode::UnknownAgent, 404, "model_not_found"),
        (FailureCode::AgentUnavailable, 503, "agent_unavailable"),
        (FailureCode::AgentError, 502, "agent_error"),
    ] {
        for stream in [false, true] {
            let (head, body) = ask(&gateway, &say(&(failure as u16).to_string(), stream));
            assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
            assert!(
                head.contains("retry-after: 1\r\n") && head.contains("retry-after-ms: 250\r\n"),
                "{head}"
            );
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&body["error"]["code"], &body["error"]["message"]), (&json!(code), &json!("why")));
        }
    }
}

/// A reply that is begun anew replaces the one before it, as long as nothing of that was sent. By two attempts, with and
/// without text in the first.
#[test]
fn a_second_attempt_replaces_the_first() {
    let gateway = start(|replies, text| {
        replies.accepted(0);
        replies.attempt(1);
        if text == "said" {
            replies.block(TEXT, "lost");
        }
        replies.attempt(2);
        replies.block(TEXT, "kept");
        replies.end("");
    });
    for text in ["said", "silent"] {
        assert_eq!(asked(&gateway, text).1["choices"][0]["message"]["content"], "kept");
    }
    let (_, body) = ask(&gateway, &say("silent", true));
    assert_eq!(told(&body), ("kept".to_owned(), "[DONE]"));
    let (_, body) = ask(&gateway, &say("said", true));
    let (text, last) = told(&body);
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!((text.as_str(), &last["error"]["code"]), ("lost", &json!("agent_died")));
}

/// A client that goes cancels its message, whether it waits for all of the answer or reads it. By the word of the shard,
/// which comes for nobody.
#[test]
fn a_client_that_goes_cancels() {
    let gateway = start(|replies, text| {
        if text == "speak" {
            replies.accepted(0);
            replies.block(TEXT, text);
        }
    });
    let mut thinking = TcpStream::connect(gateway.address).unwrap();
    let body = say("think", false);
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\n", gateway.address);
    write!(thinking, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    until("open", || (gateway.shared.sum(|stats| &stats.open_turns) == 1).then_some(()));
    drop(thinking);
    until("cancelled", || (gateway.shared.sum(|stats| &stats.late) == 1).then_some(()));
    let (_, mut speaking) = post(gateway.address, "", &say("speak", true));
    let mut text = Vec::new();
    until("heard", || {
        let mut piece = [0u8; 1024];
        let count = speaking.read(&mut piece).unwrap();
        text.extend_from_slice(&piece[..count]);
        String::from_utf8_lossy(&text).contains("speak").then_some(())
    });
    assert_eq!(gateway.shared.sum(|stats| &stats.open_turns), 1);
    drop(speaking);
    until("cancelled", || (gateway.shared.sum(|stats| &stats.late) == 2).then_some(()));
    assert_eq!(gateway.shared.sum(|stats| &stats.open_turns), 0);
}

/// A client that hears nothing for long is sent comments and kept, however long its agent thinks. By short intervals.
#[test]
fn a_client_that_waits_is_sent_comments() {
    let options = EdgeOptions { ping_interval: Duration::from_millis(40), ..EdgeOptions::default() };
    let gateway = Gateway::start(options, |replies, _| replies.accepted(0));
    let (_, mut client) = post(gateway.address, "", &say("x", true));
    let mut text = Vec::new();
    until("kept for many intervals", || {
        let mut piece = [0u8; 1024];
        let count = client.read(&mut piece).unwrap();
        assert!(count > 0, "closed after {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..count]);
        (String::from_utf8_lossy(&text).matches(": working").count() >= 6).then_some(())
    });
    assert_eq!(gateway.shared.sum(|stats| &stats.open_turns), 1);
}

/// A socket on which nothing is asked any more is closed. By one request and a short time.
#[test]
fn idle_sockets_are_closed() {
    let options = EdgeOptions { head_timeout: Duration::from_millis(50), ..EdgeOptions::default() };
    let gateway = Gateway::start(options, silent);
    let (head, mut rest) =
        request(gateway.address, &format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut body = String::new();
    rest.read_to_string(&mut body).unwrap();
    assert!(body.starts_with(r#"{"ok":true,"status":"live"}"#), "{body}");
}

/// A gateway that ends tells those who wait: by a status, or by an event.
#[test]
fn the_end_of_the_gateway_is_told() {
    for stream in [false, true] {
        let mut gateway = start(|replies, _| replies.accepted(0));
        let (address, body) = (gateway.address, say("x", stream));
        let client = std::thread::spawn(move || {
            let (head, mut rest) = post(address, "", &body);
            let mut text = String::new();
            // The connection may end without a goodbye once all is said.
            let _ = rest.read_to_string(&mut text);
            (head, text)
        });
        until("open", || (gateway.shared.sum(|stats| &stats.open_turns) == 1).then_some(()));
        gateway.phase.send_replace(Phase::Draining);
        until("refused", || ask(&gateway, &say("late", false)).0.starts_with("HTTP/1.1 503").then_some(()));
        gateway.phase.send_replace(Phase::Closing);
        gateway.join().unwrap();
        let (head, text) = client.join().unwrap();
        assert!(head.starts_with(if stream { "HTTP/1.1 200" } else { "HTTP/1.1 503" }), "{head}");
        assert!(text.contains("shutting_down") && !text.contains("[DONE]"), "{text}");
    }
}

/// A client that does not read its stream is given up, and its message with it. By an agent that says much.
#[test]
fn a_reader_that_is_too_slow_is_given_up() {
    let options = EdgeOptions {
        outbound_bytes_max: 64 * 1024,
        reply_bytes_max: 32 * 1024 * 1024,
        slow_grace: Duration::from_millis(50),
        ping_interval: Duration::from_millis(100),
        ..EdgeOptions::default()
    };
    let gateway = Gateway::start(options, |replies, _| {
        replies.accepted(0);
        // More than the buffers of a socket take.
        for _ in 0..400 {
            replies.block(TEXT, &"x".repeat(60 * 1024));
        }
        replies.end("");
    });
    let (head, mut rest) = post(gateway.address, "", &say("x", true));
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    until("given up", || (gateway.shared.sum(|stats| &stats.slow_closed) == 1).then_some(()));
    until("gone", || (gateway.shared.sum(|stats| &stats.sockets) == 0).then_some(()));
    assert_eq!(gateway.shared.sum(|stats| &stats.connections), 0);
    let mut text = String::new();
    let _ = rest.read_to_string(&mut text);
    assert!(!text.contains("[DONE]"));
}

/// No room in the rings is said at once, with a time. By a shard that takes nothing.
#[test]
fn full_rings_are_busy() {
    static GO: AtomicBool = AtomicBool::new(false);
    let limits = Limits { backlog_bytes_max: 600 * 1024, ..Limits::default() };
    let gateway = Gateway::start_over(limits, EdgeOptions::default(), |replies, _| {
        until("go", || GO.load(Ordering::Acquire).then_some(()));
        replies.end("");
    });
    let text = "x".repeat(500 * 1024);
    let mut waiting = Vec::new();
    let busy = until("busy", || {
        let body = say(&text, false);
        let mut client = TcpStream::connect(gateway.address).unwrap();
        client.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\n", gateway.address);
        write!(client, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let before = gateway.shared.sum(|stats| &stats.received);
        let mut first = [0u8; 1];
        client.set_nonblocking(true).unwrap();
        let is_refused = until("taken or refused", || {
            let is_taken = gateway.shared.sum(|stats| &stats.received) > before;
            let is_refused = client.peek(&mut first).is_ok();
            (is_taken || is_refused).then_some(is_refused)
        });
        client.set_nonblocking(false).unwrap();
        waiting.push(client);
        is_refused.then(|| waiting.pop()).flatten()
    });
    let mut busy = busy;
    let mut answer = [0u8; 600];
    let count = busy.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1\r\n"), "{answer}");
    GO.store(true, Ordering::Release);
}

/// A body has a size, a time, and nobody's is read. By one that is told to be too large, one that never comes, and one
/// without a token.
#[test]
fn bodies_are_limited() {
    let options = EdgeOptions { body_timeout: Duration::from_millis(50), ..EdgeOptions::default() };
    let access = guarded();
    let gateway = Gateway::set_up(Setup { options, access, ..Setup::default() }, silent);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let line = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\n", gateway.address);
    for (headers, status) in [
        (format!("{bearer}Content-Length: 20971521\r\n"), "413"),
        (format!("{bearer}Content-Length: 20971520\r\n"), "408"),
        (format!("{bearer}Transfer-Encoding: chunked\r\n"), "408"),
        ("Content-Length: 20971520\r\n".to_owned(), "401"),
        (format!("{bearer}Content-Length: 0\r\n"), "400"),
    ] {
        let (head, mut rest) = request(gateway.address, &format!("{line}{headers}\r\n"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {head}");
        if status != "400" {
            let mut body = String::new();
            // What was not read makes the end of the connection abrupt.
            let _ = rest.read_to_string(&mut body);
            assert!(body.contains("\"error\""), "{headers}: {body}");
        }
    }
    until("closed", || (gateway.shared.sum(|stats| &stats.sockets) <= 1).then_some(()));
    let text = "x".repeat(EdgeOptions::default().message_bytes_max + 1);
    let body = say(&text, false);
    let (head, _) = post(gateway.address, &bearer, &body);
    assert!(head.starts_with("HTTP/1.1 413") || head.starts_with("HTTP/1.1 408"), "{head}");
}

/// A peer that asks and takes no answer is given up. By asking for more pages than fit into the buffers of a socket.
#[test]
fn a_peer_that_takes_nothing_is_given_up() {
    let options = EdgeOptions { ping_interval: Duration::from_millis(50), ..EdgeOptions::default() };
    let gateway = Gateway::start(options, silent);
    let mut client = TcpStream::connect(gateway.address).unwrap();
    let asked = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address).repeat(900);
    client.write_all(asked.as_bytes()).unwrap();
    until("there", || (gateway.shared.sum(|stats| &stats.sockets) == 1).then_some(()));
    until("gone", || (gateway.shared.sum(|stats| &stats.sockets) == 0).then_some(()));
}

/// Requests that come at once are answered in their order, and the last that a socket may have ends it. By one more.
#[test]
fn requests_of_a_socket_are_limited() {
    let gateway = start(silent);
    let asked = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address).repeat(1001);
    let (first, mut rest) = request(gateway.address, &asked);
    let mut text = String::new();
    let _ = rest.read_to_string(&mut text);
    assert_eq!(first.matches("HTTP/1.1 200").count() + text.matches("HTTP/1.1 200").count(), 1000);
    assert_eq!(text.matches("connection: close").count(), 1);
}
