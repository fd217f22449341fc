//! Large messages by descriptor: across, flat, taken over, and from a hostile peer.

use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, SealFlags};

use super::*;
use crate::envelope::{EndV1, Message, Opened, ROUTE_BYTES, Route};
use crate::passage;
use crate::record::FLAG_DESCRIPTOR;
use crate::segment::in_process;

const ROUTE: Route = Route { turn: 1, session: 2, origin: 3, sequence: 4, attempt: 5 };
const LARGE: usize = 64 * 1024 * 1024;
const LIMITS: Limits = Limits { message_bytes_max: LARGE + 4096, backlog_bytes_max: 4 * LARGE };

/// Two halves and both ends of a side channel.
struct Pair {
    a: Arc<Half>,
    b: Arc<Half>,
    of_a: Arc<OwnedFd>,
    of_b: Arc<OwnedFd>,
}

impl Pair {
    fn new(capacity_bytes: u64) -> Self {
        let half = || Arc::new(Half::anonymous(Geometry::new(capacity_bytes).unwrap()).unwrap());
        let (of_a, of_b) = passage::pair().unwrap();
        Self { a: half(), b: half(), of_a: Arc::new(of_a), of_b: Arc::new(of_b) }
    }

    fn side(passage: &Arc<OwnedFd>) -> Side {
        Side { bell: Bell::None, passage: Some(Arc::clone(passage)), mode: ReadMode::CopyAndCheck }
    }

    fn first(&self) -> Link {
        Link::new(&self.a, &self.b, &Self::side(&self.of_a), LIMITS).unwrap()
    }

    fn second(&self) -> Link {
        Link::new(&self.b, &self.a, &Self::side(&self.of_b), LIMITS).unwrap()
    }
}

fn end(bytes: usize) -> EndV1 {
    EndV1 { content: "x".repeat(bytes) }
}

fn text_len(message: &Message<'_>) -> usize {
    let Opened::End(end) = message.open() else { panic!("{:?}", message.kind()) };
    end.content.len()
}

/// 64 MiB cross several links of 64 KiB, in the middle of small messages and in order. That no side's memory grows is
/// shown with two processes, by the tests of the keeper.
#[test]
fn a_large_message_crosses() {
    let bell = || Arc::new(crate::doorbell::eventfd().unwrap());
    let geometry = Geometry::new(65_536).unwrap();
    let (mut source, mut between) = in_process(geometry, &bell(), &bell(), LIMITS).unwrap();
    let pair = Pair::new(65_536);
    let (mut engine, mut agent) = (pair.first(), pair.second());
    source.sender.send(&ROUTE, &end(10)).unwrap();
    source.sender.send(&ROUTE, &end(LARGE)).unwrap();
    source.sender.send(&ROUTE, &end(20)).unwrap();
    source.sender.flush().unwrap();
    let mut lengths = Vec::new();
    while lengths.len() < 3 {
        let passed_on = |m: Message<'_>| engine.sender.forward(&m.route, m.body()).unwrap();
        between.receiver.receive(64, passed_on).unwrap();
        engine.sender.flush().unwrap();
        between.receiver.release();
        let seen = |m: Message<'_>| {
            assert_eq!(m.route, ROUTE);
            lengths.push(text_len(&m));
        };
        agent.receiver.receive(64, seen).unwrap();
        agent.receiver.release();
    }
    assert_eq!(lengths, [10, LARGE, 20]);
}

/// Below the limit fragments travel, above it descriptors, and to a peer that knows no descriptors fragments only.
#[test]
fn size_and_peer_decide_how_a_message_travels() {
    let pair = Pair::new(4096);
    let mut sender = pair.first().sender;
    let mut flags_of = |bytes: usize| {
        let mut consumer = Consumer::attach(Halves::of_consumer(&pair.b, &pair.a)).unwrap();
        sender.send(&ROUTE, &end(bytes - ROUTE_BYTES - 8)).unwrap();
        sender.flush().unwrap();
        let flags = consumer.peek().unwrap().unwrap().flags;
        // Empty the ring, fragment by fragment.
        while sender.backlog_bytes() > 0 || consumer.peek().unwrap().is_some() {
            while let Some(header) = consumer.peek().unwrap() {
                consumer.advance(header);
            }
            let _nobody_sleeps = consumer.release();
            sender.flush().unwrap();
        }
        flags
    };
    let fragment = crate::record::FLAG_FRAGMENT;
    assert_eq!(flags_of(4000), fragment, "nobody has said yet that it takes descriptors");
    drop(pair.second());
    // The decision rests on the bound of the archive, which may be 8 bytes above its size.
    assert_eq!((flags_of(400), flags_of(1460), flags_of(1476)), (0, fragment, FLAG_DESCRIPTOR));
    pair.b.control().features.0.store(0, Ordering::Relaxed);
    assert_eq!(flags_of(1476), fragment);
}

