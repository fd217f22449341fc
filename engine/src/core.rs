//! The brain of one shard: `on(now, input)` gives effects. No IO, no clock, no randomness of its own.
//!
//! A shard plays two roles, which may meet on one shard or talk over the mesh:
//!
//! * the **session role** owns the sessions whose partition falls to the shard. It accepts a message, has the
//!   journal keep it, makes a *turn* of it, and gives the turns of a session to agents strictly one after the
//!   other, so that they are answered in order;
//! * the **agent role** ([`agents`]) owns the agents that live on the shard. It knows which incarnation works
//!   on which turns, and how much each may hold.
//!
//! # The way of a message
//!
//! | stage | where | what | then it waits for |
//! |---|---|---|---|
//! | ingest | `accept` | counted, opened | – |
//! | validate | `accept` | limits, journal, sent before? | – |
//! | enrich | `accept` | session, mode, urgency | – |
//! | route | `accept` | which agent | the journal |
//! | dispatch | `dispatch` | given to the agent when its session and the agent are free | the session, the agent's credit, the agent |
//! | respond | `respond` | words numbered, kept, shown to the client | the journal |
//!
//! Every accepted turn ends in exactly one `End` or `Failure` to whoever awaits it, and in exactly one
//! `Done` or `Dead` in the journal, which comes first.
//!
//! # The journal
//!
//! Nothing is told or given before the journal has what it follows from: an acceptance before the acknowledgement and
//! before the agent gets the message; a word of a reply before the client; a further attempt before the agent. Entries
//! are numbered in the order of sending, and what waits for one stands in a queue by that number ([`awaiting`]).

mod accept;
mod adoption;
mod agent_role;
pub mod agents;
mod awaiting;
mod choose;
mod conversations;
mod dead;
mod dispatch;
mod given;
mod log;
mod mesh;
mod recovery;
mod release;
pub mod replies;
mod respond;
mod resume;
mod setting;
mod skills;
pub mod turns;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use shm_transport::envelope::{ArchivedMessageV2, Body, Encoder, Kind, Message, Opened, Route};

use crate::breaker::AgentBreakers;
use crate::dead_letters::DeadLetters;
use crate::dedup::DedupWindow;
use crate::event::{AgentIndex, Effect, Input, ShardIndex};
use crate::events::{Detail, Event, EventType, SessionChange, Subscribed};
use crate::flight::FlightRecorder;
use crate::histogram::Histogram;
use crate::journal::entry::{Entry, EntryKind, JournalState, Progress};
use crate::planted::{self, Bug};
use crate::routing::RoutingTable;
use crate::session::{SessionEvent, Sessions, StreamPosition};
use crate::stats::Counters;
use crate::time::Moment;
use crate::wheel::Wheel;
use accept::Arriving;
use adoption::Adoption;
use agents::Agents;
use awaiting::{Awaiting, Outcome};
use conversations::Conversations;
use log::Log;
pub use log::LogLimits;
use release::Releases;
use replies::Replies;
pub use setting::{AgentDefinition, CoreLimits, CoreSetting};
use skills::Skills;
use turns::{Listener, State, Turns};

/// Where effects go: a closure of the driver or of the simulator.
pub type Effects<'a> = dyn FnMut(Effect<'_>) + 'a;

/// What a turn has to be looked at again for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    /// Its back-off is over.
    Retry(u64),
    /// It waits for room among the dead letters.
    Death(u64),
    /// Nobody waits for it any more.
    Deadline(u64),
    /// Dead letters are to be tried again, and there may be room now.
    Replay,
}

/// What has been written again and may not be kept yet.
#[derive(Clone, Copy, Debug, Default)]
struct Moves {
    /// Everything below this sequence has to be kept.
    until: u64,
    /// Whether that means on disk.
    durable: bool,
}

impl Moves {
    fn are_kept(self, progress: Progress) -> bool {
        progress.written >= self.until && (!self.durable || progress.synced >= self.until)
    }
}

/// How long the parts of a message's way took.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// From the shard's first sight to the journal's word.
    pub journal: Histogram,
    /// From the shard's first sight to the agent's ring.
    pub dispatch: Histogram,
    /// From the shard's first sight to the client's ring.
    pub total: Histogram,
}

