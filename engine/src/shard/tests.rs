//! A shard between its rings, without a thread.

mod beats;
mod skills;

use std::time::Duration;

use shm_transport::envelope::{BlockV1, Body, EndV1, HelloV1, Kind, MessageV2, Opened, Route, StoredBody};
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Link};
use shm_transport::ports::{connect, session_hash};
use shm_transport::segment::{attach_agent, attach_engine, create, in_process};

use super::*;
use crate::core::{AgentDefinition, CoreLimits, CoreSetting};
use crate::event::{AgentIndex, Recovered};
use crate::events::{Event, EventMask, EventType};
use crate::journal::entry::Entry;
use crate::routing::{AgentSpec, RoutingTable};

/// How long an agent may take to say its first words.
const START: Duration = Duration::from_secs(3);

struct Bench {
    shard: Shard,
    commands: crossbeam_channel::Sender<Command>,
    /// The other end of the journal's link.
    journal: Link,
    written: u64,
    /// What the journal has written.
    kept: Vec<(Entry, StoredBody)>,
    edge: Link,
    notices: tokio::sync::mpsc::UnboundedReceiver<Notice>,
}

impl Bench {
    /// An edge hands over a message for the one agent.
    fn ask(&mut self) {
        let message = MessageV2 { agent: "echo".into(), client_id: "m".into(), ..MessageV2::default() };
        let route = Route { session: session_hash("", "", ""), origin: 3, sequence: 7, ..Route::default() };
        self.edge.sender.send(&route, &message).unwrap();
        self.edge.sender.flush().unwrap();
    }

    /// Turns of the shard with the journal's answers between them, until it has nothing more to write.
    fn turns(&mut self, now: Moment) {
        loop {
            self.shard.turn(now);
            let before = self.written;
            let Self { journal, kept, .. } = self;
            let mut write =
                |m: Message<'_>| kept.push((Entry::from_route(m.route).unwrap(), m.body().to_stored()));
            while journal.receiver.receive(64, &mut write).unwrap() > 0 {
                journal.receiver.release();
            }
            self.written = self.kept.len() as u64;
            if self.written == before {
                return;
            }
            let progress = JournalProgress { written: self.written, synced: 0, state: JournalState::Writing };
            self.journal.sender.forward(&progress.to_route(), Body::JOURNALED).unwrap();
            self.journal.sender.flush().unwrap();
        }
    }

    /// Attaches an incarnation of the one agent, and gives its end of the link.
    fn attach(&mut self, instance: InstanceId) -> Link {
        let (ours, theirs) = linked();
        let doorbell = shm_transport::doorbell::eventfd().unwrap();
        let attach = Command::Attach {
            agent: AgentIndex(0),
            instance,
            link: Box::new(ours),
            doorbell,
            start_timeout: START,
        };
        self.commands.send(attach).unwrap();
        assert_eq!(self.shard.turn(at(0)), Progress::Busy);
        theirs
    }

    /// Begins with an incarnation that has outlived another gateway, and attaches it.
    fn adopt(&mut self, instance: InstanceId, link: Link) {
        let agent = AgentIndex(0);
        self.commands.send(Command::Adopting { instances: vec![(agent, instance)] }).unwrap();
        let doorbell = shm_transport::doorbell::eventfd().unwrap();
        self.commands
            .send(Command::Adopt { agent, instance, link: Box::new(link), doorbell, start_timeout: START })
            .unwrap();
        self.turns(at(1));
    }
}

/// The ends of an agent's link.
fn linked() -> (Link, Link) {
    let bell = || Arc::new(shm_transport::doorbell::eventfd().unwrap());
    let geometry = Geometry::new(64 * 1024).unwrap();
    in_process(geometry, &bell(), &bell(), Limits::default()).unwrap()
}

/// The engine's end of rings that no agent has attached to.
fn unattached() -> Link {
    let page = shm_transport::layout::ConfigPage::new(Geometry::new(64 * 1024).unwrap(), 1, 1);
    let halves = ["engine", "agent"].map(|name| create(name, &page).unwrap());
    attach_engine(&halves[0].writable, &halves[1].read_only, None, Limits::default()).unwrap().link
}

