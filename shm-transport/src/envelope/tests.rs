//! Round trips, pinned bytes, damage.

use proptest::prelude::*;
use rkyv::util::AlignedVec;

use super::*;
use crate::record::Poison;

fn message() -> MessageV2 {
    MessageV2 {
        agent: "echo".into(),
        channel: "websocket".into(),
        user: "u".into(),
        thread: "t-1".into(),
        client_id: "c1-2".into(),
        content: "hello, wörld 🦞".into(),
        metadata: String::new(),
        namespace: "home".into(),
        labels: "code vision".into(),
        received_at_ms: 1_700_000_000_000,
        deadline_ms: 30_000,
        content_kind: CONTENT_TEXT,
        priority: Priority::High as u8,
        flags: FLAG_MENTION | FLAG_WANTS_ACK,
        mode: SessionMode::Queue as u8,
        durability: DurabilityClass::Memory as u8,
    }
}

/// The bytes as a receiver has them: 16-aligned.
fn aligned(bytes: &[u8]) -> AlignedVec<16> {
    let mut aligned = AlignedVec::new();
    aligned.extend_from_slice(bytes);
    aligned
}

/// Routing words survive encoding.
#[test]
fn route_round_trips() {
    let route = Route { turn: 1, session: u64::MAX, origin: 3, sequence: 4, attempt: u32::MAX };
    assert_eq!(Route::decode(&route.encode()), route);
}

/// An archive reads back as what was written, and its size keeps to the bound.
#[test]
fn archives_round_trip() {
    let mut encoder = Encoder::default();
    let body = encoder.encode(&message());
    assert!(body.bytes().len() <= message().archive_bytes_max());
    let bytes = aligned(body.bytes());
    let seen = Message::checked(8, Route::default(), &bytes).unwrap();
    let Opened::Message(seen) = seen.open() else { panic!("another kind") };
    assert_eq!(seen.agent, "echo");
    assert_eq!(seen.content, "hello, wörld 🦞");
    assert_eq!(seen.received_at_ms.to_native(), 1_700_000_000_000);
    assert_eq!((seen.namespace.as_str(), seen.labels.as_str()), ("home", "code vision"));
    assert_eq!((seen.deadline_ms.to_native(), seen.mode, seen.durability), (30_000, 2, 1));
}

/// A borrowed text is archived byte by byte as an owned one, short or long.
#[test]
fn borrowed_contents_are_the_same() {
    let (mut one, mut other) = (Encoder::default(), Encoder::default());
    for content in ["", "in line", "longer than eight bytes", "hello, wörld 🦞"] {
        let owned = BlockV1 { block_type: 3, content: content.into() };
        let borrowed = one.encode(&BorrowedBlock { block_type: 3, content }).bytes();
        assert_eq!(borrowed, other.encode(&owned).bytes(), "{content}");
        let borrowed = one.encode(&BorrowedEnd { content }).bytes();
        assert_eq!(borrowed, other.encode(&EndV1 { content: content.into() }).bytes(), "{content}");
    }
}

/// Numbers of modes and classes lead back to them, and those that this build does not know to the default.
#[test]
fn modes_and_classes_round_trip() {
    for mode in [SessionMode::Main, SessionMode::Group, SessionMode::Queue] {
        assert_eq!(SessionMode::from_number(mode as u8), mode);
    }
    for class in [DurabilityClass::Default, DurabilityClass::Memory, DurabilityClass::Durable] {
        assert_eq!(DurabilityClass::from_number(class as u8), class);
    }
    assert_eq!((SessionMode::from_number(3), DurabilityClass::from_number(3)), Default::default());
}

/// Numbers and names of block types and failure codes lead back to them.
#[test]
fn names_round_trip() {
    for &block in BlockType::ALL {
        assert_eq!(BlockType::from_name(block.name()), Some(block));
        assert_eq!(BlockType::from_number(block as u8), Some(block));
    }
    for &code in FailureCode::ALL {
        assert_eq!(FailureCode::from_name(code.name()), Some(code));
        assert_eq!(FailureCode::from_number(code as u16), Some(code));
    }
    assert_eq!((BlockType::from_name("txt"), FailureCode::from_number(0)), (None, None));
}

/// Kinds without an archive have no bytes; unknown kinds, the one that is not used again, and bytes at another place than a receiver puts them, are
/// refused.
#[test]
fn what_is_no_message_is_refused() {
    let check = |kind, bytes: &[u8]| Message::checked(kind, Route::default(), bytes).map(|m| m.kind());
    let empty: &[u8] = &[];
    assert_eq!((check(5, empty), check(7, empty)), (Ok(Kind::Accepted), Ok(Kind::Stop)));
    assert_eq!((check(9, empty), check(10, empty)), (Ok(Kind::Cancel), Ok(Kind::Journaled)));
    assert_eq!(check(5, &[0]), Err(Poison::Archive { kind: 5, len: 1 }));
    assert_eq!(check(9, &[0]), Err(Poison::Archive { kind: 9, len: 1 }));
    assert_eq!(check(1, empty), Err(Poison::Kind { kind: 1 }));
    assert_eq!(check(18, empty), Err(Poison::Kind { kind: 18 }));
    assert_eq!(check(3, empty), Err(Poison::Archive { kind: 3, len: 0 }));
    let mut encoder = Encoder::default();
    let mut shifted = AlignedVec::<16>::new();
    shifted.push(0);
    shifted.extend_from_slice(encoder.encode(&message()).bytes());
    assert_eq!(check(8, &shifted[1..]), Err(Poison::Archive { kind: 8, len: shifted.len() - 1 }));
}