impl Latencies {
    /// Each with its name.
    pub fn named(&self) -> [(&'static str, &Histogram); 3] {
        [("journal", &self.journal), ("dispatch", &self.dispatch), ("total", &self.total)]
    }

    /// Adds those of another shard.
    pub fn merge(&mut self, other: &Self) {
        self.journal.merge(&other.journal);
        self.dispatch.merge(&other.dispatch);
        self.total.merge(&other.total);
    }
}

/// The core of one shard.
#[derive(Debug)]
pub struct ShardCore {
    setting: CoreSetting,
    limits: CoreLimits,
    // Arc: every shard reads the one agent table of the gateway, which never changes while it runs.
    definitions: Arc<[AgentDefinition]>,
    // Arc: every shard reads the one routing table; it is swapped whole.
    routes: Arc<RoutingTable>,
    sessions: Sessions,
    turns: Turns,
    agents: Agents,
    /// Why agents, of all shards, will not come back for now; none for those that are expected.
    unavailable: Vec<Option<Box<str>>>,
    /// Turns of this shard's sessions at each agent.
    outstanding: Vec<u32>,
    /// Where the search for the least loaded agent starts.
    rotation: u32,
    breakers: AgentBreakers,
    conversations: Conversations,
    skills: Skills,
    ids: DedupWindow,
    replies: Replies,
    dead: DeadLetters,
    log: Log,
    awaiting: Awaiting,
    journal_state: JournalState,
    /// How far the journal was when it was heard of last.
    progress: Progress,
    moves: Moves,
    /// What the journal may give up as soon as what was written again is kept.
    trim_due: Option<u64>,
    timers: Wheel<Due>,
    recorder: FlightRecorder,
    subscribed: Subscribed,
    latencies: Latencies,
    counters: Counters,
    encoder: Encoder,
    random: u64,
    recovering: recovery::Recovering,
    adoption: Adoption,
    releases: Releases,
    /// Where the streams of new sessions begin: in the epoch of this run, and behind those of all sessions that have
    /// been forgotten, since they may be the same ones.
    fresh_stream: StreamPosition,
    /// Whether agents end because they were told to: what they have in hand is for the next start.
    stopping: bool,
    /// Sessions whose turn has ended and that may go on; drained before `on` returns, so that a chain of
    /// failures is a loop and not a recursion.
    ready: VecDeque<u64>,
}

impl ShardCore {
    /// A core with no sessions and no agents attached.
    pub fn new(
        setting: CoreSetting,
        definitions: Arc<[AgentDefinition]>,
        routes: Arc<RoutingTable>,
        limits: CoreLimits,
    ) -> Self {
        Self {
            sessions: Sessions::new(limits.sessions),
            turns: Turns::new(setting.shard, setting.run),
            agents: Agents::new(&definitions, limits),
            unavailable: vec![None; definitions.len()],
            outstanding: vec![0; definitions.len()],
            rotation: 0,
            breakers: AgentBreakers::new(limits.breaker, definitions.len()),
            conversations: Conversations::default(),
            skills: Skills::default(),
            ids: DedupWindow::new(limits.dedup, setting.seed),
            replies: Replies::new(limits.reply_bytes_max),
            dead: DeadLetters::new(limits.dead_letters),
            log: Log::new(0, limits.log),
            awaiting: Awaiting::default(),
            journal_state: JournalState::Writing,
            progress: Progress::default(),
            moves: Moves::default(),
            trim_due: None,
            timers: Wheel::new(),
            recorder: FlightRecorder::new(limits.flights),
            subscribed: Subscribed::default(),
            latencies: Latencies::default(),
            counters: Counters::default(),
            encoder: Encoder::default(),
            random: setting.seed,
            recovering: recovery::Recovering::default(),
            adoption: Adoption::default(),
            releases: Releases::new(setting.shard_count),
            fresh_stream: StreamPosition { epoch: setting.run, offset: 0 },
            stopping: false,
            ready: VecDeque::new(),
            setting,
            limits,
            definitions,
            routes,
        }
    }

