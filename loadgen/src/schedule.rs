//! When each connection sends: a fixed timetable in open loop, a number of open messages in closed loop. Pure.

const NANOSECONDS_PER_S: u128 = 1_000_000_000;

/// Open loop: message `n` of the whole run is due `n / rate` seconds after the start, and goes to connection
/// `n mod connections`. Nothing that happens during the run moves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timetable {
    rate_per_s: u64,
    connection_count: u64,
}

impl Timetable {
    /// A timetable for at least one message a second over at least one connection.
    pub fn new(rate_per_s: u64, connection_count: u64) -> Self {
        assert!(rate_per_s > 0 && connection_count > 0);
        Self { rate_per_s, connection_count }
    }

    fn due_ns(&self, message_index: u64) -> u64 {
        let due_ns = u128::from(message_index) * NANOSECONDS_PER_S / u128::from(self.rate_per_s);
        u64::try_from(due_ns).unwrap_or(u64::MAX)
    }

    /// When connection `connection_index` sends its message `round`.
    pub fn connection_due_ns(&self, connection_index: u64, round: u64) -> u64 {
        self.due_ns(round.saturating_mul(self.connection_count).saturating_add(connection_index))
    }

    /// How many messages are due before `until_ns`.
    pub fn count_before(&self, until_ns: u64) -> u64 {
        let scaled = u128::from(until_ns) * u128::from(self.rate_per_s);
        u64::try_from(scaled.div_ceil(NANOSECONDS_PER_S)).unwrap_or(u64::MAX)
    }
}

/// Part `index` of `total` split as evenly as possible into `parts`, the larger parts first.
pub fn share(total: u64, parts: u64, index: u64) -> u64 {
    total / parts + u64::from(index < total % parts)
}

/// What a connection does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send one message that was meant for `intended_ns`.
    Send {
        /// Where its latency starts.
        intended_ns: u64,
        /// False during the warm-up.
        measured: bool,
    },
    /// Nothing now; an answer or the next due time changes that.
    Wait,
    /// Nothing ever again.
    Finished,
}

/// The sending rule of one connection.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Closed loop until a time.
    ClosedUntil {
        /// Open messages to keep.
        in_flight: usize,
        /// Messages before this are not measured.
        warmup_ns: u64,
        /// No message from here on.
        stop_ns: u64,
    },
    /// Closed loop for a number of measured messages.
    ClosedFor {
        /// Open messages to keep.
        in_flight: usize,
        /// Messages before this are not measured.
        warmup_ns: u64,
        /// Measured messages to go.
        left: u64,
    },
    /// Open loop.
    Scheduled {
        /// The timetable of the run.
        timetable: Timetable,
        /// Which connection this is.
        connection_index: u64,
        /// Messages due before this are not measured.
        warmup_ns: u64,
        /// The next message.
        round: u64,
        /// One past the last message.
        round_end: u64,
    },
}

impl Pace {
    /// Decides the next step. The caller does what it says: a `Send` has been counted.
    ///
    /// In closed loop a message is meant to go out when its place became free, and that was noticed at `now_ns`.
    pub fn step(&mut self, now_ns: u64, waiting: usize) -> Step {
        match self {
            Self::ClosedUntil { stop_ns, .. } if now_ns >= *stop_ns => Step::Finished,
            Self::ClosedFor { left: 0, .. } => Step::Finished,
            Self::Scheduled { round, round_end, .. } if *round >= *round_end => Step::Finished,
            Self::ClosedUntil { in_flight, .. } | Self::ClosedFor { in_flight, .. }
                if waiting >= *in_flight =>
            {
                Step::Wait
            }
            Self::ClosedUntil { warmup_ns, .. } => {
                Step::Send { intended_ns: now_ns, measured: now_ns >= *warmup_ns }
            }
            Self::ClosedFor { warmup_ns, left, .. } => {
                let measured = now_ns >= *warmup_ns;
                *left -= u64::from(measured);
                Step::Send { intended_ns: now_ns, measured }
            }
            Self::Scheduled { timetable, connection_index, warmup_ns, round, .. } => {
                let intended_ns = timetable.connection_due_ns(*connection_index, *round);
                if intended_ns > now_ns {
                    return Step::Wait;
                }
                *round += 1;
                Step::Send { intended_ns, measured: intended_ns >= *warmup_ns }
            }
        }
    }
}

/// Walks the due times of some connections in order, for the thread that wakes them.
#[derive(Debug)]
pub struct Wakes {
    timetable: Timetable,
    /// Ascending.
    connection_indices: Vec<u64>,
    position: usize,
    round: u64,
}

