//! The dialect of channel drivers: an envelope with `type`, `id`, `timestamp`, `session_id` and `payload`.
//!
//! In: `message_in`, `presence`, `reaction`, `channel_status` and `resume`; each needs an `id`, which everything that
//! answers it repeats. Rules on fields, nesting and unknown fields are those of the other dialect of text
//! frames, [`simple`](super::simple). Frames out are in [`frames`].

pub mod frames;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use shm_transport::envelope::{
    FLAG_MENTION, FLAG_NO_REPLY, FLAG_REPLY_TO_AGENT, FLAG_WANTS_ACK, Priority, SessionMode,
};

use super::fields::{
    Rule, Unread, field_refusal, optional_string, read_object, refuse_json, required_string,
};
use super::place::{self, Place};
use super::simple::metadata::{self, Wishes};
use super::simple::{self, AGENT_BYTES_MAX, ID_BYTES_MAX, SESSION_BYTES_MAX, read_content};
use crate::refusal::{Code, Refusal};

/// The longest name of a channel.
pub const CHANNEL_BYTES_MAX: usize = 128;
/// The longest name of a user.
pub const USER_BYTES_MAX: usize = 256;
/// The longest reaction.
pub const REACTION_BYTES_MAX: usize = 64;

/// What a driver says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// As the driver calls this frame.
    pub id: Cow<'a, str>,
    /// Which conversation it is about.
    pub session: Option<Cow<'a, str>>,
    /// What it is.
    pub said: Said<'a>,
}

/// What a frame of a driver is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said<'a> {
    /// A user has said something to an agent.
    Message(Message<'a>),
    /// A user has come, gone, or begun to type.
    Presence {
        /// Where.
        channel: Cow<'a, str>,
        /// Who.
        user: Cow<'a, str>,
        /// What the user does now.
        status: PresenceStatus,
    },
    /// A user has reacted to a message.
    Reaction {
        /// Where.
        channel: Cow<'a, str>,
        /// Who.
        user: Cow<'a, str>,
        /// To which message.
        message: Cow<'a, str>,
        /// How.
        reaction: Cow<'a, str>,
    },
    /// A channel can be reached through this driver, or not any more.
    ChannelStatus {
        /// Which.
        channel: Cow<'a, str>,
        /// Whether it can.
        connected: bool,
    },
    /// The driver has come back, and wants what it has missed.
    Resume(Resume<'a>),
}

/// What a driver has missed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resume<'a> {
    /// Where the conversation is.
    pub channel: Cow<'a, str>,
    /// With whom; nobody in a group.
    pub sender: Cow<'a, str>,
    /// The last place that the driver has seen.
    pub after: Place,
}

/// What a user has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// For whom; the gateway knows, where nobody is named.
    pub agent: Option<Cow<'a, str>>,
    /// Where it was said.
    pub channel: Cow<'a, str>,
    /// By whom.
    pub sender: Cow<'a, str>,
    /// What, see `content_kind`.
    pub content: Cow<'a, str>,
    /// As in [`simple::Message`](super::simple::Message).
    pub content_kind: u8,
    /// The metadata as it came, or an empty string.
    pub metadata: &'a str,
    /// What the driver asks of the gateway.
    pub wishes: Wishes,
}

/// What a user does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PresenceStatus {
    /// Is there.
    Online,
    /// Is typing.
    Typing,
    /// Has done nothing for a while.
    Idle,
    /// Is not there.
    Offline,
}

impl PresenceStatus {
    const ALL: [Self; 4] = [Self::Online, Self::Typing, Self::Idle, Self::Offline];

    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Typing => "typing",
            Self::Idle => "idle",
            Self::Offline => "offline",
        }
    }
}

/// Whether a frame of this type is of this dialect.
pub fn is_type(kind: &str) -> bool {
    matches!(kind, "message_in" | "presence" | "reaction" | "channel_status")
}

/// The name of the frame that asks for what was missed. The simple dialect has one of that name too, without a payload.
pub const RESUME: &str = "resume";

