//! Pools and sickness: what agents have to do is asked of the shards once a second, and acted upon.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::core::ShardCore;
use engine::core::agents::AgentLoad;
use engine::event::Tenant;
use engine::events::Detail;
use engine::registry::Load;
use engine::scaling::ScalingLimits;
use engine::shard::{AgentWord, Command, Question};
use engine::supervision::conversations::Conversations;
use engine::supervision::pool::{Change, MemberLoad, Phase, Pool, PoolLimits};
use engine::supervision::sickness::{Finding, Outcomes};
use engine::supervision::{Event, State};
use engine::time::Moment;
use tokio::sync::mpsc;

use super::Parts;
use super::agents::{Agents, agent_index, tell_all};
use super::conversations::Known;
use crate::config::{AgentConfig, AgentLife, InstancesPer};

/// How often the shards are asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// By what the size of a pool is decided.
#[derive(Debug)]
pub(super) enum Policy {
    /// What there is to do.
    Load(Pool),
    /// How many conversations there are.
    Conversations(Conversations),
}

impl Policy {
    fn limits(&self) -> &PoolLimits {
        match self {
            Self::Load(pool) => pool.limits(),
            Self::Conversations(pool) => pool.limits(),
        }
    }
}

/// A pool, and which agents are its members.
#[derive(Debug)]
struct Members {
    policy: Policy,
    indices: Vec<usize>,
}

/// All pools, and what is known of the loads of their members.
#[derive(Debug)]
pub(super) struct Pools {
    pools: Vec<Members>,
    /// The pool of each agent.
    pool_of: Vec<usize>,
    /// What each agent had to do.
    loads: Vec<AgentLoad>,
    /// Whom each serves.
    pub(super) tenants: Vec<Known>,
    /// When the shards are asked; none while an answer is awaited.
    next_look: Option<Moment>,
    /// How many have not answered.
    awaited: usize,
    answers: mpsc::UnboundedSender<Vec<AgentLoad>>,
    heard: mpsc::UnboundedReceiver<Vec<AgentLoad>>,
}

impl Pools {
    pub(super) fn new(agents: &[AgentConfig], now: Moment) -> Self {
        let mut members = BTreeMap::<_, Vec<usize>>::new();
        for (index, agent) in agents.iter().enumerate() {
            members.entry(&agent.pool).or_default().push(index);
        }
        let mut pool_of = vec![0; agents.len()];
        let mut pools = Vec::new();
        for indices in members.into_values() {
            for &index in &indices {
                pool_of[index] = pools.len();
            }
            let AgentLife { pool: limits, per, .. } = agents[indices[0]].life;
            let policy = match per {
                InstancesPer::Pool => Policy::Load(Pool::new(limits, ScalingLimits::default())),
                InstancesPer::Conversation => Policy::Conversations(Conversations::new(limits)),
            };
            pools.push(Members { policy, indices });
        }
        let tenants: Vec<_> = agents
            .iter()
            .map(|agent| match agent.life.per {
                InstancesPer::Pool => Tenant::Everybody,
                InstancesPer::Conversation => Tenant::Nobody,
            })
            .collect();
        let idle = |(index, &tenant): (usize, &Tenant)| AgentLoad {
            tenant,
            agent: agent_index(index),
            open: 0,
            queued: 0,
            oldest_wait: Duration::ZERO,
            outcomes: Outcomes::default(),
        };
        let (answers, heard) = mpsc::unbounded_channel();
        Self {
            pools,
            pool_of,
            loads: tenants.iter().enumerate().map(idle).collect(),
            tenants: tenants.into_iter().map(Known::new).collect(),
            next_look: Some(now.plus(LOOK_EVERY)),
            awaited: 0,
            answers,
            heard,
        }
    }

    /// The agents of the pool of one of them, itself included.
    pub(super) fn members_of(&self, index: usize) -> &[usize] {
        &self.pools[self.pool_of[index]].indices
    }

    /// Whether an agent is started with the gateway, where those that `runs` says run already.
    pub(super) fn starts_with(&self, index: usize, runs: impl Fn(usize) -> bool) -> bool {
        let Members { policy, indices } = &self.pools[self.pool_of[index]];
        let limits = policy.limits();
        let (running, others): (Vec<usize>, Vec<usize>) = indices.iter().partition(|&&member| runs(member));
        let count = limits.min.max(limits.spares).saturating_sub(running.len());
        others.iter().take(count).any(|&member| member == index)
    }

    /// Another configuration says this of the pool of an agent.
    pub(super) fn set_limits(&mut self, index: usize, limits: PoolLimits) {
        match &mut self.pools[self.pool_of[index]].policy {
            Policy::Load(pool) => pool.set_limits(limits),
            Policy::Conversations(pool) => pool.set_limits(limits),
        }
    }

    /// The least members that the pool of an agent has.
    pub(super) fn min(&self, index: usize) -> usize {
        self.pools[self.pool_of[index]].policy.limits().min
    }

    /// What decides on the pool of an agent, and its members.
    pub(super) fn policy_of(&mut self, index: usize) -> (&mut Policy, &[usize]) {
        let Members { policy, indices } = &mut self.pools[self.pool_of[index]];
        (policy, indices)
    }

    /// Whom an agent has served when it was looked at last.
    pub(super) fn tenant_at_look(&self, index: usize) -> Tenant {
        self.loads[index].tenant
    }

    pub(super) fn next_look(&self) -> Option<Moment> {
        self.next_look
    }

    /// What a shard has answered.
    pub(super) async fn heard(&mut self) -> Option<Vec<AgentLoad>> {
        self.heard.recv().await
    }

