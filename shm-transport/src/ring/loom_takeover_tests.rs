//! Every interleaving of a side with another that is killed and followed by a successor.
//!
//! A holder is killed just before any one access to shared memory or a bell, since only these can be told apart
//! from outside. Between the kill and the successor lies what lies between two processes: the kernel.

use std::cell::RefCell;

use loom::thread;

use super::loom_rig::*;
use super::{Consumer, Producer};

/// What a producer without a hitch does to shared memory and bells: 2 to attach, 5 for each record.
const PRODUCER_STEPS: u32 = 12;

/// A producer may be killed at any instruction while the consumer sleeps: a prefix of what it meant to send is
/// there, its successor goes on behind it, and wakes a consumer that was published to but not rung.
#[test]
fn loom_killed_producer_is_followed() {
    for lives in 0..=PRODUCER_STEPS {
        loom::model(move || {
            let (producer, consumer) = views(0);
            let mut consumer = Consumer::attach(consumer).unwrap();
            let writer = thread::spawn(move || {
                let whole = until_killed(|| {
                    let mut first = Producer::attach(producer.mortal(lives)).unwrap();
                    for number in 1..=2 {
                        commit(&mut first, number).unwrap();
                        publish(&mut first);
                    }
                });
                assert!(whole.is_some() || lives < PRODUCER_STEPS, "the steps are counted too few");
                let mut second = Producer::attach(producer).unwrap();
                second.memory().wake_peer();
                for number in second.published() / RECORD_BYTES + 1..=2 {
                    commit(&mut second, number as u8).unwrap();
                    publish(&mut second);
                }
            });
            assert_eq!(take_or_sleep(&mut consumer), Some(1));
            assert_eq!(take_or_sleep(&mut consumer), Some(2));
            writer.join().unwrap();
        });
    }
}

/// The same around the end of the data: a padding record that was written and not published is written again.
#[test]
fn loom_killed_producer_leaves_no_padding() {
    for lives in 0..=5 {
        loom::model(move || {
            let (producer, consumer) = views(48);
            let mut consumer = Consumer::attach(consumer).unwrap();
            let writer = thread::spawn(move || {
                let _killed = until_killed(|| {
                    let mut first = Producer::attach(producer.mortal(lives)).unwrap();
                    commit(&mut first, 9).unwrap();
                });
                let mut second = Producer::attach(producer).unwrap();
                assert_eq!(second.published(), 48);
                commit(&mut second, 1).unwrap();
                publish(&mut second);
            });
            let mut seen = Vec::new();
            drain(&mut consumer, &mut seen);
            writer.join().unwrap();
            drain(&mut consumer, &mut seen);
            assert_eq!((seen, consumer.position()), (counted(1), 96));
        });
    }
}

/// A consumer may be killed at any instruction while the producer waits for room: its successor goes on where
/// the stored effects end, gives back what its predecessor did not, and wakes a producer that was given room
/// but not rung. Each record has its effect once. The one killed releases each record, or both at once: then
/// nothing that its successor releases would ring in the place of what it failed to.
#[test]
fn loom_killed_consumer_is_followed() {
    for (lives, at_once) in (0..=11).flat_map(|lives| [(lives, false), (lives, true)]) {
        loom::model(move || {
            let (producer, consumer) = views(0);
            let mut producer = Producer::attach(producer).unwrap();
            fill(&mut producer);
            let writer = thread::spawn(move || {
                commit_or_sleep(&mut producer, 3);
                publish(&mut producer);
            });
            // Numbers, and the position behind the last: stored together, before the release.
            let effects = RefCell::new((Vec::new(), 0));
            let apply = |consumer: &Consumer<View>, number| {
                let mut effects = effects.borrow_mut();
                effects.0.push(number);
                effects.1 = consumer.position();
            };
            let _killed = until_killed(|| {
                let mut first = Consumer::attach(consumer.mortal(lives)).unwrap();
                while let Some(number) = take(&mut first) {
                    apply(&first, number);
                    if !at_once {
                        release(&mut first);
                    }
                }
                release(&mut first);
            });
            let mut second = Consumer::attach(consumer).unwrap();
            let resume = effects.borrow().1;
            second.resume_at(resume).unwrap();
            assert_eq!(second.position(), resume, "released is applied");
            release(&mut second);
            second.memory().wake_peer();
            while effects.borrow().0.len() < 3 {
                let number = take_or_sleep(&mut second).unwrap();
                apply(&second, number);
                release(&mut second);
            }
            writer.join().unwrap();
            assert_eq!(effects.into_inner().0, counted(3));
        });
    }
}

