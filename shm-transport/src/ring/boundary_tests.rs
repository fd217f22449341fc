//! Positions at the edges of their space: where the low half that a futex compares wraps, and where roles are
//! no longer taken.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Consumer, Producer};
use crate::layout::{Geometry, POSITION_MAX, TAIL_CLOSED};
use crate::mapping::{Half, Halves};
use crate::sync::Ordering;

const CAPACITY_BYTES: u64 = 4096;

fn halves(start: u64) -> (Arc<Half>, Arc<Half>) {
    let half = || Arc::new(Half::anonymous(Geometry::new(CAPACITY_BYTES).unwrap()).unwrap());
    let (producer, consumer) = (half(), half());
    producer.control().tail.0.store(start, Ordering::Relaxed);
    consumer.control().head.0.store(start, Ordering::Relaxed);
    (producer, consumer)
}

/// Positions a little below an edge, so that a few records cross it.
fn edge() -> impl Strategy<Value = u64> {
    let edges = prop_oneof![Just(CAPACITY_BYTES), Just(1 << 32), Just(1 << 62), Just(POSITION_MAX)];
    (edges, 0u64..=256).prop_map(|(edge, records)| edge - records * 16)
}

/// A word of a peer: near a position, near the end of all positions, or any.
fn word(near: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        (0u64..1200).prop_map(move |steps| near.wrapping_sub(4800).wrapping_add(steps * 8)),
        (0u64..64).prop_map(|below| u64::MAX - below),
        any::<u64>(),
    ]
}

proptest! {
    /// Records cross every edge whole and in order, while both roles are given up and taken again as long as
    /// they can be; beyond the last edge the holders of the roles go on.
    #[test]
    fn positions_cross_every_edge(
        start in edge(),
        sizes in proptest::collection::vec((0usize..=496, any::<bool>()), 1..60),
    ) {
        let (a, b) = halves(start);
        let producer = || Producer::attach(Halves::of_producer(&a, &b));
        let consumer = || Consumer::attach(Halves::of_consumer(&b, &a));
        let (mut sender, mut receiver) = (producer().unwrap(), consumer().unwrap());
        for (number, (size, again)) in (0u8..).zip(sizes) {
            let mut slot = sender.reserve(size).unwrap();
            prop_assert!(slot.put(&vec![number; size]));
            slot.commit(1, 0);
            let _nobody_sleeps = sender.publish();
            // The futex word differs from what a sleeper saw.
            prop_assert_ne!(sender.published() as u32, receiver.tail_seen() as u32);
            let header = receiver.peek().unwrap().unwrap();
            let mut payload = vec![0; header.len as usize];
            receiver.copy_payload(header, &mut payload);
            prop_assert_eq!(payload, vec![number; size]);
            receiver.advance(header);
            let _nobody_waits = receiver.release();
            if again {
                let end = sender.published();
                prop_assert_eq!(producer().is_ok(), end <= POSITION_MAX);
                prop_assert_eq!(consumer().is_ok(), end <= POSITION_MAX);
                if end <= POSITION_MAX {
                    (sender, receiver) = (producer().unwrap(), consumer().unwrap());
                }
            }
        }
    }

    /// Whatever words a peer has at an edge, a role that is taken, resumed or asked again has its positions in
    /// bounds.
    #[test]
    fn any_words_at_an_edge_are_bounded(
        (start, tail, head, resume) in edge().prop_flat_map(|start| {
            (Just(start), word(start), word(start), word(start))
        }),
    ) {
        let (a, b) = halves(start);
        a.control().tail.0.store(tail, Ordering::Relaxed);
        if let Ok(mut consumer) = Consumer::attach(Halves::of_consumer(&b, &a)) {
            let seen = consumer.tail_seen();
            prop_assert_eq!(seen, tail & !TAIL_CLOSED);
            prop_assert!((start..=start + CAPACITY_BYTES).contains(&seen) && seen.is_multiple_of(16));
            let resumed = consumer.resume_at(resume).is_ok();
            prop_assert_eq!(resumed, resume <= seen && resume.is_multiple_of(16));
            prop_assert_eq!(consumer.position(), if resumed { start.max(resume) } else { start });
            let _ended = consumer.peek();
            prop_assert!((start..=seen).contains(&consumer.position()));
        } else {
            prop_assert!(tail & !TAIL_CLOSED != start);
        }
        let (a, b) = halves(start);
        b.control().head.0.store(head, Ordering::Relaxed);
        if let Ok(producer) = Producer::attach(Halves::of_producer(&a, &b)) {
            prop_assert!(head <= start && start - head <= CAPACITY_BYTES && head.is_multiple_of(16));
            prop_assert_eq!(producer.in_flight_bytes(), start - head);
        } else {
            prop_assert!(head != start);
        }
    }
}
