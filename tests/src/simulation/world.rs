//! The parts of a run, and what a step does.

use std::sync::Arc;
use std::time::Duration;

use engine::core::{AgentDefinition, CoreSetting, ShardCore};
use engine::event::{AgentIndex, EdgeIndex, Effect, Input, InstanceId, ShardIndex};
use engine::journal::disk::Operation;
use engine::routing::{AgentSpec, RoutingTable};
use engine::time::Moment;
use fastrand::Rng;
use shm_transport::envelope::{Kind, SkillOutcome};

use super::checker::Checker;
use super::conversations::Control;
use super::faults::Fall;
use super::history::History;
use super::machine::{EDGES, Gateway};
use super::packet::Packet;
use super::people::People;
use super::store::Store;
use super::swarm::{Action, Swarm};
use super::workers::Workers;
use super::{Options, Outcome, Tally};

/// What does not change during a run.
#[derive(Debug)]
pub(super) struct Constants {
    pub(super) swarm: Swarm,
    definitions: Arc<[AgentDefinition]>,
    routes: Arc<RoutingTable>,
}

impl Constants {
    fn new(swarm: Swarm) -> Self {
        let definitions: Vec<_> = swarm
            .in_flight_max
            .iter()
            .enumerate()
            .map(|(agent, &in_flight_max)| AgentDefinition {
                name: agent_name(agent),
                in_flight_max,
                conversation_pool: swarm.serves_one(agent).then(|| agent_index(swarm.pool).0),
            })
            .collect();
        let shard_count = u8::try_from(swarm.shards).expect("there are few shards");
        let specs: Vec<_> = (0..swarm.agents)
            .map(|agent| AgentSpec {
                index: agent_index(agent),
                name: agent_name(agent),
                pool: pool_name(&swarm, agent).map(str::to_owned),
                capabilities: Vec::new(),
                home: agent_index(agent).home(shard_count),
            })
            .collect();
        let routes = RoutingTable::build(1, &specs, &[], Some(POOL)).expect("the table makes sense");
        Self { swarm, definitions: definitions.into(), routes: Arc::new(routes) }
    }

    pub(super) fn core(&self, setting: CoreSetting) -> ShardCore {
        let (definitions, routes) = (Arc::clone(&self.definitions), Arc::clone(&self.routes));
        ShardCore::new(setting, definitions, routes, self.swarm.limits)
    }
}

/// The pool that the first agents are in, and that gets messages that name nobody.
pub(super) const POOL: &str = "pool";

/// The pool of those that serve one session at a time.
pub(super) const TALK: &str = "talk";

fn pool_name(swarm: &Swarm, agent: usize) -> Option<&'static str> {
    match agent {
        _ if swarm.serves_one(agent) => Some(TALK),
        _ if agent < swarm.pool => Some(POOL),
        _ => None,
    }
}

pub(super) fn agent_name(agent: usize) -> String {
    format!("agent-{agent}")
}

pub(super) fn agent_index(agent: usize) -> AgentIndex {
    AgentIndex(u32::try_from(agent).expect("there are few agents"))
}

/// One run.
#[derive(Debug)]
pub struct World {
    pub(super) random: Rng,
    pub(super) constants: Constants,
    pub(super) history: History,
    pub(super) tally: Tally,
    pub(super) checker: Checker,
    /// On the clock of this run of the gateway.
    pub(super) now: Moment,
    /// Of earlier runs.
    pub(super) before: Duration,
    /// Unix milliseconds when this run of the gateway began.
    pub(super) unix_ms_at_zero: u64,
    pub(super) run: u32,
    /// None while it is down.
    pub(super) gateway: Option<Gateway>,
    pub(super) stores: Vec<Store>,
    pub(super) workers: Workers,
    pub(super) people: People,
    pub(super) control: Control,
    /// The gateway is killed once more when so many steps are over.
    pub(super) killed_in: Option<usize>,
    steps_percent: usize,
}

