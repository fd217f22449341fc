//! The core of a shard, and its tables one by one.

#[path = "../src/core/rig.rs"]
#[expect(dead_code, reason = "some of it is for the subcommand only")]
mod rig;

use std::hint::black_box;
use std::num::NonZeroU64;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::dedup::{Admit, DedupLimits, DedupWindow, NO_REFERENCE};
use engine::event::{AgentIndex, ShardIndex};
use engine::routing::{AgentSpec, RouteRequest, RoutingTable};
use engine::session::{SessionKey, SessionLimits, Sessions};
use engine::time::Moment;
use rig::{Rig, Shape};
use shm_transport::envelope::SessionMode;
use shm_transport::ports::session_hash;

/// As the gateway does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONTENT_BYTES: usize = 256;
const GROUP: usize = 64;
const WARM_UP_MESSAGES: u64 = 400_000;
/// Spreads numbers like hashes.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which part of a message's life is timed.
#[derive(Clone, Copy)]
enum Half {
    Routed,
    Finished,
}

/// Each half of a message's life, in groups.
fn halves(c: &mut Criterion) {
    let mut group = c.benchmark_group("core");
    group.throughput(Throughput::Elements(1));
    for (sessions, ids) in [(1000, false), (1000, true), (100_000, true)] {
        let mut rig = Rig::new(Shape::new(sessions, 10, ids, GROUP, CONTENT_BYTES));
        rig.warm_up(WARM_UP_MESSAGES);
        for (half, name) in [(Half::Routed, "routed"), (Half::Finished, "finished")] {
            let name = format!("{name}/{sessions}-sessions{}", if ids { "-ids" } else { "" });
            group.bench_function(name, |b| {
                b.iter_custom(|messages| time(&mut rig, half, messages));
            });
        }
    }
    group.finish();
}

/// The time of so many messages, of which whole groups are measured.
fn time(rig: &mut Rig, half: Half, messages: u64) -> Duration {
    let groups = messages.div_ceil(GROUP as u64);
    let mut spent = Duration::ZERO;
    for _ in 0..groups {
        let (routed, finished) = rig.timed();
        spent += match half {
            Half::Routed => routed,
            Half::Finished => finished,
        };
    }
    spent.mul_f64(messages as f64 / (groups * GROUP as u64) as f64)
}

/// A new id: asked for, and remembered while the oldest one goes.
fn dedup(c: &mut Criterion) {
    let mut group = c.benchmark_group("dedup");
    group.throughput(Throughput::Elements(1));
    for ids_max in [10_000, 1_000_000] {
        let limits = DedupLimits { ids_max, ids_hard_max: ids_max, ..DedupLimits::default() };
        let mut window = DedupWindow::new(limits, 27);
        let mut number = 0u64;
        let mut next = || {
            number += 1;
            let id = NonZeroU64::new(number.wrapping_mul(SPREAD)).unwrap_or(NonZeroU64::MAX);
            let new = window.admit(7, id, 1);
            window.insert(1, 7, id, 1, NO_REFERENCE);
            new
        };
        for _ in 0..2 * ids_max {
            assert_eq!(next(), Admit::New);
        }
        group.bench_function(format!("admit-insert/{ids_max}-ids"), |b| b.iter(|| black_box(next())));
    }
    group.finish();
}

/// Who gets a message that names its agent, and one that has been there before.
fn route(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    group.throughput(Throughput::Elements(1));
    for agents in [10u32, 1000] {
        let names: Vec<_> = (0..agents).map(|agent| format!("agent-{agent}")).collect();
        let specs: Vec<_> =
            names.iter().zip(0..).map(|(name, index)| AgentSpec::alone(AgentIndex(index), name, 1)).collect();
        let table = RoutingTable::build(1, &specs, &[], None).expect("agents have different names");
        let mut number = 0;
        for (name, named) in [("named", true), ("affinity", false)] {
            group.bench_function(format!("{name}/{agents}-agents"), |b| {
                b.iter(|| {
                    number = (number + 1) % agents as usize;
                    let request = RouteRequest {
                        explicit: if named { &names[number] } else { "" },
                        affinity: Some(AgentIndex(number as u32)),
                        channel: "websocket",
                        text: "hello",
                        labels: "",
                        own_shard: ShardIndex(0),
                        rotation: 0,
                    };
                    table.route(black_box(&request), |_| 0, |_| true)
                });
            });
        }
    }
    group.finish();
}

/// A session that is in the table.
fn session(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    group.throughput(Throughput::Elements(1));
    for sessions in [1000usize, 1_000_000] {
        let mut table = Sessions::new(SessionLimits::default());
        let users: Vec<_> = (0..sessions).map(|user| format!("user-{user}")).collect();
        let key =
            |user: usize| SessionKey { namespace: "", channel: "websocket", user: &users[user], thread: "t" };
        let hash = |user: usize| session_hash("websocket", &users[user], "t");
        for user in 0..sessions {
            table
                .find_or_create(Moment::ZERO, hash(user), &key(user), SessionMode::Main)
                .expect("the table has room");
        }
        // Asked for in another order than they came in, and hashed before: the edge does that.
        let order: Vec<_> =
            (0..sessions).map(|n| n * 7_919 % sessions).map(|user| (user, hash(user))).collect();
        let mut next = 0;
        group.bench_function(format!("find/{sessions}-sessions"), |b| {
            b.iter(|| {
                next = (next + 1) % sessions;
                let (user, hash) = order[next];
                table.find(hash, black_box(&key(user)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, halves, dedup, route, session);
criterion_main!(benches);
