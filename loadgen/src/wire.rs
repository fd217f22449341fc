//! Frames of the wire dialect: writes requests from prepared pieces and reads answers with borrowed fields.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::value::RawValue;

use crate::corpus::Payload;

/// The parts of a request that are the same for every message of one connection.
#[derive(Debug)]
pub struct IdFormat {
    /// Run and connection: `r1x9c12-`.
    prefix: String,
}

impl IdFormat {
    /// Ids of one connection in one run. `run` keeps two runs against one server apart.
    pub fn new(run: &str, connection_index: usize) -> Self {
        Self { prefix: format!("{run}c{connection_index}-") }
    }

    /// The sequence inside `id`, or `None` if this connection cannot have sent it.
    pub fn sequence(&self, id: &str) -> Option<u64> {
        let digits = id.strip_prefix(self.prefix.as_str())?;
        // `parse` would take "+7" and "007" for 7, and both were never sent.
        if !digits.starts_with(|first: char| first.is_ascii_digit())
            || (digits.len() > 1 && digits.starts_with('0'))
        {
            return None;
        }
        digits.parse().ok()
    }
}

/// One session: its name, and the middle of its request frames, already escaped.
#[derive(Debug)]
pub struct SessionFormat {
    /// The name as the server repeats it.
    pub name: String,
    /// From the end of the id to the start of the content.
    middle: String,
}

impl SessionFormat {
    /// Prepares the frames of session `name` for `agent`.
    pub fn new(agent: &str, name: String) -> Self {
        let agent = serde_json::Value::from(agent);
        let middle =
            format!(r#"","agent":{agent},"sessionId":{},"content":"#, serde_json::Value::from(name.as_str()));
        Self { name, middle }
    }
}

const HEAD: &str = r#"{"type":"message","id":""#;
const SEQUENCE_DIGITS_MAX: usize = 20;

/// Builds one request frame.
///
/// HOT: one allocation of the final size; the content is copied as escaped when the corpus was loaded.
pub fn request(ids: &IdFormat, sequence: u64, session: &SessionFormat, payload: &Payload) -> String {
    let size = HEAD.len()
        + ids.prefix.len()
        + SEQUENCE_DIGITS_MAX
        + session.middle.len()
        + payload.escaped().len()
        + 1;
    let mut frame = String::with_capacity(size);
    frame.push_str(HEAD);
    frame.push_str(&ids.prefix);
    push_decimal(&mut frame, sequence);
    frame.push_str(&session.middle);
    frame.push_str(payload.escaped());
    frame.push('}');
    frame
}

fn push_decimal(text: &mut String, mut number: u64) {
    let mut digits = [0_u8; SEQUENCE_DIGITS_MAX];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).unwrap_or(0); // Always below ten.
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend(digits[first..].iter().map(|&digit| char::from(digit)));
}

/// One frame from the server, borrowed from the received text.
#[derive(Debug, Deserialize)]
pub struct Answer<'a> {
    /// `message`, `error`, `event`, `status` or something newer.
    #[serde(rename = "type", borrow)]
    pub kind: Text<'a>,
    /// Empty when absent or null.
    #[serde(borrow, default)]
    pub id: Text<'a>,
    /// Empty when absent or null.
    #[serde(borrow, default, rename = "sessionId")]
    pub session: Text<'a>,
    /// Empty when absent or null.
    #[serde(borrow, default)]
    pub agent: Text<'a>,
    /// Only in `event` frames.
    #[serde(borrow, default)]
    pub event: Text<'a>,
    /// Not parsed yet.
    #[serde(borrow, default)]
    pub content: Option<&'a RawValue>,
}

impl<'a> Answer<'a> {
    /// Parses one text frame.
    ///
    /// # Errors
    /// The text is not one JSON object with a `type`.
    pub fn parse(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

/// A string field that borrows where the JSON has no escapes; null reads as empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or null")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Text::default())
    }
}

#[derive(Deserialize)]
struct AssistantContent<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
}

/// Whether the content of a closing frame is `payload`, given as a string or as an object with a `content` string.
///
/// HOT: compares the escaped bytes first, since most servers escape as this program does. Only on a difference is the
/// string unescaped.
pub fn content_is(content: &RawValue, payload: &Payload) -> bool {
    let raw = content.get();
    if raw.starts_with('{') {
        return match serde_json::from_str::<AssistantContent<'_>>(raw) {
            Ok(inner) => string_is(inner.content.get(), payload),
            Err(_) => false,
        };
    }
    string_is(raw, payload)
}

fn string_is(raw: &str, payload: &Payload) -> bool {
    raw == payload.escaped() || unescaped_is(raw, payload)
}

#[cold]
fn unescaped_is(raw: &str, payload: &Payload) -> bool {
    serde_json::from_str::<String>(raw).is_ok_and(|text| text == payload.text())
}

/// Code and message of an `error` frame.
#[derive(Debug, Deserialize)]
pub struct ErrorContent {
    /// Machine-readable code.
    #[serde(default)]
    pub code: String,
    /// Sentence for people.
    #[serde(default)]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request is valid JSON with exactly the fields given, whatever needs escaping.
    #[test]
    fn request_is_the_documented_json() {
        let ids = IdFormat::new("r9", 12);
        let session = SessionFormat::new("ec\"ho", "s-\\17".to_owned());
        for text in ["", "a", "\"\\\n\t\u{1}", "群聊 👩‍👩‍👧", "مرحبا"] {
            let frame = request(&ids, 3456, &session, &Payload::new(text.to_owned()));
            let value: serde_json::Value = serde_json::from_str(&frame).unwrap();
            let expected = serde_json::json!({"type": "message", "id": "r9c12-3456", "agent": "ec\"ho",
                "sessionId": "s-\\17", "content": text});
            assert_eq!(value, expected);
        }
    }

    /// Only ids that this connection writes give a sequence.
    #[test]
    fn ids_are_read_back_exactly() {
        let ids = IdFormat::new("r9", 1);
        for sequence in [0, 7, 10, 3456, u64::MAX] {
            let frame = request(
                &ids,
                sequence,
                &SessionFormat::new("a", "s".to_owned()),
                &Payload::new(String::new()),
            );
            assert_eq!(ids.sequence(Answer::parse(&frame).unwrap().id.as_str()), Some(sequence));
        }
        for foreign in
            ["", "r9c1-", "r9c12-5", "r8c1-5", "r9c1-+5", "r9c1-05", "r9c1-5x", "r9c1-18446744073709551616"]
        {
            assert_eq!(ids.sequence(foreign), None, "{foreign}");
        }
    }

    fn check_content(content: &str, text: &str, expected: bool) {
        let frame = format!(r#"{{"type":"message","id":null,"content":{content}}}"#);
        let answer = Answer::parse(&frame).unwrap();
        assert_eq!(answer.id.as_str(), "");
        assert_eq!(
            content_is(answer.content.unwrap(), &Payload::new(text.to_owned())),
            expected,
            "{content}"
        );
    }

    /// Both shapes of content, both escapings, and every near miss.
    #[test]
    fn content_is_compared_after_unescaping() {
        check_content(r#""hé\n""#, "hé\n", true);
        check_content(r#""h\u00e9\u000a""#, "hé\n", true);
        check_content(r#"{"role":"assistant","content":"hé\n"}"#, "hé\n", true);
        check_content(r#"{"content":"h\u00e9\n","role":"assistant"}"#, "hé\n", true);
        check_content(r#""hé""#, "hé\n", false);
        check_content(r#""""#, "hé", false);
        check_content(r#"{"role":"assistant"}"#, "hé", false);
        check_content("17", "17", false);
    }
}
