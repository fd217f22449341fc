//! Which waiting message of an agent goes next, and which new one is refused: a bounded queue of twelve lanes.
//!
//! A lane holds the messages of one class and one [`AddressRank`], in the order of their arrival. Served is the
//! lane whose head scores highest, where the score is the advantage of the lane plus the time that the head has
//! waited. A class is worth [`CLASS_STEP`] of waiting, a rank [`RANK_STEP`]; so a message is overtaken only by
//! those that arrive within the difference of their lanes after it, and none starves.
//!
//! Since all heads age alike, their order does not depend on the time of asking: it is that of the moments
//! `arrival + handicap`, which are computed once, on arrival.
//!
//! A class may fill its share of the queue only ([`SHARES_PERCENT`]), so that under overload the newest of the
//! lowest class is refused first. What has been taken is never thrown out for something else.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use shm_transport::envelope::{FLAG_MENTION, FLAG_REPLY_TO_AGENT, Priority};

use crate::time::Moment;

/// How much waiting makes up for one class.
pub const CLASS_STEP: Duration = Duration::from_secs(2);
/// How much waiting makes up for one rank.
pub const RANK_STEP: Duration = CLASS_STEP.checked_div(RANKS as u32).expect("there are ranks");
/// How much of the queue a class may fill, by the number of its [`Priority`].
pub const SHARES_PERCENT: [usize; CLASSES] = [70, 90, 97, 100];
/// The shortest time that a refused sender is told to wait.
pub const RETRY_AFTER_MIN: Duration = Duration::from_millis(50);
/// The longest.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

const CLASSES: usize = 4;
const RANKS: usize = 3;
const LANES: usize = CLASSES * RANKS;
/// The weight of the newest interval between two services is one of so many.
const SMOOTHING: u32 = 8;
/// An empty lane gives up its memory if it has room for more messages.
const LANE_KEPT_MAX: usize = 256;

const _: () = assert!(SHARES_PERCENT[0] > 0, "every class has room in an empty queue");
const _: () = assert!(
    SHARES_PERCENT[0] < SHARES_PERCENT[1]
        && SHARES_PERCENT[1] < SHARES_PERCENT[2]
        && SHARES_PERCENT[2] < SHARES_PERCENT[3],
    "the lower class is refused first"
);
const _: () = assert!(SHARES_PERCENT[3] == 100, "the highest class may fill the queue");
const _: () = assert!(
    RANK_STEP.as_nanos() * (RANKS as u128 - 1) < CLASS_STEP.as_nanos(),
    "ranks order messages within a class only"
);
const _: () =
    assert!(Priority::Low as usize == 0 && Priority::Critical as usize == CLASSES - 1, "index shares");
const _: () = assert!(LANES <= u16::BITS as usize, "a lane has a bit of `occupied`");

/// How directly a message addresses its agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum AddressRank {
    /// By being in its session.
    #[default]
    Plain = 0,
    /// As a reply to one of its messages.
    Reply = 1,
    /// By name.
    Mention = 2,
}

impl AddressRank {
    /// The rank with this number; unknown ones are `Plain`.
    #[inline]
    pub fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Reply,
            2 => Self::Mention,
            _ => Self::Plain,
        }
    }

    /// By the flags of a message.
    #[inline]
    pub fn from_flags(flags: u8) -> Self {
        if flags & FLAG_MENTION != 0 {
            Self::Mention
        } else if flags & FLAG_REPLY_TO_AGENT != 0 {
            Self::Reply
        } else {
            Self::Plain
        }
    }
}

/// What a queue may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLimits {
    /// Messages.
    pub messages_max: usize,
    /// Bytes of them. The share of the lowest class must hold the largest message, or it never gets in.
    pub bytes_max: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { messages_max: 65_536, bytes_max: 128 << 20 }
    }
}

/// The queue, or the share of a class, is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Full {
    /// When another try makes sense.
    pub retry_after: Duration,
}

/// A message in the queue, with what it was pushed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting<T> {
    /// When it arrived.
    pub arrived: Moment,
    /// Its class.
    pub class: Priority,
    /// Its rank.
    pub rank: AddressRank,
    /// Its size.
    pub bytes: usize,
    /// The message.
    pub item: T,
}