impl World {
    /// A gateway that has been started for the first time.
    pub fn new(seed: u64, options: Options) -> Self {
        let mut random = Rng::with_seed(seed);
        let swarm = Swarm::new(&mut random);
        let (workers, people) = (Workers::new(&swarm), People::new(&swarm));
        let checker = Checker::new(&swarm, people.sessions());
        let mut world = Self {
            control: Control::new(&swarm),
            stores: (0..swarm.shards).map(|_| Store::default()).collect(),
            constants: Constants::new(swarm),
            history: History::new(seed, options.trace),
            tally: Tally::default(),
            checker,
            now: Moment::ZERO,
            before: Duration::ZERO,
            unix_ms_at_zero: 1_700_000_000_000,
            run: 0,
            gateway: None,
            workers,
            people,
            killed_in: None,
            random,
            steps_percent: if options.steps_percent == 0 { 100 } else { options.steps_percent },
        };
        if options.trace {
            println!("{:#?}", world.constants.swarm);
        }
        world.start();
        for agent in 0..world.constants.swarm.agents {
            world.agent_starts(agent);
        }
        world
    }

    /// How many steps the first phase has.
    pub fn steps(&self) -> usize {
        self.constants.swarm.steps * self.steps_percent / 100
    }

    /// What the run was so far.
    pub fn outcome(mut self) -> Outcome {
        let counters: u64 = self.total(|counters| counters.messages_received);
        self.history.note("end", &[counters], String::new);
        self.tally.work("steps", self.history.step);
        self.tally.work("runs", u64::from(self.run));
        self.checker.count(&mut self.tally);
        Outcome {
            digest: self.history.digest(),
            simulated: self.before + self.now.since(Moment::ZERO),
            tally: self.tally,
        }
    }

    /// A counter, over all shards.
    pub(super) fn total(&self, counter: impl Fn(&engine::stats::Counters) -> u64) -> u64 {
        let cores = self.gateway.iter().flat_map(|gateway| &gateway.cores);
        cores.map(|core| counter(&core.counters())).sum()
    }

    pub(super) fn shard(&mut self) -> usize {
        self.random.usize(..self.constants.swarm.shards)
    }

    pub(super) fn agent(&mut self) -> usize {
        self.random.usize(..self.constants.swarm.agents)
    }

    pub(super) fn home(&self, agent: usize) -> usize {
        let shard_count = u8::try_from(self.constants.swarm.shards).expect("there are few shards");
        usize::from(agent_index(agent).home(shard_count).0)
    }

    pub(super) fn at_ms(&self) -> u64 {
        self.unix_ms_at_zero
            + u64::try_from(self.now.since(Moment::ZERO).as_millis()).unwrap_or(u64::MAX >> 1)
    }