/// A reader that dies with a large message unreleased leaves it to its successor; one that dies after the release,
/// before it has dropped the descriptor, leaves nothing that confuses; a sender that dies between descriptor and
/// record leaves a descriptor that its successor's message is not taken for.
#[test]
fn large_messages_survive_both_sides() {
    let pair = Pair::new(4096);
    let mut first = pair.first();
    let second = pair.second();
    let say = |link: &mut Link, bytes: usize| {
        link.sender.send(&ROUTE, &end(bytes)).unwrap();
        link.sender.flush().unwrap();
    };
    let hear = |link: &mut Link, release: bool| {
        let mut lengths = Vec::new();
        while let Ok(1..) = link.receiver.receive(64, |m| lengths.push(text_len(&m))) {
            if !release {
                break;
            }
            link.receiver.release();
        }
        lengths
    };
    drop(second);
    say(&mut first, 5000);
    say(&mut first, 6000);
    assert_eq!(hear(&mut pair.second(), false), [5000]);
    assert_eq!(hear(&mut pair.second(), true), [5000, 6000]);
    // Between the release and the drop of the descriptor.
    say(&mut first, 7000);
    let mut dying = pair.second();
    assert_eq!(hear(&mut dying, false), [7000]);
    let _nobody_sleeps = dying.receiver.release_without_drop();
    say(&mut first, 8000);
    assert_eq!(hear(&mut pair.second(), true), [8000]);
    // Between the descriptor and its record: the descriptor is sent, the record is not published.
    first.sender.send(&ROUTE, &end(9000)).unwrap();
    first.sender.drain_unpublished();
    let mut successor = pair.first();
    say(&mut successor, 9100);
    assert_eq!(hear(&mut pair.second(), true), [9100]);
}

/// A file of so many bytes, with these seals.
fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let file = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

/// What the engine makes of a record that announces `bytes` under number 1, and of what lies in the side channel.
fn heard(bytes: u64, sent: &[(u64, &OwnedFd)]) -> Result<usize, Poison> {
    let pair = Pair::new(4096);
    let mut engine = pair.first();
    let mut producer = Producer::attach(Halves::of_producer(&pair.b, &pair.a)).unwrap();
    for (number, file) in sent {
        assert!(Passage::new(&pair.of_b).send(*number, file.as_fd()));
    }
    let mut slot = producer.reserve(ROUTE_BYTES + DESCRIPTOR_BYTES).unwrap();
    assert!(slot.put(&ROUTE.encode()) && slot.put(&1u64.to_le_bytes()) && slot.put(&bytes.to_le_bytes()));
    slot.commit(Kind::End.number(), FLAG_DESCRIPTOR);
    let _nobody_sleeps = producer.publish();
    engine.receiver.receive(64, |_| ())
}

/// One row per thing that can be wrong with a descriptor. Zeros are an empty text, so the good one is a message.
#[test]
fn descriptors_are_refused_by_name() {
    const ALL: SealFlags =
        SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);
    let good = memfd(4096, ALL);
    let refused = |reason| Err(Poison::Descriptor { position: 0, reason });
    assert_eq!(heard(4096, &[(1, &good)]), Ok(1));
    assert_eq!(heard(4096, &[(0, &good), (1, &good)]), Ok(1), "a stale one is passed over");
    assert_eq!(heard(4096, &[]), refused("it did not come with its record"));
    assert_eq!(heard(4096, &[(2, &good)]), refused("it did not come with its record"));
    assert_eq!(heard(4000, &[(1, &good)]), refused("it has another size"));
    assert_eq!(heard(8192, &[(1, &good)]), refused("it has another size"));
    for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        let open = memfd(4096, ALL.difference(missing));
        assert_eq!(heard(4096, &[(1, &open)]), refused("it is not sealed"), "{missing:?}");
    }
    let pipe = rustix::pipe::pipe().unwrap().0;
    assert_eq!(heard(4096, &[(1, &pipe)]), refused("it is no memfd of ordinary pages"));
    let too_large = Poison::MessageTooLarge { max: LIMITS.message_bytes_max };
    assert_eq!(heard(LIMITS.message_bytes_max as u64, &[(1, &good)]), Err(too_large));
    assert_eq!(heard(u64::MAX, &[(1, &good)]), Err(too_large));
    let uneven = memfd(4095, ALL);
    assert_eq!(heard(4095, &[(1, &uneven)]), Err(Poison::Archive { kind: 3, len: 4095 }));
}