/// Lanes by urgency: the most urgent is 0.
fn lane(class: Priority, rank: AddressRank) -> usize {
    (CLASSES - 1 - class as usize) * RANKS + (RANKS - 1 - rank as usize)
}

/// How much later than one of the most urgent lane a message counts, by lane.
const HANDICAPS: [Duration; LANES] = {
    let mut handicaps = [Duration::ZERO; LANES];
    let mut lane = 1;
    while lane < LANES {
        // The least urgent rank of a class is followed by the most urgent one of the next.
        let first_of_class = lane.is_multiple_of(RANKS);
        let (from, step) = if first_of_class { (lane - RANKS, CLASS_STEP) } else { (lane - 1, RANK_STEP) };
        handicaps[lane] = handicaps[from].checked_add(step).expect("a few seconds");
        lane += 1;
    }
    handicaps
};

impl<T> Waiting<T> {
    fn due(&self) -> Moment {
        self.arrived.plus(HANDICAPS[lane(self.class, self.rank)])
    }
}

/// What waits for one agent.
#[derive(Debug)]
pub struct ClassQueue<T> {
    /// How people know it.
    name: String,
    limits: QueueLimits,
    lanes: [VecDeque<Waiting<T>>; LANES],
    /// Bit by lane: whether it holds anything.
    occupied: u16,
    len: usize,
    bytes: usize,
    /// When one was served last, if others waited then.
    busy_since: Option<Moment>,
    /// Smoothed time between two services.
    interval: Duration,
}

impl<T> ClassQueue<T> {
    /// An empty queue.
    pub fn new(name: impl Into<String>, limits: QueueLimits) -> Self {
        Self {
            name: name.into(),
            limits,
            lanes: [const { VecDeque::new() }; LANES],
            occupied: 0,
            len: 0,
            bytes: 0,
            busy_since: None,
            interval: Duration::ZERO,
        }
    }

    /// How people know it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of those that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of a class wait.
    pub fn len_of(&self, class: Priority) -> usize {
        let first = lane(class, AddressRank::Mention);
        self.lanes[first..first + RANKS].iter().map(VecDeque::len).sum()
    }

    /// Whether a message of that class and size would be taken.
    pub fn admit(&self, now: Moment, class: Priority, bytes: usize) -> Result<(), Full> {
        let share = SHARES_PERCENT[class as usize];
        let has_room = self.len < share_of(self.limits.messages_max, share)
            && self.bytes.saturating_add(bytes) <= share_of(self.limits.bytes_max, share);
        if has_room { Ok(()) } else { Err(Full { retry_after: self.retry_after(now) }) }
    }

    /// Takes a message, which is made only if there is room for it.
    ///
    /// HOT: no allocation once its lane has grown.
    pub fn push(
        &mut self,
        now: Moment,
        class: Priority,
        rank: AddressRank,
        bytes: usize,
        item: impl FnOnce() -> T,
    ) -> Result<(), Full> {
        self.admit(now, class, bytes)?;
        if self.len == 0 {
            // The time without work says nothing of how long a service takes.
            self.busy_since = Some(now);
        }
        self.add(lane(class, rank), bytes);
        self.lanes[lane(class, rank)].push_back(Waiting { arrived: now, class, rank, bytes, item: item() });
        Ok(())
    }

    /// Takes back a message that was served and not done, in front of its lane and whatever the limits say: it
    /// was taken once. Of several the newest comes back first.
    pub fn put_back(&mut self, waiting: Waiting<T>) {
        let lane = lane(waiting.class, waiting.rank);
        self.add(lane, waiting.bytes);
        self.lanes[lane].push_front(waiting);
    }

    /// The message that [`Self::pop`] gives next.
    ///
    /// HOT: looks at the head of each lane.
    pub fn peek(&self) -> Option<&Waiting<T>> {
        self.lanes[self.next_lane()?].front()
    }

    /// Serves a message.
    ///
    /// HOT: looks at the head of each lane.
    pub fn pop(&mut self, now: Moment) -> Option<Waiting<T>> {
        let waiting = self.take_next()?;
        if let Some(since) = self.busy_since {
            let sample = now.since(since).min(RETRY_AFTER_MAX);
            self.interval = (self.interval * (SMOOTHING - 1) + sample) / SMOOTHING;
        }
        self.busy_since = (self.len > 0).then_some(now);
        Some(waiting)
    }

