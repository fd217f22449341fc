//! What the control thread tells a shard, and what it hears from it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use shm_transport::envelope::SkillOutcome;
use shm_transport::link::Link;
use shm_transport::record::Poison;

use crate::core::{CoreLimits, ShardCore};
use crate::dead_letters::Selection;
use crate::event::{AgentIndex, Input, InstanceId, ShardIndex, Tenant, Tenure};
use crate::events::{Event, EventMask};
use crate::heartbeat::HeartbeatLimits;
use crate::journal::entry::JournalState;
use crate::routing::RoutingTable;

/// A question to the core of a shard, asked on its thread. It must be short: everybody else waits.
pub struct Question(pub Box<dyn FnOnce(&ShardCore) + Send>);

impl std::fmt::Debug for Question {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Question")
    }
}

/// Names a listener to events. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct ListenerId(pub u64);

/// Whether a listener wants to be told of more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listening {
    /// It does.
    Goes,
    /// It does not.
    Ends,
}

/// Is told of events, on the thread of the shard. It copies what it needs and does not wait.
pub struct Listener(pub Box<dyn FnMut(&Event<'_>) -> Listening + Send>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Listener")
    }
}

/// What the control thread says about an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentWord {
    /// It will not come back for now, for this reason, as a sentence.
    Unavailable(String),
    /// It was unavailable or drained, and is expected again.
    Expected,
    /// It gets no new turns, ends those it has, and is told to finish then.
    Drain {
        /// If others take what is for it: why it does not, as a sentence. Else that waits for its next incarnation.
        others: Option<String>,
    },
    /// It serves one session at a time and has no process: it is started for the next one.
    Rests,
    /// Whom it serves.
    Serves(Tenant),
    /// What waits for it is routed anew: others have less to do.
    Share,
    /// It drains and has had its time: it is told to finish with turns in its hands.
    Finish,
}

impl AgentWord {
    /// As its core hears it.
    pub fn as_input(&self, agent: AgentIndex) -> Input<'_> {
        match self {
            Self::Unavailable(detail) => Input::AgentUnavailable { agent, detail },
            Self::Expected => Input::AgentExpected { agent },
            Self::Drain { others } => Input::AgentDraining { agent, others: others.as_deref() },
            Self::Rests => Input::AgentRests { agent },
            &Self::Serves(tenant) => Input::AgentServes { agent, tenant },
            Self::Share => Input::ShareAgent { agent },
            Self::Finish => Input::FinishAgent { agent },
        }
    }
}

/// What the control thread tells a shard.
#[derive(Debug)]
pub enum Command {
    /// A new incarnation of an agent.
    Attach {
        /// Which agent.
        agent: AgentIndex,
        /// The incarnation.
        instance: InstanceId,
        /// Its rings. Boxed: the other commands are small.
        link: Box<Link>,
        /// The eventfd it rings.
        doorbell: OwnedFd,
        /// How long it may take to say its first words.
        start_timeout: Duration,
    },
    /// These incarnations, of agents of whatever shards, have outlived an earlier gateway. Each will be adopted or
    /// reported down by the shard of its agent; what was open before is not given out before that, as far as they may
    /// have it. Only as the very first command.
    Adopting {
        /// Each with its agent.
        instances: Vec<(AgentIndex, InstanceId)>,
    },
    /// An incarnation that has outlived an earlier gateway, with rings that one has used.
    Adopt {
        /// Which agent.
        agent: AgentIndex,
        /// The incarnation.
        instance: InstanceId,
        /// Its rings, taken over. Boxed: the other commands are small.
        link: Box<Link>,
        /// The eventfd it rings.
        doorbell: OwnedFd,
        /// How long it may take to say anything, if it has not yet.
        start_timeout: Duration,
    },
    /// An incarnation is gone; another will follow.
    Down {
        /// Which agent.
        agent: AgentIndex,
        /// The incarnation.
        instance: InstanceId,
        /// What happened, as a sentence.
        detail: String,
    },
    /// Something about an agent, of whatever shard.
    Agent {
        /// Which agent.
        agent: AgentIndex,
        /// What.
        word: AgentWord,
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
        output: String,
    },
    /// Another table says from now on who gets what.
    // Arc: all shards read one table.
    Routes(Arc<RoutingTable>),
    /// What holds from now on, as far as it [can be changed](ShardCore::take_limits). Boxed: the other commands are small.
    Limits(Box<CoreLimits>),
    /// How patient the shard is with agents that say nothing, from their next look on.
    Patience(HeartbeatLimits),
    /// Tells a listener of events, until it wants no more.
    Subscribe {
        /// How [`Command::Unsubscribe`] names it.
        id: ListenerId,
        /// Which events.
        mask: EventMask,
        /// The listener.
        listener: Listener,
    },
    /// Tells a listener of nothing more. One that is not there any more need not be.
    Unsubscribe(ListenerId),
    /// Tries dead letters again.
    ReplayDeadLetters(Selection),
    /// Drops dead letters.
    DropDeadLetters(Selection),
    /// Asks something of the core.
    Ask(Question),
    /// Tell all agents to finish.
    StopAgents,
    /// End the thread.
    End,
}

/// What a shard tells the control thread.
#[derive(Debug)]
pub enum Notice {
    /// An agent has said its first words.
    AgentReady {
        /// Which incarnation.
        instance: InstanceId,
        /// What it says of its software; empty if nothing.
        software: String,
    },
    /// An agent that was adopted has said what it works on.
    AgentAdopted {
        /// Which incarnation.
        instance: InstanceId,
    },
    /// An agent asks for a skill. [`Command::SkillEnded`] answers.
    Skill {
        /// Which incarnation.
        instance: InstanceId,
        /// Its number for it.
        call: u64,
        /// The name of the skill.
        skill: String,
        /// What it is to read.
        input: String,
    },
    /// An agent that serves one session at a time begins to serve one, or ends it.
    AgentTenure {
        /// Which agent.
        agent: AgentIndex,
        /// What has become of it.
        tenure: Tenure,
    },
    /// An agent broke the rules of its ring, and is not listened to any more.
    AgentFenced {
        /// Which incarnation.
        instance: InstanceId,
        /// What it did.
        poison: Poison,
    },
    /// An agent gives no sign of life, and is not listened to any more, whatever it says later.
    AgentHung {
        /// Which incarnation.
        instance: InstanceId,
        /// For how long it has given none, since it was asked.
        silent: Duration,
    },
    /// An agent has not said its first words in time, and is not listened to any more.
    AgentMute {
        /// Which incarnation.
        instance: InstanceId,
        /// How long it has had.
        waited: Duration,
    },
    /// The journal of this shard can write, or cannot.
    Journal {
        /// Which shard.
        shard: ShardIndex,
        /// How it is now.
        state: JournalState,
    },
}
