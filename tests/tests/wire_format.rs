//! Compares the tables of `docs/wire-format.md` with the constants they describe.

use std::mem::{offset_of, size_of};

use shm_transport::envelope::{
    self, BlockType, DurabilityClass, FailureCode, Kind, Priority, ROUTE_BYTES, Route, SessionMode,
};
use shm_transport::envelope::{
    ArchivedBlockV1, ArchivedEndV1, ArchivedFailureV1, ArchivedHelloV1, ArchivedMessageV2, ArchivedResumeV1,
    ArchivedResumedV1, ArchivedSkillResultV1, ArchivedSkillV1, ResumeStep, SkillOutcome,
};
use shm_transport::layout::{self, ConfigPage, ControlWords, Geometry};
use shm_transport::link;
use shm_transport::record::{self, Header};

const DOCUMENT: &str = include_str!("../../docs/wire-format.md");

/// The rows of the table that starts with this header row, cells trimmed.
fn table(header: &[&str]) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
    };
    let mut lines = DOCUMENT.lines().skip_while(|line| cells(line) != header);
    assert!(lines.next().is_some(), "no table {header:?}");
    let rows: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    assert!(!rows.is_empty(), "table {header:?} is empty");
    rows
}

/// The rows of a table whose header row occurs more than once: the one under this heading.
fn table_under(heading: &str, header: &[&str]) -> Vec<Vec<&'static str>> {
    let section = DOCUMENT.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("no section {heading}"));
    let start = section
        .lines()
        .position(|line| line.trim_matches('|').split('|').map(str::trim).eq(header.iter().copied()));
    let start = start.unwrap_or_else(|| panic!("no table {header:?} under {heading}"));
    section
        .lines()
        .skip(start + 2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
        .collect()
}

/// Compares a table's leading cells with rows of text.
fn compare(what: &str, found: &[Vec<&str>], expected: &[Vec<String>]) {
    assert_eq!(found.len(), expected.len(), "rows of {what}");
    for (row, expected) in found.iter().zip(expected) {
        let leading: Vec<&str> = row.iter().copied().take(expected.len()).collect();
        assert_eq!(leading, *expected, "{what}");
    }
}

