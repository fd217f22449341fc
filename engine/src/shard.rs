//! The rings around a core: what both drivers share.
//!
//! A turn of the loop: take commands, receive from the journal, edges, shards and *hot* agents (a bounded number of
//! records each), let the core decide, write its effects into rings, then publish all batches and release
//! all records at once. Those of agents stay until the journal has what follows from them (`shard/agents.rs`).
//!
//! An agent is hot while it is expected to talk; its ring is then looked at on every turn and needs no
//! doorbell. A cold agent's ring is armed: its next message rings the agent's own eventfd, and the driver
//! calls [`Shard::rung`]. So a shard with hundreds of idle agents looks at none of them.
//!
//! # Back-pressure
//!
//! A full ring to an edge or a shard makes a backlog. Above [`BACKLOG_HIGH_BYTES`] the shard stops reading
//! whoever could add to it: agents (and other shards) while an edge is behind, edges and agents while
//! another shard is behind. What other shards send is only held back by edges, which always catch up, so
//! no two shards can wait for each other. While the journal is behind, nobody but the journal is read: each of the
//! others could add to its backlog. What may be on its way to an agent is bounded by its credit.

mod agents;
mod beats;
mod commands;
mod outputs;
mod sleep;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_channel::Receiver as Mailbox;
use shm_transport::envelope::Message;
use shm_transport::link::{Link, Receiver};
use shm_transport::ports::EdgePorts;
use shm_transport::record::Poison;
use tokio::sync::mpsc::UnboundedSender as Notices;

use crate::core::ShardCore;
use crate::event::{AgentIndex, EdgeIndex, Input, InstanceId, ShardIndex};
use crate::heartbeat::{HeartbeatLimits, Heartbeats};
use crate::journal::entry::{JournalState, Progress as JournalProgress};
use crate::stats::SharedCounters;
use crate::time::Moment;
use agents::{AgentInput, QUIET_SLEEPS_MAX};
pub use agents::{DEAF_MAX, DEAF_MIN, EMPTY_RINGS_MAX, NewDoorbell};
pub use commands::{AgentWord, Command, Listener, ListenerId, Listening, Notice, Question};
pub use outputs::SKILL_BACKLOG_BYTES_MAX;
use outputs::{Outputs, taken};

/// Records taken from one ring in one turn of the loop.
pub const RECORDS_PER_TURN: usize = 128;
/// Backlog towards an edge or a shard from which on its sources are not read.
pub const BACKLOG_HIGH_BYTES: usize = 1024 * 1024;
/// Commands taken in one turn of the loop.
const COMMANDS_PER_TURN: usize = 64;
/// What the loop should do after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Something was done: go on.
    Busy,
    /// There was nothing to do.
    Idle,
    /// The thread was told to end.
    Ended,
}

/// A shard without its thread.
#[derive(Debug)]
pub struct Shard {
    core: ShardCore,
    index: ShardIndex,
    journal: Receiver,
    journal_state: JournalState,
    edges: Vec<Receiver>,
    shards: Vec<Option<Receiver>>,
    agents: HashMap<InstanceId, AgentInput>,
    hot: Vec<InstanceId>,
    heartbeats: Heartbeats,
    outputs: Outputs,
    mailbox: Mailbox<Command>,
    new_doorbells: Vec<NewDoorbell>,
    gone_doorbells: Vec<InstanceId>,
    // Arc: pages and the control thread read the counters.
    counters: Arc<SharedCounters>,
    bell: Arc<OwnedFd>,
    /// Told to end; stays true, so that no driver can miss it.
    ended: bool,
    /// Whether what the journal held has been given out.
    begun: bool,
}

impl Shard {
    /// Puts a core, to which everything in its journal has been told, between its rings.
    pub fn new(
        core: ShardCore,
        ports: EdgePorts,
        journal: Link,
        mailbox: Mailbox<Command>,
        notices: Notices<Notice>,
        counters: Arc<SharedCounters>,
        heartbeat: HeartbeatLimits,
    ) -> Self {
        let (edge_senders, edges) = ports.edges.into_iter().map(|link| (link.sender, link.receiver)).unzip();
        let (shard_senders, shards) = ports
            .shards
            .into_iter()
            .map(|link| link.map_or((None, None), |link| (Some(link.sender), Some(link.receiver))))
            .unzip();
        let outputs = Outputs {
            journal: journal.sender,
            listeners: Vec::new(),
            edges: edge_senders,
            shards: shard_senders,
            agents: HashMap::new(),
            touched: Vec::new(),
            releases: Vec::new(),
            fenced: Vec::new(),
            notices,
        };
        Self {
            index: core.index(),
            core,
            journal: journal.receiver,
            journal_state: JournalState::Writing,
            edges,
            shards,
            agents: HashMap::new(),
            hot: Vec::new(),
            heartbeats: Heartbeats::new(heartbeat),
            outputs,
            mailbox,
            new_doorbells: Vec::new(),
            gone_doorbells: Vec::new(),
            counters,
            bell: ports.bell,
            ended: false,
            begun: false,
        }
    }

