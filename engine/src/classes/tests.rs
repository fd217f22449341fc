//! The queue against its promises: order, shares, bounds, no starvation, nothing lost.

use std::collections::BTreeMap;

use super::*;

const PRIORITIES: [Priority; CLASSES] = [Priority::Low, Priority::Normal, Priority::High, Priority::Critical];
const ADDRESSES: [AddressRank; RANKS] = [AddressRank::Plain, AddressRank::Reply, AddressRank::Mention];
const ROOMY: QueueLimits = QueueLimits { messages_max: usize::MAX, bytes_max: usize::MAX };

fn at(millis: u64) -> Moment {
    Moment::after_start(Duration::from_millis(millis))
}

fn queue(limits: QueueLimits) -> ClassQueue<u64> {
    ClassQueue::new("echo", limits)
}

/// When, in milliseconds, and into which lane.
type Push = (u64, Priority, AddressRank);

fn drained(pushes: &[Push]) -> Vec<u64> {
    let mut queue = queue(ROOMY);
    for (item, &(millis, class, rank)) in (0..).zip(pushes) {
        assert_eq!(queue.push(at(millis), class, rank, 1, || item), Ok(()));
    }
    let mut served = Vec::new();
    while let Some(waiting) = queue.pop(at(0)) {
        served.push(waiting.item);
    }
    served
}

/// Classes before ranks before arrival, until waiting makes up for it; both sides of each step.
#[test]
fn order_is_by_class_rank_and_waiting() {
    use AddressRank::{Mention, Plain, Reply};
    use Priority::{Critical, High, Low, Normal};
    let rows: [(&str, &[Push], &[u64]); 9] = [
        ("arrival", &[(0, Low, Plain), (1, Low, Plain)], &[0, 1]),
        (
            "classes",
            &[(0, Low, Plain), (0, Normal, Plain), (0, High, Plain), (0, Critical, Plain)],
            &[3, 2, 1, 0],
        ),
        ("ranks", &[(0, Normal, Plain), (0, Normal, Reply), (0, Normal, Mention)], &[2, 1, 0]),
        ("a rank is no class", &[(0, Normal, Mention), (0, High, Plain)], &[1, 0]),
        ("less than a class of waiting", &[(0, Low, Plain), (1999, Normal, Plain)], &[1, 0]),
        ("a class of waiting: the class decides", &[(0, Low, Plain), (2000, Normal, Plain)], &[1, 0]),
        ("more than a class of waiting", &[(0, Low, Plain), (2001, Normal, Plain)], &[0, 1]),
        ("less than a rank of waiting", &[(0, Low, Plain), (666, Low, Reply)], &[1, 0]),
        ("more than a rank of waiting", &[(0, Low, Plain), (667, Low, Reply)], &[0, 1]),
    ];
    for (name, pushes, order) in rows {
        assert_eq!(drained(pushes), order, "{name}");
    }
    // A rank of waiting to the nanosecond: the arrival decides.
    let mut queue = queue(ROOMY);
    assert_eq!(queue.push(Moment::ZERO, Low, Plain, 1, || 0), Ok(()));
    assert_eq!(queue.push(Moment::ZERO.plus(RANK_STEP), Low, Reply, 1, || 1), Ok(()));
    assert_eq!(queue.drain(), [0, 1]);
}

