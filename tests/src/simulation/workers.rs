//! The agents: processes that read a ring, work on several turns at once, and write another ring; not all of them well.

use std::collections::VecDeque;

use engine::event::{AgentIndex, Input, InstanceId};
use fastrand::Rng;
use shm_transport::envelope::{
    BlockV1, Body, Encoder, EndV1, FailureCode, FailureV1, HelloV1, Kind, Opened, Route,
};

use super::checker::text::{Said, Word};
use super::conversations::Standing;
use super::packet::Packet;
use super::skills::Asked;
use super::swarm::Swarm;
use super::world::{World, agent_index};

/// Last words that are remembered, to be said again.
const SAID_MAX: usize = 8;

/// A turn that an agent works on.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) route: Route,
    message: u32,
    poison: bool,
    blocks: u32,
    blocks_left: u32,
    cancelled: bool,
    bytes: usize,
}

/// One agent.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) instance: Option<InstanceId>,
    pub(super) hung: bool,
    pub(super) fenced: bool,
    pub(super) unavailable: bool,
    /// The shards were told to give it nothing more.
    pub(super) draining: bool,
    /// Where it stands, if it serves one session at a time.
    pub(super) tenure: Standing,
    /// It was told to finish.
    stopping: bool,
    /// Whether this gateway has attached it.
    pub(super) attached: bool,
    /// Whether it has outlived a gateway, and this one has not heard what it works on.
    pub(super) called: bool,
    pub(super) ring: VecDeque<Packet>,
    pub(super) work: Vec<Work>,
    /// What it has said, from the first word whose room was not given back on.
    pub(super) words: VecDeque<Packet>,
    /// How many of these this gateway has read.
    read: usize,
    /// How many were given back before them, ever.
    given_back: u64,
    /// Up to which word this gateway's shard was told that it has read.
    told: u64,
    /// Last words, for repetition.
    pub(super) said: VecDeque<Packet>,
    /// Skills that it has asked for and that were not answered, and those that it has given up.
    pub(super) skills: Asked,
    /// What a dead incarnation had written and nobody had read.
    pub(super) haunting: VecDeque<(InstanceId, Packet)>,
}

/// All agents.
#[derive(Debug)]
pub(super) struct Workers {
    pub(super) all: Vec<Worker>,
    next_instance: u64,
    pub(super) encoder: Encoder,
    padding_max: usize,
    failing: u8,
}

impl Workers {
    pub(super) fn new(swarm: &Swarm) -> Self {
        Self {
            all: (0..swarm.agents).map(|_| Worker::default()).collect(),
            next_instance: 1,
            encoder: Encoder::default(),
            padding_max: swarm.padding_max,
            failing: swarm.failing,
        }
    }

    pub(super) fn by_instance(&self, instance: InstanceId) -> Option<usize> {
        self.all.iter().position(|worker| worker.instance == Some(instance))
    }

    /// Whether an incarnation lives, and nothing is owed to the gateway before.
    pub(super) fn is_heard(&self, instance: InstanceId) -> bool {
        self.all.iter().any(|worker| worker.instance == Some(instance) && !worker.called)
    }

    pub(super) fn hand(&mut self, agent: usize, packet: Packet) {
        self.all[agent].ring.push_back(packet);
    }

    /// Nothing more is read from it; the supervisor will end it.
    pub(super) fn fence(&mut self, agent: usize) {
        self.all[agent].fenced = true;
    }

    /// All processes end with the gateway.
    pub(super) fn all_die(&mut self) {
        for worker in &mut self.all {
            *worker = Worker::default();
        }
    }

    /// The gateway is gone, and they go on. Of what it had for them, some never was published.
    pub(super) fn live_on(&mut self, random: &mut Rng) {
        for worker in &mut self.all {
            if worker.instance.is_none() || worker.fenced {
                *worker = Worker::default();
                continue;
            }
            worker.haunting.clear();
            (worker.attached, worker.called, worker.read, worker.told) = (false, true, 0, 0);
            // The next gateway knows nothing of that.
            worker.draining = false;
            if random.bool() {
                worker.ring.truncate(random.usize(..=worker.ring.len()));
            }
        }
    }

