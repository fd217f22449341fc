//! What a stdio agent reads: one JSON object a line.

use std::borrow::Cow;
use std::io::{self, Write};

use agent_sdk::{SkillOutcome, SkillResult, Turn};
use serde::Serialize;
use serde_json::value::RawValue;

/// A message as the agent reads it.
#[derive(Serialize)]
struct MessageLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    attempt: u32,
    session: &'a str,
    agent: &'a str,
    channel: &'a str,
    user: &'a str,
    content: Content<'a>,
    metadata: Metadata<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Json(&'a RawValue),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Metadata<'a> {
    Json(&'a RawValue),
    Empty {},
}

/// Writes a message as one line.
pub(super) fn write(into: &mut impl Write, turn: &Turn<'_>) -> io::Result<()> {
    let (content_line, metadata_line) = (one_line(turn.content()), one_line(turn.metadata()));
    let json = if turn.is_json() { raw(&content_line) } else { None };
    let line = MessageLine {
        kind: "message",
        id: turn.id().turn().to_string(),
        attempt: turn.id().attempt(),
        session: turn.thread(),
        agent: turn.agent(),
        channel: turn.channel(),
        user: turn.user(),
        content: json.map_or(Content::Text(turn.content()), Content::Json),
        metadata: raw(&metadata_line).map_or(Metadata::Empty {}, Metadata::Json),
    };
    serde_json::to_writer(&mut *into, &line)?;
    into.write_all(b"\n")
}

/// Writes that nobody waits for a turn any more, as one line.
pub(super) fn write_cancel(into: &mut impl Write, turn: u64) -> io::Result<()> {
    writeln!(into, r#"{{"type":"cancel","id":"{turn}"}}"#)
}

#[derive(Serialize)]
struct SkillLine<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(flatten)]
    result: SkillSaid<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum SkillSaid<'a> {
    Output(&'a str),
    Error { code: &'static str, message: &'a str },
}

/// Writes what has come of a skill that was asked for under that id, as one line.
pub(super) fn write_skill_result(into: &mut impl Write, id: &str, result: &SkillResult) -> io::Result<()> {
    let SkillResult { outcome, output, .. } = result;
    let result = match outcome {
        SkillOutcome::Done => SkillSaid::Output(output),
        other => SkillSaid::Error { code: other.name(), message: output },
    };
    serde_json::to_writer(&mut *into, &SkillLine { kind: "skill_result", id, result })?;
    into.write_all(b"\n")
}

/// JSON text without line ends. They can only lie between tokens: inside strings JSON escapes them.
fn one_line(json: &str) -> Cow<'_, str> {
    if json.contains(['\n', '\r']) {
        Cow::Owned(json.replace(['\n', '\r'], " "))
    } else {
        Cow::Borrowed(json)
    }
}

/// JSON text that really is some. What else a client sent goes on as text, or not at all.
fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok() // The caller has something else for text that is no JSON.
}

#[cfg(test)]
mod tests {
    use super::super::fixture::pair;
    use super::*;
    use agent_sdk::{Agent, Received};
    use shm_transport::envelope::{CONTENT_JSON, MessageV2};

    fn check(message: &MessageV2, line: &str) {
        let (mut engine, inherited) = pair(65_536);
        let (mut inbox, _outbox) = Agent::attach_to(inherited).unwrap().split();
        engine.say_all(42, message);
        let mut written = Vec::new();
        let received = inbox.receive(std::time::Duration::ZERO, |turn| write(&mut written, &turn).unwrap());
        assert_eq!(received.unwrap(), Received::Messages(1));
        assert_eq!(String::from_utf8(written).unwrap(), format!("{line}\n"));
    }

    /// What a skill has said is a string, whatever it holds; what has gone wrong has a code.
    #[test]
    fn results_of_skills_are_lines() {
        let line = |outcome, output: &str| {
            let mut written = Vec::new();
            let result = SkillResult { call: 7, outcome, output: output.into() };
            write_skill_result(&mut written, "a\"b", &result).unwrap();
            String::from_utf8(written).unwrap()
        };
        let start = r#"{"type":"skill_result","id":"a\"b","#;
        assert_eq!(line(SkillOutcome::Done, "two\nlines"), format!("{start}\"output\":\"two\\nlines\"}}\n"));
        assert_eq!(
            line(SkillOutcome::TimedOut, "late"),
            format!("{start}\"error\":{{\"code\":\"timed_out\",\"message\":\"late\"}}}}\n")
        );
    }

    /// One message a line, whatever it holds.
    #[test]
    fn messages_are_lines() {
        let message = MessageV2 {
            agent: "helper".into(),
            channel: "websocket".into(),
            user: "ann".into(),
            thread: "t-1".into(),
            content: "two\n\"lines\"".into(),
            ..MessageV2::default()
        };
        let start = r#"{"type":"message","id":"42","attempt":1,"session":"t-1","agent":"helper","#;
        let start = format!(r#"{start}"channel":"websocket","user":"ann","content":"#);
        check(&message, &format!(r#"{start}"two\n\"lines\"","metadata":{{}}}}"#));
        let json = MessageV2 {
            content: "{\n  \"a\": \"b\\n\"\r\n}".into(),
            content_kind: CONTENT_JSON,
            metadata: "{\"k\":\n1}".into(),
            ..message.clone()
        };
        check(&json, &format!(r#"{start}{{   "a": "b\n"  }},"metadata":{{"k": 1}}}}"#));
        let broken =
            MessageV2 { content: "{".into(), content_kind: CONTENT_JSON, metadata: "}".into(), ..message };
        check(&broken, &format!(r#"{start}"{{","metadata":{{}}}}"#));
    }
}