/// The routing words of what the agent says of the message it has been given.
fn given(agent: &mut Link) -> Route {
    let (mut turn, mut attempt) = (0, 0);
    agent.receiver.receive(1, |m| (turn, attempt) = (m.route.turn, m.route.attempt)).unwrap();
    Route { turn, attempt, ..Route::default() }
}

fn bench() -> Bench {
    bench_of(core(1))
}

fn core(run: u32) -> ShardCore {
    let definitions =
        [AgentDefinition { name: "echo".into(), in_flight_max: 4, conversation_pool: None }].into();
    let spec = AgentSpec::alone(AgentIndex(0), "echo", 1);
    let routes = Arc::new(RoutingTable::build(1, &[spec], &[], None).unwrap());
    let setting = CoreSetting { shard: ShardIndex(0), shard_count: 1, run, unix_ms_at_zero: 0, seed: 0 };
    ShardCore::new(setting, definitions, routes, CoreLimits::default())
}

fn bench_of(core: ShardCore) -> Bench {
    let geometry = Geometry::new(64 * 1024).unwrap();
    let mut ports = connect(1, 1, geometry, Limits::default()).unwrap();
    let bell = || Arc::new(shm_transport::doorbell::eventfd().unwrap());
    let (ours, journal) = in_process(geometry, &bell(), &bell(), Limits::default()).unwrap();
    let (commands, mailbox) = crossbeam_channel::bounded(8);
    let (sender, notices) = tokio::sync::mpsc::unbounded_channel();
    let shard = Shard::new(
        core,
        ports.shards.remove(0),
        ours,
        mailbox,
        sender,
        Arc::default(),
        HeartbeatLimits::default(),
    );
    let edge = ports.edges.remove(0).links.remove(0);
    Bench { shard, commands, journal, written: 0, kept: Vec::new(), edge, notices }
}

fn at(millis: u64) -> Moment {
    Moment::after_start(Duration::from_millis(millis))
}

/// A shard that has been told to end says so again whenever it is asked: a driver that looks twice
/// cannot miss it.
#[test]
fn the_end_is_final() {
    let mut bench = bench();
    assert_eq!(bench.shard.turn(at(0)), Progress::Idle);
    bench.commands.send(Command::End).unwrap();
    for moment in 1..4 {
        assert_eq!(bench.shard.turn(at(moment)), Progress::Ended);
    }
}

/// An agent that rings without a cause is not listened to for a while, each time for longer, up to a limit; a
/// message makes up for it.
#[test]
fn rings_without_cause_are_throttled() {
    let mut bench = bench();
    let mut agent = bench.attach(InstanceId(1));
    let storm = |shard: &mut Shard| {
        for _ in 0..EMPTY_RINGS_MAX {
            assert_eq!(shard.rung(InstanceId(1)), None);
        }
        shard.rung(InstanceId(1)).expect("one ring more than allowed")
    };
    let mut pauses: Vec<_> = (0..9).map(|_| storm(&mut bench.shard)).collect();
    assert_eq!((pauses[0], pauses[1]), (DEAF_MIN, 2 * DEAF_MIN));
    assert_eq!(pauses.pop(), Some(DEAF_MAX));
    agent.sender.send(&Route::default(), &HelloV1::default()).unwrap();
    agent.sender.flush().unwrap();
    assert_eq!(bench.shard.turn(at(1)), Progress::Busy);
    assert_eq!(storm(&mut bench.shard), DEAF_MIN);
    assert_eq!(bench.shard.rung(InstanceId(2)), None, "of one that is gone");
}