/// The fields of a frame, not looked into yet.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    session_id: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// The fields of all payloads.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    agent: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    sender: Option<&'a RawValue>,
    #[serde(borrow)]
    user_id: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    mode: Option<&'a RawValue>,
    #[serde(borrow)]
    is_direct_mention: Option<&'a RawValue>,
    #[serde(borrow)]
    is_reply_to_agent: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    message_id: Option<&'a RawValue>,
    #[serde(borrow)]
    reaction: Option<&'a RawValue>,
    #[serde(borrow)]
    epoch: Option<&'a RawValue>,
    #[serde(borrow)]
    offset: Option<&'a RawValue>,
}

/// Reads one text frame.
///
/// HOT: no allocation unless a string holds an escape, or there are labels.
pub fn parse(text: &str) -> Result<Request<'_>, Unread<'_>> {
    let fields: Fields<'_> = read_object(text).map_err(Unread::nameless)?;
    let id = required_string(fields.id, &ID).map_err(Unread::nameless)?;
    match read(&fields) {
        Ok((session, said)) => Ok(Request { id, session, said }),
        Err(refusal) => Err(Unread { id: Some(id), refusal }),
    }
}

type Read<'a> = (Option<Cow<'a, str>>, Said<'a>);

fn read<'a>(fields: &Fields<'a>) -> Result<Read<'a>, Refusal<'static>> {
    let kind = required_string(fields.r#type, &TYPE)?;
    if !is_type(&kind) && kind != RESUME {
        return Err(field_refusal(Code::UnknownType, &TYPE));
    }
    let session = optional_string(fields.session_id, &SESSION)?;
    let payload = fields.payload.ok_or_else(|| field_refusal(Code::MissingField, &PAYLOAD))?;
    // Asked here, since serde would read an array as the fields in order.
    if !payload.get().starts_with('{') {
        return Err(field_refusal(Code::InvalidField, &PAYLOAD));
    }
    let payload: Payload<'a> = serde_json::from_str(payload.get()).map_err(|error| refuse_json(&error))?;
    let channel = required_string(payload.channel, &CHANNEL)?;
    let user = || required_string(payload.user_id.or(payload.sender), &USER);
    let said = match kind.as_ref() {
        "presence" => Said::Presence { channel, user: user()?, status: read_presence(payload.status)? },
        "reaction" => Said::Reaction {
            channel,
            user: user()?,
            message: required_string(payload.message_id, &MESSAGE_ID)?,
            reaction: required_string(payload.reaction, &REACTION)?,
        },
        RESUME => Said::Resume(read_resume(&payload, channel)?),
        "channel_status" => Said::ChannelStatus { channel, connected: read_connected(payload.status)? },
        _ => Said::Message(read_message(&payload, channel)?),
    };
    Ok((session, said))
}

fn read_message<'a>(payload: &Payload<'a>, channel: Cow<'a, str>) -> Result<Message<'a>, Refusal<'static>> {
    let agent = optional_string(payload.agent, &AGENT)?;
    let sender = required_string(payload.sender.or(payload.user_id), &USER)?;
    let content = payload.content.ok_or_else(|| field_refusal(Code::MissingField, &CONTENT))?;
    let (content, content_kind) = read_content(content.get())?;
    let mut wishes = match payload.metadata {
        None => Wishes::default(),
        Some(raw) => metadata::read(raw.get())?,
    };
    if let Some(mode) = read_mode(payload.mode)? {
        wishes.mode = mode;
    }
    if read_flag(payload.is_direct_mention, &DIRECT_MENTION)? {
        wishes.flags |= FLAG_MENTION;
        if wishes.priority == Priority::default() {
            wishes.priority = Priority::High;
        }
    }
    if read_flag(payload.is_reply_to_agent, &REPLY_TO_AGENT)? {
        wishes.flags |= FLAG_REPLY_TO_AGENT;
    }
    // A driver is always told both.
    wishes.flags = (wishes.flags | FLAG_WANTS_ACK) & !FLAG_NO_REPLY;
    let metadata = payload.metadata.map_or("", RawValue::get);
    Ok(Message { agent, channel, sender, content, content_kind, metadata, wishes })
}

fn read_resume<'a>(payload: &Payload<'a>, channel: Cow<'a, str>) -> Result<Resume<'a>, Refusal<'static>> {
    // A group has one session, whoever speaks.
    let sender = match read_mode(payload.mode)? {
        Some(SessionMode::Group) => Cow::Borrowed(""),
        _ => required_string(payload.sender.or(payload.user_id), &USER)?,
    };
    let after = place::read((payload.epoch, &EPOCH), (payload.offset, &OFFSET))?;
    Ok(Resume { channel, sender, after })
}

