//! Frames that wait for a socket: one buffer per connection, handed out as slices of it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// A text longer than this goes out as several WebSocket frames, so that the socket's own buffer stays small.
pub const FRAGMENT_BYTES_MAX: usize = 64 * 1024;
/// A buffer that has grown beyond this is given back as soon as it is empty.
const KEEP_BYTES_MAX: usize = 32 * 1024;

/// What remains of a text.
#[derive(Debug)]
struct Waiting {
    bytes: usize,
    is_event: bool,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Outbound {
    /// All texts that wait, one behind the other.
    texts: BytesMut,
    /// What remains of each text.
    lengths: VecDeque<Waiting>,
    /// What remains of events.
    event_bytes: usize,
    /// Whether a part of the first text is out already.
    continuing: bool,
    /// Whether anything was queued since [`Self::rest`] was called last.
    used: bool,
}

impl Outbound {
    /// Appends one text.
    #[inline]
    pub fn push(&mut self, text: &[u8]) {
        self.append(text, false);
    }

    /// Appends an event.
    pub fn push_event(&mut self, text: &[u8]) {
        self.event_bytes += text.len();
        self.append(text, true);
    }

    #[inline]
    fn append(&mut self, text: &[u8], is_event: bool) {
        self.used = true;
        self.texts.extend_from_slice(text);
        self.lengths.push_back(Waiting { bytes: text.len(), is_event });
    }

    /// Bytes of events that wait.
    #[inline]
    pub fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// Bytes that wait.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.texts.len()
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The next WebSocket frame, a whole text or a part of one.
    ///
    /// HOT: a slice of the buffer; no allocation while the slices handed out before are gone.
    #[inline]
    pub fn pop(&mut self) -> Option<Message> {
        let rest = self.lengths.front_mut()?;
        let piece = rest.bytes.min(FRAGMENT_BYTES_MAX);
        let last = piece == rest.bytes;
        if rest.is_event {
            self.event_bytes -= piece;
        }
        let bytes: Bytes = self.texts.split_to(piece).freeze();
        let code = if self.continuing { Data::Continue } else { Data::Text };
        self.continuing = !last;
        if last {
            self.lengths.pop_front();
        } else {
            rest.bytes -= piece;
        }
        Some(Message::Frame(Frame::message(bytes, OpCode::Data(code), last)))
    }

    /// The next text, whole.
    pub fn pop_text(&mut self) -> Option<Bytes> {
        let first = self.lengths.pop_front()?;
        if first.is_event {
            self.event_bytes -= first.bytes;
        }
        Some(self.texts.split_to(first.bytes).freeze())
    }

    /// Gives memory back after a rare large reply. Call when everything handed out has been written.
    #[inline]
    pub fn shrink(&mut self) {
        if self.lengths.is_empty() && self.texts.capacity() > KEEP_BYTES_MAX {
            *self = Self::default();
        }
    }

    /// Gives the memory of a connection back that was not used between two calls of this.
    pub fn rest(&mut self) {
        if self.lengths.is_empty() && !std::mem::take(&mut self.used) {
            *self = Self::default();
        }
    }

    /// Forgets everything that waits, and says how many bytes that was.
    pub fn clear(&mut self) -> usize {
        let bytes = self.bytes();
        *self = Self::default();
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(outbound: &mut Outbound) -> Option<(Vec<u8>, OpCode, bool)> {
        match outbound.pop()? {
            Message::Frame(frame) => {
                let header = frame.header().clone();
                Some((frame.payload().to_vec(), header.opcode, header.is_final))
            }
            other => panic!("{other:?}"),
        }
    }

    /// A long text leaves in fragments, a short one whole, in order. By popping both.
    #[test]
    fn long_texts_are_fragmented() {
        let (text, more) = (OpCode::Data(Data::Text), OpCode::Data(Data::Continue));
        let long = vec![b'x'; 2 * FRAGMENT_BYTES_MAX + 1];
        let mut outbound = Outbound::default();
        outbound.push(&long);
        outbound.push_event(b"short");
        assert_eq!((outbound.bytes(), outbound.event_bytes()), (long.len() + 5, 5));
        let part = long[..FRAGMENT_BYTES_MAX].to_vec();
        assert_eq!(frame(&mut outbound), Some((part.clone(), text, false)));
        assert_eq!(frame(&mut outbound), Some((part, more, false)));
        assert_eq!(frame(&mut outbound), Some((b"x".to_vec(), more, true)));
        assert_eq!(frame(&mut outbound), Some((b"short".to_vec(), text, true)));
        assert_eq!(frame(&mut outbound), None);
        assert_eq!((outbound.bytes(), outbound.event_bytes()), (0, 0));
    }

    /// Memory is given back by a queue that was empty for a while, and kept by one that was used. By resting after each.
    #[test]
    fn who_rests_holds_nothing() {
        let mut outbound = Outbound::default();
        outbound.push(&[b'x'; 1_000]);
        outbound.rest();
        assert_eq!(outbound.bytes(), 1_000);
        outbound.push(b"more");
        assert!(frame(&mut outbound).is_some() && frame(&mut outbound).is_some());
        outbound.rest();
        assert!(outbound.lengths.capacity() > 0, "it was used since");
        outbound.rest();
        assert_eq!((outbound.texts.capacity(), outbound.lengths.capacity()), (0, 0));
    }
}
