//! Compares the tables of `docs/journal-format.md` with the constants they describe.

use std::fmt::Display;

use engine::journal::disk::{Part, SegmentName};
use engine::journal::entry::IdEntry;
use engine::journal::files::LogDirectory;
use engine::journal::ids::{ID_BYTES, IDS_PER_RECORD_MAX, KIND_IDS};
use engine::journal::record::{self, Head, RECORD_HEADER_BYTES, Stamp};
use engine::journal::segment::{self, SegmentHeader};
use engine::journal::set::{self, Opened};
use engine::journal::writer::ID_SEGMENT_DIVISOR;

const DOCUMENT: &str = include_str!("../../docs/journal-format.md");

/// The rows of the table under this heading, cells trimmed.
fn table(heading: &str) -> Vec<Vec<&'static str>> {
    let section = DOCUMENT.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("no section {heading}"));
    let rows: Vec<Vec<_>> = section
        .lines()
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect();
    assert!(!rows.is_empty(), "no table under {heading}");
    rows
}

/// Compares the bytes at the place of each row with the value of its field, and finds no gap between rows.
fn compare_fields(heading: &str, bytes: &[u8], expected: &dyn Fn(&str) -> Vec<u8>) {
    let mut end = 0;
    for row in table(heading) {
        let offset: usize = row[0].parse().unwrap();
        let size = row[1].parse().unwrap_or(bytes.len() - offset);
        assert_eq!(offset, end, "{heading}: a gap before {}", row[2]);
        end = offset + size;
        let value = if row[3] == "0" { vec![0; size] } else { expected(row[2]) };
        assert_eq!(bytes[offset..end], value[..], "{heading}: {}", row[2]);
    }
    assert_eq!(end, bytes.len(), "the end of {heading}");
}

/// CRC-32C bit by bit, continued from another, so that the table does not rest on the crate that made the value.
fn crc32c_of(before: u32, bytes: &[u8]) -> u32 {
    let mut crc = !before;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

const STAMP: Stamp = Stamp { generation: 0x0403_0201, salt: 0x1817_1615_1413_1211 };

/// Every field of a header lies where its row says, for both logs.
#[test]
fn segment_header_table() {
    let rows = table("Segment header");
    for (part, magic) in [(Part::Entries, "OCLWJRNL"), (Part::Ids, "OCLWJIDS")] {
        assert!(rows[0][3].contains(magic));
        let header =
            SegmentHeader { part, log_index: 0x3433_3231, number: 77, stamp: STAMP, first_sequence: 1 << 40 };
        let bytes = header.encode();
        compare_fields("Segment header", &bytes, &|field| match field {
            "magic" => magic.as_bytes().to_vec(),
            "version major" => segment::VERSION_MAJOR.to_le_bytes().to_vec(),
            "log index" => header.log_index.to_le_bytes().to_vec(),
            "segment number" => header.number.to_le_bytes().to_vec(),
            "generation" => STAMP.generation.to_le_bytes().to_vec(),
            "first sequence" => header.first_sequence.to_le_bytes().to_vec(),
            "salt" => STAMP.salt.to_le_bytes().to_vec(),
            "checksum" => crc32c_of(0, &bytes[..48]).to_le_bytes().to_vec(),
            other => panic!("no value for {other}"),
        });
    }
    assert_eq!(rows[1][3], segment::VERSION_MAJOR.to_string());
}

/// Every field of a record lies where its row says; the checksum and the mask are those of the text.
#[test]
fn record_table() {
    let words = std::array::from_fn(|index| index as u8);
    let head = Head { sequence: 0x0a0b, kind: 0x0c0d, at_ms: 0x0e0f, words };
    let body = b"a body of a record".as_slice();
    let mut bytes = Vec::new();
    record::encode(&mut bytes, STAMP, &head, body);
    assert_eq!(bytes.len(), (RECORD_HEADER_BYTES + body.len()).next_multiple_of(record::RECORD_ALIGN));
    let (bytes, padding) = bytes.split_at(RECORD_HEADER_BYTES + body.len());
    assert!(padding.iter().all(|&byte| byte == 0));
    compare_fields("Record", bytes, &|field| match field {
        "body bytes" => vec![18, 0, 0, 0],
        "checksum" => crc32c_of(0x1817_1615, &bytes[8..]).to_le_bytes().to_vec(),
        "sequence" => head.sequence.to_le_bytes().to_vec(),
        "generation" => (STAMP.generation ^ 0x1413_1211).to_le_bytes().to_vec(),
        "kind" => head.kind.to_le_bytes().to_vec(),
        "time" => head.at_ms.to_le_bytes().to_vec(),
        "routing words" => words.to_vec(),
        "body" => body.to_vec(),
        other => panic!("no value for {other}"),
    });
    assert_eq!(KIND_IDS, 0);
}

/// Every field of an id lies where its row says.
#[test]
fn id_table() {
    let id = IdEntry { session: 1 << 50, id: 2 << 50, check: 3 << 20, at_s: 4 << 20 };
    let bytes = id.encode();
    assert_eq!(bytes.len(), ID_BYTES);
    compare_fields("Id", &bytes, &|field| match field {
        "session" => id.session.to_le_bytes().to_vec(),
        "id" => id.id.to_le_bytes().to_vec(),
        "check" => id.check.to_le_bytes().to_vec(),
        "time" => id.at_s.to_le_bytes().to_vec(),
        other => panic!("no value for {other}"),
    });
}

/// The limits are those of the code.
#[test]
fn limits_table() {
    let row = |name: &str, value: &dyn Display| vec![name.to_owned(), value.to_string()];
    let expected = [
        row("header page", &segment::HEADER_PAGE_BYTES),
        row("smallest segment", &segment::SEGMENT_BYTES_MIN),
        row("usual segment", &segment::SEGMENT_BYTES_DEFAULT),
        row("segment of ids, of that of entries", &format!("1/{ID_SEGMENT_DIVISOR}")),
        row("record alignment", &record::RECORD_ALIGN),
        row("largest body", &record::BODY_BYTES_MAX),
        row("most ids in a record", &IDS_PER_RECORD_MAX),
    ];
    assert_eq!(table("Segment"), expected);
}

/// The names of files and directories, and the lines of a manifest.
#[test]
fn directory_and_manifest_tables() {
    let root = tempfile::tempdir().unwrap();
    let Opened::New(pending) = set::open(root.path(), 3).unwrap() else { panic!("it is new") };
    let set = pending.commit().unwrap();
    let log = set::log_directory(&set.directory(), 0);
    LogDirectory::open(&log).unwrap().note_failure().unwrap();
    let name = SegmentName { part: Part::Entries, number: 1 };
    std::fs::write(log.join(name.to_string()), "").unwrap();
    for row in table("Directory") {
        assert!(root.path().join(row[0]).exists(), "{}", row[0]);
    }
    let manifest = std::fs::read_to_string(root.path().join(set::MANIFEST_NAME)).unwrap();
    let (text, _) = manifest.split_at(manifest.find("checksum").unwrap());
    let values = [
        set::MANIFEST_VERSION.to_string(),
        "3".into(),
        "g000001".into(),
        format!("{:08x}", crc32c_of(0, text.as_bytes())),
    ];
    let rows = table("Manifest");
    let line = |(row, value): (&Vec<&str>, &String)| format!("{} {value}", row[0]);
    let lines: Vec<String> = rows.iter().zip(&values).map(line).collect();
    assert_eq!(manifest.lines().collect::<Vec<_>>(), lines);
    assert_eq!((rows[0][0], rows[0][1]), (set::MANIFEST_MAGIC, "format version, 1"));
}
