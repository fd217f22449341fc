//! An agent against the engine's end of its link, over real segments in one process.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use agent_sdk::{Agent, AttachError, BlockType, FailureCode, Inherited, Received, SkillOutcome, SkillResult};
use shm_transport::envelope::{Body, Kind, MessageV2, Opened, Route, SkillResultV1};
use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::link::{Limits, Link};
use shm_transport::segment::Segment;
use shm_transport::{doorbell, passage, segment};

const WAIT: Duration = Duration::from_secs(10);

/// What a keeper holds of an agent, for one gateway after the other.
struct Held {
    engine_half: Segment,
    agent_half: Segment,
    passage: OwnedFd,
}

impl Held {
    fn engine(&self) -> Link {
        let (writable, read_only) = (self.engine_half.writable.as_fd(), self.agent_half.read_only.as_fd());
        let passage = Some(self.passage.try_clone().unwrap());
        segment::attach_engine(writable, read_only, passage, Limits::default()).unwrap().link
    }
}

/// The engine's end of a new link, and what an agent inherits for the other.
fn pair(capacity_bytes: u64) -> (Link, Inherited) {
    let (held, inherited) = held(capacity_bytes);
    (held.engine(), inherited)
}

fn held(capacity_bytes: u64) -> (Held, Inherited) {
    let page = ConfigPage::new(Geometry::new(capacity_bytes).unwrap(), 7, 3);
    let engine_half = segment::create("engine", &page).unwrap();
    let agent_half = segment::create("agent", &page).unwrap();
    let (ours, theirs) = passage::pair().unwrap();
    let inherited = Inherited {
        name: "test".to_owned(),
        generation: 3,
        engine_half: engine_half.read_only.try_clone().unwrap(),
        agent_half: agent_half.writable.try_clone().unwrap(),
        doorbell: doorbell::eventfd().unwrap(),
        passage: Some(theirs),
    };
    (Held { engine_half, agent_half, passage: ours }, inherited)
}

fn say(engine: &mut Link, turn: u64, content: &str) {
    let message = MessageV2 { agent: "test".into(), content: content.into(), ..MessageV2::default() };
    let route = Route { turn, session: 5, origin: 6, sequence: 8, attempt: 2 };
    engine.sender.send(&route, &message).unwrap();
    engine.sender.flush().unwrap();
}

/// Everything the agent has sent so far, as (kind, route, text).
fn replies(engine: &mut Link) -> Vec<(Kind, Route, String)> {
    let mut seen = Vec::new();
    engine
        .receiver
        .receive(1000, |message| {
            let text = match message.open() {
                Opened::Block(block) => block.content.as_str(),
                Opened::End(end) => end.content.as_str(),
                Opened::Failure(failure) => failure.text.as_str(),
                Opened::Hello(hello) => hello.software.as_str(),
                _ => "",
            };
            seen.push((message.kind(), message.route, text.to_owned()));
        })
        .unwrap();
    engine.receiver.release();
    seen
}

