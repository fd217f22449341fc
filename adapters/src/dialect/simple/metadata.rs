//! The part of `metadata` that the gateway acts on; the rest is the agent's.

use serde::Deserialize;
use serde_json::value::RawValue;

use shm_transport::envelope::{
    DurabilityClass, FLAG_ACTIVATE, FLAG_DEACTIVATE, FLAG_MENTION, FLAG_NO_REPLY, FLAG_REPLY_TO_AGENT,
    FLAG_WANTS_ACK, Priority, SessionMode,
};

use crate::dialect::fields::{Rule, field_refusal, string};
use crate::refusal::{Code, Refusal};

/// The longest time that a client may give a message.
pub const DEADLINE_MS_MAX: u32 = 86_400_000;
/// The most labels of a message.
pub const LABELS_MAX: usize = 16;
/// The longest label.
pub const LABEL_BYTES_MAX: usize = 64;

/// What a client asks of the gateway for one message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wishes {
    /// How urgent the message is.
    pub priority: Priority,
    /// What its acceptance is to survive.
    pub durability: DurabilityClass,
    /// What order its session keeps, if it is new.
    pub mode: SessionMode,
    /// How many milliseconds after its acceptance nobody wants its reply any more; 0: never.
    pub deadline_ms: u32,
    /// [`FLAG_NO_REPLY`] and the like.
    pub flags: u8,
    /// What it wants of an agent: words with spaces between them.
    pub labels: String,
}

impl Wishes {
    /// Whether the client waits for a reply.
    pub fn requires_response(&self) -> bool {
        self.flags & FLAG_NO_REPLY == 0
    }

    /// Whether the client is told when the message is accepted.
    pub fn wants_acceptance(&self) -> bool {
        self.flags & (FLAG_NO_REPLY | FLAG_WANTS_ACK) != 0
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    priority: Option<&'a RawValue>,
    #[serde(borrow)]
    requires_response: Option<&'a RawValue>,
    #[serde(borrow)]
    durability: Option<&'a RawValue>,
    #[serde(borrow)]
    deadline_ms: Option<&'a RawValue>,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
    #[serde(borrow)]
    mention: Option<&'a RawValue>,
    #[serde(borrow)]
    reply_to_agent: Option<&'a RawValue>,
    #[serde(borrow)]
    mode: Option<&'a RawValue>,
    #[serde(borrow)]
    activate: Option<&'a RawValue>,
    #[serde(borrow)]
    ack: Option<&'a RawValue>,
}

/// Reads the metadata of a message.
///
/// HOT: no allocation, unless there are labels.
pub(in crate::dialect) fn read(raw: &str) -> Result<Wishes, Refusal<'static>> {
    if !raw.starts_with('{') {
        return Err(field_refusal(Code::InvalidField, &METADATA));
    }
    let found: Metadata<'_> =
        serde_json::from_str(raw).map_err(|_| field_refusal(Code::InvalidField, &METADATA))?;
    Ok(Wishes {
        priority: choice(found.priority, &PRIORITIES, &PRIORITY)?,
        durability: choice(found.durability, &DURABILITIES, &DURABILITY)?,
        mode: choice(found.mode, &MODES, &MODE)?,
        deadline_ms: deadline(found.deadline_ms)?,
        flags: choice(found.requires_response, &[("true", 0), ("false", FLAG_NO_REPLY)], &REQUIRES_RESPONSE)?
            | flag(found.mention, FLAG_MENTION, &MENTION)?
            | flag(found.reply_to_agent, FLAG_REPLY_TO_AGENT, &REPLY_TO_AGENT)?
            | flag(found.ack, FLAG_WANTS_ACK, &ACK)?
            | choice(found.activate, &[("true", FLAG_ACTIVATE), ("false", FLAG_DEACTIVATE)], &ACTIVATE)?,
        labels: labels(found.labels)?,
    })
}

/// Names and values, as JSON text.
type Choices<T, const N: usize> = [(&'static str, T); N];

const PRIORITIES: Choices<Priority, 4> = [
    ("\"low\"", Priority::Low),
    ("\"normal\"", Priority::Normal),
    ("\"high\"", Priority::High),
    ("\"critical\"", Priority::Critical),
];
const DURABILITIES: Choices<DurabilityClass, 2> =
    [("\"memory\"", DurabilityClass::Memory), ("\"durable\"", DurabilityClass::Durable)];
const MODES: Choices<SessionMode, 3> =
    [("\"main\"", SessionMode::Main), ("\"group\"", SessionMode::Group), ("\"queue\"", SessionMode::Queue)];

/// The value of this name; the default where nothing is said.
fn choice<T: Copy + Default, const N: usize>(
    raw: Option<&RawValue>,
    choices: &Choices<T, N>,
    rule: &Rule,
) -> Result<T, Refusal<'static>> {
    let Some(raw) = raw else { return Ok(T::default()) };
    let found = choices.iter().find(|(name, _)| *name == raw.get());
    found.map(|&(_, value)| value).ok_or_else(|| field_refusal(Code::InvalidField, rule))
}

fn flag(raw: Option<&RawValue>, flag: u8, rule: &Rule) -> Result<u8, Refusal<'static>> {
    choice(raw, &[("true", flag), ("false", 0)], rule)
}

fn deadline(raw: Option<&RawValue>) -> Result<u32, Refusal<'static>> {
    let Some(raw) = raw else { return Ok(0) };
    let given = raw.get().parse().ok().filter(|given| (1..=DEADLINE_MS_MAX).contains(given));
    given.ok_or_else(|| field_refusal(Code::InvalidField, &DEADLINE_MS))
}

fn labels(raw: Option<&RawValue>) -> Result<String, Refusal<'static>> {
    let mut joined = String::new();
    let Some(raw) = raw else { return Ok(joined) };
    let wrong = || field_refusal(Code::InvalidField, &LABELS);
    // Bounded by the size of a frame.
    let found: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    if found.len() > LABELS_MAX {
        return Err(wrong());
    }
    for raw in found {
        let label = string(raw.get()).filter(|label| is_label(label)).ok_or_else(wrong)?;
        if !joined.is_empty() {
            joined.push(' ');
        }
        joined.push_str(&label);
    }
    Ok(joined)
}

fn is_label(text: &str) -> bool {
    let forbidden = |c: char| c.is_whitespace() || c.is_control();
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && !text.contains(forbidden)
}

const fn rule(field: &'static str, expected: &'static str) -> Rule {
    Rule { field, expected, bytes_max: usize::MAX }
}

const METADATA: Rule = rule("metadata", "an object with each field once");
const PRIORITY: Rule = rule("metadata.priority", "\"low\", \"normal\", \"high\" or \"critical\"");
const REQUIRES_RESPONSE: Rule = rule("metadata.requiresResponse", "true or false");
const DURABILITY: Rule = rule("metadata.durability", "\"memory\" or \"durable\"");
const DEADLINE_MS: Rule = rule("metadata.deadlineMs", "a whole number of milliseconds from 1 to 86400000");
const LABELS: Rule = rule("metadata.labels", "at most 16 words of 1 to 64 bytes without white space");
const MENTION: Rule = rule("metadata.mention", "true or false");
const REPLY_TO_AGENT: Rule = rule("metadata.replyToAgent", "true or false");
const MODE: Rule = rule("metadata.mode", "\"main\", \"group\" or \"queue\"");
const ACTIVATE: Rule = rule("metadata.activate", "true or false");
const ACK: Rule = rule("metadata.ack", "true or false");
