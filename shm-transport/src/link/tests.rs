//! Fragments, limits, torn messages, and a peer that scribbles.

use std::time::Duration;

use super::*;
use crate::envelope::{BlockV1, EndV1, Kind, Message, MessageV2, Opened, ROUTE_BYTES, Route};
use crate::layout::Geometry;
use crate::record::{FLAG_CONTINUED, FLAG_FRAGMENT};
use crate::xorshift::Random;

const ROUTE: Route = Route { turn: 1, session: 2, origin: 3, sequence: 4, attempt: 5 };

fn halves(capacity_bytes: u64) -> (Arc<Half>, Arc<Half>) {
    let half = || Arc::new(Half::anonymous(Geometry::new(capacity_bytes).unwrap()).unwrap());
    (half(), half())
}

fn link(own: &Arc<Half>, peer: &Arc<Half>, mode: ReadMode, limits: Limits) -> Link {
    Link::new(own, peer, &Side { bell: Bell::Futex, passage: None, mode }, limits).unwrap()
}

fn end(bytes: usize) -> EndV1 {
    EndV1 { content: "x".repeat(bytes) }
}

/// The text of a closing message.
fn text<'a>(message: &Message<'a>) -> &'a str {
    let Opened::End(end) = message.open() else { panic!("{:?}", message.kind()) };
    &end.content
}

/// What a later layout added waits until the peer has said that it understands it, with all that is sent after it, and
/// then goes out in order.
#[test]
fn a_new_kind_waits_for_a_peer_that_is_away() {
    let (a, b) = halves(4096);
    let mut sender = link(&a, &b, ReadMode::CheckInPlace, Limits::default()).sender;
    sender.send(&ROUTE, &end(1)).unwrap();
    sender.send(&ROUTE, &MessageV2::default()).unwrap();
    sender.send(&ROUTE, &end(2)).unwrap();
    sender.flush().unwrap();
    let waiting = sender.backlog_bytes();
    let mut receiver = link(&b, &a, ReadMode::CheckInPlace, Limits::default()).receiver;
    let mut kinds = Vec::new();
    receiver.receive(9, |message| kinds.push(message.kind())).unwrap();
    assert_eq!((kinds.as_slice(), waiting > 0), ([Kind::End].as_slice(), true));
    sender.flush().unwrap();
    receiver.receive(9, |message| kinds.push(message.kind())).unwrap();
    assert_eq!((kinds, sender.backlog_bytes()), (vec![Kind::End, Kind::Message, Kind::End], 0));
}

/// A peer that does not know a kind is never sent it, and that is written down; what every peer knows it is sent. By a
/// peer that says so, and by one of before the word, which says nothing at all.
#[test]
fn a_kind_that_the_peer_does_not_know_is_refused() {
    const MESSAGE: u64 = 1 << Kind::Message as u16;
    for said in [Kind::SET & !MESSAGE, 0] {
        let (a, b) = halves(4096);
        let mut peer = link(&b, &a, ReadMode::CheckInPlace, Limits::default());
        b.control().kinds.0.store(said, Ordering::Relaxed);
        peer.sender.send(&ROUTE, &end(0)).unwrap();
        peer.sender.flush().unwrap();
        let mut sender = link(&a, &b, ReadMode::CheckInPlace, Limits::default()).sender;
        sender.send(&ROUTE, &end(1)).unwrap();
        sender.send(&ROUTE, &MessageV2::default()).unwrap();
        assert_eq!(sender.flush(), Err(SendError::Poisoned(Poison::PeerKind { kind: 8 })));
        assert_eq!(
            Poison::name(a.control().poison.0.load(Ordering::Relaxed)),
            Some("kind unknown to the peer")
        );
        sender.send(&ROUTE, &end(2)).unwrap();
        assert_eq!(sender.flush(), Err(SendError::Poisoned(Poison::PeerKind { kind: 8 })));
        let mut kinds = Vec::new();
        peer.receiver.receive(9, |message| kinds.push(message.kind())).unwrap();
        assert_eq!(kinds, [], "nothing after the first look at the peer");
    }
}