    /// Does one thing.
    pub fn step(&mut self) {
        self.history.step += 1;
        self.now = self.now.plus(Duration::from_micros(self.random.u64(1..=500)));
        match &mut self.killed_in {
            Some(0) => {
                let fall = if self.random.bool() { Fall::Killed } else { Fall::KilledAlone };
                return self.fall(fall);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        if self.gateway.is_none() {
            // Whoever supervises it starts it again.
            if self.random.u8(..16) == 0 {
                self.start();
            }
            // Agents that have outlived it go on.
            let agent = self.agent();
            if !self.agent_works(agent) {
                self.agent_reads(agent);
            }
            return;
        }
        let action = self.constants.swarm.action(&mut self.random);
        self.act(action);
    }

    fn act(&mut self, action: Action) {
        let (agent, shard) = (self.agent(), self.shard());
        match action {
            Action::Send => self.send_new(),
            Action::Ask => self.ask_one(),
            Action::Repeat => self.repeat(),
            Action::Reuse => self.reuse(),
            Action::Cancel => self.cancel(),
            Action::Reconnect => self.reconnect(),
            Action::Resume => self.resume(),
            Action::GiveUp => self.give_up(),
            Action::EdgeSends => {
                let edge = self.random.usize(..EDGES);
                self.edge_sends(edge, shard);
            }
            Action::EdgeReads => {
                let edge = self.random.usize(..EDGES);
                self.edge_reads(edge);
            }
            Action::Mesh => {
                let other = self.shard();
                self.mesh(shard, other);
            }
            Action::JournalTakes => {
                for _ in 0..self.random.usize(1..=4) {
                    self.journal_takes(shard);
                }
            }
            Action::Disk => {
                self.disk_works(shard);
            }
            Action::JournalAnswers => {
                self.journal_answers(shard);
            }
            Action::AgentReads => {
                self.agent_reads(agent);
            }
            Action::AgentWorks => {
                self.agent_works(agent);
            }
            Action::AgentSays => {
                self.agent_says(agent);
            }
            Action::ControlHears => _ = self.control_hears(),
            Action::ControlLooks => self.control_looks(),
            Action::SkillEnds => _ = self.skill_ends(),
            Action::AgentStarts => self.agent_starts(agent),
            Action::Tick => {
                let millis = self.random.u64(..50);
                self.wait(Duration::from_millis(millis));
            }
            other => self.fault(other, shard, agent),
        }
    }

    /// Time passes; each shard that wants to know is told.
    pub(super) fn wait(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        for shard in 0..self.constants.swarm.shards {
            let Some(gateway) = &self.gateway else { return };
            if gateway.cores[shard].next_deadline().is_some_and(|due| due <= self.now) {
                self.input(shard, Input::Tick);
            }
        }
    }

    /// Gives a core an input, and puts its effects where they go.
    pub(super) fn input(&mut self, shard: usize, input: Input<'_>) {
        let Self { gateway, now, workers, checker, history, stores, control, .. } = self;
        let Some(Gateway { cores, hosts, mesh, to_clients, .. }) = gateway else { return };
        cores[shard].on(*now, input, &mut |effect| match effect {
            Effect::ToEdge { edge, route, body } => {
                let words = [route.turn, route.session, route.origin, u64::from(route.sequence)];
                history.note("to edge", &words, || {
                    format!("{:?} {}", body.kind(), describe(&Packet::new(route, body)))
                });
                to_clients[usize::from(edge.0)].push_back(Packet::new(route, body));
            }
            Effect::ToShard { shard: other, route, body } => {
                let other = usize::from(other.0);
                assert_ne!(other, shard, "a shard needs no mesh to reach itself");
                mesh[shard][other].push_back(Packet::new(route, body));
            }
            Effect::ToAgent { instance, route, body } => {
                let packet = Packet::new(route, body);
                let words = [instance.0, route.turn, u64::from(route.attempt)];
                history.note("to agent", &words, || format!("{:?} {}", packet.kind(), describe(&packet)));
                let agent = workers.by_instance(instance).expect("a message goes to a living incarnation");
                match packet.kind() {
                    Kind::Message => checker.given(agent, instance, &packet),
                    Kind::Cancel | Kind::Stop | Kind::RollCall => {}
                    Kind::SkillResult => {
                        checker.skill_answered(instance, route.origin, skill_outcome(&packet));
                    }
                    other => panic!("{other:?} for an agent"),
                }
                workers.hand(agent, packet);
            }
            Effect::Journal { entry, body } => {
                let words = [entry.kind as u64, entry.turn, entry.word, u64::from(entry.attempt)];
                history.note("to journal", &words, || format!("shard {shard} {:?}", entry.kind));
                stores[shard].ask(&entry);
                checker.journaled(&entry, body);
                let packet = Packet::new(shm_transport::envelope::Route::default(), body);
                hosts[shard].entries.push_back((entry, packet));
            }
            Effect::Fence { instance, poison } => {
                history.note("fence", &[instance.0], || poison.to_string());
                // A dead one may be meant, whose words were read after all.
                if let Some(agent) = workers.by_instance(instance) {
                    workers.fence(agent);
                }
            }
            Effect::AgentAdopted { instance } => {
                history.note("adopted", &[instance.0], String::new);
                if let Some(agent) = workers.by_instance(instance) {
                    workers.answered(agent);
                }
            }
            Effect::Release { instance, until } => {
                // A dead one may be meant.
                if let Some(agent) = workers.by_instance(instance) {
                    workers.release(agent, until);
                }
            }
            Effect::AgentTenure { agent, tenure } => {
                history.note("tenure", &[u64::from(agent.0)], || format!("{tenure:?}"));
                control.tell(agent, tenure);
            }
            Effect::Skill { instance, call, .. } => {
                history.note("skill", &[instance.0, call], String::new);
                checker.skill_started(instance, call);
                control.skills.start(workers.by_instance(instance), instance, call);
            }
            Effect::AgentReady { .. } | Effect::Event(..) => {}
        });
    }

    pub(super) fn edge_sends(&mut self, edge: usize, shard: usize) -> bool {
        let Some(gateway) = &mut self.gateway else { return false };
        let Some(packet) = gateway.to_shards[edge][shard].pop_front() else { return false };
        self.checker.arrived(&packet);
        let edge = EdgeIndex(u8::try_from(edge).expect("there are few edges"));
        self.input(shard, Input::FromEdge { edge, message: packet.message() });
        true
    }

    pub(super) fn edge_reads(&mut self, edge: usize) -> bool {
        let Some(gateway) = &mut self.gateway else { return false };
        let Some(packet) = gateway.to_clients[edge].pop_front() else { return false };
        self.client_hears(&packet);
        true
    }

    pub(super) fn mesh(&mut self, from: usize, to: usize) -> bool {
        let Some(gateway) = &mut self.gateway else { return false };
        let Some(packet) = gateway.mesh[from][to].pop_front() else { return false };
        let shard = ShardIndex(u8::try_from(from).expect("there are few shards"));
        self.input(to, Input::FromShard { shard, message: packet.message() });
        true
    }

    pub(super) fn journal_takes(&mut self, shard: usize) -> bool {
        let at_ms = self.at_ms();
        self.gateway.as_mut().is_some_and(|gateway| gateway.hosts[shard].take(at_ms))
    }

    pub(super) fn disk_works(&mut self, shard: usize) -> bool {
        let Self { gateway, stores, now, history, .. } = self;
        gateway.as_mut().is_some_and(|gateway| {
            gateway.hosts[shard].work(*now, &mut stores[shard], &mut |operation| {
                history.note("disk", &[shard as u64], || named(operation));
            })
        })
    }

    pub(super) fn journal_answers(&mut self, shard: usize) -> bool {
        let Some(gateway) = &mut self.gateway else { return false };
        let Some(progress) = gateway.hosts[shard].answers.pop_front() else { return false };
        let words = [shard as u64, progress.written, progress.synced, progress.state as u64];
        self.history.note("journal has", &words, String::new);
        self.stores[shard].tell(progress);
        self.input(shard, Input::Journaled(progress));
        true
    }

    pub(super) fn hear_from_agent(&mut self, agent: usize, instance: InstanceId, packet: &Packet) {
        let words = [instance.0, packet.route.turn, u64::from(packet.route.attempt)];
        self.history.note("agent says", &words, || describe(packet));
        self.checker.said(agent, instance, packet);
        if packet.kind() == Kind::Skill && self.workers.is_heard(instance) {
            self.checker.skill_asked(instance, packet.route.origin);
        }
        let home = self.home(agent);
        self.input(home, Input::FromAgent { instance, message: packet.message() });
    }
}

/// What a packet says of a skill.
fn skill_outcome(packet: &Packet) -> Option<SkillOutcome> {
    use shm_transport::envelope::Opened;
    let Opened::SkillResult(result) = packet.message().open() else { return None };
    SkillOutcome::from_number(result.outcome.to_native())
}

/// An operation, for the trace.
fn named(operation: &Operation) -> String {
    match operation {
        Operation::Write { segment, offset, bytes } => format!("write {segment} {offset} {}", bytes.len()),
        other => format!("{other:?}"),
    }
}

/// What a packet says, for the trace.
pub(super) fn describe(packet: &Packet) -> String {
    use shm_transport::envelope::Opened;
    let short = |text: &str| text.chars().take(90).collect::<String>();
    match packet.message().open() {
        Opened::Message(message) => short(message.content.as_str()),
        Opened::Block(block) => format!("block {}", short(block.content.as_str())),
        Opened::End(end) => format!("end {}", short(end.content.as_str())),
        Opened::Failure(failure) => format!("failure {} {}", failure.code, short(failure.text.as_str())),
        _ => format!("{:?}", packet.kind()),
    }
}
