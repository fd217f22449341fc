//! What a stdio agent writes: lines cut from its output, and what they say.

use std::borrow::Cow;

use agent_sdk::BlockType;
use serde::Deserialize;

/// The longest line.
pub(super) const LINE_BYTES_MAX: usize = 1024 * 1024;
/// The longest id that an agent may give a skill.
const SKILL_ID_BYTES_MAX: usize = 64;
/// Where an unusable line is searched for its id.
const HINT_BYTES_MAX: usize = 512;

/// A line that can be acted on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A piece of a reply.
    Block { turn: u64, block_type: BlockType, content: Cow<'a, str> },
    /// The end of a reply.
    End { turn: u64, content: Cow<'a, str> },
    /// There will be no reply.
    Error { turn: u64, message: Cow<'a, str> },
    /// A skill is asked for. The id is the agent's own.
    Skill { id: Cow<'a, str>, skill: Cow<'a, str>, input: Cow<'a, str> },
}

/// Why a line cannot be acted on. `turn` is what it seems to be about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    #[error("a line of the agent is longer than {LINE_BYTES_MAX} bytes")]
    TooLong { turn: Option<u64> },
    #[error("a line of the agent is not a JSON object of the right form: {reason}")]
    NotJson { turn: Option<u64>, reason: String },
    #[error("id {found:?} in a line of the agent is not one it was given")]
    Id { found: String },
    #[error("id {found:?} of a skill in a line of the agent has more than {SKILL_ID_BYTES_MAX} bytes")]
    SkillId { found: String },
    #[error("a line of type skill of the agent has no \"skill\", the name of one")]
    NoSkill,
    #[error("type {found:?} in a line of the agent is not block, end, error or skill")]
    Type { turn: u64, found: String },
    #[error("a line of type {kind} of the agent has no {field:?}")]
    Missing { turn: u64, kind: &'static str, field: &'static str },
    #[error("blockType {found:?} in a line of the agent is not known")]
    BlockType { turn: u64, found: String },
}

impl LineError {
    /// The turn the line seems to be about.
    pub(super) fn turn(&self) -> Option<u64> {
        match *self {
            Self::TooLong { turn } | Self::NotJson { turn, .. } => turn,
            Self::Id { .. } | Self::SkillId { .. } | Self::NoSkill => None,
            Self::Type { turn, .. } | Self::Missing { turn, .. } | Self::BlockType { turn, .. } => Some(turn),
        }
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "blockType")]
    block_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    skill: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<Cow<'a, str>>,
}

/// Reads one line.
pub(super) fn parse(line: &[u8]) -> Result<Line<'_>, LineError> {
    let wire: Wire<'_> = serde_json::from_slice(line)
        .map_err(|error| LineError::NotJson { turn: hint(line), reason: error.to_string() })?;
    if wire.kind == "skill" {
        if wire.id.len() > SKILL_ID_BYTES_MAX {
            return Err(LineError::SkillId { found: wire.id.into_owned() });
        }
        let skill = wire.skill.ok_or(LineError::NoSkill)?;
        return Ok(Line::Skill { id: wire.id, skill, input: wire.input.unwrap_or_default() });
    }
    let Ok(turn) = wire.id.parse() else { return Err(LineError::Id { found: wire.id.into_owned() }) };
    let missing = |kind, field| LineError::Missing { turn, kind, field };
    match &*wire.kind {
        "block" => {
            let block_type = match &wire.block_type {
                None => BlockType::Text,
                Some(name) => BlockType::from_name(name)
                    .ok_or_else(|| LineError::BlockType { turn, found: name.clone().into_owned() })?,
            };
            let content = wire.content.ok_or_else(|| missing("block", "content"))?;
            Ok(Line::Block { turn, block_type, content })
        }
        "end" => Ok(Line::End { turn, content: wire.content.unwrap_or_default() }),
        "error" => {
            let message = wire.message.ok_or_else(|| missing("error", "message"))?;
            Ok(Line::Error { turn, message })
        }
        other => Err(LineError::Type { turn, found: other.to_owned() }),
    }
}

/// The id in a line that cannot be read whole: the digits behind the first `"id":`.
fn hint(line: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"id\"";
    let start = &line[..line.len().min(HINT_BYTES_MAX)];
    let key = start.windows(KEY.len()).position(|window| window == KEY)?;
    let rest = start[key + KEY.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").unwrap_or(rest);
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // Digits up to the end of what was searched may be half a number.
    rest.get(digits)?;
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok() // No digits, or too many: no hint.
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    partial: Vec<u8>,
    /// Whether the rest of a line that was too long is being skipped.
    skipping: bool,
}

impl Splitter {
    /// Hands every line that `chunk` completes to `each`.
    pub(super) fn feed(&mut self, mut chunk: &[u8], mut each: impl FnMut(Result<&[u8], LineError>)) {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let line = &chunk[..end];
            chunk = &chunk[end + 1..];
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.partial.is_empty() {
                each(bounded(line));
            } else {
                self.partial.extend_from_slice(line);
                each(bounded(&self.partial));
                self.partial.clear();
            }
        }
        if self.skipping {
            return;
        }
        self.partial.extend_from_slice(chunk);
        if let Err(error) = bounded(&self.partial) {
            each(Err(error));
            // A rare long line must not leave its memory behind for good.
            self.partial = Vec::new();
            self.skipping = true;
        }
    }

    /// What came behind the last line end.
    pub(super) fn rest(&self) -> &[u8] {
        &self.partial
    }
}

