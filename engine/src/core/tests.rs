//! Rules of the core, one at a time. Random schedules are in the simulation.

mod adoption;
mod conversations;
mod dead_letters;
mod delivery;
mod drain;
mod recovery;
mod resume;
mod skills;

use std::collections::BTreeMap;
use std::sync::Arc;

use rkyv::util::AlignedVec;
use shm_transport::envelope::{
    BlockV1, Body, Content, Encoder, EndV1, FLAG_NO_REPLY, FailureCode, FailureV1, HelloV1, Kind, Message,
    MessageV2, Opened, Priority, ResumeV1, ResumedV1, Route, SKILL_BYTES_MAX, SKILL_NAME_BYTES_MAX,
    SKILLS_AT_ONCE_MAX, SkillOutcome, SkillResultV1, SkillV1,
};
use shm_transport::ports::session_hash_in;

use super::{AgentDefinition, CoreLimits, CoreSetting, ShardCore};
use crate::event::{AgentIndex, EdgeIndex, Effect, Input, InstanceId, Recovered, ShardIndex, Tenure};
use crate::journal::entry::{Entry, EntryKind, JournalState, Progress};
use crate::routing::{AgentSpec, RoutingTable};
use crate::time::Moment;

const EDGE: EdgeIndex = EdgeIndex(0);
const FIRST: InstanceId = InstanceId(1);

/// An effect with what a test compares: where to, what, whose, and the failure's name.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Edge(Kind, u64, u32, Option<&'static str>),
    Agent(InstanceId, Kind, u64),
    Shard(ShardIndex, Kind, u64),
    Ready(InstanceId),
    Fenced(InstanceId),
    Adopted(InstanceId),
    Tenure(AgentIndex, Tenure),
    Skill(InstanceId, u64),
    Released(InstanceId, u64),
}

/// A message as a receiver has it.
#[derive(Clone, Debug)]
struct Packet {
    kind: Kind,
    route: Route,
    bytes: AlignedVec<16>,
}

impl Packet {
    fn new(route: Route, body: Body<'_>) -> Self {
        let mut bytes = AlignedVec::new();
        bytes.extend_from_slice(body.bytes());
        Self { kind: body.kind(), route, bytes }
    }

    fn of<T: Content>(route: Route, value: &T) -> Self {
        Self::new(route, Encoder::default().encode(value))
    }

    fn message(&self) -> Message<'_> {
        Message::checked(self.kind.number(), self.route, &self.bytes).unwrap()
    }
}

/// The agents of a core, and who gets what.
type Parts = (Arc<[AgentDefinition]>, Arc<RoutingTable>);

struct Bench {
    core: ShardCore,
    parts: Parts,
    shard_count: u8,
    now: Moment,
    /// What the journal was given.
    log: Vec<(Entry, Packet)>,
    /// Whether the journal answers at once.
    prompt: bool,
    /// The last packet for an agent.
    given: Option<Packet>,
    /// Attempts of the turns that were given out last, and how many blocks of them were said.
    hands: BTreeMap<u64, (u32, u32)>,
}

/// Two agents, each alone.
fn definitions(shard_count: u8) -> Parts {
    let names = ["echo", "other"];
    let definitions =
        names.map(|name| AgentDefinition { name: name.into(), in_flight_max: 2, conversation_pool: None });
    let spec = |(name, index): (&&str, u32)| AgentSpec::alone(AgentIndex(index), name, shard_count);
    let specs: Vec<_> = names.iter().zip(0..).map(spec).collect();
    (definitions.into(), Arc::new(RoutingTable::build(1, &specs, &[], None).unwrap()))
}

impl Bench {
    fn new(limits: CoreLimits, shard: u8, shard_count: u8) -> Self {
        Self::of(definitions(shard_count), limits, shard, shard_count)
    }