    /// Takes what happened and says what to do about it.
    pub fn on(&mut self, now: Moment, input: Input<'_>, effects: &mut Effects<'_>) {
        match input {
            Input::FromEdge { edge, message } => self.heard_from_edge(now, edge, &message, effects),
            Input::FromShard { shard, message } => self.heard_from_shard(now, shard, &message, effects),
            Input::FromAgent { instance, message } => {
                self.heard_from_agent(now, instance, &message, effects);
            }
            Input::Journaled(progress) => self.journaled(now, progress, effects),
            Input::AgentRead { instance, until } => self.agent_read(instance, until, effects),
            Input::Adopting(agents) => self.adopting(agents),
            Input::AgentAdopted { agent, instance } => self.agent_adopted(agent, instance, effects),
            Input::AgentUp { agent, instance } => self.agent_up(now, agent, instance, effects),
            Input::AgentDown { agent, detail } => self.agent_down(now, agent, detail, effects),
            Input::AgentUnavailable { agent, detail } => {
                self.agent_unavailable(now, agent, detail, effects);
            }
            Input::AgentExpected { agent } => self.agent_expected(agent),
            Input::AgentDraining { agent, others } => self.agent_draining(now, agent, others, effects),
            Input::SkillEnded { instance, call, outcome, output } => {
                self.skill_ended(instance, call, outcome, output, effects);
            }
            Input::AgentRests { agent } => self.agent_rests(now, agent, effects),
            Input::AgentServes { agent, tenant } => self.agent_serves(agent, tenant),
            Input::ShareAgent { agent } => self.agent_shares(now, agent, effects),
            Input::FinishAgent { agent } => self.agents.finish_now(agent, effects),
            Input::Routes(routes) => self.routes = routes,
            Input::Subscribe(mask) => self.subscribed.set(mask),
            Input::ReplayDeadLetters(selection) => self.replay_dead(now, selection),
            Input::DropDeadLetters(selection) => self.drop_dead(selection, effects),
            // Reading has no effects: a log that is being read is not shortened yet.
            Input::Recovered(found) => return self.recovered(now, found),
            Input::RecoveryEnds => self.recovery_ends(now, effects),
            Input::StopAgents => {
                self.stopping = true;
                self.agents.stop(effects);
            }
            Input::Tick => self.tick(now, effects),
        }
        while let Some(turn) = self.ready.pop_front() {
            self.begin(now, turn, effects);
        }
        self.conversations.tell_over(effects);
        self.keep_log_short(effects);
    }

    /// How often a turn is tried, how many letters the dead have room for, and what a message survives that does not say so:
    /// from now on as these limits have it. The others stay, since tables have been made by them.
    pub fn take_limits(&mut self, next: &CoreLimits) {
        self.limits.retry = next.retry;
        self.limits.durability = next.durability;
        self.limits.dead_letters = next.dead_letters;
        self.dead.set_limits(next.dead_letters);
    }

    /// Which shard it is the core of.
    pub fn index(&self) -> ShardIndex {
        self.setting.shard
    }

    /// When a [`Input::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Moment> {
        [self.sessions.next_deadline(), self.timers.next_deadline()].into_iter().flatten().min()
    }

    /// The counters as of now.
    pub fn counters(&self) -> Counters {
        Counters {
            sessions: self.sessions.len() as u64,
            turns_open: (self.turns.len() - self.dead.len()) as u64,
            messages_queued: (self.sessions.waiting() + self.agents.waiting()) as u64,
            agents_up: self.agents.up_count() as u64,
            dead_letters: self.dead.len() as u64,
            ids_remembered: self.ids.len() as u64,
            reply_bytes: self.replies.bytes() as u64,
            journal_entries: self.log.next(),
            ..self.counters
        }
    }

    /// How long the parts of a message's way took.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// The stages of messages.
    pub fn recorder(&self) -> &FlightRecorder {
        &self.recorder
    }

    /// The dead letters.
    pub fn dead_letters(&self) -> &DeadLetters {
        &self.dead
    }

    /// The message of a turn that is open, or a dead letter.
    pub fn message_of(&self, turn: u64) -> Option<&ArchivedMessageV2> {
        match self.turns.get(turn)?.body.as_message(Route::default()).open() {
            Opened::Message(archive) => Some(archive),
            _ => None,
        }
    }

    /// Whether its journal can write.
    pub fn journal_state(&self) -> JournalState {
        self.journal_state
    }

