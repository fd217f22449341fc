//! Memory limits of native agents. Without cgroups that may be written nothing is run, and that is said.

use std::time::Instant;

use keeper::cgroup::layout::{self, Controller, Place};
use keeper::cgroup::{Cgroups, subtree_name};
use keeper::control::{Cause, Event, Exit, Limits, Request, Spawn};
use shm_transport::envelope::{MessageV2, Opened, Route};

use super::{Fixture, WAIT, await_readable, doorbell, event, kill};

const MIB: u64 = 1 << 20;

fn limited_to(mib: u64) -> Limits {
    Limits { memory_bytes: Some(mib * MIB), require: true, ..Limits::default() }
}

fn can_limit() -> bool {
    let holder = Cgroups::of_this_process(&[]).holder(Controller::Memory);
    holder.inspect_err(|obstacle| println!("not run: {obstacle}")).is_ok()
}

/// An agent whose rings are larger than its memory touches all of them, in both directions, and lives:
/// their pages are the keeper's.
#[test]
fn rings_are_not_counted_as_the_agents() {
    if !can_limit() {
        return;
    }
    let mut fixture = Fixture::start();
    let ring = 64 * MIB;
    let request =
        Spawn { to_agent_bytes: ring, from_agent_bytes: ring, limits: limited_to(32), ..fixture.probe(1) };
    let mut probe = fixture.spawn_as(request);
    assert_eq!(probe.ask("are you there"), "echo are you there");
    // Small enough to travel in the ring, and fifty of them go around it once.
    let message = MessageV2 { content: "x".repeat(1_500_000), ..MessageV2::default() };
    let route = Route { turn: 77, session: 1, origin: 5, sequence: 9, attempt: 1 };
    for _ in 0..100 {
        probe.link.sender.send(&route, &message).unwrap();
        probe.link.sender.flush().unwrap();
        let (mut came, deadline) = (0, Instant::now() + WAIT);
        while came == 0 {
            assert!(Instant::now() < deadline, "the agent has stopped answering");
            let each = |message: shm_transport::envelope::Message<'_>| {
                let Opened::End(end) = message.open() else { panic!("{:?}", message.kind()) };
                came = end.content.len();
            };
            probe.link.receiver.receive(16, each).unwrap();
            probe.link.receiver.release();
            probe.link.sender.flush().unwrap();
            if came == 0 && !probe.link.receiver.arm().unwrap() {
                await_readable(&probe.bell, deadline);
            }
            probe.link.receiver.disarm();
            doorbell::silence(&probe.bell);
        }
        assert_eq!(came, message.content.len());
    }
    kill(probe.process_id);
    let (Event::Died { exit: Exit::Signal(9), cause: None, usage, .. }, _) =
        event(&mut fixture.client).unwrap()
    else {
        panic!("it died before, of something else");
    };
    assert!(usage.memory_peak_bytes.is_some_and(|bytes| bytes < 16 * MIB), "{usage:?}");
    assert!(usage.cpu_us.is_some_and(|us| us > 0), "{usage:?}");
}

/// An agent that the kernel kills for want of memory is told as that, with its limit and what it has taken.
#[test]
fn want_of_memory_is_a_cause() {
    if !can_limit() {
        return;
    }
    let mut fixture = Fixture::start();
    // Keeps what it reads until a line ends, which never comes.
    let argv = vec!["tail".to_owned(), "/dev/zero".to_owned()];
    let request = Spawn { argv, limits: limited_to(16), ..fixture.probe(1) };
    fixture.client.send(&Request::Spawn(request)).unwrap();
    assert!(matches!(fixture.event().0, Event::Spawned { .. }));
    let (Event::Died { exit, cause, usage, .. }, _) = event(&mut fixture.client).unwrap() else {
        panic!("it did not die");
    };
    let expected = Cause::OutOfMemory { limit_bytes: Some(16 * MIB) };
    assert_eq!((exit, cause), (Exit::Signal(9), Some(expected)));
    assert!(usage.memory_peak_bytes.is_some_and(|bytes| bytes > 8 * MIB), "{usage:?}");
}

/// Where the kernel refuses to have an agent in its cgroup, an agent runs without if it may, and is refused if not.
#[test]
fn a_cgroup_that_refuses_is_no_end() {
    let read = |path| std::fs::read_to_string(path).unwrap();
    let place = layout::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")).v2;
    let Place::At(own) = place else { return println!("not run: version 2 is not mounted") };
    let mut fixture = Fixture::start();
    let base = own.join(subtree_name(&fixture.directory.path().canonicalize().unwrap()));
    if !base.is_dir() {
        return println!("not run: {} is not there", base.display());
    }
    // Beside a cgroup of threads there may be none of processes.
    let threads = base.join("threads");
    std::fs::create_dir(&threads).unwrap();
    std::fs::write(threads.join("cgroup.type"), "threaded").unwrap();
    let require = Spawn { limits: Limits { require: true, ..Limits::default() }, ..fixture.probe(1) };
    fixture.client.send(&Request::Spawn(require)).unwrap();
    let refused = fixture.event().0;
    let Event::SpawnFailed { step, reason, .. } = &refused else { panic!("{refused:?}") };
    assert!(step == "run" && reason.contains("not supported"), "{refused:?}");
    assert_eq!(fixture.spawn(1).ask("x"), "echo x");
    std::fs::remove_dir(&threads).unwrap();
}
