//! Agents that take more than they may: each is contained, its end is complete, and its neighbour notices nothing.
//!
//! Most of it needs cgroups that this process may write. Where there are none, a test says `not run` and why;
//! `-- --nocapture` shows it.

#[path = "limits/cycles.rs"]
mod cycles;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keeper::cgroup::enforcement::{Feature, State};
use keeper::cgroup::layout::Controller;
use keeper::cgroup::{Cgroups, Device, Holder, subtree_name};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::binary;
use tests::client::Client;
use tests::process::{Gateway, asked, configure, processes, send_signal, until};

/// Whether all of these hold here; says which does not.
fn holds(features: &[Feature]) -> bool {
    let enforcement = Cgroups::of_this_process(&[]).enforcement(&std::env::temp_dir());
    let missing = enforcement.into_iter().find_map(|found| match found.state {
        State::NotEnforced { reason, .. } if features.contains(&found.feature) => {
            Some(format!("not run: the {} is not enforced: {reason}", found.feature))
        }
        State::NotEnforced { .. } | State::Enforced(_) => None,
    });
    missing.inspect(|reason| println!("{reason}")).is_none()
}

/// A gateway with the agent `hog`, beside the built-in one.
struct Scene {
    gateway: Gateway,
    state: Arc<TempDir>,
    /// An argument of all that the hog starts: seconds of sleep, unlike those of other tests.
    mark: String,
}

impl Scene {
    /// With these limits of the hog, as JSON.
    async fn start(mark: u32, limits: &Value) -> Self {
        Self::start_as(Command::new(binary("openclaw")), mark, limits).await
    }

    /// As [`Self::start`], by a command that ends with the program.
    async fn start_as(command: Command, mark: u32, limits: &Value) -> Self {
        let state = Arc::new(tempfile::tempdir().unwrap());
        let mark = format!("{mark}{}", std::process::id());
        let hog = json!({
            "command": [binary("hog"), mark],
            "workingDirectory": state.path(),
            "limits": limits,
            // What holds it is the cgroup alone, and its files are on the disk.
            "sandbox": {"mode": "off"},
        });
        let config = json!({
            "agents": {"entries": {"hog": hog}},
            "delivery": {"attemptsMax": 1},
            "journal": {"segmentMib": 1, "retainMib": 1},
        });
        configure(state.path(), &config);
        let scene =
            Self { gateway: Gateway::start_as(command, Arc::clone(&state), &[]).unwrap(), state, mark };
        assert_eq!(text(&scene.ask("hog", "there").await), "there");
        scene
    }

    /// Asks an agent over a connection of its own, and gives the end of its reply.
    async fn ask(&self, agent: &str, content: &str) -> Value {
        let mut client = Client::connect(&self.gateway.url()).await;
        client.say(agent, &format!("{agent}-{content}"), content, content).await;
        client.reply().await.1
    }

    async fn the_neighbour_answers(&self) {
        assert_eq!(text(&self.ask("echo", "and you").await), "and you");
    }

    /// The process of an agent's host.
    fn host(&self, agent: &str) -> u32 {
        until("the agent runs", || {
            self.gateway.agents().into_iter().find(|(name, _)| name == agent).map(|(_, process)| process)
        })
    }

    /// The cgroups of the hog, in all hierarchies.
    fn cgroups(&self) -> Vec<PathBuf> {
        cgroups_of(self.state.path()).into_iter().filter(|path| file_name(path).contains("-hog-")).collect()
    }

    /// What a file of the hog's cgroup says, in whichever hierarchy it is.
    fn read(&self, file: &str) -> Option<String> {
        self.cgroups().iter().find_map(|cgroup| std::fs::read_to_string(cgroup.join(file)).ok())
    }

    /// How many processes live that the hog has started.
    fn started(&self) -> usize {
        processes()
            .iter()
            .filter(|process| process.arguments.ends_with(&["sleep".into(), self.mark.clone()]))
            .count()
    }

    /// Ends the gateway; nothing of it is left then.
    fn end(mut self) {
        self.gateway.signal(Signal::TERM);
        assert_eq!(self.gateway.wait().code(), Some(0));
        assert_eq!((cgroups_of(self.state.path()), self.started()), (Vec::new(), 0));
    }
}

/// The cgroups of agents of a state directory.
fn cgroups_of(state: &Path) -> Vec<PathBuf> {
    let name = subtree_name(&state.canonicalize().unwrap());
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let inside = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let inside = inside.map(|entry| entry.path());
        if file_name(&folder) == name { found.extend(inside) } else { folders.extend(inside) }
    }
    found
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn text(frame: &Value) -> &str {
    frame["content"]["content"].as_str().unwrap_or_default()
}