/// A consumer that is killed when it has announced its sleep, or in it, leaves a word that says so. Its
/// successor takes every record, and is woken for those that come later.
#[test]
fn loom_killed_sleeper_is_followed() {
    for lives in 2..=7 {
        loom::model(move || {
            let (producer, consumer) = views(0);
            let mut producer = Producer::attach(producer).unwrap();
            let writer = thread::spawn(move || {
                for number in 1..=2 {
                    commit(&mut producer, number).unwrap();
                    publish(&mut producer);
                }
            });
            let _killed = until_killed(|| {
                let mut first = Consumer::attach(consumer.mortal(lives)).unwrap();
                let _applied_by_nobody = take_or_sleep(&mut first);
            });
            let mut second = Consumer::attach(consumer).unwrap();
            second.memory().wake_peer();
            assert_eq!(take_or_sleep(&mut second), Some(1));
            assert_eq!(take_or_sleep(&mut second), Some(2));
            writer.join().unwrap();
        });
    }
}

/// A producer that is killed when it has announced that it waits for room, or while it waits: the same.
#[test]
fn loom_killed_waiter_for_room_is_followed() {
    for lives in 0..=10 {
        loom::model(move || {
            let (producer, consumer) = views(0);
            {
                let mut full = Producer::attach(producer.clone()).unwrap();
                fill(&mut full);
            }
            let mut consumer = Consumer::attach(consumer).unwrap();
            let writer = thread::spawn(move || {
                let _killed = until_killed(|| {
                    let mut first = Producer::attach(producer.mortal(lives)).unwrap();
                    commit_or_sleep(&mut first, 9);
                });
                let mut second = Producer::attach(producer).unwrap();
                second.memory().wake_peer();
                commit_or_sleep(&mut second, 3);
                publish(&mut second);
            });
            let mut seen = take_there(&mut consumer, 2);
            writer.join().unwrap();
            drain(&mut consumer, &mut seen);
            assert_eq!(seen, counted(3));
        });
    }
}

/// Both roles are given up on one thread and taken again on another, at the positions in the memory: the
/// hand-over orders nothing but the threads themselves.
#[test]
fn loom_roles_are_taken_again_elsewhere() {
    loom::model(|| {
        let (producer, consumer) = views(48);
        let writer = thread::spawn(move || {
            let successor = producer.clone();
            let mut first = Producer::attach(producer).unwrap();
            commit(&mut first, 1).unwrap();
            publish(&mut first);
            drop(first);
            let second = thread::spawn(move || {
                let mut second = Producer::attach(successor).unwrap();
                let more = commit(&mut second, 2).is_ok();
                publish(&mut second);
                1 + usize::from(more)
            });
            second.join().unwrap()
        });
        let mut first = Consumer::attach(consumer.clone()).unwrap();
        let mut seen: Vec<u8> = take(&mut first).into_iter().collect();
        release(&mut first);
        drop(first);
        let reader = thread::spawn(move || {
            let mut second = Consumer::attach(consumer).unwrap();
            seen.extend(take(&mut second));
            release(&mut second);
            (second, seen)
        });
        let (mut second, mut seen) = reader.join().unwrap();
        let sent = writer.join().unwrap();
        drain(&mut second, &mut seen);
        assert_eq!(seen, counted(sent));
    });
}
