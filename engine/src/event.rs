//! What can wake a shard, and what it can do about it: two closed enums.

use std::sync::Arc;

use shm_transport::envelope::{Body, Message, Route, SkillOutcome};
use shm_transport::record::Poison;

use crate::dead_letters::Selection;
use crate::events::{Event, EventMask};
use crate::journal::entry::{Entry, IdEntry, Progress};
use crate::routing::RoutingTable;

/// Names a shard, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct ShardIndex(pub u8);

/// Names an edge thread, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct EdgeIndex(pub u8);

/// Names an agent definition by its place in the agent table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct AgentIndex(pub u32);

impl AgentIndex {
    /// No agent yet.
    pub const NONE: Self = Self(u32::MAX);

    /// The shard on which the agent lives.
    pub fn home(self, shard_count: u8) -> ShardIndex {
        ShardIndex((self.0 % u32::from(shard_count.max(1))) as u8)
    }
}

/// Names one incarnation of an agent process. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct InstanceId(pub u64);

/// Whom an agent serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tenant {
    /// Whoever comes.
    #[default]
    Everybody,
    /// One session at a time, and none now: its process has served nobody.
    Nobody,
    /// The session with this hash.
    Session(u64),
    /// One session, but which one only an earlier gateway knew.
    Unknown,
}

/// What becomes of the service of an agent that serves one session at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tenure {
    /// It serves the session with this hash from now on. Its process is to be started, if it has none.
    Begun(u64),
    /// The session with this hash does not need it any more.
    Over(u64),
    /// It has outlived a gateway and works on nothing, so nobody knows whom it has served.
    Lost,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A client's message, or that nobody waits for one any more, from an edge thread.
    FromEdge {
        /// Which edge thread.
        edge: EdgeIndex,
        /// What it says.
        message: Message<'a>,
    },
    /// A message or a piece of a reply, from another shard.
    FromShard {
        /// Which shard.
        shard: ShardIndex,
        /// What it says.
        message: Message<'a>,
    },
    /// Something an agent said.
    FromAgent {
        /// Which incarnation.
        instance: InstanceId,
        /// What it says.
        message: Message<'a>,
    },
    /// How far the journal is.
    Journaled(Progress),
    /// All that was read from an agent's ring up to this position has been told.
    AgentRead {
        /// Which incarnation.
        instance: InstanceId,
        /// The position, which comes back in [`Effect::Release`].
        until: u64,
    },
    /// Agents, of whatever shards, have outlived an earlier gateway, and will be adopted or go down: before
    /// [`Input::RecoveryEnds`].
    Adopting(&'a [AgentIndex]),
    /// An incarnation that has outlived an earlier gateway is attached to this shard. It is told what waits when it has
    /// said what it works on.
    AgentAdopted {
        /// Which agent.
        agent: AgentIndex,
        /// The incarnation.
        instance: InstanceId,
    },
    /// A new incarnation of an agent of this shard is attached.
    AgentUp {
        /// Which agent.
        agent: AgentIndex,
        /// The incarnation.
        instance: InstanceId,
    },
    /// An incarnation is gone; another will follow.
    AgentDown {
        /// Which agent.
        agent: AgentIndex,
        /// What happened, as a sentence.
        detail: &'a str,
    },
    /// An agent, of whatever shard, will not come back for now.
    AgentUnavailable {
        /// Which agent.
        agent: AgentIndex,
        /// Why, as a sentence.
        detail: &'a str,
    },
    /// An agent, of whatever shard, that was unavailable is expected again.
    AgentExpected {
        /// Which agent.
        agent: AgentIndex,
    },
    /// An agent, of whatever shard, gets no new turns, ends those it has, and is told to finish then.
    AgentDraining {
        /// Which agent.
        agent: AgentIndex,
        /// If others take what is for it: why it does not, as a sentence. Else that waits for its next incarnation.
        others: Option<&'a str>,
    },
    /// An agent, of whatever shard, that serves one session at a time has no process: it is started for the next one.
    AgentRests {
        /// Which agent.
        agent: AgentIndex,
    },
    /// Whom an agent, of whatever shard, serves that serves one session at a time.
    AgentServes {
        /// Which agent.
        agent: AgentIndex,
        /// Whom.
        tenant: Tenant,
    },
    /// What has come of a skill that an agent of this shard has asked for.
    SkillEnded {
        /// Which incarnation has asked.
        instance: InstanceId,
        /// Its number for it.
        call: u64,
        /// What has come of it.
        outcome: SkillOutcome,
        /// What the skill has said, or a sentence.
        output: &'a str,
    },
    /// What waits for an agent of this shard is routed anew: others have less to do.
    ShareAgent {
        /// Which agent.
        agent: AgentIndex,
    },
    /// An agent of this shard that drains has had its time: it is told to finish with turns in its hands.
    FinishAgent {
        /// Which agent.
        agent: AgentIndex,
    },
    /// Another table says from now on who gets what.
    // Arc: all shards read one table.
    Routes(Arc<RoutingTable>),
    /// Somebody listens to these events from now on.
    Subscribe(EventMask),
    /// Somebody asks for dead letters to be tried again.
    ReplayDeadLetters(Selection),
    /// Somebody asks for dead letters to be dropped.
    DropDeadLetters(Selection),
    /// Something found in the journal; before everything else, in the order of the log.
    Recovered(Recovered<'a>),
    /// The journal has been read: work may begin.
    RecoveryEnds,
    /// Tell all agents of this shard to finish.
    StopAgents,
    /// Time has passed.
    Tick,
}

/// Something found in the journal.
#[derive(Clone, Copy, Debug)]
pub enum Recovered<'a> {
    /// A record of a log.
    Record {
        /// Its number.
        sequence: u64,
        /// When it was written, Unix milliseconds.
        at_ms: u64,
        /// What it says.
        entry: Entry,
        /// The body. Checked: a file is input.
        message: Message<'a>,
    },
    /// A record of a turn that began and ended longer ago than replies are kept: its id and its place in the session's
    /// stream are what is left of it.
    Settled {
        /// Its number.
        sequence: u64,
        /// When it was written, Unix milliseconds.
        at_ms: u64,
        /// What it says.
        entry: Entry,
        /// Bytes of its body.
        body_bytes: usize,
    },
    /// First of all: what follows is of logs that are replaced. What is still needed is written to the new one.
    Replaced,
    /// The id of a message that has been answered.
    Id(IdEntry),
    /// The next record will have this number.
    NextSequence(u64),
}

