//! What a seed chooses: sizes, limits, which faults happen and how often.
//!
//! Each seed enables some of the faults only. A run with all of them at once never gets far enough for the rare
//! combination of two.

use std::time::Duration;

use engine::breaker::BreakerLimits;
use engine::classes::QueueLimits;
use engine::core::{CoreLimits, LogLimits};
use engine::dead_letters::DeadLetterLimits;
use engine::dedup::DedupLimits;
use engine::journal::segment::SEGMENT_BYTES_MIN;
use engine::journal::writer::LogOptions;
use engine::retry::{Jitter, RetryPolicy};
use engine::session::SessionLimits;
use engine::supervision::pool::PoolLimits;
use fastrand::Rng;
use shm_transport::envelope::DurabilityClass;

/// Declares what a step can be, once.
macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident $usual:literal $($fault:ident)?,)*) => {
        /// What a step can be.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Action { $($(#[$doc])* $name,)* }

        /// Each with its usual weight, and whether it is a fault that a seed may do without.
        const ACTIONS: &[(Action, u32, bool)] =
            &[$((Action::$name, $usual, actions!(@fault $($fault)?)),)*];
    };
    (@fault fault) => { true };
    (@fault) => { false };
}

actions! {
    /// A client sends something new.
    Send 900,
    /// A client asks again for what it has no answer to.
    Ask 200,
    /// A client sends again what has been answered.
    Repeat 60 fault,
    /// A client sends something else under a used id.
    Reuse 30 fault,
    /// A client cancels.
    Cancel 60 fault,
    /// A client loses its connection and comes back.
    Reconnect 30 fault,
    /// A client asks for what its session said since.
    Resume 40 fault,
    /// A client does not ask any more.
    GiveUp 20 fault,
    /// An edge thread hands a message to a shard.
    EdgeSends 1400,
    /// A client reads.
    EdgeReads 2500,
    /// A shard reads from another.
    Mesh 2500,
    /// The writer of a log takes entries.
    JournalTakes 2000,
    /// A disk does something.
    Disk 3500,
    /// A shard hears from its log.
    JournalAnswers 2500,
    /// An agent reads its ring.
    AgentReads 1500,
    /// An agent works.
    AgentWorks 2500,
    /// A shard reads the ring of an agent.
    AgentSays 3000,
    /// Time passes.
    Tick 600,
    /// An agent that is down is started.
    AgentStarts 300,
    /// An agent dies.
    AgentDies 60 fault,
    /// An agent hangs for a while.
    AgentHangs 30 fault,
    /// An agent says things that it should not.
    AgentLies 60 fault,
    /// An agent says its last words again.
    AgentRepeats 60 fault,
    /// Words of a dead agent are read after all.
    AgentHaunts 60 fault,
    /// An agent is given up for now.
    Quarantine 15 fault,
    /// An agent drains, or is told to finish while it does.
    Drain 40 fault,
    /// What waits for an agent is shared with others of its pool.
    Share 40 fault,
    /// An agent that was given up is expected again.
    Expect 60,
    /// Nothing happens for long.
    Stall 15 fault,
    /// The gateway is killed.
    Kill 12 fault,
    /// The gateway is killed, and its agents live on.
    KillAlone 24 fault,
    /// The power goes.
    PowerLoss 8 fault,
    /// A bit of an old part of a log changes.
    FlipBit 4 fault,
    /// A disk is full for a while.
    DiskFills 8 fault,
    /// A disk has space again.
    DiskEmpties 60,
    /// A sync fails.
    SyncFails 3 fault,
    /// A write fails.
    WriteFails 3 fault,
    /// Somebody replays dead letters.
    Replay 40 fault,
    /// Somebody drops dead letters.
    Drop 15 fault,
    /// The control thread hears of an agent that serves one session at a time.
    ControlHears 400,
    /// The control thread looks at all of them.
    ControlLooks 60,
    /// An agent asks for a skill.
    AgentAsks 250 fault,
    /// A skill ends.
    SkillEnds 250,
}

/// What one seed is about.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// Steps of the first phase.
    pub steps: usize,
    /// Shards.
    pub shards: usize,
    /// Agents; those of the pool come first.
    pub agents: usize,
    /// Agents of the pool.
    pub pool: usize,
    /// Whether agents behind the pool serve one session at a time.
    pub conversational: bool,
    /// How many of them run.
    pub conversations: PoolLimits,
    /// How many turns each agent may hold.
    pub in_flight_max: Vec<usize>,
    /// Connections of clients.
    pub connections: usize,
    /// Sessions.
    pub sessions: usize,
    /// Out of 256 messages, how many kill their agent.
    pub poison: u8,
    /// Out of 256 messages, how many are answered with a failure.
    pub failing: u8,
    /// Bytes of padding of messages and words, at most.
    pub padding_max: usize,
    /// Whether a start of the gateway is often killed again.
    pub killed_again: bool,
    /// The cores.
    pub limits: CoreLimits,
    /// The logs.
    pub log: LogOptions,
    /// Sum of weights up to and with each action.
    weights: Vec<(u32, Action)>,
    total: u32,
}

