//! What is known of a session, and which values are allowed in it.
//!
//! A row is kept as JSON in the index, so that a later version may add fields: a field that is missing has its
//! default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest key of a session, in bytes; that of the protocol.
pub const KEY_BYTES_MAX: usize = 512;
/// Longest name of an agent.
pub const AGENT_BYTES_MAX: usize = 64;
/// Longest name of a channel.
pub const CHANNEL_BYTES_MAX: usize = 64;
/// Longest label.
pub const LABEL_BYTES_MAX: usize = 512;
/// Most preferences of a session.
pub const PREFERENCES_MAX: usize = 64;
/// Longest name of a preference.
pub const PREFERENCE_NAME_BYTES_MAX: usize = 64;
/// Longest text of a preference.
pub const PREFERENCE_TEXT_BYTES_MAX: usize = 4096;
/// The preference that says since when a session is pinned; lists can ask for it.
pub const PINNED: &str = "pinnedAt";
/// Most context references of a session.
pub const REFERENCES_MAX: usize = 64;
/// Longest kind or target of a context reference.
pub const REFERENCE_BYTES_MAX: usize = 1024;

/// Names a session for as long as it is there; also after a reset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(Uuid);

impl SessionId {
    /// One that nobody has. It begins with the time, so that sessions of one time lie together in the index.
    pub fn fresh() -> Self {
        Self(Uuid::now_v7())
    }

    /// What is written in file names and shown to clients.
    pub fn parse(text: &str) -> Option<Self> {
        // Other spellings of the same id would be other file names.
        Uuid::try_parse(text).ok().map(Self).filter(|id| id.to_string() == text)
    }

    pub(crate) fn as_u128(self) -> u128 {
        self.0.as_u128()
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_hyphenated().fmt(formatter)
    }
}

/// The value of a preference.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Preference {
    /// As `pinned`.
    Switch(bool),
    /// As a number of milliseconds.
    Integer(i64),
    /// As a temperature.
    Decimal(f64),
    /// As the name of a model.
    Text(String),
}

/// Something outside the transcript that belongs to what the session is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ContextReference {
    /// What it is: `file`, `session`, `url`.
    pub kind: String,
    /// Which one.
    pub target: String,
}

/// What the messages of a session have cost, as far as agents have told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Read by the model.
    pub input: u64,
    /// Written by the model.
    pub output: u64,
}

/// How far a transcript goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    /// Rows, without the header.
    pub rows: u64,
    /// Bytes, with the header.
    pub bytes: u64,
}

/// What is known of a session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionRow {
    /// What clients call it.
    pub key: String,
    /// Names its transcript.
    pub session_id: SessionId,
    /// Whose it is.
    pub agent: String,
    /// Where it came from.
    pub channel: String,
    /// What its user calls it; no two sessions have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it began, Unix milliseconds.
    pub created_ms: u64,
    /// When something was last said in it, or it was last changed.
    pub updated_ms: u64,
    /// Counts its resets, from 1.
    pub lifecycle_revision: u64,
    /// Row of the transcript with which this revision begins.
    #[serde(default)]
    pub first_row: u64,
    /// What its messages have cost since the last reset; `None` if nobody has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenCounts>,
    /// Its own settings, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preferences: BTreeMap<String, Preference>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<ContextReference>,
    /// Put aside; its transcript lies in `archive/`.
    #[serde(default)]
    pub archived: bool,
    /// What is in the transcript.
    pub written: Position,
    /// What of it is on the disk whatever happens.
    pub committed: Position,
    /// Id of the last row, the parent of the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_row_id: Option<String>,
}

impl SessionRow {
    /// A session that begins now.
    pub fn new(key: &str, agent: &str, channel: &str, now_ms: u64) -> Self {
        Self {
            key: key.to_owned(),
            session_id: SessionId::fresh(),
            agent: agent.to_owned(),
            channel: channel.to_owned(),
            label: None,
            created_ms: now_ms,
            updated_ms: now_ms,
            lifecycle_revision: 1,
            first_row: 0,
            tokens: None,
            preferences: BTreeMap::new(),
            context: Vec::new(),
            archived: false,
            written: Position::default(),
            committed: Position::default(),
            last_row_id: None,
        }
    }