/// Hello comes first; a reply echoes the routing words, but counts its blocks; Stop is reported after the messages before it.
#[test]
fn replies_echo_the_route() {
    let (mut engine, inherited) = pair(65_536);
    let agent = Agent::attach_to(inherited).unwrap();
    let hello = replies(&mut engine);
    assert_eq!(hello.len(), 1);
    assert_eq!((hello[0].0, hello[0].2.starts_with("agent-sdk/")), (Kind::Hello, true));

    let (mut inbox, mut outbox) = agent.split();
    assert_eq!(inbox.receive(Duration::ZERO, |_| {}).unwrap(), Received::Idle);
    say(&mut engine, 41, "one");
    say(&mut engine, 42, "two");
    engine.sender.forward(&Route::default(), Body::STOP).unwrap();
    engine.sender.flush().unwrap();
    let received = inbox.receive(WAIT, |turn| {
        assert_eq!((turn.agent(), turn.is_json(), turn.id().attempt()), ("test", false, 2));
        outbox.block(&turn.id(), BlockType::Code, "piece").unwrap();
        if turn.id().turn() == 41 {
            outbox.end(&turn.id(), turn.content()).unwrap();
        } else {
            outbox.fail(&turn.id(), FailureCode::AgentError, "no").unwrap();
        }
    });
    assert_eq!(received.unwrap(), Received::Messages(2));
    assert_eq!(inbox.receive(WAIT, |_| {}).unwrap(), Received::Stopped);
    assert_eq!(replies(&mut engine), [], "nothing is visible before the flush");
    outbox.flush().unwrap();

    let route = |turn, sequence| Route { turn, session: 5, origin: 6, sequence, attempt: 2 };
    let expected = [
        (Kind::Block, route(41, 0), "piece".to_owned()),
        (Kind::End, route(41, 1), "one".to_owned()),
        (Kind::Block, route(42, 0), "piece".to_owned()),
        (Kind::Failure, route(42, 1), "no".to_owned()),
    ];
    assert_eq!(replies(&mut engine), expected);
    assert!(!engine.receiver.peer_closed());
    outbox.close().unwrap();
    assert!(engine.receiver.peer_closed());
}

/// A cancelled turn is shown once, behind the messages before it, and wakes an agent that has nothing else to receive;
/// its answer is taken all the same.
#[test]
fn a_cancelled_turn_is_shown() {
    let (mut engine, inherited) = pair(65_536);
    let (mut inbox, mut outbox) = Agent::attach_to(inherited).unwrap().split();
    let cancel = |engine: &mut Link, turn| {
        engine.sender.forward(&Route { turn, ..Route::default() }, Body::CANCEL).unwrap();
        engine.sender.flush().unwrap();
    };
    let mut ids = Vec::new();
    say(&mut engine, 41, "one");
    cancel(&mut engine, 41);
    say(&mut engine, 42, "two");
    let received = inbox.receive(WAIT, |turn| ids.push(turn.id()));
    assert_eq!((received.unwrap(), inbox.cancelled()), (Received::Messages(2), [41].as_slice()));
    cancel(&mut engine, 42);
    let received = inbox.receive(WAIT, |turn| ids.push(turn.id()));
    assert_eq!((received.unwrap(), inbox.cancelled()), (Received::Messages(0), [42].as_slice()));
    let received = inbox.receive(Duration::ZERO, |turn| ids.push(turn.id()));
    assert_eq!((received.unwrap(), inbox.cancelled()), (Received::Idle, [].as_slice()));
    for id in &ids {
        outbox.end(id, "").unwrap();
    }
    outbox.flush().unwrap();
    let ended: Vec<_> =
        replies(&mut engine).iter().skip(1).map(|(kind, route, _)| (*kind, route.turn)).collect();
    assert_eq!(ended, [(Kind::End, 41), (Kind::End, 42)]);
}

/// A gateway that closes its ring stops the agent.
#[test]
fn a_closed_ring_stops() {
    let (mut engine, inherited) = pair(4096);
    let (mut inbox, _outbox) = Agent::attach_to(inherited).unwrap().split();
    say(&mut engine, 1, "last");
    engine.sender.close();
    assert_eq!(inbox.receive(WAIT, |_| {}).unwrap(), Received::Messages(1));
    assert_eq!(inbox.receive(WAIT, |_| {}).unwrap(), Received::Stopped);
}