/// What to do about it. Bodies are borrowed from the input or from the core, and end with the call.
#[derive(Clone, Copy, Debug)]
pub enum Effect<'a> {
    /// Send to an edge thread.
    ToEdge {
        /// Which.
        edge: EdgeIndex,
        /// Its routing words; `session` is the place in the session's stream.
        route: Route,
        /// What it says.
        body: Body<'a>,
    },
    /// Send to another shard.
    ToShard {
        /// Which.
        shard: ShardIndex,
        /// Its routing words.
        route: Route,
        /// What it says.
        body: Body<'a>,
    },
    /// Send to an agent.
    ToAgent {
        /// Which incarnation.
        instance: InstanceId,
        /// Its routing words.
        route: Route,
        /// What it says.
        body: Body<'a>,
    },
    /// Write to the journal.
    Journal {
        /// What to keep.
        entry: Entry,
        /// What it says.
        body: Body<'a>,
    },
    /// Tell whoever listens.
    Event(Event<'a>),
    /// An agent has said its first words.
    AgentReady {
        /// Which incarnation.
        instance: InstanceId,
        /// What it says of its software; empty if that is no word of reasonable length.
        software: &'a str,
    },
    /// An agent that was adopted has said what it works on.
    AgentAdopted {
        /// Which incarnation.
        instance: InstanceId,
    },
    /// An agent asks for a skill. [`Input::SkillEnded`] answers.
    Skill {
        /// Which incarnation.
        instance: InstanceId,
        /// Its number for it.
        call: u64,
        /// The name of the skill.
        skill: &'a str,
        /// What it is to read.
        input: &'a str,
    },
    /// An agent that serves one session at a time begins to serve one, or ends it.
    AgentTenure {
        /// Which agent.
        agent: AgentIndex,
        /// What has become of it.
        tenure: Tenure,
    },
    /// What was read from an agent's ring up to this position is kept, and not needed there any more.
    Release {
        /// Which incarnation.
        instance: InstanceId,
        /// The position, as [`Input::AgentRead`] gave it.
        until: u64,
    },
    /// An agent broke the rules of its ring: nothing further may be read from it.
    Fence {
        /// Which incarnation.
        instance: InstanceId,
        /// What it did.
        poison: Poison,
    },
}