    /// Those that no gateway has attached.
    pub(super) fn orphans(&self) -> Vec<usize> {
        let orphan = |worker: &Worker| worker.instance.is_some() && !worker.attached;
        (0..self.all.len()).filter(|&agent| orphan(&self.all[agent])).collect()
    }

    /// What an agent has in its hands, as far as its gateway may know: what it was given, and what it has said the last
    /// word about that is still in its ring. Turn, attempt and bytes.
    pub(super) fn holds(&self, agent: usize) -> (Option<InstanceId>, Vec<(u64, u32, usize)>) {
        let worker = &self.all[agent];
        let message = |packet: &&Packet| packet.kind() == Kind::Message;
        let given = worker.ring.iter().filter(message);
        let given = given.map(|packet| (packet.route, packet.body().bytes().len()));
        let works = worker.work.iter().map(|work| (work.route, work.bytes));
        let ended = worker.words.iter().filter(|word| matches!(word.kind(), Kind::End | Kind::Failure));
        let held = ended.map(|word| (word.route, 0)).chain(works).chain(given);
        (worker.instance, held.map(|(route, bytes)| (route.turn, route.attempt, bytes)).collect())
    }

    /// The gateway has heard what an agent works on.
    pub(super) fn answered(&mut self, agent: usize) {
        self.all[agent].called = false;
    }

    /// The room of words is given back.
    pub(super) fn release(&mut self, agent: usize, until: u64) {
        let worker = &mut self.all[agent];
        while worker.given_back < until {
            assert!(worker.read > 0, "words are given back that were not read");
            worker.words.pop_front();
            worker.read -= 1;
            worker.given_back += 1;
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.all
            .iter()
            .all(|worker| worker.ring.is_empty() && worker.work.is_empty() && worker.words.is_empty())
    }

    /// Reads one message of its ring.
    fn read(&mut self, agent: usize, random: &mut Rng) -> bool {
        let worker = &mut self.all[agent];
        if worker.hung {
            return false;
        }
        let Some(packet) = worker.ring.pop_front() else { return false };
        match packet.message().open() {
            Opened::Message(message) => {
                let said = Said::parse(message.content.as_str()).expect("messages have numbers");
                worker.work.push(Work {
                    route: packet.route,
                    message: said.message,
                    poison: said.poison,
                    blocks: 0,
                    blocks_left: random.u32(..4),
                    cancelled: false,
                    bytes: packet.body().bytes().len(),
                });
            }
            Opened::Cancel => {
                let of_it = |work: &&mut Work| work.route.turn == packet.route.turn;
                if let Some(work) = worker.work.iter_mut().find(of_it) {
                    work.cancelled = true;
                }
            }
            Opened::Stop => worker.stopping = true,
            Opened::SkillResult(_) => worker.skills.answered(packet.route.origin),
            Opened::RollCall => {
                worker.skills.give_up();
                let session = packet.route.session;
                for work in &worker.work {
                    let Route { turn, attempt, .. } = work.route;
                    let route = Route { turn, session, origin: work.bytes as u64, attempt, sequence: 0 };
                    worker.words.push_back(Packet::new(route, Body::WORKING));
                }
                let route = Route { session, ..Route::default() };
                worker.words.push_back(Packet::new(route, Body::WORKING));
            }
            _ => panic!("{:?} for an agent", packet.kind()),
        }
        true
    }

    /// Says the next word about one of its turns. `Err`: the message has killed it.
    fn work(&mut self, agent: usize, random: &mut Rng) -> Result<bool, ()> {
        let Self { all, encoder, padding_max, failing, .. } = self;
        let worker = &mut all[agent];
        let Some(instance) = worker.instance.filter(|_| !worker.hung && !worker.work.is_empty()) else {
            return Ok(false);
        };
        let at = random.usize(..worker.work.len());
        let work = &mut worker.work[at];
        let Route { turn, attempt, .. } = work.route;
        let route = Route { turn, attempt, sequence: work.blocks, ..Route::default() };
        let mut said = Said {
            message: work.message,
            poison: work.poison,
            instance: instance.0,
            attempt: work.route.attempt,
            word: Word::Block(work.blocks),
        };
        let padding = random.usize(..=*padding_max);
        if work.blocks_left > 0 && !work.cancelled {
            work.blocks_left -= 1;
            work.blocks += 1;
            let block = BlockV1 { block_type: 0, content: said.text(padding) };
            worker.words.push_back(Packet::of(encoder, route, &block));
            return Ok(true);
        }
        if work.poison && !work.cancelled {
            return Err(());
        }
        let fails = random.u8(..) < *failing;
        let packet = if fails {
            let retry_after_ms = if random.bool() { 1 } else { 0 };
            said.word = Word::Failure;
            let code = FailureCode::AgentError as u16;
            Packet::of(encoder, route, &FailureV1 { code, retry_after_ms, text: said.text(0) })
        } else {
            said.word = Word::End(work.blocks);
            Packet::of(encoder, route, &EndV1 { content: said.text(padding) })
        };
        worker.work.swap_remove(at);
        worker.said.push_back(packet.clone());
        if worker.said.len() > SAID_MAX {
            worker.said.pop_front();
        }
        worker.words.push_back(packet);
        Ok(true)
    }
}

impl World {
    pub(super) fn agent_starts(&mut self, agent: usize) {
        let worker = &mut self.workers.all[agent];
        let waits = worker.tenure == Standing::Resting;
        if worker.attached || worker.unavailable || waits || self.gateway.is_none() {
            return;
        }
        worker.attached = true;
        let wanted = std::mem::take(&mut worker.tenure) == Standing::Wanted;
        if std::mem::take(&mut worker.draining) || wanted {
            self.all_hear(agent, |agent| Input::AgentExpected { agent });
        }
        let worker = &mut self.workers.all[agent];
        if let Some(instance) = worker.instance {
            worker.told = worker.given_back;
            self.history.note("agent adopted", &[agent as u64, instance.0], String::new);
            let home = self.home(agent);
            return self.input(home, Input::AgentAdopted { agent: agent_index(agent), instance });
        }
        let instance = InstanceId(self.workers.next_instance);
        self.workers.next_instance += 1;
        let worker = &mut self.workers.all[agent];
        worker.instance = Some(instance);
        let hello = HelloV1 { process_id: 1, software: "simulated".into() };
        let hello = Packet::of(&mut self.workers.encoder, Route::default(), &hello);
        self.workers.all[agent].words.push_back(hello);
        self.history.note("agent up", &[agent as u64, instance.0], String::new);
        let home = self.home(agent);
        self.input(home, Input::AgentUp { agent: agent_index(agent), instance });
    }