/// The bytes of one archive of each kind: an accidental change of the layout fails here. A constant is never
/// edited; a changed struct is a new kind.
#[test]
fn archives_are_pinned_byte_by_byte() {
    let mut encoder = Encoder::default();
    let mut hex = |kind: Kind| {
        let body = match kind {
            Kind::Message => encoder.encode(&message()),
            Kind::Block => encoder.encode(&BlockV1 { block_type: 4, content: "a tool's answer".into() }),
            Kind::End => encoder.encode(&EndV1 { content: "the whole reply".into() }),
            Kind::Failure => {
                encoder.encode(&FailureV1 { code: 5, retry_after_ms: 1500, text: "queue is full".into() })
            }
            Kind::Hello => encoder.encode(&HelloV1 { process_id: 42, software: "agent-sdk 0.1.0".into() }),
            Kind::Accepted => Body::ACCEPTED,
            Kind::Stop => Body::STOP,
            Kind::Cancel => Body::CANCEL,
            Kind::Journaled => Body::JOURNALED,
            Kind::RollCall => Body::ROLL_CALL,
            Kind::Working => Body::WORKING,
            Kind::Kept => Body::KEPT,
            Kind::Skill => {
                encoder.encode(&SkillV1 { skill: "count-words".into(), input: "two words".into() })
            }
            Kind::SkillResult => {
                encoder.encode(&SkillResultV1 { outcome: 5, output: "it took too long".into() })
            }
            Kind::Resume => encoder.encode(&ResumeV1 { after: 7, sent: 9, follow: 1 }),
            Kind::Resumed => encoder.encode(&ResumedV1 {
                step: 1,
                wants_reply: 1,
                place: 1 << 40 | 5,
                agent: "an agent of the house".into(),
                client_id: "the message of a client".into(),
            }),
        };
        assert_eq!(body.kind(), kind);
        body.bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let found: Vec<_> = Kind::ALL.iter().map(|&kind| (kind, hex(kind))).collect();
    assert_eq!(found, GOLDEN.map(|(kind, bytes)| (kind, bytes.to_owned())));
}

const GOLDEN: [(Kind, &str); 16] = [
    (Kind::Block, "6120746f6f6c277320616e7377657200040000008f000000ecffffff"),
    (Kind::End, "7468652077686f6c65207265706c79008f000000f0ffffff"),
    (Kind::Failure, "71756575652069732066756c6c00000005000000dc0500008d000000e8ffffff"),
    (Kind::Accepted, ""),
    (Kind::Hello, "6167656e742d73646b20302e312e30002a0000008f000000ecffffff"),
    (Kind::Stop, ""),
    (
        Kind::Message,
        concat!(
            "776562736f636b657468656c6c6f2c2077c3b6726c6420f09fa69e636f646520",
            "766973696f6e0000686f6d65ffffffff6563686fffffffff89000000c8ffffff",
            "75ffffffffffffff742d31ffffffffff63312d32ffffffff92000000b1ffffff",
            "ffffffffffffffff8b000000b3ffffff0068e5cf8b0100003075000000022202",
            "0100000000000000",
        ),
    ),
    (Kind::Cancel, ""),
    (Kind::Journaled, ""),
    (Kind::RollCall, ""),
    (Kind::Working, ""),
    (Kind::Kept, ""),
    (Kind::Skill, "636f756e742d776f72647374776f20776f7264738b000000ecffffff89000000efffffff"),
    (Kind::SkillResult, "697420746f6f6b20746f6f206c6f6e670500000090000000ecffffff"),
    (Kind::Resume, "070000000000000009000000000000000100000000000000"),
    (
        Kind::Resumed,
        concat!(
            "616e206167656e74206f662074686520686f757365746865206d657373616765",
            "206f66206120636c69656e740000000001010000000000000500000000010000",
            "95000000c0ffffff97000000cdffffff",
        ),
    ),
];

proptest! {
    /// Any damage to an archive gives either a readable value or a named error, never a crash.
    #[test]
    fn damaged_archives_are_read_or_refused(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(), shorten in any::<bool>(),
    ) {
        let mut encoder = Encoder::default();
        let mut bytes = aligned(encoder.encode(&message()).bytes());
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        let end = if shorten { cut.index(bytes.len()) } else { bytes.len() };
        match Message::checked(8, Route::default(), &bytes[..end]).map(|m| m.open()) {
            Ok(Opened::Message(seen)) => {
                prop_assert!(seen.content.len() + seen.labels.len() <= 2 * bytes.len());
            }
            Ok(_) => prop_assert!(false, "another kind"),
            Err(poison) => prop_assert_eq!(poison, Poison::Archive { kind: 8, len: end }),
        }
    }
}
