//! An agent's signs of life, as the engine sees them.

use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_sdk::{Agent, Inherited, Received};
use shm_transport::envelope::{MessageV2, Route};
use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::link::{Limits, Link};
use shm_transport::{doorbell, segment};

const WAIT: Duration = Duration::from_secs(10);
/// One test at a time: threads are counted.
static ALONE: Mutex<()> = Mutex::new(());

/// The engine's end of a new link, and what an agent inherits for the other.
fn pair() -> (Link, Inherited) {
    let page = ConfigPage::new(Geometry::new(4096).unwrap(), 7, 3);
    let (engine_half, agent_half) =
        (segment::create("engine", &page).unwrap(), segment::create("agent", &page).unwrap());
    let halves = (engine_half.writable.as_fd(), agent_half.read_only.as_fd());
    let engine = segment::attach_engine(halves.0, halves.1, None, Limits::default()).unwrap().link;
    let inherited = Inherited {
        name: "test".to_owned(),
        generation: 3,
        engine_half: engine_half.read_only,
        agent_half: agent_half.writable,
        doorbell: doorbell::eventfd().unwrap(),
        passage: None,
    };
    (engine, inherited)
}

/// Waits until there is something.
fn until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !look() {
        assert!(Instant::now() < deadline, "{what} in vain");
        std::thread::yield_now();
    }
}

/// Asks for a sign of life, and awaits it.
fn ask(engine: &mut Link) -> u64 {
    let before = engine.receiver.beat();
    engine.sender.ask_for_beat();
    until("asked for a beat", || engine.receiver.beat() != before);
    engine.receiver.beat() - before
}

/// How often each thread of this process that gives signs of life has slept.
fn hearts() -> Vec<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let status = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let hearts = status.filter(|status| status.starts_with("Name:\theartbeat\n"));
    let sleeps = hearts.map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("the kernel counts").trim().parse().expect("a number")
    });
    sleeps.collect()
}

/// A sign of life is given while the one thread of the agent is at work on a message, whenever it is asked for.
#[test]
fn an_agent_at_work_answers() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut engine, inherited) = pair();
    assert_eq!((engine.receiver.beat(), engine.receiver.peer_has_spoken()), (0, false), "not attached");
    let (mut inbox, _outbox) = Agent::attach_to(inherited).unwrap().split();
    assert_eq!((engine.receiver.beat(), engine.receiver.peer_has_spoken()), (1, true));
    engine.sender.send(&Route { turn: 1, ..Route::default() }, &MessageV2::default()).unwrap();
    engine.sender.flush().unwrap();
    let received = inbox.receive(WAIT, |_| {
        for _ in 0..3 {
            ask(&mut engine);
        }
    });
    assert_eq!(received.unwrap(), Received::Messages(1));
}

/// An agent gives one sign of life for each time it is asked, and sleeps in between; it gives them as long as either
/// half of it is there, and no longer.
#[test]
fn one_beat_for_one_question() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    until("waited for the end of another test's thread", || hearts().is_empty());
    let (mut engine, inherited) = pair();
    let (inbox, outbox) = Agent::attach_to(inherited).unwrap().split();
    const QUESTIONS: u64 = 100;
    for _ in 0..QUESTIONS {
        assert_eq!(ask(&mut engine), 1);
    }
    // Time in which it has nothing to do.
    std::thread::park_timeout(Duration::from_millis(100));
    let [sleeps] = hearts()[..] else { panic!("one thread beats") };
    assert!(sleeps <= QUESTIONS + 10, "{sleeps} sleeps; some are the thread's beginning");
    drop(inbox);
    assert_eq!(ask(&mut engine), 1);
    drop(outbox);
    until("waited for the end of the thread", || {
        // It may have been about to sleep: the next question wakes it.
        engine.sender.ask_for_beat();
        hearts().is_empty()
    });
    let beats = engine.receiver.beat();
    engine.sender.ask_for_beat();
    assert_eq!(engine.receiver.beat(), beats);
}
