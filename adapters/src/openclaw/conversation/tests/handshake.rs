//! The handshake: who is let in, and what the others are told.

use serde_json::{Value, json};

use super::*;

/// The challenge carries the nonce and no number.
#[test]
fn every_connection_is_challenged() {
    let mut out = Vec::new();
    Rig::new().conversation.challenge(&mut out);
    let expected =
        r#"{"type":"event","event":"connect.challenge","payload":{"nonce":"nonce","ts":1795241982744}}"#;
    assert_eq!(String::from_utf8(out).expect("text"), expected);
}

/// The first frame is a valid `connect`, or the connection ends with the code and words of the incumbent. One row for
/// each way to do it wrong: the frame, the close, and the error where there is one.
#[test]
fn the_first_frame_is_connect() {
    let invalid = |what: &str| format!("invalid connect params: {what}");
    let mismatch = (1002, "protocol mismatch");
    let bad = (1008, "invalid handshake");
    let client = |id: &str, mode: &str| json!({ "id": id, "version": "1", "platform": "x", "mode": mode });
    let rows = [
        ("hello".to_owned(), bad, String::new()),
        ("[]".to_owned(), bad, String::new()),
        (r#"{"type":"message","content":"hi"}"#.to_owned(), bad, String::new()),
        (r#"{"type":"req","id":"1"}"#.to_owned(), bad, String::new()),
        (request("health", &json!({})), bad, "invalid handshake: first request must be connect".to_owned()),
        (connect(&json!({ "client": null })), bad, invalid("must have required property 'client'")),
        (connect(&json!({ "admin": true })), bad, invalid("at root: unexpected property 'admin'")),
        (
            connect(&json!({ "client": client("evil", "backend") })),
            bad,
            invalid("at /client/id: must be equal to one of the allowed values"),
        ),
        (connect(&json!({ "minProtocol": 0 })), bad, invalid("at /minProtocol: must be >= 1")),
        (connect(&json!({ "role": "root" })), bad, "invalid role".to_owned()),
        (connect(&json!({ "minProtocol": 5, "maxProtocol": 9 })), mismatch, "protocol mismatch".to_owned()),
        (connect(&json!({ "minProtocol": 3, "maxProtocol": 3 })), mismatch, "protocol mismatch".to_owned()),
        (
            connect(&json!({ "minProtocol": 3, "maxProtocol": 3, "client": client("node-host", "node") })),
            mismatch,
            "protocol mismatch".to_owned(),
        ),
        (
            connect(&json!({ "auth": { "token": "x" } })),
            (1008, "unauthorized"),
            "unauthorized: gateway token mismatch".to_owned(),
        ),
        (connect(&json!({ "auth": null })), (1008, "unauthorized"), "device identity required".to_owned()),
    ];
    for (text, (code, reason), message) in rows {
        let mut rig = Rig::new();
        assert_eq!(rig.error(&text), (Got::Close(code, reason), message), "{text}");
        assert_eq!(rig.conversation.identity(), None, "{text}");
    }
    let long = connect(&json!({ "userAgent": "x".repeat(PRE_AUTH_BYTES_MAX) }));
    assert_eq!(Rig::new().say(&long), (Got::Close(1009, "preauth payload too large"), Value::Null));
}

/// Probes and nodes may offer version 3 alone, and a range that includes 4 is spoken as 4.
#[test]
fn protocol_ranges() {
    let probe = json!({ "id": "cli", "version": "1", "platform": "x", "mode": "probe" });
    for (changes, expected) in [
        (json!({ "minProtocol": 3, "maxProtocol": 4, "client": probe }), 4),
        (json!({ "minProtocol": 3, "maxProtocol": 3, "client": probe }), 3),
        (json!({ "minProtocol": 1, "maxProtocol": 99 }), 4),
    ] {
        let (got, out) = Rig::new().say(&connect(&changes));
        assert_eq!((got, &out["payload"]["protocol"]), (Got::Welcomed, &json!(expected)), "{changes}");
    }
}

/// A gateway that is not running lets nobody in, and says when to come back.
#[test]
fn nobody_is_let_in_before_or_after() {
    for (phase, reason, wait_ms) in
        [(Phase::Starting, "startup-sidecars", 500), (Phase::Restarting, "gateway-restarting", 1_000)]
    {
        let mut rig = Rig { phase, ..Rig::new() };
        let (got, out) = rig.say(&connect(&json!({})));
        assert_eq!(got, Got::Close(1013, "gateway starting"));
        let error = &out["error"];
        assert_eq!((&error["code"], &error["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
        assert_eq!((&error["retryAfterMs"], &error["details"]["reason"]), (&json!(wait_ms), &json!(reason)));
    }
}

/// Hello tells the truth: what is served and nothing else, the limits, and to admins alone where things lie.
#[test]
fn hello_tells_the_truth() {
    let (_, out) = Rig::new().say(&connect(&json!({ "scopes": ["operator.admin", "operator.root"] })));
    let hello = &out["payload"];
    let methods = json!([
        "chat.send",
        "agent",
        "health",
        "status",
        "sessions.subscribe",
        "sessions.messages.subscribe",
        "sessions.messages.unsubscribe",
        "sessions.create",
        "sessions.delete",
        "config.apply",
    ]);
    assert_eq!(hello["features"], json!({ "methods": methods, "events": ["tick", "chat"] }));
    assert_eq!(hello["auth"], json!({ "role": "operator", "scopes": ["operator.admin"] }));
    assert_eq!(hello["server"], json!({ "version": "1.2.3", "connId": "conn", "bootId": "boot" }));
    let attachments = json!({ "maxBytes": 4, "maxImageBytes": 5 });
    let policy =
        json!({ "maxPayload": 1, "maxBufferedBytes": 2, "tickIntervalMs": 3, "attachments": attachments });
    assert_eq!(hello["policy"], policy);
    let snapshot = &hello["snapshot"];
    assert_eq!(snapshot["stateVersion"], json!({ "presence": 3, "health": 4 }));
    assert_eq!(
        (&snapshot["configPath"], &snapshot["authMode"]),
        (&json!("/etc/openclaw.json"), &json!("token"))
    );
    assert_eq!(snapshot["sessionDefaults"]["mainSessionKey"], json!("agent:pi:main"));

    let (_, out) = Rig::new().say(&connect(&json!({})));
    let snapshot = &out["payload"]["snapshot"];
    assert_eq!((&snapshot["configPath"], &snapshot["authMode"]), (&Value::Null, &Value::Null));
    assert_eq!((&snapshot["presence"], &snapshot["health"]["ok"]), (&json!([]), &json!(true)));
}

/// Both payloads of a signature are understood, the token that it names is the one that is shown, and a device gets
/// its token once. By signing as clients do.
#[test]
fn devices_sign_the_challenge() {
    for version in ["v3", "v2"] {
        let mut rig = Rig::new();
        let (got, out) = rig.say(&signed(version, TOKEN, &json!({})));
        assert_eq!(got, Got::Welcomed, "{version}: {out}");
        let auth = &out["payload"]["auth"];
        assert_eq!(auth["scopes"], json!(["operator.read", "operator.admin"]));
        let token = auth["deviceToken"].as_str().expect("a token").to_owned();
        assert!(matches!(rig.conversation.take_news(), Some(PairingNews::PairedBySecret(_))));
        assert_eq!(rig.conversation.take_news(), None);

        rig.conversation = Conversation::new("nonce".to_owned(), NOW_MS);
        rig.peer = AWAY;
        let (got, out) = rig.say(&signed(version, &token, &json!({})));
        assert_eq!((got, &out["payload"]["auth"]["deviceToken"]), (Got::Welcomed, &Value::Null), "{version}");
    }
}

/// Each failure of a device's proof has its names on the wire. One row each: what is changed after signing.
#[test]
fn failures_of_proofs_are_named() {
    let rows = [
        (json!({ "id": "00" }), "DEVICE_AUTH_DEVICE_ID_MISMATCH", "device-id-mismatch"),
        (json!({ "publicKey": "AA" }), "DEVICE_AUTH_PUBLIC_KEY_INVALID", "device-public-key"),
        (json!({ "nonce": "" }), "DEVICE_AUTH_NONCE_REQUIRED", "device-nonce-missing"),
        (json!({ "nonce": "other" }), "DEVICE_AUTH_NONCE_MISMATCH", "device-nonce-mismatch"),
        (json!({ "signedAt": NOW_MS - 120_001 }), "DEVICE_AUTH_SIGNATURE_EXPIRED", "device-signature-stale"),
        (json!({ "signedAt": NOW_MS - 1 }), "DEVICE_AUTH_SIGNATURE_INVALID", "device-signature"),
    ];
    for (changes, code, reason) in rows {
        let (got, out) = Rig::new().say(&signed("v3", TOKEN, &changes));
        assert_eq!(got, Got::Close(1008, "unauthorized"), "{code}");
        assert_eq!(out["error"]["details"], json!({ "code": code, "reason": reason }));
    }
}

/// From elsewhere, a device waits for a decision, and is told which; whoever watches is told once.
#[test]
fn a_device_from_elsewhere_waits() {
    let mut rig = Rig::with(AuthMode::Token, AWAY);
    let (got, out) = rig.say(&signed("v3", TOKEN, &json!({})));
    assert_eq!((got, &out["error"]["code"]), (Got::Close(1008, "pairing required"), &json!("NOT_PAIRED")));
    let Some(PairingNews::Requested(pending)) = rig.conversation.take_news() else {
        panic!("nobody is told")
    };
    let details = &out["error"]["details"];
    assert_eq!((&details["code"], &details["reason"]), (&json!("PAIRING_REQUIRED"), &json!("not-paired")));
    assert_eq!(details["requestId"], json!(pending.request_id));
    rig.conversation = Conversation::new("nonce".to_owned(), NOW_MS);
    rig.say(&signed("v3", TOKEN, &json!({})));
    assert_eq!(rig.conversation.take_news(), None);
}

/// Guessing is answered with the wait, in the words that clients know.
#[test]
fn guessing_is_limited_on_the_wire() {
    let mut rig = Rig::new();
    let guess = connect(&json!({ "auth": { "token": "guess", "deviceToken": "dummy" } }));
    for _ in 0..5 {
        assert_eq!(rig.error(&guess).1, "unauthorized: gateway token mismatch");
    }
    let (_, out) = rig.say(&guess);
    let error = &out["error"];
    assert_eq!((&error["retryable"], &error["retryAfterMs"]), (&json!(true), &json!(60_000)));
    assert_eq!(error["details"]["code"], json!("AUTH_RATE_LIMITED"));
    assert_eq!(rig.say(&connect(&json!({}))).0, Got::Welcomed, "the right token is let in all the same");
}