/// Messages of all sizes, from one record to descriptors, pass while each side does something only when its bell has
/// rung: a sender that waits for room is woken also by a reader that holds the beginning of a message back.
#[test]
fn messages_of_all_sizes_pass_between_sleepers() {
    const MESSAGES: u32 = 3_000;
    let mut random = 0x9e37_79b9_u64;
    let bytes: Vec<usize> = (0..MESSAGES)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % 2_400
        })
        .collect();
    for records_max in [1, 2, 3, 64] {
        let pair = Pair::new(4096);
        let bells = [(); 2].map(|()| Arc::new(crate::doorbell::eventfd().unwrap()));
        let side = |bell: usize, passage| Side {
            bell: Bell::Event(Arc::clone(&bells[bell])),
            ..Pair::side(passage)
        };
        let mut sender = Link::new(&pair.a, &pair.b, &side(1, &pair.of_a), LIMITS).unwrap().sender;
        let mut receiver = Link::new(&pair.b, &pair.a, &side(0, &pair.of_b), LIMITS).unwrap().receiver;
        let (mut sent, mut came) = (0, 0);
        let (mut sender_awake, mut receiver_awake) = (true, true);
        while came < bytes.len() {
            assert!(sender_awake || receiver_awake, "both sleep: {sent} sent, {came} came");
            if sender_awake {
                sender.flush().unwrap();
                while sender.backlog_bytes() == 0 && sent < bytes.len() {
                    sender.send(&Route { sequence: sent as u32, ..ROUTE }, &end(bytes[sent])).unwrap();
                    sender.flush().unwrap();
                    sent += 1;
                }
                sender_awake = false;
            }
            if receiver_awake || crate::doorbell::silence(&*bells[1]) {
                receiver.disarm();
                let each = |m: Message<'_>| {
                    assert_eq!((m.route.sequence as usize, text_len(&m)), (came, bytes[came]));
                    came += 1;
                };
                receiver.receive(records_max, each).unwrap();
                receiver.release();
                receiver_awake = receiver.arm().unwrap();
            }
            receiver_awake |= crate::doorbell::silence(&*bells[1]);
            sender_awake |= crate::doorbell::silence(&*bells[0]);
        }
    }
}

/// However many large messages wait, a bounded number is under way, and all arrive in order.
#[test]
fn few_descriptors_are_under_way() {
    let pair = Pair::new(65_536);
    let mut first = pair.first();
    let mut second = pair.second();
    for n in 0..100 {
        first.sender.send(&ROUTE, &end(40_000 + n)).unwrap();
    }
    first.sender.flush().unwrap();
    assert_eq!(first.sender.under_way(), passage::IN_FLIGHT_MAX);
    let mut lengths = Vec::new();
    while lengths.len() < 100 {
        assert_eq!(second.receiver.receive(64, |m| lengths.push(text_len(&m))), Ok(1));
        second.receiver.release();
        first.sender.flush().unwrap();
    }
    assert_eq!(lengths, (40_000..40_100).collect::<Vec<_>>());
    assert_eq!(first.sender.backlog_bytes(), 0);
}

/// What is given back up to a position is gone, and the rest is read again by a successor, in order: fragments and
/// descriptors too. Behind a message by descriptor nothing is read before it is given back.
#[test]
fn what_is_not_given_back_is_read_again() {
    const SIZES: [usize; 5] = [10, 700, 10, 9000, 20];
    for given_back in 0..=4 {
        let pair = Pair::new(4096);
        let (mut writer, mut reader) = (pair.first(), pair.second());
        for bytes in SIZES {
            writer.sender.send(&ROUTE, &end(bytes)).unwrap();
            writer.sender.flush().unwrap();
        }
        let start = reader.receiver.position();
        let (mut read, mut positions) = (Vec::new(), vec![start]);
        // The second one takes two records.
        for _ in 0..SIZES.len() + 1 {
            if reader.receiver.receive(1, |m| read.push(text_len(&m))).unwrap() > 0 {
                positions.push(reader.receiver.position());
            }
        }
        assert_eq!((read.as_slice(), reader.receiver.awaits_release()), (&SIZES[..4], true));
        reader.receiver.release_until(positions[given_back]);
        assert_eq!(reader.receiver.awaits_release(), given_back < 4);
        let mut successor = pair.second();
        let mut again = Vec::new();
        while again.len() < SIZES.len() - given_back {
            successor.receiver.receive(9, |m| again.push(text_len(&m))).unwrap();
            successor.receiver.release();
        }
        assert_eq!(again, SIZES[given_back..]);
    }
}
