//! Frames out: JSON written straight into one reused buffer.
//!
//! The labels of a turn (`id` and `session_id`) are escaped once, when it opens; every frame of the turn
//! copies them.

use shm_transport::envelope::{BlockType, DurabilityClass};

use super::{PresenceStatus, Said};
use crate::dialect::place::{self, Place, Standing};
use crate::dialect::simple::frames::{escape, write_number};
use crate::refusal::Refusal;

/// Appends `"id":…,"session_id":…,` as far as they are known.
pub fn write_labels(out: &mut Vec<u8>, id: Option<&str>, session: Option<&str>) {
    for (name, value) in [("\"id\":\"", id), ("\"session_id\":\"", session)] {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            escape(out, value);
            out.extend_from_slice(b"\",");
        }
    }
}

fn begin(out: &mut Vec<u8>, kind: &str, labels: &[u8], now_ms: u64) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(labels);
    out.extend_from_slice(b"\"timestamp\":");
    write_number(out, now_ms);
    out.extend_from_slice(b",\"payload\":{");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    escape(out, value);
    out.push(b'"');
}

/// Appends the greeting of a client that was let in.
pub fn write_connected(out: &mut Vec<u8>, id: &str, client: &str, now_ms: u64) {
    let mut labels = Vec::with_capacity(64);
    write_labels(&mut labels, Some(id), None);
    begin(out, "connected", &labels, now_ms);
    write_field(out, "\"client_id\":\"", client);
    out.extend_from_slice(b"}}");
}

/// Appends the acknowledgement of a message. What it survives is told where it is known, and that it is told
/// again where it is.
pub fn write_ack(
    out: &mut Vec<u8>,
    labels: &[u8],
    durability: DurabilityClass,
    duplicate: bool,
    now_ms: u64,
) {
    begin(out, "message_ack", labels, now_ms);
    out.extend_from_slice(b"\"state\":\"accepted\"");
    match durability {
        DurabilityClass::Default => {}
        DurabilityClass::Memory => out.extend_from_slice(b",\"durability\":\"memory\""),
        DurabilityClass::Durable => out.extend_from_slice(b",\"durability\":\"durable\""),
    }
    if duplicate {
        out.extend_from_slice(b",\"duplicate\":true");
    }
    out.extend_from_slice(b"}}");
}

fn write_block_id(out: &mut Vec<u8>, block: Standing) {
    out.extend_from_slice(b"\"block_id\":\"");
    write_number(out, u64::from(block.attempt));
    out.push(b'-');
    write_number(out, u64::from(block.index));
    out.push(b'"');
}

/// Appends a piece of a reply.
///
/// HOT: no allocation once the buffer has grown.
pub fn write_block(
    out: &mut Vec<u8>,
    labels: &[u8],
    block: Standing,
    block_type: BlockType,
    text: &str,
    now_ms: u64,
) {
    begin(out, "stream_block", labels, now_ms);
    write_block_id(out, block);
    out.push(b',');
    block.place.write_before(out);
    out.extend_from_slice(b"\"block_type\":\"");
    out.extend_from_slice(block_type.name().as_bytes());
    write_field(out, "\",\"content\":\"", text);
    out.extend_from_slice(b"}}");
}

/// Appends what a tool does, as the block that said so tells it.
pub fn write_tool(out: &mut Vec<u8>, labels: &[u8], block: Standing, block_type: BlockType, now_ms: u64) {
    begin(out, "tool_status", labels, now_ms);
    write_block_id(out, block);
    out.push(b',');
    block.place.write_before(out);
    out.extend_from_slice(match block_type {
        BlockType::ToolResult => b"\"status\":\"completed\"}}",
        _ => b"\"status\":\"running\"}}",
    });
}

/// Appends the end of a reply. `attempt` is the one whose blocks count.
pub fn write_end(out: &mut Vec<u8>, labels: &[u8], place: Place, attempt: u32, now_ms: u64) {
    begin(out, "stream_end", labels, now_ms);
    place.write_before(out);
    out.extend_from_slice(b"\"attempt\":");
    write_number(out, u64::from(attempt));
    out.extend_from_slice(b"}}");
}

/// Appends an error frame.
pub fn write_error(out: &mut Vec<u8>, labels: &[u8], place: Place, refusal: &Refusal<'_>, now_ms: u64) {
    begin(out, "error", labels, now_ms);
    place.write_before(out);
    out.extend_from_slice(b"\"code\":\"");
    out.extend_from_slice(refusal.code.name().as_bytes());
    write_field(out, "\",\"message\":\"", &refusal.text);
    for (name, value) in [(",\"field\":\"", refusal.field), (",\"expected\":\"", refusal.expected)] {
        if let Some(value) = value {
            write_field(out, name, value);
        }
    }
    out.extend_from_slice(b",\"retryable\":");
    out.extend_from_slice(if refusal.code.retryable() { b"true" } else { b"false" });
    if refusal.retry_after_ms > 0 {
        out.extend_from_slice(b",\"retry_after_ms\":");
        write_number(out, u64::from(refusal.retry_after_ms));
    }
    out.extend_from_slice(b"}}");
}

/// Appends that something is not kept which a driver that has come back has missed.
pub fn write_gap(out: &mut Vec<u8>, labels: &[u8], (from, to): (Place, Place), now_ms: u64) {
    begin(out, "gap", labels, now_ms);
    place::write_gap(out, from, to);
    out.extend_from_slice(b"}}");
}

/// Appends that a driver that has come back has been told everything that is kept.
pub fn write_resumed(out: &mut Vec<u8>, labels: &[u8], place: Place, open: &[u8], now_ms: u64) {
    begin(out, "resumed", labels, now_ms);
    place::write_resumed(out, place, open);
    out.extend_from_slice(b"}}");
}

/// Appends what one driver has said, for the others; nothing for a message, which is the agent's, and for
/// what it wants for itself.
pub fn write_relayed(out: &mut Vec<u8>, labels: &[u8], said: &Said<'_>, now_ms: u64) {
    match said {
        Said::Message(_) | Said::Resume(_) => {}
        Said::Presence { channel, user, status } => {
            begin(out, "presence", labels, now_ms);
            write_presence(out, user, channel, *status, now_ms);
            out.push(b'}');
        }
        Said::Reaction { channel, user, message, reaction } => {
            begin(out, "reaction", labels, now_ms);
            write_field(out, "\"channel\":\"", channel);
            write_field(out, ",\"user_id\":\"", user);
            write_field(out, ",\"message_id\":\"", message);
            write_field(out, ",\"reaction\":\"", reaction);
            out.extend_from_slice(b"}}");
        }
        Said::ChannelStatus { channel, connected } => {
            begin(out, "channel_status", labels, now_ms);
            write_field(out, "\"channel\":\"", channel);
            write_field(out, ",\"status\":\"", if *connected { "connected" } else { "disconnected" });
            out.extend_from_slice(b"}}");
        }
    }
}

fn write_presence(out: &mut Vec<u8>, user: &str, channel: &str, status: PresenceStatus, now_ms: u64) {
    write_field(out, "\"user_id\":\"", user);
    write_field(out, ",\"channel\":\"", channel);
    write_field(out, ",\"status\":\"", status.name());
    out.extend_from_slice(b",\"last_seen\":");
    write_number(out, now_ms);
    out.push(b'}');
}