/// The number behind a word at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// An agent that fills its memory dies; that is named as what it is, and its neighbour answers from the same process.
#[tokio::test]
async fn a_memory_hog_is_named() {
    if !holds(&[Feature::Memory]) {
        return;
    }
    let scene = Scene::start(1001, &json!({"memoryMib": 64, "require": true})).await;
    let neighbour = scene.host("echo");
    let (given_up, ()) = tokio::join!(scene.ask("hog", "memory"), scene.the_neighbour_answers());
    assert_eq!(given_up["content"]["code"], "dead_lettered", "{given_up}");
    let letters = asked(scene.state.path(), &["dlq", "list"]);
    let turn = letters["letters"][0]["turn"].as_str().expect("a turn");
    let shown = asked(scene.state.path(), &["dlq", "show", turn]).to_string();
    assert!(shown.contains("out of memory (limit 64 MiB)"), "{shown}");
    scene.the_neighbour_answers().await;
    assert_eq!(scene.host("echo"), neighbour);
    // Its successor does not remember the death.
    assert_eq!(text(&scene.ask("hog", "again").await), "again");
    scene.end();
}

/// An agent that starts processes without end gets as many as it may, while its neighbour answers; when it is killed,
/// all of them die, though they are in sessions of their own.
#[tokio::test]
async fn a_fork_bomb_is_contained() {
    if !holds(&[Feature::Processes, Feature::WholeTree]) {
        return;
    }
    let scene = Scene::start(1002, &json!({"processes": 64, "require": true})).await;
    let started = text(&scene.ask("hog", "processes").await).parse::<usize>().unwrap();
    assert!((32..64).contains(&started), "{started}");
    assert!(field(&scene.read("pids.events").unwrap(), "max") > 0);
    scene.the_neighbour_answers().await;
    until("they have loaded their program", || (scene.started() == started).then_some(()));
    let before = scene.cgroups();
    send_signal(scene.host("hog"), Signal::KILL);
    until("all are dead", || (scene.started() == 0).then_some(()));
    until("their cgroups are removed", || before.iter().all(|cgroup| !cgroup.exists()).then_some(()));
    assert!(!before.is_empty());
    assert_eq!(text(&scene.ask("hog", "again").await), "again");
    scene.end();
}

/// An agent that opens files without end gets as many as the gateway was given, though the keeper has raised its own
/// limit, and lives.
#[tokio::test]
async fn a_descriptor_bomb_is_contained() {
    const LIMIT: usize = 512;
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -S -n {LIMIT} && exec \"$0\" \"$@\"")]).arg(binary("openclaw"));
    let scene = Scene::start_as(limited, 1003, &json!({})).await;
    let opened = text(&scene.ask("hog", "descriptors").await).parse::<usize>().unwrap();
    assert!((LIMIT - 16..LIMIT).contains(&opened), "{opened}");
    scene.the_neighbour_answers().await;
    assert_eq!(text(&scene.ask("hog", "again").await), "again");
    scene.end();
}

/// An agent that keeps two threads busy is held back, period after period, and its neighbour answers.
#[tokio::test]
async fn a_cpu_hog_is_throttled() {
    if !holds(&[Feature::Cpu]) {
        return;
    }
    let scene = Scene::start(1004, &json!({"cpus": 0.2, "require": true})).await;
    // The file is in the hierarchy without the controller, too, and says less there.
    let throttled = || {
        let texts = scene.cgroups().into_iter().filter_map(|cgroup| {
            std::fs::read_to_string(cgroup.join("cpu.stat")).ok().filter(|text| text.contains("nr_throttled"))
        });
        texts.map(|text| field(&text, "nr_throttled")).max().expect("the controller counts")
    };
    let before = throttled();
    assert_eq!(text(&scene.ask("hog", "cpu").await), "busy");
    until("it is throttled", || (throttled() > before + 3).then_some(()));
    scene.the_neighbour_answers().await;
    let then = throttled();
    until("it still is", || (throttled() > then).then_some(()));
    scene.end();
}

/// What an agent writes and syncs goes to the disk at the rate of its limit: no faster, by the time it takes, and
/// counted by the controller.
#[tokio::test]
async fn a_disk_hog_is_throttled() {
    if !holds(&[Feature::IoWrite]) {
        return;
    }
    let scene = Scene::start(1005, &json!({"ioWriteMibPerS": 1, "require": true})).await;
    let device = Device::of(scene.state.path()).unwrap();
    let device = format!("{}:{}", device.major, device.minor);
    let limit = scene.read("blkio.throttle.write_bps_device").or_else(|| scene.read("io.max")).unwrap();
    assert!(limit.contains(&device) && limit.contains("1048576"), "{limit}");
    let start = Instant::now();
    let (written, ()) = tokio::join!(scene.ask("hog", "disk"), scene.the_neighbour_answers());
    assert_eq!(text(&written), "written");
    // At least: the first part of it may pass at once.
    assert!(start.elapsed() >= Duration::from_secs(1), "3 MiB at 1 MiB/s took {:?}", start.elapsed());
    let counted = match scene.read("blkio.throttle.io_service_bytes") {
        Some(text) => field(&text, &format!("{device} Write")),
        None => {
            let text = scene.read("io.stat").unwrap();
            let bytes = text.split("wbytes=").nth(1).and_then(|rest| rest.split(' ').next());
            bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or_else(|| panic!("{text}"))
        }
    };
    assert!(counted >= 3 << 20, "{counted}");
    scene.end();
}

