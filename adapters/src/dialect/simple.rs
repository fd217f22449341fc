//! The `{"type":"message"}` dialect: one JSON object a frame, parsed once, borrowed from the frame.
//!
//! In: `message`, `cancel` and `status`. A field that is null counts as absent; a field that is there twice is
//! refused; unknown fields are ignored. Nesting is bounded by [`DEPTH_MAX`] before anything is parsed, so
//! skipping what is ignored is bounded too. Frames out are in [`frames`].

pub mod frames;
pub mod metadata;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use shm_transport::envelope::{CONTENT_JSON, CONTENT_TEXT};

use self::metadata::Wishes;
use crate::refusal::{Code, Refusal};

/// How many arrays and objects may lie inside each other, the frame itself included.
pub const DEPTH_MAX: usize = 64;
/// The longest name of an agent.
pub const AGENT_BYTES_MAX: usize = 128;
/// The longest `id`.
pub const ID_BYTES_MAX: usize = 256;
/// The longest `sessionId`.
pub const SESSION_BYTES_MAX: usize = 256;

/// What a client wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Something to say to an agent.
    Message(Message<'a>),
    /// No reply any more.
    Cancel {
        /// As the client called the message.
        id: Cow<'a, str>,
    },
    /// How the gateway is.
    Status {
        /// As the client calls this request.
        id: Option<Cow<'a, str>>,
    },
}

/// A message to an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// As the client calls this message.
    pub id: Option<Cow<'a, str>>,
    /// For whom; the gateway knows, where nobody is named.
    pub agent: Option<Cow<'a, str>>,
    /// In which conversation.
    pub session: Option<Cow<'a, str>>,
    /// What it says, see `content_kind`.
    pub content: Cow<'a, str>,
    /// [`CONTENT_TEXT`] or [`CONTENT_JSON`].
    pub content_kind: u8,
    /// The metadata as it came, or an empty string.
    pub metadata: &'a str,
    /// What the client asks of the gateway, from its metadata.
    pub wishes: Wishes,
}

/// A frame that was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unread<'a> {
    /// Its `id`, where that could be read.
    pub id: Option<Cow<'a, str>>,
    /// Why.
    pub refusal: Refusal<'static>,
}

/// The fields of a frame, not looked into yet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    agent: Option<&'a RawValue>,
    #[serde(borrow)]
    session_id: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// The `{"role", "content"}` form of content.
#[derive(Deserialize)]
struct Spoken<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// Reads one text frame.
///
/// HOT: no allocation unless a string holds an escape, or there are labels.
pub fn parse(text: &str) -> Result<Request<'_>, Unread<'_>> {
    if too_deep(text.as_bytes()) {
        return Err(Unread { id: None, refusal: refuse_depth() });
    }
    // Asked here, since serde would read an array as the fields in order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Unread { id: None, refusal: refuse_other_than_object() });
    }
    let fields: Fields<'_> =
        serde_json::from_str(text).map_err(|error| Unread { id: None, refusal: refuse_json(&error) })?;
    let id = optional_string(fields.id, &ID).map_err(|refusal| Unread { id: None, refusal })?;
    let refused = |refusal| Unread { id: id.clone(), refusal };
    match required_string(fields.r#type, &TYPE).map_err(refused)?.as_ref() {
        "message" => match read_message(&fields) {
            Ok(message) => Ok(Request::Message(Message { id, ..message })),
            Err(refusal) => Err(Unread { id, refusal }),
        },
        "cancel" => match id {
            Some(id) => Ok(Request::Cancel { id }),
            None => Err(Unread { id: None, refusal: field_refusal(Code::MissingField, &ID) }),
        },
        "status" => Ok(Request::Status { id }),
        _ => Err(Unread { id, refusal: field_refusal(Code::UnknownType, &TYPE) }),
    }
}

/// The message without its id.
fn read_message<'a>(fields: &Fields<'a>) -> Result<Message<'a>, Refusal<'static>> {
    let agent = optional_string(fields.agent, &AGENT)?;
    let session = optional_string(fields.session_id, &SESSION)?;
    let content = fields.content.ok_or_else(|| field_refusal(Code::MissingField, &CONTENT))?;
    let (content, content_kind) = read_content(content.get())?;
    let wishes = match fields.metadata {
        None => Wishes::default(),
        Some(raw) => metadata::read(raw.get())?,
    };
    let metadata = fields.metadata.map_or("", RawValue::get);
    Ok(Message { id: None, agent, session, content, content_kind, metadata, wishes })
}

