//! Tests of the dialect: a table of frames, the depth limit, and any bytes at all.

use proptest::prelude::*;
use serde_json::Value;
use shm_transport::envelope::{
    BlockType, DurabilityClass, FLAG_ACTIVATE, FLAG_DEACTIVATE, FLAG_MENTION, FLAG_NO_REPLY,
    FLAG_REPLY_TO_AGENT, FLAG_WANTS_ACK, FailureCode, Priority, SessionMode,
};

use super::*;
use crate::dialect::fields::DEPTH_MAX;
use crate::dialect::place::Standing;

fn message(text: &str) -> Message<'_> {
    match parse(text) {
        Ok(Request::Message(message)) => message,
        other => panic!("{text}: {other:?}"),
    }
}

/// Each form of content is read as text or kept as JSON. By comparing one row per form.
#[test]
fn content_is_text_or_json() {
    for (content, expected, kind) in [
        (r#""hi""#, "hi", CONTENT_TEXT),
        (r#""""#, "", CONTENT_TEXT),
        (r#""a\n\u00e9\ud83e\udd9e""#, "a\né🦞", CONTENT_TEXT),
        (r#"{"role":"user","content":"hi","x":[1]}"#, "hi", CONTENT_TEXT),
        (r#"{"role":"user","content":[1]}"#, r#"{"role":"user","content":[1]}"#, CONTENT_JSON),
        (r#"{"content":"a","content":"b"}"#, r#"{"content":"a","content":"b"}"#, CONTENT_JSON),
        ("{}", "{}", CONTENT_JSON),
        ("[1, 2]", "[1, 2]", CONTENT_JSON),
        ("4.5", "4.5", CONTENT_JSON),
        ("false", "false", CONTENT_JSON),
    ] {
        let frame = format!(r#"{{"type":"message","agent":"a","content":{content}}}"#);
        let seen = message(&frame);
        assert_eq!((seen.content.as_ref(), seen.content_kind), (expected, kind), "{content}");
    }
}

/// All fields arrive. By one frame that has them all, with one that nobody knows.
#[test]
fn all_fields_are_read() {
    let seen = message(
        r#"{"extra":{},"type":"message","id":"7","agent":"stew\u0061rd","sessionId":"s","content":"x",
            "metadata":{"priority":"high","requiresResponse":false,"k":1},"timestamp":5}"#,
    );
    assert_eq!(
        (seen.id.as_deref(), seen.agent.as_deref(), seen.session.as_deref()),
        (Some("7"), Some("steward"), Some("s"))
    );
    assert_eq!((seen.wishes.priority, seen.wishes.requires_response()), (Priority::High, false));
    assert_eq!(seen.metadata, r#"{"priority":"high","requiresResponse":false,"k":1}"#);
    assert_eq!(parse(r#"{"type":"status","id":"q"}"#), Ok(Request::Status { id: Some("q".into()) }));
    assert_eq!(parse(r#"{"type":"cancel","id":"q","agent":"a"}"#), Ok(Request::Cancel { id: "q".into() }));
    let bare = message(r#"{"type":"message","id":null,"content":"x","metadata":null}"#);
    assert_eq!((bare.id, bare.agent, bare.metadata, bare.wishes), (None, None, "", Wishes::default()));
}

/// Each wish is read from the metadata, and both sides of each limit. By one row per value.
#[test]
fn wishes_are_read() {
    let none = Wishes::default;
    let flags = |flags| Wishes { flags, ..none() };
    let words = |count: usize| format!(r#"{{"labels":[{}]}}"#, vec![r#""w""#; count].join(","));
    let word = |bytes: usize| format!(r#"{{"labels":["{}"]}}"#, "w".repeat(bytes));
    let (sixteen, seventeen, longest, too_long) = (words(16), words(17), word(64), word(65));
    let labels = |labels: &str| Ok(Wishes { labels: labels.into(), ..none() });
    let rows: &[(&str, Result<Wishes, &str>)] = &[
        ("{}", Ok(none())),
        (r#"{"priority":null,"durability":null,"deadlineMs":null,"labels":null,"mode":null}"#, Ok(none())),
        (r#"{"mention":null,"replyToAgent":null,"activate":null,"ack":null}"#, Ok(none())),
        (r#"{"priority":"critical"}"#, Ok(Wishes { priority: Priority::Critical, ..none() })),
        (r#"{"priority":"low"}"#, Ok(Wishes { priority: Priority::Low, ..none() })),
        (r#"{"durability":"memory"}"#, Ok(Wishes { durability: DurabilityClass::Memory, ..none() })),
        (r#"{"durability":"durable"}"#, Ok(Wishes { durability: DurabilityClass::Durable, ..none() })),
        (r#"{"durability":"default"}"#, Err("metadata.durability")),
        (r#"{"deadlineMs":1}"#, Ok(Wishes { deadline_ms: 1, ..none() })),
        (r#"{"deadlineMs":86400000}"#, Ok(Wishes { deadline_ms: 86_400_000, ..none() })),
        (r#"{"deadlineMs":0}"#, Err("metadata.deadlineMs")),
        (r#"{"deadlineMs":86400001}"#, Err("metadata.deadlineMs")),
        (r#"{"deadlineMs":1.5}"#, Err("metadata.deadlineMs")),
        (r#"{"deadlineMs":"1"}"#, Err("metadata.deadlineMs")),
        (r#"{"labels":[]}"#, labels("")),
        (r#"{"labels":["code","v\u0069sion"]}"#, labels("code vision")),
        (&sixteen, labels(&["w"; 16].join(" "))),
        (&seventeen, Err("metadata.labels")),
        (&longest, labels(&"w".repeat(64))),
        (&too_long, Err("metadata.labels")),
        (r#"{"labels":[""]}"#, Err("metadata.labels")),
        (r#"{"labels":["two words"]}"#, Err("metadata.labels")),
        (r#"{"labels":["two\u2003words"]}"#, Err("metadata.labels")),
        (r#"{"labels":["\u0000"]}"#, Err("metadata.labels")),
        (r#"{"labels":[null]}"#, Err("metadata.labels")),
        (r#"{"labels":"code"}"#, Err("metadata.labels")),
        (r#"{"mode":"main"}"#, Ok(none())),
        (r#"{"mode":"group"}"#, Ok(Wishes { mode: SessionMode::Group, ..none() })),
        (r#"{"mode":"queue"}"#, Ok(Wishes { mode: SessionMode::Queue, ..none() })),
        (r#"{"mode":"x"}"#, Err("metadata.mode")),
        (r#"{"mention":true}"#, Ok(flags(FLAG_MENTION))),
        (r#"{"replyToAgent":true}"#, Ok(flags(FLAG_REPLY_TO_AGENT))),
        (r#"{"activate":true}"#, Ok(flags(FLAG_ACTIVATE))),
        (r#"{"activate":false}"#, Ok(flags(FLAG_DEACTIVATE))),
        (r#"{"ack":true}"#, Ok(flags(FLAG_WANTS_ACK))),
        (r#"{"ack":false,"mention":false,"replyToAgent":false,"requiresResponse":true}"#, Ok(none())),
        (r#"{"ack":true,"requiresResponse":false}"#, Ok(flags(FLAG_WANTS_ACK | FLAG_NO_REPLY))),
        (r#"{"mention":1}"#, Err("metadata.mention")),
        (r#"{"replyToAgent":"true"}"#, Err("metadata.replyToAgent")),
        (r#"{"activate":0}"#, Err("metadata.activate")),
        (r#"{"ack":[]}"#, Err("metadata.ack")),
        (r#"{"ack":true,"ack":true}"#, Err("metadata")),
    ];
    for (metadata, expected) in rows {
        let frame = format!(r#"{{"type":"message","content":"x","metadata":{metadata}}}"#);
        match (parse(&frame), expected) {
            (Ok(Request::Message(seen)), Ok(wishes)) => {
                assert_eq!((&seen.wishes, seen.metadata), (wishes, *metadata));
            }
            (Err(unread), Err(field)) => {
                let found = (unread.refusal.code, unread.refusal.field);
                assert_eq!(found, (Code::InvalidField, Some(*field)), "{metadata}");
            }
            (found, _) => panic!("{metadata}: {found:?}"),
        }
    }
}

/// Each bad frame is refused with code, field and expectation. By one row per rule.
#[test]
fn bad_frames_name_the_rule() {
    use Code::{InvalidField, InvalidJson, MissingField, UnknownType};
    let long = format!(r#"{{"type":"message","agent":"{}","content":"x"}}"#, "a".repeat(129));
    let rows: &[(&str, Code, Option<&str>, &str)] = &[
        ("", InvalidJson, None, "one JSON object"),
        ("{", InvalidJson, None, "one JSON object"),
        ("{}x", InvalidJson, None, "one JSON object"),
        ("nonsense", InvalidJson, None, "one JSON object"),
        ("[1]", InvalidJson, None, "one JSON object"),
        ("4", InvalidJson, None, "one JSON object"),
        (r#"["status",1,1,1,1,1]"#, InvalidJson, None, "one JSON object"),
        (r#"{"type":"status","type":"status"}"#, InvalidJson, None, "a JSON object with each field once"),
        ("{\"type\":\"a\nb\"}", InvalidJson, None, "one JSON object"),
        ("{}", MissingField, Some("type"), "\"message\", "),
        (r#"{"type":5}"#, InvalidField, Some("type"), "\"message\", "),
        (r#"{"type":"event"}"#, UnknownType, Some("type"), "\"message\", "),
        (r#"{"type":"cancel"}"#, MissingField, Some("id"), "a string of 1 to 256"),
        (r#"{"type":"cancel","id":7}"#, InvalidField, Some("id"), "a string of 1 to 256"),
        (r#"{"type":"message","agent":"","content":"x"}"#, InvalidField, Some("agent"), "a string of 1 to"),
        (r#"{"type":"message","agent":"a\u0000","content":"x"}"#, InvalidField, Some("agent"), "a string of"),
        (r#"{"type":"message","agent":["a"],"content":"x"}"#, InvalidField, Some("agent"), "a string of"),
        (&long, InvalidField, Some("agent"), "a string of 1 to 128"),
        (r#"{"type":"message","agent":"a"}"#, MissingField, Some("content"), "a string"),
        (r#"{"type":"message","agent":"a","content":"\ud800"}"#, InvalidField, Some("content"), "a string"),
        (r#"{"type":"message","agent":"a","content":1,"id":7}"#, InvalidField, Some("id"), "a string"),
        (
            r#"{"type":"message","agent":"a","content":1,"sessionId":{}}"#,
            InvalidField,
            Some("sessionId"),
            "a s",
        ),
        (
            r#"{"type":"message","agent":"a","content":1,"metadata":[]}"#,
            InvalidField,
            Some("metadata"),
            "an o",
        ),
        (
            r#"{"type":"message","agent":"a","content":1,"metadata":{"priority":"urgent"}}"#,
            InvalidField,
            Some("metadata.priority"),
            "\"low\"",
        ),
        (
            r#"{"type":"message","agent":"a","content":1,"metadata":{"requiresResponse":"no"}}"#,
            InvalidField,
            Some("metadata.requiresResponse"),
            "true or false",
        ),
    ];
    for (text, code, field, expected) in rows {
        let Err(Unread { refusal, .. }) = parse(text) else { panic!("{text}: taken") };
        assert_eq!((refusal.code, refusal.field), (*code, *field), "{text}");
        assert!(refusal.expected.is_some_and(|seen| seen.starts_with(expected)), "{text}: {refusal:?}");
    }
}

/// A refusal echoes the id. By a frame without content.
#[test]
fn a_refusal_echoes_the_id() {
    let unread = parse(r#"{"type":"message","id":"c-1"}"#).unwrap_err();
    assert_eq!(unread.id.as_deref(), Some("c-1"));
}

/// Nesting is allowed up to the limit and refused behind it, inside ignored fields too, and brackets in
/// strings do not count. By frames on both sides of the limit, and one of 10,000.
#[test]
fn nesting_is_bounded() {
    let frame = |field: &str, depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"type":"message","agent":"a","content":"x","{field}":{open}{close}}}"#)
    };
    let code = |text: &str| parse(text).map(|_| ()).map_err(|unread| unread.refusal.code);
    for field in ["ignored", "timestamp"] {
        assert_eq!(code(&frame(field, DEPTH_MAX - 1)), Ok(()));
        assert_eq!(code(&frame(field, DEPTH_MAX)), Err(Code::TooDeep));
        assert_eq!(code(&frame(field, 10_000)), Err(Code::TooDeep));
    }
    assert_eq!(code(&"[".repeat(100_000)), Err(Code::TooDeep));
    let quoted = format!(r#"{{"type":"message","agent":"a","content":"\"{}"}}"#, "[".repeat(10_000));
    assert_eq!(code(&quoted), Ok(()));
}

/// A client names a place with both of its parts, or none. By one row per rule.
#[test]
fn places_are_read() {
    let rows = [
        (r#""epoch":3,"offset":7"#, Ok((3, 7))),
        (r#""epoch":null"#, Ok((0, 0))),
        (r#""epoch":3"#, Err((Code::MissingField, "offset"))),
        (r#""offset":3"#, Err((Code::MissingField, "epoch"))),
        (r#""epoch":0,"offset":1"#, Err((Code::InvalidField, "epoch"))),
        (r#""epoch":16777216,"offset":1"#, Err((Code::InvalidField, "epoch"))),
        (r#""epoch":1,"offset":1099511627776"#, Err((Code::InvalidField, "offset"))),
        (r#""epoch":1,"offset":-1"#, Err((Code::InvalidField, "offset"))),
        (r#""epoch":"1","offset":1"#, Err((Code::InvalidField, "epoch"))),
    ];
    for (fields, expected) in rows {
        let text = format!(r#"{{"type":"resume","id":"r","sessionId":"s",{fields}}}"#);
        let found = match parse(&text) {
            Ok(Request::Resume { after, .. }) => Ok((after.epoch(), after.offset())),
            Err(unread) => Err((unread.refusal.code, unread.refusal.field.unwrap())),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{fields}");
    }
    let nameless = parse(r#"{"type":"resume","id":"r"}"#).unwrap_err();
    assert_eq!((nameless.refusal.code, nameless.refusal.field), (Code::MissingField, Some("sessionId")));
}

/// Frames out are JSON that says what went in. By parsing them again.
#[test]
fn frames_out_read_back() {
    let mut labels = Vec::new();
    frames::write_labels(&mut labels, Some("i\"1"), Some("a"), None);
    let written = |write: &dyn Fn(&mut Vec<u8>)| -> Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).unwrap()
    };
    let place = Place::of(1, 2).unwrap();
    let (first, again) = (Standing::default(), Standing { attempt: 2, index: 4, place });
    assert_eq!(
        written(&|out| frames::write_block(
            out,
            &labels,
            Standing { index: 3, ..first },
            BlockType::Code,
            "x\n",
            9
        )),
        serde_json::json!({"type":"event","event":"block","id":"i\"1","agent":"a",
            "content":{"blockType":"code","index":3,"content":"x\n"},"timestamp":9})
    );
    assert_eq!(
        written(&|out| frames::write_block(out, &[], again, BlockType::Text, "x", 9)),
        serde_json::json!({"type":"event","event":"block","epoch":1,"offset":2,
            "content":{"blockType":"text","index":4,"attempt":2,"content":"x"},"timestamp":9})
    );
    assert_eq!(
        written(&|out| frames::write_gap(out, &labels, (place, Place::of(3, 0).unwrap()), 9)),
        serde_json::json!({"type":"gap","id":"i\"1","agent":"a",
            "content":{"from":{"epoch":1,"offset":2},"to":{"epoch":3,"offset":0}},"timestamp":9})
    );
    assert_eq!(
        written(&|out| frames::write_resumed(out, &labels, place, b"\"m\",\"n\"", 9)),
        serde_json::json!({"type":"resumed","id":"i\"1","agent":"a",
            "content":{"epoch":1,"offset":2,"open":["m","n"]},"timestamp":9})
    );
    assert_eq!(
        written(&|out| frames::write_reply(out, &labels, Place::NONE, ("a\t", "b"), u64::MAX)),
        serde_json::json!({"type":"message","id":"i\"1","agent":"a",
            "content":{"role":"assistant","content":"a\tb"},"timestamp":u64::MAX})
    );
    let mut refusal = Refusal::new(Code::Failure(FailureCode::Overloaded), "full");
    refusal.retry_after_ms = 50;
    assert_eq!(
        written(&|out| frames::write_error(out, &[], Place::NONE, &refusal, 0)),
        serde_json::json!({"type":"error","content":{"code":"overloaded","message":"full","retryable":true,
            "retryAfterMs":50},"timestamp":0})
    );
    let accepted = |durability, duplicate| {
        written(&|out| frames::write_accepted(out, &labels, durability, duplicate, 1))
    };
    let status = |content: Value| serde_json::json!({"type":"status","id":"i\"1","agent":"a","content":content,"timestamp":1});
    for (durability, name) in [
        (DurabilityClass::Default, Value::Null),
        (DurabilityClass::Memory, "memory".into()),
        (DurabilityClass::Durable, "durable".into()),
    ] {
        let mut content = serde_json::json!({"state":"accepted"});
        if !name.is_null() {
            content["durability"] = name;
        }
        assert_eq!(accepted(durability, false), status(content.clone()));
        content["duplicate"] = true.into();
        assert_eq!(accepted(durability, true), status(content));
    }
}

proptest! {
    /// Any text gives a request or a named refusal, never a crash.
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        if let Err(unread) = parse(&text) {
            prop_assert!(!unread.refusal.text.is_empty());
        }
    }

    /// So does any damage to a good frame.
    #[test]
    fn damaged_frames_are_read_or_refused(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..6),
    ) {
        let good = r#"{"type":"message","id":"1","agent":"a","sessionId":"s","content":{"content":"x\u0041"},
            "metadata":{"priority":"low"}}"#;
        let mut chars: Vec<char> = good.chars().collect();
        for (at, value) in damage {
            let at = at.index(chars.len());
            chars[at] = value;
        }
        let text: String = chars.into_iter().collect();
        match parse(&text) {
            Ok(Request::Message(seen)) => {
                let agent = seen.agent.as_deref().unwrap_or("default");
                prop_assert!((1..=AGENT_BYTES_MAX).contains(&agent.len()));
            }
            Ok(Request::Status { .. } | Request::Cancel { .. } | Request::Resume { .. }) => {}
            Err(unread) => prop_assert!(unread.refusal.expected.is_some()),
        }
    }

    /// Escaping is undone by any JSON parser.
    #[test]
    fn escaped_strings_read_back(text in any::<String>()) {
        let mut out = vec![b'"'];
        frames::escape(&mut out, &text);
        out.push(b'"');
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }
}

proptest! {
    /// Any text, wherever its special characters stand, reads back as itself from the JSON string made of it.
    #[test]
    fn any_bytes_of_text_are_escaped(text in "[\\x00-\\x7f\"\\\\é🦞]{0,80}") {
        let mut json = vec![b'"'];
        frames::escape(&mut json, &text);
        json.push(b'"');
        prop_assert_eq!(serde_json::from_slice::<String>(&json).ok(), Some(text));
    }
}
