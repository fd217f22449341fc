//! What a run becomes for clients, event by event.

use super::*;

const NOW_MS: u64 = 1_000_000;

/// A run, and what came of it: the kind of event, its number, and a part of its payload.
struct Rig {
    run: Run,
    told: Vec<(String, Value, bool)>,
}

impl Rig {
    fn new() -> Self {
        let run = Run::new("k".to_owned(), "agent:pi:main".to_owned(), "pi".to_owned(), NOW_MS);
        Self { run, told: Vec::new() }
    }

    fn tell(&mut self, act: impl FnOnce(&mut Run, &mut Sink<'_>)) {
        let told = &mut self.told;
        act(&mut self.run, &mut |event: RunEvent<'_>| {
            let payload: Value = serde_json::from_slice(event.payload).expect("JSON");
            assert_eq!(payload["runId"], json!("k"));
            assert_eq!(payload["sessionKey"], json!("agent:pi:main"));
            told.push((event.event.name().to_owned(), payload, event.is_tool));
        });
    }

    fn say(&mut self, text: &str, now_ms: u64) {
        self.tell(|run, sink| run.block(BlockType::Text, text, now_ms, sink));
    }

    /// What was told since last asked: event, number, and stream or state.
    fn kinds(&mut self) -> Vec<(String, u64, String)> {
        let kind = |(event, payload, _): (String, Value, bool)| {
            let field = if event == "agent" { "stream" } else { "state" };
            let seq = payload["seq"].as_u64().expect("a number");
            (event, seq, payload[field].as_str().expect("a string").to_owned())
        };
        self.told.drain(..).map(kind).collect()
    }
}

fn kinds(rows: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    rows.iter().map(|&(event, seq, kind)| (event.to_owned(), seq, kind.to_owned())).collect()
}

/// A short reply is start, one delta, end and final; what is told at one moment has one number.
#[test]
fn a_short_reply() {
    let mut rig = Rig::new();
    rig.tell(|run, sink| run.start(NOW_MS, sink));
    rig.tell(|run, sink| assert_eq!(run.end("pong", NOW_MS + 9, sink), Ending::Ok));
    let last = rig.told.last().expect("told").1.clone();
    let deltas: Vec<_> = rig.told[1..3].iter().map(|(_, payload, _)| payload.clone()).collect();
    assert_eq!(deltas[0]["data"], json!({ "text": "pong", "delta": "pong" }));
    assert_eq!(deltas[1]["deltaText"], json!("pong"));
    let message = json!({ "role": "assistant", "content": [{ "type": "text", "text": "pong" }], "timestamp": NOW_MS + 9 });
    assert_eq!((&deltas[1]["message"], &last["message"]), (&message, &message));
    assert_eq!(last["stopReason"], json!("stop"));
    let expected = [
        ("agent", 1, "lifecycle"),
        ("agent", 2, "assistant"),
        ("chat", 2, "delta"),
        ("agent", 3, "lifecycle"),
        ("chat", 3, "final"),
    ];
    assert_eq!(rig.kinds(), kinds(&expected));
}

/// Text is told at most every 75 ms, all that came meanwhile at once, and cumulatively. On both sides of the limit.
#[test]
fn deltas_are_paced() {
    let mut rig = Rig::new();
    rig.say("a", NOW_MS);
    assert_eq!((rig.told.len(), rig.run.due_ms()), (2, None));
    rig.say("b", NOW_MS + 1);
    rig.say("ö", NOW_MS + 74);
    assert_eq!((rig.told.len(), rig.run.due_ms()), (2, Some(NOW_MS + 75)));
    rig.tell(|run, sink| run.flush(NOW_MS + 75, sink));
    assert_eq!(rig.told[2].1["data"], json!({ "text": "abö", "delta": "bö" }));
    assert_eq!((&rig.told[3].1["deltaText"], rig.run.due_ms()), (&json!("bö"), None));
    rig.tell(|run, sink| run.flush(NOW_MS + 76, sink));
    assert_eq!(rig.told.len(), 4, "nothing new");
}

