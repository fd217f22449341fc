//! The 16-byte record header, and the arithmetic of positions: pure functions of integers.
//!
//! | offset | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 4 | `len` | payload bytes, without header and alignment |
//! | 4 | 2 | `kind` | 0 is padding; others are envelope kinds |
//! | 6 | 2 | `flags` | bit 0: the message goes on in the next record; bit 1: it began in an earlier one; bit 2: its archive travels by descriptor |
//! | 8 | 8 | `position` | the record's own position: a stale lap or a wild write is seen at once |

use crate::layout::{Geometry, RECORD_ALIGN};

/// Bytes of a record header.
pub const HEADER_BYTES: usize = 16;
/// The kind of a record that only fills the ring up to its end.
pub const KIND_PADDING: u16 = 0;
/// Flag: the message goes on in the next record.
pub const FLAG_FRAGMENT: u16 = 1;
/// Flag: the message began in an earlier record. Without it a sender that died in the middle of a message
/// and its successor would glue halves of two messages together.
pub const FLAG_CONTINUED: u16 = 2;
/// Flag: the archive is in a file of its own, whose descriptor travels beside the ring.
pub const FLAG_DESCRIPTOR: u16 = 4;
/// Flags this build understands; others poison the ring.
pub const FLAGS_KNOWN: u16 = FLAG_FRAGMENT | FLAG_CONTINUED | FLAG_DESCRIPTOR;

const _: () = assert!(HEADER_BYTES == RECORD_ALIGN, "an archive behind a header is aligned");

/// A record header as numbers. What a peer wrote is unchecked until [`check`] has seen it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Payload bytes.
    pub len: u32,
    /// Envelope kind, or [`KIND_PADDING`].
    pub kind: u16,
    /// Flag bits.
    pub flags: u16,
    /// Where the record says it stands.
    pub position: u64,
}

impl Header {
    /// As stored.
    #[inline]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        // Two whole words: bytes that are read wider than they were written wait for the store.
        let word = u64::from(self.len) | u64::from(self.kind) << 32 | u64::from(self.flags) << 48;
        (u128::from(word) | u128::from(self.position) << 64).to_le_bytes()
    }

    /// From any 16 bytes: total, since every bit pattern is some header.
    #[inline]
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, position @ ..] = bytes;
        Self {
            len: u32::from_le_bytes([a, b, c, d]),
            kind: u16::from_le_bytes([e, f]),
            flags: u16::from_le_bytes([g, h]),
            position: u64::from_le_bytes(position),
        }
    }
}

/// Ring bytes that a record of `len` payload bytes takes.
#[inline]
pub fn span(len: usize) -> u64 {
    (HEADER_BYTES + len).next_multiple_of(RECORD_ALIGN) as u64
}

/// Why a ring must not be read any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Poison {
    /// The producer's position is impossible.
    #[error("peer tail {found} is impossible after {seen} with {capacity} bytes of capacity")]
    Tail {
        /// What it wrote.
        found: u64,
        /// The last good one.
        seen: u64,
        /// Bytes of the ring.
        capacity: u64,
    },
    /// A position that only our own role writes is impossible: the memory is not a ring of ours.
    #[error("own position {found} is impossible")]
    Own {
        /// What the memory says.
        found: u64,
    },
    /// The consumer's position is impossible.
    #[error("peer head {found} is impossible between {seen} and {tail}")]
    Head {
        /// What it wrote.
        found: u64,
        /// The last good one.
        seen: u64,
        /// Our own tail.
        tail: u64,
    },
    /// A record does not stand where it says.
    #[error("record at {position} says that it stands at {found}")]
    Position {
        /// Where it was read.
        position: u64,
        /// Where it says it stands.
        found: u64,
    },
    /// A record is longer than allowed, published or contiguous.
    #[error("record at {position} has {len} bytes, at most {max} are possible there")]
    Length {
        /// Where it was read.
        position: u64,
        /// What it says.
        len: u32,
        /// The most that is possible.
        max: u64,
    },
    /// Padding where there can be none, or of the wrong size.
    #[error("padding of {len} bytes at {position} does not end the ring")]
    Padding {
        /// Where it was read.
        position: u64,
        /// What it says.
        len: u32,
    },
    /// Flag bits this build does not know.
    #[error("record at {position} has unknown flags {flags:#06x}")]
    Flags {
        /// Where it was read.
        position: u64,
        /// What it says.
        flags: u16,
    },
    /// A message kind this link does not carry.
    #[error("message kind {kind} is not known on this link")]
    Kind {
        /// What it says.
        kind: u16,
    },
    /// A message grew beyond the limit of the link.
    #[error("message of more than {max} bytes")]
    MessageTooLarge {
        /// The limit.
        max: usize,
    },
    /// A message too short for its routing words, or an archive that fails validation.
    #[error("message of kind {kind} with {len} bytes is not a valid archive")]
    Archive {
        /// Its kind.
        kind: u16,
        /// Its size.
        len: usize,
    },
    /// A record continues a message whose beginning was never read.
    #[error("record at {position} continues a message that did not begin")]
    Orphan {
        /// Where it was read.
        position: u64,
    },
    /// Fragments of different kinds in one message.
    #[error("fragment of kind {found} inside a message of kind {expected}")]
    FragmentKind {
        /// The kind the message began with.
        expected: u16,
        /// The kind of this record.
        found: u16,
    },
    /// A message that the peer does not understand, as its control words say.
    #[error("the peer does not understand messages of kind {kind}")]
    PeerKind {
        /// The kind that was to be sent.
        kind: u16,
    },
    /// A message by descriptor whose descriptor is not as announced.
    #[error("the descriptor of the record at {position} is refused: {reason}")]
    Descriptor {
        /// Where it was read.
        position: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Poison {
    /// A number for each reason, for those who look at a ring from outside.
    pub fn code(&self) -> u64 {
        match self {
            Self::Tail { .. } => 1,
            Self::Own { .. } => 2,
            Self::Head { .. } => 3,
            Self::Position { .. } => 4,
            Self::Length { .. } => 5,
            Self::Padding { .. } => 6,
            Self::Flags { .. } => 7,
            Self::Kind { .. } => 8,
            Self::MessageTooLarge { .. } => 9,
            Self::Archive { .. } => 10,
            Self::Orphan { .. } => 11,
            Self::FragmentKind { .. } => 12,
            Self::Descriptor { .. } => 13,
            Self::PeerKind { .. } => 14,
        }
    }

    /// What a number of [`Self::code`] stands for.
    pub fn name(code: u64) -> Option<&'static str> {
        let names = [
            "tail",
            "own position",
            "head",
            "position",
            "length",
            "padding",
            "flags",
            "kind",
            "message too large",
            "archive",
            "orphan",
            "fragment kind",
            "descriptor",
            "kind unknown to the peer",
        ];
        names.get(usize::try_from(code).ok()?.checked_sub(1)?).copied()
    }
}

