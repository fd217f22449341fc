//! Tests of the dialect: tables of frames in and out, and any bytes at all.

use proptest::prelude::*;
use serde_json::{Value, json};
use shm_transport::envelope::{BlockType, CONTENT_JSON, CONTENT_TEXT, DurabilityClass};

use super::*;
use crate::dialect::place::{Place, Standing};

fn said(text: &str) -> Said<'_> {
    parse(text).unwrap_or_else(|unread| panic!("{text}: {unread:?}")).said
}

fn message(payload: &Value) -> Message<'static> {
    let frame = json!({"type":"message_in","id":"1","payload":payload}).to_string();
    match said(Box::leak(frame.into_boxed_str())) {
        Said::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

/// Each field of a message has its meaning. By one row per field.
#[test]
fn messages_are_read() {
    let with = |name: &str, value: Value| {
        let mut payload = json!({"channel":"telegram","sender":"u","content":"hi"});
        payload[name] = value;
        message(&payload)
    };
    let plain = with("unknown", json!(1));
    assert_eq!(
        (plain.channel.as_ref(), plain.sender.as_ref(), plain.content.as_ref()),
        ("telegram", "u", "hi")
    );
    assert_eq!((plain.content_kind, plain.wishes.flags), (CONTENT_TEXT, FLAG_WANTS_ACK));
    assert_eq!((plain.wishes.mode, plain.wishes.priority), (SessionMode::Main, Priority::Normal));
    assert_eq!(with("content", json!([1])).content_kind, CONTENT_JSON);
    assert_eq!(with("agent", json!("words")).agent.as_deref(), Some("words"));
    assert_eq!(with("mode", json!("group")).wishes.mode, SessionMode::Group);
    assert_eq!(with("mode", json!("queue")).wishes.mode, SessionMode::Queue);
    let mentioned = with("is_direct_mention", json!(true)).wishes;
    assert_eq!((mentioned.flags, mentioned.priority), (FLAG_WANTS_ACK | FLAG_MENTION, Priority::High));
    assert_eq!(with("is_reply_to_agent", json!(true)).wishes.flags, FLAG_WANTS_ACK | FLAG_REPLY_TO_AGENT);
    let noted = with("metadata", json!({"priority":"low","requiresResponse":false}));
    assert_eq!((noted.wishes.priority, noted.wishes.flags), (Priority::Low, FLAG_WANTS_ACK));
    assert_eq!(noted.metadata, r#"{"priority":"low","requiresResponse":false}"#);
}

/// What is not for an agent is read as what it is. By one row per type.
#[test]
fn the_other_types_are_read() {
    let presence =
        r#"{"type":"presence","id":"1","payload":{"channel":"c","user_id":"u","status":"typing"}}"#;
    let status = PresenceStatus::Typing;
    assert_eq!(said(presence), Said::Presence { channel: "c".into(), user: "u".into(), status });
    let reaction = r#"{"type":"reaction","id":"1","payload":{"channel":"c","sender":"u","message_id":"m","reaction":"+1"}}"#;
    let expected =
        Said::Reaction { channel: "c".into(), user: "u".into(), message: "m".into(), reaction: "+1".into() };
    assert_eq!(said(reaction), expected);
    for (word, connected) in [("connected", true), ("disconnected", false)] {
        let frame =
            json!({"type":"channel_status","id":"1","payload":{"channel":"c","status":word}}).to_string();
        assert_eq!(said(&frame), Said::ChannelStatus { channel: "c".into(), connected });
    }
}

/// What breaks a rule is refused with the field at fault. By one row per rule.
#[test]
fn broken_rules_are_named() {
    for (frame, code, field) in [
        ("[]", Code::InvalidJson, None),
        ("{", Code::InvalidJson, None),
        (r#"{"type":"presence"}"#, Code::MissingField, Some("id")),
        (r#"{"id":"1"}"#, Code::MissingField, Some("type")),
        (r#"{"id":"1","type":"message"}"#, Code::UnknownType, Some("type")),
        (r#"{"id":"1","type":"presence"}"#, Code::MissingField, Some("payload")),
        (r#"{"id":"1","type":"presence","payload":[]}"#, Code::InvalidField, Some("payload")),
        (r#"{"id":"1","type":"presence","payload":{}}"#, Code::MissingField, Some("payload.channel")),
        (
            r#"{"id":"1","type":"presence","payload":{"channel":"c","sender":"u","status":"away"}}"#,
            Code::InvalidField,
            Some("payload.status"),
        ),
        (
            r#"{"id":"1","type":"channel_status","payload":{"channel":"c","status":"up"}}"#,
            Code::InvalidField,
            Some("payload.status"),
        ),
        (
            r#"{"id":"1","type":"message_in","payload":{"channel":"c","content":""}}"#,
            Code::MissingField,
            Some("payload.sender"),
        ),
        (
            r#"{"id":"1","type":"message_in","payload":{"channel":"c","sender":"u"}}"#,
            Code::MissingField,
            Some("payload.content"),
        ),
        (
            r#"{"id":"1","type":"message_in","payload":{"channel":"c","sender":"u","content":"","mode":"x"}}"#,
            Code::InvalidField,
            Some("payload.mode"),
        ),
        (
            r#"{"id":"1","type":"message_in","payload":{"channel":"c","sender":"u","content":"","is_direct_mention":1}}"#,
            Code::InvalidField,
            Some("payload.is_direct_mention"),
        ),
    ] {
        let refusal = parse(frame).expect_err(frame).refusal;
        assert_eq!((refusal.code, refusal.field), (code, field), "{frame}");
    }
    let deep = format!(r#"{{"id":"1","payload":{}"#, "[".repeat(100));
    assert_eq!(parse(&deep).expect_err("deep").refusal.code, Code::TooDeep);
}

/// Each frame is the envelope with its payload. By comparing all of them.
#[test]
fn frames_are_envelopes() {
    let mut labels = Vec::new();
    frames::write_labels(&mut labels, Some("i\"d"), Some("s"));
    let block = Standing { attempt: 2, index: 3, place: Place::of(4, 5).unwrap() };
    let check = |kind: &str, payload: Value, write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        let expected = json!({"type":kind,"id":"i\"d","session_id":"s","timestamp":7,"payload":payload});
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
    };
    check("message_ack", json!({"state":"accepted"}), &|out| {
        frames::write_ack(out, &labels, DurabilityClass::Default, false, 7);
    });
    check("message_ack", json!({"state":"accepted","durability":"durable","duplicate":true}), &|out| {
        frames::write_ack(out, &labels, DurabilityClass::Durable, true, 7);
    });
    for number in 0..9 {
        let block_type = BlockType::from_number(number).unwrap();
        let payload =
            json!({"block_id":"2-3","epoch":4,"offset":5,"block_type":block_type.name(),"content":"\n"});
        check("stream_block", payload, &|out| frames::write_block(out, &labels, block, block_type, "\n", 7));
    }
    for (block_type, status) in [(BlockType::ToolCall, "running"), (BlockType::ToolResult, "completed")] {
        let payload = json!({"block_id":"2-3","epoch":4,"offset":5,"status":status});
        check("tool_status", payload, &|out| frames::write_tool(out, &labels, block, block_type, 7));
    }
    let place = block.place;
    let end = json!({"epoch":4,"offset":5,"attempt":2});
    check("stream_end", end, &|out| frames::write_end(out, &labels, place, 2, 7));
    check("stream_end", json!({"attempt":2}), &|out| frames::write_end(out, &labels, Place::NONE, 2, 7));
    let gap = json!({"from":{"epoch":4,"offset":5},"to":{"epoch":0,"offset":0}});
    check("gap", gap, &|out| frames::write_gap(out, &labels, (place, Place::NONE), 7));
    let resumed = json!({"epoch":4,"offset":5,"open":["m"]});
    check("resumed", resumed, &|out| frames::write_resumed(out, &labels, place, b"\"m\"", 7));
    let refusal = Refusal {
        field: Some("f"),
        expected: Some("e"),
        retry_after_ms: 9,
        ..Refusal::new(Code::RateLimited, "no")
    };
    let payload = json!({"code":"rate_limited","message":"no","field":"f","expected":"e","retryable":true,
        "retry_after_ms":9});
    check("error", payload, &|out| frames::write_error(out, &labels, Place::NONE, &refusal, 7));
    let error = json!({"code":"unauthorized","message":"no","retryable":false});
    check("error", error, &|out| {
        frames::write_error(out, &labels, Place::NONE, &Refusal::new(Code::Unauthorized, "no"), 7)
    });
}

/// What one driver says is told to the others as it was said. By one row per type.
#[test]
fn relayed_frames_say_the_same() {
    for (frame, more) in [
        (
            json!({"type":"presence","id":"1","payload":{"channel":"c","user_id":"u","status":"idle"}}),
            Some(("last_seen", json!(7))),
        ),
        (
            json!({"type":"reaction","id":"1","payload":
                {"channel":"c","user_id":"u","message_id":"m","reaction":"+"}}),
            None,
        ),
        (json!({"type":"channel_status","id":"1","payload":{"channel":"c","status":"connected"}}), None),
    ] {
        let text = frame.to_string();
        let mut labels = Vec::new();
        frames::write_labels(&mut labels, Some("1"), None);
        let mut out = Vec::new();
        frames::write_relayed(&mut out, &labels, &said(&text), 7);
        let mut expected = frame;
        expected["timestamp"] = json!(7);
        if let Some((name, value)) = more {
            expected["payload"][name] = value;
        }
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);
    }
}

proptest! {
    /// Any text is read or refused. By random ones, some like frames.
    #[test]
    fn any_text_is_judged(text in r#"(\PC{0,40}|\{("(type|id|payload|session_id)":("message_in"|"presence"|\{\}|1|null),?){0,4}\})"#) {
        let _ = parse(&text);
    }
}
