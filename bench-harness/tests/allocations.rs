//! Sending and receiving allocate nothing once a link is warm, whichever way messages are read.

use std::os::fd::OwnedFd;

use allocation_counter::measure;
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{BlockV1, Route};
use shm_transport::layout::{ConfigPage, Geometry};
use shm_transport::link::{Limits, Link};
use shm_transport::segment::{Attached, attach_agent, attach_engine, create};

const RING_BYTES: u64 = 1 << 16;
const MESSAGES: u64 = 10_000;
const BATCH: u64 = 4;
/// The largest still fits in one record.
const SIZES: [usize; 4] = [64, 256, 1024, 4096];

/// The engine's end, which copies and checks, and the agent's, which reads in place.
fn links() -> (Link, Link) {
    let page = ConfigPage::new(Geometry::new(RING_BYTES).expect("a power of two within the limits"), 1, 1);
    let engine = create("allocations-engine", &page).expect("room for a small segment");
    let agent = create("allocations-agent", &page).expect("room for a small segment");
    let bell: OwnedFd = eventfd().expect("an eventfd");
    let limits = Limits::default();
    let link = |attached: Attached| attached.link;
    let first = attach_engine(&engine.writable, &agent.read_only, None, limits).expect("a sound pair");
    let second = attach_agent(&engine.read_only, &agent.writable, bell, None, limits).expect("a sound pair");
    (link(first), link(second))
}

/// Sends `messages` in batches, built in their slots, has them sent back as they came, and says how many came.
fn pass(from: &mut Link, to: &mut Link, block: &BlockV1, messages: u64) -> u64 {
    let mut received = 0;
    let to_back = &mut to.sender;
    for batch in 0..messages / BATCH {
        for number in 0..BATCH {
            let route = Route { turn: batch * BATCH + number, ..Route::default() };
            from.sender.send(&route, block).expect("room for a batch");
        }
        from.sender.flush().expect("a sound peer");
        let taken = to.receiver.receive(64, |message| {
            to_back.forward(&message.route, message.body()).expect("room for a batch");
        });
        received += taken.expect("a sound peer") as u64;
        to.receiver.release();
        to_back.flush().expect("a sound peer");
        let back = from.receiver.receive(64, |message| {
            std::hint::black_box((message.route, message.body()));
        });
        assert_eq!(back.expect("a sound peer") as u64, BATCH);
        from.receiver.release();
    }
    received
}

fn block(content_bytes: usize) -> BlockV1 {
    BlockV1 { block_type: 0, content: "x".repeat(content_bytes) }
}

/// After a lap of the ring with the largest message, ten thousand messages of each size allocate nothing: neither
/// towards the engine, which copies what it receives, nor towards the agent, which reads in place.
#[test]
fn a_warm_link_allocates_nothing() {
    let (mut engine, mut agent) = links();
    let bodies = SIZES.map(block);
    for body in &bodies {
        pass(&mut agent, &mut engine, body, 100);
        pass(&mut engine, &mut agent, body, 100);
    }
    for (size, body) in SIZES.iter().zip(&bodies) {
        let mut came = (0, 0);
        let copied = measure(|| came.0 = pass(&mut agent, &mut engine, body, MESSAGES));
        let in_place = measure(|| came.1 = pass(&mut engine, &mut agent, body, MESSAGES));
        assert_eq!(came, (MESSAGES, MESSAGES), "{size} bytes");
        assert_eq!((copied.count_total, in_place.count_total), (0, 0), "{size} bytes: copied, in place");
    }
}

/// The counter counts: a cold link has to allocate the memory that it copies into.
#[test]
fn a_cold_link_is_found_out() {
    let (mut engine, mut agent) = links();
    let body = block(1024);
    let cold = measure(|| {
        pass(&mut agent, &mut engine, &body, BATCH);
    });
    assert!(cold.count_total > 0, "the first copy finds no memory");
}
