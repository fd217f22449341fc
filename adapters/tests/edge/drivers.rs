//! The dialect of channel drivers.

use adapters::edge::EdgeOptions;
use serde_json::{Value, json};
use shm_transport::envelope::{BlockType, FailureCode};

use crate::support::{Frame, Gateway, Raw, Setup, until};

fn driver(address: std::net::SocketAddr) -> Raw {
    let mut client = Raw::connect(address);
    client
        .text(r#"{"type":"channel_status","id":"up","payload":{"channel":"telegram","status":"connected"}}"#);
    assert_eq!(client.json()["type"], "connected");
    assert_eq!(client.json(), frame("message_ack", "up", json!({"state":"accepted"})));
    client
}

fn frame(kind: &str, id: &str, payload: impl Into<Value>) -> Value {
    json!({"type":kind,"id":id,"payload":payload.into()})
}

/// A message is acknowledged, answered by a block of each type and an end; tools are told twice. By comparing all
/// frames.
#[test]
fn a_reply_is_streamed() {
    let gateway = Gateway::start(EdgeOptions::default(), |replies, text| {
        replies.accepted(1);
        replies.attempt(1);
        for number in 0..9 {
            replies.block(number, text);
        }
        replies.end("rest");
    });
    let mut client = driver(gateway.address);
    client.text(
        r#"{"type":"message_in","id":"m","session_id":"s","payload":{"channel":"telegram","sender":"u","content":"hi"}}"#,
    );
    let mut expect = |kind: &str, payload: Value| {
        let expected = json!({"type":kind,"id":"m","session_id":"s","payload":payload});
        assert_eq!(client.json(), expected);
    };
    expect("message_ack", json!({"state":"accepted","durability":"memory"}));
    for number in 0..9 {
        let block_type = BlockType::from_number(number).unwrap();
        let id = format!("1-{number}");
        expect("stream_block", json!({"block_id":id,"block_type":block_type.name(),"content":"hi"}));
        match block_type {
            BlockType::ToolCall => expect("tool_status", json!({"block_id":id,"status":"running"})),
            BlockType::ToolResult => expect("tool_status", json!({"block_id":id,"status":"completed"})),
            _ => {}
        }
    }
    expect("stream_block", json!({"block_id":"1-9","block_type":"text","content":"rest"}));
    expect("stream_end", json!({"attempt":1}));
    assert!(until("drained", || gateway.shared.drained().then_some(true)));
}

/// A session is a channel and a user, or in a group the channel; what the driver names is part of it. By what the
/// shard sees.
#[test]
fn sessions_are_told_apart() {
    let gateway = Gateway::start(EdgeOptions::default(), |replies, _| {
        let said = replies.said.unwrap();
        let key = format!("{}/{}/{} {}", said.channel, said.user, said.thread, said.mode);
        replies.accepted(0);
        replies.end(&key);
    });
    let mut client = driver(gateway.address);
    for (session, mode, expected) in [
        (None, "main", "telegram/u/ 0"),
        (Some("t"), "main", "telegram/u/t 0"),
        (None, "group", "telegram// 1"),
        (Some("t"), "group", "telegram//t 1"),
        (None, "queue", "telegram/u/ 2"),
    ] {
        let payload = json!({"channel":"telegram","sender":"u","content":"x","mode":mode});
        client
            .text(&json!({"type":"message_in","id":"m","session_id":session,"payload":payload}).to_string());
        assert_eq!(client.json()["type"], "message_ack");
        assert_eq!(client.json()["payload"]["content"], expected);
        assert_eq!(client.json()["type"], "stream_end");
    }
}

/// A message without a reply gets one error, and so does a frame that is not understood. By one of each.
#[test]
fn refusals_are_errors() {
    let gateway =
        Gateway::start(EdgeOptions { bad_frames_max: 1, ..EdgeOptions::default() }, |replies, _| {
            replies.failure(FailureCode::UnknownAgent as u16, "no agent a");
        });
    let mut client = driver(gateway.address);
    client.text(
        r#"{"type":"message_in","id":"m","payload":{"channel":"telegram","sender":"u","content":"hi"}}"#,
    );
    let payload =
        json!({"code":"unknown_agent","message":"no agent a","retryable":false,"retry_after_ms":250});
    assert_eq!(client.json(), frame("error", "m", payload));
    for _ in 0..2 {
        client.text(r#"{"type":"reaction","id":"r","payload":{"channel":"telegram"}}"#);
        let refused = client.json();
        assert_eq!((&refused["id"], &refused["payload"]["field"]), (&json!("r"), &json!("payload.sender")));
    }
    assert_eq!(client.next(), Frame::Close(1008));
}

/// What a driver says of its users reaches all other drivers, on all edges, and nobody else; a channel is connected as
/// long as a driver says so and is there. By drivers on two edges and one client that is none.
#[test]
fn drivers_hear_of_each_other() {
    let setup = Setup { edge_count: 2, ..Setup::default() };
    let gateway = Gateway::set_up(setup, |replies, text| replies.end(text));
    let mut bystander = Raw::connect(gateway.addresses[0]);
    bystander.say("1", "s", "x");
    assert_eq!(bystander.json()["type"], "message");
    let [mut here, mut there] = [0, 1].map(|index| driver(gateway.addresses[index]));
    // The second one's status has reached the first.
    assert_eq!(here.json()["type"], "channel_status");
    let presence = json!({"channel":"telegram","user_id":"u","status":"typing"});
    there.text(&frame("presence", "p", presence.clone()).to_string());
    assert_eq!(there.json(), frame("message_ack", "p", json!({"state":"accepted"})));
    let mut heard = here.json();
    assert!(heard["payload"].as_object_mut().unwrap().remove("last_seen").unwrap().is_u64());
    assert_eq!(heard, frame("presence", "p", presence));
    let reaction = json!({"channel":"telegram","user_id":"u","message_id":"m","reaction":"+1"});
    here.text(&frame("reaction", "r", reaction.clone()).to_string());
    assert_eq!(here.json()["type"], "message_ack");
    assert_eq!(there.json(), frame("reaction", "r", reaction));
    let channels = |client: &mut Raw| {
        client.text(r#"{"type":"status"}"#);
        client.json()["content"]["connected_channels"].clone()
    };
    assert_eq!(channels(&mut bystander), json!(["websocket", "telegram"]));
    drop(there);
    here.text(
        r#"{"type":"channel_status","id":"x","payload":{"channel":"telegram","status":"disconnected"}}"#,
    );
    assert_eq!(here.json()["type"], "message_ack");
    until("disconnected", || (channels(&mut bystander) == json!(["websocket"])).then_some(()));
}
