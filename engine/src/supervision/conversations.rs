//! How many members of a pool run whose members serve one session at a time: one for each session, and spares.
//!
//! A member is started for a session when that one's first message has been given to it, which is not decided here. At
//! each look:
//!
//! | member | change |
//! |---|---|
//! | rests, and fewer members are free than [`PoolLimits::spares`] | it starts |
//! | serves a session that it has had nothing to do for in [`PoolLimits::idle_timeout`] | it goes |
//! | is free, as are more than [`PoolLimits::spares`], for [`PoolLimits::idle_timeout`] | it goes |
//!
//! A member is *free* if it runs and has served nobody.

use super::pool::{Change, MemberLoad, Phase, PoolLimits};
use crate::event::Tenant;
use crate::time::Moment;

/// A member, and whom it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// What it has to do.
    pub load: MemberLoad,
    /// Whom it serves.
    pub tenant: Tenant,
}

impl Seat {
    fn is_free(&self) -> bool {
        self.load.phase == Phase::Running && self.tenant == Tenant::Nobody
    }
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    since: Moment,
    ended: u64,
    tenant: Tenant,
}

/// Watches the members of one pool.
#[derive(Clone, Debug)]
pub struct Conversations {
    limits: PoolLimits,
    /// Since when each member has had nothing to do for whom it serves; none for those that have, or do not run.
    idle: Vec<Option<Idle>>,
}

impl Conversations {
    /// Nothing has been seen of it. [`PoolLimits::min`] is not looked at.
    pub fn new(limits: PoolLimits) -> Self {
        Self { limits, idle: Vec::new() }
    }

    /// Its limits.
    pub fn limits(&self) -> &PoolLimits {
        &self.limits
    }

    /// Other limits from now on.
    pub fn set_limits(&mut self, limits: PoolLimits) {
        self.limits = limits;
    }

    /// Takes how the members stand, in the order of their places, and says which start and which go.
    pub fn observe(&mut self, now: Moment, seats: &[Seat]) -> Vec<Change> {
        self.idle.resize(seats.len(), None);
        for (idle, Seat { load, tenant }) in self.idle.iter_mut().zip(seats) {
            let quiet = load.phase == Phase::Running && load.open == 0 && load.queued == 0;
            let known = idle.filter(|idle| (idle.ended, idle.tenant) == (load.ended, *tenant));
            *idle = quiet.then(|| known.unwrap_or(Idle { since: now, ended: load.ended, tenant: *tenant }));
        }
        let mut changes: Vec<_> = self.missing(seats).into_iter().map(Change::Start).collect();
        let mut free = seats.iter().filter(|seat| seat.is_free()).count();
        let timeout = self.limits.idle_timeout;
        for (place, seat) in seats.iter().enumerate() {
            let out = self.idle[place].is_some_and(|idle| now.since(idle.since) >= timeout);
            if out && (!seat.is_free() || free > self.limits.spares) {
                free -= usize::from(seat.is_free());
                self.idle[place] = None;
                changes.push(Change::Rest(place));
            }
        }
        changes
    }

    /// The places of those that start now, so that enough are free.
    pub fn missing(&self, seats: &[Seat]) -> Vec<usize> {
        let free = seats.iter().filter(|seat| seat.is_free()).count();
        let rests = |&place: &usize| seats[place].load.phase == Phase::Resting;
        (0..seats.len()).filter(rests).take(self.limits.spares.saturating_sub(free)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: PoolLimits = PoolLimits { min: 0, max: 4, spares: 1, idle_timeout: Duration::from_secs(5) };

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    /// `r`: rests. `f`: free. `s`: serves, idle. `b`: serves, busy. `u`: serves one that is not known. `o`: out.
    fn seats(letters: &str) -> Vec<Seat> {
        let seat = |letter| {
            let (phase, open, tenant) = match letter {
                'r' => (Phase::Resting, 0, Tenant::Nobody),
                'f' => (Phase::Running, 0, Tenant::Nobody),
                's' => (Phase::Running, 0, Tenant::Session(1)),
                'b' => (Phase::Running, 1, Tenant::Session(1)),
                'u' => (Phase::Running, 0, Tenant::Unknown),
                'o' => (Phase::Out, 0, Tenant::Session(1)),
                other => panic!("{other}"),
            };
            let load = MemberLoad { phase, open, queued: 0, oldest_wait: Duration::ZERO, ended: 0 };
            Seat { load, tenant }
        };
        letters.chars().map(seat).collect()
    }

    /// Each row of the table, both sides of its limits: what the first look calls for, and what that after the time-out.
    #[test]
    fn members_come_and_go() {
        use Change::{Rest, Start};
        let check = |letters: &str, spares, first: &[Change], later: &[Change]| {
            let mut pool = Conversations::new(PoolLimits { spares, ..LIMITS });
            assert_eq!(pool.observe(at(0), &seats(letters)), first, "{letters}");
            for second in 1..5 {
                assert_eq!(pool.observe(at(second), &seats(letters)), first, "{letters} at {second}");
            }
            assert_eq!(pool.observe(at(5), &seats(letters)), later, "{letters}");
        };
        check("rrrr", 0, &[], &[]);
        check("rrrr", 1, &[Start(0)], &[Start(0)]);
        check("orrr", 2, &[Start(1), Start(2)], &[Start(1), Start(2)]);
        check("bfrr", 1, &[], &[]);
        check("bbrr", 1, &[Start(2)], &[Start(2)]);
        check("bbbb", 1, &[], &[]);
        check("sbus", 0, &[], &[Rest(0), Rest(2), Rest(3)]);
        check("fffr", 1, &[], &[Rest(0), Rest(1)]);
        check("fbsr", 1, &[], &[Rest(2)]);
        check("ofoo", 0, &[], &[Rest(1)]);
    }

    /// What a member has done meanwhile, and for whom, begins its time anew.
    #[test]
    fn idle_time_begins_anew() {
        let mut pool = Conversations::new(LIMITS);
        let mut members = seats("fs");
        for second in 0..20 {
            match second {
                3 => members[1].load.ended += 1,
                4 => members[0].tenant = Tenant::Session(2),
                _ => {}
            }
            let changes = pool.observe(at(second), &members);
            let expected: &[Change] = match second {
                8 => &[Change::Rest(1)],
                9 => &[Change::Rest(0)],
                _ => &[],
            };
            assert_eq!(changes, expected, "{second}");
            if second == 9 {
                break;
            }
        }
    }
}
