//! Agents come and go, and nothing of them stays: no cgroup, descriptor, shared memory or zombie.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeper::cgroup::enforcement::Feature;
use keeper::client::{Client, PROGRAM};
use keeper::control::{Event, Limits, Request, Spawn};
use rustix::event::{PollFd, PollFlags, Timespec};
use tests::binary;
use tests::process::{PATIENCE, processes, until};

/// Cycles of the ordinary test; `scripts/cycles` has more of them.
const CYCLES: u64 = 200;
/// Cycles before the first count.
const WARM_UP: u64 = 5;

/// What a keeper has of agents.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    cgroups: usize,
    descriptors: usize,
    memfds: usize,
    children: usize,
}

fn counts(keeper: u32, state: &Path) -> Counts {
    let descriptors: Vec<_> = std::fs::read_dir(format!("/proc/{keeper}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let is_memfd = |path: &&PathBuf| path.to_string_lossy().starts_with("/memfd:");
    Counts {
        cgroups: super::cgroups_of(state).len(),
        descriptors: descriptors.len(),
        memfds: descriptors.iter().filter(is_memfd).count(),
        // Zombies among them.
        children: processes().iter().filter(|process| process.parent == keeper).count(),
    }
}

/// The next event.
fn event(client: &mut Client) -> Event {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some((event, _)) = client.receive().unwrap() {
            return event;
        }
        assert!(Instant::now() < end, "nothing came in time");
        let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
        rustix::event::poll(&mut [PollFd::new(&client.as_fd(), PollFlags::IN)], Some(&timeout)).unwrap();
    }
}

/// Starts an agent with a descendant in a session of its own, and kills it.
fn cycle(client: &mut Client, instance: u64, mark: &str, log: &Path) {
    let script = format!("setsid sleep {mark} & exec sleep {mark}");
    let request = Spawn {
        instance,
        generation: instance,
        name: "cycle".into(),
        argv: vec!["sh".into(), "-c".into(), script],
        environment: Vec::new(),
        working_directory: None,
        to_agent_bytes: 65_536,
        from_agent_bytes: 65_536,
        // A survivor that had the output of this test would keep its caller waiting.
        log_path: Some(log.to_owned()),
        limits: Limits {
            processes: Some(16),
            memory_bytes: Some(64 << 20),
            require: true,
            ..Limits::default()
        },
        sandbox: None,
    };
    client.send(&Request::Spawn(request)).unwrap();
    let spawned = event(client);
    assert!(matches!(spawned, Event::Spawned { .. }), "{spawned:?}");
    client.send(&Request::Kill { instance, signal: 9 }).unwrap();
    let died = event(client);
    let Event::Died { instance: found, cause: None, usage, .. } = died else { panic!("{died:?}") };
    assert_eq!(found, instance);
    assert!(usage.cpu_us.is_some() && usage.memory_peak_bytes.is_some(), "{usage:?}");
}

/// After many agents have been started and killed, as much is there as before, and after the keeper nothing.
#[test]
fn nothing_is_left_behind() {
    if !super::holds(&[Feature::Memory, Feature::Processes, Feature::WholeTree]) {
        return;
    }
    let cycles = std::env::var("LIMITS_CYCLES").map_or(CYCLES, |text| text.parse().expect("a number"));
    let state = tempfile::tempdir().unwrap();
    let mut client = Client::start(&binary(PROGRAM), &state.path().join("keeper.sock")).unwrap();
    let keeper = client.process_id();
    let (mark, log) = (format!("1007{}", std::process::id()), state.path().join("cycle.log"));
    (1..=WARM_UP).for_each(|instance| cycle(&mut client, instance, &mark, &log));
    let quiet = Counts { cgroups: 0, children: 0, memfds: 0, ..counts(keeper, state.path()) };
    until("the first are gone", || (counts(keeper, state.path()) == quiet).then_some(()));
    let start = Instant::now();
    (WARM_UP + 1..=WARM_UP + cycles).for_each(|instance| cycle(&mut client, instance, &mark, &log));
    let took = start.elapsed();
    until("all are gone", || (counts(keeper, state.path()) == quiet).then_some(()));
    let survivors = processes().iter().filter(|process| process.arguments.contains(&mark)).count();
    assert_eq!(survivors, 0);
    println!(
        "{cycles} cycles in {took:?}, {:?} each",
        took / u32::try_from(cycles.max(1)).unwrap_or(u32::MAX)
    );

    client.send(&Request::Shutdown { grace_ms: Duration::from_secs(1).as_millis() as u64 }).unwrap();
    assert_eq!(event(&mut client), Event::Stopped);
    assert!(client.wait().unwrap().expect("it was started here").success());
    let name = keeper::cgroup::subtree_name(&state.path().canonicalize().unwrap());
    let found = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &name]).output().unwrap();
    assert!(found.stdout.is_empty(), "{found:?}");
}
