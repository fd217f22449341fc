//! Requests, limits of answers, and the document.

use std::time::Duration;

use engine::events::{EventMask, EventType};
use engine::registry::Field;
use serde_json::json;
use shm_transport::envelope::FailureCode;
use shm_transport::ports::session_hash;

use super::order::{Act, LifecycleKind, ReloadKind};
use super::request::{ErrorCode, LETTERS_MAX, Op, Request, Sought, Wanted, Which, parse};
use super::shards::{ROWS_BYTES_MAX, beginning, fitting};

const DOCUMENT: &str = include_str!("../../../docs/admin.md");

/// The first cells of the table with this heading.
fn names_of(heading: &str) -> Vec<&'static str> {
    let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with(&format!("| {heading} |")));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('|').nth(1)).map(|cell| cell.trim().trim_matches('`')).collect()
}

/// The document has a row for each operation and each error, and no other.
#[test]
fn operations_and_errors_are_documented() {
    assert_eq!(names_of("op"), Op::ALL.iter().map(|op| op.name()).collect::<Vec<_>>());
    assert_eq!(names_of("code"), ErrorCode::ALL.iter().map(|code| code.name()).collect::<Vec<_>>());
    assert_eq!(names_of("type"), EventType::ALL.iter().map(|each| each.name()).collect::<Vec<_>>());
}

/// What is right is read. One row for each form.
#[test]
fn requests_are_read() {
    let check = |request: serde_json::Value, expected| {
        assert_eq!(parse(request.to_string().as_bytes()), Ok(expected), "{request}");
    };
    let session = Some(session_hash("websocket", "local", "s"));
    let id = |session| Request::Explain(Sought::Id { id: "m".into(), session });
    check(json!({"v": 1, "op": "explain", "id": "m"}), id(None));
    check(json!({"v": 1, "op": "explain", "id": "m", "session": "s"}), id(session));
    check(
        json!({"v": 1, "op": "explain", "turn": "00000001000000ff"}),
        Request::Explain(Sought::Turn(0x1_0000_00ff)),
    );
    let list = |offset, limit, wanted| Request::List { offset, limit, wanted };
    check(json!({"v": 1, "op": "dlq.list"}), list(0, LETTERS_MAX, Wanted::default()));
    let wanted = Wanted { agent: Some("a".into()), session, code: Some(FailureCode::AgentDied) };
    check(
        json!({"v": 1, "op": "dlq.list", "offset": 2, "limit": 1_000_000, "agent": "a", "session": "s",
            "code": "agent_died"}),
        list(2, LETTERS_MAX, wanted.clone()),
    );
    check(json!({"v": 1, "op": "dlq.show", "turn": "0000000000000001"}), Request::Show { turn: 1 });
    let replay = |which, dry_run| Request::Replay { which, dry_run };
    check(json!({"v": 1, "op": "dlq.replay", "turn": "0000000000000001"}), replay(Which::Turn(1), false));
    check(json!({"v": 1, "op": "dlq.replay", "all": true, "dryRun": true}), replay(Which::All, true));
    let of_agent = Wanted { agent: Some("a".into()), ..Wanted::default() };
    let drop = Request::Drop { which: Which::Filter(of_agent) };
    check(json!({"v": 1, "op": "dlq.drop", "agent": "a", "session": null}), drop);
    check(json!({"v": 1, "op": "stats"}), Request::Stats { offset: 0 });
    check(json!({"v": 1, "op": "events"}), Request::Events { mask: EventMask::all() });
    check(json!({"v": 1, "op": "agent.list"}), Request::Agents { offset: 0, wanted: Vec::new() });
    let wanted = vec![(Field::Name, "a".into()), (Field::Version, "1".into())];
    check(
        json!({"v": 1, "op": "agent.list", "offset": 5, "version": "1", "agent": "a"}),
        Request::Agents { offset: 5, wanted },
    );
    let act = |act| Request::Act { name: "a".into(), act };
    check(json!({"v": 1, "op": "agent.restart", "agent": "a"}), act(Act::Restart));
    check(json!({"v": 1, "op": "agent.drain", "agent": "a"}), act(Act::Drain));
    check(
        json!({"v": 1, "op": "agent.quarantine", "agent": "a", "reason": "x"}),
        act(Act::Quarantine("x".into())),
    );
    check(json!({"v": 1, "op": "agent.release", "agent": "a"}), act(Act::Release));
    check(json!({"v": 1, "op": "reload"}), Request::Reload(ReloadKind::Take));
    let attempt = |config: Option<&str>| Request::Reload(ReloadKind::Try { config: config.map(Into::into) });
    check(json!({"v": 1, "op": "reload", "dryRun": true}), attempt(None));
    check(json!({"v": 1, "op": "reload", "dryRun": true, "config": "/x"}), attempt(Some("/x")));
    let order = |op, kind| check(json!({"v": 1, "op": op}), Request::Lifecycle(kind));
    order("gateway.status", LifecycleKind::Status);
    order("gateway.restart", LifecycleKind::Restart);
    order("gateway.stop", LifecycleKind::Stop { timeout: None });
    let stop = LifecycleKind::Stop { timeout: Some(Duration::from_millis(7)) };
    check(json!({"v": 1, "op": "gateway.stop", "timeoutMs": 7}), Request::Lifecycle(stop));
    let mask = EventMask::NONE.with(EventType::SessionCreated);
    check(json!({"v": 1, "op": "events", "types": ["session.created"]}), Request::Events { mask });
}