/// A reply far larger than ring and backlog arrives whole while the agent waits for room.
#[test]
fn a_full_ring_makes_the_agent_wait() {
    let (mut engine, inherited) = pair(4096);
    let (mut inbox, mut outbox) = Agent::attach_to(inherited).unwrap().split();
    say(&mut engine, 1, "go");
    let block = "x".repeat(100_000);
    let agent = std::thread::spawn(move || {
        let received = inbox.receive(WAIT, |turn| {
            for _ in 0..60 {
                outbox.block(&turn.id(), BlockType::Text, &block).unwrap();
            }
            outbox.end(&turn.id(), "done").unwrap();
        });
        assert_eq!(received.unwrap(), Received::Messages(1));
        outbox.flush().unwrap();
    });
    let deadline = Instant::now() + WAIT;
    let (mut blocks, mut end) = (0, String::new());
    while end.is_empty() {
        assert!(Instant::now() < deadline, "{blocks} blocks arrived");
        for (kind, _, text) in replies(&mut engine) {
            match kind {
                Kind::Block => {
                    assert_eq!(text.len(), 100_000);
                    blocks += 1;
                }
                Kind::End => end = text,
                _ => {}
            }
        }
        std::thread::yield_now();
    }
    assert_eq!((blocks, end.as_str()), (60, "done"));
    agent.join().unwrap();
}

/// Rings of another incarnation, and a process without a keeper, are refused by name.
#[test]
fn refusals_name_the_thing() {
    let (_engine, inherited) = pair(4096);
    let error = Agent::attach_to(Inherited { generation: 4, ..inherited }).unwrap_err();
    assert_eq!(error.to_string(), "the rings of agent test are of generation 3, expected 4");
    let error = Agent::attach().unwrap_err();
    assert!(matches!(error, AttachError::Inherit(_)));
    assert!(error.to_string().starts_with("environment variable OPENCLAW_AGENT_NAME is not set"), "{error}");
}

/// A gateway asks what the agent works on.
fn call_roll(engine: &mut Link, roll_call: u64) {
    let route = Route { session: roll_call, ..Route::default() };
    engine.sender.forward(&route, Body::ROLL_CALL).unwrap();
    engine.sender.flush().unwrap();
}

/// What the agent has said before it answered the roll call, as (kind, turn, number); which turns it lists, as (turn,
/// roll call, attempt); and the routing words that say that these were all.
#[expect(clippy::type_complexity, reason = "three lists, taken apart at once")]
fn answer(engine: &mut Link) -> (Vec<(Kind, u64, u32)>, Vec<(u64, u64, u32)>, Option<Route>) {
    let mut seen = replies(engine);
    let from = seen.iter().position(|(kind, ..)| *kind == Kind::Working).unwrap_or(seen.len());
    let mut answer: Vec<_> = seen.drain(from..).collect();
    if let Some((last, ..)) = answer.pop() {
        assert_eq!(last, Kind::Hello, "who asks has not heard it");
    }
    let mut working: Vec<_> = answer.into_iter().map(|(_, route, _)| route).collect();
    let last = working.pop();
    // In any order.
    working.sort_unstable_by_key(|route| route.turn);
    let said = seen.iter().map(|(kind, route, _)| (*kind, route.turn, route.sequence)).collect();
    (said, working.iter().map(|route| (route.turn, route.session, route.attempt)).collect(), last)
}

