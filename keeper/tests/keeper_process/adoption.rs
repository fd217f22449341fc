//! Keepers that die, and those that take their agents over.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use keeper::client::{Client, ClientError};
use keeper::control::{Adopt, Event, Exit, Keep, Request, Usage};

use super::{Fixture, Probe, attached, await_gone_or_zombie, event, keeper_program, kill};

/// What the gateway needs to hand an agent over.
struct Held {
    about: Adopt,
    descriptors: Vec<OwnedFd>,
}

impl Held {
    fn hand_over(&self, client: &mut Client) {
        let borrowed: Vec<_> = self.descriptors.iter().map(AsFd::as_fd).collect();
        client.adopt(self.about.clone(), borrowed.try_into().unwrap()).unwrap();
    }
}

impl Fixture {
    /// Spawns a probe agent, attaches to it, and holds it.
    fn spawn_held(&mut self, instance: u64) -> (Probe, Held) {
        let request = self.probe(instance);
        let (name, definition) = (request.name.clone(), request.definition());
        self.client.send(&Request::Spawn(request)).unwrap();
        let (event, descriptors) = self.event();
        let Event::Spawned { generation, process_id, cgroup, .. } = event else { panic!("{event:?}") };
        let about = Adopt { instance, generation, name, process_id, definition, cgroup };
        let copies = descriptors.iter().map(|fd| fd.try_clone().unwrap()).collect();
        (attached(copies, instance, process_id), Held { about, descriptors })
    }

    /// Kills the keeper, and starts another one in its place.
    fn succeed(&mut self) {
        kill(self.client.process_id());
        assert!(matches!(event(&mut self.client), Err(ClientError::Closed)));
        assert_eq!(self.client.wait().unwrap().unwrap().code(), None);
        self.client = Client::start_successor(&keeper_program(), &self.socket(), None).unwrap();
    }

    fn died(&mut self) -> (u64, Exit) {
        let (event, _) = self.event();
        let Event::Died { instance, exit, usage, .. } = event else { panic!("{event:?}") };
        assert_eq!(usage, Usage::default(), "left out by the fixture");
        (instance, exit)
    }
}

/// Agents live through the death of one keeper after the other, in the same rings. What was not handed over is killed.
/// One that dies while nobody is there, and one that is killed by the new keeper, are told; why they died is not known.
#[test]
fn agents_outlive_their_keeper() {
    let mut fixture = Fixture::start();
    let (mut first, first_held) = fixture.spawn_held(1);
    let (second, second_held) = fixture.spawn_held(2);
    let (third, _) = fixture.spawn_held(3);
    assert_eq!(first.ask("a"), "echo a");
    fixture.succeed();
    assert_eq!(first.ask("b"), "echo b", "without any keeper of its own");
    kill(second.process_id);
    await_gone_or_zombie(second.process_id);
    first_held.hand_over(&mut fixture.client);
    second_held.hand_over(&mut fixture.client);
    fixture.client.send(&Request::Adopted).unwrap();
    assert_eq!(fixture.died(), (2, Exit::Unknown));
    await_gone_or_zombie(third.process_id);
    assert_eq!(fixture.spawn(4).ask("c"), "echo c");

    fixture.succeed();
    first_held.hand_over(&mut fixture.client);
    fixture.client.send(&Request::Adopted).unwrap();
    assert_eq!(first.ask("d"), "echo d");
    fixture.client.send(&Request::Kill { instance: 1, signal: 9 }).unwrap();
    assert_eq!(fixture.died(), (1, Exit::Unknown));
    await_gone_or_zombie(first.process_id);
}

