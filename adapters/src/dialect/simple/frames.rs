//! Frames out: JSON written straight into one reused buffer.
//!
//! The labels of a turn (`id`, `agent`, `sessionId`) are escaped once, when it opens; every frame of the
//! turn copies them.

use shm_transport::envelope::{BlockType, DurabilityClass};

use crate::dialect::place::{self, Place, Standing};
use crate::refusal::Refusal;

/// Appends `"id":…,"agent":…,"sessionId":…,` as far as they are known.
pub fn write_labels(out: &mut Vec<u8>, id: Option<&str>, agent: Option<&str>, session: Option<&str>) {
    for (name, value) in [("\"id\":\"", id), ("\"agent\":\"", agent), ("\"sessionId\":\"", session)] {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            escape(out, value);
            out.extend_from_slice(b"\",");
        }
    }
}

/// Appends a block event.
///
/// HOT: no allocation once the buffer has grown.
pub fn write_block(
    out: &mut Vec<u8>,
    labels: &[u8],
    standing: Standing,
    block: BlockType,
    text: &str,
    now_ms: u64,
) {
    let Standing { attempt, index, place } = standing;
    out.extend_from_slice(b"{\"type\":\"event\",\"event\":\"block\",");
    out.extend_from_slice(labels);
    out.extend_from_slice(b"\"content\":{\"blockType\":\"");
    out.extend_from_slice(block.name().as_bytes());
    out.extend_from_slice(b"\",\"index\":");
    write_number(out, u64::from(index));
    if attempt > 1 {
        out.extend_from_slice(b",\"attempt\":");
        write_number(out, u64::from(attempt));
    }
    out.extend_from_slice(b",\"content\":\"");
    escape(out, text);
    out.extend_from_slice(b"\"}");
    finish(out, place, now_ms);
}

/// Appends the closing frame of a reply, whose text is `streamed` and then `rest`.
///
/// HOT: no allocation once the buffer has grown.
pub fn write_reply(
    out: &mut Vec<u8>,
    labels: &[u8],
    place: Place,
    (streamed, rest): (&str, &str),
    now_ms: u64,
) {
    out.extend_from_slice(b"{\"type\":\"message\",");
    out.extend_from_slice(labels);
    out.extend_from_slice(b"\"content\":{\"role\":\"assistant\",\"content\":\"");
    escape(out, streamed);
    escape(out, rest);
    out.extend_from_slice(b"\"}");
    finish(out, place, now_ms);
}

/// Appends an error frame.
pub fn write_error(out: &mut Vec<u8>, labels: &[u8], place: Place, refusal: &Refusal<'_>, now_ms: u64) {
    out.extend_from_slice(b"{\"type\":\"error\",");
    out.extend_from_slice(labels);
    out.extend_from_slice(b"\"content\":{\"code\":\"");
    out.extend_from_slice(refusal.code.name().as_bytes());
    out.extend_from_slice(b"\",\"message\":\"");
    escape(out, &refusal.text);
    for (name, value) in [("\",\"field\":\"", refusal.field), ("\",\"expected\":\"", refusal.expected)] {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            escape(out, value);
        }
    }
    out.extend_from_slice(b"\",\"retryable\":");
    out.extend_from_slice(if refusal.code.retryable() { b"true" } else { b"false" });
    if refusal.retry_after_ms > 0 {
        out.extend_from_slice(b",\"retryAfterMs\":");
        write_number(out, u64::from(refusal.retry_after_ms));
    }
    out.push(b'}');
    finish(out, place, now_ms);
}

