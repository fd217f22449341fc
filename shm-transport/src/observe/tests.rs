//! A live link, a closed and a poisoned one, sleepers, and words that cannot be.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use memmap2::MmapOptions;

use super::*;
use crate::doorbell::eventfd;
use crate::envelope::{BlockV1, Body, EndV1, Kind, ROUTE_BYTES, Route};
use crate::layout::{Geometry, PAGE_BYTES};
use crate::link::{Limits, Link};
use crate::segment::{InProcess, Segment, create, in_process_shown};

const ROUTE: Route = Route { turn: 1, session: 2, origin: 3, sequence: 4, attempt: 5 };
/// Ring bytes of an empty message.
const EMPTY: u64 = (HEADER_BYTES + ROUTE_BYTES) as u64;

fn link() -> (Link, Link, Observer) {
    let bells = [Arc::new(eventfd().unwrap()), Arc::new(eventfd().unwrap())];
    let geometry = Geometry::new(4096).unwrap();
    let made = in_process_shown("test", 7, geometry, [&bells[0], &bells[1]], Limits::default()).unwrap();
    let InProcess { first, second, shown: [a, b] } = made;
    (first, second, Observer::attach([("first", a), ("second", b)]).unwrap())
}

/// A closing message that is so long with its routing words; a multiple of 4.
fn end(len: usize) -> EndV1 {
    EndV1 { content: "x".repeat(len - ROUTE_BYTES - 8) }
}

/// Two halves without sides, each with a mapping that writes it as its owner would, or a hostile one.
fn scene() -> ([Half; 2], Observer) {
    let geometry = Geometry::new(4096).unwrap();
    let page = ConfigPage::new(geometry, 1, 1);
    let [a, b] = [create("a", &page).unwrap(), create("b", &page).unwrap()];
    let own = [&a, &b].map(|half: &Segment| Half::map_own(&half.writable, geometry).unwrap());
    (own, Observer::attach([("first", &a.read_only), ("second", &b.read_only)]).unwrap())
}

fn set(word: &AtomicU64, value: u64) {
    // Relaxed: one thread plays all parts.
    word.store(value, Ordering::Relaxed);
}

/// What is sent is in flight until it is released, in its own direction only; both sides are counted.
#[test]
fn a_live_link_is_seen() {
    let (mut first, mut second, observer) = link();
    let still = observer.look(Direction::SecondToFirst);
    for _ in 0..3 {
        first.sender.forward(&ROUTE, Body::ACCEPTED).unwrap();
    }
    let look = || observer.look(Direction::FirstToSecond);
    assert_eq!((look().tail, look().in_flight_bytes), (0, Ok(0)), "not published yet");
    first.sender.flush().unwrap();
    let seen = look();
    assert_eq!((seen.tail, seen.head, seen.in_flight_bytes), (3 * EMPTY, 0, Ok(3 * EMPTY)));
    assert_eq!((seen.capacity_bytes, seen.closed, seen.poison_name()), (4096, false, None));
    assert_eq!((seen.producer_epoch, seen.consumer_epoch), (1, 1));
    assert_eq!(seen.fill_percent(), Ok(3.515_625));

    assert_eq!(second.receiver.receive(2, |_| ()), Ok(2));
    assert_eq!(look().in_flight_bytes, Ok(3 * EMPTY), "not released yet");
    second.receiver.release();
    assert_eq!((look().head, look().in_flight_bytes), (2 * EMPTY, Ok(EMPTY)));
    assert_eq!(observer.look(Direction::SecondToFirst), still);
    assert_eq!(observer.pages().map(|page| page.instance), [7, 7]);
    assert_eq!(observer.words()[0].kinds, Kind::SET);

    first.sender.close();
    let seen = look();
    assert_eq!((seen.closed, seen.tail, seen.in_flight_bytes), (true, 3 * EMPTY, Ok(EMPTY)));
}

