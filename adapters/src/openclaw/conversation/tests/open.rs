//! What a client that was let in may say, and what it hears.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What a frame comes to once the client is let in. One row for each way.
#[test]
fn frames_after_the_handshake() {
    let params = |params: &str| format!(r#"{{"type":"req","id":"7","method":"status","params":{params}}}"#);
    let frame = |what: &str| format!("invalid request frame: {what}");
    let deep = format!(
        r#"{{"type":"req","id":"7","method":"status","params":{}{}}}"#,
        "[".repeat(64),
        "]".repeat(64)
    );
    let rows = [
        (params("{}"), Got::Call(Method::Status), String::new()),
        (params(r#"{"includeChannelSummary":true}"#), Got::Call(Method::Status), String::new()),
        (params("[]"), Got::Answered, "invalid status params: must be object".to_owned()),
        (
            params(r#"{"x":1}"#),
            Got::Answered,
            "invalid status params: at root: unexpected property 'x'".to_owned(),
        ),
        (
            r#"{"type":"req","id":"7","method":"health","traceparent":"00-0-0-00"}"#.to_owned(),
            Got::Call(Method::Health),
            String::new(),
        ),
        (
            r#"{"type":"req","id":"7","method":"health","expectedProfileId":""}"#.to_owned(),
            Got::Answered,
            frame("at /expectedProfileId: must NOT have fewer than 1 characters"),
        ),
        (
            r#"{"type":"req","id":"7"}"#.to_owned(),
            Got::Answered,
            frame("must have required property 'method'"),
        ),
        (
            r#"{"type":"req","id":"7","method":"health","scopes":[]}"#.to_owned(),
            Got::Answered,
            frame("at root: unexpected property 'scopes'"),
        ),
        (
            r#"{"type":"req","id":"7","id":"8","method":"health"}"#.to_owned(),
            Got::Answered,
            frame("duplicate property 'id'"),
        ),
        (
            r#"{"type":"res","id":"7","method":"health"}"#.to_owned(),
            Got::Answered,
            frame("at /type: must be equal to one of the allowed values"),
        ),
        (deep, Got::Answered, frame("nested too deeply")),
        ("[1]".to_owned(), Got::Answered, frame("must be object")),
        ("no JSON".to_owned(), Got::Answered, String::new()),
        (r#"{"type":"req","#.to_owned(), Got::Answered, String::new()),
    ];
    for (text, got, message) in rows {
        let mut rig = Rig::open(&["operator.admin"]);
        assert_eq!(rig.error(&text), (got, message), "{text}");
    }
    let mut rig = Rig::open(&["operator.read"]);
    let (_, out) = rig.say(r#"{"type":"req","id":"9","method":7}"#);
    assert_eq!(out["id"], json!("9"));
    let (_, out) = rig.say(r#"{"type":"req","id":9,"method":"health"}"#);
    assert_eq!(out["id"], json!("invalid"));
    rig.say("garbage");
    assert_eq!(rig.conversation.ignored(), 1);
}

/// What is not served is unknown, whether others serve it or not, and a served method says what its parameters lack.
#[test]
fn what_is_not_served_is_unknown() {
    let rows = [
        (request("no.such.method", &json!({})), Got::Answered, "unknown method: no.such.method".to_owned()),
        (request("cron.add", &json!({})), Got::Answered, "unknown method: cron.add".to_owned()),
        // In the table, but nobody here serves it.
        (request("models.list", &json!({})), Got::Answered, "unknown method: models.list".to_owned()),
        (connect(&json!({})), Got::Answered, "connect is only valid as the first request".to_owned()),
        (
            request("chat.send", &json!({ "sessionKey": "main", "idempotencyKey": "k" })),
            Got::Answered,
            "invalid chat.send params: must have required property 'message'".to_owned(),
        ),
    ];
    for (text, got, message) in rows {
        let mut rig = Rig::open(&["operator.admin"]);
        assert_eq!(rig.error(&text), (got, message), "{text}");
    }
}

/// A client calls what its scopes allow and nothing else, also where parameters decide. One row each: the scopes, the
/// call, and the scope that is missing.
#[test]
fn scopes_gate_methods() {
    let send = json!({ "sessionKey": "main", "message": "hi", "idempotencyKey": "k" });
    let rows: &[(&[&str], &str, Value, Option<&str>)] = &[
        (&[], "health", json!({}), None),
        (&[], "status", json!({}), Some("operator.read")),
        (&["operator.pairing"], "status", json!({}), Some("operator.read")),
        (&["operator.write"], "status", json!({}), None),
        (&["operator.read"], "chat.send", send.clone(), Some("operator.write")),
        (&["operator.write"], "chat.send", send, None),
        (&["operator.write"], "config.apply", json!({ "raw": "{}" }), Some("operator.admin")),
        (&["operator.write"], "sessions.create", json!({ "label": "x" }), None),
        (&["operator.write"], "sessions.create", json!({ "cwd": "/" }), Some("operator.admin")),
        (&["operator.admin"], "sessions.create", json!({ "cwd": "/" }), None),
        (&["operator.write"], "sessions.delete", json!({ "key": "x" }), Some("operator.admin")),
        (&["operator.write"], "sessions.delete", json!({ "key": "x", "archivedOnly": true }), None),
    ];
    for (scopes, method, params, missing) in rows {
        let (got, out) = Rig::open(scopes).say(&request(method, params));
        match missing {
            None => assert_eq!(got, Got::Call(Method::from_name(method).expect("known")), "{scopes:?}"),
            Some(scope) => {
                let details =
                    json!({ "code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope] });
                assert_eq!((got, &out["error"]["details"]), (Got::Answered, &details), "{scopes:?} {method}");
                assert_eq!(out["error"]["code"], json!("FORBIDDEN"));
            }
        }
    }
}

/// Whoever calls in a loop what it may not is closed after ten, and a call that it may make starts the count anew.
#[test]
fn forbidden_calls_in_a_loop_end() {
    let mut rig = Rig::open(&[]);
    let forbidden = request("status", &json!({}));
    for round in 0..2 {
        for call in 1..10 {
            rig.now_ms += 1_000;
            assert_eq!(rig.say(&forbidden).0, Got::Answered, "{round}: {call}");
        }
        if round == 0 {
            assert_eq!(rig.say(&request("health", &json!({}))).0, Got::Call(Method::Health));
        }
    }
    assert_eq!(rig.say(&forbidden).0, Got::Close(1008, "repeated unauthorized calls"));
}

/// Twenty errors a second are answered, the next one ends the connection; whatever kind they are of.
#[test]
fn errors_have_a_budget() {
    let unknown = request("no.such.method", &json!({}));
    for bad in [unknown.as_str(), "garbage", "[]"] {
        let mut rig = Rig::open(&["operator.admin"]);
        for _ in 0..20 {
            assert_eq!(rig.say(bad).0, Got::Answered, "{bad}");
        }
        rig.now_ms += 1_000;
        for _ in 0..20 {
            assert_eq!(rig.say(bad).0, Got::Answered, "{bad}");
        }
        assert_eq!(rig.say(bad).0, Got::Close(1008, "too many frames that could not be understood"), "{bad}");
    }
}

/// Events are numbered for each connection, without a gap unless one was dropped.
#[test]
fn dropped_events_leave_a_gap() {
    let mut rig = Rig::open(&[]);
    let mut out = Vec::new();
    let version = StateVersion { presence: 1, health: 2 };
    rig.conversation.write_event(&mut out, EventName::Tick, br#"{"ts":1}"#, None);
    rig.conversation.skip_event();
    rig.conversation.write_event(&mut out, EventName::Health, b"{}", Some(version));
    let expected = concat!(
        r#"{"type":"event","event":"tick","payload":{"ts":1},"seq":1}"#,
        r#"{"type":"event","event":"health","payload":{},"seq":3,"stateVersion":{"presence":1,"health":2}}"#,
    );
    assert_eq!(String::from_utf8(out).expect("text"), expected);
}

/// Events reach whom their gate, his caps and his subscriptions let. One row for a client and an event about a session.
#[test]
fn events_reach_whom_they_may() {
    let subscribe = request("sessions.messages.subscribe", &json!({ "key": "main" }));
    let watch = request("sessions.subscribe", &json!({ "limit": 5 }));
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a str, EventName, bool, bool);
    let rows: &[Row<'_>] = &[
        (&[], &[], "", EventName::Tick, false, true),
        (&[], &[], "", EventName::Chat, false, false),
        (&["operator.read"], &[], "", EventName::Chat, false, true),
        (&["operator.read"], &[], "", EventName::Agent, true, false),
        (&["operator.read"], &["tool-events"], "", EventName::Agent, true, true),
        (&["operator.read"], &["session-scoped-events"], "", EventName::Chat, false, false),
        (&["operator.read"], &["session-scoped-events"], &subscribe, EventName::Chat, false, true),
        (&["operator.read"], &[], "", EventName::SessionMessage, false, false),
        (&["operator.read"], &[], &subscribe, EventName::SessionMessage, false, true),
        (&["operator.read"], &[], "", EventName::SessionsChanged, false, false),
        (&["operator.read"], &[], &watch, EventName::SessionsChanged, false, true),
        (&["operator.read"], &[], "", EventName::DevicePairRequested, false, false),
        (&["operator.pairing"], &[], "", EventName::DevicePairRequested, false, true),
    ];
    for &(scopes, caps, frame, event, is_tool, expected) in rows {
        let mut rig = Rig::new();
        assert!(!rig.conversation.may_see_session(event, "agent:pi:main", is_tool), "before the handshake");
        rig.say(&connect(&json!({ "scopes": scopes, "caps": caps })));
        if !frame.is_empty() {
            assert_eq!(rig.say(frame).1["ok"], json!(true), "{frame}");
        }
        let found = rig.conversation.may_see_session(event, "agent:pi:main", is_tool);
        assert_eq!(found, expected, "{scopes:?} {caps:?} {event:?}");
        let other = rig.conversation.may_see_session(EventName::SessionMessage, "agent:pi:other", false);
        assert!(!other, "not subscribed to");
    }
}

/// A client subscribes to a bounded number of sessions, and can let go of them.
#[test]
fn subscriptions_are_bounded() {
    let mut rig = Rig::open(&["operator.read"]);
    let say = |rig: &mut Rig, verb: &str, number: usize| {
        rig.say(&request(&format!("sessions.messages.{verb}"), &json!({ "key": format!("s{number}") })))
    };
    for number in 0..SUBSCRIPTIONS_MAX {
        assert_eq!(say(&mut rig, "subscribe", number).1["ok"], json!(true));
    }
    assert_eq!(
        say(&mut rig, "subscribe", 0).1["payload"],
        json!({ "subscribed": true, "key": "agent:pi:s0" })
    );
    assert_eq!(say(&mut rig, "subscribe", 999).1["ok"], json!(false));
    assert_eq!(say(&mut rig, "unsubscribe", 0).1["payload"]["subscribed"], json!(false));
    assert_eq!(say(&mut rig, "subscribe", 999).1["ok"], json!(true));
}

/// What the incumbent's command line sends is understood. One row for each call that it makes.
#[test]
fn the_command_line_of_the_incumbent_is_understood() {
    let rows = [
        ("health", json!({})),
        ("status", json!({ "includeChannelSummary": true })),
        ("system-presence", json!({})),
        ("config.get", json!({})),
        ("channels.status", json!({ "probe": false, "timeoutMs": 10_000 })),
        ("logs.tail", json!({ "limit": 200, "maxBytes": 250_000, "cursor": 17 })),
        ("cron.list", json!({ "includeDisabled": false, "limit": 200, "offset": 0 })),
        ("node.list", json!({})),
        ("device.pair.list", json!({})),
        ("skills.status", json!({ "agentId": "main" })),
        (
            "agent",
            json!({ "message": "hi", "agentId": "main", "deliver": false, "timeout": 600, "idempotencyKey": "k" }),
        ),
    ];
    for (name, params) in rows {
        let method = Method::from_name(name).expect("known");
        let raw = serde_json::value::to_raw_value(&params).expect("JSON");
        assert_eq!(Params::of(method, Some(&raw)).err(), None, "{name}");
    }
}

/// Pieces of requests, whole and broken, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just(r#"{"type":"req","#),
        Just(r#""id":"7","#),
        Just(r#""method":"chat.send","#),
        Just(r#""method":"health""#),
        Just(r#""params":{"#),
        Just(r#""sessionKey":"main","#),
        Just(r#""message":"\ud83d\ude00","#),
        Just(r#""idempotencyKey":"k""#),
        Just(r#""\ud800""#),
        Just("}"),
        Just("}}"),
        Just("[["),
        Just(" "),
        Just("\u{e4}"),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever comes, before the handshake and after it, is answered in JSON or not at all, and lets nobody in who has
    /// not shown the secret. With made-up text, and with made-up rows of pieces of requests.
    #[test]
    fn any_frame_is_answered_in_json(text in prop_oneof![any::<String>(), pieces()]) {
        let mut stranger = Rig::new();
        prop_assert!(matches!(stranger.say(&text).0, Got::Close(..)));
        prop_assert_eq!(stranger.conversation.identity(), None);
        let mut known = Rig::open(&["operator.admin"]);
        let (got, answer) = known.say(&text);
        match got {
            Got::Call(_) => prop_assert_eq!(answer, json!(null)),
            got => prop_assert!(got == Got::Answered && (answer.is_null() || answer["type"] == json!("res"))),
        }
    }
}