impl Wakes {
    /// Starts at the first message. `connection_indices` is ascending and not empty.
    pub fn new(timetable: Timetable, connection_indices: Vec<u64>) -> Self {
        assert!(connection_indices.is_sorted() && !connection_indices.is_empty());
        Self { timetable, connection_indices, position: 0, round: 0 }
    }

    /// When the next wake is due.
    pub fn next_due_ns(&self) -> u64 {
        self.timetable.connection_due_ns(self.connection_indices[self.position], self.round)
    }

    /// Position in `connection_indices` of a connection that is due by `now_ns`, once for each message.
    pub fn pop(&mut self, now_ns: u64) -> Option<usize> {
        if self.next_due_ns() > now_ns {
            return None;
        }
        let due = self.position;
        self.position += 1;
        if self.position == self.connection_indices.len() {
            self.position = 0;
            self.round += 1;
        }
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shares add up and differ by one at most.
    #[test]
    fn shares_add_up() {
        for (total, parts) in [(0, 3), (1, 3), (7, 3), (9, 3), (12_000, 1000)] {
            let shares: Vec<u64> = (0..parts).map(|index| share(total, parts, index)).collect();
            assert_eq!(shares.iter().sum::<u64>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }

    /// Due times do not drift: after an hour at a rate that does not divide a second, the error is below 1 ns.
    #[test]
    fn timetable_does_not_drift() {
        let timetable = Timetable::new(7, 2);
        let due = |index: u64| timetable.connection_due_ns(index % 2, index / 2);
        assert_eq!((due(0), due(1), due(2)), (0, 142_857_142, 285_714_285));
        assert_eq!(due(7 * 3600), 3_600_000_000_000);
        for (until_ns, count) in [(0, 0), (1, 1), (142_857_142, 1), (142_857_143, 2), (1_000_000_000, 7)] {
            assert_eq!(timetable.count_before(until_ns), count, "{until_ns}");
        }
    }

    /// Late connections send everything that is overdue, each with its own intended time, and then end.
    #[test]
    fn schedule_is_never_skipped() {
        let mut pace = Pace::Scheduled {
            timetable: Timetable::new(1000, 2),
            connection_index: 1,
            warmup_ns: 3_000_000,
            round: 0,
            round_end: 3,
        };
        assert_eq!(pace.step(999_999, 0), Step::Wait);
        assert_eq!(pace.step(4_000_000, 0), Step::Send { intended_ns: 1_000_000, measured: false });
        assert_eq!(pace.step(4_000_000, 9999), Step::Send { intended_ns: 3_000_000, measured: true });
        assert_eq!(pace.step(4_000_000, 9999), Step::Wait);
        assert_eq!(pace.step(5_000_000, 0), Step::Send { intended_ns: 5_000_000, measured: true });
        assert_eq!(pace.step(9_000_000, 0), Step::Finished);
    }

    /// Closed loop keeps `in_flight` messages open, and stops at its time or its count.
    #[test]
    fn closed_loop_fills_its_places() {
        let mut until = Pace::ClosedUntil { in_flight: 2, warmup_ns: 10, stop_ns: 20 };
        let rows = [
            (9, 0, Step::Send { intended_ns: 9, measured: false }),
            (9, 1, Step::Send { intended_ns: 9, measured: false }),
            (9, 2, Step::Wait),
            (10, 1, Step::Send { intended_ns: 10, measured: true }),
            (19, 2, Step::Wait),
            (20, 0, Step::Finished),
        ];
        for (now_ns, waiting, expected) in rows {
            assert_eq!(until.step(now_ns, waiting), expected, "at {now_ns} with {waiting}");
        }
        let mut counted = Pace::ClosedFor { in_flight: 8, warmup_ns: 10, left: 1 };
        assert_eq!(counted.step(5, 0), Step::Send { intended_ns: 5, measured: false });
        assert_eq!(counted.step(10, 1), Step::Send { intended_ns: 10, measured: true });
        assert_eq!(counted.step(11, 0), Step::Finished);
    }

    /// Two threads together wake every connection at every due time, in order, and never early.
    #[test]
    fn wakes_follow_the_timetable() {
        let timetable = Timetable::new(1_000_000_000, 3);
        let mut even = Wakes::new(timetable, vec![0, 2]);
        let mut odd = Wakes::new(timetable, vec![1]);
        let drain = |wakes: &mut Wakes, now_ns| std::iter::from_fn(|| wakes.pop(now_ns)).collect::<Vec<_>>();
        assert_eq!((drain(&mut even, 1), drain(&mut odd, 0)), (vec![0], vec![]));
        assert_eq!((even.next_due_ns(), odd.next_due_ns()), (2, 1));
        assert_eq!((drain(&mut even, 5), drain(&mut odd, 5)), (vec![1, 0, 1], vec![0, 0]));
        assert_eq!((even.next_due_ns(), odd.next_due_ns()), (6, 7));
    }
}