impl Swarm {
    /// Chooses.
    pub fn new(random: &mut Rng) -> Self {
        let mut total = 0;
        let mut weights = Vec::with_capacity(ACTIONS.len());
        // Some runs have no faults of one kind, few have none at all.
        let fault_chance = random.u8(64..=230);
        for &(action, usual, fault) in ACTIONS {
            if fault && random.u8(..) > fault_chance {
                continue;
            }
            let weight = usual * random.u32(20..=200) / 100;
            total += weight.max(1);
            weights.push((total, action));
        }
        let conversational = random.bool();
        let agents = random.usize(3..=6) + if conversational { random.usize(1..=3) } else { 0 };
        let large = random.u8(..4) == 0;
        let mut swarm = Self {
            steps: random.usize(1500..=4500),
            shards: random.usize(1..=4),
            agents,
            pool: random.usize(2..agents.min(6)),
            conversational,
            conversations: PoolLimits {
                min: 0,
                max: agents,
                spares: random.usize(0..=2),
                idle_timeout: Duration::from_millis(random.u64(20..=3000)),
            },
            in_flight_max: (0..agents).map(|_| random.usize(1..=4)).collect(),
            connections: random.usize(3..=8),
            sessions: random.usize(10..=20),
            poison: if random.bool() { random.u8(1..=12) } else { 0 },
            failing: if random.bool() { random.u8(1..=60) } else { 0 },
            padding_max: if large { random.usize(10_000..=60_000) } else { random.usize(1..=400) },
            killed_again: random.u8(..4) == 0,
            limits: CoreLimits::default(),
            log: LogOptions { segment_bytes: SEGMENT_BYTES_MIN, ..LogOptions::default() },
            weights,
            total,
        };
        swarm.limits = limits(random, swarm.padding_max);
        swarm.log.ids_max = u64::from(swarm.limits.dedup.ids_max);
        swarm.log.ids_keep = Duration::from_secs(u64::from(swarm.limits.dedup.keep_s));
        swarm
    }

    /// The agents that serve one session at a time.
    pub fn members(&self) -> std::ops::Range<usize> {
        if self.conversational { self.pool..self.agents } else { self.agents..self.agents }
    }

    /// Whether an agent serves one session at a time.
    pub fn serves_one(&self, agent: usize) -> bool {
        self.members().contains(&agent)
    }

    /// What a step is.
    pub fn action(&self, random: &mut Rng) -> Action {
        let drawn = random.u32(..self.total);
        let at = self.weights.partition_point(|&(until, _)| until <= drawn);
        self.weights[at].1
    }
}

/// Small, so that each of them is met.
fn limits(random: &mut Rng, padding_max: usize) -> CoreLimits {
    let unit = padding_max + 200;
    let tight = random.bool();
    let queue = |random: &mut Rng| if tight { random.usize(2..=12) } else { 256 };
    let ids_max = if random.u8(..4) == 0 { random.u32(8..=64) } else { 1 << 20 };
    CoreLimits {
        sessions: SessionLimits {
            sessions_max: if random.u8(..4) == 0 { random.usize(4..=20) } else { 64 },
            session_queue_max: queue(random),
            dormant_after: Duration::from_secs(random.u64(1..=300)),
            expire_after: Duration::from_secs(random.u64(1..=300)),
        },
        turns_max: if tight { random.usize(8..=64) } else { 1024 },
        turn_bytes_max: if tight { unit * random.usize(8..=64) } else { 64 << 20 },
        agent_queue: QueueLimits {
            messages_max: queue(random),
            bytes_max: if tight { unit * random.usize(4..=32) } else { 64 << 20 },
        },
        in_flight_bytes_max: if tight { unit * random.usize(1..=4) } else { 4 << 20 },
        reply_bytes_max: if random.bool() { unit * random.usize(4..=40) } else { 64 << 20 },
        dedup: DedupLimits { keep_s: 24 * 60 * 60, ids_max, ids_hard_max: ids_max },
        dead_letters: DeadLetterLimits {
            letters_max: if random.u8(..3) == 0 { random.usize(1..=4) } else { 256 },
            ..DeadLetterLimits::default()
        },
        retry: RetryPolicy {
            attempts_max: random.u16(1..=5),
            base: Duration::from_millis(random.u64(1..=2000)),
            cap: Duration::from_secs(random.u64(2..=30)),
            jitter: if random.bool() { Jitter::Added } else { Jitter::Full },
        },
        breaker: BreakerLimits {
            failures_max: random.u16(1..=8),
            open_for: Duration::from_millis(random.u64(10..=2000)),
            open_for_max: Duration::from_secs(10),
            ..BreakerLimits::default()
        },
        log: LogLimits {
            retain_bytes: random.u64(1..=40) * 50_000,
            straggler_bytes: random.u64(1..=40) * 50_000,
            trim_every_bytes: random.u64(1..=10) * 10_000,
        },
        flights: 64,
        durability: if random.bool() { DurabilityClass::Memory } else { DurabilityClass::Durable },
        retry_after: Duration::from_millis(10),
    }
}
