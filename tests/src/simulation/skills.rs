//! Skills: agents ask, the control thread has them run, and what comes of them goes back.

use std::collections::BTreeSet;

use engine::event::{Input, InstanceId};
use fastrand::Rng;
use shm_transport::envelope::{Route, SKILL_NAME_BYTES_MAX, SkillOutcome, SkillV1};

use super::packet::Packet;
use super::world::World;

/// How many an agent asks for at once, at most: more than it may.
const ASKED_MAX: usize = 6;
/// What may come of one that was started.
const OUTCOMES: [SkillOutcome; 4] =
    [SkillOutcome::Done, SkillOutcome::Died, SkillOutcome::TimedOut, SkillOutcome::NotStarted];

/// What one process has asked for and was not answered, by its own numbers.
#[derive(Debug, Default)]
pub(super) struct Asked {
    open: BTreeSet<u64>,
    next: u64,
}

impl Asked {
    /// An answer has come.
    pub(super) fn answered(&mut self, call: u64) {
        assert!(self.open.remove(&call), "skill: call {call} is answered twice, or after it was given up");
    }

    /// The gateway that was asked is gone.
    pub(super) fn give_up(&mut self) {
        self.open.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// Those that run, by who has asked and the number that it gave.
#[derive(Debug, Default)]
pub(super) struct Skills {
    running: Vec<(usize, InstanceId, u64)>,
}

impl Skills {
    /// The agent of the incarnation asks, which lives.
    pub(super) fn start(&mut self, agent: Option<usize>, instance: InstanceId, call: u64) {
        self.running.push((agent.expect("a living incarnation asks"), instance, call));
    }

    pub(super) fn rests(&self) -> bool {
        self.running.is_empty()
    }

    /// Ends one of them.
    fn end(&mut self, random: &mut Rng) -> Option<(usize, InstanceId, u64)> {
        if self.running.is_empty() {
            return None;
        }
        Some(self.running.swap_remove(random.usize(..self.running.len())))
    }
}

impl World {
    /// An agent that works on something asks for a skill; rarely for one that there cannot be.
    pub(super) fn agent_asks(&mut self, agent: usize) {
        let workers = &mut self.workers;
        let worker = &mut workers.all[agent];
        let works = worker.instance.is_some() && !worker.hung && !worker.work.is_empty();
        if !works || worker.skills.open.len() >= ASKED_MAX {
            return;
        }
        let call = worker.skills.next;
        worker.skills.next += 1;
        worker.skills.open.insert(call);
        let length = if self.random.u8(..16) == 0 { SKILL_NAME_BYTES_MAX + 1 } else { 4 };
        let asked = SkillV1 { skill: "s".repeat(length), input: "some words".to_owned() };
        let route = Route { origin: call, ..Route::default() };
        worker.words.push_back(Packet::of(&mut workers.encoder, route, &asked));
        self.tally.work("skills asked for", 1);
    }

    /// A skill ends, or turns out not to have been started; also one whose asker is dead.
    pub(super) fn skill_ends(&mut self) -> bool {
        let Some((agent, instance, call)) = self.control.skills.end(&mut self.random) else { return false };
        let outcome = OUTCOMES[self.random.usize(..OUTCOMES.len())];
        self.history.note("skill ends", &[instance.0, call], || format!("{outcome:?}"));
        self.checker.skill_ended(instance, call);
        let home = self.home(agent);
        self.input(home, Input::SkillEnded { instance, call, outcome, output: "of a skill" });
        true
    }

    /// Every process that lives has had an answer to all that it has asked for.
    pub(super) fn skills_are_answered(&self) {
        for (agent, worker) in self.workers.all.iter().enumerate() {
            assert!(worker.skills.is_empty(), "skill: agent {agent} waits for ever: {:?}", worker.skills);
        }
        self.checker.skills_are_answered();
    }
}