fn row<const N: usize>(cells: [&dyn std::fmt::Display; N]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

/// Offsets of the parts of a half, and the limits of its data.
#[test]
fn segment_table() {
    let (page, data) = (layout::PAGE_BYTES, layout::DATA_OFFSET);
    compare(
        "segment",
        &table_under("Segment", &["offset", "bytes", "part", "written by"]),
        &[
            row([&0, &page, &"config page"]),
            row([&layout::CONTROL_OFFSET, &(data - layout::CONTROL_OFFSET), &"control words"]),
            row([&data, &"capacity", &"data"]),
        ],
    );
    compare(
        "limits",
        &table(&["limit", "value"]),
        &[
            row([&"capacity, least", &layout::CAPACITY_BYTES_MIN]),
            row([&"capacity, most", &layout::CAPACITY_BYTES_MAX]),
            row([&"capacity", &"a power of two"]),
            row([&"record alignment", &layout::RECORD_ALIGN]),
            row([&"largest record, of the capacity", &format!("1/{}", layout::RECORDS_PER_CAPACITY_MIN)]),
        ],
    );
    let half = Geometry::new(65_536).unwrap().half_bytes();
    assert_eq!(half, data as u64 + 65_536);
}

/// Every field of an encoded config page lies where the table says, has the value it says, and no other byte
/// is used.
#[test]
fn config_page_table() {
    let page = ConfigPage {
        geometry: Geometry::new(65_536).unwrap(),
        generation: 0x0102_0304_0506_0708,
        instance: 0x1112_1314_1516_1718,
        schema_hash: 0x2122_2324_2526_2728,
        features_required: 0x31,
        features_optional: 0x41,
    };
    let bytes = page.encode();
    let mut end = 0;
    for row in table_under("Config page", &["offset", "bytes", "field", "value"]) {
        let (offset, size): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(offset, end, "a gap before {}", row[2]);
        end = offset + size;
        let mut word = [0u8; 8];
        word[..size].copy_from_slice(&bytes[offset..end]);
        let expected = match row[2] {
            "magic" => layout::MAGIC,
            "version major" => layout::VERSION_MAJOR.into(),
            "version minor" => layout::VERSION_MINOR.into(),
            "capacity" => 65_536,
            "features required" => page.features_required,
            "features optional" => page.features_optional,
            "schema hash" => page.schema_hash,
            "instance" => page.instance,
            "generation" => page.generation,
            "checksum" => crc32c_of(&bytes[..88]).into(),
            _ => row[3].parse().unwrap_or_else(|_| panic!("no value for {}", row[2])),
        };
        assert_eq!(u64::from_le_bytes(word), expected, "{}", row[2]);
        match row[2] {
            "magic" => assert_eq!(row[3].as_bytes(), layout::MAGIC.to_le_bytes()),
            "version major" => assert_eq!(row[3], layout::VERSION_MAJOR.to_string()),
            "version minor" => assert_eq!(row[3], layout::VERSION_MINOR.to_string()),
            "archive format" => assert_eq!(row[3], layout::ARCHIVE_FORMAT.to_string()),
            _ => {}
        }
    }
    assert_eq!(end, layout::CONFIG_BYTES);
}

/// CRC-32C bit by bit, so that the table does not rest on the crate that made the value.
fn crc32c_of(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// Offsets of the control words, in order, and nothing behind them.
#[test]
fn control_words_table() {
    compare(
        "control words",
        &table(&["offset", "word", "meaning"]),
        &[
            row([&offset_of!(ControlWords, tail), &"tail"]),
            row([&offset_of!(ControlWords, head), &"head"]),
            row([&offset_of!(ControlWords, sleep), &"sleep"]),
            row([&offset_of!(ControlWords, space_wanted), &"space_wanted"]),
            row([&offset_of!(ControlWords, epoch), &"epoch"]),
            row([&offset_of!(ControlWords, kinds), &"kinds"]),
            row([&offset_of!(ControlWords, features), &"features"]),
            row([&offset_of!(ControlWords, poison), &"poison"]),
            row([&offset_of!(ControlWords, beat), &"beat"]),
        ],
    );
    assert_eq!(size_of::<ControlWords>(), 9 * layout::LINE_BYTES);
    assert_eq!(layout::FEATURE_DESCRIPTORS, 1);
    assert_eq!(layout::KINDS_FIRST, (1..=7).map(|kind| 1u64 << kind).sum::<u64>());
    let reasons = (1..).map_while(|code| Some(row([&code, &record::Poison::name(code)?])));
    compare("poison", &table(&["poison", "reason"]), &reasons.collect::<Vec<_>>());
    assert_eq!(layout::TAIL_CLOSED, 1);
}

/// Header fields at their offsets, and the flags.
#[test]
fn record_header_table() {
    let header = Header { len: 0x0403_0201, kind: 0x0605, flags: 0x0807, position: 0x100f_0e0d_0c0b_0a09 };
    assert_eq!(header.encode(), std::array::from_fn(|index| index as u8 + 1));
    compare(
        "record header",
        &table_under("Record header", &["offset", "bytes", "field", "meaning"]),
        &[row([&0, &4, &"len"]), row([&4, &2, &"kind"]), row([&6, &2, &"flags"]), row([&8, &8, &"position"])],
    );
    compare(
        "flags",
        &table(&["flag", "value", "meaning"]),
        &[
            row([&"FRAGMENT", &record::FLAG_FRAGMENT]),
            row([&"CONTINUED", &record::FLAG_CONTINUED]),
            row([&"DESCRIPTOR", &record::FLAG_DESCRIPTOR]),
        ],
    );
    let all = record::FLAG_FRAGMENT | record::FLAG_CONTINUED | record::FLAG_DESCRIPTOR;
    assert_eq!(record::FLAGS_KNOWN, all);
    assert_eq!(link::DESCRIPTOR_BYTES, 16);
    compare(
        "limits of large messages",
        &table_under("Large messages", &["limit", "value"]),
        &[
            row([&"largest message, routing words included", &link::MESSAGE_BYTES_MAX]),
            row([&"largest message that travels as fragments", &link::FRAGMENTED_BYTES_MAX]),
        ],
    );
    assert_eq!((record::HEADER_BYTES, record::KIND_PADDING), (16, 0));
}

/// Routing words at their offsets.
#[test]
fn routing_words_table() {
    let route = Route {
        turn: 0x0807_0605_0403_0201,
        session: 0x100f_0e0d_0c0b_0a09,
        origin: 0x1817_1615_1413_1211,
        sequence: 0x1c1b_1a19,
        attempt: 0x201f_1e1d,
    };
    assert_eq!(route.encode(), std::array::from_fn(|index| index as u8 + 1));
    compare(
        "routing words",
        &table_under("Routing words", &["offset", "bytes", "field", "meaning"]),
        &[
            row([&0, &8, &"turn"]),
            row([&8, &8, &"session"]),
            row([&16, &8, &"origin"]),
            row([&24, &4, &"sequence"]),
            row([&28, &4, &"attempt"]),
        ],
    );
    assert_eq!(ROUTE_BYTES, 32);
}

/// Name and size of the archive behind a kind.
fn archive(kind: Kind) -> (&'static str, usize) {
    match kind {
        Kind::Message => ("MessageV2", size_of::<ArchivedMessageV2>()),
        Kind::Block => ("BlockV1", size_of::<ArchivedBlockV1>()),
        Kind::End => ("EndV1", size_of::<ArchivedEndV1>()),
        Kind::Failure => ("FailureV1", size_of::<ArchivedFailureV1>()),
        Kind::Hello => ("HelloV1", size_of::<ArchivedHelloV1>()),
        Kind::Skill => ("SkillV1", size_of::<ArchivedSkillV1>()),
        Kind::SkillResult => ("SkillResultV1", size_of::<ArchivedSkillResultV1>()),
        Kind::Resume => ("ResumeV1", size_of::<ArchivedResumeV1>()),
        Kind::Resumed => ("ResumedV1", size_of::<ArchivedResumedV1>()),
        Kind::Accepted
        | Kind::Stop
        | Kind::Cancel
        | Kind::Journaled
        | Kind::RollCall
        | Kind::Working
        | Kind::Kept => ("none", 0),
    }
}

/// Every kind of this build, in order, with its archive. The number of the first message is not one of them.
#[test]
fn kinds_table() {
    let expected: Vec<_> = Kind::ALL
        .iter()
        .map(|&kind| {
            let (name, bytes) = archive(kind);
            row([&kind.number(), &format!("{kind:?}"), &name, &bytes])
        })
        .collect();
    compare("kinds", &table(&["number", "kind", "archive", "bytes"]), &expected);
    assert!(Kind::ALL.is_sorted_by_key(|kind| kind.number()));
    assert_eq!((Kind::from_number(1), DOCUMENT.contains("\nNumber 1 was MessageV1.")), (None, true));
}

/// Offsets of the fields of each archive's root. The Debug text of a default value lists the fields, so that
/// one left out here is noticed.
#[test]
fn archives_table() {
    macro_rules! archives {
        ($($name:ident $archived:ident { $($field:ident)* })*) => {
            vec![$($((
                stringify!($name), offset_of!($archived, $field), stringify!($field),
                format!("{:?}", envelope::$name::default()).matches(": ").count(),
            ),)*)*]
        };
    }
    let mut fields = archives! {
        MessageV2 ArchivedMessageV2 {
            namespace agent channel user thread client_id content metadata labels received_at_ms deadline_ms
            content_kind priority flags mode durability
        }
        BlockV1 ArchivedBlockV1 { block_type content }
        EndV1 ArchivedEndV1 { content }
        FailureV1 ArchivedFailureV1 { code retry_after_ms text }
        HelloV1 ArchivedHelloV1 { process_id software }
        SkillV1 ArchivedSkillV1 { skill input }
        SkillResultV1 ArchivedSkillResultV1 { outcome output }
        ResumeV1 ArchivedResumeV1 { after sent follow }
        ResumedV1 ArchivedResumedV1 { step wants_reply place agent client_id }
    };
    for (name, .., count) in &fields {
        assert_eq!(fields.iter().filter(|f| f.0 == *name).count(), *count, "fields of {name}");
    }
    fields.sort_by_key(|field| (Kind::ALL.iter().position(|&k| archive(k).0 == field.0), field.1));
    let expected: Vec<_> = fields.iter().map(|f| row([&f.0, &f.1, &f.2])).collect();
    compare("archives", &table(&["archive", "offset", "field", "type"]), &expected);
}

/// Every block type and every failure code, in order.
#[test]
fn code_tables() {
    let blocks: Vec<_> = BlockType::ALL.iter().map(|b| row([&(*b as u8), &b.name()])).collect();
    compare("block types", &table_under("Block types", &["number", "name"]), &blocks);
    let codes: Vec<_> = FailureCode::ALL.iter().map(|c| row([&(*c as u16), &c.name()])).collect();
    compare("failure codes", &table_under("Failure codes", &["number", "name"]), &codes);
    let steps: Vec<_> = ResumeStep::ALL.iter().map(|s| row([&(*s as u8), &s.name()])).collect();
    let documented = table_under("Steps of a resumption", &["number", "name", "meaning"]);
    compare("steps", &documented, &steps);
    let outcomes: Vec<_> = SkillOutcome::ALL.iter().map(|o| row([&(*o as u16), &o.name()])).collect();
    compare("outcomes", &table_under("Outcomes of skills", &["number", "name"]), &outcomes);
    compare(
        "limits of skills",
        &table_under("Skills", &["limit", "value"]),
        &[
            row([&"bytes of a name", &envelope::SKILL_NAME_BYTES_MAX]),
            row([&"bytes of an input, and of an output", &envelope::SKILL_BYTES_MAX]),
            row([&"skills of one agent at once", &envelope::SKILLS_AT_ONCE_MAX]),
        ],
    );
}

/// The numbers inside messages: content kinds, flags, priorities, session modes, durability classes, in order.
#[test]
fn message_tables() {
    compare(
        "content kinds",
        &table_under("Content kinds", &["number", "name"]),
        &[row([&envelope::CONTENT_TEXT, &"text"]), row([&envelope::CONTENT_JSON, &"json"])],
    );
    compare(
        "message flags",
        &table_under("Message flags", &["flag", "value", "meaning"]),
        &[
            row([&"NO_REPLY", &envelope::FLAG_NO_REPLY]),
            row([&"MENTION", &envelope::FLAG_MENTION]),
            row([&"REPLY_TO_AGENT", &envelope::FLAG_REPLY_TO_AGENT]),
            row([&"ACTIVATE", &envelope::FLAG_ACTIVATE]),
            row([&"DEACTIVATE", &envelope::FLAG_DEACTIVATE]),
            row([&"WANTS_ACK", &envelope::FLAG_WANTS_ACK]),
        ],
    );
    let priorities = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
    let priorities = priorities.map(|p| row([&(p as u8), &format!("{p:?}").to_lowercase()]));
    compare("priorities", &table_under("Priorities", &["number", "name"]), &priorities);
    let modes = [SessionMode::Main, SessionMode::Group, SessionMode::Queue];
    let modes = modes.map(|m| row([&(m as u8), &format!("{m:?}").to_lowercase()]));
    compare("session modes", &table_under("Session modes", &["number", "name", "meaning"]), &modes);
    let classes = [DurabilityClass::Default, DurabilityClass::Memory, DurabilityClass::Durable];
    let classes = classes.map(|c| row([&(c as u8), &c.name()]));
    compare("classes", &table_under("Durability classes", &["number", "name", "survives"]), &classes);
    assert_eq!(envelope::ACCEPTED_DUPLICATE, 256);
}