/// An agent that is asked what it works on says so behind all that it has said before, whatever its outbox is busy with:
/// what it has received and not ended, also what it received just before the question. A turn goes on where it was.
#[test]
fn a_roll_call_is_answered_in_the_middle_of_work() {
    let (held, inherited) = held(65_536);
    let mut engine = held.engine();
    let (mut inbox, outbox) = Agent::attach_to(inherited).unwrap().split();
    let mut ids = Vec::new();
    let receive = |inbox: &mut agent_sdk::Inbox, ids: &mut Vec<agent_sdk::TurnId>, count| {
        let mut left = count;
        while left > 0 {
            let received = inbox.receive(WAIT, |turn| ids.push(turn.id())).unwrap();
            let Received::Messages(messages) = received else { panic!("{received:?}") };
            left -= messages;
        }
    };
    (41..=43).for_each(|turn| say(&mut engine, turn, "work"));
    receive(&mut inbox, &mut ids, 3);
    // The outbox is with a thread that works, and says something once in a while.
    let (orders, work) = std::sync::mpsc::channel::<Box<dyn FnOnce(&mut agent_sdk::Outbox) + Send>>();
    let (done, finished) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        let mut outbox = outbox;
        for order in work {
            order(&mut outbox);
            done.send(()).unwrap();
        }
    });
    let run = |order: Box<dyn FnOnce(&mut agent_sdk::Outbox) + Send>| {
        orders.send(order).unwrap();
        finished.recv_timeout(WAIT).unwrap();
    };
    let (first, second) = (ids[0], ids[1]);
    run(Box::new(move |outbox| {
        outbox.end(&first, "done").unwrap();
        outbox.block(&second, BlockType::Text, "piece").unwrap();
    }));
    say(&mut engine, 44, "more");
    let mut engine = held.engine();
    call_roll(&mut engine, 9);
    receive(&mut inbox, &mut ids, 1);
    let _nothing = inbox.receive(Duration::ZERO, |_| panic!("nothing was sent")).unwrap();
    let (said, working, last) = answer(&mut engine);
    assert_eq!(said, [(Kind::Hello, 0, 0), (Kind::End, 41, 0), (Kind::Block, 42, 0)]);
    assert_eq!(working, [(42, 9, 2), (43, 9, 2), (44, 9, 2)]);
    assert_eq!(last.map(|route| (route.turn, route.session)), Some((0, 9)));
    run(Box::new(move |outbox| {
        outbox.block(&second, BlockType::Text, "piece").unwrap();
        outbox.end(&second, "done").unwrap();
        outbox.flush().unwrap();
    }));
    call_roll(&mut engine, 10);
    let _nothing = inbox.receive(Duration::ZERO, |_| panic!("nothing was sent")).unwrap();
    let (said, working, last) = answer(&mut engine);
    assert_eq!(said, [(Kind::Block, 42, 1), (Kind::End, 42, 2)]);
    assert_eq!((working, last.is_some()), (vec![(43, 10, 2), (44, 10, 2)], true));
    drop(orders);
    worker.join().unwrap();
}

/// What a skill has said comes under the number that it was asked for under, once, and does not wait for a message. What a
/// gateway that is gone was asked is lost, and a late answer to it is passed over.
#[test]
fn skills_are_answered_or_lost() {
    let (held, inherited) = held(65_536);
    let mut engine = held.engine();
    let (mut inbox, mut outbox) = Agent::attach_to(inherited).unwrap().split();
    outbox.ask_skill(7, "count", "two words").unwrap();
    outbox.ask_skill(8, "count", "").unwrap();
    outbox.flush().unwrap();
    let mut asked = Vec::new();
    let each = |message: shm_transport::envelope::Message<'_>| {
        if let Opened::Skill(skill) = message.open() {
            asked.push((message.route.origin, skill.skill.to_string(), skill.input.to_string()));
        }
    };
    engine.receiver.receive(1000, each).unwrap();
    engine.receiver.release();
    assert_eq!(asked, [(7, "count".into(), "two words".into()), (8, "count".into(), String::new())]);

    let answer = |engine: &mut Link, call, output: &str| {
        let result = SkillResultV1 { outcome: SkillOutcome::Done as u16, output: output.into() };
        engine.sender.send(&Route { origin: call, ..Route::default() }, &result).unwrap();
        engine.sender.flush().unwrap();
    };
    let receive = |inbox: &mut agent_sdk::Inbox| {
        let received = inbox.receive(Duration::ZERO, |_| panic!("no message was sent")).unwrap();
        (received, inbox.skill_results().to_vec())
    };
    answer(&mut engine, 7, "2");
    answer(&mut engine, 7, "again");
    answer(&mut engine, 9, "nobody asked");
    let done = SkillResult { call: 7, outcome: SkillOutcome::Done, output: "2".into() };
    assert_eq!(receive(&mut inbox), (Received::Messages(0), vec![done]));
    assert_eq!(receive(&mut inbox), (Received::Idle, vec![]));

    let mut engine = held.engine();
    call_roll(&mut engine, 9);
    let (_, results) = receive(&mut inbox);
    assert_eq!(
        results.iter().map(|result| (result.call, result.outcome)).collect::<Vec<_>>(),
        [(8, SkillOutcome::Lost)]
    );
    answer(&mut engine, 8, "late");
    assert_eq!(receive(&mut inbox), (Received::Idle, vec![]));
}

