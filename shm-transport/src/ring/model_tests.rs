//! Random operations on real memory, against a queue.

use std::collections::VecDeque;
use std::sync::Arc;

use proptest::prelude::*;

use super::{Consumer, Memory, Producer, Refused, Wake};
use crate::layout::Geometry;
use crate::mapping::{Half, Halves};
use crate::record::Poison;
use crate::sync::Ordering;

fn halves(start: u64) -> (Arc<Half>, Arc<Half>) {
    let half = || Arc::new(Half::anonymous(Geometry::new(4096).unwrap()).unwrap());
    let (producer, consumer) = (half(), half());
    producer.control().tail.0.store(start, Ordering::Relaxed);
    consumer.control().head.0.store(start, Ordering::Relaxed);
    (producer, consumer)
}

fn ring(start: u64) -> (Producer<Halves>, Consumer<Halves>) {
    let (a, b) = halves(start);
    let producer = Producer::attach(Halves::of_producer(&a, &b)).unwrap();
    let consumer = Consumer::attach(Halves::of_consumer(&b, &a)).unwrap();
    (producer, consumer)
}

#[derive(Clone, Debug)]
enum Step {
    /// Reserve the first size, fill the second (at most the first).
    Write(usize, usize),
    /// Reserve and drop.
    GiveBack(usize),
    Publish,
    Read,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..=496, 0usize..=496).prop_map(|(room, fill)| Step::Write(room, fill.min(room))),
        1 => (0usize..=496).prop_map(Step::GiveBack),
        2 => Just(Step::Publish),
        4 => Just(Step::Read),
        2 => Just(Step::Release),
    ]
}

proptest! {
    /// Whatever is done in whatever order, the consumer sees exactly what was published, in order, also at
    /// the very end of the position space.
    #[test]
    fn behaves_like_a_queue(
        steps in proptest::collection::vec(step(), 1..400),
        start in prop_oneof![Just(0u64), (0u64..300).prop_map(|n| n * 16), Just((1 << 63) - 4096)],
    ) {
        let (mut producer, mut consumer) = ring(start);
        let mut open: Vec<Vec<u8>> = Vec::new();
        let mut published: VecDeque<Vec<u8>> = VecDeque::new();
        let mut next = 0u8;
        for step in steps {
            match step {
                Step::Write(room, fill) => match producer.reserve(room) {
                    Ok(mut slot) => {
                        next = next.wrapping_add(1);
                        let bytes = vec![next; fill];
                        prop_assert!(slot.put(&bytes));
                        slot.commit(1, 0);
                        open.push(bytes);
                    }
                    Err(refused) => prop_assert!(matches!(refused, Refused::Full { .. }), "{refused:?}"),
                },
                Step::GiveBack(room) => drop(producer.reserve(room)),
                Step::Publish => {
                    let _nobody_sleeps = producer.publish();
                    published.extend(open.drain(..));
                }
                Step::Read => match consumer.peek().unwrap() {
                    Some(header) => {
                        let mut bytes = vec![0; header.len as usize];
                        consumer.copy_payload(header, &mut bytes);
                        consumer.advance(header);
                        prop_assert_eq!(Some(bytes), published.pop_front());
                    }
                    None => prop_assert!(published.is_empty()),
                },
                Step::Release => {
                    let _nobody_waits = consumer.release();
                }
            }
        }
    }
}

/// A record of one byte more than the maximum is refused by name, the maximum is not.
#[test]
fn the_largest_record_is_exact() {
    let (mut producer, _consumer) = ring(0);
    assert_eq!(producer.reserve(497).err(), Some(Refused::TooLarge { len: 497, max: 496 }));
    assert!(producer.reserve(496).is_ok_and(|slot| slot.filled() == 0));
}

/// A full ring says what is missing, and has room again after the release.
#[test]
fn a_full_ring_refuses_and_recovers() {
    let (mut producer, mut consumer) = ring(0);
    for _ in 0..8 {
        let mut slot = producer.reserve(496).unwrap();
        assert!(slot.put(&[7; 496]));
        slot.commit(1, 0);
    }
    let _nobody = producer.publish();
    assert_eq!(producer.reserve(0).err(), Some(Refused::Full { needed: 16, free: 0 }));
    let header = consumer.peek().unwrap().unwrap();
    consumer.advance(header);
    let _nobody = consumer.release();
    assert_eq!(producer.reserve(496).map(|slot| slot.filled()), Ok(0));
}

/// A head beyond what was published, or behind what it was, poisons the producer's side.
#[test]
fn an_impossible_head_is_refused() {
    let (a, b) = halves(0);
    let mut producer = Producer::attach(Halves::of_producer(&a, &b)).unwrap();
    b.control().head.0.store(4096, Ordering::Relaxed);
    for _ in 0..8 {
        producer.reserve(496).unwrap().commit(1, 0);
    }
    let mut last = Ok(());
    for _ in 0..300 {
        last = producer.reserve(496).map(|slot| slot.commit(1, 0));
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last, Err(Refused::Poisoned(Poison::Head { found: 4096, seen: 0, tail: 0 })));
}

