//! The ring in one thread: reserve, fill, commit, publish, look, copy, release.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{BlockV1, Body, Encoder, Route};
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Link};
use shm_transport::segment::in_process;

const RING_BYTES: u64 = 1 << 18;
const BATCH: u64 = 16;

fn links() -> (Link, Link) {
    let geometry = Geometry::new(RING_BYTES).expect("a power of two within the limits");
    let bell = || Arc::new(eventfd().expect("an eventfd"));
    in_process(geometry, &bell(), &bell(), Limits::default()).expect("two anonymous halves")
}

/// Sends, publishes, receives and releases `batch` messages.
fn pass(from: &mut Link, to: &mut Link, body: Body<'_>, batch: u64) {
    let mut seen = 0;
    for sequence in 0..batch {
        let route = Route { turn: sequence, ..Route::default() };
        from.sender.forward(&route, black_box(body)).expect("room for a batch");
    }
    from.sender.flush().expect("a sound peer");
    while seen < batch {
        let taken = to.receiver.receive(64, |message| {
            black_box((message.route, message.body()));
        });
        seen += taken.expect("a sound peer") as u64;
    }
    to.receiver.release();
}

fn ring(c: &mut Criterion) {
    for (name, batch) in [("one", 1), ("batch16", BATCH)] {
        let mut group = c.benchmark_group(format!("ring-one-thread/{name}"));
        group.throughput(Throughput::Elements(batch));
        for size in [64usize, 1024] {
            let (mut from, mut to) = links();
            let mut encoder = Encoder::default();
            let body = encoder.encode(&BlockV1 { block_type: 0, content: "x".repeat(size) });
            group.bench_function(format!("{size}"), |b| b.iter(|| pass(&mut from, &mut to, body, batch)));
        }
        group.finish();
    }
}

criterion_group!(benches, ring);
criterion_main!(benches);
