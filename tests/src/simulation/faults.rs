//! What goes wrong, and what follows from it.

use std::time::Duration;

use engine::dead_letters::{Filter, Selection};
use engine::event::{AgentIndex, Input};
use engine::journal::disk::Part;
use engine::journal::segment::HEADER_PAGE_BYTES;
use engine::time::Moment;

use super::conversations::Control;
use super::machine::{Gateway, Started};
use super::store::Ended;
use super::swarm::Action;
use super::world::{World, agent_index};

/// How far the wall clock may be off at the next start, in milliseconds.
const WALL_JUMP_MS: u64 = 2 * 60 * 60 * 1000;

/// How a run of the gateway ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fall {
    /// With its agents.
    Killed,
    /// Its agents live on.
    KilledAlone,
    /// With everything.
    PowerLost,
}

impl World {
    pub(super) fn fault(&mut self, action: Action, shard: usize, agent: usize) {
        match action {
            Action::AgentDies => self.agent_dies(agent),
            Action::AgentHangs => self.agent_hangs(agent),
            Action::AgentLies => self.agent_lies(agent),
            Action::AgentRepeats => self.agent_repeats(agent),
            Action::AgentHaunts => self.agent_haunts(agent),
            Action::Quarantine => self.quarantine(agent),
            Action::Drain => self.agent_drains(agent),
            Action::Share => self.agent_shares(agent),
            Action::AgentAsks => return self.agent_asks(agent),
            Action::Expect => {
                self.supervise(agent);
                return self.expect(agent);
            }
            Action::Stall => {
                let millis = self.random.u64(1000..=600_000);
                self.wait(Duration::from_millis(millis));
            }
            Action::Kill => self.fall(Fall::Killed),
            Action::KillAlone => self.fall(Fall::KilledAlone),
            Action::PowerLoss => self.fall(Fall::PowerLost),
            Action::FlipBit => self.flip(shard),
            Action::DiskFills => self.fill(shard),
            Action::DiskEmpties => return self.stores[shard].disk.bytes_max = None,
            Action::SyncFails => {
                self.stores[shard].disk.fail_next_sync = true;
                self.checker.journal_failure_seen = true;
            }
            Action::WriteFails => {
                self.stores[shard].disk.fail_next_write = true;
                self.checker.journal_failure_seen = true;
            }
            Action::Replay => self.replay_dead(shard),
            Action::Drop => self.drop_dead(shard),
            other => unreachable!("{other:?} is no fault"),
        }
        self.tally.fault(action.name());
    }

    /// The gateway is gone, with its queues, and perhaps its agents; the disks stay as they are, or lose what was not
    /// synced.
    pub(super) fn fall(&mut self, fall: Fall) {
        let Some(gateway) = self.gateway.take() else { return };
        let power = fall == Fall::PowerLost;
        self.history.note("falls", &[fall as u64], String::new);
        self.killed_in = None;
        for (store, mut host) in self.stores.iter_mut().zip(gateway.hosts) {
            let random = &mut self.random;
            let mut below = |bound: u64| random.u64(..bound);
            // A sync that fails while its process dies is heard by nobody, and what it was about counts as clean.
            store.disk.fail_next_sync = false;
            // Of a chain that was handed out, what was first may have begun.
            for operation in host.operations.iter_mut().filter_map(|lane| lane.pop_front()) {
                store.disk.interrupt(operation, &mut below);
            }
            if host.writer.failure().is_some() {
                store.note_failure();
            }
            store.ended = if power { Ended::PowerLost } else { Ended::Killed };
            if power {
                store.disk.power_loss(&mut below);
            } else {
                store.disk.crash_process();
            }
        }
        if fall == Fall::KilledAlone {
            self.workers.live_on(&mut self.random);
        } else {
            self.workers.all_die();
        }
        self.people.all_disconnected();
        self.control = Control::new(&self.constants.swarm);
        self.checker.gateway_died();
        self.before += self.now.since(Moment::ZERO);
    }

