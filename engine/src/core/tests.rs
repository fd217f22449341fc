//! Rules of the core, one at a time. Random schedules are in the simulation tests.

use std::sync::Arc;

use rkyv::util::AlignedVec;
use shm_transport::envelope::{
    BlockV1, Body, Content, Encoder, EndV1, FLAG_NO_REPLY, FailureCode, FailureV1, HelloV1, Kind, Message,
    MessageV2, Opened, Priority, Route,
};

use super::{AgentDefinition, CoreLimits, ShardCore};
use crate::event::{AgentIndex, EdgeIndex, Effect, Input, InstanceId, ShardIndex};
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
}

struct Bench {
    core: ShardCore,
}

/// A message as a receiver has it.
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

impl Bench {
    fn new(limits: CoreLimits, shard: u8, shard_count: u8) -> Self {
        let definitions: Arc<[AgentDefinition]> = [("echo", 2), ("other", 2)]
            .map(|(name, in_flight_max)| AgentDefinition { name: name.into(), in_flight_max })
            .into();
        let core = ShardCore::new(ShardIndex(shard), shard_count, definitions, limits);
        Self { core }
    }

    fn on(&mut self, input: Input<'_>) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.core.on(Moment::ZERO, input, &mut |effect| {
            seen.push(match effect {
                Effect::ToEdge { route, body, .. } => {
                    Seen::Edge(body.kind(), route.origin, route.sequence, failure_name(body))
                }
                Effect::ToAgent { instance, route, body } => Seen::Agent(instance, body.kind(), route.turn),
                Effect::ToShard { shard, route, body } => Seen::Shard(shard, body.kind(), route.turn),
                Effect::AgentReady { instance } => Seen::Ready(instance),
                Effect::Fence { instance, .. } => Seen::Fenced(instance),
            });
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
        let packet = Packet::of(Route { origin: 9, sequence, ..Route::default() }, &value);
        self.on(Input::FromEdge { edge: EDGE, message: packet.message() })
    }

    fn agent_says(&mut self, kind: Kind, turn: u64) -> Vec<Seen> {
        let route = Route { turn, ..Route::default() };
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
        };
        self.on(Input::FromAgent { instance: FIRST, message: packet.message() })
    }

    fn up(&mut self) -> Vec<Seen> {
        self.on(Input::AgentUp { agent: AgentIndex(0), instance: FIRST })
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
    let urgent = turn_of(&bench.agent_says(Kind::End, first));
    assert_eq!(bench.agent_says(Kind::Block, urgent), [Seen::Edge(Kind::Block, 9, 4, None)]);
}

/// Who dies with work in hand fails that work and nothing else; what waits goes to the next incarnation.
#[test]
fn death_fails_what_was_in_hand_only() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    bench.message("a", 1, |_| {});
    bench.message("a", 2, |_| {});
    let seen = bench.on(Input::AgentDown { agent: AgentIndex(0), detail: "signal 9" });
    assert_eq!(seen, [Seen::Edge(Kind::Failure, 9, 1, Some("agent_died"))]);
    assert_eq!(bench.core.counters().messages_queued, 1);
    let seen = bench.on(Input::AgentUp { agent: AgentIndex(0), instance: InstanceId(2) });
    assert!(matches!(seen[..], [Seen::Agent(InstanceId(2), Kind::Message, _)]), "{seen:?}");
    // The words of the dead incarnation count no more.
    let turn = turn_of(&seen);
    assert_eq!(bench.agent_says(Kind::End, turn), []);
    assert_eq!(bench.core.counters().agent_strays, 1);
}

/// An agent that will not come back refuses what waits and what comes, a long session included.
#[test]
fn unavailable_agents_refuse() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    for sequence in 0..500 {
        assert_eq!(bench.message("a", sequence, |_| {}), []);
    }
    let seen = bench.on(Input::AgentUnavailable { agent: AgentIndex(0), detail: "exits at once" });
    assert_eq!(seen.len(), 500);
    assert!(seen.iter().all(|s| matches!(s, Seen::Edge(Kind::Failure, 9, _, Some("agent_unavailable")))));
    let refused = bench.message("b", 501, |_| {});
    assert_eq!(refused, [Seen::Edge(Kind::Failure, 9, 501, Some("agent_unavailable"))]);
    assert_eq!(bench.core.counters().turns_open, 0);
}

/// Unknown agents and full queues are refused by name; other messages are not touched.
#[test]
fn refusals_are_named() {
    let limits = CoreLimits { session_queue_max: 1, sessions_max: 2, ..CoreLimits::default() };
    let mut bench = Bench::new(limits, 0, 1);
    bench.up();
    let unknown = bench.message("a", 1, |m| m.agent = "nobody".into());
    assert_eq!(unknown, [Seen::Edge(Kind::Failure, 9, 1, Some("unknown_agent"))]);
    turn_of(&bench.message("a", 2, |_| {}));
    assert_eq!(bench.message("a", 3, |_| {}), []);
    assert_eq!(bench.message("a", 4, |_| {}), [Seen::Edge(Kind::Failure, 9, 4, Some("overloaded"))]);
    turn_of(&bench.message("b", 5, |_| {}));
    assert_eq!(bench.message("c", 6, |_| {}), [Seen::Edge(Kind::Failure, 9, 6, Some("overloaded"))]);
}

/// Who wants no reply is told that the message was taken, and then only of its end.
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
    for kind in [Kind::Message, Kind::Accepted, Kind::Stop] {
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

    let mut there = Bench::new(CoreLimits::default(), 1, 2);
    there.on(Input::AgentUp { agent: AgentIndex(1), instance: FIRST });
    let value = MessageV2 { agent: "other".into(), ..MessageV2::default() };
    let route = Route { turn, ..Route::default() };
    let packet = Packet::of(route, &value);
    let seen = there.on(Input::FromShard { shard: ShardIndex(0), message: packet.message() });
    assert_eq!(seen, [Seen::Agent(FIRST, Kind::Message, turn)]);
    assert_eq!(there.agent_says(Kind::End, turn), [Seen::Shard(ShardIndex(0), Kind::End, turn)]);

    let packet = Packet::of(route, &EndV1::default());
    let seen = here.on(Input::FromShard { shard: ShardIndex(1), message: packet.message() });
    assert_eq!(seen, [Seen::Edge(Kind::End, 9, 1, None)]);
}

/// Idle sessions are forgotten after their time; busy and lately used ones are not.
#[test]
fn idle_sessions_expire() {
    let mut bench = Bench::new(CoreLimits::default(), 0, 1);
    bench.up();
    let done = turn_of(&bench.message("done", 1, |_| {}));
    bench.agent_says(Kind::End, done);
    turn_of(&bench.message("busy", 2, |_| {}));
    assert_eq!(bench.core.counters().sessions, 2);
    let due = bench.core.next_deadline().unwrap();
    assert_eq!(due, Moment::ZERO.plus(CoreLimits::default().session_idle));
    bench.core.on(due, Input::Tick, &mut |_| {});
    assert_eq!(bench.core.counters().sessions, 1);
    assert_eq!(bench.core.next_deadline(), None);
}
