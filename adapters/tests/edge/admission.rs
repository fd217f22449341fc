//! Who is let in, and what a connection speaks.

use std::io::Read;
use std::time::Duration;

use adapters::edge::EdgeOptions;
use serde_json::json;

use crate::support::{
    Frame, Gateway, Raw, Replies, Setup, TOKEN, UPGRADE, by_token, guarded, request, until,
};

fn echo(replies: &mut Replies<'_>, text: &str) {
    if replies.said.is_some_and(|said| said.flags & shm_transport::envelope::FLAG_WANTS_ACK != 0) {
        replies.accepted(0);
    }
    replies.end(text);
}

fn protected(options: EdgeOptions) -> Gateway {
    Gateway::set_up(Setup { options, access: guarded(), ..Setup::default() }, echo)
}

const SIMPLE: &str = r#"{"type":"message","id":"1","agent":"a","sessionId":"s","content":"hi"}"#;
const DRIVER: &str =
    r#"{"type":"message_in","id":"1","payload":{"channel":"telegram","sender":"u","content":"hi"}}"#;

/// The first frame decides what a connection speaks, and the other dialects are not understood after it. By
/// a connection of each.
#[test]
fn the_first_frame_decides() {
    let gateway = Gateway::start(EdgeOptions::default(), echo);
    let mut simple = Raw::connect(gateway.address);
    simple.text(SIMPLE);
    assert_eq!(simple.json()["content"]["content"], "hi");
    simple.text(DRIVER);
    assert_eq!(simple.json()["content"]["code"], "unknown_type");
    let mut driver = Raw::connect(gateway.address);
    driver.text(DRIVER);
    assert_eq!(driver.json()["type"], "connected");
    for expected in ["message_ack", "stream_block", "stream_end"] {
        assert_eq!(driver.json()["type"], expected);
    }
    driver.text(SIMPLE);
    assert_eq!(driver.json()["payload"]["code"], "unknown_type");
    // What is not understood decides nothing.
    let mut late = Raw::connect(gateway.address);
    late.text("nonsense");
    assert_eq!(late.json()["content"]["code"], "invalid_json");
    late.text(DRIVER);
    assert_eq!(late.json()["type"], "connected");
}