/// Without descriptors, a message sixteen times the ring arrives whole while the reader drains, in all read modes;
/// both sides sleep on futexes and nobody polls.
#[test]
fn a_message_larger_than_the_ring_arrives() {
    for mode in [ReadMode::CopyAndCheck, ReadMode::CheckInPlace, ReadMode::Trust] {
        let (a, b) = halves(65_536);
        let mut sender = link(&a, &b, mode, Limits::default()).sender;
        let mut receiver = link(&b, &a, mode, Limits::default()).receiver;
        let content: String = (0..1024 * 1024u32).map(|n| char::from((n % 95) as u8 + b' ')).collect();
        let expected = content.clone();
        let writer = std::thread::spawn(move || {
            for _ in 0..3 {
                sender.send(&ROUTE, &EndV1 { content: content.clone() }).unwrap();
            }
            sender.send(&ROUTE, &end(3)).unwrap();
            sender.flush().unwrap();
            while sender.backlog_bytes() > 0 {
                sender.wait_for_room(Duration::from_secs(600));
                sender.flush().unwrap();
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let each = |m: Message<'_>| seen.push((m.route, text(&m) == expected, text(&m).len()));
            receiver.receive(16, each).unwrap();
            receiver.release();
            if seen.len() < 4 {
                receiver.wait(Duration::ZERO, Duration::from_secs(600)).unwrap();
            }
        }
        writer.join().unwrap();
        let large = (ROUTE, true, 1024 * 1024);
        assert_eq!(seen, [large, large, large, (ROUTE, false, 3)]);
    }
}

/// Both sides of each limit of a link. The archive of a closing text of n bytes, n a multiple of 4, has n + 8.
#[test]
fn limits_are_exact() {
    let limits = Limits { message_bytes_max: 1000, backlog_bytes_max: 1500 };
    let (a, b) = halves(4096);
    let mut link = link(&a, &b, ReadMode::CopyAndCheck, limits);
    let mut send = |bytes: usize| {
        let refused = link.sender.send(&ROUTE, &end(bytes - ROUTE_BYTES - 8)).err();
        refused.map(|error| error.to_string())
    };
    assert_eq!(send(1004).unwrap(), "message of 1004 bytes is larger than the 1000 of the link");
    assert_eq!(send(1000), None);
    assert_eq!(send(504).unwrap(), "backlog is full: 1000 bytes wait, at most 1500 may");
    assert_eq!(send(500), None);
    assert_eq!(send(52).unwrap(), "backlog is full: 1500 bytes wait, at most 1500 may");
    assert_eq!(link.sender.backlog_bytes(), 1500);
    link.sender.flush().unwrap();
    assert_eq!(link.sender.backlog_bytes(), 0);
}

/// What a receiver makes of records of these kinds, flags and sizes: the sizes of the messages, or the poison. Each
/// first record begins with routing words; the rest is zero, which as a whole is an empty text of kind 3.
fn received(records: &[(u16, u16, usize)]) -> Result<Vec<usize>, Poison> {
    let limits = Limits { message_bytes_max: 600, ..Limits::default() };
    let (a, b) = halves(4096);
    let mut producer = Producer::attach(Halves::of_producer(&a, &b)).unwrap();
    for &(kind, flags, bytes) in records {
        let mut slot = producer.reserve(bytes).unwrap();
        assert!(slot.put(&vec![0; bytes]));
        slot.commit(kind, flags);
    }
    let _nobody = producer.publish();
    let mut seen = Vec::new();
    let mut receiver = link(&b, &a, ReadMode::CopyAndCheck, limits).receiver;
    receiver.receive(64, |m| seen.push(ROUTE_BYTES + m.body().bytes().len())).map(|_| seen)
}

/// Halves of two messages are never joined: a sender that was replaced in the middle of a message costs that
/// message and no other, a continuation without a beginning poisons. One row per case.
#[test]
fn torn_messages_are_not_glued() {
    const BOTH: u16 = FLAG_FRAGMENT | FLAG_CONTINUED;
    let (begin, middle, end) = ((3, FLAG_FRAGMENT, 100), (3, BOTH, 100), (3, FLAG_CONTINUED, 100));
    let whole = (3, 0, 40);
    assert_eq!(received(&[begin, middle, end, whole]), Ok(vec![300, 40]));
    assert_eq!(received(&[begin, middle, whole, whole]), Ok(vec![40, 40]));
    assert_eq!(received(&[begin, begin, end]), Ok(vec![200]));
    assert_eq!(received(&[end]), Err(Poison::Orphan { position: 0 }));
    assert_eq!(received(&[middle, end]), Err(Poison::Orphan { position: 0 }));
    assert_eq!(received(&[begin, whole, end]), Err(Poison::Orphan { position: 192 }));
    assert_eq!(
        received(&[begin, (2, FLAG_CONTINUED, 9)]),
        Err(Poison::FragmentKind { expected: 3, found: 2 })
    );
    let long = [(3, FLAG_FRAGMENT, 496), (3, FLAG_CONTINUED, 105)];
    assert_eq!(received(&long), Err(Poison::MessageTooLarge { max: 600 }));
    assert_eq!(received(&[long[0], (3, FLAG_CONTINUED, 104)]), Ok(vec![600]));
    assert_eq!(received(&[(3, 0, 31)]), Err(Poison::Archive { kind: 3, len: 31 }));
    assert_eq!(received(&[(99, 0, 32)]), Err(Poison::Kind { kind: 99 }));
}

/// Whoever takes over a used half goes on at its positions under the next epoch, and wakes a peer that its
/// predecessor may have left asleep, although nothing new is published. The first holder wakes nobody.
#[test]
fn a_successor_goes_on_and_wakes_its_peer() {
    let (a, b) = halves(4096);
    let bell = Arc::new(crate::doorbell::eventfd().unwrap());
    let side = Side { bell: Bell::Event(Arc::clone(&bell)), passage: None, mode: ReadMode::CopyAndCheck };
    let attach = || Link::new(&a, &b, &side, Limits::default()).unwrap();
    let epoch = || a.control().epoch.0.load(Ordering::Relaxed);
    let mut first = attach();
    assert_eq!((epoch(), crate::doorbell::silence(&*bell)), (1, false));
    first.sender.send(&ROUTE, &end(100)).unwrap();
    first.sender.flush().unwrap();
    let published = first.sender.published();
    drop(first);
    let successor = attach();
    assert_eq!((epoch(), crate::doorbell::silence(&*bell)), (2, true));
    assert_eq!(successor.sender.published(), published);
}

/// A reader that dies in the middle of a message, or before it has released one, leaves it to its successor whole.
#[test]
fn messages_are_released_as_a_whole() {
    let (a, b) = halves(4096);
    let mut sender = link(&a, &b, ReadMode::CopyAndCheck, Limits::default()).sender;
    let reader = || link(&b, &a, ReadMode::CopyAndCheck, Limits::default()).receiver;
    let large = end(1500);
    sender.send(&ROUTE, &large).unwrap();
    sender.send(&ROUTE, &end(4)).unwrap();
    sender.flush().unwrap();
    for _ in 0..2 {
        let mut dying = reader();
        // A part of the fragments, then all of them without a release.
        assert_eq!(dying.receive(2, |_| panic!("it is not whole")), Ok(0));
        dying.release();
    }
    let mut seen = 0;
    assert_eq!(reader().receive(64, |_| seen += 1), Ok(2));
    let mut last = reader();
    let mut lengths = Vec::new();
    assert_eq!(last.receive(64, |m| lengths.push(text(&m).len())), Ok(2));
    last.release();
    assert_eq!((seen, lengths), (2, vec![1500, 4]));
    assert_eq!(reader().receive(64, |_| ()), Ok(0));
}

/// A reader that stored the effects of what it received, with its position, and died before the release: its successor
/// goes on behind them. A position that the ring has never been at is refused.
#[test]
fn a_successor_goes_on_behind_stored_effects() {
    let (a, b) = halves(4096);
    let mut sender = link(&a, &b, ReadMode::CopyAndCheck, Limits::default()).sender;
    let reader = || link(&b, &a, ReadMode::CopyAndCheck, Limits::default()).receiver;
    for bytes in [4, 8, 1200, 12] {
        sender.send(&ROUTE, &end(bytes)).unwrap();
    }
    sender.flush().unwrap();
    let mut dying = reader();
    // Two messages, and the beginning of the third.
    assert_eq!(dying.receive(3, |_| ()), Ok(2));
    let stored = dying.position();
    drop(dying);
    let mut successor = reader();
    assert_eq!(successor.resume_at(stored), Ok(()));
    let mut lengths = Vec::new();
    assert_eq!(successor.receive(64, |m| lengths.push(text(&m).len())), Ok(2));
    assert_eq!(lengths, [1200, 12]);
    successor.release();
    assert_eq!(reader().receive(64, |_| ()), Ok(0));
    let beyond = sender.published() + 16;
    assert_eq!(reader().resume_at(beyond), Err(Poison::Own { found: beyond }));
}

/// Why a side does not read its peer any more stands in its half, until somebody takes it over.
#[test]
fn the_poison_is_written_down() {
    let (a, b) = halves(4096);
    let mut receiver = link(&a, &b, ReadMode::CopyAndCheck, Limits::default()).receiver;
    let written = || Poison::name(a.control().poison.0.load(Ordering::Relaxed));
    assert_eq!(written(), None);
    b.control().tail.0.store(7 * 16 + 8, Ordering::Relaxed);
    assert!(matches!(receiver.receive(1, |_| ()), Err(Poison::Tail { .. })));
    assert_eq!(written(), Some("tail"));
    b.control().tail.0.store(0, Ordering::Relaxed);
    drop(link(&a, &b, ReadMode::CopyAndCheck, Limits::default()));
    assert_eq!(written(), None);
}

/// A word a hostile peer might write: near something plausible, or anything.
fn hostile_word(random: &mut Random, near: u64) -> u64 {
    match random.next() % 6 {
        0 => random.next(),
        1 => near,
        2 => near.wrapping_add((random.next() % 600) * 16),
        3 => near.wrapping_sub(16),
        4 => near | (random.next() & 15),
        _ => u64::MAX - (random.next() & 31),
    }
}

/// While another thread scribbles over all that the peer writes, every receive and every send ends in a value
/// or a named poison; then the engine attaches anew. Whatever is read was bounded.
#[test]
fn a_scribbling_peer_harms_only_itself() {
    const ROUNDS: u32 = 200_000;
    let seed =
        std::env::var("HOSTILE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15);
    println!("HOSTILE_SEED={seed}");
    let (engine, agent) = halves(4096);
    // Arc: both threads watch it.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (their_stop, theirs, ours) = (Arc::clone(&stop), Arc::clone(&agent), Arc::clone(&engine));
    let scribbler = std::thread::spawn(move || {
        let mut random = Random(seed | 1);
        // Relaxed: it only ends the loop.
        while !their_stop.load(Ordering::Relaxed) {
            let (control, head) = (theirs.control(), ours.control().head.0.load(Ordering::Relaxed));
            let tail = ours.control().tail.0.load(Ordering::Relaxed);
            let word = [&control.tail, &control.head, &control.sleep, &control.space_wanted];
            let at = (random.next() % 4) as usize;
            word[at].0.store(hostile_word(&mut random, if at == 1 { tail } else { head }), Ordering::Relaxed);
            for _ in 0..4 {
                // Sometimes a header that stands where the engine looks, mostly noise.
                let offset = head & 4080;
                let len = random.next() % 600;
                let good = len | (random.next() % 9) << 32 | (random.next() % 5) << 48;
                theirs.scribble(offset as usize, good);
                theirs.scribble(offset as usize + 8, head);
                theirs.scribble((random.next() % 512) as usize * 8, random.next());
            }
        }
    });
    let limits = Limits { message_bytes_max: 1024, backlog_bytes_max: 4096 };
    let side = Side { bell: Bell::Futex, passage: None, mode: ReadMode::CopyAndCheck };
    let block = BlockV1 { block_type: 0, content: "x".repeat(60) };
    let (mut values, mut poisons) = (0u64, 0u64);
    let mut current = None;
    for _ in 0..ROUNDS {
        let Some(link) = &mut current else {
            match Link::new(&engine, &agent, &side, limits) {
                Ok(link) => current = Some(link),
                Err(_named) => {
                    poisons += 1;
                    // The rings of a poisoned peer are reset; without this a scribbler that does not run just
                    // now would leave every round at this point.
                    let (own, peer) = (engine.control(), agent.control());
                    peer.tail.0.store(own.head.0.load(Ordering::Relaxed), Ordering::Relaxed);
                    peer.head.0.store(own.tail.0.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            continue;
        };
        let received = link.receiver.receive(8, |message| {
            assert!(message.body().bytes().len() <= 1024);
            // What got here can be read.
            if let Opened::Message(seen) = message.open() {
                values += 1 + seen.content.len() as u64 / 1024;
            }
        });
        link.receiver.release();
        let armed = link.receiver.arm();
        link.receiver.disarm();
        let sent = link.sender.send(&ROUTE, &block);
        let flushed = link.sender.flush();
        let broken = [sent, flushed].iter().any(|result| matches!(result, Err(SendError::Poisoned(_))));
        if received.is_err() || armed.is_err() || broken {
            poisons += 1;
            current = None;
        } else {
            values += 1;
        }
    }
    stop.store(true, Ordering::Relaxed);
    scribbler.join().unwrap();
    assert!(values > 0 && poisons > 0, "{values} values, {poisons} poisons");
}