/// A tail that runs backwards, too far ahead or out of step poisons the consumer's side.
#[test]
fn an_impossible_tail_is_refused() {
    for (tail, good) in [(4096, true), (4112, false), (24, false), (u64::MAX, false)] {
        let (a, b) = halves(0);
        let mut consumer = Consumer::attach(Halves::of_consumer(&b, &a)).unwrap();
        a.control().tail.0.store(tail, Ordering::Relaxed);
        let expected = Poison::Tail { found: tail, seen: 0, capacity: 4096 };
        // A possible tail over zeroed memory is refused for its header instead.
        let zeroed = Poison::Padding { position: 0, len: 0 };
        assert_eq!(consumer.peek(), Err(if good { zeroed } else { expected }), "{tail}");
    }
}

/// Closing moves the very word a sleeper waits on: one that looked just before does not sleep on. The mark
/// is no part of the position, and the next holder of the role takes it back.
#[test]
fn closing_moves_the_word_a_sleeper_waits_on() {
    let (a, b) = halves(64);
    let mut producer = Producer::attach(Halves::of_producer(&a, &b)).unwrap();
    let mut consumer = Consumer::attach(Halves::of_consumer(&b, &a)).unwrap();
    assert_eq!(consumer.arm(), Ok(false));
    producer.close();
    assert_ne!(a.control().tail.0.load(Ordering::Relaxed), consumer.tail_seen());
    assert!(consumer.peer_closed());
    assert_eq!((consumer.peek(), consumer.tail_seen()), (Ok(None), 64));
    drop(producer);
    let producer = Producer::attach(Halves::of_producer(&a, &b)).unwrap();
    assert_eq!((producer.published(), consumer.peer_closed()), (64, false));
}

/// What was committed but not published is not lost by closing.
#[test]
fn closing_publishes_what_was_committed() {
    let (mut producer, mut consumer) = ring(0);
    producer.reserve(16).unwrap().commit(1, 0);
    producer.close();
    assert_eq!(consumer.peek().map(|header| header.map(|h| h.position)), Ok(Some(0)));
}

/// Positions in our own words that no role of ours can have written are refused, not computed with.
#[test]
fn impossible_own_positions_are_refused() {
    for (start, good) in [(8, false), (2, false), (16, true), (1 << 63, true), ((1 << 63) + 16, false)] {
        let (a, b) = halves(start);
        let expected = if good { Ok(start) } else { Err(Poison::Own { found: start }) };
        let producer = Producer::attach(Halves::of_producer(&a, &b)).map(|p| p.published());
        let consumer = Consumer::attach(Halves::of_consumer(&b, &a)).map(|c| c.position());
        assert_eq!((producer, consumer), (expected, expected), "{start}");
    }
}

/// A consumer goes on where its predecessor's effects end, and gives back what lies before; one row per place
/// the effects may have ended at.
#[test]
fn a_consumer_resumes_where_its_effects_end() {
    for (at, expected) in [
        (0, Ok(64)),
        (64, Ok(64)),
        (96, Ok(96)),
        (160, Ok(160)),
        (176, Err(Poison::Own { found: 176 })),
        (72, Err(Poison::Own { found: 72 })),
        (u64::MAX - 15, Err(Poison::Own { found: u64::MAX - 15 })),
    ] {
        let (a, b) = halves(64);
        let mut producer = Producer::attach(Halves::of_producer(&a, &b)).unwrap();
        for _ in 0..3 {
            let mut slot = producer.reserve(16).unwrap();
            assert!(slot.put(&[7; 16]));
            slot.commit(1, 0);
        }
        let _nobody_sleeps = producer.publish();
        let mut consumer = Consumer::attach(Halves::of_consumer(&b, &a)).unwrap();
        let resumed = consumer.resume_at(at);
        assert_eq!(resumed.map(|()| consumer.position()), expected, "{at}");
        // Refused or not, only what was resumed behind is given back.
        let _nobody_waits = consumer.release();
        assert_eq!(b.control().head.0.load(Ordering::Relaxed), expected.unwrap_or(64), "{at}");
        let next = consumer.peek().map(|header| header.map(|header| header.position));
        assert_eq!(next, Ok(Some(expected.unwrap_or(64)).filter(|next| *next < 160)), "{at}");
    }
}

/// A ring is not spent on a sleeper that has seen all there is: the next record rings for the same sleep.
/// (The producer may look at the sleep word long after its publish, when the sleeper has read the record and
/// gone to sleep again.)
#[test]
fn a_ring_is_kept_for_what_the_sleeper_has_not_seen() {
    let (mut producer, mut consumer) = ring(0);
    producer.reserve(0).unwrap().commit(1, 0);
    producer.memory().own().tail.0.store(16, Ordering::Release);
    let header = consumer.peek().unwrap().unwrap();
    consumer.advance(header);
    assert_eq!((consumer.peek(), consumer.arm()), (Ok(None), Ok(false)));
    assert_eq!(producer.publish(), Wake::Quiet);
    producer.reserve(0).unwrap().commit(1, 0);
    assert_eq!(producer.publish(), Wake::Ring);
    producer.reserve(0).unwrap().commit(1, 0);
    assert_eq!(producer.publish(), Wake::Quiet, "one ring for each sleep");
}
