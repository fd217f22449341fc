//! How responses and events are written.

use super::event::{EventName, StateVersion};
use crate::dialect::simple::frames::escape;
pub(super) use crate::dialect::simple::frames::write_number;
use crate::refusal::RpcError;

/// Writes the response of a request that succeeded. `payload_json` is one JSON value.
pub fn write_result(out: &mut Vec<u8>, id: &str, payload_json: &[u8]) {
    out.extend_from_slice(br#"{"type":"res","id":"#);
    write_string(out, id);
    out.extend_from_slice(br#","ok":true,"payload":"#);
    out.extend_from_slice(payload_json);
    out.push(b'}');
}

/// Writes the response of a request that failed.
pub fn write_error(out: &mut Vec<u8>, id: &str, error: &RpcError) {
    out.extend_from_slice(br#"{"type":"res","id":"#);
    write_string(out, id);
    out.extend_from_slice(br#","ok":false,"error":{"code":""#);
    out.extend_from_slice(error.code.name().as_bytes());
    out.extend_from_slice(br#"","message":"#);
    write_string(out, &error.message);
    if let Some(details) = &error.details {
        out.extend_from_slice(br#","details":"#);
        out.extend_from_slice(details.to_string().as_bytes());
    }
    if error.retryable {
        out.extend_from_slice(br#","retryable":true"#);
    }
    if let Some(retry_after_ms) = error.retry_after_ms {
        out.extend_from_slice(br#","retryAfterMs":"#);
        write_number(out, retry_after_ms);
    }
    out.extend_from_slice(b"}}");
}

/// Writes an event. Only replies to one client carry no number.
pub fn write_event(
    out: &mut Vec<u8>,
    event: EventName,
    payload_json: &[u8],
    seq: Option<u64>,
    state_version: Option<StateVersion>,
) {
    out.extend_from_slice(br#"{"type":"event","event":""#);
    out.extend_from_slice(event.name().as_bytes());
    out.extend_from_slice(br#"","payload":"#);
    out.extend_from_slice(payload_json);
    if let Some(seq) = seq {
        out.extend_from_slice(br#","seq":"#);
        write_number(out, seq);
    }
    if let Some(version) = state_version {
        out.extend_from_slice(br#","stateVersion":{"presence":"#);
        write_number(out, version.presence);
        out.extend_from_slice(br#","health":"#);
        write_number(out, version.health);
        out.push(b'}');
    }
    out.push(b'}');
}

/// Appends a JSON string.
pub(super) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text);
    out.push(b'"');
}