/// By count and by bytes, each class fills its share and not one more, in a full queue as in an empty one.
#[test]
fn classes_keep_to_their_shares() {
    for (class, count) in PRIORITIES.into_iter().zip([70, 90, 97, 100]) {
        let limits = [
            QueueLimits { messages_max: 100, bytes_max: usize::MAX },
            QueueLimits { messages_max: usize::MAX, bytes_max: 1000 },
        ];
        for limits in limits {
            let mut queue = queue(limits);
            let taken =
                (0..200).filter(|&item| queue.push(at(0), class, AddressRank::Plain, 10, || item).is_ok());
            assert_eq!(taken.count(), count, "{class:?} {limits:?}");
            for higher in PRIORITIES.into_iter().filter(|&higher| higher > class) {
                assert_eq!(queue.admit(at(0), higher, 10), Ok(()), "{higher:?} over {class:?}");
            }
        }
    }
    let mut small = queue(QueueLimits { messages_max: 1, bytes_max: 10 });
    assert!(small.push(at(0), Priority::Low, AddressRank::Plain, 8, || 0).is_err(), "70 % of 10 bytes are 7");
    assert_eq!(
        small.push(at(0), Priority::Low, AddressRank::Plain, 7, || 0),
        Ok(()),
        "a small queue has room"
    );
    assert_eq!(share_of(usize::MAX, 100), usize::MAX);
    assert_eq!(share_of(usize::MAX, 70), usize::MAX / 10 * 7 + 4);
}

/// A refused sender is told half of what the queue needs, within bounds, by the smoothed pace of service.
#[test]
fn refusals_say_when_to_come_back() {
    let mut queue = queue(ROOMY);
    assert_eq!(queue.retry_after(at(0)), RETRY_AFTER_MIN);
    for item in 0..101 {
        assert_eq!(queue.push(at(0), Priority::Normal, AddressRank::Plain, 1, || item), Ok(()));
    }
    for number in 1..=61u64 {
        assert!(queue.pop(at(number * 100)).is_some());
    }
    let paced = queue.retry_after(at(6100));
    // 40 wait, one takes 100 ms: 20 of them.
    assert!(paced > Duration::from_millis(1990) && paced <= Duration::from_secs(2), "{paced:?}");
    assert_eq!(queue.retry_after(at(6600)), Duration::from_secs(10), "a slow service counts at once");
    assert_eq!(queue.retry_after(at(60_000)), RETRY_AFTER_MAX);
    // Idleness is no slow service.
    assert_eq!(queue.drain().len(), 40);
    assert_eq!(queue.push(at(900_000), Priority::Normal, AddressRank::Plain, 1, || 1), Ok(()));
    assert_eq!(queue.retry_after(at(900_000)), queue.interval.max(RETRY_AFTER_MIN));
    assert!(queue.pop(at(900_100)).is_some());
    assert_eq!(queue.retry_after(at(999_000)), queue.interval.max(RETRY_AFTER_MIN));
}

/// What comes back is served first of its lane, in the old order, and even where the queue is full.
#[test]
fn served_messages_can_come_back() {
    let mut queue = queue(QueueLimits { messages_max: 3, bytes_max: 100 });
    for item in 0..3 {
        assert_eq!(queue.push(at(item), Priority::Critical, AddressRank::Plain, 1, || item), Ok(()));
    }
    let (first, second) = (queue.pop(at(5)).expect("it waits"), queue.pop(at(5)).expect("it waits"));
    assert_eq!((first.item, second.item), (0, 1));
    for item in 3..5 {
        assert_eq!(queue.push(at(item), Priority::Critical, AddressRank::Plain, 1, || item), Ok(()));
    }
    queue.put_back(second);
    queue.put_back(first);
    assert_eq!((queue.len(), queue.bytes(), queue.oldest_wait(at(9))), (5, 5, Duration::from_millis(9)));
    assert!(queue.admit(at(9), Priority::Critical, 1).is_err());
    assert_eq!(queue.drain(), [0, 1, 2, 3, 4]);
}