/// Everything that a dead agent has published is heard, however much that is and however it travels.
#[test]
fn the_last_words_are_heard_to_the_end() {
    let mut bench = bench();
    let mut agent = bench.attach(InstanceId(1));
    bench.ask();
    bench.turns(at(1));
    let mut route = given(&mut agent);
    for n in 0..3 * RECORDS_PER_TURN {
        // The first by descriptor.
        let content = "x".repeat(if n == 0 { 40_000 } else { 1 });
        agent.sender.send(&route, &BlockV1 { block_type: 0, content }).unwrap();
        route.sequence += 1;
    }
    agent.sender.send(&route, &EndV1::default()).unwrap();
    agent.sender.flush().unwrap();
    assert_eq!(agent.sender.backlog_bytes(), 0);
    drop(agent);
    let down = Command::Down { agent: AgentIndex(0), instance: InstanceId(1), detail: "killed".into() };
    bench.commands.send(down).unwrap();
    bench.turns(at(2));
    let mut seen = Vec::new();
    while bench.edge.receiver.receive(1000, |m| seen.push(m.kind())).unwrap() > 0 {
        bench.edge.receiver.release();
        bench.turns(at(3));
    }
    assert_eq!(seen.len(), 3 * RECORDS_PER_TURN + 1);
    assert_eq!(seen.last(), Some(&Kind::End));
}

/// What an agent has said stays in its ring until the journal has it, also what came by descriptor; the shard sleeps
/// until then.
#[test]
fn words_stay_in_the_ring_until_they_are_kept() {
    let mut bench = bench();
    let mut agent = bench.attach(InstanceId(1));
    bench.ask();
    bench.turns(at(1));
    let mut route = given(&mut agent);
    let mut say = |agent: &mut Link, bytes| {
        agent.sender.send(&route, &BlockV1 { block_type: 0, content: "x".repeat(bytes) }).unwrap();
        agent.sender.flush().unwrap();
        route.sequence += 1;
    };
    // More than the ring holds, and two by descriptor, of which the second is not looked at before the first is kept.
    for bytes in std::iter::repeat_n(8000, 12).chain([40_000, 40_000]) {
        say(&mut agent, bytes);
    }
    let mut waits = agent.sender.backlog_bytes();
    assert!(waits > 0);
    while waits > 0 {
        while bench.shard.turn(at(2)) == Progress::Busy {}
        agent.sender.flush().unwrap();
        assert_eq!(agent.sender.backlog_bytes(), waits, "nothing is given back before the journal has it");
        assert!(bench.shard.prepare_sleep(), "there is nothing to do before the journal has answered");
        bench.shard.awake();
        bench.turns(at(3));
        agent.sender.flush().unwrap();
        assert!(agent.sender.backlog_bytes() < waits);
        waits = agent.sender.backlog_bytes();
    }
    for _ in 0..4 {
        bench.turns(at(4));
        agent.sender.flush().unwrap();
    }
    let mut seen = 0;
    while bench.edge.receiver.receive(1000, |_| seen += 1).unwrap() > 0 {
        bench.edge.receiver.release();
        bench.turns(at(5));
    }
    assert_eq!(seen, 14);
}

/// An agent of an earlier gateway is asked what it works on, and gets what waits when it has answered.
#[test]
fn an_adopted_agent_is_asked() {
    let mut bench = bench();
    let (ours, mut agent) = linked();
    bench.adopt(InstanceId(1), ours);
    bench.ask();
    bench.turns(at(2));
    let mut heard = Vec::new();
    agent.receiver.receive(9, |m| heard.push((m.kind(), m.route.session))).unwrap();
    assert_eq!(heard, [(Kind::RollCall, 1)]);
    assert!(bench.notices.try_recv().is_err(), "it has not answered");
    agent.sender.forward(&Route { session: 1, ..Route::default() }, Body::WORKING).unwrap();
    agent.sender.flush().unwrap();
    bench.turns(at(3));
    heard.clear();
    agent.receiver.receive(9, |m| heard.push((m.kind(), 0))).unwrap();
    assert_eq!(heard, [(Kind::Message, 0)]);
    let Ok(Notice::AgentAdopted { instance }) = bench.notices.try_recv() else { panic!("it has answered") };
    assert_eq!(instance, InstanceId(1));
}

/// One that had not even attached has nothing, and nobody waits for it.
#[test]
fn an_agent_that_never_attached_is_not_asked() {
    let mut bench = bench();
    bench.adopt(InstanceId(1), unattached());
    assert!(matches!(bench.notices.try_recv(), Ok(Notice::AgentAdopted { .. })));
}

