//! One record of a log as it lies on disk: a header that proves it, routing words, and a body.
//!
//! A record belongs to one use of one file. Its generation field is masked, and its checksum begins, with the salt
//! of that use: neither bytes that an earlier use left behind, nor a body made by a client to look like a record,
//! can be taken for one when a reader searches behind a damaged place.
//!
//! The layout is a table of `docs/journal-format.md`.

use crate::planted::{self, Bug};
use shm_transport::envelope::ROUTE_BYTES;
use shm_transport::link::MESSAGE_BYTES_MAX;

/// Records begin at multiples of this, so that an archive behind a header is aligned.
pub const RECORD_ALIGN: usize = 16;
/// Bytes in front of a body.
pub const RECORD_HEADER_BYTES: usize = 64;
/// The largest body.
pub const BODY_BYTES_MAX: usize = MESSAGE_BYTES_MAX;

/// Where the part begins that the checksum covers.
const CHECKED_FROM: usize = 8;
const SEQUENCE_AT: usize = 8;
const GENERATION_AT: usize = 16;
const KIND_AT: usize = 20;
const RESERVED_AT: usize = 22;
const TIME_AT: usize = 24;
const WORDS_AT: usize = 32;

const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN), "the body stays aligned");
const _: () = assert!(WORDS_AT + ROUTE_BYTES == RECORD_HEADER_BYTES, "nothing lies between header and body");
const _: () = assert!(BODY_BYTES_MAX < u32::MAX as usize, "the length has 32 bits");

/// What ties records to one use of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Counts the uses of files over the life of the log.
    pub generation: u32,
    /// Random bits of this use.
    pub salt: u64,
}

impl Stamp {
    fn masked(self) -> u32 {
        let (low, _) = halves(self.salt);
        self.generation ^ low
    }

    fn checksum(self, covered: &[u8]) -> u32 {
        let (_, high) = halves(self.salt);
        crc32c::crc32c_append(high, covered)
    }
}

fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
}

/// What a record says in front of its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Its number in the log.
    pub sequence: u64,
    /// Kind of the body, as the envelope numbers it.
    pub kind: u16,
    /// When it was appended, Unix milliseconds.
    pub at_ms: u64,
    /// The routing words of its entry.
    pub words: [u8; ROUTE_BYTES],
}

/// A record that has been proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// What it says.
    pub head: Head,
    /// The body.
    pub body: &'a [u8],
}

/// Why some bytes are no record of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// They end inside the header.
    #[error("{found} bytes are less than a header of {RECORD_HEADER_BYTES}")]
    Short {
        /// How many there are.
        found: usize,
    },
    /// They were written under another generation, or never.
    #[error("generation field is {found:#010x}, expected {expected:#010x}")]
    Generation {
        /// The field.
        found: u32,
        /// What it is in this segment.
        expected: u32,
    },
    /// A field that is always zero is not.
    #[error("reserved field is {found}, expected 0")]
    Reserved {
        /// The field.
        found: u16,
    },
    /// The body would end behind the segment, or is larger than any.
    #[error("body of {found} bytes, at most {max} are possible")]
    Length {
        /// The field.
        found: u32,
        /// The most that could be there.
        max: usize,
    },
    /// Something was changed or not written.
    #[error("checksum is {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The field.
        found: u32,
        /// What the bytes have.
        computed: u32,
    },
}

/// Bytes that a record with such a body takes.
#[inline]
pub fn span(body_bytes: usize) -> usize {
    RECORD_HEADER_BYTES + body_bytes.next_multiple_of(RECORD_ALIGN)
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut word = [0; N];
    word.copy_from_slice(&bytes[at..at + N]);
    word
}

/// Appends a record. `into` ends at a multiple of [`RECORD_ALIGN`] before and after.
///
/// HOT: no allocation once the buffer has grown; one copy.
pub fn encode(into: &mut Vec<u8>, stamp: Stamp, head: &Head, body: &[u8]) {
    debug_assert!(into.len().is_multiple_of(RECORD_ALIGN));
    assert!(body.len() <= BODY_BYTES_MAX, "a link carries no larger message");
    let start = into.len();
    let mut header = [0u8; RECORD_HEADER_BYTES];
    // Lossless by the assertion above.
    header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
    header[SEQUENCE_AT..GENERATION_AT].copy_from_slice(&head.sequence.to_le_bytes());
    header[GENERATION_AT..KIND_AT].copy_from_slice(&stamp.masked().to_le_bytes());
    header[KIND_AT..RESERVED_AT].copy_from_slice(&head.kind.to_le_bytes());
    header[TIME_AT..WORDS_AT].copy_from_slice(&head.at_ms.to_le_bytes());
    header[WORDS_AT..].copy_from_slice(&head.words);
    into.reserve(span(body.len()));
    into.extend_from_slice(&header);
    into.extend_from_slice(body);
    let checksum = stamp.checksum(&into[start + CHECKED_FROM..]);
    into[start + 4..start + CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
    into.resize(start + span(body.len()), 0);
}

/// The record at the beginning of `bytes`, which reach to the end of the segment.
pub fn decode(bytes: &[u8], stamp: Stamp) -> Result<Record<'_>, RecordError> {
    let Some((header, rest)) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>() else {
        return Err(RecordError::Short { found: bytes.len() });
    };
    let (found, expected) = (u32::from_le_bytes(word(header, GENERATION_AT)), stamp.masked());
    if found != expected {
        return Err(RecordError::Generation { found, expected });
    }
    let reserved = u16::from_le_bytes(word(header, RESERVED_AT));
    if reserved != 0 {
        return Err(RecordError::Reserved { found: reserved });
    }
    let length = u32::from_le_bytes(word(header, 0));
    let max = rest.len().min(BODY_BYTES_MAX);
    let Some(body) = rest.get(..length as usize).filter(|body| body.len() <= max) else {
        return Err(RecordError::Length { found: length, max });
    };
    let computed = stamp.checksum(&bytes[CHECKED_FROM..RECORD_HEADER_BYTES + body.len()]);
    let found = u32::from_le_bytes(word(header, 4));
    if found != computed && !planted::is(Bug::ChecksumIgnored) {
        return Err(RecordError::Checksum { found, computed });
    }
    let head = Head {
        sequence: sequence_field(header),
        kind: u16::from_le_bytes(word(header, KIND_AT)),
        at_ms: u64::from_le_bytes(word(header, TIME_AT)),
        words: word(header, WORDS_AT),
    };
    Ok(Record { head, body })
}