    /// The eventfd that edges, shards and the control thread ring.
    pub fn bell(&self) -> &Arc<OwnedFd> {
        &self.bell
    }

    /// Doorbells that the driver has to listen to from now on.
    pub fn take_new_doorbells(&mut self) -> Vec<NewDoorbell> {
        std::mem::take(&mut self.new_doorbells)
    }

    /// Incarnations whose doorbells nobody needs to hear any more.
    pub fn take_gone_doorbells(&mut self) -> Vec<InstanceId> {
        std::mem::take(&mut self.gone_doorbells)
    }

    /// When a turn is due even if nothing happens.
    pub fn next_deadline(&self) -> Option<Moment> {
        [self.core.next_deadline(), self.heartbeats.next_look()].into_iter().flatten().min()
    }

    /// One turn of the loop.
    ///
    /// HOT: no allocation, lock or log line per message; a syscall only to wake somebody who sleeps.
    pub fn turn(&mut self, now: Moment) -> Progress {
        let mut work = if self.begun { 0 } else { self.begin(now) };
        work += self.take_commands(now);
        if self.ended {
            return Progress::Ended;
        }
        work += self.receive_journal(now);
        if self.core.next_deadline().is_some_and(|deadline| deadline <= now) {
            self.core.on(now, Input::Tick, &mut |effect| self.outputs.apply(effect));
        }
        work += self.receive_internal(now);
        work += self.receive_agents(now);
        self.flush(now);
        if self.heartbeats.next_look().is_some_and(|look| look <= now) {
            self.look_at_beats(now);
        }
        if work == 0 {
            return Progress::Idle;
        }
        self.counters.publish(&self.core.counters());
        Progress::Busy
    }

    /// What the journal held is given out, but for what agents may have that have outlived an earlier gateway.
    fn begin(&mut self, now: Moment) -> usize {
        self.begun = true;
        let first = self.mailbox.try_recv().ok();
        let work = usize::from(first.is_some());
        let other = match first {
            Some(Command::Adopting { instances }) => {
                let agents: Vec<AgentIndex> = instances.iter().map(|&(agent, _)| agent).collect();
                self.input(now, Input::Adopting(&agents));
                None
            }
            other => other,
        };
        self.input(now, Input::RecoveryEnds);
        if let Some(command) = other {
            self.command(now, command);
        }
        work
    }

    fn take_commands(&mut self, now: Moment) -> usize {
        let mut count = 0;
        while count < COMMANDS_PER_TURN && !self.ended {
            let Ok(command) = self.mailbox.try_recv() else { break };
            count += 1;
            self.command(now, command);
        }
        count
    }

    fn command(&mut self, now: Moment, command: Command) {
        match command {
            Command::End => self.ended = true,
            Command::StopAgents => {
                self.heartbeats.stop();
                self.input(now, Input::StopAgents);
            }
            Command::Adopting { .. } => debug_assert!(false, "this is the first command, or comes too late"),
            Command::Adopt { agent, instance, link, doorbell, start_timeout } => {
                // Who has not attached to its rings has nothing.
                let attached = link.peer_has_attached();
                self.attach(now, instance, *link, doorbell, start_timeout);
                if attached {
                    self.input(now, Input::AgentAdopted { agent, instance });
                } else {
                    self.input(now, Input::AgentUp { agent, instance });
                    self.outputs.notify(Notice::AgentAdopted { instance });
                }
            }
            Command::Attach { agent, instance, link, doorbell, start_timeout } => {
                self.attach(now, instance, *link, doorbell, start_timeout);
                self.input(now, Input::AgentUp { agent, instance });
            }
            Command::Down { agent, instance, detail } => {
                self.hear_last_words(now, instance);
                self.detach(instance);
                self.input(now, Input::AgentDown { agent, detail: &detail });
            }
            Command::SkillEnded { instance, call, outcome, output } => {
                self.input(now, Input::SkillEnded { instance, call, outcome, output: &output });
            }
            Command::Agent { agent, word } => self.input(now, word.as_input(agent)),
            Command::Routes(routes) => self.input(now, Input::Routes(routes)),
            Command::Limits(limits) => self.core.take_limits(&limits),
            Command::Patience(limits) => self.heartbeats.set_limits(now, limits),
            Command::Subscribe { id, mask, listener } => {
                self.outputs.listeners.push((id, mask, listener));
                let mask = self.outputs.wanted();
                self.input(now, Input::Subscribe(mask));
            }
            Command::Unsubscribe(id) => {
                self.outputs.listeners.retain(|&(each, ..)| each != id);
                let mask = self.outputs.wanted();
                self.input(now, Input::Subscribe(mask));
            }
            Command::ReplayDeadLetters(selection) => {
                self.input(now, Input::ReplayDeadLetters(selection));
            }
            Command::DropDeadLetters(selection) => self.input(now, Input::DropDeadLetters(selection)),
            Command::Ask(Question(question)) => question(&self.core),
        }
    }

