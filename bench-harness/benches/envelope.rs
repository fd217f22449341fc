//! Archives: writing one, in a buffer and in its slot, and validating one that came from somewhere else.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shm_transport::doorbell::eventfd;
use shm_transport::envelope::{BlockV1, Encoder, Message, MessageV2, Opened, Route};
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Link};
use shm_transport::segment::in_process;

const RING_BYTES: u64 = 1 << 18;

fn message(content_bytes: usize) -> MessageV2 {
    MessageV2 {
        agent: "echo".to_owned(),
        channel: "websocket".to_owned(),
        user: "user-1".to_owned(),
        thread: "thread-1".to_owned(),
        client_id: "c1-2".to_owned(),
        content: "x".repeat(content_bytes),
        ..MessageV2::default()
    }
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope-encode");
    for size in [64usize, 1024] {
        group.throughput(Throughput::Elements(1));
        let (message, block) = (message(size), BlockV1 { block_type: 0, content: "x".repeat(size) });
        let mut encoder = Encoder::default();
        group.bench_function(format!("message/{size}"), |b| {
            b.iter(|| encoder.encode(black_box(&message)).bytes().len());
        });
        group.bench_function(format!("block/{size}"), |b| {
            b.iter(|| encoder.encode(black_box(&block)).bytes().len());
        });
    }
    group.finish();
}

/// The archive is validated in the ring, where it is aligned as it will be in use.
fn access(c: &mut Criterion) {
    let mut group = c.benchmark_group("envelope-access");
    for size in [64usize, 1024] {
        group.throughput(Throughput::Elements(1));
        let geometry = Geometry::new(RING_BYTES).expect("a power of two within the limits");
        let bell = || Arc::new(eventfd().expect("an eventfd"));
        let (mut from, mut to): (Link, Link) =
            in_process(geometry, &bell(), &bell(), Limits::default()).expect("two anonymous halves");
        from.sender.send(&Route::default(), &message(size)).expect("an empty ring has room");
        from.sender.flush().expect("a sound peer");
        let taken = to.receiver.receive(1, |message| {
            group.bench_function(format!("message/{size}"), |b| {
                let (kind, bytes) = (message.kind().number(), message.body().bytes());
                b.iter(|| {
                    let seen = Message::checked(kind, Route::default(), black_box(bytes));
                    match seen.expect("a valid archive").open() {
                        Opened::Message(seen) => seen.content.len(),
                        _ => 0,
                    }
                });
            });
        });
        assert_eq!(taken, Ok(1));
    }
    group.finish();
}

criterion_group!(benches, encode, access);
criterion_main!(benches);