fn sequence_field(header: &[u8]) -> u64 {
    u64::from_le_bytes(word(header, SEQUENCE_AT))
}

/// How many bytes at the beginning of `bytes` look like the record `sequence` or a later one whose rest is missing.
/// For the report only: nothing of them is used.
pub fn torn_bytes(bytes: &[u8], stamp: Stamp, sequence: u64) -> usize {
    let Some(header) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else {
        let used = bytes.iter().rposition(|&byte| byte != 0);
        return used.map_or(0, |last| last + 1);
    };
    let ours = u32::from_le_bytes(word(header, GENERATION_AT)) == stamp.masked();
    // The first 16 bytes share a sector, so the number is there if anything is.
    let found = sequence_field(header);
    if (ours && found >= sequence) || (found == sequence && header[..SEQUENCE_AT] != [0; SEQUENCE_AT]) {
        let length = u32::from_le_bytes(word(header, 0)) as usize;
        return bytes.len().min(span(length));
    }
    0
}

/// The bytes that a record of this segment takes that may begin here, as far as they can be told from these.
pub fn wanted(bytes: &[u8], stamp: Stamp) -> Option<usize> {
    let Some(header) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else { return Some(RECORD_HEADER_BYTES) };
    let length = u32::from_le_bytes(word(header, 0)) as usize;
    (may_begin(bytes, stamp) && length <= BODY_BYTES_MAX).then(|| span(length))
}

/// Whether a record of this segment may begin here. Cheap, and false for nearly all other bytes.
#[inline]
pub fn may_begin(bytes: &[u8], stamp: Stamp) -> bool {
    bytes.get(GENERATION_AT..KIND_AT) == Some(&stamp.masked().to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: Stamp = Stamp { generation: 7, salt: 0x1122_3344_5566_7788 };

    fn head(sequence: u64) -> Head {
        Head { sequence, kind: 8, at_ms: 1_700_000_000_000, words: [3; ROUTE_BYTES] }
    }

    fn encoded(stamp: Stamp, head: &Head, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, stamp, head, body);
        bytes
    }

    proptest! {
        /// What is encoded comes back, takes its span, and leaves what follows alone.
        #[test]
        fn records_come_back(
            generation: u32, salt: u64, sequence: u64, kind: u16, at_ms: u64, words: [u8; ROUTE_BYTES],
            body in prop::collection::vec(any::<u8>(), 0..300), behind in 0..3usize,
        ) {
            let stamp = Stamp { generation, salt };
            let head = Head { sequence, kind, at_ms, words };
            let mut bytes = encoded(stamp, &head, &body);
            prop_assert_eq!(bytes.len(), span(body.len()));
            prop_assert!(may_begin(&bytes, stamp));
            bytes.resize(bytes.len() + behind * 16, 0xee);
            prop_assert_eq!(decode(&bytes, stamp), Ok(Record { head, body: &body }));
        }

        /// A flipped bit is refused, or lies in the padding and changes nothing.
        #[test]
        fn a_flipped_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 0..100), bit: prop::sample::Index) {
            let head = head(5);
            let mut bytes = encoded(STAMP, &head, &body);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            match decode(&bytes, STAMP) {
                Ok(record) => {
                    prop_assert!(bit / 8 >= RECORD_HEADER_BYTES + body.len());
                    prop_assert_eq!(record, Record { head, body: &body });
                }
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }

        /// Any bytes give a record or a named error.
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200), sequence: u64) {
            let _value_or_error = decode(&bytes, STAMP);
            prop_assert!(torn_bytes(&bytes, STAMP, sequence) <= bytes.len());
        }
    }

    /// Each rule has its own refusal.
    #[test]
    fn refusals_are_named() {
        let good = encoded(STAMP, &head(5), b"body");
        let check = |at: usize, value: u8, expected: fn(&RecordError) -> bool| {
            let mut bytes = good.clone();
            bytes[at] = value;
            let error = decode(&bytes, STAMP).unwrap_err();
            assert!(expected(&error), "{error}");
        };
        check(0, 17, |error| matches!(error, RecordError::Length { found: 17, max: 16 }));
        check(3, 0xff, |error| matches!(error, RecordError::Length { .. }));
        check(4, good[4] ^ 1, |error| matches!(error, RecordError::Checksum { .. }));
        check(16, good[16] ^ 1, |error| matches!(error, RecordError::Generation { .. }));
        check(22, 1, |error| matches!(error, RecordError::Reserved { found: 1 }));
        check(64, 0, |error| matches!(error, RecordError::Checksum { .. }));
        assert_eq!(decode(&good[..63], STAMP), Err(RecordError::Short { found: 63 }));
        let other = Stamp { generation: STAMP.generation + 1, ..STAMP };
        assert!(matches!(decode(&good, other), Err(RecordError::Generation { .. })));
        let other = Stamp { salt: STAMP.salt ^ 1 << 40, ..STAMP };
        assert!(matches!(decode(&good, other), Err(RecordError::Checksum { .. })));
    }
}