    /// Whether its user wants it at hand.
    pub fn is_pinned(&self) -> bool {
        self.preferences.contains_key(PINNED)
    }

    /// Rows since the last reset, that of the reset included.
    pub fn message_count(&self) -> u64 {
        self.written.rows.saturating_sub(self.first_row)
    }
}

/// What is to be changed of a session. What is `None` stays.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Patch {
    /// Another label, or none.
    pub label: Option<Option<String>>,
    /// Put aside, or taken back.
    pub archived: Option<bool>,
    /// Preferences by name; `None` clears one.
    pub preferences: BTreeMap<String, Option<Preference>>,
    /// All context references.
    pub context: Option<Vec<ContextReference>>,
}

/// A value that is not allowed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} {value:?}: {rule}")]
pub struct Invalid {
    /// Which value.
    pub what: &'static str,
    /// Its beginning.
    pub value: String,
    /// What is expected.
    pub rule: String,
}

impl Invalid {
    pub(crate) fn new(what: &'static str, value: &str, rule: String) -> Self {
        Self { what, value: value.chars().take(80).collect(), rule }
    }
}

fn check_text(what: &'static str, value: &str, bytes_max: usize) -> Result<(), Invalid> {
    if value.is_empty() || value.len() > bytes_max || value.chars().any(char::is_control) {
        let rule = format!("must be 1 to {bytes_max} bytes of text without control characters");
        return Err(Invalid::new(what, value, rule));
    }
    Ok(())
}

/// A key may be any text: it never becomes part of a path.
pub(crate) fn check_key(key: &str) -> Result<(), Invalid> {
    check_text("session key", key, KEY_BYTES_MAX)
}

pub(crate) fn check_channel(channel: &str) -> Result<(), Invalid> {
    check_text("channel", channel, CHANNEL_BYTES_MAX)
}

/// The name of an agent is the name of its directory.
pub(crate) fn check_agent(agent: &str) -> Result<(), Invalid> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || byte == b'.';
    let named = !agent.is_empty() && agent.len() <= AGENT_BYTES_MAX && !agent.starts_with('.');
    if named && agent.bytes().all(plain) {
        return Ok(());
    }
    let rule =
        format!("must be 1 to {AGENT_BYTES_MAX} of a-z, A-Z, 0-9, '-', '_', '.', not beginning with '.'");
    Err(Invalid::new("agent", agent, rule))
}