fn bounded(line: &[u8]) -> Result<&[u8], LineError> {
    if line.len() > LINE_BYTES_MAX { Err(LineError::TooLong { turn: hint(line) }) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row per form of a line, and per reason for refusing one.
    #[test]
    fn lines_are_read_or_refused_by_name() {
        let text = |text: &'static str| Cow::Borrowed(text);
        let block = |block_type, content| Ok(Line::Block { turn: 7, block_type, content: text(content) });
        let long_id = format!(r#"{{"type":"skill","id":"{}","skill":"count"}}"#, "x".repeat(65));
        let rows: [(&str, Result<Line<'_>, LineError>); 17] = [
            (r#"{"type":"block","id":"7","content":"a\nb"}"#, block(BlockType::Text, "a\nb")),
            (r#"{"type":"block","id":"7","content":"x","blockType":"code"}"#, block(BlockType::Code, "x")),
            (r#" {"id":"7","more":1,"type":"end"} "#, Ok(Line::End { turn: 7, content: text("") })),
            (r#"{"type":"end","id":"7","content":"🦞"}"#, Ok(Line::End { turn: 7, content: text("🦞") })),
            (
                r#"{"type":"error","id":"7","message":"no key"}"#,
                Ok(Line::Error { turn: 7, message: text("no key") }),
            ),
            (
                r#"{"type":"error","id":"7"}"#,
                Err(LineError::Missing { turn: 7, kind: "error", field: "message" }),
            ),
            (
                r#"{"type":"block","id":"7"}"#,
                Err(LineError::Missing { turn: 7, kind: "block", field: "content" }),
            ),
            (
                r#"{"type":"block","id":"7","content":"x","blockType":"song"}"#,
                Err(LineError::BlockType { turn: 7, found: "song".to_owned() }),
            ),
            (
                r#"{"type":"skill","id":"my 1","skill":"count","input":"a\nb"}"#,
                Ok(Line::Skill { id: "my 1".into(), skill: "count".into(), input: "a\nb".into() }),
            ),
            (
                r#"{"type":"skill","id":"","skill":"count"}"#,
                Ok(Line::Skill { id: "".into(), skill: "count".into(), input: "".into() }),
            ),
            (r#"{"type":"skill","id":"1"}"#, Err(LineError::NoSkill)),
            (&long_id, Err(LineError::SkillId { found: "x".repeat(65) })),
            (r#"{"type":"start","id":"7"}"#, Err(LineError::Type { turn: 7, found: "start".to_owned() })),
            (r#"{"type":"end","id":"x"}"#, Err(LineError::Id { found: "x".to_owned() })),
            (
                r#"{"type":"end","id":"7","content":"#,
                Err(LineError::NotJson {
                    turn: Some(7),
                    reason: "EOF while parsing a value at line 1 column 33".to_owned(),
                }),
            ),
            (
                r#"{"type":"end","id":7}"#,
                Err(LineError::NotJson {
                    turn: Some(7),
                    reason: "invalid type: integer `7`, expected a string at line 1 column 20".to_owned(),
                }),
            ),
            (
                "starting up",
                Err(LineError::NotJson {
                    turn: None,
                    reason: "expected value at line 1 column 1".to_owned(),
                }),
            ),
        ];
        for (line, expected) in rows {
            assert_eq!(parse(line.as_bytes()), expected, "{line}");
        }
    }

    /// A number is taken from an unusable line only if it is certainly whole.
    #[test]
    fn hints_are_whole_numbers() {
        assert_eq!(hint(br#"{ "id" : "12", "#), Some(12));
        assert_eq!(hint(br#"{"id":12,"#), Some(12));
        assert_eq!(hint(br#"{"id":"12"#), None);
        assert_eq!(hint(br#"{"id":"x12""#), None);
        assert_eq!(hint(br#"{"id":"99999999999999999999","#), None);
        assert_eq!(hint(br#"{"no":1}"#), None);
    }

    /// Lines are the same however the stream is cut; both sides of the limit; the stream goes on after it.
    #[test]
    fn streams_are_cut_into_lines() {
        let longest = "x".repeat(LINE_BYTES_MAX);
        let too_long = format!(r#"{{"id":"5","content":"{longest}"#);
        let stream = format!("one\n\ntwo\n{longest}\n{too_long}\nthree\nrest");
        for chunk_bytes in [1, 7, 65_536, stream.len()] {
            let mut splitter = Splitter::default();
            let mut lines = Vec::new();
            for chunk in stream.as_bytes().chunks(chunk_bytes) {
                splitter.feed(chunk, |line| lines.push(line.map(<[u8]>::len)));
            }
            let expected =
                [Ok(3), Ok(0), Ok(3), Ok(LINE_BYTES_MAX), Err(LineError::TooLong { turn: Some(5) }), Ok(5)];
            assert_eq!(lines, expected, "chunks of {chunk_bytes}");
            assert_eq!(splitter.rest(), b"rest");
        }
    }
}