    fn of(parts: Parts, limits: CoreLimits, shard: u8, shard_count: u8) -> Self {
        let (definitions, routes) = parts.clone();
        let setting = CoreSetting {
            shard: ShardIndex(shard),
            shard_count,
            run: 1,
            unix_ms_at_zero: 1_700_000_000_000,
            seed: 1,
        };
        let mut core = ShardCore::new(setting, definitions, routes, limits);
        core.on(Moment::ZERO, Input::RecoveryEnds, &mut |_| {});
        Self {
            core,
            parts,
            shard_count,
            now: Moment::ZERO,
            log: Vec::new(),
            prompt: true,
            given: None,
            hands: BTreeMap::new(),
        }
    }

    /// One input, and the word of the journal on what follows from it.
    fn on(&mut self, input: Input<'_>) -> Vec<Seen> {
        let mut seen = self.once(input);
        while self.prompt {
            let before = self.log.len();
            seen.extend(self.journal_answers());
            if self.log.len() == before {
                break;
            }
        }
        seen
    }

    fn journal_answers(&mut self) -> Vec<Seen> {
        let written = self.log.len() as u64;
        self.once(Input::Journaled(Progress { written, synced: written, state: JournalState::Writing }))
    }

    fn once(&mut self, input: Input<'_>) -> Vec<Seen> {
        let mut seen = Vec::new();
        let Self { core, now, log, given, hands, .. } = self;
        core.on(*now, input, &mut |effect| match effect {
            Effect::ToEdge { route, body, .. } => {
                seen.push(Seen::Edge(body.kind(), route.origin, route.sequence, failure_name(body)));
            }
            Effect::ToAgent { instance, route, body } => {
                *given = Some(Packet::new(route, body));
                if body.kind() == Kind::Message {
                    hands.insert(route.turn, (route.attempt, 0));
                }
                seen.push(Seen::Agent(instance, body.kind(), route.turn));
            }
            Effect::ToShard { shard, route, body } => {
                *given = Some(Packet::new(route, body));
                seen.push(Seen::Shard(shard, body.kind(), route.turn));
            }
            Effect::AgentReady { instance, .. } => seen.push(Seen::Ready(instance)),
            Effect::Fence { instance, .. } => seen.push(Seen::Fenced(instance)),
            Effect::Journal { entry, body } if entry.kind != EntryKind::Trim => {
                log.push((entry, Packet::new(Route::default(), body)));
            }
            Effect::Skill { instance, call, .. } => seen.push(Seen::Skill(instance, call)),
            Effect::AgentTenure { agent, tenure } => seen.push(Seen::Tenure(agent, tenure)),
            Effect::AgentAdopted { instance } => seen.push(Seen::Adopted(instance)),
            Effect::Release { instance, until } => seen.push(Seen::Released(instance, until)),
            Effect::Journal { .. } | Effect::Event(_) => {}
        });
        seen
    }

    fn message(&mut self, thread: &str, sequence: u32, change: impl FnOnce(&mut MessageV2)) -> Vec<Seen> {
        let mut value = MessageV2 {
            agent: "echo".into(),
            channel: "websocket".into(),
            user: "local".into(),
            thread: thread.into(),
            content: "hi".into(),
            priority: Priority::Normal as u8,
            ..MessageV2::default()
        };
        change(&mut value);
        let session = session_hash_in(&value.namespace, &value.channel, &value.user, &value.thread);
        let packet = Packet::of(Route { session, origin: 9, sequence, ..Route::default() }, &value);
        self.on(Input::FromEdge { edge: EDGE, message: packet.message() })
    }

    /// The routing words of what an agent says next of a turn, as it was given it.
    fn word_route(&mut self, kind: Kind, turn: u64) -> Route {
        let (attempt, blocks) = self.hands.entry(turn).or_default();
        let route = Route { turn, attempt: *attempt, sequence: *blocks, ..Route::default() };
        *blocks += u32::from(kind == Kind::Block);
        route
    }

