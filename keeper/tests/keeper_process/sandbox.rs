//! Agents in a sandbox: what they see, what is told of what fails and of what is not enforced, and what they leave.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use keeper::client::Client;
use keeper::control::{Event, Exit, Request, Spawn};
use keeper::sandbox::spec::{Bind, Network, SandboxSpec, Seccomp};
use rustix::process::Signal;

use super::{Fixture, example, keeper_program};

/// Agents of the test that counts what is left.
const AGENTS: u64 = 200;

fn bind(path: &Path, writable: bool) -> Bind {
    Bind { source: path.to_owned(), target: path.to_owned(), writable }
}

impl Fixture {
    /// A request for a probe agent in a sandbox that shows its program and has a workspace.
    pub(super) fn sandboxed(&self, instance: u64) -> Spawn {
        let workspace = self.directory.path().join("workspace");
        std::fs::create_dir_all(&workspace).unwrap();
        let binds = vec![bind(&example("probe_agent"), false), bind(&workspace, true)];
        let sandbox = Some(Box::new(SandboxSpec { binds, ..SandboxSpec::default() }));
        Spawn { working_directory: Some(workspace), sandbox, ..self.probe(instance) }
    }
}

/// The reason for which a request is refused.
fn refused(fixture: &mut Fixture, request: Spawn) -> (String, String) {
    fixture.client.send(&Request::Spawn(request)).unwrap();
    match fixture.event().0 {
        Event::SpawnFailed { step, reason, .. } => (step, reason),
        other => panic!("{other:?}"),
    }
}

/// An agent in a sandbox talks over its rings as any other; it sees the view and nothing of its machine, and writes
/// to its workspace and its own /tmp only.
#[test]
fn a_sandboxed_agent_works_and_sees_its_view() {
    let mut fixture = Fixture::start();
    std::fs::write(fixture.directory.path().join("secret"), "of the gateway").unwrap();
    for (instance, seccomp, network) in [
        (1, Seccomp::Standard, Network::Host),
        (2, Seccomp::Strict, Network::None),
        (3, Seccomp::None, Network::Host),
    ] {
        let mut request = fixture.sandboxed(instance);
        let spec = request.sandbox.as_mut().unwrap();
        (spec.seccomp, spec.network) = (seccomp, network);
        let mut probe = fixture.spawn_as(request);
        let workspace = fixture.directory.path().join("workspace");
        assert_eq!(probe.ask("descriptors"), "[0, 1, 2, 3, 5, 6]", "as without a sandbox");
        assert_eq!(probe.ask("directory"), workspace.to_string_lossy());
        assert_eq!(probe.ask("write note"), "written");
        assert_eq!(std::fs::read_to_string(workspace.join("note")).unwrap(), "written");
        assert_eq!(probe.ask("write /tmp/note"), "written");
        assert_eq!(probe.ask("list /tmp/"), first_of(&workspace));
        assert_eq!(probe.ask("read /proc/sys/kernel/hostname"), "read openclaw-agent\n");
        assert_eq!(probe.ask("list /dev"), "fd full null random shm stderr stdin stdout urandom zero");
        for path in ["/usr/note", "/note", "/etc/passwd", "/proc/self/comm", "/proc/sys/kernel/hostname"] {
            let answer = probe.ask(&format!("write {path}"));
            // By the mounts; Landlock would say 13.
            assert!(answer.contains("os error 30"), "{path}: {answer}");
        }
        let secret = fixture.directory.path().join("secret");
        let answer = probe.ask(&format!("read {}", secret.display()));
        assert!(answer.contains("os error 2") || answer.contains("os error 13"), "{answer}");
        // The first process of its namespace, and nobody beside it.
        let numbers = probe.ask("list /proc");
        let numbers: Vec<_> = numbers.split(' ').filter(|name| name.parse::<u32>().is_ok()).collect();
        assert_eq!(numbers, ["1"]);
        probe.say("exit 7");
        let (Event::Died { exit, .. }, _) = fixture.event() else { panic!("it lives") };
        assert_eq!(exit, Exit::Code(7));
    }
}