    /// The next run of the gateway.
    pub(super) fn start(&mut self) {
        self.run += 1;
        let at_ms = self.at_ms() + self.random.u64(..1000);
        self.unix_ms_at_zero = match self.random.u8(..8) {
            0 => at_ms + self.random.u64(..WALL_JUMP_MS),
            1 => at_ms - self.random.u64(..WALL_JUMP_MS),
            _ => at_ms,
        };
        self.now = Moment::ZERO;
        let seed = self.random.u64(..);
        let Self { constants, stores, run, unix_ms_at_zero, .. } = self;
        let started = Gateway::start(constants, stores, *run, *unix_ms_at_zero, seed);
        let Started { gateway, missing, records } = started;
        self.history.note("starts", &[u64::from(self.run), records], String::new);
        self.tally.work("records read", records);
        for missing in missing.iter().flatten() {
            let asked = missing.asked;
            let words = [asked.turn, asked.word, u64::from(missing.told)];
            self.history.note("missing", &words, || format!("{:?}", asked.kind));
            self.checker.lost(missing);
        }
        self.gateway = Some(gateway);
        let orphans = self.workers.orphans();
        for &agent in &orphans {
            let (instance, held) = self.workers.holds(agent);
            self.checker.outlived(agent, instance.expect("it lives"), &held);
        }
        self.checker
            .others_died(&orphans.iter().filter_map(|&a| self.workers.holds(a).0).collect::<Vec<_>>());
        let adopting: Vec<AgentIndex> = orphans.iter().map(|&agent| agent_index(agent)).collect();
        if !adopting.is_empty() {
            self.tally.fault("agents outlive");
            for shard in 0..self.constants.swarm.shards {
                self.input(shard, Input::Adopting(&adopting));
            }
        }
        for shard in 0..self.constants.swarm.shards {
            self.input(shard, Input::RecoveryEnds);
        }
        self.conversations_begin();
        if self.constants.swarm.killed_again && self.random.bool() {
            self.killed_in = Some(self.random.usize(..40));
        }
    }

    /// Changes a bit of a part of a log that nothing is written to any more.
    fn flip(&mut self, shard: usize) {
        let store = &mut self.stores[shard];
        let names = store.disk.names(Part::Entries);
        // Behind the one that is written to there may be a reserve, and there is one in any case.
        let Some((_, cold)) = names.split_last().and_then(|(_, rest)| rest.split_last()) else { return };
        let Some(name) = self.random.choice(cold.iter().copied()) else { return };
        let bits = store.disk.contents(name).map_or(0, |bytes| bytes.len() as u64 * 8);
        let header = HEADER_PAGE_BYTES as u64 * 8;
        if bits > header {
            let bit = self.random.u64(header..bits);
            self.history.note("flips", &[shard as u64, name.number, bit], String::new);
            store.flipped |= store.disk.flip_bit(name, bit);
        }
    }

    /// No file can grow for a while.
    fn fill(&mut self, shard: usize) {
        self.checker.disk_full_seen = true;
        let disk = &mut self.stores[shard].disk;
        disk.bytes_max = Some(0);
        disk.refuse_next_write = self.random.bool();
    }

    fn replay_dead(&mut self, shard: usize) {
        let names = self.dead_letters(shard);
        if names.is_empty() {
            return;
        }
        self.history.note("replay", &[shard as u64, names.len() as u64], String::new);
        self.checker.replayed(&names);
        self.input(shard, Input::ReplayDeadLetters(Selection::All));
    }

    pub(super) fn drop_dead(&mut self, shard: usize) {
        let names = self.dead_letters(shard);
        if let Some(name) = self.random.choice(names) {
            let selection = if self.random.bool() { Selection::All } else { Selection::One(name) };
            self.history.note("drop", &[shard as u64, name], String::new);
            self.input(shard, Input::DropDeadLetters(selection));
        }
    }

    /// The turns of all dead letters of a shard, oldest death first.
    pub(super) fn dead_letters(&self, shard: usize) -> Vec<u64> {
        let Some(gateway) = &self.gateway else { return Vec::new() };
        let letters = gateway.cores[shard].dead_letters().list(0, usize::MAX, Filter::default());
        letters.map(|letter| letter.turn).collect()
    }
}

impl Action {
    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentDies => "agent dies",
            Self::AgentHangs => "agent hangs",
            Self::AgentLies => "agent lies",
            Self::AgentRepeats => "agent repeats",
            Self::AgentHaunts => "dead agent heard",
            Self::Quarantine => "agent given up",
            Self::Stall => "stall",
            Self::Kill => "gateway killed",
            Self::KillAlone => "gateway killed alone",
            Self::PowerLoss => "power lost",
            Self::FlipBit => "bit flipped",
            Self::DiskFills => "disk full",
            Self::SyncFails => "sync fails",
            Self::WriteFails => "write fails",
            Self::Replay => "dead letters replayed",
            Self::Drop => "dead letters dropped",
            Self::Drain => "agent drains",
            Self::Share => "queue shared",
            _ => "",
        }
    }
}