/// A run that begins anew says that its text replaces what was told, once, and only if something was.
#[test]
fn a_second_attempt_replaces() {
    let mut rig = Rig::new();
    rig.run.restart();
    rig.say("half", NOW_MS);
    rig.run.restart();
    rig.say("whole", NOW_MS + 100);
    rig.say(" text", NOW_MS + 200);
    let replaces: Vec<_> = rig.told.iter().map(|(_, payload, _)| payload["replace"].as_bool()).collect();
    assert_eq!(replaces, [None, None, None, Some(true), None, None]);
    let texts: Vec<_> =
        rig.told.iter().filter_map(|(_, payload, _)| payload["data"]["text"].as_str()).collect();
    assert_eq!(texts, ["half", "whole", "whole text"]);
    assert_eq!(rig.told[2].1["data"]["replace"], json!(true));
}

/// Tools are told apart from text, in order, and for those who want to know. By saying something before a call.
#[test]
fn tools_are_told_in_order() {
    let mut rig = Rig::new();
    rig.say("a", NOW_MS);
    rig.say("b", NOW_MS + 1);
    let call = r#"{"name":"read","id":"c1","args":{"path":"x"}}"#;
    rig.tell(|run, sink| run.block(BlockType::ToolCall, call, NOW_MS + 2, sink));
    rig.tell(|run, sink| run.block(BlockType::ToolResult, "done", NOW_MS + 3, sink));
    rig.tell(|run, sink| run.block(BlockType::ToolCall, "plain words", NOW_MS + 4, sink));
    rig.tell(|run, sink| run.block(BlockType::Image, "a picture", NOW_MS + 5, sink));
    let tools: Vec<_> = rig.told.iter().filter(|told| told.2).map(|told| told.1["data"].clone()).collect();
    let expected = [
        json!({ "phase": "start", "name": "read", "toolCallId": "c1", "args": { "path": "x" } }),
        json!({ "phase": "result", "name": "read", "toolCallId": "c1", "isError": false,
            "result": { "content": [{ "type": "text", "text": "done" }] } }),
        json!({ "phase": "start", "name": "tool", "toolCallId": "k:tool:2", "args": { "text": "plain words" } }),
    ];
    assert_eq!(tools, expected);
    let order = [
        ("agent", 1, "assistant"),
        ("chat", 1, "delta"),
        ("agent", 2, "assistant"),
        ("chat", 2, "delta"),
        ("agent", 3, "tool"),
        ("agent", 4, "tool"),
        ("agent", 5, "tool"),
        ("agent", 6, "block"),
    ];
    assert_eq!(rig.kinds(), kinds(&order));
}

/// Each way to end has its own last words. One row each: the failure, what it ends as, the kind for chats, and the
/// order in which both are told.
#[test]
fn each_failure_has_its_last_words() {
    let rows = [
        (FailureCode::AgentDied, "error", "error", json!("unknown"), ["agent", "chat"]),
        (FailureCode::DeadlineExceeded, "timeout", "error", json!("timeout"), ["agent", "chat"]),
        (FailureCode::Overloaded, "error", "error", json!("rate_limit"), ["agent", "chat"]),
        (FailureCode::Cancelled, "error", "aborted", Value::Null, ["chat", "agent"]),
        (FailureCode::NotAddressed, "ok", "final", Value::Null, ["agent", "chat"]),
    ];
    for (code, status, state, kind, order) in rows {
        let mut rig = Rig::new();
        rig.say("half", NOW_MS);
        rig.told.clear();
        rig.tell(|run, sink| assert_eq!(run.fail(code, "why", NOW_MS + 1, sink).status(), status));
        let names: Vec<_> = rig.told.iter().map(|told| told.0.as_str()).collect();
        assert_eq!(names, order, "{code:?}");
        let chat = &rig.told.iter().find(|told| told.0 == "chat").expect("told").1;
        assert_eq!((&chat["state"], &chat["errorKind"]), (&json!(state), &kind), "{code:?}");
        assert_eq!(chat["message"]["content"][0]["text"], json!("half"));
    }
    let mut rig = Rig::new();
    rig.tell(|run, sink| drop(run.fail(FailureCode::NotAddressed, "", NOW_MS, sink)));
    assert_eq!(rig.told[1].1["message"], Value::Null, "nothing was said");
}