/// What lies in the private /tmp: the note, and where binds below it were made.
fn first_of(workspace: &Path) -> String {
    let program = example("probe_agent");
    let below = [workspace, &program].into_iter().filter_map(|path| path.strip_prefix("/tmp").ok());
    let first = |rest: &Path| Some(rest.components().next()?.as_os_str().to_string_lossy().into_owned());
    let names: BTreeSet<String> = below.filter_map(first).chain(["note".to_owned()]).collect();
    names.into_iter().collect::<Vec<_>>().join(" ")
}

/// A step that fails is told with its words and the kernel's answer: what is bound is not there or is reached by a
/// symbolic link, the program is none.
#[test]
fn failing_steps_are_named() {
    let mut fixture = Fixture::start();
    let folder = fixture.directory.path().to_owned();
    std::os::unix::fs::symlink("/etc", folder.join("link")).unwrap();
    let with = |fixture: &Fixture, path: &Path| {
        let mut request = fixture.sandboxed(1);
        request.sandbox.as_mut().unwrap().binds.push(bind(path, false));
        request
    };
    let link = with(&fixture, &folder.join("link/passwd"));
    let (step, reason) = refused(&mut fixture, link);
    let expected = format!("opening {}/link/passwd for the view failed: Too many levels", folder.display());
    assert!(step == "sandbox" && reason.starts_with(&expected), "{step}: {reason}");
    let absent = with(&fixture, &folder.join("absent"));
    let (step, reason) = refused(&mut fixture, absent);
    assert!(step == "sandbox" && reason.contains("/absent"), "{step}: {reason}");
    let hidden = Spawn { argv: vec!["/proc/1/nothing".into()], ..fixture.sandboxed(1) };
    let (step, reason) = refused(&mut fixture, hidden);
    assert!(step == "run" && reason.starts_with("program /proc/1/nothing cannot be run"), "{step}: {reason}");
    // What failed is not left as a zombie either.
    let keeper = fixture.client.process_id();
    let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap();
    assert_eq!(children, "");
    // A directory that is not shown is there, and nothing in it is.
    std::fs::write(folder.join("secret"), "of the gateway").unwrap();
    let outside = Spawn { working_directory: Some(folder), ..fixture.sandboxed(1) };
    let mut probe = fixture.spawn_as(outside);
    assert!(probe.ask("read secret").contains("os error 2"));
}

/// SIGTERM does not reach the first process of a namespace; SIGKILL ends it and all it has started.
#[test]
fn the_end_of_an_agent_is_the_end_of_its_processes() {
    let mut fixture = Fixture::start();
    let mut probe = fixture.spawn_as(fixture.sandboxed(1));
    let told = probe.ask("child");
    let inside = Path::new("/proc").join(probe.process_id.to_string()).join("task");
    let children = inside.join(probe.process_id.to_string()).join("children");
    let child: u32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(numbers.split_whitespace().next_back(), Some(&*told), "numbers are those of the namespace");
    assert_ne!(told, child.to_string());
    fixture.client.send(&Request::Kill { instance: 1, signal: Signal::KILL.as_raw() }).unwrap();
    let (Event::Died { exit, .. }, _) = fixture.event() else { panic!("it lives") };
    assert_eq!(exit, Exit::Signal(9));
    assert!(!Path::new("/proc").join(child.to_string()).exists(), "{child} lives");
}