    pub(super) fn load(&self, index: usize, state: &State) -> MemberLoad {
        let AgentLoad { open, queued, oldest_wait, outcomes, .. } = self.loads[index];
        let phase = match state {
            State::Created => Phase::Resting,
            state if state.takes_messages() => Phase::Running,
            _ => Phase::Out,
        };
        MemberLoad { phase, open, queued, oldest_wait, ended: outcomes.answered + outcomes.failed }
    }
}

impl Agents {
    /// Asks all shards what their agents have to do, if it is time.
    pub(super) fn look_at_loads(&mut self, parts: &Parts) {
        let now = parts.clock.now();
        if self.pools.next_look.is_none_or(|look| look > now) {
            return;
        }
        for shard in &parts.shards {
            let (clock, answers) = (parts.clock, self.pools.answers.clone());
            let question = move |core: &ShardCore| {
                // Nobody listens only when the process ends.
                let _ = answers.send(core.agent_loads(clock.now()));
            };
            // A shard that does not take it now is asked again later.
            if shard.caller().tell([Command::Ask(Question(Box::new(question)))]).is_ok() {
                self.pools.awaited += 1;
            }
        }
        self.pools.next_look = (self.pools.awaited == 0).then(|| now.plus(LOOK_EVERY));
    }

    /// A shard has answered. After the last answer pools grow or shrink, and agents are found sick or well.
    pub(super) fn loaded(&mut self, parts: &mut Parts, loads: Vec<AgentLoad>) {
        for load in loads {
            let AgentLoad { agent, open, queued, .. } = load;
            self.registry.loaded(agent, Load { open, queued });
            if let Some(known) = self.pools.loads.get_mut(agent.0 as usize) {
                *known = load;
            }
        }
        self.pools.awaited = self.pools.awaited.saturating_sub(1);
        if self.pools.awaited > 0 {
            return;
        }
        let now = parts.clock.now();
        self.pools.next_look = Some(now.plus(LOOK_EVERY));
        // Relaxed: a single flag, and this is asked again within a second.
        if parts.draining.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        self.compare_tenants(parts);
        for pool in 0..self.pools.pools.len() {
            let first = self.pools.pools[pool].indices[0];
            if self.serves_one(first) {
                self.look_at_conversations(parts, first);
            } else {
                self.share(parts, pool);
                self.resize(parts, now, pool);
            }
        }
        for index in 0..self.agents.len() {
            self.examine(parts, now, index);
        }
        self.publish(parts);
    }

    /// Where a member has nothing to do, those for whom messages wait share them.
    fn share(&self, parts: &Parts, pool: usize) {
        let members = &self.pools.pools[pool].indices;
        let ready = |index: usize| {
            let agent = &self.agents[index];
            *agent.supervisor.state() == State::Running && agent.ready
        };
        let idle =
            |index: usize| ready(index) && self.pools.loads[index].open + self.pools.loads[index].queued == 0;
        if members.len() < 2 || !members.iter().any(|&index| idle(index)) {
            return;
        }
        for &index in members.iter().filter(|&&index| self.pools.loads[index].queued > 0) {
            tell_all(parts, index, &AgentWord::Share);
        }
    }

    fn resize(&mut self, parts: &mut Parts, now: Moment, pool: usize) {
        let Members { policy, indices } = &self.pools.pools[pool];
        if policy.limits().is_fixed() {
            return;
        }
        let loads: Vec<_> = indices
            .iter()
            .map(|&index| self.pools.load(index, self.agents[index].supervisor.state()))
            .collect();
        let Members { policy: Policy::Load(policy), indices } = &mut self.pools.pools[pool] else { return };
        let Some(change) = policy.observe(now, &loads) else { return };
        let depth = loads.iter().map(|load| load.queued).sum();
        let oldest_wait = loads.iter().map(|load| load.oldest_wait).max().unwrap_or_default();
        let (index, event) = match change {
            Change::Start(place) => (indices[place], Event::Start),
            Change::Rest(place) => (indices[place], Event::Rest),
        };
        let grows = event == Event::Start;
        let AgentConfig { pool, name, .. } = &self.agents[index].config;
        if grows {
            tracing::info!(pool, agent = name, depth, "the pool needs one member more");
        } else {
            tracing::info!(pool, agent = name, "the pool lets an idle member go");
        }
        let detail = if grows {
            Detail::PoolScaleUp { pool, depth, oldest_wait }
        } else {
            Detail::PoolScaleDown { pool, depth }
        };
        self.bulletin.tell(now, Some(agent_index(index)), detail);
        self.on(parts, index, event);
    }

    /// Looks whether an agent does its work.
    fn examine(&mut self, parts: &mut Parts, now: Moment, index: usize) {
        let agent = &mut self.agents[index];
        if *agent.supervisor.state() != State::Running {
            return;
        }
        let outcomes = self.pools.loads[index].outcomes;
        let Some(finding) = agent.sickness.observe(now, outcomes, &agent.config.life.sickness) else {
            return;
        };
        let name = &agent.config.name;
        let detail = match &finding {
            Finding::Sick(cause) => {
                tracing::warn!(agent = name, cause, "agent is sick");
                Detail::AgentSick { cause }
            }
            Finding::Restart(cause) => {
                tracing::warn!(agent = name, cause, "agent is sick for too long: it is started anew");
                Detail::AgentSick { cause }
            }
            Finding::Well => {
                tracing::info!(agent = name, "agent is well again");
                Detail::AgentWell
            }
        };
        self.bulletin.tell(now, Some(agent_index(index)), detail);
        self.registry.sick(agent_index(index), agent.sickness.reason());
        if matches!(finding, Finding::Restart(_)) {
            self.on(parts, index, Event::Restart);
        }
    }
}