    fn agent_says(&mut self, kind: Kind, turn: u64) -> Vec<Seen> {
        let route = self.word_route(kind, turn);
        let packet = match kind {
            Kind::Message => Packet::of(route, &MessageV2::default()),
            Kind::Block => Packet::of(route, &BlockV1::default()),
            Kind::End => Packet::of(route, &EndV1::default()),
            Kind::Failure => Packet::of(route, &FailureV1::default()),
            Kind::Hello => Packet::of(route, &HelloV1::default()),
            Kind::Accepted => Packet::new(route, Body::ACCEPTED),
            Kind::Stop => Packet::new(route, Body::STOP),
            Kind::Cancel => Packet::new(route, Body::CANCEL),
            Kind::Journaled => Packet::new(route, Body::JOURNALED),
            Kind::RollCall => Packet::new(route, Body::ROLL_CALL),
            Kind::Working => Packet::new(route, Body::WORKING),
            Kind::Kept => Packet::new(route, Body::KEPT),
            Kind::Skill => Packet::of(route, &SkillV1::default()),
            Kind::SkillResult => Packet::of(route, &SkillResultV1::default()),
            Kind::Resume => Packet::of(route, &ResumeV1::default()),
            Kind::Resumed => Packet::of(route, &ResumedV1::default()),
        };
        self.on(Input::FromAgent { instance: FIRST, message: packet.message() })
    }

    fn up(&mut self) -> Vec<Seen> {
        self.on(Input::AgentUp { agent: AgentIndex(0), instance: FIRST })
    }

    fn down(&mut self) -> Vec<Seen> {
        self.on(Input::AgentDown { agent: AgentIndex(0), detail: "signal 9" })
    }

    /// Time passes up to the next deadline.
    fn wait(&mut self) -> Vec<Seen> {
        let before = self.now;
        loop {
            self.now = self.core.next_deadline().expect("something is due");
            let seen = self.on(Input::Tick);
            if !seen.is_empty() || self.now.since(before) > std::time::Duration::from_secs(60) {
                return seen;
            }
        }
    }

    /// Another core that is told what the journal of this one holds, and gets a new incarnation of the agent.
    fn restarted(&self, limits: CoreLimits) -> (Self, Vec<Seen>) {
        self.restarted_without(limits, |_| false)
    }

    /// The same where the turns of some entries ended longer ago than replies are kept.
    fn restarted_without(
        &self,
        limits: CoreLimits,
        is_settled: impl Fn(&Entry) -> bool,
    ) -> (Self, Vec<Seen>) {
        let (mut next, mut seen) = self.next_run(limits, &[], is_settled);
        seen.extend(next.up());
        (next, seen)
    }

    /// Another core that is told what the journal of this one holds, and that these agents live.
    fn next_run(
        &self,
        limits: CoreLimits,
        adopting: &[AgentIndex],
        is_settled: impl Fn(&Entry) -> bool,
    ) -> (Self, Vec<Seen>) {
        let mut next = Self::new(limits, 0, self.shard_count);
        let (definitions, routes) = self.parts.clone();
        let setting = CoreSetting {
            shard: ShardIndex(0),
            shard_count: self.shard_count,
            run: 2,
            unix_ms_at_zero: 1_700_000_100_000,
            seed: 2,
        };
        next.core = ShardCore::new(setting, definitions, routes, limits);
        next.log = self.log.clone();
        for ((entry, packet), sequence) in self.log.iter().zip(0u64..) {
            let (at_ms, message) = (1_700_000_000_000, packet.message());
            let found = if is_settled(entry) {
                let body_bytes = message.body().bytes().len();
                Recovered::Settled { sequence, at_ms, entry: *entry, body_bytes }
            } else {
                Recovered::Record { sequence, at_ms, entry: *entry, message }
            };
            next.core.on(Moment::ZERO, Input::Recovered(found), &mut |_| panic!("recovery has no effects"));
        }
        let found = Recovered::NextSequence(self.log.len() as u64);
        next.core.on(Moment::ZERO, Input::Recovered(found), &mut |_| {});
        next.on(Input::Adopting(adopting));
        let seen = next.on(Input::RecoveryEnds);
        (next, seen)
    }
}