/// The gateway that comes after a keeper has been replaced is told of the same agents, and may hand them over again.
#[test]
fn adopted_agents_outlive_their_gateway() {
    let mut fixture = Fixture::start();
    let (mut probe, held) = fixture.spawn_held(7);
    fixture.succeed();
    held.hand_over(&mut fixture.client);
    fixture.client.send(&Request::Adopted).unwrap();
    fixture
        .client
        .send(&Request::Keep(Keep { shape: "s".into(), patience_ms: 60_000, restart: None }))
        .unwrap();
    assert_eq!(probe.ask("a"), "echo a");
    let socket = fixture.socket();
    let Fixture { directory: _directory, client } = fixture;
    let keeper = client.process_id();
    drop(client);
    let (mut client, taken) = super::succession::take_over(&socket);
    let [agent] = <[_; 1]>::try_from(taken.agents).unwrap();
    assert_eq!((client.process_id(), agent.instance, agent.process_id), (keeper, 7, probe.process_id));
    assert_eq!((agent.definition, &agent.cgroup), (held.about.definition, &held.about.cgroup));
    assert_eq!(agent.descriptors.len(), 6);
    assert_eq!(probe.ask("b"), "echo b");
    super::succession::shut_down(&mut client);
    await_gone_or_zombie(probe.process_id);
}

/// What cannot be held is refused with the reason, and then killed as what is left over.
#[test]
fn what_cannot_be_held_is_refused() {
    let mut fixture = Fixture::start();
    let (probe, held) = fixture.spawn_held(1);
    let (_, other) = fixture.spawn_held(2);
    fixture.succeed();
    let wrong = [
        (
            Held { about: Adopt { process_id: 0, ..held.about.clone() }, descriptors: Vec::new() },
            "0 is no process id",
        ),
        (
            Held { about: Adopt { instance: u64::MAX, ..held.about.clone() }, descriptors: Vec::new() },
            "cannot be held",
        ),
        (
            Held { about: Adopt { instance: 2, ..held.about.clone() }, descriptors: Vec::new() },
            "the engine half is of instance 1, expected 2",
        ),
    ];
    for (wrong, reason) in wrong {
        let descriptors = held.descriptors.iter().map(|fd| fd.try_clone().unwrap()).collect();
        Held { descriptors, ..wrong }.hand_over(&mut fixture.client);
        let (event, _) = fixture.event();
        let Event::SpawnFailed { step, reason: found, .. } = event else { panic!("{event:?}") };
        assert!(step == "adoption" && found.contains(reason), "{found}");
    }
    other.hand_over(&mut fixture.client);
    fixture.client.send(&Request::Adopted).unwrap();
    await_gone_or_zombie(probe.process_id);
    fixture.client.send(&Request::Shutdown { grace_ms: 0 }).unwrap();
    assert_eq!(fixture.died(), (2, Exit::Unknown));
    assert_eq!(fixture.event().0, Event::Stopped);
}

/// Where there are no cgroups, what a killed keeper has left is found all the same, with a sandbox and without.
#[test]
fn leftovers_are_found_without_cgroups() {
    let directory = tempfile::tempdir().unwrap();
    let (wrapper, socket) = (directory.path().join("keeper"), directory.path().join("keeper.sock"));
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" \"$@\"' {} \"$@\"\n",
        keeper_program().display()
    );
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    if !Command::new(&wrapper).arg("--version").status().is_ok_and(|status| status.success()) {
        return println!("not run: no mount namespace can be made");
    }
    let client = Client::start(&wrapper, &socket).unwrap();
    let mut fixture = Fixture { directory, client };
    let bare = fixture.spawn(1);
    let request = fixture.sandboxed(2);
    let boxed = fixture.spawn_as(request);
    let (_, held) = fixture.spawn_held(3);
    assert_eq!(held.about.cgroup, None, "this machine has cgroups elsewhere");
    kill(fixture.client.process_id());
    assert_eq!(fixture.client.wait().unwrap().unwrap().code(), None);
    fixture.client = Client::start(&wrapper, &socket).unwrap();
    for process in [bare.process_id, boxed.process_id, held.about.process_id] {
        await_gone_or_zombie(process);
    }
    assert_eq!(fixture.spawn(1).ask("x"), "echo x");
}
