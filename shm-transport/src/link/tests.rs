//! Fragments, limits, torn messages, and a peer that scribbles.

use super::*;
use crate::layout::Geometry;
use crate::record::{FLAG_CONTINUED, FLAG_FRAGMENT};
use crate::sync::Ordering;

const ROUTE: Route = Route { turn: 1, session: 2, origin: 3, sequence: 4, attempt: 5 };

fn halves(capacity_bytes: u64) -> (Arc<Half>, Arc<Half>) {
    let half = || Arc::new(Half::anonymous(Geometry::new(capacity_bytes).unwrap()).unwrap());
    (half(), half())
}

fn link(own: &Arc<Half>, peer: &Arc<Half>, mode: ReadMode, limits: Limits) -> Link {
    Link::new(own, peer, Bell::Futex, mode, limits).unwrap()
}

/// A message sixteen times the ring arrives whole while the reader drains, in both read modes; both sides
/// sleep on futexes and nobody polls.
#[test]
fn a_message_larger_than_the_ring_arrives() {
    for mode in [ReadMode::CopyAndCheck, ReadMode::InPlace] {
        let (a, b) = halves(65_536);
        let mut sender = link(&a, &b, mode, Limits::default()).sender;
        let mut receiver = link(&b, &a, mode, Limits::default()).receiver;
        let body: Vec<u8> = (0..1024 * 1024u32).map(|n| (n % 251) as u8).collect();
        let expected = body.clone();
        let writer = std::thread::spawn(move || {
            for _ in 0..3 {
                sender.send(Kind::Message, &ROUTE, &body).unwrap();
            }
            sender.send(Kind::End, &ROUTE, b"end").unwrap();
            sender.flush().unwrap();
            while sender.backlog_bytes() > 0 {
                sender.wait_for_room(Duration::from_secs(600));
                sender.flush().unwrap();
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 4 {
            receiver.receive(16, |m| seen.push((m.kind, m.route, m.body == expected, m.body.len()))).unwrap();
            receiver.release();
            if seen.len() < 4 {
                receiver.wait(Duration::ZERO, Duration::from_secs(600)).unwrap();
            }
        }
        writer.join().unwrap();
        let large = (Kind::Message, ROUTE, true, 1024 * 1024);
        assert_eq!(seen, [large, large, large, (Kind::End, ROUTE, false, 3)]);
    }
}

/// Both sides of each limit of a link.
#[test]
fn limits_are_exact() {
    let limits = Limits { message_bytes_max: 1000, backlog_bytes_max: 1500 };
    let (a, b) = halves(4096);
    let mut link = link(&a, &b, ReadMode::CopyAndCheck, limits);
    let mut send = |bytes: usize| link.sender.send(Kind::Message, &ROUTE, &vec![0; bytes - ROUTE_BYTES]);
    assert_eq!(send(1001), Err(SendError::TooLarge { len: 1001, max: 1000 }));
    assert_eq!(send(1000), Ok(()));
    assert_eq!(send(501), Err(SendError::Full { queued: 1000, max: 1500 }));
    assert_eq!(send(500), Ok(()));
    assert_eq!(send(32), Err(SendError::Full { queued: 1500, max: 1500 }));
    assert_eq!(link.sender.backlog_bytes(), 1500);
    assert_eq!(link.sender.flush(), Ok(()));
    assert_eq!(link.sender.backlog_bytes(), 0);
}

/// What a receiver makes of records with these flags and payloads: the sizes of the messages, or the poison.
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
    receiver.receive(64, |m| seen.push(ROUTE_BYTES + m.body.len())).map(|_| seen)
}

/// Halves of two messages are never joined: a sender that was replaced in the middle of a message costs that
/// message and no other, a continuation without a beginning poisons. One row per case.
#[test]
fn torn_messages_are_not_glued() {
    const BOTH: u16 = FLAG_FRAGMENT | FLAG_CONTINUED;
    let (begin, middle, end) = ((1, FLAG_FRAGMENT, 100), (1, BOTH, 100), (1, FLAG_CONTINUED, 100));
    let whole = (1, 0, 40);
    assert_eq!(received(&[begin, middle, end, whole]), Ok(vec![300, 40]));
    assert_eq!(received(&[begin, middle, whole, whole]), Ok(vec![40, 40]));
    assert_eq!(received(&[begin, begin, end]), Ok(vec![200]));
    assert_eq!(received(&[end]), Err(Poison::Orphan { position: 0 }));
    assert_eq!(received(&[middle, end]), Err(Poison::Orphan { position: 0 }));
    assert_eq!(received(&[begin, whole, end]), Err(Poison::Orphan { position: 192 }));
    assert_eq!(
        received(&[begin, (2, FLAG_CONTINUED, 9)]),
        Err(Poison::FragmentKind { expected: 1, found: 2 })
    );
    let long = [(1, FLAG_FRAGMENT, 496), (1, FLAG_CONTINUED, 105)];
    assert_eq!(received(&long), Err(Poison::MessageTooLarge { max: 600 }));
    assert_eq!(received(&[long[0], (1, FLAG_CONTINUED, 104)]), Ok(vec![600]));
    assert_eq!(received(&[(1, 0, 31)]), Err(Poison::Archive { kind: 1, len: 31 }));
    assert_eq!(received(&[(99, 0, 32)]), Err(Poison::Kind { kind: 99 }));
}

/// A side that took over a used segment wakes a peer that its predecessor left asleep, although nothing new
/// is published.
#[test]
fn a_successor_wakes_a_sleeping_peer() {
    let (a, b) = halves(4096);
    let bell = Arc::new(crate::doorbell::eventfd().unwrap());
    let ringing = Bell::Event(Arc::clone(&bell));
    let successor = Link::new(&a, &b, ringing, ReadMode::CopyAndCheck, Limits::default()).unwrap();
    successor.sender.wake_peer();
    assert!(crate::doorbell::silence(&*bell));
}

/// Xorshift: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
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
    let (mut values, mut poisons) = (0u64, 0u64);
    let mut current = None;
    for _ in 0..ROUNDS {
        let Some(link) = &mut current else {
            match Link::new(&engine, &agent, Bell::Futex, ReadMode::CopyAndCheck, limits) {
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
            assert!(message.body.len() <= 1024);
            // Any archive is readable or refused.
            if message.kind == Kind::Message && message.as_message().is_ok() {
                values += 1;
            }
        });
        link.receiver.release();
        let armed = link.receiver.arm();
        link.receiver.disarm();
        let sent = link.sender.send(Kind::Message, &ROUTE, &[7; 100]);
        let flushed = link.sender.flush();
        let broken = [sent, flushed].iter().any(|r| matches!(r, Err(SendError::Poisoned(_))));
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