/// An agent works on while one gateway after the other dies without a word and the next takes over its rings:
/// whatever was published, of any size, is answered once, in order, and the agent notices nothing. What a gateway
/// had received but not released, its successor receives again.
#[test]
fn an_agent_outlives_its_gateways() {
    const GATEWAYS: u64 = 200;
    let (held, inherited) = held(4096);
    let (mut inbox, mut outbox) = Agent::attach_to(inherited).unwrap().split();
    let agent = std::thread::spawn(move || {
        let mut expected = 1;
        while inbox
            .receive(WAIT, |turn| {
                assert_eq!(turn.id().turn(), expected, "each message once and in order");
                expected += 1;
                outbox.block(&turn.id(), BlockType::Text, turn.content()).unwrap();
                outbox.end(&turn.id(), turn.content()).unwrap();
            })
            .unwrap()
            != Received::Stopped
        {
            outbox.flush().unwrap();
        }
        outbox.close().unwrap();
    });
    // Small ones, such as take several records, and such as travel by descriptor.
    let content = |turn: u64| "x".repeat([3, 700, 9000][turn as usize % 3]);
    let (mut sent, mut ended) = (0, BTreeSet::new());
    let mut last = None;
    for gateway in 0..=GATEWAYS {
        let mut engine = held.engine();
        // A successor, too, has to wait for room; what is only in its backlog when it dies was never sent.
        let more = if gateway < GATEWAYS { gateway % 5 } else { 0 };
        for turn in sent + 1..=sent + more {
            say(&mut engine, turn, &content(turn));
            let deadline = Instant::now() + WAIT;
            while engine.sender.backlog_bytes() > 0 {
                assert!(Instant::now() < deadline, "no room for turn {turn} in gateway {gateway}");
                take(&mut engine, &mut last, &mut ended, content);
                engine.receiver.release();
                engine.sender.flush().unwrap();
                std::thread::yield_now();
            }
        }
        sent += more;
        let deadline = Instant::now() + WAIT;
        while gateway == GATEWAYS && ended.len() < sent as usize {
            assert!(Instant::now() < deadline, "{} of {sent} answered", ended.len());
            take(&mut engine, &mut last, &mut ended, content);
            engine.receiver.release();
            std::thread::yield_now();
        }
        take(&mut engine, &mut last, &mut ended, content);
        if gateway % 3 == 0 {
            engine.receiver.release();
        }
        if gateway == GATEWAYS {
            engine.sender.forward(&Route::default(), Body::STOP).unwrap();
            engine.sender.flush().unwrap();
        }
        // Dropped without a word: a killed gateway says none either.
    }
    agent.join().unwrap();
    assert_eq!(ended.len(), sent as usize);
    assert!(sent > GATEWAYS);
}

/// Takes what the agent has said. `last` is the position up to which it has been taken in: what lies before it is
/// known already, as a journal would know it.
fn take(
    engine: &mut Link,
    last: &mut Option<(u64, Kind)>,
    ended: &mut BTreeSet<u64>,
    content: impl Fn(u64) -> String,
) {
    let taken = engine.receiver.receive(1000, |message| {
        let turn = message.route.turn;
        let text = match message.open() {
            Opened::Block(block) => block.content.as_str(),
            Opened::End(end) => end.content.as_str(),
            _ => return,
        };
        assert_eq!(text, content(turn), "turn {turn}");
        let step = (turn, message.kind());
        let before = last.replace(step);
        match (before, message.kind()) {
            // The first sight of a piece follows the piece before it.
            (None, _) => assert_eq!(step, (1, Kind::Block)),
            (Some((before, Kind::Block)), Kind::End) => assert!(before >= turn),
            (Some((before, _)), _) => assert!(before + 1 >= turn),
        }
        if message.kind() == Kind::End {
            ended.insert(turn);
        }
    });
    taken.unwrap();
}
