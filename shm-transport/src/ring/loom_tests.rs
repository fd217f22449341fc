//! Every interleaving of the ring's properties, with payload slots as checked cells.
//!
//! A side that sleeps does so on a model of the futex: compare and sleep in one step. A lost wake-up is a
//! deadlock, which loom reports. `scripts/loom-mutants` weakens each ordering once and demands that a test here
//! fails.

use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::loom_rig::*;
use super::{Consumer, Producer, Refused, Wake};
use crate::sync::{AtomicU64, Ordering};

/// Whatever the offset, the consumer gets what was accepted, in order, and no byte is written while it is
/// read. Three records through a ring of two, from every offset at which a record can start; at the odd ones
/// a padding record lies at the wrap, and only one record fits beside it.
#[test]
fn loom_every_wrap_offset() {
    for start in (0..CAPACITY_BYTES).step_by(16) {
        loom::model(move || {
            let (mut producer, mut consumer) = ring(start);
            let writer = thread::spawn(move || {
                let mut accepted = 0;
                for _ in 0..4 {
                    if commit(&mut producer, accepted + 1).is_ok() {
                        accepted += 1;
                        publish(&mut producer);
                    }
                }
                accepted
            });
            let mut seen = Vec::new();
            for _ in 0..3 {
                if let Some(number) = take(&mut consumer) {
                    seen.push(number);
                    release(&mut consumer);
                }
            }
            let accepted = writer.join().unwrap();
            drain(&mut consumer, &mut seen);
            assert_eq!(seen, counted(accepted.into()));
        });
    }
}

/// A full ring takes nothing until something is released, an empty one gives nothing; a record is never
/// overwritten while it is held. The ring starts full and the reader holds what it reads.
#[test]
fn loom_full_and_empty() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(0);
        fill(&mut producer);
        let full = Refused::Full { needed: RECORD_BYTES, free: 0 };
        assert_eq!(commit(&mut producer, 3), Err(full));
        let writer = thread::spawn(move || {
            let first = commit(&mut producer, 3);
            publish(&mut producer);
            let second = commit(&mut producer, if first.is_ok() { 4 } else { 3 });
            publish(&mut producer);
            assert!([first, second].iter().all(|r| r.is_ok() || *r == Err(full)));
            usize::from(first.is_ok()) + usize::from(second.is_ok())
        });
        let mut seen = take_there(&mut consumer, 2);
        let accepted = writer.join().unwrap();
        drain(&mut consumer, &mut seen);
        assert_eq!(seen, counted(2 + accepted));
        assert_eq!(consumer.peek(), Ok(None));
    });
}

/// A batch is visible as a whole or not at all: who sees its first record sees its last without looking at
/// the tail again.
#[test]
fn loom_batch_is_all_or_nothing() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(32);
        let writer = thread::spawn(move || {
            fill(&mut producer);
        });
        for _ in 0..2 {
            if take(&mut consumer).is_some() {
                assert_eq!(consumer.tail_seen() - consumer.position(), RECORD_BYTES);
                assert_eq!(take(&mut consumer), Some(2));
                break;
            }
        }
        writer.join().unwrap();
    });
}

/// A consumer that sleeps for want of data is woken by every publish that could be the last.
#[test]
fn loom_no_lost_wake_for_data() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(0);
        let writer = thread::spawn(move || {
            for number in 1..=2 {
                commit(&mut producer, number).unwrap();
                publish(&mut producer);
            }
        });
        assert_eq!(take_or_sleep(&mut consumer), Some(1));
        assert_eq!(take_or_sleep(&mut consumer), Some(2));
        writer.join().unwrap();
    });
}

/// The same for a sleeper on a counting bell, which remembers a ring but not why: the only guard is that
/// either the sleeper sees the data or the waker the sleeper.
#[test]
fn loom_no_lost_wake_by_eventfd() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(0);
        // Arc: the bell belongs to both threads, as a descriptor does.
        let bell = Arc::new((Mutex::new(0u64), Condvar::new()));
        let ringer = Arc::clone(&bell);
        let writer = thread::spawn(move || {
            for number in 1..=2 {
                commit(&mut producer, number).unwrap();
                if producer.publish() == Wake::Ring {
                    *ringer.0.lock().unwrap() += 1;
                    ringer.1.notify_one();
                }
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 2 {
            drain(&mut consumer, &mut seen);
            if seen.len() < 2 && !consumer.arm().unwrap() {
                let mut count = bell.0.lock().unwrap();
                while *count == 0 {
                    count = bell.1.wait(count).unwrap();
                }
                *count = 0;
            }
            consumer.disarm();
        }
        assert_eq!(seen, counted(2));
        writer.join().unwrap();
    });
}