/// A gateway dies between two words of a reply: one is in the journal, one was read and is not, one was not read. The
/// next gateway takes over the rings, and whoever asks again hears each of them once, in order, in the same attempt.
#[test]
fn the_next_gateway_goes_on() {
    let page = shm_transport::layout::ConfigPage::new(Geometry::new(64 * 1024).unwrap(), 1, 1);
    let [ours, theirs] = ["engine", "agent"].map(|name| create(name, &page).unwrap());
    let attach = || attach_engine(&ours.writable, &theirs.read_only, None, Limits::default()).unwrap().link;
    let instance = InstanceId(1);
    let mut first = bench();
    first.adopt(instance, attach());
    let bell = shm_transport::doorbell::eventfd().unwrap();
    let agent = attach_agent(&ours.read_only, &theirs.writable, bell, None, Limits::default());
    let mut agent = agent.unwrap().link;
    first.ask();
    first.turns(at(2));
    let mut route = given(&mut agent);
    agent.receiver.release();
    let mut say = |agent: &mut Link, content: &str| {
        agent.sender.send(&route, &BlockV1 { block_type: 0, content: content.into() }).unwrap();
        agent.sender.flush().unwrap();
        route.sequence += 1;
    };
    say(&mut agent, "one");
    first.turns(at(3));
    say(&mut agent, "two");
    first.shard.turn(at(4));
    say(&mut agent, "three");

    let mut next = core(2);
    let mut tell = |found| next.on(Moment::ZERO, Input::Recovered(found), &mut |_| {});
    for ((entry, body), sequence) in first.kept.iter().zip(0..) {
        let message = body.as_message(Route::default());
        tell(Recovered::Record { sequence, at_ms: 0, entry: *entry, message });
    }
    tell(Recovered::NextSequence(first.written));
    drop(first.shard);
    let mut second = Bench { kept: first.kept, ..bench_of(next) };
    second.adopt(instance, attach());
    let mut asked = Route::default();
    agent.receiver.receive(9, |m| asked = m.route).unwrap();
    for (turn, attempt) in [(route.turn, 1), (0, 0)] {
        let working = Route { turn, session: asked.session, origin: 1, sequence: 0, attempt };
        agent.sender.forward(&working, Body::WORKING).unwrap();
    }
    agent.sender.send(&route, &EndV1 { content: "end".into() }).unwrap();
    agent.sender.flush().unwrap();
    second.ask();
    second.turns(at(5));
    let mut heard = Vec::new();
    let hear = |m: Message<'_>| {
        heard.push(match m.open() {
            Opened::Block(block) => (m.route.attempt, block.content.to_string()),
            Opened::End(end) => (m.route.attempt, end.content.to_string()),
            _ => panic!("{:?}", m.kind()),
        });
    };
    second.edge.receiver.receive(100, hear).unwrap();
    assert_eq!(heard, ["one", "two", "three", "end"].map(|text| (1, text.to_owned())));
}

/// While an edge is behind, an agent is not read, however often the shard sleeps, which it may; and it is read again
/// once the edge has caught up, though it has nothing more to ring for.
#[test]
fn who_is_held_back_is_read_later() {
    let mut bench = bench();
    let mut agent = bench.attach(InstanceId(1));
    bench.ask();
    bench.turns(at(1));
    let mut route = given(&mut agent);
    while !bench.shard.outputs.edges_behind() {
        let block = BlockV1 { block_type: 0, content: "x".repeat(8000) };
        agent.sender.send(&route, &block).unwrap();
        route.sequence += 1;
        agent.sender.flush().unwrap();
        bench.turns(at(2));
    }
    agent.sender.send(&route, &EndV1::default()).unwrap();
    agent.sender.flush().unwrap();
    for _ in 0..2 * QUIET_SLEEPS_MAX {
        assert_eq!(bench.shard.turn(at(3)), Progress::Idle);
        assert!(bench.shard.prepare_sleep(), "there is nothing to do before the edge has caught up");
        bench.shard.awake();
    }
    let mut last = None;
    while bench.edge.receiver.receive(1000, |m| last = Some(m.kind())).unwrap() > 0 {
        bench.edge.receiver.release();
        if bench.shard.prepare_sleep() {
            bench.shard.awake();
        }
        bench.turns(at(4));
    }
    assert_eq!(last, Some(Kind::End));
}

