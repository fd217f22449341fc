//! Cgroups on made-up trees, and on those of this machine where it has any.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tempfile::TempDir;

use super::detect::Holder;
use super::enforcement::{Feature, State};
use super::layout::Controller;
use super::limits::v2_settings;
use super::*;
use crate::control::{Cause, Exit};

const WAIT: Duration = Duration::from_secs(20);
const V2_MOUNT: &str = "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw";

/// A made-up hierarchy of version 2 with one cgroup, `/own`, that has these controllers and processes.
struct Tree(TempDir);

impl Tree {
    fn new(controllers: &str, processes: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(tree.own()).unwrap();
        for (file, text) in [
            ("cgroup.type", "domain"),
            ("cgroup.controllers", controllers),
            ("cgroup.procs", processes),
            ("cgroup.subtree_control", ""),
        ] {
            std::fs::write(tree.own().join(file), text).unwrap();
        }
        tree
    }

    fn own(&self) -> PathBuf {
        self.0.path().join("cg/own")
    }

    fn detect(&self) -> Cgroups {
        Cgroups::detect(self.0.path(), "0::/own\n", V2_MOUNT, &[7, 8])
    }

    fn obstacles(&self) -> Vec<(Feature, String)> {
        let missing = |enforcement: enforcement::Enforcement| match enforcement.state {
            State::Enforced(holder) => {
                assert_eq!(holder, Holder::Version2);
                None
            }
            State::NotEnforced { reason, remedy } => {
                assert!(!remedy.is_empty());
                Some((enforcement.feature, reason))
            }
        };
        self.detect()
            .enforcement(Path::new(env!("CARGO_MANIFEST_DIR")))
            .into_iter()
            .filter_map(missing)
            .collect()
    }
}

/// Each obstacle of version 2 is found and named, for the features it stands in the way of, and no others.
#[test]
fn obstacles_are_named() {
    let all = "cpu io memory pids\n";
    let tree = Tree::new(all, "7\n8\n");
    // Where the sources lie on no block device, writing cannot be limited.
    let on_device: Vec<_> =
        tree.obstacles().into_iter().filter(|(feature, _)| *feature != Feature::IoWrite).collect();
    assert_eq!(on_device, []);

    let own = tree.own().display().to_string();
    let cpu = |tree: &Tree| tree.obstacles().into_iter().find(|(feature, _)| *feature == Feature::Cpu);
    let expected = |reason: String| Some((Feature::Cpu, reason));
    std::fs::write(tree.own().join("cgroup.procs"), "7\n8\n9\n10\n").unwrap();
    assert_eq!(cpu(&tree), expected(format!("the cgroup {own} holds 2 processes of others")));
    assert!(tree.obstacles().iter().all(|(feature, _)| *feature != Feature::WholeTree));
    std::fs::write(tree.own().join("cgroup.subtree_control"), all).unwrap();
    assert_eq!(cpu(&tree), None, "they are beside controllers already");

    let tree = Tree::new("memory pids\n", "7\n");
    let own = tree.own().display().to_string();
    assert_eq!(cpu(&tree), expected(format!("the cgroup {own} does not have this controller")));
    assert!(tree.obstacles().iter().all(|(feature, _)| *feature != Feature::Memory));

    std::fs::remove_file(tree.own().join("cgroup.subtree_control")).unwrap();
    let reason = format!("no cgroup can be made in {own}: No such file or directory (os error 2)");
    let every = Feature::ALL.map(|feature| (feature, reason.clone()));
    assert_eq!(tree.obstacles(), every);

    let nothing = Cgroups::detect(Path::new("/"), "", "", &[]).enforcement(Path::new("/"));
    let reasons = nothing.iter().filter(|e| {
        matches!(&e.state, State::NotEnforced { reason, .. }
        if reason == "no cgroup hierarchy with this controller is mounted")
    });
    assert_eq!(reasons.count(), Feature::ALL.len());
}

