//! A core without its shard: groups of messages go in, the journal answers each group at once, agents end every turn.
//!
//! A group is what a group commit of the journal would make of a busy shard: so many messages come, the journal says
//! that it has them, all of them go to agents; then the agents end them, the journal says that it has the ends, and all
//! replies go to the edge. Making the messages is apart, so that it need not be timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::core::{AgentDefinition, CoreLimits, CoreSetting, ShardCore};
use engine::dedup::DedupLimits;
use engine::event::{AgentIndex, EdgeIndex, Effect, Input, InstanceId, ShardIndex};
use engine::journal::entry::{EntryKind, JournalState, Progress};
use engine::routing::{AgentSpec, RoutingTable};
use engine::time::Moment;
use shm_transport::envelope::{Encoder, EndV1, MessageV2, Priority, Route, StoredBody};
use shm_transport::ports::session_hash_in;

/// Ids that are remembered: few enough that a warm-up fills the window, so that each new id makes an old one go.
pub const IDS_MAX: u32 = 1 << 20;
/// How many turns an agent may have in its hands, as in the gateway's default.
const IN_FLIGHT_MAX: usize = 256;
/// How far the clock of the core goes on for each message: as if a million came each second.
const MESSAGE_TIME: Duration = Duration::from_micros(1);
/// A prime above every number of sessions: its multiples name each of them before they name one again.
const STRIDE: u64 = 2_654_435_761;

/// What a core is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shape {
    /// Sessions, of which each message takes the next one of a row without neighbours.
    pub sessions: u32,
    /// Agents, of which each session has one.
    pub agents: u32,
    /// Whether every message has an id of its client.
    pub ids: bool,
    /// Messages between two words of the journal.
    pub group: usize,
    /// Bytes of a message's text.
    pub content_bytes: usize,
}

impl Shape {
    /// A group has no two messages of one session, of which the second would wait for the end of the first.
    pub fn new(sessions: u32, agents: u32, ids: bool, group: usize, content_bytes: usize) -> Self {
        Self { sessions, agents, ids, group: group.min(sessions as usize), content_bytes }
    }
}

/// The core and what plays the rest.
pub struct Rig {
    core: ShardCore,
    now: Moment,
    shape: Shape,
    names: Vec<String>,
    value: MessageV2,
    encoder: Encoder,
    /// The group as the edge would have it in its ring.
    messages: Vec<(Route, StoredBody)>,
    /// What is at the agents.
    given: Vec<(InstanceId, u64, u32)>,
    end: StoredBody,
    /// Messages made, ever.
    made: u64,
    /// Entries sent to the journal, ever.
    entries: u64,
    /// Replies that have reached the edge, ever.
    replied: u64,
}

impl Rig {
    /// A core with its agents attached and no sessions.
    pub fn new(shape: Shape) -> Self {
        let names: Vec<_> = (0..shape.agents).map(|agent| format!("agent-{agent}")).collect();
        let definition = |name: &String| AgentDefinition {
            name: name.clone(),
            in_flight_max: IN_FLIGHT_MAX,
            conversation_pool: None,
        };
        let definitions: Arc<[AgentDefinition]> = names.iter().map(definition).collect();
        let specs: Vec<_> =
            names.iter().zip(0..).map(|(name, index)| AgentSpec::alone(AgentIndex(index), name, 1)).collect();
        let routes = RoutingTable::build(1, &specs, &[], None).expect("agents have different names");
        let dedup = DedupLimits { ids_max: IDS_MAX, ids_hard_max: IDS_MAX, ..DedupLimits::default() };
        let limits = CoreLimits { dedup, ..CoreLimits::default() };
        let setting = CoreSetting {
            shard: ShardIndex(0),
            shard_count: 1,
            run: 1,
            unix_ms_at_zero: 1_700_000_000_000,
            seed: 27,
        };
        let mut core = ShardCore::new(setting, definitions, Arc::new(routes), limits);
        core.on(Moment::ZERO, Input::RecoveryEnds, &mut |_| {});
        for agent in 0..shape.agents {
            let (agent, instance) = (AgentIndex(agent), InstanceId(u64::from(agent) + 1));
            core.on(Moment::ZERO, Input::AgentUp { agent, instance }, &mut |_| {});
        }
        let value = MessageV2 {
            channel: "websocket".into(),
            content: "x".repeat(shape.content_bytes),
            priority: Priority::Normal as u8,
            ..MessageV2::default()
        };
        Self {
            core,
            now: Moment::ZERO,
            shape,
            names,
            value,
            encoder: Encoder::default(),
            messages: Vec::with_capacity(shape.group),
            given: Vec::with_capacity(shape.group),
            end: Encoder::default().encode(&EndV1 { content: "y".repeat(shape.content_bytes) }).to_stored(),
            made: 0,
            entries: 0,
            replied: 0,
        }
    }