    pub(super) fn agent_reads(&mut self, agent: usize) -> bool {
        self.workers.read(agent, &mut self.random)
    }

    pub(super) fn agent_works(&mut self, agent: usize) -> bool {
        let worker = &self.workers.all[agent];
        let patient = worker.work.is_empty() || self.random.u8(..16) > 0;
        if worker.stopping && !worker.hung && worker.words.is_empty() && (worker.work.is_empty() || !patient)
        {
            self.agent_dies(agent);
            return true;
        }
        match self.workers.work(agent, &mut self.random) {
            Ok(any) => any,
            Err(()) => {
                self.tally.fault("poison");
                self.agent_dies(agent);
                true
            }
        }
    }

    /// A shard reads one word of an agent.
    pub(super) fn agent_says(&mut self, agent: usize) -> bool {
        let worker = &mut self.workers.all[agent];
        let Some(instance) = worker.instance.filter(|_| worker.attached && !worker.fenced) else {
            return false;
        };
        let packet = worker.words.get(worker.read).cloned();
        let until = worker.given_back + worker.read as u64;
        let any = packet.is_some() || until > worker.told;
        if let Some(packet) = &packet {
            worker.read += 1;
            self.hear_from_agent(agent, instance, packet);
        }
        // It may have died of what it said; and some is read together.
        let worker = &mut self.workers.all[agent];
        if worker.instance == Some(instance) && (packet.is_none() || self.random.bool()) {
            let until = worker.given_back + worker.read as u64;
            worker.told = until;
            let home = self.home(agent);
            self.input(home, Input::AgentRead { instance, until });
        }
        any
    }