/// A producer that sleeps for want of room is woken, although the consumer rings only when half is free, and
/// writes only where the consumer is through. The ring starts full.
#[test]
fn loom_no_lost_wake_for_space() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(0);
        fill(&mut producer);
        let writer = thread::spawn(move || {
            commit_or_sleep(&mut producer, 3);
            publish(&mut producer);
        });
        let mut seen = take_there(&mut consumer, 2);
        writer.join().unwrap();
        drain(&mut consumer, &mut seen);
        assert_eq!(seen, counted(3));
    });
}

/// A producer that needs more than half of the ring, padding included, is woken by the release that makes the
/// room, also if it saw an earlier one too little while it armed. Three empty records leave 16 bytes; the next
/// record needs 32 and the 16 before the wrap.
#[test]
fn loom_no_lost_wake_after_too_little_room() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(0);
        for _ in 0..3 {
            producer.reserve(0).unwrap().commit(1, 0);
        }
        publish(&mut producer);
        let writer = thread::spawn(move || {
            commit_or_sleep(&mut producer, 1);
            publish(&mut producer);
        });
        for _ in 0..3 {
            let header = consumer.peek().unwrap().unwrap();
            consumer.advance(header);
            release(&mut consumer);
        }
        writer.join().unwrap();
        assert_eq!(take(&mut consumer), Some(1));
    });
}

/// Both sides sleep when they must, and three records go through a ring of two all the same.
#[test]
fn loom_both_sides_sleep() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(16);
        let writer = thread::spawn(move || {
            for number in 1..=3 {
                commit_or_sleep(&mut producer, number);
                publish(&mut producer);
            }
        });
        for expected in 1..=3 {
            assert_eq!(take_or_sleep(&mut consumer), Some(expected));
            release(&mut consumer);
        }
        writer.join().unwrap();
    });
}

/// A sleeper notices a close, and who sees the mark gets every record committed before it, also one that only
/// the close published.
#[test]
fn loom_close_against_sleep() {
    for published in [false, true] {
        loom::model(move || {
            let (mut producer, mut consumer) = ring(0);
            let writer = thread::spawn(move || {
                commit(&mut producer, 1).unwrap();
                if published {
                    publish(&mut producer);
                }
                producer.close();
                // Unconditional, as in `Sender::close`.
                producer.memory().shared.data_bell.wake();
            });
            assert_eq!(take_or_sleep(&mut consumer), Some(1));
            assert_eq!(take_or_sleep(&mut consumer), None);
            assert!(consumer.peer_closed());
            writer.join().unwrap();
        });
    }
}

/// The next producer of a closed ring opens it again and takes nothing back: a reader that sees only its
/// store sees the records below.
#[test]
fn loom_reopen_after_close() {
    loom::model(|| {
        let (producer, consumer) = views(0);
        let mut consumer = Consumer::attach(consumer).unwrap();
        let writer = thread::spawn(move || {
            let mut first = Producer::attach(producer.clone()).unwrap();
            commit(&mut first, 1).unwrap();
            first.close();
            drop(first);
            assert_eq!(Producer::attach(producer).unwrap().published(), RECORD_BYTES);
        });
        let mut seen = Vec::new();
        drain(&mut consumer, &mut seen);
        writer.join().unwrap();
        drain(&mut consumer, &mut seen);
        assert_eq!((seen, consumer.peer_closed()), (counted(1), false));
    });
}

/// A private copy of the peer's position may be stale but never in the way: what is known to be published is
/// read, and what is known to be free is written.
#[test]
fn loom_stale_copies_are_refreshed() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(0);
        // Arc: the flags belong to both threads.
        let flags = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let theirs = Arc::clone(&flags);
        commit(&mut producer, 1).unwrap();
        publish(&mut producer);
        assert_eq!(consumer.peek().map(|h| h.map(|h| h.position)), Ok(Some(0)));
        let writer = thread::spawn(move || {
            commit(&mut producer, 2).unwrap();
            publish(&mut producer);
            // SYNC: pairs with the Acquire load of the reader.
            theirs[0].store(1, Ordering::Release);
            // SYNC: pairs with the Release store of the reader.
            if theirs[1].load(Ordering::Acquire) == 1 {
                commit(&mut producer, 3).unwrap();
            }
        });
        assert_eq!(take(&mut consumer), Some(1));
        release(&mut consumer);
        // SYNC: pairs with the Acquire load of the writer.
        flags[1].store(1, Ordering::Release);
        // SYNC: pairs with the Release store of the writer.
        if flags[0].load(Ordering::Acquire) == 1 {
            assert_eq!(take(&mut consumer), Some(2));
        }
        writer.join().unwrap();
    });
}

