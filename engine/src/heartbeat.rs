//! When an agent counts as hung: pure policy, one table per shard.
//!
//! The shard asks an agent for a sign of life and looks later whether one was given: each [`HeartbeatLimits::interval`]
//! while the agent has work, each [`HeartbeatLimits::idle_interval`] while it has none. A look that finds nothing new is a
//! *miss*; an agent that is missed [`HeartbeatLimits::misses`] times in a row is hung.
//!
//! | agent | a look finds | then |
//! |---|---|---|
//! | has never given a sign nor said anything | still nothing, and the time for its start is over | [`Verdict::Mute`] |
//! | has said something and never given a sign: it is of an older build | – | nothing, ever |
//! | has given a sign | a new one | asked again; misses are forgotten |
//! | has given a sign | nothing new; but it had no work at the last look and has now, or the other way | asked again; misses are forgotten |
//! | has given a sign | nothing new | a miss: asked again, or [`Verdict::Hung`] |
//!
//! Questions and looks are the shard's, so while a shard does not run it asks nothing and misses nobody. A look that comes
//! more than [`LATE`] after its time is a tenth of a miss ([`LATE_LOOKS_PER_MISS`]), and moves the end of every start:
//! whatever kept the shard from looking may have kept an agent from answering the last question. A shard that is always late
//! finds who is hung, too, but takes its time.
//!
//! Looks fall on multiples of the interval, so that a shard wakes at most once in each, however many agents it has.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::InstanceId;
use crate::time::Moment;

/// How long after its time a look may come and still be a whole miss.
pub const LATE: Duration = Duration::from_millis(50);

/// How many late looks are a miss.
pub const LATE_LOOKS_PER_MISS: u32 = 10;

/// How patient a shard is with agents that say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatLimits {
    /// Between two questions to an agent that has work. At least a millisecond.
    pub interval: Duration,
    /// Between two questions to an agent that has none.
    pub idle_interval: Duration,
    /// How many looks in a row find nothing of an agent that is hung.
    pub misses: u32,
}

impl Default for HeartbeatLimits {
    fn default() -> Self {
        Self { interval: Duration::from_millis(100), idle_interval: Duration::from_secs(5), misses: 3 }
    }
}

/// What an agent has shown of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Its signs of life: another number is another sign. Zero if it has never given one.
    pub beat: u64,
    /// Whether it has ever said anything.
    pub has_spoken: bool,
}

/// What is to be done about an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask it for a sign of life.
    Ask,
    /// It has given none since it was asked, so long ago. It is not looked at any more.
    Hung(Duration),
    /// It has shown nothing of itself since it was attached, so long ago. It is not looked at any more.
    Mute(Duration),
}

/// What is known of one agent.
#[derive(Clone, Copy, Debug)]
struct Beats {
    attached: Moment,
    /// Until when it may show nothing of itself.
    start_ends: Moment,
    /// Its last sign.
    beat: u64,
    /// When it was asked for the next one first.
    asked: Moment,
    /// Looks in a row that found nothing: one for each that was late, [`LATE_LOOKS_PER_MISS`] for each that was not.
    missed: u32,
    had_work: bool,
    /// When to look next if it has no work.
    due: Moment,
}

/// The agents of a shard, and when to look at them.
#[derive(Debug)]
pub struct Heartbeats {
    limits: HeartbeatLimits,
    /// In the order of their numbers, so that a run can be repeated.
    agents: BTreeMap<InstanceId, Beats>,
    next_look: Option<Moment>,
    /// Whether the next look is at the end of this interval.
    close: bool,
}

impl Heartbeats {
    /// Without agents.
    pub fn new(limits: HeartbeatLimits) -> Self {
        Self { limits, agents: BTreeMap::new(), next_look: None, close: false }
    }

    /// Another patience. Who is looked at is looked at soon, by the new interval.
    pub fn set_limits(&mut self, now: Moment, limits: HeartbeatLimits) {
        self.limits = limits;
        let due = self.next_multiple(now);
        self.agents.values_mut().for_each(|beats| beats.due = beats.due.min(due));
        if !self.agents.is_empty() {
            self.look_by(due);
        }
    }

