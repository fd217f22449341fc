//! The `{"type":"message"}` dialect: one JSON object a frame, parsed once, borrowed from the frame.
//!
//! In: `message`, `cancel`, `status` and `resume`. A field that is null counts as absent; a field that is there twice is
//! refused; unknown fields are ignored. Nesting is bounded by [`DEPTH_MAX`](super::fields::DEPTH_MAX) before anything is parsed, so
//! skipping what is ignored is bounded too. Frames out are in [`frames`].

pub mod frames;
pub mod metadata;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use shm_transport::envelope::{CONTENT_JSON, CONTENT_TEXT};

use self::metadata::Wishes;
use super::fields::{Rule, Unread, field_refusal, optional_string, read_object, required_string, string};
use super::place::{self, Place};
use crate::refusal::{Code, Refusal};

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
    /// What a conversation has said since the client was there last.
    Resume {
        /// As the client calls this request.
        id: Option<Cow<'a, str>>,
        /// Which conversation.
        session: Cow<'a, str>,
        /// The last place that the client has seen.
        after: Place,
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
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    offset: Option<&'a RawValue>,
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
    let fields: Fields<'_> = read_object(text).map_err(Unread::nameless)?;
    let id = optional_string(fields.id, &ID).map_err(Unread::nameless)?;
    let refused = |refusal| Unread { id: id.clone(), refusal };
    match required_string(fields.r#type, &TYPE).map_err(refused)?.as_ref() {
        "message" => match read_message(&fields) {
            Ok(message) => Ok(Request::Message(Message { id, ..message })),
            Err(refusal) => Err(Unread { id, refusal }),
        },
        "cancel" => match id {
            Some(id) => Ok(Request::Cancel { id }),
            None => Err(Unread::nameless(field_refusal(Code::MissingField, &ID))),
        },
        "status" => Ok(Request::Status { id }),
        "resume" => {
            let session = required_string(fields.session_id, &SESSION).map_err(refused)?;
            let after = place::read((fields.epoch, &EPOCH), (fields.offset, &OFFSET)).map_err(refused)?;
            Ok(Request::Resume { id, session, after })
        }
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
pub(super) fn read_content(raw: &str) -> Result<(Cow<'_, str>, u8), Refusal<'static>> {
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

const TYPE: Rule =
    Rule { field: "type", expected: "\"message\", \"cancel\", \"status\" or \"resume\"", bytes_max: 64 };
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
/// The epoch of a place.
pub(super) const EPOCH: Rule =
    Rule { field: "epoch", expected: "a whole number from 1 to 16777215, as it was told", bytes_max: 0 };
/// The offset of a place.
pub(super) const OFFSET: Rule = Rule {
    field: "offset",
    expected: "a whole number from 0 to 1099511627775, as it was told",
    bytes_max: 0,
};