    /// Takes out the first message that `wanted` says, lane by lane.
    pub fn remove(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Option<T> {
        for lane in 0..LANES {
            let found = self.lanes[lane].iter().position(|waiting| wanted(&waiting.item));
            if let Some(waiting) = found.and_then(|index| self.lanes[lane].remove(index)) {
                self.removed(lane, waiting.bytes);
                return Some(waiting.item);
            }
        }
        None
    }

    /// Takes out every message that `wanted` says, lane by lane, in order.
    pub fn extract(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut extracted = Vec::new();
        for lane in 0..LANES {
            for _ in 0..self.lanes[lane].len() {
                let Some(waiting) = self.lanes[lane].pop_front() else { break };
                if wanted(&waiting.item) {
                    self.len -= 1;
                    self.bytes -= waiting.bytes;
                    extracted.push(waiting.item);
                } else {
                    self.lanes[lane].push_back(waiting);
                }
            }
            self.note_occupied(lane);
        }
        extracted
    }

    /// Takes out everything, in the order of serving. Says nothing of how long a service takes.
    pub fn drain(&mut self) -> Vec<T> {
        let mut drained = Vec::with_capacity(self.len);
        while let Some(waiting) = self.take_next() {
            drained.push(waiting.item);
        }
        self.busy_since = None;
        drained
    }

    /// How long the one that waits longest has waited.
    pub fn oldest_wait(&self, now: Moment) -> Duration {
        let heads = self.lanes.iter().filter_map(VecDeque::front);
        heads.map(|waiting| now.since(waiting.arrived)).max().unwrap_or_default()
    }

    /// When a refused sender should try again: when half of what waits has been served, so that it meets neither
    /// a full queue nor an idle agent.
    pub fn retry_after(&self, now: Moment) -> Duration {
        // A service that takes longer than all before counts before it is over.
        let current = self.busy_since.map_or(Duration::ZERO, |since| now.since(since));
        let half = u32::try_from(self.len / 2).unwrap_or(u32::MAX).max(1);
        self.interval.max(current).saturating_mul(half).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }

    /// The lane whose head counts first: by the moment, the class, and the arrival.
    fn next_lane(&self) -> Option<usize> {
        let mut best: Option<(Moment, usize)> = None;
        let mut occupied = self.occupied;
        while occupied != 0 {
            let lane = occupied.trailing_zeros() as usize;
            occupied &= occupied - 1;
            let Some(due) = self.lanes[lane].front().map(Waiting::due) else { continue };
            let first = best.is_none_or(|(best_due, best_lane)| {
                // Of two ranks of a class that count alike, the lower one arrived first.
                due < best_due || due == best_due && lane / RANKS == best_lane / RANKS
            });
            if first {
                best = Some((due, lane));
            }
        }
        best.map(|(_, lane)| lane)
    }

    fn take_next(&mut self) -> Option<Waiting<T>> {
        let lane = self.next_lane()?;
        let waiting = self.lanes[lane].pop_front()?;
        self.removed(lane, waiting.bytes);
        Some(waiting)
    }

    fn add(&mut self, lane: usize, bytes: usize) {
        self.occupied |= 1 << lane;
        self.len += 1;
        self.bytes += bytes;
    }

    fn removed(&mut self, lane: usize, bytes: usize) {
        self.len -= 1;
        self.bytes -= bytes;
        self.note_occupied(lane);
    }

    fn note_occupied(&mut self, lane: usize) {
        if self.lanes[lane].is_empty() {
            self.occupied &= !(1 << lane);
            if self.lanes[lane].capacity() > LANE_KEPT_MAX {
                self.lanes[lane] = VecDeque::new();
            }
        } else {
            self.occupied |= 1 << lane;
        }
    }
}

/// How much of a bound a class may fill.
#[inline]
pub fn share_for(class: Priority, whole: usize) -> usize {
    share_of(whole, SHARES_PERCENT[class as usize])
}

/// So many percent of it, rounded up.
fn share_of(whole: usize, percent: usize) -> usize {
    // In this order nothing overflows; what the first division drops is rounded up.
    (whole / 100 * percent).saturating_add((whole % 100 * percent).div_ceil(100))
}
