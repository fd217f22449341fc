//! How a session and a message look to clients.

use std::borrow::Cow;
use std::collections::BTreeMap;

use adapters::openclaw::session_key::agent_of;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sessions::{NumberedRow, Preference, Role, RowKind, SessionRow, Usage};

/// The preference that says since when a session counts as not read.
pub const UNREAD: &str = "markedUnreadAt";
/// What a row is called with which a session begins anew.
const RESET_TEXT: &str = "Session reset";
/// What a text ends with that was cut.
const CUT: &str = "\n...(truncated)...";
/// What is told in the place of a message that no response has room for.
pub const OMITTED: &str = "[chat.history omitted: message too large]";

/// A row of a list: `SessionRow` of the schema.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Entry<'a> {
    key: &'a str,
    session_id: String,
    kind: &'static str,
    chat_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    channel: &'a str,
    agent_id: &'a str,
    is_main: bool,
    created_at: u64,
    updated_at: u64,
    archived: bool,
    pinned: bool,
    unread: bool,
    lifecycle_revision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_tokens: Option<u64>,
    /// Made of the first words of its user, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derived_title: Option<String>,
    /// The beginning of what was said last, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_message_preview: Option<String>,
    #[serde(flatten)]
    preferences: &'a BTreeMap<String, Preference>,
}

impl<'a> Entry<'a> {
    /// Of a session, in which perhaps a run goes on.
    pub fn of(row: &'a SessionRow, run: Option<&'a str>) -> Self {
        let (kind, chat_type) = kind_of(&row.key);
        Self {
            key: &row.key,
            session_id: row.session_id.to_string(),
            kind,
            chat_type,
            label: row.label.as_deref(),
            channel: &row.channel,
            agent_id: &row.agent,
            is_main: is_main(&row.key),
            created_at: row.created_ms,
            updated_at: row.updated_ms,
            archived: row.archived,
            pinned: row.is_pinned(),
            unread: row.preferences.contains_key(UNREAD),
            lifecycle_revision: row.lifecycle_revision.to_string(),
            status: run.map(|_| "running"),
            last_run_id: run,
            input_tokens: row.tokens.map(|tokens| tokens.input),
            output_tokens: row.tokens.map(|tokens| tokens.output),
            total_tokens: row.tokens.map(|tokens| tokens.input.saturating_add(tokens.output)),
            derived_title: None,
            last_message_preview: None,
            preferences: &row.preferences,
        }
    }
}

/// Whether it is the session that an agent is talked to in where none is named.
pub fn is_main(key: &str) -> bool {
    agent_of(key)
        .is_some_and(|agent| key.len() == "agent::main".len() + agent.len() && key.ends_with(":main"))
}

/// What kind of session a key names, and of what kind of chat.
fn kind_of(key: &str) -> (&'static str, &'static str) {
    match key {
        key if key.contains(":group:") => ("group", "group"),
        key if key.contains(":channel:") => ("group", "channel"),
        _ => ("direct", "direct"),
    }
}

/// A message as `chat.history` and `session.message` tell it.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct Shown<'a> {
    role: Role,
    content: Cow<'a, RawValue>,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'a str>,
    #[serde(rename = "__openclaw")]
    about: About<'a>,
}

#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    id: &'a str,
    /// Counts from 1.
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
    record_timestamp_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
}

impl<'a> Shown<'a> {
    /// A row, with texts of at most so many characters.
    pub fn of(told: &'a NumberedRow, chars_max: Option<usize>) -> Self {
        let NumberedRow { number, row } = told;
        let message = &row.message;
        let is_reset = row.kind == RowKind::Reset;
        let cut = chars_max.filter(|_| !is_reset).and_then(|chars_max| cut(&message.content, chars_max));
        let truncated = cut.is_some().then_some(true);
        let content = match (is_reset, cut) {
            (true, _) => Cow::Owned(text_part(RESET_TEXT)),
            (false, Some(cut)) => Cow::Owned(cut),
            (false, None) => Cow::Borrowed(&*message.content),
        };
        Self {
            role: if is_reset { Role::System } else { message.role },
            content,
            timestamp: row.timestamp,
            provider: message.provider.as_deref(),
            model: message.model.as_deref(),
            usage: message.usage,
            stop_reason: message.stop_reason.as_deref(),
            about: About {
                id: &row.id,
                seq: number + 1,
                run_id: message.run_id.as_deref(),
                record_timestamp_ms: row.timestamp,
                kind: is_reset.then_some("reset"),
                truncated,
            },
        }
    }

    /// The same, where its words have no room.
    pub fn without_words(mut self) -> Self {
        self.content = Cow::Owned(text_part(OMITTED));
        self.about.truncated = Some(true);
        self
    }
}

/// Content that is one text.
pub fn text_part(text: &str) -> Box<RawValue> {
    // Texts can always be written.
    to_raw_value(&serde_json::json!([{"type": "text", "text": text}])).unwrap_or_default()
}

/// The content with shorter texts, if one of them is longer than that.
fn cut(content: &RawValue, chars_max: usize) -> Option<Box<RawValue>> {
    if content.get().len() <= chars_max {
        return None;
    }
    let mut value: serde_json::Value = serde_json::from_str(content.get()).ok()?;
    let mut is_cut = false;
    let mut shorten = |text: &mut serde_json::Value| {
        let Some(shorter) = text.as_str().and_then(|text| beginning(text, chars_max)) else { return };
        *text = format!("{shorter}{CUT}").into();
        is_cut = true;
    };
    match &mut value {
        serde_json::Value::Array(parts) => {
            parts.iter_mut().filter_map(|part| part.get_mut("text")).for_each(shorten);
        }
        text => shorten(text),
    }
    if is_cut { to_raw_value(&value).ok() } else { None }
}

/// The first characters of a text, if it has more.
pub fn beginning(text: &str, chars_max: usize) -> Option<&str> {
    text.char_indices().nth(chars_max).map(|(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A main session is one whose key ends behind its agent; groups are told from others by their keys. One row each.
    #[test]
    fn keys_tell_what_a_session_is() {
        let rows = [
            ("agent:a:main", true, "direct"),
            ("agent:main:main", true, "direct"),
            ("agent:a:x:main", false, "direct"),
            ("agent:a:domain", false, "direct"),
            ("main", false, "direct"),
            ("agent:a:telegram:group:7", false, "group"),
            ("agent:a:discord:channel:7:thread:8", false, "channel"),
        ];
        for (key, main, chat) in rows {
            assert_eq!((is_main(key), kind_of(key).1), (main, chat), "{key}");
        }
    }
}
