//! Fields of the frames of clients: strings with a rule each, and how a broken rule is told.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::refusal::{Code, Refusal};

/// How many arrays and objects may lie inside each other, the frame itself included.
pub const DEPTH_MAX: usize = 64;
/// What a field must be.
pub struct Rule {
    /// Its name.
    pub field: &'static str,
    /// In words.
    pub expected: &'static str,
    /// If it is a string.
    pub bytes_max: usize,
}

/// A frame that was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unread<'a> {
    /// Its `id`, where that could be read.
    pub id: Option<Cow<'a, str>>,
    /// Why.
    pub refusal: Refusal<'static>,
}

impl Unread<'_> {
    /// One without an id.
    pub fn nameless(refusal: Refusal<'static>) -> Self {
        Self { id: None, refusal }
    }
}

/// The fields of a frame, which must be one object, nested no deeper than [`DEPTH_MAX`].
#[inline]
pub fn read_object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal<'static>> {
    if too_deep(text.as_bytes()) {
        return Err(refuse_depth());
    }
    // Asked here, since serde would read an array as the fields in order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(refuse_other_than_object());
    }
    serde_json::from_str(text).map_err(|error| refuse_json(&error))
}

/// The string that a field must be.
pub fn required_string<'a>(raw: Option<&'a RawValue>, rule: &Rule) -> Result<Cow<'a, str>, Refusal<'static>> {
    optional_string(raw, rule)?.ok_or_else(|| field_refusal(Code::MissingField, rule))
}

/// The string that a field is, if it is there.
pub fn optional_string<'a>(
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
pub fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        // Fails for an escape that names half a surrogate pair.
        return serde_json::from_str(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// Whether arrays and objects are nested deeper than [`DEPTH_MAX`], valid JSON or not. Asked before
/// anything is parsed, so that no parser recurses deeper.
pub fn too_deep(bytes: &[u8]) -> bool {
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

/// A frame that is nested too deeply.
#[cold]
fn refuse_depth() -> Refusal<'static> {
    let mut refusal = Refusal::new(Code::TooDeep, "the frame is nested too deeply");
    refusal.expected = Some("at most 64 arrays and objects inside each other");
    refusal
}

/// A frame that is something else.
#[cold]
fn refuse_other_than_object() -> Refusal<'static> {
    let mut refusal = Refusal::new(Code::InvalidJson, "the frame is not a JSON object");
    refusal.expected = Some("one JSON object");
    refusal
}

/// A frame that cannot be read.
#[cold]
pub fn refuse_json(error: &serde_json::Error) -> Refusal<'static> {
    let mut refusal = Refusal::new(Code::InvalidJson, format!("the frame cannot be read: {error}"));
    refusal.expected = Some(match error.classify() {
        // It is an object, and all fields take any value, so a field comes twice.
        Category::Data => "a JSON object with each field once",
        Category::Syntax | Category::Eof | Category::Io => "one JSON object",
    });
    refusal
}

/// A field that is missing or breaks its rule.
#[cold]
pub fn field_refusal(code: Code, rule: &Rule) -> Refusal<'static> {
    let text = match code {
        Code::MissingField => format!("{} is missing", rule.field),
        _ => format!("{} must be {}", rule.field, rule.expected),
    };
    Refusal { field: Some(rule.field), expected: Some(rule.expected), ..Refusal::new(code, text) }
}