/// Where the machine allows no user namespaces, the rest of the sandbox is enforced, what is missing is named with
/// the event, and a specification that requires all of it is refused with the same words.
#[test]
fn what_is_not_enforced_is_named_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wrapper = directory.path().join("keeper");
    // In a namespace whose own limit can be set, and concerns nobody else.
    let script = format!(
        "#!/bin/sh\nexec unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$0\" \"$@\"' {} \"$@\"\n",
        keeper_program().display()
    );
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let client = Client::start(&wrapper, &directory.path().join("keeper.sock")).unwrap();
    let missing = client.enforcement().not_enforced(&SandboxSpec::default());
    let mut fixture = Fixture { directory, client };
    assert!(missing[0].starts_with("namespaces (making namespaces: No space left"), "{missing:?}");

    let request = fixture.sandboxed(1);
    fixture.client.send(&Request::Spawn(request.clone())).unwrap();
    let (event, descriptors) = fixture.event();
    let Event::Spawned { not_enforced, process_id, .. } = event else { panic!("{event:?}") };
    assert_eq!(not_enforced, missing);
    let mut probe = super::attached(descriptors, 1, process_id);
    // Landlock and seccomp hold without namespaces.
    std::fs::write(fixture.directory.path().join("secret"), "of the gateway").unwrap();
    let secret = fixture.directory.path().join("secret");
    assert!(probe.ask(&format!("read {}", secret.display())).contains("os error 13"));
    assert_eq!(probe.ask("write note"), "written");
    assert!(probe.ask("write /tmp/note").contains("os error 13"));

    let mut strict = fixture.sandboxed(2);
    strict.sandbox.as_mut().unwrap().require = true;
    let (step, reason) = refused(&mut fixture, strict);
    let expected = format!("not enforced, and sandbox.require is set: {}", missing.join("; "));
    assert_eq!((step.as_str(), reason), ("sandbox", expected));
}

/// After many agents nothing is left: no mount, no process, no descriptor of the keeper, no file. Prints what a
/// start costs with and without a sandbox; `-- --nocapture` shows it.
#[test]
fn nothing_is_left_of_many_agents() {
    let mut fixture = Fixture::start();
    let keeper = Path::new("/proc").join(fixture.client.process_id().to_string());
    let count = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    let folder = fixture.directory.path().to_string_lossy().into_owned();
    // Where the view is made, and what is bound into it; other mounts of the machine come and go.
    let mounts = || {
        let all = std::fs::read_to_string(keeper.join("mountinfo")).unwrap();
        all.lines().filter(|line| line.contains(" /usr ") || line.contains(&folder)).count()
    };
    let children = || {
        let id = keeper.file_name().unwrap();
        std::fs::read_to_string(keeper.join("task").join(id).join("children")).unwrap()
    };
    let mut before = None;
    let mut took = Vec::new();
    for instance in 0..AGENTS {
        let start = Instant::now();
        let sandboxed = fixture.sandboxed(instance);
        fixture.client.send(&Request::Spawn(sandboxed)).unwrap();
        let (Event::Spawned { .. }, held) = fixture.event() else { panic!("not spawned") };
        took.push(start.elapsed());
        drop(held);
        fixture.client.send(&Request::Kill { instance, signal: Signal::KILL.as_raw() }).unwrap();
        let (Event::Died { exit: Exit::Signal(9), .. }, _) = fixture.event() else { panic!("it lives") };
        let now = (count(&keeper.join("fd")), mounts(), children(), count(fixture.directory.path()));
        assert_eq!(&now, before.get_or_insert(now.clone()), "after agent {instance}");
    }
    assert_eq!(before.unwrap().2, "");
    let mut open = Vec::new();
    for instance in 0..AGENTS {
        let start = Instant::now();
        fixture.client.send(&Request::Spawn(fixture.probe(instance))).unwrap();
        let (Event::Spawned { .. }, _) = fixture.event() else { panic!("not spawned") };
        open.push(start.elapsed());
        fixture.client.send(&Request::Kill { instance, signal: Signal::KILL.as_raw() }).unwrap();
        let (Event::Died { .. }, _) = fixture.event() else { panic!("it lives") };
    }
    let median = |mut took: Vec<std::time::Duration>| {
        took.sort();
        took[took.len() / 2]
    };
    println!("median of {AGENTS} starts: {:?} in a sandbox, {:?} without", median(took), median(open));
}
