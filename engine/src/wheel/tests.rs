//! Rules of the wheel, and random operations against an ordered map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Moment {
    Moment::after_start(Duration::from_millis(ms))
}

/// Pops all that is due, however often it has to be asked.
fn drain<T: Copy>(wheel: &mut Wheel<T>, now: Moment) -> Vec<T> {
    let mut popped = Vec::new();
    loop {
        popped.extend(std::iter::from_fn(|| wheel.pop_due(now)));
        if wheel.next_deadline().is_none_or(|next| next > now) {
            return popped;
        }
    }
}

/// Deadlines are rounded up and the present down: both sides of each limit, by example.
#[test]
fn nothing_is_due_early() {
    let cases = [(0, 0, true), (1, 0, false), (1, 999_999, false), (1, 1_000_000, true)];
    let more = [(999_999, 1_000_000, true), (1_000_000, 999_999, false), (1_000_001, 1_999_999, false)];
    for (at, now, due) in cases.into_iter().chain(more) {
        let nanos = |nanos| Moment::after_start(Duration::from_nanos(nanos));
        let mut wheel = Wheel::new();
        wheel.insert(nanos(at), 7u32);
        assert_eq!(wheel.pop_due(nanos(now)), due.then_some(7), "{at} at {now}");
    }
}

/// An id is good once: after a cancel or a pop it names nothing, also when its place is used again.
#[test]
fn stale_ids_name_nothing() {
    let mut wheel = Wheel::new();
    let first = wheel.insert(ms(5), 1u64);
    assert_eq!((wheel.cancel(first), wheel.cancel(first), wheel.len()), (Some(1), None, 0));
    let second = wheel.insert(ms(5), 2);
    assert_eq!((second.index, wheel.cancel(first)), (first.index, None));
    assert_eq!(drain(&mut wheel, ms(5)), [2]);
    assert_eq!((wheel.cancel(second), wheel.next_deadline()), (None, None));
}

/// A slot with many timers is sorted over several calls; what is inserted meanwhile does not overtake, and the
/// wheel says that it is not done.
#[test]
fn sorting_pauses_without_losing_the_order() {
    let mut wheel = Wheel::new();
    // One tick of level 2, further from the start of its slot than one level.
    let (start, tick) = (ms(4096), ms(4096 + 100));
    let count = 3 * SORTED_MAX as u64;
    for number in 0..count {
        wheel.insert(tick, number);
    }
    assert_eq!((wheel.pop_due(tick), wheel.next_deadline()), (None, Some(start)));
    wheel.insert(tick, count);
    let past = wheel.insert(ms(3), count + 1);
    assert!(wheel.sorting.is_some());
    let mut expected: Vec<_> = (0..=count).collect();
    expected.insert(0, count + 1);
    assert_eq!(drain(&mut wheel, tick), expected);
    assert_eq!(wheel.cancel(past), None);
}

/// A timer costs few bytes, and what has been freed is used again: by the sizes, and by the number of places.
#[test]
fn memory_is_that_of_the_peak() {
    assert!(size_of::<Timer<u32>>() <= 32 && size_of::<Timer<u64>>() <= 40);
    let mut wheel = Wheel::new();
    for round in 0..100 {
        let ids: Vec<_> = (0..50).map(|number| wheel.insert(ms(round * 1000 + number), number)).collect();
        for id in &ids[..25] {
            wheel.cancel(*id);
        }
        assert_eq!(drain(&mut wheel, ms(round * 1000 + 500)).len(), 25);
    }
    assert_eq!(wheel.timers.push(wheel.timers[0]), 50);
}

/// The ends of time: the last moment is after every tick, so a timer for it never fires, and asking is harmless.
#[test]
fn the_end_of_time_is_out_of_reach() {
    let end = Moment::ZERO.plus(Duration::MAX);
    let mut wheel = Wheel::new();
    wheel.insert(end, 1u32);
    wheel.insert(Moment::ZERO, 2);
    assert_eq!(drain(&mut wheel, ms(1)), [2]);
    for _ in 0..10 {
        assert_eq!(wheel.pop_due(end), None);
    }
    assert_eq!(wheel.len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    /// Starts a timer so many nanoseconds from the present.
    Insert(u64),
    /// Starts one in the past.
    InsertPast(u64),
    /// Starts many for one tick.
    InsertMany(u64, u8),
    /// Stops one of the timers ever started.
    Cancel(prop::sample::Index),
    /// Time passes.
    Advance(u64),
    /// Pops at most so many.
    Pop(u8),
    /// Pops all.
    Drain,
}

/// Nanoseconds of every magnitude, from a part of a tick to years.
fn span() -> impl Strategy<Value = u64> {
    (0u32..58, any::<u64>()).prop_map(|(bits, random)| random & ((1 << bits) - 1))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => span().prop_map(Step::Insert),
        1 => span().prop_map(Step::InsertPast),
        1 => (span(), any::<u8>()).prop_map(|(span, count)| Step::InsertMany(span, count)),
        3 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        4 => span().prop_map(Step::Advance),
        3 => any::<u8>().prop_map(Step::Pop),
        2 => Just(Step::Drain),
    ]
}