/// In the cgroup of others no agent is beside a controller: the keeper and its gateway go to a leaf, and each
/// controller is handed down in two steps. What is written is the last of it, since files of a made-up tree keep
/// only that.
#[test]
fn version_2_hands_controllers_down() {
    let tree = Tree::new("memory pids\n", "7\n8\n");
    let state = Path::new("/some/state");
    let base = tree.own().join(subtree::subtree_name(state));
    for file in ["keeper/cgroup.procs", "cgroup.subtree_control"] {
        std::fs::create_dir_all(base.join(file).parent().unwrap()).unwrap();
        std::fs::write(base.join(file), "").unwrap();
    }
    let subtree = Subtree::open(&tree.detect(), state);
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(base.join("keeper/cgroup.procs")), "8");
    let wanted = ["+memory", "+pids"];
    let own = read(tree.own().join("cgroup.subtree_control"));
    assert!(wanted.iter().any(|wanted| own.starts_with(wanted)), "{own}");
    assert_eq!(own, read(base.join("cgroup.subtree_control")));

    // The kernel makes the files of a cgroup with its directory; here there are none, so a limit cannot be written.
    let limits = Limits { memory_bytes: Some(64 << 20), require: true, ..Limits::default() };
    let error = subtree.create("a/b", 3, &limits).unwrap_err().to_string();
    assert_eq!(
        error,
        format!("67108864 cannot be written to {}", base.join("agent-ab-3/memory.max").display())
    );
    assert!(!base.join("agent-ab-3").exists(), "nothing is left of it");
    let limits = Limits { cpu_millicores: Some(500), require: true, ..Limits::default() };
    let error = subtree.create("a", 3, &limits).unwrap_err().to_string();
    let own = tree.own().display().to_string();
    assert_eq!(
        error,
        format!("0.5 cores cannot be enforced: the cgroup {own} does not have this controller")
    );
    // Who does not insist gets an agent without.
    let limits = Limits { require: false, ..limits };
    let cgroup = subtree.create("a", 3, &limits).unwrap();
    assert_eq!(cgroup.directories().into_iter().collect::<Vec<_>>(), [base.join("agent-a-3")]);
    // The name of one that is not removed yet is not taken again.
    let second = subtree.create("a", 3, &limits).unwrap();
    assert_eq!(second.v2, Some(base.join("agent-a-3.2")));
}

/// Limits go to the files of version 2; a file that some kernels lack may be missing, another may not. Counters are
/// read from there.
#[test]
fn version_2_files_are_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let agent = AgentCgroup {
        v1: std::collections::BTreeMap::new(),
        v2: Some(directory.clone()),
        memory_limit_bytes: Some(64 << 20),
    };
    let limits = Limits {
        memory_bytes: Some(64 << 20),
        cpu_millicores: Some(250),
        processes: Some(20),
        io_write_bytes_per_s: Some(1 << 20),
        require: true,
    };
    let settings = v2_settings(&limits, Some(Device { major: 8, minor: 0 }));
    let required: Vec<_> = settings.iter().filter(|setting| !setting.optional).collect();
    assert_eq!(required.len(), 4);
    for setting in &settings {
        let written = agent.apply(setting, &directory);
        assert_eq!(written.is_ok(), setting.optional, "{}: {written:?}", setting.file);
        std::fs::write(directory.join(setting.file), "").unwrap();
        agent.apply(setting, &directory).unwrap();
        assert_eq!(std::fs::read_to_string(directory.join(setting.file)).unwrap(), setting.value);
    }
    let events = "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n";
    for (file, text) in
        [("memory.events", events), ("cpu.stat", "usage_usec 1234\nuser_usec 5\n"), ("memory.peak", "42\n")]
    {
        std::fs::write(directory.join(file), text).unwrap();
    }
    assert_eq!(agent.usage(), Usage { cpu_us: Some(1234), memory_peak_bytes: Some(42) });
    let cause = Some(Cause::OutOfMemory { limit_bytes: Some(64 << 20) });
    // A helper that was killed earlier is not why an agent exits.
    for (exit, expected) in [
        (Exit::Signal(9), cause),
        (Exit::Code(137), cause),
        (Exit::Code(1), None),
        (Exit::Code(0), None),
        (Exit::Signal(15), None),
    ] {
        assert_eq!(agent.cause(exit), expected, "{exit:?}");
    }
    std::fs::write(directory.join("memory.events"), events.replace("oom_kill 1", "oom_kill 0")).unwrap();
    assert_eq!(agent.cause(Exit::Signal(9)), None);
}