/// One and many can be taken out by what they are; what is left keeps its order.
#[test]
fn messages_can_be_taken_out() {
    let mut queue = queue(ROOMY);
    for item in 0..600 {
        let class = PRIORITIES[item as usize % CLASSES];
        assert_eq!(queue.push(at(0), class, AddressRank::Plain, 2, || item), Ok(()));
    }
    assert_eq!(queue.len_of(Priority::Low), 150);
    assert_eq!(queue.remove(|&item| item == 7), Some(7));
    assert_eq!(queue.remove(|&item| item == 7), None);
    let odd = queue.extract(|&item| item % 2 == 1);
    assert_eq!(odd.len(), 299);
    assert!(odd.iter().all(|item| item % 2 == 1));
    assert_eq!((queue.len(), queue.bytes(), queue.occupied.count_ones()), (300, 600, 2));
    let left = queue.drain();
    let expected: Vec<u64> = (0..150).map(|n| n * 4 + 2).chain((0..150).map(|n| n * 4)).collect();
    assert_eq!(left, expected);
    assert_eq!((queue.len(), queue.bytes(), queue.occupied), (0, 0, 0));
    assert!(queue.lanes.iter().all(|lane| lane.capacity() <= LANE_KEPT_MAX));
}

/// Random traffic: nothing is lost, doubled or reordered within its lane, the bounds hold, and each message is
/// served before any that arrived later than the difference of their lanes allows.
#[test]
fn random_traffic_keeps_the_promises() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let limits = QueueLimits { messages_max: random.usize(1..300), bytes_max: random.usize(100..3000) };
        let mut queue = queue(limits);
        let mut model: BTreeMap<u64, (Moment, Priority, AddressRank, usize)> = BTreeMap::new();
        let mut millis = 0;
        for item in 0..5000 {
            millis += random.u64(..20);
            let (class, rank) = (PRIORITIES[random.usize(..CLASSES)], ADDRESSES[random.usize(..RANKS)]);
            let bytes = random.usize(..40);
            let room = model.len() < share_of(limits.messages_max, SHARES_PERCENT[class as usize])
                && queue.bytes() + bytes <= share_of(limits.bytes_max, SHARES_PERCENT[class as usize]);
            assert_eq!(queue.push(at(millis), class, rank, bytes, || item).is_ok(), room, "seed {seed}");
            if room {
                model.insert(item, (at(millis), class, rank, bytes));
            }
            for _ in 0..random.u8(..3) {
                let next = queue.peek().map(|waiting| waiting.item);
                let popped = queue.pop(at(millis));
                assert_eq!(popped.map(|waiting| waiting.item), next, "seed {seed}");
                let Some(popped) = popped else { break };
                let found = model.remove(&popped.item);
                assert_eq!(
                    found,
                    Some((popped.arrived, popped.class, popped.rank, popped.bytes)),
                    "seed {seed}"
                );
                for (&other, &(arrived, class, rank, _)) in &model {
                    let ahead = HANDICAPS[lane(class, rank)]
                        .saturating_sub(HANDICAPS[lane(popped.class, popped.rank)]);
                    assert!(
                        popped.arrived <= arrived.plus(ahead),
                        "seed {seed}: {} overtakes {other}",
                        popped.item
                    );
                    if lane(class, rank) == lane(popped.class, popped.rank) {
                        assert!(popped.item < other, "seed {seed}: {} before {other}", popped.item);
                    }
                }
            }
            assert_eq!(queue.len(), model.len(), "seed {seed}");
            assert_eq!(queue.bytes(), model.values().map(|&(.., bytes)| bytes).sum::<usize>(), "seed {seed}");
            assert!(queue.len() <= limits.messages_max && queue.bytes() <= limits.bytes_max, "seed {seed}");
        }
        let mut rest = queue.drain();
        rest.sort_unstable();
        assert_eq!(rest, model.into_keys().collect::<Vec<_>>(), "seed {seed}");
    }
}

/// Flags name the rank; a mention is more than a reply.
#[test]
fn flags_name_the_rank() {
    let rows = [
        (0, AddressRank::Plain),
        (FLAG_REPLY_TO_AGENT, AddressRank::Reply),
        (FLAG_MENTION, AddressRank::Mention),
        (FLAG_MENTION | FLAG_REPLY_TO_AGENT, AddressRank::Mention),
        (!(FLAG_MENTION | FLAG_REPLY_TO_AGENT), AddressRank::Plain),
    ];
    for (flags, rank) in rows {
        assert_eq!(AddressRank::from_flags(flags), rank, "{flags:#b}");
    }
}