    /// An incarnation is looked at from now on. `start_timeout` is how long it may show nothing of itself.
    pub fn attach(&mut self, now: Moment, instance: InstanceId, start_timeout: Duration) {
        let due = self.next_multiple(now);
        let beats = Beats {
            attached: now,
            start_ends: now.plus(start_timeout),
            beat: 0,
            asked: now,
            missed: 0,
            had_work: false,
            due,
        };
        self.agents.insert(instance, beats);
        self.look_by(due);
    }

    /// An incarnation is not looked at any more.
    pub fn detach(&mut self, instance: InstanceId) {
        self.agents.remove(&instance);
    }

    /// Nobody is looked at any more: agents have been told to end.
    pub fn stop(&mut self) {
        self.agents.clear();
        self.next_look = None;
    }

    /// Some agent has been given work.
    ///
    /// HOT: a branch.
    #[inline]
    pub fn work_given(&mut self, now: Moment) {
        if !self.close {
            self.close = true;
            self.look_by(self.next_multiple(now));
        }
    }

    /// When [`Self::look`] is to be called.
    #[inline]
    pub fn next_look(&self) -> Option<Moment> {
        self.next_look
    }

    /// Looks at those who are due, and says what to do. `signs` is asked of those only who have work or are due.
    pub fn look(
        &mut self,
        now: Moment,
        has_work: impl Fn(InstanceId) -> bool,
        signs: impl Fn(InstanceId) -> Signs,
        mut act: impl FnMut(InstanceId, Verdict),
    ) {
        let lateness = self.next_look.map_or(Duration::ZERO, |planned| now.since(planned));
        let late = lateness > LATE;
        let HeartbeatLimits { idle_interval, misses, .. } = self.limits;
        let next = self.next_multiple(now);
        let next_idle = self.next_multiple(now.plus(idle_interval - self.limits.interval.min(idle_interval)));
        let (mut close, mut next_look) = (false, None::<Moment>);
        self.agents.retain(|&instance, beats| {
            if late {
                beats.start_ends = beats.start_ends.plus(lateness);
            }
            let works = has_work(instance);
            let is_due = works || beats.due <= now;
            if is_due {
                let found = signs(instance);
                beats.due = next_idle;
                if found.beat == 0 {
                    if !found.has_spoken && now >= beats.start_ends {
                        act(instance, Verdict::Mute(now.since(beats.attached)));
                        return false;
                    }
                    if !found.has_spoken {
                        beats.due = next_idle.min(beats.start_ends);
                    }
                    close |= works && !found.has_spoken;
                } else {
                    if found.beat != beats.beat || works != beats.had_work {
                        beats.beat = found.beat;
                        beats.missed = 0;
                        beats.asked = now;
                    } else {
                        beats.missed += if late { 1 } else { LATE_LOOKS_PER_MISS };
                    }
                    if beats.missed >= misses.saturating_mul(LATE_LOOKS_PER_MISS) {
                        act(instance, Verdict::Hung(now.since(beats.asked)));
                        return false;
                    }
                    act(instance, Verdict::Ask);
                    close |= works;
                }
                beats.had_work = works;
            }
            next_look = Some(next_look.map_or(beats.due, |look| look.min(beats.due)));
            true
        });
        self.close = close;
        self.next_look = if close { Some(next) } else { next_look };
    }

    fn look_by(&mut self, moment: Moment) {
        self.next_look = Some(self.next_look.map_or(moment, |look| look.min(moment)));
    }

    /// A multiple of the interval that is half an interval away at least, and one and a half at most: so a look that is
    /// a little late does not shorten the time that is left to answer by more than half.
    fn next_multiple(&self, now: Moment) -> Moment {
        let interval = self.limits.interval.as_nanos().max(1);
        let since = now.since(Moment::ZERO).as_nanos() + interval / 2;
        let nanos = u64::try_from((since / interval + 1) * interval).unwrap_or(u64::MAX);
        Moment::after_start(Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests;