/// A process that starts others in sessions of their own without end, each of which goes on starting, once it is told
/// to.
fn bomb() -> Child {
    let script = "read go; while :; do setsid sh -c 'sleep 1000 & sleep 1000' & done";
    Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Ends what is in a cgroup, also when its test fails.
struct Ending<'a>(&'a AgentCgroup);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The cgroups of this machine without one of the versions, or why the test cannot run.
fn real(version: Holder) -> Result<Cgroups, String> {
    let mut cgroups = Cgroups::of_this_process(&[]);
    match version {
        Holder::Version1 => {
            cgroups.v2 = Err(Obstacle::NotMounted);
            let holder = cgroups.holder(Controller::Processes).map_err(|obstacle| obstacle.to_string())?;
            if holder != version {
                Err("version 1 does not limit processes here".into())
            } else {
                Ok(cgroups)
            }
        }
        Holder::Version2 => {
            cgroups.v1.clear();
            cgroups.v2.clone().map_err(|obstacle| obstacle.to_string())?;
            Ok(cgroups)
        }
    }
}

/// Whatever multiplies in a cgroup dies with it, in sessions of its own too; then the cgroup can be removed, and the
/// keeper's. In both versions, each alone.
#[test]
fn nothing_survives_its_cgroup() {
    for version in [Holder::Version1, Holder::Version2] {
        let cgroups = match real(version) {
            Ok(cgroups) => cgroups,
            Err(reason) => {
                println!("not run: {version:?}: {reason}");
                continue;
            }
        };
        let state = tempfile::tempdir().unwrap();
        let subtree = Subtree::open(&cgroups, state.path());
        let limits = Limits {
            processes: (version == Holder::Version1).then_some(200),
            require: true,
            ..Limits::default()
        };
        let agent = subtree.create("bomb", 1, &limits).unwrap();
        let _ending = Ending(&agent);
        let mut child = bomb();
        agent.attach(Pid::from_child(&child), Born::Outside).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let count = || agent.directories().into_iter().map(|d| agent::members(d).len()).max().unwrap_or(0);
        until("it has multiplied", || count() > 20);
        assert!(!agent.is_empty() && !agent.remove());
        until("all are dead", || {
            agent.kill();
            // Its orphans are reaped by whoever does so on this machine.
            let _ = child.try_wait().unwrap();
            agent.is_empty()
        });
        assert!(agent.remove());
        let directories: Vec<_> = agent.directories().into_iter().map(Path::to_owned).collect();
        assert!(directories.iter().all(|directory| !directory.exists()), "{directories:?}");
        let parents: Vec<_> = directories.iter().filter_map(|directory| directory.parent()).collect();
        subtree.close();
        assert!(!directories.is_empty() && parents.iter().all(|parent| !parent.exists()), "{parents:?}");
        child.wait().unwrap();
    }
}

/// What a dead keeper has left is found by the next one of the same state directory only; one of another directory
/// removes what is empty of it, and nothing while the keeper lives.
#[test]
fn leftovers_are_found() {
    let cgroups = Cgroups::of_this_process(&[]);
    if let Err(obstacle) = cgroups.tree_holder() {
        return println!("not run: {obstacle}");
    }
    let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let subtree = Subtree::open(&cgroups, state.path());
    let full = subtree.create("full", 1, &Limits::default()).unwrap();
    let empty = subtree.create("empty", 2, &Limits::default()).unwrap();
    let _ending = Ending(&full);
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    full.attach(Pid::from_child(&child), Born::Outside).unwrap();
    let is_there = |cgroup: &AgentCgroup| cgroup.directories().into_iter().any(Path::exists);

    Subtree::open(&cgroups, other.path()).close();
    assert!(is_there(&full) && is_there(&empty), "their keeper lives");
    drop(subtree);
    // A process that another test has just made has the lock until it loads its program.
    let end = Instant::now() + Duration::from_secs(30);
    while is_there(&empty) {
        assert!(Instant::now() < end, "an empty cgroup is left");
        Subtree::open(&cgroups, other.path()).close();
        std::thread::yield_now();
    }
    assert!(is_there(&full));

    let next = Subtree::open(&cgroups, state.path());
    let found = next.leftovers();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].directories(), full.directories());
    found[0].kill();
    child.wait().unwrap();
    until("it is empty", || found[0].is_empty());
    assert!(found[0].remove());
    next.close();
}

/// Looks again and again until it is so.
fn until(what: &str, mut look: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !look() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