/// Text where the content is a string or an object whose `content` is one; otherwise the JSON as it came.
fn read_content(raw: &str) -> Result<(Cow<'_, str>, u8), Refusal<'static>> {
    if raw.starts_with('"') {
        return Ok((string(raw).ok_or_else(|| field_refusal(Code::InvalidField, &CONTENT))?, CONTENT_TEXT));
    }
    if raw.starts_with('{') {
        // An object that says `content` twice is somebody's JSON, not ours to judge.
        let spoken = serde_json::from_str::<Spoken<'_>>(raw).ok().and_then(|spoken| spoken.content);
        if let Some(inner) = spoken.filter(|inner| inner.get().starts_with('"')) {
            let text = string(inner.get()).ok_or_else(|| field_refusal(Code::InvalidField, &CONTENT))?;
            return Ok((text, CONTENT_TEXT));
        }
    }
    Ok((Cow::Borrowed(raw), CONTENT_JSON))
}

/// What a field must be.
struct Rule {
    field: &'static str,
    expected: &'static str,
    bytes_max: usize,
}

const TYPE: Rule = Rule { field: "type", expected: "\"message\", \"cancel\" or \"status\"", bytes_max: 64 };
const ID: Rule = Rule {
    field: "id",
    expected: "a string of 1 to 256 bytes without control characters",
    bytes_max: ID_BYTES_MAX,
};
const AGENT: Rule = Rule {
    field: "agent",
    expected: "a string of 1 to 128 bytes without control characters",
    bytes_max: AGENT_BYTES_MAX,
};
const SESSION: Rule = Rule {
    field: "sessionId",
    expected: "a string of 1 to 256 bytes without control characters",
    bytes_max: SESSION_BYTES_MAX,
};
const CONTENT: Rule =
    Rule { field: "content", expected: "a string, an object or another JSON value", bytes_max: usize::MAX };

fn required_string<'a>(raw: Option<&'a RawValue>, rule: &Rule) -> Result<Cow<'a, str>, Refusal<'static>> {
    optional_string(raw, rule)?.ok_or_else(|| field_refusal(Code::MissingField, rule))
}

fn optional_string<'a>(
    raw: Option<&'a RawValue>,
    rule: &Rule,
) -> Result<Option<Cow<'a, str>>, Refusal<'static>> {
    let Some(raw) = raw else { return Ok(None) };
    let text = string(raw.get()).filter(|text| {
        let length_allowed = (1..=rule.bytes_max).contains(&text.len());
        length_allowed && !text.chars().any(char::is_control)
    });
    text.map(Some).ok_or_else(|| field_refusal(Code::InvalidField, rule))
}

/// The string that a JSON value is. Borrowed where it holds no escape: the parser has checked the rest.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        // Fails for an escape that names half a surrogate pair.
        return serde_json::from_str(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// Whether arrays and objects are nested deeper than [`DEPTH_MAX`], valid JSON or not. Asked before
/// anything is parsed, so that no parser recurses deeper.
pub(crate) fn too_deep(bytes: &[u8]) -> bool {
    // Most frames have fewer brackets than that in total, and counting is quick: short runs, so that the
    // counts fit into bytes and are added up many at a time.
    let opening: usize = bytes
        .chunks(COUNT_RUN_BYTES)
        // This bit is all that the two opening brackets differ in.
        .map(|run| usize::from(run.iter().map(|&byte| u8::from(byte | 0x20 == b'{')).sum::<u8>()))
        .sum();
    opening > DEPTH_MAX && depth(bytes) > DEPTH_MAX
}

/// Bytes whose brackets can be counted in one byte.
const COUNT_RUN_BYTES: usize = 128;

const _: () = assert!(COUNT_RUN_BYTES <= u8::MAX as usize, "a run of brackets does not overflow its count");

#[cold]
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => at = behind_string(bytes, at),
            _ => {}
        }
    }
    deepest
}

/// Where the text behind a string goes on, whose opening quote stands before `at`.
fn behind_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        // Whatever follows a backslash belongs to it.
        at += 1;
    }
    bytes.len()
}

#[cold]
fn refuse_depth() -> Refusal<'static> {
    let mut refusal = Refusal::new(Code::TooDeep, "the frame is nested too deeply");
    refusal.expected = Some("at most 64 arrays and objects inside each other");
    refusal
}

#[cold]
fn refuse_other_than_object() -> Refusal<'static> {
    let mut refusal = Refusal::new(Code::InvalidJson, "the frame is not a JSON object");
    refusal.expected = Some("one JSON object");
    refusal
}

#[cold]
fn refuse_json(error: &serde_json::Error) -> Refusal<'static> {
    let mut refusal = Refusal::new(Code::InvalidJson, format!("the frame cannot be read: {error}"));
    refusal.expected = Some(match error.classify() {
        // It is an object, and all fields take any value, so a field comes twice.
        Category::Data => "a JSON object with each field once",
        Category::Syntax | Category::Eof | Category::Io => "one JSON object",
    });
    refusal
}

#[cold]
fn field_refusal(code: Code, rule: &Rule) -> Refusal<'static> {
    let text = match code {
        Code::MissingField => format!("{} is missing", rule.field),
        _ => format!("{} must be {}", rule.field, rule.expected),
    };
    Refusal { field: Some(rule.field), expected: Some(rule.expected), ..Refusal::new(code, text) }
}
