//! What a message costs the core in allocations, and an idle session in memory.

#[path = "../src/core/rig.rs"]
#[expect(dead_code, reason = "some of it is for the subcommand only")]
mod rig;

use allocation_counter::measure;
use engine::session::{SessionKey, SessionLimits, Sessions};
use engine::time::Moment;
use rig::{Rig, Shape};
use shm_transport::envelope::SessionMode;
use shm_transport::ports::session_hash;

/// A copy of the message and one of its answer.
const ALLOCATIONS_PER_MESSAGE_MAX: f64 = 2.0;
/// Tables that grow, and chunks of remembered ids, are shared by many messages.
const ALLOCATIONS_SHARED: f64 = 0.01;
const IDLE_SESSION_BYTES_MAX: f64 = 512.0;
const GROUP: usize = 64;
const CONTENT_BYTES: usize = 256;
const WARM_UP_MESSAGES: u64 = 300_000;

/// In the steady state, with and without ids, with few sessions and with many.
#[test]
fn a_message_allocates_a_constant_number_of_times() {
    for (sessions, agents, ids) in [(1000, 1, false), (1000, 10, true), (20_000, 10, true)] {
        let mut rig = Rig::new(Shape::new(sessions, agents, ids, GROUP, CONTENT_BYTES));
        rig.warm_up(WARM_UP_MESSAGES);
        let groups = 200;
        let mut count = 0;
        for _ in 0..groups {
            rig.prepare();
            count += measure(|| {
                rig.route();
                rig.finish();
            })
            .count_total;
        }
        let each = count as f64 / (groups * rig.group()) as f64;
        println!("{sessions} sessions, {agents} agents, ids {ids}: {each:.3} allocations a message");
        assert!(
            each <= ALLOCATIONS_PER_MESSAGE_MAX + ALLOCATIONS_SHARED,
            "{sessions} sessions, {agents} agents, ids {ids}: {each:.3} allocations a message"
        );
    }
}

/// A hundred thousand sessions that have nothing to do: all bytes that their table has asked for, by their number.
#[test]
fn an_idle_session_is_small() {
    const SESSIONS: usize = 100_000;
    let mut table = None;
    let bytes = measure(|| {
        let mut sessions = Sessions::new(SessionLimits::default());
        for number in 0..SESSIONS {
            let (user, thread) = (format!("user-{number}"), format!("thread-{number}"));
            let key = SessionKey { namespace: "", channel: "websocket", user: &user, thread: &thread };
            let hash = session_hash(key.channel, key.user, key.thread);
            let made = sessions.find_or_create(Moment::ZERO, hash, &key, SessionMode::Main);
            assert_eq!(made.map(|made| made.1), Ok(true));
        }
        table = Some(sessions);
    })
    .bytes_current;
    let each = bytes as f64 / SESSIONS as f64;
    println!("{each:.0} bytes for an idle session");
    assert!(each <= IDLE_SESSION_BYTES_MAX, "{each:.0} bytes");
    drop(table);
}
