//! A shard between its rings, without a thread.

use std::time::Duration;

use shm_transport::envelope::{Kind, MessageV1, Route};
use shm_transport::layout::Geometry;
use shm_transport::link::{Limits, Link};
use shm_transport::ports::{connect, session_hash};

use super::*;
use crate::core::{AgentDefinition, CoreLimits};

struct Bench {
    shard: Shard,
    commands: crossbeam_channel::Sender<Command>,
    edge: Link,
}

fn bench() -> Bench {
    let geometry = Geometry::new(64 * 1024).unwrap();
    let mut ports = connect(1, 1, geometry, Limits::default()).unwrap();
    let definitions = [AgentDefinition { name: "echo".into(), in_flight_max: 4 }].into();
    let core = ShardCore::new(ShardIndex(0), 1, definitions, CoreLimits::default());
    let (commands, mailbox) = crossbeam_channel::bounded(8);
    let (notices, _nobody_listens) = tokio::sync::mpsc::unbounded_channel();
    let shard = Shard::new(core, ports.shards.remove(0), mailbox, notices, Arc::default());
    Bench { shard, commands, edge: ports.edges.remove(0).links.remove(0) }
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

/// A message for an agent that never comes up waits, and is refused when that is known for good; the edge
/// is told in the same turn.
#[test]
fn a_turn_carries_effects_to_the_edge() {
    let mut bench = bench();
    let message = MessageV1 { agent: "echo".into(), ..MessageV1::default() };
    let route = Route { session: session_hash("", "", ""), origin: 3, sequence: 7, ..Route::default() };
    bench.edge.sender.send(&route, &message).unwrap();
    bench.edge.sender.flush().unwrap();
    assert_eq!(bench.shard.turn(at(0)), Progress::Busy);
    assert_eq!(bench.shard.turn(at(1)), Progress::Idle);
    assert!(bench.shard.prepare_sleep());
    let unavailable = Command::Unavailable { agent: AgentIndex(0), detail: "it is gone".into() };
    bench.commands.send(unavailable).unwrap();
    assert!(!bench.shard.prepare_sleep(), "a command waits");
    assert_eq!(bench.shard.turn(at(2)), Progress::Busy);
    let mut seen = Vec::new();
    let count = bench.edge.receiver.receive(8, |m| seen.push((m.kind(), m.route.origin, m.route.sequence)));
    assert_eq!((count, seen), (Ok(1), vec![(Kind::Failure, 3, 7)]));
}