/// Appends the acceptance of a message. What it survives is told where it is known, and that it is told again
/// where it is.
pub fn write_accepted(
    out: &mut Vec<u8>,
    labels: &[u8],
    durability: DurabilityClass,
    duplicate: bool,
    now_ms: u64,
) {
    let content: &[u8] = match (durability, duplicate) {
        (DurabilityClass::Default, false) => br#"{"state":"accepted"}"#,
        (DurabilityClass::Memory, false) => br#"{"state":"accepted","durability":"memory"}"#,
        (DurabilityClass::Durable, false) => br#"{"state":"accepted","durability":"durable"}"#,
        (DurabilityClass::Default, true) => br#"{"state":"accepted","duplicate":true}"#,
        (DurabilityClass::Memory, true) => br#"{"state":"accepted","durability":"memory","duplicate":true}"#,
        (DurabilityClass::Durable, true) => {
            br#"{"state":"accepted","durability":"durable","duplicate":true}"#
        }
    };
    write_status(out, labels, content, now_ms);
}

/// Appends a status frame whose content is JSON already.
pub fn write_status(out: &mut Vec<u8>, labels: &[u8], content: &[u8], now_ms: u64) {
    out.extend_from_slice(b"{\"type\":\"status\",");
    out.extend_from_slice(labels);
    out.extend_from_slice(b"\"content\":");
    out.extend_from_slice(content);
    finish(out, Place::NONE, now_ms);
}

/// Appends that something is not kept which a client that has come back has missed.
pub fn write_gap(out: &mut Vec<u8>, labels: &[u8], (from, to): (Place, Place), now_ms: u64) {
    out.extend_from_slice(b"{\"type\":\"gap\",");
    out.extend_from_slice(labels);
    out.extend_from_slice(b"\"content\":{");
    place::write_gap(out, from, to);
    out.push(b'}');
    finish(out, Place::NONE, now_ms);
}

/// Appends that a client that has come back has been told everything that is kept.
pub fn write_resumed(out: &mut Vec<u8>, labels: &[u8], place: Place, open: &[u8], now_ms: u64) {
    out.extend_from_slice(b"{\"type\":\"resumed\",");
    out.extend_from_slice(labels);
    out.extend_from_slice(b"\"content\":{");
    place::write_resumed(out, place, open);
    out.push(b'}');
    finish(out, Place::NONE, now_ms);
}

fn finish(out: &mut Vec<u8>, place: Place, now_ms: u64) {
    out.push(b',');
    place.write_before(out);
    out.extend_from_slice(b"\"timestamp\":");
    write_number(out, now_ms);
    out.push(b'}');
}

/// Appends a JSON number.
pub(crate) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Per byte: 0 if a JSON string may hold it as it is, the letter of its short escape, or `u`.
const ESCAPES: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[b'\t' as usize] = b't';
    table[b'\n' as usize] = b'n';
    table[0x0c] = b'f';
    table[b'\r' as usize] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Marks, in the top bit of each byte, the bytes of a word that need an escape in a JSON string.
///
/// The lowest mark is exact. Marks above a marked byte may be false, since borrows run upwards; whoever
/// goes on behind the lowest one looks at them again.
#[inline]
fn needs_escape(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let below = |limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let equal = |byte: u8| {
        let difference = word ^ (ONES * u64::from(byte));
        difference.wrapping_sub(ONES) & !difference
    };
    (below(0x20) | equal(b'"') | equal(b'\\')) & TOPS
}

/// Appends the inside of a JSON string.
///
/// HOT: looks at eight bytes at once, and copies what needs no escape in runs.
pub fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len());
    let (mut copied, mut at) = (0, 0);
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let marks = needs_escape(u64::from_le_bytes(*word));
        if marks == 0 {
            at += 8;
            continue;
        }
        at += marks.trailing_zeros() as usize / 8;
        out.extend_from_slice(&bytes[copied..at]);
        escape_byte(out, bytes[at]);
        at += 1;
        copied = at;
    }
    for (offset, &byte) in bytes[at..].iter().enumerate() {
        if ESCAPES[usize::from(byte)] != 0 {
            out.extend_from_slice(&bytes[copied..at + offset]);
            escape_byte(out, byte);
            copied = at + offset + 1;
        }
    }
    out.extend_from_slice(&bytes[copied..]);
}

fn escape_byte(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let letter = ESCAPES[usize::from(byte)];
    out.extend_from_slice(&[b'\\', letter]);
    if letter == b'u' {
        out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}