/// Without credentials each dialect is refused in its own words and closed. By one first frame of each kind.
#[test]
fn nothing_is_served_without_credentials() {
    let gateway = protected(EdgeOptions::default());
    for (frame, pointer, code) in [
        (SIMPLE, "/content/code", 4001),
        (r#"{"type":"status"}"#, "/content/code", 4001),
        (DRIVER, "/payload/code", 4001),
        (r#"{"type":"resume","sessionId":"s"}"#, "/content/code", 4001),
        (r#"{"type":"resume","id":"r","payload":{"channel":"c","sender":"u"}}"#, "/payload/code", 4001),
        (r#"{"type":"auth"}"#, "/payload/code", 4001),
        (r#"{"type":"auth","token":"wrong"}"#, "/payload/code", 4001),
        ("nonsense", "/content/code", 1008),
        (r#"{"type":"unheard"}"#, "/content/code", 1008),
    ] {
        let mut client = Raw::connect(gateway.address);
        client.text(frame);
        let refused = client.json();
        assert_eq!(refused["type"], "error");
        assert_eq!(refused.pointer(pointer).unwrap(), "unauthorized", "{frame}");
        assert_eq!(client.next(), Frame::Close(code), "{frame}");
    }
    until("closed", || (gateway.shared.sum(|stats| &stats.connections) == 0).then_some(()));
    assert_eq!(gateway.shared.sum(|stats| &stats.received), 0);
}

/// A secret lets a client in wherever it may be shown, and both dialects are served then. By one client for each
/// place and dialect.
#[test]
fn a_secret_is_shown_at_the_upgrade_or_in_a_frame() {
    let gateway = protected(EdgeOptions::default());
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let protocols = format!("Sec-WebSocket-Protocol: openclaw.v1, bearer.{TOKEN}\r\n");
    let auth = json!({"type":"auth","token":TOKEN}).to_string();
    for (headers, frame) in [(&*bearer, None), (&*protocols, None), ("", Some(&*auth))] {
        for (message, answers) in
            [(SIMPLE, vec!["message"]), (DRIVER, vec!["message_ack", "stream_block", "stream_end"])]
        {
            let (head, mut client) = Raw::connect_showing(gateway.address, headers);
            let echoed = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
            assert_eq!(echoed, headers.starts_with("Sec").then_some("openclaw.v1"), "{head}");
            assert!(!head.contains(TOKEN), "{head}");
            if let Some(frame) = frame {
                client.text(frame);
            }
            let connected = client.json();
            assert_eq!(connected["type"], "connected");
            assert!(connected["payload"]["client_id"].is_string() && connected["id"].is_string());
            client.text(message);
            for answer in answers {
                assert_eq!(client.json()["type"], answer);
            }
        }
    }
}

/// A wrong secret is refused at the upgrade, and after a few the source has to wait; the right one is let in all the
/// same. By counting the answers.
#[test]
fn wrong_secrets_are_refused_and_counted() {
    let gateway = protected(EdgeOptions::default());
    let ask = |headers: &str| {
        let address = gateway.address;
        let text = format!("GET / HTTP/1.1\r\nHost: {address}\r\n{headers}{UPGRADE}\r\n");
        request(address, &text).0.to_lowercase()
    };
    let mut statuses = Vec::new();
    for number in 0..7 {
        let head = ask(&format!("Authorization: Bearer wrong-{number}\r\n"));
        statuses.push(head[9..12].to_owned());
        if head.starts_with("http/1.1 429") {
            assert!(head.contains("retry-after: "), "{head}");
        } else {
            assert!(head.contains("www-authenticate: bearer"), "{head}");
        }
    }
    assert_eq!(statuses, ["401", "401", "401", "401", "401", "429", "429"]);
    // A field proves nothing, neither by being there nor by another name.
    assert!(ask("Authorization: Basic eDp5\r\n").starts_with("http/1.1 401"));
    assert!(ask("Authorization: Bearer \r\n").starts_with("http/1.1 401"));
    assert!(ask(&format!("Authorization: Bearer {TOKEN}\r\n")).starts_with("http/1.1 101"));
}

/// A secret in the address lets nobody in, also beside one that would, and is told to be in the wrong place. By upgrades
/// with one.
#[test]
fn a_secret_in_the_address_is_refused() {
    let gateway = protected(EdgeOptions::default());
    let address = gateway.address;
    for headers in [String::new(), format!("Authorization: Bearer {TOKEN}\r\n")] {
        let text = format!("GET /?token={TOKEN} HTTP/1.1\r\nHost: {address}\r\n{headers}{UPGRADE}\r\n");
        let (head, mut rest) = request(address, &text);
        assert!(head.starts_with("HTTP/1.1 400"), "{head}");
        let mut body = [0u8; 120];
        rest.read_exact(&mut body).unwrap();
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains("secret_in_address") && !body.contains(TOKEN), "{body}");
    }
}

/// Who does not say who it is, is closed in time; who has said so, and who is not asked, stays. By three clients and
/// a short time.
#[test]
fn admission_has_a_deadline() {
    let options = EdgeOptions { admission_timeout: Duration::from_millis(100), ..EdgeOptions::default() };
    let gateway = protected(options.clone());
    let mut known = Raw::connect(gateway.address);
    known.text(&json!({"type":"auth","token":TOKEN}).to_string());
    assert_eq!(known.json()["type"], "connected");
    let mut unknown = Raw::connect(gateway.address);
    assert_eq!(unknown.next(), Frame::Close(1008));
    known.text(SIMPLE);
    assert_eq!(known.json()["type"], "message");
    let open = Gateway::start(options, echo);
    let mut first = Raw::connect(open.address);
    // The clock of that edge has ticked as often when a second such client is closed.
    let mut unknown = Raw::connect(gateway.address);
    assert_eq!(unknown.next(), Frame::Close(1008));
    first.text(SIMPLE);
    assert_eq!(first.json()["type"], "message");
}

/// A source has some places for those who have not said who they are, and gets them back. By filling them.
#[test]
fn unknown_clients_of_one_source_are_few() {
    let gateway = protected(EdgeOptions { unauthenticated_per_source_max: 2, ..EdgeOptions::default() });
    let address = gateway.address;
    let mut first = Raw::connect(address);
    let _second = Raw::connect(address);
    let ask = || request(address, &format!("GET / HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}\r\n")).0;
    assert!(ask().starts_with("HTTP/1.1 429"));
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let (_, mut known) = Raw::connect_showing(address, &bearer);
    assert_eq!(known.json()["type"], "connected");
    // One that is let in gives its place to the next.
    first.text(&json!({"type":"auth","token":TOKEN}).to_string());
    assert_eq!(first.json()["type"], "connected");
    let third = Raw::connect(address);
    assert!(ask().starts_with("HTTP/1.1 429"));
    drop(third);
    until("a place", || ask().starts_with("HTTP/1.1 101").then_some(()));
}

/// Before a client is let in, its frames may have 64 KiB; after that, as much as all. By frames on both sides of the
/// limit, whole and in fragments.
#[test]
fn frames_of_unknown_clients_are_small() {
    let gateway = protected(EdgeOptions::default());
    let auth = |bytes: usize| {
        let frame = json!({"type":"auth","token":TOKEN,"x":""}).to_string();
        frame.replace("\"x\":\"\"", &format!("\"x\":\"{}\"", "x".repeat(bytes - frame.len())))
    };
    let mut fits = Raw::connect(gateway.address);
    fits.text(&auth(65_536));
    assert_eq!(fits.json()["type"], "connected");
    let long = json!({"type":"message","id":"1","content":"x".repeat(500_000)}).to_string();
    fits.text(&long);
    assert_eq!(fits.json()["content"]["content"].as_str().map(str::len), Some(500_000));
    for size in [65_537, 80_000, 500_000] {
        let mut large = Raw::connect(gateway.address);
        large.text(&auth(size));
        assert_eq!(large.next(), Frame::Close(1009), "{size}");
    }
    let mut fragments = Raw::connect(gateway.address);
    fragments.frame(0x01, &[b' '; 30_000]);
    for _ in 0..2 {
        fragments.frame(0x00, &[b' '; 30_000]);
    }
    assert_eq!(fragments.next(), Frame::Close(1009));
}

/// A new secret ends what was let in by the old one, idle or not, and the old one is refused from then on. By changing
/// it under a client of each dialect.
#[test]
fn a_new_secret_ends_old_connections() {
    let access = guarded();
    let setup = Setup { access: access.clone(), ..Setup::default() };
    let gateway = Gateway::set_up(setup, echo);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    let mut clients: Vec<_> = [SIMPLE, DRIVER, ""]
        .into_iter()
        .map(|first| {
            let (_, mut client) = Raw::connect_showing(gateway.address, &bearer);
            assert_eq!(client.json()["type"], "connected");
            client.text(if first.is_empty() { SIMPLE } else { first });
            until("answered", || {
                matches!(client.json()["type"].as_str(), Some("message" | "stream_end")).then_some(())
            });
            client
        })
        .collect();
    let unknown = Raw::connect(gateway.address);
    access.change(&by_token(&TOKEN.replace('0', "f")));
    for client in &mut clients {
        assert_eq!(client.next(), Frame::Close(4001));
    }
    let address = gateway.address;
    let text = format!("GET / HTTP/1.1\r\nHost: {address}\r\n{bearer}{UPGRADE}\r\n");
    assert!(request(address, &text).0.starts_with("HTTP/1.1 401"));
    // Whom nobody has let in loses nothing.
    let mut unknown = unknown;
    unknown.text(&json!({"type":"auth","token":TOKEN.replace('0', "f")}).to_string());
    assert_eq!(unknown.json()["type"], "connected");
}

/// Where nobody is asked for anything, a proxy on this machine is not let in for whoever comes to it. By each header that
/// proxies add, and none.
#[test]
fn a_proxy_is_not_this_machine() {
    let gateway = Gateway::start(EdgeOptions::default(), |replies, text| replies.end(text));
    for (header, status) in [
        ("", "101"),
        ("Accept: x\r\n", "101"),
        ("Forwarded: for=192.0.2.7\r\n", "401"),
        ("Via: 1.1 here\r\n", "401"),
        ("X-Forwarded-For: 127.0.0.1\r\n", "401"),
        ("X-Forwarded-Host: localhost\r\n", "401"),
        ("X-Forwarded-Proto: https\r\n", "401"),
        ("X-Forwarded-Port: 443\r\n", "401"),
        ("x-real-ip: 127.0.0.1\r\n", "401"),
    ] {
        let text = format!("GET / HTTP/1.1\r\nHost: {}\r\n{header}{UPGRADE}\r\n", gateway.address);
        let (head, _stream) = request(gateway.address, &text);
        assert_eq!(head.split(' ').nth(1), Some(status), "{header}");
    }
}