    fn input(&mut self, now: Moment, input: Input<'_>) {
        self.core.on(now, input, &mut |effect| self.outputs.apply(effect));
    }

    /// Receives how far the journal is.
    fn receive_journal(&mut self, now: Moment) -> usize {
        let Self { core, journal, outputs, journal_state, index, .. } = self;
        let each = |message: Message<'_>| {
            let Some(progress) = JournalProgress::from_route(message.route) else {
                unreachable!("the journal thread is of this build");
            };
            if progress.state != std::mem::replace(journal_state, progress.state) {
                outputs.notify(Notice::Journal { shard: *index, state: progress.state });
            }
            core.on(now, Input::Journaled(progress), &mut |effect| outputs.apply(effect));
        };
        trusted(journal.receive(RECORDS_PER_TURN, each), "the journal", 0)
    }

    /// Receives from edge threads and other shards.
    fn receive_internal(&mut self, now: Moment) -> usize {
        let Self { core, edges, shards, outputs, .. } = self;
        let mut work = 0;
        if outputs.journal_behind() {
            return 0;
        }
        if !outputs.shards_behind() {
            for (index, receiver) in edges.iter_mut().enumerate() {
                let edge = EdgeIndex(index as u8);
                let each = |message: Message<'_>| {
                    core.on(now, Input::FromEdge { edge, message }, &mut |effect| outputs.apply(effect));
                };
                work += trusted(receiver.receive(RECORDS_PER_TURN, each), "edge", index);
            }
        }
        if !outputs.edges_behind() {
            for (index, receiver) in shards.iter_mut().enumerate() {
                let Some(receiver) = receiver else { continue };
                let shard = ShardIndex(index as u8);
                let each = |message: Message<'_>| {
                    core.on(now, Input::FromShard { shard, message }, &mut |effect| outputs.apply(effect));
                };
                work += trusted(receiver.receive(RECORDS_PER_TURN, each), "shard", index);
            }
        }
        work
    }

    /// The rings from threads of this process.
    fn internal(&mut self) -> impl Iterator<Item = &mut Receiver> {
        let Self { journal, edges, shards, .. } = self;
        std::iter::once(journal).chain(edges).chain(shards.iter_mut().flatten())
    }

    /// Publishes and releases everything of this turn.
    fn flush(&mut self, now: Moment) {
        for sender in self.outputs.internal() {
            taken(sender.flush(), "a thread of this process");
        }
        let mut touched = std::mem::take(&mut self.outputs.touched);
        for instance in touched.drain(..) {
            self.flush_agent(instance);
            self.warm(instance);
            self.heartbeats.work_given(now);
        }
        self.outputs.touched = touched;
        for receiver in self.internal() {
            receiver.release();
        }
        self.release_agents();
        for index in 0..self.hot.len() {
            let instance = self.hot[index];
            // What waited for room may go out now.
            if self.outputs.agents.get(&instance).is_some_and(|sender| sender.backlog_bytes() > 0) {
                self.flush_agent(instance);
            }
        }
        while let Some((instance, poison)) = self.outputs.fenced.pop() {
            if self.agents.contains_key(&instance) {
                self.detach(instance);
                self.outputs.notify(Notice::AgentFenced { instance, poison });
            }
        }
    }
}

/// Rings inside the process are written by us: a broken one is a bug, and going on would lose messages.
fn trusted(received: Result<usize, Poison>, peer: &str, index: usize) -> usize {
    received.unwrap_or_else(|poison| panic!("the ring from {peer} {index} is broken: {poison}"))
}

#[cfg(test)]
mod tests;