/// What is left when keeper and gateway are killed is ended by the next start in the same directory.
#[tokio::test]
async fn leftovers_of_a_crash_are_ended() {
    if !holds(&[Feature::WholeTree, Feature::Processes]) {
        return;
    }
    let mut scene = Scene::start(1006, &json!({"processes": 32})).await;
    let started = text(&scene.ask("hog", "processes").await).parse::<usize>().unwrap();
    until("they have loaded their program", || (scene.started() == started).then_some(()));
    let before = scene.cgroups();
    let keeper = until("there is a keeper", || scene.gateway.keeper());
    scene.gateway.signal(Signal::STOP);
    send_signal(keeper, Signal::KILL);
    scene.gateway.signal(Signal::KILL);
    scene.gateway.wait();
    assert_eq!(scene.started(), started, "nobody was there to end them");
    scene.gateway = Gateway::start_in(Arc::clone(&scene.state), &[]).unwrap();
    until("they are ended", || (scene.started() == 0).then_some(()));
    assert_eq!(text(&scene.ask("hog", "again").await), "again");
    until("their cgroups are removed", || {
        let now = scene.cgroups();
        (before.iter().all(|cgroup| !cgroup.exists() || now.contains(cgroup))).then_some(())
    });
    scene.end();
}

/// What runs a program in a mount namespace of its own, in which this directory is empty.
fn covering(directory: &str) -> Option<impl Fn(&Path) -> Command + use<>> {
    let script = format!("mount -t tmpfs none {directory} && exec \"$0\" \"$@\"");
    let covered = move |program: &Path| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(program);
        command
    };
    if !covered(Path::new("true")).status().is_ok_and(|status| status.success()) {
        println!("not run: no mount namespace can be made");
        return None;
    }
    Some(covered)
}

/// Version 1 alone, where nothing can be killed as one, contains them too: these tests once more, without version 2.
#[test]
fn version_1_alone_is_enough() {
    let cgroups = Cgroups::of_this_process(&[]);
    if cgroups.holder(Controller::Processes) != Ok(Holder::Version1) {
        return println!("not run: version 1 does not limit processes here");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let unified = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let Some(point) = unified.and_then(|line| line.split(' ').nth(4)) else {
        return println!("not run: version 2 is not mounted, so the other tests have shown it");
    };
    let Some(covered) = covering(point) else { return };
    let again =
        ["a_fork_bomb_is_contained", "leftovers_of_a_crash_are_ended", "cycles::nothing_is_left_behind"];
    let output = covered(&std::env::current_exe().unwrap()).arg("--exact").args(again).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("3 passed"), "{text}");
}

/// A limit that makes no sense, and one that is required and cannot hold, are refused by key before anything starts;
/// what is not required is told, and the gateway runs without.
#[test]
fn what_cannot_hold_is_refused() {
    let start = |limits: &Value, command: Command| {
        let state = Arc::new(tempfile::tempdir().unwrap());
        let config = json!({"agents": {"defaults": {"limits": limits}}});
        configure(state.path(), &config);
        Gateway::start_as(command, state, &[])
    };
    let plain = || Command::new(binary("openclaw"));
    let refused = start(&json!({"memoryMib": 15, "processes": 3, "cpus": 0}), plain()).unwrap_err();
    for rule in
        ["memoryMib = 15: must be between 16", "processes = 3: must be between 4", "cpus = 0: must be"]
    {
        let rule = format!("agents.defaults.limits.{rule}");
        assert!(refused.stderr.contains(&rule), "{rule}: {}", refused.stderr);
    }
    let Some(covered) = covering("/sys/fs/cgroup") else { return };
    let openclaw = binary("openclaw");
    let refused = start(&json!({"memoryMib": 64, "require": true}), covered(&openclaw)).unwrap_err();
    let rule =
        "agents.entries.echo.limits.memoryMib cannot be enforced: no cgroup can be made in /sys/fs/cgroup";
    assert!(refused.stderr.contains(rule), "{}", refused.stderr);
    assert!(refused.stderr.contains("or take out limits.require"), "{}", refused.stderr);
    let gateway = start(&json!({"memoryMib": 64}), covered(&openclaw)).unwrap();
    until("its agent runs", || (gateway.agents().len() == 1).then_some(()));
}