/// A wheel next to an ordered map that does the same.
struct Pair {
    wheel: Wheel<u32>,
    /// By tick and order of insertion.
    model: BTreeMap<(u64, u32), TimerId>,
    /// Every timer there ever was, with its key in the model.
    started: Vec<((u64, u32), TimerId)>,
    now: Moment,
}

impl Pair {
    fn insert(&mut self, at: Moment) {
        let number = self.started.len() as u32;
        let key = (tick_after(at).max(self.wheel.now), number);
        let id = self.wheel.insert(at, number);
        self.model.insert(key, id);
        self.started.push((key, id));
    }

    /// Pops one from both; `false` if the wheel has none at this call.
    fn pop(&mut self) -> bool {
        let popped = self.wheel.pop_due(self.now);
        if let Some(number) = popped {
            let ((tick, first), _) = self.model.pop_first().expect("the model has what the wheel has");
            assert_eq!(number, first);
            assert!(tick <= tick_of(self.now));
        }
        popped.is_some()
    }

    fn drain(&mut self) {
        // Sorting takes eight steps a timer at most, so this ends.
        let calls_max = self.model.len() * (LEVELS + 1) / SORTED_MAX + LEVELS + 2;
        let mut calls = 0;
        loop {
            while self.pop() {}
            if self.wheel.next_deadline().is_none_or(|next| next > self.now) {
                break;
            }
            calls += 1;
            assert!(calls <= calls_max, "{calls} calls");
        }
        let due = self.model.first_key_value().filter(|((tick, _), _)| *tick <= tick_of(self.now));
        assert_eq!(due, None);
    }

    fn check(&self) {
        assert_eq!(self.wheel.len(), self.model.len());
        let first = self.model.first_key_value().map(|((tick, _), _)| moment_of(*tick));
        match (self.wheel.next_deadline(), first) {
            (Some(told), Some(first)) => assert!(told <= first, "{told:?} {first:?}"),
            (told, first) => assert!(first.is_none(), "{told:?} {first:?}"),
        }
    }
}

proptest! {
    /// Whatever is started, stopped and popped in whatever order, timers come out by deadline and then by
    /// insertion, none early, none lost, and the next deadline is never told too late.
    #[test]
    fn behaves_like_an_ordered_map(steps in proptest::collection::vec(step(), 1..120)) {
        let mut pair = Pair {
            wheel: Wheel::new(), model: BTreeMap::new(), started: Vec::new(), now: Moment::ZERO,
        };
        for step in steps {
            match step {
                Step::Insert(nanos) => pair.insert(pair.now.plus(Duration::from_nanos(nanos))),
                Step::InsertPast(nanos) => {
                    let since = pair.now.since(Moment::ZERO);
                    pair.insert(Moment::after_start(since.saturating_sub(Duration::from_nanos(nanos))));
                }
                Step::InsertMany(nanos, count) => {
                    for _ in 0..count {
                        pair.insert(pair.now.plus(Duration::from_nanos(nanos)));
                    }
                }
                Step::Cancel(which) if !pair.started.is_empty() => {
                    let (key, id) = *which.get(&pair.started);
                    let expected = pair.model.remove(&key).map(|_| key.1);
                    prop_assert_eq!(pair.wheel.cancel(id), expected);
                }
                Step::Cancel(_) => {}
                Step::Advance(nanos) => pair.now = pair.now.plus(Duration::from_nanos(nanos)),
                Step::Pop(count) => {
                    for _ in 0..count {
                        pair.pop();
                    }
                }
                Step::Drain => pair.drain(),
            }
            pair.check();
        }
        pair.drain();
    }
}
