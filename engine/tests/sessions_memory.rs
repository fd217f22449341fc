//! What an idle session costs, measured at a million of them.

use std::time::Duration;

use allocation_counter::measure;
use engine::session::{SessionKey, SessionLimits, Sessions};
use engine::time::Moment;
use shm_transport::envelope::{Priority, SessionMode};

const SESSIONS: usize = 1_000_000;
/// What an idle session may cost, with its key, its timer and its share of the index.
const SESSION_BYTES_MAX: u64 = 512;
/// What an allocator may add to the two allocations that belong to one session alone.
const ALLOCATOR_BYTES: u64 = 2 * 16;

fn fill(table: &mut Sessions, count: usize) {
    for number in 0..count as u64 {
        let thread = format!("{number:012x}-4c1e-9f");
        let key = SessionKey { channel: "websocket", user: "operator", thread: &thread, namespace: "ns" };
        // Spreads like a real hash, and takes no part in what is measured.
        let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ number;
        let (index, _) =
            table.find_or_create(Moment::ZERO, hash, &key, SessionMode::Main).expect("there is room");
        table.touch(Moment::ZERO, index);
        for turn in 1..=2 {
            let _ = table.begin_or_wait(index, turn, Priority::Normal);
        }
        for _ in 1..=2 {
            table.end(Moment::ZERO, index);
            table.begin_next(index);
        }
    }
}

/// A million sessions that were busy once, all with keys of 40 bytes: by what is still allocated afterwards.
#[test]
fn an_idle_session_is_small() {
    let limits = SessionLimits {
        sessions_max: SESSIONS,
        session_queue_max: 4,
        dormant_after: Duration::from_secs(1800),
        expire_after: Duration::from_secs(86_400),
    };
    let mut table = None;
    let info = measure(|| {
        let sessions = table.insert(Sessions::new(limits));
        fill(sessions, SESSIONS);
    });
    let table = table.expect("it was filled");
    assert_eq!((table.len(), table.waiting()), (SESSIONS, 0));
    let bytes = u64::try_from(info.bytes_current).expect("more is allocated than freed") / SESSIONS as u64;
    println!(
        "{bytes} bytes for an idle session, and at most {} at the peak",
        info.bytes_max / SESSIONS as u64
    );
    assert!(bytes + ALLOCATOR_BYTES <= SESSION_BYTES_MAX, "{bytes} bytes");
}
