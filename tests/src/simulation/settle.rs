//! The end of a run: faults have ceased, everything has to be answered and come to rest.

use std::time::Duration;

use engine::event::Input;
use engine::journal::entry::JournalState;
use engine::stats::Counters;
use engine::time::Moment;

use super::faults::Fall;
use super::machine::{EDGES, Gateway, Started};
use super::world::World;

/// Rounds after which one turn more has to have ended. Poison is tried several times, with breakers open in between.
const ROUNDS_MAX: usize = 2000;
/// A client asks again after this, although its connection is there.
const PATIENCE: Duration = Duration::from_secs(60);
/// So much time passes at once, at most.
const STEP_MAX: Duration = Duration::from_secs(5);
/// Dead letters are dropped every so many rounds where there is no room for others.
const DROPPED_EVERY: usize = 20;

impl World {
    /// Faults cease; everybody gets an answer; nothing is left.
    ///
    /// # Panics
    ///
    /// If that is not so.
    pub fn settle(&mut self) {
        self.history.note("settle", &[], String::new);
        self.repair();
        self.come_to_rest("what was open");
        // Whatever was answered once is asked again: it is known, and the answer is the same.
        for at in self.people.with_id() {
            self.ask_for(at);
            if at % 16 == 15 {
                self.come_to_rest("what was asked again");
            }
        }
        self.come_to_rest("what was asked again");
        let never: Vec<usize> = self.checker.never_given();
        assert!(never.is_empty(), "lost: messages {never:?} were accepted, and no agent was given them");
        self.everything_is_back();
        self.recovery_repeats();
    }

    /// Disks are as they should be, and a gateway whose journal has failed is started again.
    fn repair(&mut self) {
        self.killed_in = None;
        for store in &mut self.stores {
            store.disk.bytes_max = None;
            store.disk.crash_process();
        }
        // A failed write may still be on its way to the shard.
        let failed = |gateway: &Gateway| {
            gateway.hosts.iter().any(|host| host.writer.progress().state == JournalState::Failed)
        };
        if self.gateway.as_ref().is_some_and(failed) {
            self.fall(Fall::Killed);
        }
        if self.gateway.is_none() {
            self.start();
            self.killed_in = None;
        }
    }

    /// Everything that is on its way arrives, whoever can work does, until nothing moves any more.
    fn round(&mut self) -> bool {
        let mut moved = false;
        for shard in 0..self.constants.swarm.shards {
            for edge in 0..EDGES {
                while self.edge_sends(edge, shard) {
                    moved = true;
                }
            }
            for other in 0..self.constants.swarm.shards {
                while self.mesh(other, shard) {
                    moved = true;
                }
            }
            while self.journal_takes(shard) {
                moved = true;
            }
            while self.disk_works(shard) {
                moved = true;
            }
            while self.journal_answers(shard) {
                moved = true;
            }
        }
        for agent in 0..self.constants.swarm.agents {
            self.supervise_gently(agent);
            self.expect(agent);
            self.agent_starts(agent);
            while self.agent_reads(agent) || self.agent_works(agent) || self.agent_says(agent) {
                moved = true;
            }
        }
        while self.control_hears() || self.skill_ends() {
            moved = true;
        }
        self.control_looks_if_due();
        for edge in 0..EDGES {
            while self.edge_reads(edge) {
                moved = true;
            }
        }
        moved
    }

    fn come_to_rest(&mut self, what: &str) {
        let (mut round, mut last) = (0, (0, usize::MAX));
        while round < last.0 + ROUNDS_MAX {
            round += 1;
            let left = usize::try_from(self.total(|counters| counters.turns_open)).unwrap_or(usize::MAX);
            let left = left + self.people.waiting();
            if left < last.1 {
                last = (round, left);
            }
            self.history.step += 1;
            let moved = self.round();
            if !moved && !self.ask_all(PATIENCE) && self.is_at_rest() {
                return;
            }
            if round % DROPPED_EVERY == DROPPED_EVERY - 1 {
                for shard in 0..self.constants.swarm.shards {
                    self.drop_dead(shard);
                }
            }
            let next = if moved { Duration::from_millis(10) } else { self.next_event() };
            self.wait(next);
        }
        let mut letters = self.people.unanswered_letters();
        letters.truncate(4);
        let open = self.total(|counters| counters.turns_open);
        let queued = self.total(|counters| counters.messages_queued);
        panic!(
            "unacknowledged for ever: {what}: {open} turns open, {queued} queued, no answer for {letters:?}"
        );
    }

    /// Until somebody wants to do something.
    fn next_event(&self) -> Duration {
        let cores = self.gateway.iter().flat_map(|gateway| &gateway.cores);
        let due = cores.filter_map(|core| core.next_deadline()).min();
        let due = due.map_or(STEP_MAX, |due| due.since(self.now));
        due.clamp(Duration::from_millis(200), STEP_MAX)
    }

    fn is_at_rest(&self) -> bool {
        let open = self.total(|counters| counters.turns_open + counters.messages_queued);
        let rests = self.gateway.as_ref().is_some_and(Gateway::rests);
        open == 0 && rests && self.control.rests() && self.workers.is_idle() && self.people.waiting() == 0
    }

    /// Nobody holds anything any more, and nothing was wrong inside.
    fn everything_is_back(&self) {
        let Some(gateway) = &self.gateway else { panic!("the gateway is up at the end") };
        for (shard, core) in gateway.cores.iter().enumerate() {
            let Counters { turns_open, messages_queued, invalid_internal, dead_letters, .. } =
                core.counters();
            assert_eq!((turns_open, messages_queued, invalid_internal), (0, 0, 0), "shard {shard}");
            assert_eq!(dead_letters, self.dead_letters(shard).len() as u64);
        }
        self.checker.hands_are_empty();
        self.skills_are_answered();
    }

    /// What is on disk gives the same gateway as often as it is read, and nothing is open in it.
    fn recovery_repeats(&mut self) {
        let letters: Vec<Vec<u64>> = (0..self.stores.len()).map(|shard| self.dead_letters(shard)).collect();
        self.fall(Fall::Killed);
        let mut damaged = false;
        let mut read = || {
            let Self { constants, stores, run, unix_ms_at_zero, .. } = self;
            let Started { gateway, missing, .. } =
                Gateway::start(constants, stores, *run + 1, *unix_ms_at_zero, 1);
            damaged |= missing.iter().any(|missing| !missing.is_empty());
            let counters: Vec<Counters> = gateway.cores.iter().map(|core| core.counters()).collect();
            self.gateway = Some(gateway);
            let letters: Vec<Vec<u64>> =
                (0..self.stores.len()).map(|shard| self.dead_letters(shard)).collect();
            (counters, letters)
        };
        let (first, second) = (read(), read());
        assert_eq!(first, second, "a repeated recovery gives another gateway");
        if damaged {
            // A bit that was changed late: what was in that record is not there any more.
            return;
        }
        let sorted = |letters: &[Vec<u64>]| {
            let sort = |letters: &Vec<u64>| {
                let mut letters = letters.clone();
                letters.sort_unstable();
                letters
            };
            letters.iter().map(sort).collect::<Vec<_>>()
        };
        assert_eq!(sorted(&letters), sorted(&first.1), "dead letters before and after a restart");
        for shard in 0..self.constants.swarm.shards {
            self.input(shard, Input::RecoveryEnds);
        }
        let open = self.total(|counters| counters.turns_open);
        assert_eq!(open, 0, "turns are open after a restart that had all ended");
        self.before += self.now.since(Moment::ZERO);
        self.now = Moment::ZERO;
    }
}