    /// The table of sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn heard_from_edge(
        &mut self,
        now: Moment,
        edge: crate::event::EdgeIndex,
        message: &Message<'_>,
        effects: &mut Effects<'_>,
    ) {
        let Route { session, origin, sequence, .. } = message.route;
        let listener = Listener { edge, origin, sequence };
        match message.open() {
            Opened::Message(archive) => {
                let arriving = Arriving { listener, hash: session, archive, body: message.body() };
                self.accept(now, arriving, effects);
            }
            Opened::Cancel => self.cancel_asked(listener, session, effects),
            Opened::Resume(asked) => self.resume(listener, session, asked, effects),
            _ => self.counters.invalid_internal += 1,
        }
    }

    fn tick(&mut self, now: Moment, effects: &mut Effects<'_>) {
        while let Some(due) = self.timers.pop_due(now) {
            match due {
                Due::Death(turn) => self.death_due(now, turn, effects),
                Due::Retry(turn) => self.retry_due(now, turn, effects),
                Due::Deadline(turn) => self.deadline_due(turn, effects),
                Due::Replay => self.replay_marked(now),
            }
        }
        let Self { subscribed, sessions, counters, fresh_stream, conversations, .. } = self;
        sessions.expire(now, &mut |event| {
            let SessionEvent::Expired(index, record) = event else { return };
            conversations.forgotten(index, record.hash);
            *fresh_stream = record.stream.max(*fresh_stream);
            counters.sessions_expired += 1;
            if let Some(sequence) = subscribed.next(EventType::SessionUpdated) {
                effects(Effect::Event(Event {
                    at: now,
                    sequence,
                    channel: record.key.parts().channel,
                    session: record.hash,
                    turn: 0,
                    agent: record.agent,
                    detail: Detail::SessionUpdated { change: SessionChange::Ended },
                }));
            }
        });
    }

    /// Sends an entry to the journal, and remembers what waits for it.
    fn keep(
        log: &mut Log,
        awaiting: &mut Awaiting,
        entry: Entry,
        body: Body<'_>,
        outcome: Outcome,
        effects: &mut Effects<'_>,
    ) -> u64 {
        let mut entry = entry;
        if planted::is(Bug::AttemptNotKept) && entry.kind == EntryKind::Attempt {
            entry.attempt = entry.attempt.saturating_sub(1);
        }
        if planted::is(Bug::CancelNotKept) && entry.kind == EntryKind::Done && body.kind() == Kind::Failure {
            entry.kind = EntryKind::Block;
        }
        let sequence = log.append(entry.kind, entry.turn, body.bytes().len());
        awaiting.push(entry.durable, sequence, entry.turn, outcome);
        effects(Effect::Journal { entry, body });
        sequence
    }

    /// Has an old turn written again, or an old part of the log given up. One at a time: what is written again is
    /// followed by what comes in.
    fn keep_log_short(&mut self, effects: &mut Effects<'_>) {
        let Self { log, turns, replies, .. } = self;
        // A turn whose last word is on its way has ended in the log: its message must not come behind that word.
        let place = |turn| turns.get(turn).map(|turn| (turn.sequence, turn.state != State::Ending));
        match log.upkeep(turns.len(), turns.bytes() + replies.bytes(), place) {
            log::Upkeep::Nothing => {}
            log::Upkeep::Trim(sequence) => {
                self.trim_due = Some(if planted::is(Bug::TrimTooFar) { log.next() } else { sequence });
            }
            log::Upkeep::Move(turn) => self.write_session_again(turn, effects),
        }
        // What was written again has to be as safe as it was in its first place before that is given up.
        if let Some(word) = self.trim_due
            && self.moves.are_kept(self.progress)
        {
            self.trim_due = None;
            let kind = EntryKind::Trim;
            let entry = Entry { kind, durable: false, turn: 0, session: 0, word, attempt: 0, check: 0 };
            effects(Effect::Journal { entry, body: Body::ACCEPTED });
        }
    }

    /// Unix milliseconds.
    fn unix_ms(&self, now: Moment) -> u64 {
        self.setting.unix_ms_at_zero
            + u64::try_from(now.since(Moment::ZERO).as_millis()).unwrap_or(u64::MAX >> 1)
    }

    /// The next of a row of numbers that begins with the seed.
    fn next_random(&mut self) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn home(&self, agent: AgentIndex) -> ShardIndex {
        agent.home(self.setting.shard_count)
    }
}