/// Who sleeps is seen with the position it has seen, until it wakes; so is who waits for room.
#[test]
fn sleepers_are_seen() {
    let (mut first, mut second, observer) = link();
    let look = || observer.look(Direction::FirstToSecond);
    assert_eq!((look().consumer, look().producer), (Sleeper::Awake, Sleeper::Awake));
    assert_eq!(second.receiver.arm(), Ok(false));
    assert_eq!(look().consumer, Sleeper::Waits { seen: 0 });
    for _ in 0..9 {
        first.sender.send(&ROUTE, &end(480)).unwrap();
    }
    first.sender.flush().unwrap();
    let full = look();
    assert_eq!((full.consumer, full.producer), (Sleeper::Waits { seen: 0 }, Sleeper::Waits { seen: 0 }));
    assert_eq!(full.in_flight_bytes.map(|bytes| bytes > 3500), Ok(true));
    second.receiver.disarm();
    assert_eq!(second.receiver.receive(16, |_| ()), Ok(8));
    second.receiver.release();
    first.sender.flush().unwrap();
    assert_eq!((look().consumer, look().producer), (Sleeper::Awake, Sleeper::Awake));
}

/// The reason of a consumer that reads no more is shown by name, in its direction; an unknown one too.
#[test]
fn poison_is_named() {
    let ([_, second], observer) = scene();
    for (code, name) in [(0, None), (4, Some("position")), (99, Some("unknown to this build"))] {
        set(&second.control().poison.0, code);
        assert_eq!(observer.look(Direction::FirstToSecond).poison_name(), name);
        assert_eq!(observer.look(Direction::SecondToFirst).poison_name(), None);
    }
}

/// Positions that cannot be are named, and nothing is read by them. One row per case.
#[test]
fn hostile_positions_are_named() {
    let ([first, second], observer) = scene();
    let rows = [
        (0, 0, Ok(0)),
        (4096, 0, Ok(4096)),
        (4097, 0, Ok(4096)), // closed
        (4112, 0, Err(Impossible::MoreThanCapacity)),
        (u64::MAX - 15, 0, Err(Impossible::MoreThanCapacity)),
        (0, 16, Err(Impossible::HeadAhead)),
        (16, u64::MAX - 15, Err(Impossible::HeadAhead)),
        (32, 8, Err(Impossible::Misaligned)),
        (u64::MAX, u64::MAX, Err(Impossible::Misaligned)),
        (u64::MAX - 15, u64::MAX - 31, Ok(16)),
    ];
    for (tail, head, expected) in rows {
        set(&first.control().tail.0, tail);
        set(&second.control().head.0, head);
        assert_eq!(observer.look(Direction::FirstToSecond).in_flight_bytes, expected, "{tail} {head}");
        let unread = observer.unread(Direction::FirstToSecond, 1000);
        match expected {
            Err(impossible) => assert_eq!(unread.rest, Rest::Impossible(impossible), "{tail} {head}"),
            Ok(0) => assert_eq!(unread.rest, Rest::Nothing),
            // The data is all zeroes: no header stands where it says, but at 0.
            Ok(_) => assert!(matches!(unread.rest, Rest::Broken(_)), "{tail} {head} {unread:?}"),
        }
        assert!(unread.records.is_empty(), "{unread:?}");
    }
}