/// An agent that takes no descriptors, and is sent what is too large for fragments, is fenced; the shard goes on.
#[test]
fn an_agent_that_cannot_take_a_message_is_fenced() {
    let mut bench = bench();
    let link = unattached();
    let doorbell = shm_transport::doorbell::eventfd().unwrap();
    let instance = InstanceId(1);
    let attach = Command::Attach {
        agent: AgentIndex(0),
        instance,
        link: Box::new(link),
        doorbell,
        start_timeout: START,
    };
    bench.commands.send(attach).unwrap();
    let message = MessageV2 { agent: "echo".into(), content: "x".repeat(3 << 20), ..MessageV2::default() };
    let route = Route { session: session_hash("", "", ""), ..Route::default() };
    bench.edge.sender.send(&route, &message).unwrap();
    bench.edge.sender.flush().unwrap();
    bench.turns(at(0));
    let Ok(Notice::AgentFenced { instance: found, poison }) = bench.notices.try_recv() else {
        panic!("the agent is not fenced");
    };
    assert_eq!((found, poison), (instance, Poison::MessageTooLarge { max: 2 << 20 }));
    assert_eq!(bench.shard.turn(at(1)), Progress::Idle);
}

/// A message for an agent that never comes up waits, and is refused when that is known for good; the edge
/// is told in the same turn.
#[test]
fn a_turn_carries_effects_to_the_edge() {
    let mut bench = bench();
    bench.ask();
    bench.turns(at(0));
    assert_eq!(bench.shard.turn(at(1)), Progress::Idle);
    assert!(bench.shard.prepare_sleep());
    let unavailable =
        Command::Agent { agent: AgentIndex(0), word: AgentWord::Unavailable("it is gone".into()) };
    bench.commands.send(unavailable).unwrap();
    assert!(!bench.shard.prepare_sleep(), "a command waits");
    bench.turns(at(2));
    let mut seen = Vec::new();
    let count = bench.edge.receiver.receive(8, |m| seen.push((m.kind(), m.route.origin, m.route.sequence)));
    assert_eq!((count, seen), (Ok(1), vec![(Kind::Failure, 3, 7)]));
}

/// A listener is told of the events it wants until it is sent away or wants no more, and nobody else's are made then.
#[test]
fn listeners_are_told_until_they_go() {
    let mut bench = bench();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let subscribe = |id, listening| {
        let told = Arc::clone(&told);
        let each = move |event: &Event<'_>| {
            told.lock().unwrap().push((id, event.event_type()));
            listening
        };
        let mask = EventMask::NONE.with(EventType::MessageReceived);
        let listener = Listener(Box::new(each));
        bench.commands.send(Command::Subscribe { id: ListenerId(id), mask, listener }).unwrap();
    };
    subscribe(1, Listening::Goes);
    subscribe(2, Listening::Ends);
    let say = |bench: &mut Bench| {
        let message = MessageV2 { agent: "echo".into(), ..MessageV2::default() };
        let route = Route { session: session_hash("", "", ""), ..Route::default() };
        bench.edge.sender.send(&route, &message).unwrap();
        bench.edge.sender.flush().unwrap();
        bench.turns(at(0));
        std::mem::take(&mut *told.lock().unwrap())
    };
    let received = EventType::MessageReceived;
    assert_eq!(say(&mut bench), [(1, received), (2, received)]);
    assert_eq!(say(&mut bench), [(1, received)]);
    bench.commands.send(Command::Unsubscribe(ListenerId(1))).unwrap();
    assert_eq!(say(&mut bench), []);
    assert_eq!(bench.shard.outputs.wanted(), EventMask::NONE);
}