/// What is wrong has a name, and the field. One row for each way.
#[test]
fn what_is_wrong_has_a_name() {
    use ErrorCode::{InvalidField, InvalidJson, MissingField, UnknownField, UnknownOp, UnknownVersion};
    let check = |line: &str, code, field: Option<&str>| {
        let complaint = parse(line.as_bytes()).expect_err(line);
        assert_eq!(
            (complaint.code, complaint.field.as_deref()),
            (code, field),
            "{line}: {}",
            complaint.message
        );
    };
    check("", InvalidJson, None);
    check("[1]", InvalidJson, None);
    check("{\"v\":1} x", InvalidJson, None);
    check(&"[".repeat(60_000), InvalidJson, None);
    check(r#"{"op":"stats"}"#, MissingField, Some("v"));
    check(r#"{"v":"1","op":"stats"}"#, InvalidField, Some("v"));
    check(r#"{"v":2,"op":"stats"}"#, UnknownVersion, Some("v"));
    check(r#"{"v":1}"#, MissingField, Some("op"));
    check(r#"{"v":1,"op":"dance"}"#, UnknownOp, Some("op"));
    check(r#"{"v":1,"op":"stats","shard":1}"#, UnknownField, Some("shard"));
    check(r#"{"v":1,"op":"explain"}"#, MissingField, Some("id"));
    check(r#"{"v":1,"op":"explain","id":""}"#, InvalidField, Some("id"));
    check(r#"{"v":1,"op":"explain","id":7}"#, InvalidField, Some("id"));
    check(r#"{"v":1,"op":"explain","turn":"1"}"#, InvalidField, Some("turn"));
    check(r#"{"v":1,"op":"explain","turn":"+000000000000001"}"#, InvalidField, Some("turn"));
    check(r#"{"v":1,"op":"explain","id":"m","turn":"0000000000000001"}"#, InvalidField, Some("turn"));
    check(r#"{"v":1,"op":"dlq.list","limit":-1}"#, InvalidField, Some("limit"));
    check(r#"{"v":1,"op":"dlq.list","code":"bad_luck"}"#, InvalidField, Some("code"));
    check(r#"{"v":1,"op":"dlq.show"}"#, MissingField, Some("turn"));
    check(r#"{"v":1,"op":"dlq.replay"}"#, MissingField, Some("turn"));
    check(r#"{"v":1,"op":"dlq.replay","all":false}"#, MissingField, Some("turn"));
    check(r#"{"v":1,"op":"dlq.drop","all":true,"agent":"a"}"#, InvalidField, Some("all"));
    check(r#"{"v":1,"op":"dlq.drop","all":true,"dryRun":true}"#, UnknownField, Some("dryRun"));
    check(r#"{"v":1,"op":"gateway.stop","timeoutMs":-1}"#, InvalidField, Some("timeoutMs"));
    check(r#"{"v":1,"op":"gateway.restart","timeoutMs":1}"#, UnknownField, Some("timeoutMs"));
    check(r#"{"v":1,"op":"events","types":["x"]}"#, InvalidField, Some("types"));
    check(r#"{"v":1,"op":"agent.drain"}"#, MissingField, Some("agent"));
    check(r#"{"v":1,"op":"agent.drain","agent":"a","reason":"x"}"#, UnknownField, Some("reason"));
    let long = json!({"v": 1, "op": "agent.quarantine", "agent": "a", "reason": "x".repeat(1025)});
    check(&long.to_string(), InvalidField, Some("reason"));
}

/// Rows are given as long as they fit, and texts are cut between characters, counted as JSON writes them.
#[test]
fn answers_fit_a_line() {
    let rows = vec!["x".repeat(1000); 100];
    let fit = fitting(&rows);
    assert!(serde_json::to_vec(&fit).unwrap().len() <= ROWS_BYTES_MAX + 2);
    assert_eq!(fit.len(), ROWS_BYTES_MAX / 1003);
    for text in ["plain", "🦞🦞", "\"\\\n\r\t\u{8}\u{c}", "\u{1}\u{1f}x"] {
        for max in 0..20 {
            let cut = beginning(text, max);
            let written = |text: &str| serde_json::to_string(text).unwrap().len() - 2;
            assert!(written(cut) <= max, "{text:?} {max}");
            let next = text[cut.len()..].chars().next();
            assert!(
                next.is_none_or(|next| written(cut) + written(&next.to_string()) > max),
                "{text:?} {max}"
            );
        }
    }
}