/// Unread records are listed in order, fragments and all, up to the number asked for, and across the end of
/// the ring; one that a hostile producer has spoilt ends the list with its reason.
#[test]
fn unread_records_are_listed() {
    let (mut first, mut second, observer) = link();
    // Nearly a lap, so that the padding at the end is met.
    for _ in 0..7 {
        first.sender.send(&ROUTE, &end(488)).unwrap();
    }
    first.sender.flush().unwrap();
    assert_eq!(second.receiver.receive(16, |_| ()), Ok(7));
    second.receiver.release();
    first.sender.send(&ROUTE, &end(400)).unwrap();
    let block = BlockV1 { block_type: 0, content: "x".repeat(700 - ROUTE_BYTES - 12) };
    first.sender.send(&ROUTE, &block).unwrap();
    first.sender.forward(&ROUTE, Body::STOP).unwrap();
    first.sender.flush().unwrap();
    let list = |max| observer.unread(Direction::FirstToSecond, max);
    let whole = list(100);
    let found: Vec<_> = whole.records.iter().map(|record| (record.kind, record.len, record.flags)).collect();
    assert_eq!((found, whole.rest), (vec![(3, 400, 0), (2, 496, 1), (2, 204, 2), (7, 32, 0)], Rest::Nothing));
    assert_eq!(
        whole.records.iter().map(|record| record.position).collect::<Vec<_>>(),
        [3584, 4096, 4608, 4832]
    );
    let part = list(2);
    assert_eq!((part.records, part.rest), (whole.records[..2].to_vec(), Rest::More { bytes: 272 }));
    assert_eq!(list(0).records, []);

    let ([first, second], observer) = scene();
    set(&second.control().head.0, 0);
    set(&first.control().tail.0, 64);
    first.scribble(0, 1 << 32 | 16); // A message of 16 bytes at position 0.
    first.scribble(32, 1 << 32 | 17); // One of 17 bytes at 32, where 16 are published.
    first.scribble(40, 32);
    let unread = observer.unread(Direction::FirstToSecond, 100);
    let good = Header { len: 16, kind: 1, flags: 0, position: 0 };
    let poison = Poison::Length { position: 32, len: 17, max: 16 };
    assert_eq!(unread, Unread { records: vec![good], rest: Rest::Broken(poison) });
}

/// While two threads run a ring as fast as they can, every look is possible or says that it is not, what is
/// in flight never exceeds the ring, and positions never go back.
#[test]
fn a_busy_ring_can_be_looked_at() {
    const MESSAGES: u32 = 5_000;
    let (mut first, mut second, observer) = link();
    let writer = std::thread::spawn(move || {
        for _ in 0..MESSAGES {
            first.sender.send(&ROUTE, &end(132)).unwrap();
            first.sender.flush().unwrap();
            while first.sender.backlog_bytes() > 0 {
                std::thread::yield_now();
                first.sender.flush().unwrap();
            }
        }
        first.sender.close();
    });
    let reader = std::thread::spawn(move || {
        while !(second.receiver.receive(64, |_| ()).unwrap() == 0 && second.receiver.peer_closed()) {
            second.receiver.release();
            std::thread::yield_now();
        }
    });
    let mut last = observer.look(Direction::FirstToSecond);
    while !last.closed {
        let seen = observer.look(Direction::FirstToSecond);
        assert!(seen.tail >= last.tail && seen.head >= last.head, "{last:?} {seen:?}");
        match seen.in_flight_bytes {
            Ok(bytes) => assert!(bytes <= 4096, "{seen:?}"),
            // The observer was held up between the two positions every single time.
            Err(impossible) => assert_eq!(impossible, Impossible::MoreThanCapacity),
        }
        let unread = observer.unread(Direction::FirstToSecond, 8);
        assert!(!matches!(unread.rest, Rest::Broken(_)), "{unread:?}");
        for record in unread.records {
            assert_eq!((record.kind, record.len), (Kind::End.number(), 132));
        }
        last = seen;
    }
    writer.join().unwrap();
    reader.join().unwrap();
}

/// What an observer is given cannot be mapped for writing, and halves of two links are not joined.
#[test]
fn an_observer_cannot_write() {
    let bell = Arc::new(eventfd().unwrap());
    let geometry = Geometry::new(4096).unwrap();
    let make =
        |number| in_process_shown("test", number, geometry, [&bell, &bell], Limits::default()).unwrap().shown;
    let ([a, b], [_, other]) = (make(1), make(2));
    for half in [&a, &b] as [&OwnedFd; 2] {
        let refused = MmapOptions::new().len(PAGE_BYTES).map_raw(half).err();
        assert_eq!(refused.map(|error| error.kind()), Some(std::io::ErrorKind::PermissionDenied));
        assert_eq!(rustix::io::pwrite(half, b"x", 0), Err(rustix::io::Errno::BADF));
    }
    let refused = Observer::attach([("first", &a), ("second", &other)]).err();
    assert!(matches!(refused, Some(AttachError::Mismatch { field: "instance", engine: 1, agent: 2 })));
    assert!(Observer::attach([("first", &a), ("second", &b)]).is_ok());
}