fn failure_name(body: Body<'_>) -> Option<&'static str> {
    let packet = Packet::new(Route::default(), body);
    let Opened::Failure(failure) = packet.message().open() else { return None };
    Some(FailureCode::from_number(failure.code.to_native()).unwrap().name())
}

fn turn_of(seen: &[Seen]) -> u64 {
    match seen {
        [.., Seen::Agent(_, Kind::Message, turn)] => *turn,
        other => panic!("no message for an agent in {other:?}"),
    }
}

/// The messages of one session go to the agent one by one; those of another session do not wait for them.
#[test]
fn a_session_has_one_turn_at_a_time() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    assert_eq!(bench.up(), []);
    let first = turn_of(&bench.message("a", 1, |_| {}));
    assert_eq!(bench.message("a", 2, |_| {}), []);
    let other = turn_of(&bench.message("b", 3, |_| {}));
    assert_ne!(first, other);
    assert_eq!(bench.agent_says(Kind::Block, first), [Seen::Edge(Kind::Block, 9, 1, None)]);
    let after = bench.agent_says(Kind::End, first);
    assert_eq!(after[0], Seen::Edge(Kind::End, 9, 1, None));
    let second = turn_of(&after);
    assert_eq!(bench.agent_says(Kind::End, second), [Seen::Edge(Kind::End, 9, 2, None)]);
    assert_eq!(bench.core.counters().turns_open, 1);
    assert_eq!(bench.core.counters().replies_completed, 2);
}

/// An agent holds at most its credit; the rest waits by class and goes out as turns end.
#[test]
fn credit_bounds_what_an_agent_holds() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let first = turn_of(&bench.message("a", 1, |_| {}));
    turn_of(&bench.message("b", 2, |_| {}));
    assert_eq!(bench.message("c", 3, |m| m.priority = Priority::Low as u8), []);
    assert_eq!(bench.message("d", 4, |m| m.priority = Priority::High as u8), []);
    assert_eq!(bench.core.counters().messages_queued, 2);
    let after = bench.agent_says(Kind::End, first);
    let urgent = after.iter().find_map(|seen| match seen {
        Seen::Agent(_, Kind::Message, turn) => Some(*turn),
        _ => None,
    });
    assert_eq!(bench.agent_says(Kind::Block, urgent.unwrap()), [Seen::Edge(Kind::Block, 9, 4, None)]);
}

/// An agent that will not come back is refused by name to whoever asks; who waits for it becomes a dead letter.
#[test]
fn unavailable_agents_refuse() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    for sequence in 0..500 {
        assert_eq!(bench.message("a", sequence, |_| {}), []);
    }
    let seen = bench.on(Input::AgentUnavailable { agent: AgentIndex(0), detail: "exits at once" });
    assert_eq!(seen.len(), 500);
    assert!(seen.iter().all(|s| matches!(s, Seen::Edge(Kind::Failure, 9, _, Some("dead_lettered")))));
    let refused = bench.message("b", 501, |_| {});
    assert_eq!(refused, [Seen::Edge(Kind::Failure, 9, 501, Some("agent_unavailable"))]);
    let counters = bench.core.counters();
    assert_eq!((counters.turns_open, counters.dead_letters), (0, 500));
    bench.on(Input::AgentExpected { agent: AgentIndex(0) });
    assert_eq!(bench.message("b", 502, |_| {}), []);
}