impl Patch {
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if let Some(Some(label)) = &self.label {
            check_text("label", label, LABEL_BYTES_MAX)?;
        }
        for (name, value) in &self.preferences {
            check_text("preference name", name, PREFERENCE_NAME_BYTES_MAX)?;
            let long =
                matches!(value, Some(Preference::Text(text)) if text.len() > PREFERENCE_TEXT_BYTES_MAX);
            let endless = matches!(value, Some(Preference::Decimal(number)) if !number.is_finite());
            if long || endless {
                let rule = format!("must be a finite number or at most {PREFERENCE_TEXT_BYTES_MAX} bytes");
                return Err(Invalid::new("preference", name, rule));
            }
        }
        let context = self.context.as_deref().unwrap_or_default();
        if context.len() > REFERENCES_MAX {
            let rule = format!("must be at most {REFERENCES_MAX}");
            return Err(Invalid::new("context references", &context.len().to_string(), rule));
        }
        for ContextReference { kind, target } in context {
            check_text("kind of a context reference", kind, REFERENCE_BYTES_MAX)?;
            check_text("target of a context reference", target, REFERENCE_BYTES_MAX)?;
        }
        Ok(())
    }

    /// Changes the row, all or nothing. The flag `archived` is changed by whoever moves the transcript.
    pub(crate) fn apply(&self, row: &mut SessionRow, now_ms: u64) -> Result<(), Invalid> {
        self.check()?;
        let mut preferences = row.preferences.clone();
        for (name, value) in &self.preferences {
            match value {
                Some(value) => preferences.insert(name.clone(), value.clone()),
                None => preferences.remove(name),
            };
        }
        if preferences.len() > PREFERENCES_MAX {
            let rule = format!("must be at most {PREFERENCES_MAX}");
            return Err(Invalid::new("preferences", &preferences.len().to_string(), rule));
        }
        row.preferences = preferences;
        if let Some(label) = &self.label {
            row.label.clone_from(label);
        }
        if let Some(context) = &self.context {
            row.context.clone_from(context);
        }
        row.updated_ms = row.updated_ms.max(now_ms);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of agents are names of directories: whatever leads elsewhere is refused.
    #[test]
    fn agents_are_plain_names() {
        let long = "a".repeat(AGENT_BYTES_MAX);
        for good in ["main", "Agent-7", "a_b.c", &long] {
            assert_eq!(check_agent(good), Ok(()), "{good}");
        }
        let longer = "a".repeat(AGENT_BYTES_MAX + 1);
        for bad in ["", ".", "..", ".x", "a/b", "a\0", "ä", "a b", &longer] {
            let Err(Invalid { what, .. }) = check_agent(bad) else { panic!("{bad:?} is allowed") };
            assert_eq!(what, "agent");
        }
    }

    /// A patch changes all or nothing, clears with `None`, and keeps to every limit.
    #[test]
    fn a_patch_is_whole() {
        let mut row = SessionRow::new("agent:main:main", "main", "webchat", 10);
        let text = |text: &str| Some(Preference::Text(text.to_owned()));
        let mut patch = Patch { label: Some(Some("work".into())), ..Patch::default() };
        patch.preferences =
            [("model".into(), text("m1")), ("pinned".into(), Some(Preference::Switch(true)))].into();
        patch.apply(&mut row, 20).expect("it is allowed");
        assert_eq!((row.label.as_deref(), row.updated_ms, row.preferences.len()), (Some("work"), 20, 2));
        patch = Patch { label: Some(None), preferences: [("model".into(), None)].into(), ..Patch::default() };
        patch.apply(&mut row, 15).expect("it is allowed");
        assert_eq!((row.label.as_deref(), row.updated_ms, row.preferences.len()), (None, 20, 1));

        let before = row.clone();
        let many = (0..PREFERENCES_MAX).map(|index| (format!("p{index}"), text("x")));
        let reference = ContextReference { kind: "file".into(), target: String::new() };
        let bad = [
            Patch { label: Some(Some(String::new())), ..Patch::default() },
            Patch { label: Some(Some("x".repeat(LABEL_BYTES_MAX + 1))), ..Patch::default() },
            Patch { preferences: many.collect(), ..Patch::default() },
            Patch {
                preferences: [("t".into(), text(&"x".repeat(PREFERENCE_TEXT_BYTES_MAX + 1)))].into(),
                ..Patch::default()
            },
            Patch {
                preferences: [("t".into(), Some(Preference::Decimal(f64::NAN)))].into(),
                ..Patch::default()
            },
            Patch { context: Some(vec![reference]), ..Patch::default() },
        ];
        for patch in bad {
            assert!(patch.apply(&mut row, 99).is_err(), "{patch:?}");
            assert_eq!(row, before);
        }
    }

    /// A row of an earlier version, which lacks what was added later, is read with defaults.
    #[test]
    fn missing_fields_have_defaults() {
        let row = SessionRow::new("k", "a", "c", 1);
        let text = serde_json::to_string(&row).expect("rows are JSON");
        assert!(!text.contains("preferences") && !text.contains("label"), "{text}");
        assert_eq!(serde_json::from_str::<SessionRow>(&text).expect("it is a row"), row);
    }
}