/// What a checked header means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checked {
    /// A record with `len` payload bytes.
    Record(Header),
    /// Padding: skip this many bytes.
    Padding(u64),
}

/// Bounds a header read at `position` of which `available` bytes (from the header on) are published.
///
/// `available` is our own shadow: at least [`HEADER_BYTES`], a multiple of 16, at most the capacity.
#[inline]
pub fn check(header: Header, geometry: Geometry, position: u64, available: u64) -> Result<Checked, Poison> {
    debug_assert!(available >= HEADER_BYTES as u64 && available <= geometry.capacity_bytes());
    if header.position != position {
        return Err(Poison::Position { position, found: header.position });
    }
    if header.flags & !FLAGS_KNOWN != 0 {
        return Err(Poison::Flags { position, flags: header.flags });
    }
    let offset = geometry.offset(position) as u64;
    let contiguous = geometry.capacity_bytes() - offset;
    let possible = contiguous.min(available);
    let span = (HEADER_BYTES as u64 + u64::from(header.len)).next_multiple_of(RECORD_ALIGN as u64);
    if header.kind == KIND_PADDING {
        // Padding runs exactly to the end of the ring, and the ring is never all padding.
        let exact = offset != 0 && span == contiguous && span <= available;
        return if exact {
            Ok(Checked::Padding(span))
        } else {
            Err(Poison::Padding { position, len: header.len })
        };
    }
    let len_max = (possible - HEADER_BYTES as u64).min(geometry.record_bytes_max() as u64);
    // Both bounds are multiples of 16, so that the alignment behind the payload fits, too.
    if u64::from(header.len) > len_max {
        return Err(Poison::Length { position, len: header.len, max: len_max });
    }
    debug_assert!(span <= possible);
    Ok(Checked::Record(header))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any 16 bytes decode to a header that encodes to the same bytes.
        #[test]
        fn header_codec_is_total(bytes in any::<[u8; 16]>()) {
            prop_assert_eq!(Header::decode(bytes).encode(), bytes);
        }

        /// Whatever a header says, a record that passes lies inside the published, contiguous bytes,
        /// also near the end of the position space.
        #[test]
        fn checked_records_stay_inside(
            len in any::<u32>(), kind in any::<u16>(), flags in 0u16..10,
            lap in 0u64..8, slot in 0u64..256, units in 1u64..256, high in any::<bool>(),
        ) {
            let geometry = Geometry::new(4096).unwrap();
            let base = if high { u64::MAX - 8 * 4096 + 1 - 4096 } else { 0 };
            let position = base + lap * 4096 + slot * 16;
            let available = units * 16;
            let header = Header { len, kind, flags, position };
            match check(header, geometry, position, available) {
                Ok(Checked::Record(h)) => {
                    prop_assert!(span(h.len as usize) <= available);
                    prop_assert!(geometry.offset(position) as u64 + span(h.len as usize) <= 4096);
                    prop_assert!(h.len as usize <= geometry.record_bytes_max());
                }
                Ok(Checked::Padding(bytes)) => {
                    prop_assert!(bytes <= available);
                    prop_assert_eq!(geometry.offset(position + bytes), 0);
                }
                Err(_) => {}
            }
        }
    }

    /// One row per reason for refusing a header.
    #[test]
    fn headers_are_refused_by_name() {
        let geometry = Geometry::new(4096).unwrap();
        let good = Header { len: 16, kind: 3, flags: 0, position: 64 };
        let check = |header| super::check(header, geometry, 64, 64);
        assert_eq!(check(good), Ok(Checked::Record(good)));
        assert_eq!(check(Header { position: 80, ..good }), Err(Poison::Position { position: 64, found: 80 }));
        assert_eq!(check(Header { len: 49, ..good }), Err(Poison::Length { position: 64, len: 49, max: 48 }));
        assert_eq!(
            check(Header { len: u32::MAX, ..good }),
            Err(Poison::Length { position: 64, len: u32::MAX, max: 48 })
        );
        assert_eq!(check(Header { flags: 8, ..good }), Err(Poison::Flags { position: 64, flags: 8 }));
        assert_eq!(check(Header { kind: 0, ..good }), Err(Poison::Padding { position: 64, len: 16 }));
        let last = Header { len: 0, kind: 0, flags: 0, position: 4080 };
        assert_eq!(super::check(last, geometry, 4080, 16), Ok(Checked::Padding(16)));
    }
}
