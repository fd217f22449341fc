//! The agents: processes that read a ring, work on several turns at once, and write another ring; not all of them well.

use std::collections::VecDeque;

use engine::event::{AgentIndex, Input, InstanceId};
use fastrand::Rng;
use shm_transport::envelope::{
    BlockV1, Body, Encoder, EndV1, FailureCode, FailureV1, HelloV1, Kind, Opened, Route,
};

use super::checker::text::{Said, Word};
use super::packet::Packet;
use super::swarm::Swarm;
use super::world::{World, agent_index};

/// Last words that are remembered, to be said again.
const SAID_MAX: usize = 8;

/// A turn that an agent works on.
#[derive(Debug)]
struct Work {
    route: Route,
    message: u32,
    poison: bool,
    blocks: u32,
    blocks_left: u32,
    cancelled: bool,
    bytes: usize,
}

/// One agent.
#[derive(Debug, Default)]
struct Worker {
    instance: Option<InstanceId>,
    hung: bool,
    fenced: bool,
    unavailable: bool,
    /// The shards were told to give it nothing more.
    draining: bool,
    /// It was told to finish.
    stopping: bool,
    /// Whether this gateway has attached it.
    attached: bool,
    /// Whether it has outlived a gateway, and this one has not heard what it works on.
    called: bool,
    ring: VecDeque<Packet>,
    work: Vec<Work>,
    /// What it has said, from the first word whose room was not given back on.
    words: VecDeque<Packet>,
    /// How many of these this gateway has read.
    read: usize,
    /// How many were given back before them, ever.
    given_back: u64,
    /// Up to which word this gateway's shard was told that it has read.
    told: u64,
    /// Last words, for repetition.
    said: VecDeque<Packet>,
    /// What a dead incarnation had written and nobody had read.
    haunting: VecDeque<(InstanceId, Packet)>,
}

/// All agents.
#[derive(Debug)]
pub(super) struct Workers {
    all: Vec<Worker>,
    next_instance: u64,
    encoder: Encoder,
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
            Opened::RollCall => {
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
        if worker.attached || worker.unavailable || self.gateway.is_none() {
            return;
        }
        worker.attached = true;
        if std::mem::take(&mut worker.draining) {
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
        let Worker { unavailable, draining, called, .. } = self.workers.all[agent];
        let old = std::mem::take(&mut self.workers.all[agent]);
        let worker = &mut self.workers.all[agent];
        (worker.unavailable, worker.draining) = (unavailable, draining);
        if !old.fenced {
            worker.haunting = old.words.into_iter().map(|packet| (instance, packet)).collect();
        }
        self.history.note("agent down", &[agent as u64, instance.0], String::new);
        self.checker.agent_died(agent, instance, !called);
        let home = self.home(agent);
        self.input(home, Input::AgentDown { agent: agent_index(agent), detail: "killed" });
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

    /// It talks of turns of others, or of nothing, or in kinds that are not its own.
    pub(super) fn agent_lies(&mut self, agent: usize) {
        let own: Vec<u64> = self.workers.all[agent].work.iter().map(|work| work.route.turn).collect();
        let waiting: Vec<u64> = self.workers.all[agent].ring.iter().map(|packet| packet.route.turn).collect();
        let others = self.checker.some_turn(&mut self.random);
        let worker = &mut self.workers.all[agent];
        if !worker.attached || worker.fenced {
            return;
        }
        let called = worker.called;
        let turn =
            others.filter(|turn| !own.contains(turn) && !waiting.contains(turn)).unwrap_or(u64::MAX >> 9);
        // A lie about a turn that it really holds cannot be told from work.
        if self.checker.holds(agent, turn) {
            return;
        }
        // Nor, after the death of a gateway, one about a turn that it may have held.
        if called && self.checker.is_for(turn, agent) {
            return;
        }
        let route = Route { turn, attempt: 1, ..Route::default() };
        let packet = match self.random.u8(..16) {
            0 => Packet::new(route, Body::STOP),
            1 => Packet::new(route, Body::JOURNALED),
            2 => Packet::new(route, Body::ACCEPTED),
            3 => Packet::new(route, Body::WORKING),
            4..8 => Packet::of(
                &mut self.workers.encoder,
                route,
                &BlockV1 { block_type: 0, content: "a lie".into() },
            ),
            _ => Packet::of(&mut self.workers.encoder, route, &EndV1 { content: "a lie".into() }),
        };
        // Read at once: later it might hold the turn.
        if packet.kind() == Kind::Block || packet.kind() == Kind::End {
            let Some(instance) = self.workers.all[agent].instance else { return };
            return self.hear_from_agent(agent, instance, &packet);
        }
        self.workers.all[agent].words.push_back(packet);
    }

    /// It says again what it has said before.
    pub(super) fn agent_repeats(&mut self, agent: usize) {
        let worker = &mut self.workers.all[agent];
        if worker.said.is_empty() || !worker.attached || worker.called {
            return;
        }
        let at = self.random.usize(..worker.said.len());
        let packet = worker.said[at].clone();
        let Some(instance) = worker.instance.filter(|_| !worker.fenced) else { return };
        // The same turn may be in its hands again, for another attempt: then it would be no repetition, but wrong work.
        if !self.checker.holds(agent, packet.route.turn) {
            self.hear_from_agent(agent, instance, &packet);
        }
    }

    /// Words of an incarnation that is dead are read after all.
    pub(super) fn agent_haunts(&mut self, agent: usize) {
        if let Some((instance, packet)) = self.workers.all[agent].haunting.pop_front() {
            self.hear_from_agent(agent, instance, &packet);
        }
    }

    pub(super) fn quarantine(&mut self, agent: usize) {
        self.agent_dies(agent);
        let worker = &mut self.workers.all[agent];
        (worker.unavailable, worker.draining) = (true, false);
        self.history.note("unavailable", &[agent as u64], String::new);
        self.all_hear(agent, |agent| Input::AgentUnavailable { agent, detail: "killed too often" });
    }

    fn all_hear(&mut self, agent: usize, input: impl Fn(AgentIndex) -> Input<'static>) {
        for shard in 0..self.constants.swarm.shards {
            self.input(shard, input(agent_index(agent)));
        }
    }

    /// It gets nothing more; others of its pool do, or all waits. One that drains already is told to finish.
    pub(super) fn agent_drains(&mut self, agent: usize) {
        if self.workers.all[agent].unavailable {
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
        let others = others.then_some("it goes");
        self.all_hear(agent, |agent| Input::AgentDraining { agent, others });
    }

    pub(super) fn agent_shares(&mut self, agent: usize) {
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