fn read_mode(raw: Option<&RawValue>) -> Result<Option<SessionMode>, Refusal<'static>> {
    let Some(mode) = optional_string(raw, &MODE)? else { return Ok(None) };
    match mode.as_ref() {
        "main" => Ok(Some(SessionMode::Main)),
        "group" => Ok(Some(SessionMode::Group)),
        "queue" => Ok(Some(SessionMode::Queue)),
        _ => Err(field_refusal(Code::InvalidField, &MODE)),
    }
}

fn read_presence(raw: Option<&RawValue>) -> Result<PresenceStatus, Refusal<'static>> {
    let name = required_string(raw, &PRESENCE)?;
    let found = PresenceStatus::ALL.into_iter().find(|status| status.name() == name);
    found.ok_or_else(|| field_refusal(Code::InvalidField, &PRESENCE))
}

fn read_connected(raw: Option<&RawValue>) -> Result<bool, Refusal<'static>> {
    match required_string(raw, &CONNECTED)?.as_ref() {
        "connected" => Ok(true),
        "disconnected" => Ok(false),
        _ => Err(field_refusal(Code::InvalidField, &CONNECTED)),
    }
}

fn read_flag(raw: Option<&RawValue>, rule: &Rule) -> Result<bool, Refusal<'static>> {
    match raw.map(RawValue::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(field_refusal(Code::InvalidField, rule)),
    }
}

const TYPE: Rule = Rule {
    field: "type",
    expected: "\"message_in\", \"presence\", \"reaction\", \"channel_status\" or \"resume\"",
    bytes_max: 64,
};
const ID: Rule = Rule {
    field: "id",
    expected: "a string of 1 to 256 bytes without control characters",
    bytes_max: ID_BYTES_MAX,
};
const SESSION: Rule = Rule {
    field: "session_id",
    expected: "a string of 1 to 256 bytes without control characters",
    bytes_max: SESSION_BYTES_MAX,
};
const PAYLOAD: Rule = Rule { field: "payload", expected: "an object", bytes_max: usize::MAX };
const AGENT: Rule = Rule {
    field: "payload.agent",
    expected: "a string of 1 to 128 bytes without control characters",
    bytes_max: AGENT_BYTES_MAX,
};
const CHANNEL: Rule = Rule {
    field: "payload.channel",
    expected: "a string of 1 to 128 bytes without control characters",
    bytes_max: CHANNEL_BYTES_MAX,
};
const USER: Rule = Rule {
    field: "payload.sender",
    expected: "a string of 1 to 256 bytes without control characters",
    bytes_max: USER_BYTES_MAX,
};
const CONTENT: Rule = Rule {
    field: "payload.content",
    expected: "a string, an object or another JSON value",
    bytes_max: usize::MAX,
};
const MODE: Rule =
    Rule { field: "payload.mode", expected: "\"main\", \"group\" or \"queue\"", bytes_max: 16 };
const EPOCH: Rule = Rule { field: "payload.epoch", ..simple::EPOCH };
const OFFSET: Rule = Rule { field: "payload.offset", ..simple::OFFSET };
const DIRECT_MENTION: Rule =
    Rule { field: "payload.is_direct_mention", expected: "true or false", bytes_max: usize::MAX };
const REPLY_TO_AGENT: Rule =
    Rule { field: "payload.is_reply_to_agent", expected: "true or false", bytes_max: usize::MAX };
const MESSAGE_ID: Rule = Rule {
    field: "payload.message_id",
    expected: "a string of 1 to 256 bytes without control characters",
    bytes_max: ID_BYTES_MAX,
};
const REACTION: Rule = Rule {
    field: "payload.reaction",
    expected: "a string of 1 to 64 bytes without control characters",
    bytes_max: REACTION_BYTES_MAX,
};
const PRESENCE: Rule = Rule {
    field: "payload.status",
    expected: "\"online\", \"typing\", \"idle\" or \"offline\"",
    bytes_max: 16,
};
const CONNECTED: Rule =
    Rule { field: "payload.status", expected: "\"connected\" or \"disconnected\"", bytes_max: 16 };