    /// Messages in a group.
    pub fn group(&self) -> usize {
        self.shape.group
    }

    /// Makes the messages of the next group.
    pub fn prepare(&mut self) {
        use std::fmt::Write;
        self.messages.clear();
        for _ in 0..self.shape.group {
            let session = (self.made.wrapping_mul(STRIDE) % u64::from(self.shape.sessions)) as usize;
            let MessageV2 { agent, user, thread, client_id, .. } = &mut self.value;
            for text in [&mut *agent, &mut *user, &mut *thread, &mut *client_id] {
                text.clear();
            }
            agent.push_str(&self.names[session % self.names.len()]);
            write!(user, "user-{session}").expect("a string takes everything");
            write!(thread, "thread-{session}").expect("a string takes everything");
            if self.shape.ids {
                write!(client_id, "client-message-{}", self.made).expect("a string takes everything");
            }
            let value = &self.value;
            let session = session_hash_in(&value.namespace, &value.channel, &value.user, &value.thread);
            let route = Route { session, origin: 9, sequence: self.made as u32, ..Route::default() };
            self.messages.push((route, self.encoder.encode(value).to_stored()));
            self.made += 1;
        }
        self.now = self.now.plus(MESSAGE_TIME * self.shape.group as u32);
    }

    /// The first half of their lives: from the edge through the journal to the agents.
    pub fn route(&mut self) {
        let Self { core, now, messages, given, entries, .. } = self;
        if core.next_deadline().is_some_and(|deadline| deadline <= *now) {
            core.on(*now, Input::Tick, &mut |_| {});
        }
        let mut effects = |effect: Effect<'_>| match effect {
            Effect::Journal { entry, .. } if entry.kind != EntryKind::Trim => *entries += 1,
            Effect::ToAgent { instance, route, .. } => given.push((instance, route.turn, route.attempt)),
            _ => {}
        };
        for (route, body) in &*messages {
            let input = Input::FromEdge { edge: EdgeIndex(0), message: body.as_message(*route) };
            core.on(*now, input, &mut effects);
        }
        self.journal_answers();
        assert_eq!(self.given.len(), self.shape.group, "every message goes to its agent");
    }

    /// The second half: from the agents through the journal to the edge.
    pub fn finish(&mut self) {
        let before = self.replied;
        let Self { core, now, given, entries, end, .. } = self;
        let mut effects = |effect: Effect<'_>| {
            if matches!(effect, Effect::Journal { entry, .. } if entry.kind != EntryKind::Trim) {
                *entries += 1;
            }
        };
        for (instance, turn, attempt) in given.drain(..) {
            let message = end.as_message(Route { turn, attempt, ..Route::default() });
            core.on(*now, Input::FromAgent { instance, message }, &mut effects);
        }
        self.journal_answers();
        assert_eq!(self.replied - before, self.shape.group as u64, "every message is answered");
    }

    /// A group of messages: the time of either half of their lives.
    pub fn timed(&mut self) -> (Duration, Duration) {
        self.prepare();
        let start = Instant::now();
        self.route();
        let given = Instant::now();
        self.finish();
        (given - start, given.elapsed())
    }

    fn journal_answers(&mut self) {
        let Self { core, now, given, entries, replied, .. } = self;
        let progress = Progress { written: *entries, synced: *entries, state: JournalState::Writing };
        core.on(*now, Input::Journaled(progress), &mut |effect| match effect {
            Effect::ToAgent { instance, route, .. } => given.push((instance, route.turn, route.attempt)),
            Effect::ToEdge { .. } => *replied += 1,
            Effect::Journal { entry, .. } if entry.kind != EntryKind::Trim => *entries += 1,
            _ => {}
        });
    }

    /// Takes messages of more sessions from now on.
    pub fn widen(&mut self, sessions: u32) {
        self.shape.sessions = self.shape.sessions.max(sessions);
    }

    /// All of it, `messages` times or a few more.
    pub fn warm_up(&mut self, messages: u64) {
        for _ in 0..messages.div_ceil(self.shape.group as u64) {
            self.prepare();
            self.route();
            self.finish();
        }
    }
}