/// Unknown agents and full queues are refused by name; other messages are not touched.
#[test]
fn refusals_are_named() {
    let mut limits = CoreLimits::default();
    limits.sessions.session_queue_max = 1;
    limits.sessions.sessions_max = 2;
    let mut bench = Bench::new(limits, 0, 1);
    bench.up();
    let unknown = bench.message("a", 1, |m| m.agent = "nobody".into());
    assert_eq!(unknown, [Seen::Edge(Kind::Failure, 9, 1, Some("unknown_agent"))]);
    let unrouted = bench.message("a", 1, |m| m.agent = String::new());
    assert_eq!(unrouted, [Seen::Edge(Kind::Failure, 9, 1, Some("no_route"))]);
    turn_of(&bench.message("a", 2, |_| {}));
    assert_eq!(bench.message("a", 3, |_| {}), []);
    assert_eq!(bench.message("a", 4, |_| {}), [Seen::Edge(Kind::Failure, 9, 4, Some("overloaded"))]);
    turn_of(&bench.message("b", 5, |_| {}));
    assert_eq!(bench.message("c", 6, |_| {}), [Seen::Edge(Kind::Failure, 9, 6, Some("overloaded"))]);
}

/// Who wants no reply is told that the message is kept, and then only of its end.
#[test]
fn no_reply_means_accepted_and_end() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let seen = bench.message("a", 1, |m| m.flags = FLAG_NO_REPLY);
    assert_eq!(seen[0], Seen::Edge(Kind::Accepted, 9, 1, None));
    let turn = turn_of(&seen);
    assert_eq!(bench.agent_says(Kind::Block, turn), []);
    assert_eq!(bench.agent_says(Kind::End, turn), [Seen::Edge(Kind::End, 9, 1, None)]);
}

/// An agent that talks of turns it does not hold changes nothing; one that writes garbage is fenced.
#[test]
fn agents_are_not_believed() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let turn = turn_of(&bench.message("a", 1, |_| {}));
    assert_eq!(bench.agent_says(Kind::End, turn + 1), []);
    let strange = [Kind::Message, Kind::Accepted, Kind::Stop, Kind::Cancel, Kind::Journaled];
    let others = [Kind::RollCall, Kind::Working, Kind::Kept, Kind::SkillResult, Kind::Resume, Kind::Resumed];
    for kind in strange.into_iter().chain(others) {
        assert_eq!(bench.agent_says(kind, turn), [Seen::Fenced(FIRST)]);
    }
    assert_eq!(bench.agent_says(Kind::Hello, turn), [Seen::Ready(FIRST)]);
    assert_eq!(bench.core.counters().turns_open, 1);
    assert_eq!(bench.agent_says(Kind::End, turn), [Seen::Edge(Kind::End, 9, 1, None)]);
    assert_eq!(bench.agent_says(Kind::End, turn), []);
}

/// A session of this shard whose agent lives elsewhere is reached over the mesh, there and back.
#[test]
fn agents_elsewhere_are_reached_over_the_mesh() {
    let mut here = Bench::new(CoreLimits::default(), 0, 2);
    let seen = here.message("a", 1, |m| m.agent = "other".into());
    let [Seen::Shard(ShardIndex(1), Kind::Message, turn)] = seen[..] else { panic!("{seen:?}") };
    let packet = here.given.take().unwrap();

    let mut there = Bench::new(CoreLimits::default(), 1, 2);
    there.on(Input::AgentUp { agent: AgentIndex(1), instance: FIRST });
    let seen = there.on(Input::FromShard { shard: ShardIndex(0), message: packet.message() });
    assert_eq!(seen, [Seen::Agent(FIRST, Kind::Message, turn)]);
    let seen = there.agent_says(Kind::End, turn);
    assert_eq!(seen, [Seen::Shard(ShardIndex(0), Kind::End, turn)]);
    let packet = there.given.take().unwrap();
    let seen = here.on(Input::FromShard { shard: ShardIndex(1), message: packet.message() });
    // One word is in the journal, which the agent's shard may give back.
    let kept = Seen::Shard(ShardIndex(1), Kind::Kept, 1);
    assert_eq!(seen, [Seen::Edge(Kind::End, 9, 1, None), kept]);
}