/// A producer that stops after any of its steps leaves a prefix of what it meant to send, and its successor
/// goes on behind it.
#[test]
fn loom_producer_stops_anywhere() {
    for stop in 0..=6 {
        loom::model(move || {
            let (producer, consumer) = views(16);
            let mut consumer = Consumer::attach(consumer).unwrap();
            let writer = thread::spawn(move || {
                let mut first = Producer::attach(producer.clone()).unwrap();
                for step in 0..stop {
                    let number = step / 3 + 1;
                    match step % 3 {
                        // Written and given back: as dead as after a kill.
                        0 => assert!(
                            first.reserve(PAYLOAD_BYTES).is_ok_and(|mut slot| slot.put(&[9; PAYLOAD_BYTES]))
                                || number == 2
                        ),
                        1 => {
                            let _may_be_full = commit(&mut first, number);
                        }
                        _ => publish(&mut first),
                    }
                }
                let sent = usize::from(first.published() > 16) + usize::from(first.published() > 64);
                drop(first);
                let mut second = Producer::attach(producer).unwrap();
                let more = commit(&mut second, sent as u8 + 1).is_ok();
                publish(&mut second);
                sent + usize::from(more)
            });
            let mut seen = Vec::new();
            for _ in 0..2 {
                if let Some(number) = take(&mut consumer) {
                    seen.push(number);
                    release(&mut consumer);
                }
            }
            let sent = writer.join().unwrap();
            drain(&mut consumer, &mut seen);
            assert_eq!(seen, counted(sent));
        });
    }
}

/// A consumer that stops after any of its steps is followed by one that starts at the first record that was
/// not released: some may be seen twice, none is missed, and none is overwritten before.
#[test]
fn loom_consumer_is_replaced_anywhere() {
    for stop in 0..=4 {
        loom::model(move || {
            let (producer, consumer) = views(0);
            let mut producer = Producer::attach(producer).unwrap();
            let writer = thread::spawn(move || {
                let mut accepted = 0;
                for _ in 0..3 {
                    if commit(&mut producer, accepted + 1).is_ok() {
                        accepted += 1;
                        publish(&mut producer);
                    }
                }
                usize::from(accepted)
            });
            let mut first = Consumer::attach(consumer.clone()).unwrap();
            let mut held = Vec::new();
            let mut released = 0;
            for step in 0..stop {
                if step % 2 == 0 {
                    held.extend(take(&mut first));
                } else {
                    release(&mut first);
                    released = held.len();
                }
            }
            drop(first);
            let mut second = Consumer::attach(consumer).unwrap();
            let mut seen = counted(released);
            drain(&mut second, &mut seen);
            let accepted = writer.join().unwrap();
            drain(&mut second, &mut seen);
            assert_eq!(seen, counted(accepted));
            assert_eq!(held, counted(held.len()));
        });
    }
}

/// A role may move to another thread between any two records: the ring needs nothing but the move itself.
#[test]
fn loom_roles_move_between_threads() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(48);
        let writer = thread::spawn(move || {
            commit(&mut producer, 1).unwrap();
            publish(&mut producer);
            let successor = thread::spawn(move || {
                let more = commit(&mut producer, 2).is_ok();
                publish(&mut producer);
                1 + usize::from(more)
            });
            successor.join().unwrap()
        });
        let mut seen: Vec<u8> = take(&mut consumer).into_iter().collect();
        release(&mut consumer);
        let reader = thread::spawn(move || {
            seen.extend(take(&mut consumer));
            release(&mut consumer);
            (consumer, seen)
        });
        let (mut consumer, mut seen) = reader.join().unwrap();
        let sent = writer.join().unwrap();
        drain(&mut consumer, &mut seen);
        assert_eq!(seen, counted(sent));
    });
}
