//! Processes on both sides of a ring are killed, at every stop point and at random moments, and the ones that
//! follow go on at the positions found in the segments. Nothing is lost, repeated, reordered or garbled, and
//! nobody waits for good.
//!
//! `CRASH_KILLS`, `CRASH_PAIRS` and `CRASH_SEED` say how many and which; `scripts/crash` runs many.

#[path = "crash/keeper.rs"]
mod keeper;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use keeper::Keeper;
use rustix::process::Signal;
use shm_transport::stop_point::{STOP_POINTS, STOP_VARIABLE};
use tests::storm::Side;

/// After so many kills everything so far is compared.
const KILLS_PER_COMPARISON: u64 = 250;
/// Stop points that a process passes once at most.
const ONCE: [&str; 4] = ["attach.", "resume.", "adopt.", "close."];
/// The longest that a process lives in the storm.
const LIFE_MICROSECONDS_MAX: u64 = 4000;

fn variable<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// A source of numbers that names its seed.
fn random() -> fastrand::Rng {
    let seed = variable("CRASH_SEED", fastrand::u64(..));
    println!("CRASH_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Stop points of a running link.
fn points() -> impl Iterator<Item = &'static str> {
    STOP_POINTS.into_iter().filter(|name| !name.starts_with("create."))
}

/// Whether a process only gets there when the plan is over, or after such an end.
fn belongs_to_the_end(name: &str) -> bool {
    name.starts_with("close.") || name == "attach.reopened"
}

/// Lets a side die at a stop point while the other goes on, and the link come back to life.
fn die_at(keeper: &mut Keeper, side: Side, name: &str, nth: u64) {
    let stop = format!("{name}:{nth}");
    if name == "attach.reopened" {
        // A ring is found closed by who follows on an end.
        keeper.finish();
    }
    keeper.kill(side);
    keeper.start(side, Some(&stop));
    if name.starts_with("close.") {
        keeper.announce_end();
        keeper.wait_stopped(side);
        keeper.finish();
    } else {
        keeper.wait_stopped(side);
    }
    keeper.start_missing();
    keeper.wait_progress();
}

/// A side that dies at a stop point, any of them, costs nothing: its successor and its peer go on, and count,
/// content and order of all effects are those of a run without a death. Each point is passed at least once.
#[test]
fn every_stop_point_can_be_died_at() {
    let mut random = random();
    let mut keeper = Keeper::new();
    keeper.start_missing();
    for name in points() {
        for side in Side::ALL {
            die_at(&mut keeper, side, name, 1);
            if !ONCE.iter().any(|once| name.starts_with(once)) {
                die_at(&mut keeper, side, name, random.u64(2..40));
            }
        }
    }
    keeper.finish();
    let (records, bytes) = keeper.verified();
    println!("{:?}, {records} records, {bytes} bytes compared", keeper.deaths);
}

/// The same when both sides die, each at a stop point of its own: at some pairs of them, or at all if there are
/// fewer than `CRASH_PAIRS`.
#[test]
fn both_sides_can_die_at_stop_points() {
    let mut random = random();
    let points: Vec<_> = points().filter(|name| !belongs_to_the_end(name)).collect();
    let mut pairs: Vec<_> =
        points.iter().flat_map(|engine| points.iter().map(move |agent| (engine, agent))).collect();
    random.shuffle(&mut pairs);
    pairs.truncate(variable("CRASH_PAIRS", 100));
    let mut keeper = Keeper::new();
    for (engine, agent) in &pairs {
        keeper.kill(Side::Engine);
        keeper.kill(Side::Agent);
        keeper.start(Side::Engine, Some(&format!("{engine}:1")));
        keeper.start(Side::Agent, Some(&format!("{agent}:1")));
        // One may need the other to get there; who is gone gets a successor that stops nowhere.
        keeper.wait_stops(2);
        keeper.wait_progress();
    }
    keeper.finish();
    let (records, bytes) = keeper.verified();
    println!("{} pairs, {:?}, {records} records, {bytes} bytes compared", pairs.len(), keeper.deaths);
}

/// Either side, or both, is killed again and again, at random moments and stop points, some while they are
/// stopped by a signal. Everything published is applied once, in order; whoever sleeps is woken.
#[test]
fn a_storm_of_kills_loses_nothing() {
    let kills: u64 = variable("CRASH_KILLS", 150);
    let mut random = random();
    let mut keeper = Keeper::new();
    let mut compared = 0;
    loop {
        let deaths = keeper.deaths.killed + keeper.deaths.stopped;
        if deaths >= kills {
            break;
        }
        if deaths - compared >= KILLS_PER_COMPARISON {
            compared = deaths;
            keeper.finish();
        }
        for side in Side::ALL {
            keeper.start_if_missing(side, stop_at_random(&mut random).as_deref());
        }
        keeper.watch(Duration::from_micros(random.u64(0..LIFE_MICROSECONDS_MAX)));
        let side = Side::ALL[random.usize(0..2)];
        match random.u8(0..8) {
            0..=4 => keeper.kill(side),
            5 | 6 => Side::ALL.into_iter().for_each(|side| keeper.kill(side)),
            _ => {
                keeper.signal(side, Signal::STOP);
                keeper.watch(Duration::from_micros(random.u64(0..LIFE_MICROSECONDS_MAX)));
                if random.bool() {
                    keeper.kill(side);
                }
                keeper.signal(side, Signal::CONT);
            }
        }
        if random.bool() {
            keeper.wait_progress();
        }
    }
    keeper.finish();
    let (records, bytes) = keeper.verified();
    println!("{:?}, {records} records, {bytes} bytes compared", keeper.deaths);
}

/// Where one process in four dies of its own.
fn stop_at_random(random: &mut fastrand::Rng) -> Option<String> {
    let points: Vec<_> = points().collect();
    let name = points[random.usize(0..points.len())];
    (random.u8(0..4) == 0).then(|| format!("{name}:{}", random.u64(1..60)))
}

/// A side that is stopped by a signal costs the other only its messages: it falls asleep, and both go on when
/// the first does.
#[test]
fn a_stopped_peer_is_waited_for_asleep() {
    let mut keeper = Keeper::new();
    keeper.start_missing();
    for side in Side::ALL {
        keeper.wait_progress();
        keeper.signal(side, Signal::STOP);
        keeper.wait_asleep(side.peer());
        keeper.signal(side, Signal::CONT);
        keeper.wait_progress();
    }
    keeper.finish();
}

/// Who makes a segment can die after each of its steps; nothing needs to be cleared away before the next.
#[test]
fn a_creator_can_die_after_each_step() {
    let create = |stop: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ring-peer"));
        command.arg("create").env_remove(STOP_VARIABLE);
        command.envs(stop.map(|name| (STOP_VARIABLE, format!("{name}:1"))));
        command.status().unwrap()
    };
    for name in STOP_POINTS.into_iter().filter(|name| name.starts_with("create.")) {
        assert_eq!(create(Some(name)).signal(), Some(Signal::KILL.as_raw()), "{name} is never passed");
        assert!(create(None).success());
    }
}