    /// The process ends. Some of what it has written is read first, the rest is not; and once in a while afterwards.
    pub(super) fn agent_dies(&mut self, agent: usize) {
        let Some(instance) = self.workers.all[agent].instance else { return };
        for _ in 0..self.random.usize(..4) {
            self.agent_says(agent);
        }
        let Worker { unavailable, draining, called, tenure, .. } = self.workers.all[agent];
        let old = std::mem::take(&mut self.workers.all[agent]);
        let worker = &mut self.workers.all[agent];
        (worker.unavailable, worker.draining, worker.tenure) = (unavailable, draining, tenure);
        if !old.fenced {
            worker.haunting = old.words.into_iter().map(|packet| (instance, packet)).collect();
        }
        self.history.note("agent down", &[agent as u64, instance.0], String::new);
        self.checker.agent_died(agent, instance, !called);
        let home = self.home(agent);
        self.input(home, Input::AgentDown { agent: agent_index(agent), detail: "killed" });
        self.has_gone(agent);
    }

    /// A fenced agent is ended; a hung one goes on or is ended.
    pub(super) fn supervise(&mut self, agent: usize) {
        let worker = &mut self.workers.all[agent];
        if worker.fenced {
            self.agent_dies(agent);
        } else if worker.hung {
            worker.hung = false;
            if self.random.bool() {
                self.agent_dies(agent);
            }
        }
    }

    /// The same where nothing goes wrong any more.
    pub(super) fn supervise_gently(&mut self, agent: usize) {
        self.workers.all[agent].hung = false;
        if self.workers.all[agent].fenced {
            self.agent_dies(agent);
        }
    }

    pub(super) fn agent_hangs(&mut self, agent: usize) {
        self.workers.all[agent].hung = true;
    }

    pub(super) fn quarantine(&mut self, agent: usize) {
        self.workers.all[agent].tenure = Standing::Serving;
        self.agent_dies(agent);
        let worker = &mut self.workers.all[agent];
        (worker.unavailable, worker.draining) = (true, false);
        self.vacate(agent);
        self.history.note("unavailable", &[agent as u64], String::new);
        self.all_hear(agent, |agent| Input::AgentUnavailable { agent, detail: "killed too often" });
    }

    pub(super) fn all_hear(&mut self, agent: usize, input: impl Fn(AgentIndex) -> Input<'static>) {
        for shard in 0..self.constants.swarm.shards {
            self.input(shard, input(agent_index(agent)));
        }
    }

    /// It gets nothing more; others of its pool do, or all waits. One that drains already is told to finish.
    pub(super) fn agent_drains(&mut self, agent: usize) {
        let worker = &self.workers.all[agent];
        let serves_one = self.constants.swarm.serves_one(agent);
        if worker.unavailable || (serves_one && !(worker.instance.is_some() && worker.attached)) {
            return;
        }
        self.history.note("drains", &[agent as u64], String::new);
        if std::mem::replace(&mut self.workers.all[agent].draining, true) {
            let home = self.home(agent);
            return self.input(home, Input::FinishAgent { agent: agent_index(agent) });
        }
        let takes = |(_, worker): &(usize, &Worker)| !worker.unavailable && !worker.draining;
        let pool = self.constants.swarm.pool;
        let mut members = self.workers.all.iter().enumerate().take(pool);
        let others = agent < pool && members.any(|member| takes(&member)) && self.random.bool();
        // Any member may be started for a session.
        let others = (others || serves_one).then_some("it goes");
        self.all_hear(agent, |agent| Input::AgentDraining { agent, others });
    }

    pub(super) fn agent_shares(&mut self, agent: usize) {
        if self.constants.swarm.serves_one(agent) {
            return;
        }
        self.history.note("shares", &[agent as u64], String::new);
        let home = self.home(agent);
        self.input(home, Input::ShareAgent { agent: agent_index(agent) });
    }

    pub(super) fn expect(&mut self, agent: usize) {
        if !std::mem::take(&mut self.workers.all[agent].unavailable) {
            return;
        }
        self.history.note("expected", &[agent as u64], String::new);
        self.all_hear(agent, |agent| Input::AgentExpected { agent });
    }
}
