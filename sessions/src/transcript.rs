//! What stands in a transcript, line by line.
//!
//! The first line says whose it is; each other one is a row. Every line is one JSON object and ends with a newline, so
//! that a line without one has been torn. The layout is in docs/sessions.md.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::row::{Invalid, SessionId, SessionRow};

/// Format of transcripts; a later one is left alone.
pub const TRANSCRIPT_VERSION: u32 = 1;
/// Longest id of a row: the longest that clients give a message, and what tells apart the rows of one.
pub const ROW_ID_BYTES_MAX: usize = 320;
/// Longest line.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// Who says something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The user.
    User,
    /// The agent.
    Assistant,
    /// A tool that the agent has used.
    ToolResult,
    /// The gateway.
    System,
}

/// What a reply has cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read by the model.
    #[serde(default)]
    pub input: u64,
    /// Tokens written by it.
    #[serde(default)]
    pub output: u64,
}

/// What is said. Fields of other programs are not kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// By whom.
    pub role: Role,
    /// A JSON string, or an array of parts.
    pub content: Box<RawValue>,
    /// The run that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Whose model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Which model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What it has cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

impl Message {
    /// Somebody says a text.
    pub fn text(role: Role, text: &str) -> Self {
        let content = serde_json::value::to_raw_value(text).expect("a text is JSON");
        Self::new(role, content)
    }

    /// Somebody says parts: a JSON array.
    pub fn parts(role: Role, json: &str) -> Result<Self, Invalid> {
        let rule = || Invalid::new("content", json, "must be a JSON array".to_owned());
        if !json.trim_start().starts_with('[') {
            return Err(rule());
        }
        // Between the values of valid JSON a newline is only space; inside of strings there is none.
        let content = RawValue::from_string(json.replace(['\n', '\r'], " ")).map_err(|_| rule())?;
        Ok(Self::new(role, content))
    }

    fn new(role: Role, content: Box<RawValue>) -> Self {
        Self { role, content, run_id: None, provider: None, model: None, usage: None, stop_reason: None }
    }

    /// The content as text: itself, or the texts of its parts, one a paragraph.
    pub fn to_text(&self) -> String {
        #[derive(Deserialize)]
        struct Part {
            #[serde(default)]
            text: String,
        }
        if let Ok(text) = serde_json::from_str::<String>(self.content.get()) {
            return text;
        }
        let parts: Vec<Part> = serde_json::from_str(self.content.get()).unwrap_or_default();
        let texts: Vec<_> = parts.into_iter().map(|part| part.text).filter(|text| !text.is_empty()).collect();
        texts.join("\n\n")
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        let rest = |message: &Self| {
            let Self { role, run_id, provider, model, usage, stop_reason, .. } = message.clone();
            (role, run_id, provider, model, usage, stop_reason)
        };
        self.content.get() == other.content.get() && rest(self) == rest(other)
    }
}

/// What a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RowKind {
    /// Somebody says something.
    Message,
    /// The session begins anew.
    Reset,
}

/// A row of a transcript.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TranscriptRow {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: RowKind,
    /// Its id; no two rows of a session have the same.
    pub id: String,
    /// The row before.
    pub parent_id: Option<String>,
    /// When it was said, Unix milliseconds.
    pub timestamp: u64,
    /// Of a reset: which revision begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle_revision: Option<u64>,
    /// What is said.
    pub message: Message,
}

impl TranscriptRow {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.id.is_empty() || self.id.len() > ROW_ID_BYTES_MAX {
            let rule = format!("must be 1 to {ROW_ID_BYTES_MAX} bytes");
            return Err(Invalid::new("row id", &self.id, rule));
        }
        Ok(())
    }

    /// Counts the row as the next one of its session, which ends there.
    pub(crate) fn count(&self, row: &mut SessionRow, end: u64) {
        if self.kind == RowKind::Reset {
            row.lifecycle_revision = self.lifecycle_revision.unwrap_or(row.lifecycle_revision + 1);
            row.first_row = row.written.rows;
            row.tokens = None;
        }
        if let Some(usage) = self.message.usage {
            let tokens = row.tokens.get_or_insert_default();
            tokens.input = tokens.input.saturating_add(usage.input);
            tokens.output = tokens.output.saturating_add(usage.output);
        }
        row.written.rows += 1;
        row.written.bytes = end;
        row.updated_ms = row.updated_ms.max(self.timestamp);
        row.last_row_id = Some(self.id.clone());
    }
}

/// The first line: enough to make the row of the session again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    #[serde(rename = "type")]
    kind: HeaderKind,
    pub version: u32,
    pub id: SessionId,
    pub key: String,
    pub agent: String,
    pub channel: String,
    pub timestamp: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum HeaderKind {
    Session,
}

impl Header {
    pub fn of(row: &SessionRow) -> Self {
        Self {
            kind: HeaderKind::Session,
            version: TRANSCRIPT_VERSION,
            id: row.session_id,
            key: row.key.clone(),
            agent: row.agent.clone(),
            channel: row.channel.clone(),
            timestamp: row.created_ms,
        }
    }

    /// A row of which nothing is known but this.
    pub fn to_row(&self) -> SessionRow {
        let row = SessionRow::new(&self.key, &self.agent, &self.channel, self.timestamp);
        SessionRow { session_id: self.id, ..row }
    }
}

/// Writes a value as a line.
pub(crate) fn write_line(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(&mut *out, value).expect("memory can be written, and keys are texts");
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(message: Message) -> TranscriptRow {
        TranscriptRow {
            kind: RowKind::Message,
            id: "m-1".into(),
            parent_id: None,
            timestamp: 1_711_843_200_000,
            lifecycle_revision: None,
            message,
        }
    }

    /// Rows look as users know them, and are read back as they were written.
    #[test]
    fn rows_are_lines() {
        let mut line = Vec::new();
        let mut told = row(Message::text(Role::User, "Hello,\n\"you\""));
        write_line(&mut line, &told);
        let expected = r#"{"type":"message","id":"m-1","parentId":null,"timestamp":1711843200000,"message":{"role":"user","content":"Hello,\n\"you\""}}"#;
        assert_eq!(String::from_utf8(line.clone()).expect("it is text"), format!("{expected}\n"));
        assert_eq!(serde_json::from_slice::<TranscriptRow>(&line).expect("it is a row"), told);

        told.message.role = Role::ToolResult;
        told.message.usage = Some(Usage { input: 3, output: 4 });
        told.parent_id = Some("m-0".into());
        line.clear();
        write_line(&mut line, &told);
        let text = String::from_utf8(line.clone()).expect("it is text");
        assert!(text.contains(r#""parentId":"m-0""#) && text.contains(r#""role":"toolResult""#), "{text}");
        assert_eq!(serde_json::from_slice::<TranscriptRow>(&line).expect("it is a row"), told);
    }

    /// Parts stay on one line, however they were written; what is no array is refused.
    #[test]
    fn parts_are_one_line() {
        let json =
            "[\n {\"type\":\"text\",\n\"text\":\"one\\ntwo\"},\r\n{\"type\":\"image\"},{\"text\":\"three\"}]";
        let message = Message::parts(Role::Assistant, json).expect("it is an array");
        assert!(!message.content.get().contains(['\n', '\r']));
        assert_eq!(message.to_text(), "one\ntwo\n\nthree");
        for bad in ["", "{}", "[", "[\"a\nb\"] x", "7"] {
            let Err(Invalid { what, .. }) = Message::parts(Role::User, bad) else { panic!("{bad} is taken") };
            assert_eq!(what, "content");
        }
    }
}
