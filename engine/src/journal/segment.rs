//! Segment files: their names, and the header page that says which use of the file its records belong to.
//!
//! The layout is a table of `docs/journal-format.md`.

use super::disk::{Part, SegmentName};
use super::record::{RECORD_ALIGN, Stamp};

/// Bytes in front of the first record.
pub const HEADER_PAGE_BYTES: usize = 4096;
/// Bytes of the header page that are used; the others are zero. Less than a sector, so a header is never torn.
pub const HEADER_BYTES: usize = 52;
/// A reader refuses a segment with another.
pub const VERSION_MAJOR: u16 = 1;
/// The first bytes of a segment of entries.
pub const MAGIC_ENTRIES: [u8; 8] = *b"OCLWJRNL";
/// The first bytes of a segment of ids.
pub const MAGIC_IDS: [u8; 8] = *b"OCLWJIDS";
/// The smallest segment file.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// The usual one.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

const CHECKED_BYTES: usize = HEADER_BYTES - 4;
const _: () = assert!(HEADER_BYTES <= 512, "a header lies in one sector");
const _: () = assert!(HEADER_PAGE_BYTES.is_multiple_of(RECORD_ALIGN), "records stay aligned");

/// What a segment says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Which of the logs of a shard.
    pub part: Part,
    /// Which shard.
    pub log_index: u32,
    /// Its number when it was begun; the file's name may have moved on since.
    pub number: u64,
    /// What its records are tied to.
    pub stamp: Stamp,
    /// Number of its first record.
    pub first_sequence: u64,
}

/// Why a header page is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// The file is smaller than the page.
    #[error("{found} bytes are less than a header page of {HEADER_PAGE_BYTES}")]
    Short {
        /// Its size.
        found: usize,
    },
    /// It is not a segment of this log.
    #[error("magic is {found:02x?}, expected {expected:02x?}")]
    Magic {
        /// The first bytes.
        found: [u8; 8],
        /// What they should be.
        expected: [u8; 8],
    },
    /// Another version has written it.
    #[error("format version is {found}, this build reads {VERSION_MAJOR}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// It was damaged.
    #[error("header checksum is {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The field.
        found: u32,
        /// What the bytes have.
        computed: u32,
    },
    /// It belongs to another shard.
    #[error("log index is {found}, expected {expected}")]
    LogIndex {
        /// The field.
        found: u32,
        /// Whose directory it lies in.
        expected: u32,
    },
    /// It says a later number than its name.
    #[error("segment number is {found}, its name says {expected}")]
    Number {
        /// The field.
        found: u64,
        /// The name.
        expected: u64,
    },
}

fn magic(part: Part) -> [u8; 8] {
    match part {
        Part::Entries => MAGIC_ENTRIES,
        Part::Ids => MAGIC_IDS,
    }
}

impl SegmentHeader {
    /// As stored at the beginning of the file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[..8].copy_from_slice(&magic(self.part));
        bytes[8..10].copy_from_slice(&VERSION_MAJOR.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.log_index.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.stamp.generation.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.stamp.salt.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header of the file with this name; `None` if it has never been begun, that is, if it is all zero.
    ///
    /// A header with a smaller number than the name is an earlier use: the file has been recycled and not begun.
    pub fn decode(page: &[u8], name: SegmentName, log_index: u32) -> Result<Option<Self>, HeaderError> {
        let Some(bytes) = page.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderError::Short { found: page.len() });
        };
        if *bytes == [0; HEADER_BYTES] {
            return Ok(None);
        }
        let (found, expected) = (field(bytes, 0), magic(name.part));
        if found != expected {
            return Err(HeaderError::Magic { found, expected });
        }
        let version = u16::from_le_bytes(field(bytes, 8));
        if version != VERSION_MAJOR {
            return Err(HeaderError::Version { found: version });
        }
        let found = u32::from_le_bytes(field(bytes, CHECKED_BYTES));
        let computed = crc32c::crc32c(&bytes[..CHECKED_BYTES]);
        if found != computed {
            return Err(HeaderError::Checksum { found, computed });
        }
        let header = Self {
            part: name.part,
            log_index: u32::from_le_bytes(field(bytes, 12)),
            number: u64::from_le_bytes(field(bytes, 16)),
            stamp: Stamp {
                generation: u32::from_le_bytes(field(bytes, 24)),
                salt: u64::from_le_bytes(field(bytes, 40)),
            },
            first_sequence: u64::from_le_bytes(field(bytes, 32)),
        };
        if header.log_index != log_index {
            return Err(HeaderError::LogIndex { found: header.log_index, expected: log_index });
        }
        if header.number > name.number {
            return Err(HeaderError::Number { found: header.number, expected: name.number });
        }
        Ok(Some(header))
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// The name of a segment file in its directory.
pub fn file_name(number: u64) -> String {
    format!("{number:08}.log")
}

/// The number of a segment file; `None` if this is not the name of one.
pub fn file_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: SegmentName = SegmentName { part: Part::Entries, number: 9 };

    fn header() -> SegmentHeader {
        let stamp = Stamp { generation: 4, salt: 5 };
        SegmentHeader { part: Part::Entries, log_index: 3, number: 9, stamp, first_sequence: 77 }
    }

    /// A header comes back; each way of being wrong has its own name; every flipped bit is noticed.
    #[test]
    fn headers_come_back_or_are_refused() {
        let good = header().encode();
        assert_eq!(SegmentHeader::decode(&good, NAME, 3), Ok(Some(header())));
        assert_eq!(SegmentHeader::decode(&[0; HEADER_BYTES], NAME, 3), Ok(None));
        let later = SegmentName { number: 12, ..NAME };
        assert_eq!(SegmentHeader::decode(&good, later, 3), Ok(Some(header())), "recycled");
        let refused = |name, log_index| SegmentHeader::decode(&good, name, log_index).unwrap_err();
        let expected = HeaderError::Magic { found: MAGIC_ENTRIES, expected: MAGIC_IDS };
        assert_eq!(refused(SegmentName { part: Part::Ids, ..NAME }, 3), expected);
        assert_eq!(refused(NAME, 2), HeaderError::LogIndex { found: 3, expected: 2 });
        let earlier = SegmentName { number: 8, ..NAME };
        assert_eq!(refused(earlier, 3), HeaderError::Number { found: 9, expected: 8 });
        assert_eq!(SegmentHeader::decode(&good[..51], NAME, 3), Err(HeaderError::Short { found: 51 }));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = good;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = SegmentHeader::decode(&bytes, NAME, 3).unwrap_err();
            match bit / 8 {
                0..8 => assert!(matches!(error, HeaderError::Magic { .. }), "{error}"),
                8..10 => assert!(matches!(error, HeaderError::Version { .. }), "{error}"),
                _ => assert!(matches!(error, HeaderError::Checksum { .. }), "{error}"),
            }
        }
    }

    /// Names and numbers agree, and nothing else is a name.
    #[test]
    fn names_are_numbers() {
        for number in [0, 1, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(file_number(&file_name(number)), Some(number));
        }
        for name in ["1.log", "+0000001.log", "00000001.tmp", ".log", "000000001.log"] {
            assert_eq!(file_number(name), None, "{name}");
        }
    }
}
