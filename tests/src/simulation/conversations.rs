//! Agents that serve one session at a time, and the part of the control thread that starts and ends them.
//!
//! The policy is the engine's. What shards say to the control thread is heard later, and may be out of date by then.

use std::collections::VecDeque;
use std::time::Duration;

use engine::event::{AgentIndex, Input, Tenant, Tenure};
use engine::supervision::conversations::{Conversations, Seat};
use engine::supervision::pool::{Change, MemberLoad, Phase};
use engine::time::Moment;

use super::skills::Skills;
use super::swarm::Swarm;
use super::world::{World, agent_index};

/// How often the members are looked at where nothing goes wrong.
const LOOK: Duration = Duration::from_secs(1);

/// Where an agent stands that serves one session at a time; of others the first.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Standing {
    /// It runs, or is started again when it has died.
    #[default]
    Serving,
    /// It drains, and rests then.
    Going,
    /// It has no process, and is not started before a session needs it.
    Resting,
    /// It is started as soon as it can be.
    Wanted,
}

/// Whom an agent serves, as the control thread knows.
#[derive(Clone, Copy, Debug)]
struct Known {
    tenant: Tenant,
    /// Whether its shard has said something else at the last look.
    doubted: bool,
}

/// The control thread of one run of the gateway.
#[derive(Debug)]
pub(super) struct Control {
    tenures: VecDeque<(AgentIndex, Tenure)>,
    pub(super) skills: Skills,
    known: Vec<Known>,
    policy: Conversations,
    looked_at: Moment,
}

impl Control {
    pub(super) fn new(swarm: &Swarm) -> Self {
        let nobody = Known { tenant: Tenant::Nobody, doubted: false };
        Self {
            tenures: VecDeque::new(),
            skills: Skills::default(),
            known: vec![nobody; swarm.agents],
            policy: Conversations::new(swarm.conversations),
            looked_at: Moment::ZERO,
        }
    }

    /// A shard says what becomes of the service of an agent.
    pub(super) fn tell(&mut self, agent: AgentIndex, tenure: Tenure) {
        self.tenures.push_back((agent, tenure));
    }

    /// Whether everything has been heard, and nothing runs.
    pub(super) fn rests(&self) -> bool {
        self.tenures.is_empty() && self.skills.rests()
    }
}

impl World {
    /// A gateway has read its logs: members that have not outlived the one before have no process.
    pub(super) fn conversations_begin(&mut self) {
        for agent in self.constants.swarm.members() {
            let worker = &mut self.workers.all[agent];
            if worker.instance.is_some() {
                self.control.known[agent].tenant = Tenant::Unknown;
                continue;
            }
            worker.tenure = Standing::Resting;
            self.all_hear(agent, |agent| Input::AgentRests { agent });
        }
    }

    /// The control thread hears something of the service of an agent.
    pub(super) fn control_hears(&mut self) -> bool {
        let Some((index, tenure)) = self.control.tenures.pop_front() else { return false };
        let agent = index.0 as usize;
        self.history.note("control hears", &[agent as u64], || format!("{tenure:?}"));
        match tenure {
            Tenure::Begun(session) => {
                let tenant = Tenant::Session(session);
                self.control.known[agent] = Known { tenant, doubted: false };
                self.all_hear(agent, |agent| Input::AgentServes { agent, tenant });
                self.wants(agent);
                let seats = self.seats();
                let first = self.constants.swarm.pool;
                for place in self.control.policy.missing(&seats) {
                    self.wants(first + place);
                }
            }
            Tenure::Over(session) => {
                let its = self.control.known[agent].tenant;
                if its == Tenant::Session(session) || its == Tenant::Unknown {
                    self.rest(agent);
                }
            }
            Tenure::Lost => self.rest(agent),
        }
        true
    }

    fn wants(&mut self, agent: usize) {
        let tenure = &mut self.workers.all[agent].tenure;
        if *tenure == Standing::Resting {
            *tenure = Standing::Wanted;
        }
    }

    /// The control thread looks at all members.
    pub(super) fn control_looks(&mut self) {
        self.control.looked_at = self.now;
        for agent in self.constants.swarm.members() {
            // Its shard is told of one that has outlived a gateway before it is looked at first.
            let worker = &self.workers.all[agent];
            if worker.instance.is_some() && !worker.attached {
                continue;
            }
            let tenant = self.load(agent).map_or(Tenant::Nobody, |(_, tenant)| tenant);
            let known = &mut self.control.known[agent];
            if tenant == known.tenant {
                known.doubted = false;
            } else if std::mem::replace(&mut known.doubted, true) {
                *known = Known { tenant, doubted: false };
                self.all_hear(agent, |agent| Input::AgentServes { agent, tenant });
            }
        }
        let seats = self.seats();
        let first = self.constants.swarm.pool;
        for change in self.control.policy.observe(self.now, &seats) {
            match change {
                Change::Start(place) => self.wants(first + place),
                Change::Rest(place) => self.rest(first + place),
            }
        }
    }

    /// The same, as often as it should be.
    pub(super) fn control_looks_if_due(&mut self) {
        if self.now.since(self.control.looked_at) >= LOOK {
            self.control_looks();
        }
    }

    /// What a member has to do, and whom it serves, as its shard knows.
    fn load(&self, agent: usize) -> Option<(MemberLoad, Tenant)> {
        let core = &self.gateway.as_ref()?.cores[self.home(agent)];
        let loads = core.agent_loads(self.now);
        let load = loads.into_iter().find(|load| load.agent == agent_index(agent))?;
        let worker = &self.workers.all[agent];
        let phase = match worker.tenure {
            Standing::Resting => Phase::Resting,
            _ if worker.unavailable || worker.draining => Phase::Out,
            Standing::Serving | Standing::Going | Standing::Wanted => Phase::Running,
        };
        let ended = load.outcomes.answered + load.outcomes.failed;
        let (open, queued, oldest_wait) = (load.open, load.queued, load.oldest_wait);
        Some((MemberLoad { phase, open, queued, oldest_wait, ended }, load.tenant))
    }

    fn seats(&self) -> Vec<Seat> {
        let members = self.constants.swarm.members();
        let seat = |agent| Some(Seat { load: self.load(agent)?.0, tenant: self.control.known[agent].tenant });
        members.filter_map(seat).collect()
    }

    /// A member is not needed: it gets nothing more, and rests when it has ended.
    fn rest(&mut self, agent: usize) {
        let worker = &mut self.workers.all[agent];
        if worker.instance.is_none() || !worker.attached || worker.unavailable || worker.draining {
            return;
        }
        (worker.draining, worker.tenure) = (true, Standing::Going);
        self.history.note("goes", &[agent as u64], String::new);
        self.tally.work("members rested", 1);
        self.all_hear(agent, |agent| Input::AgentDraining { agent, others: Some("it goes") });
    }

    /// The process of an agent has ended: one that was to go rests.
    pub(super) fn has_gone(&mut self, agent: usize) {
        let worker = &mut self.workers.all[agent];
        if worker.tenure != Standing::Going {
            return;
        }
        (worker.draining, worker.tenure) = (false, Standing::Resting);
        self.history.note("rests", &[agent as u64], String::new);
        self.all_hear(agent, |agent| Input::AgentRests { agent });
        self.vacate(agent);
    }

    /// The next process of an agent is for whoever comes.
    pub(super) fn vacate(&mut self, agent: usize) {
        self.control.known[agent] = Known { tenant: Tenant::Nobody, doubted: false };
    }
}
