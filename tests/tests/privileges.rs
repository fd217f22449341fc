//! What a gateway may do once it runs: as root or as an ordinary user, on its own or as the user that `gateway.user` names.
//! The kernel says it, thread by thread; and what needs more goes on all the same.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Signal, geteuid};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::binary;
use tests::client::Client;
use tests::process::{
    Gateway, Process, alive, asked, configure, end_all, openclaw, processes, send_signal, until,
};

/// The name and number of a user who is not root.
const NOBODY: (&str, u32) = ("nobody", 65_534);
const NO_CAPABILITIES: &str = "0000000000000000";

/// A state directory with settings. Whatever runs there is ended when this is dropped.
struct Place(Arc<TempDir>);

impl Place {
    fn new(owner: u32, settings: &Value) -> Self {
        let place = Self(Arc::new(tempfile::tempdir().unwrap()));
        configure(place.path(), settings);
        if geteuid().is_root() {
            chown(place.path(), Some(owner), Some(owner)).unwrap();
        }
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn start(&self, arguments: &[&str]) -> Gateway {
        Gateway::start_in(Arc::clone(&self.0), arguments).unwrap()
    }

    /// What a gateway says that is not to start, and leaves behind.
    fn refused(&self, command: Command) -> String {
        let refused = Gateway::start_as(command, Arc::clone(&self.0), &[]).unwrap_err();
        let left: Vec<_> =
            self.0.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!((refused.status.code(), left), (Some(1), vec!["openclaw.json".into()]));
        refused.stderr
    }

    /// The process ids of gateway and keeper, once another gateway than `before` answers.
    fn after(&self, before: u32) -> (u32, u32) {
        until("the next gateway answers", || {
            let output = openclaw(self.path(), &["gateway", "status", "--json"]).output().unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let number = |key: &str| u32::try_from(status[key].as_u64()?).ok();
            Some((number("processId")?, number("keeperProcessId")?)).filter(|found| found.0 != before)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        end_all(self.path());
    }
}

/// What the kernel says of a line of the status of every thread of a process.
fn told(process: u32, line: &str) -> BTreeSet<String> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let statuses =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let value = |status: String| {
        let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
        found.expect("a line of the kernel").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    statuses.map(value).collect()
}

fn once(value: &impl ToString) -> BTreeSet<String> {
    [value.to_string()].into()
}

/// The gateway has nothing that its user has not. One that has changed its user has no other groups, and cannot get more.
fn is_bare(gateway: u32, user: u32) {
    let four = [user; 4].map(|user| user.to_string()).join(" ");
    for line in ["Uid", "Gid"] {
        assert_eq!(told(gateway, line), once(&four), "{line}");
    }
    for line in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(told(gateway, line), once(&NO_CAPABILITIES), "{line}");
    }
    if user == geteuid().as_raw() {
        for line in ["Groups", "CapBnd", "NoNewPrivs"] {
            assert_eq!(told(gateway, line), told(std::process::id(), line), "{line}");
        }
    } else {
        assert_eq!(told(gateway, "Groups"), once(&""));
        assert_eq!(told(gateway, "CapBnd"), once(&NO_CAPABILITIES));
        assert_eq!(told(gateway, "NoNewPrivs"), once(&1));
    }
}

/// The keeper has what the one has who has started it.
fn is_not_bare(keeper: u32) {
    let this = std::process::id();
    for line in ["Uid", "Gid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs"] {
        assert_eq!(told(keeper, line), told(this, line), "{line}");
    }
}

async fn answers(gateway: &Gateway, id: &str) {
    let mut client = Client::connect(&gateway.url()).await;
    client.say("echo", id, id, id).await;
    assert_eq!(client.reply().await.1["content"]["content"], id);
}

fn needs_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("not run: needs root");
    }
    !root
}

/// A gateway of root becomes the user that the configuration names, and so does the one after a crash and after a restart;
/// meanwhile the keeper stays root, the agents live on, messages are answered, and both sockets are there for root.
#[tokio::test]
async fn a_gateway_of_root_becomes_another_user() {
    if needs_root() {
        return;
    }
    let place = Place::new(NOBODY.1, &json!({"gateway": {"user": NOBODY.0}}));
    let mut gateway = place.start(&["--shards", "2", "--restart", "always"]);
    let url = gateway.url();
    let (mut process, keeper) = place.after(0);
    assert_eq!(process, gateway.process_id());
    let agents = until("the agent runs", || Some(gateway.agents()).filter(|agents| agents.len() == 1));
    for (step, id) in ["at first", "after a crash", "after a restart"].into_iter().zip(["a", "b", "c"]) {
        is_bare(process, NOBODY.1);
        is_not_bare(keeper);
        answers(&gateway, id).await;
        assert_eq!(
            asked(place.path(), &["agent", "status", "echo"])["agents"][0]["processId"],
            agents[0].1,
            "{step}"
        );
        let rings = openclaw(place.path(), &["ring", "list"]).output().unwrap();
        assert!(rings.status.success() && !rings.stdout.is_empty(), "{rings:?}");
        for made in ["gateway.sock", "gateway.lock", "journal", "logs"] {
            let owner = std::fs::metadata(place.path().join(made)).unwrap().uid();
            assert_eq!(owner, NOBODY.1, "{made}");
        }
        match id {
            "a" => {
                send_signal(process, Signal::KILL);
                gateway.wait();
            }
            "b" => {
                asked(place.path(), &["gateway", "restart"]);
            }
            _ => break,
        }
        assert_eq!(gateway.url(), url);
        let next = place.after(process);
        assert_eq!((next.1, alive(process)), (keeper, false), "the same keeper, {step}");
        process = next.0;
    }
    let stopped = openclaw(place.path(), &["gateway", "stop"]).output().unwrap();
    assert!(stopped.status.success() && !alive(process), "{stopped:?}");
    until("the keeper has ended", || (!alive(keeper)).then_some(()));
}

/// The standby of a keeper of root: the process that would be the next one. The keeper may have been one itself.
fn standby(place: &Place, keeper: u32) -> Option<u32> {
    let path = place.path().to_string_lossy();
    let is_standby = |process: &Process| {
        process.is_keeper()
            && process.process_id != keeper
            && process.arguments.iter().any(|argument| argument == "--standby")
            && process.arguments.iter().any(|argument| argument.starts_with(&*path))
    };
    processes().into_iter().find(is_standby).map(|process| process.process_id)
}

/// The keeper of root is killed, and stopped, under a gateway that is root no more: its standby takes its place, of root like
/// it; the agents keep their processes, messages are answered over the same connection, and the next standby is there. So it
/// is when the standby is killed, and after a restart; and it ends with its gateway.
#[tokio::test]
async fn a_keeper_of_root_is_replaced() {
    if needs_root() {
        return;
    }
    let words = json!({"command": ["python3", tests::workspace().join("examples/streaming_agent.py")]});
    let place = Place::new(
        NOBODY.1,
        &json!({"gateway": {"user": NOBODY.0}, "agents": {"entries": {"words": words}}}),
    );
    let mut gateway = place.start(&["--restart", "always"]);
    let (process, mut keeper) = place.after(0);
    let agents = || {
        let list = asked(place.path(), &["agent", "list"]);
        let rows = list["agents"].as_array().unwrap().iter();
        rows.filter_map(|row| row["processId"].as_u64()).collect::<Vec<_>>()
    };
    let first = until("the agents run", || Some(agents()).filter(|agents| agents.len() == 2));
    let mut client = Client::connect(&gateway.url()).await;
    for (id, signal) in [("a", Signal::KILL), ("b", Signal::KILL), ("c", Signal::STOP)] {
        let next = until("there is a standby", || standby(&place, keeper));
        is_not_bare(next);
        send_signal(keeper, signal);
        client.say("words", "s", id, id).await;
        assert_eq!(client.reply().await.1["content"]["content"], id.to_uppercase());
        let found =
            until("the standby is the keeper", || Some(place.after(0).1).filter(|&now| now != keeper));
        assert_eq!((found, alive(keeper), agents()), (next, false, first.clone()), "{id}");
        is_not_bare(next);
        keeper = next;
    }
    let agent = u32::try_from(first[0]).unwrap();
    send_signal(agent, Signal::KILL);
    let second = until("a keeper that was a standby starts agents", || {
        Some(agents()).filter(|now| now.len() == 2 && *now != first)
    });
    let next = until("there is a standby", || standby(&place, keeper));
    send_signal(next, Signal::KILL);
    until("there is another one", || {
        standby(&place, keeper).filter(|&process| process != next && alive(process))
    });

    send_signal(process, Signal::KILL);
    gateway.wait();
    let (process, same) = place.after(process);
    assert_eq!((same, agents()), (keeper, second.clone()));
    let next =
        until("the next gateway has one, too", || standby(&place, keeper).filter(|&process| alive(process)));
    send_signal(keeper, Signal::KILL);
    until("it is the keeper", || (place.after(0).1 == next).then_some(()));
    assert_eq!(agents(), second);
    let last = until("there is a standby", || standby(&place, next));
    let stopped = openclaw(place.path(), &["gateway", "stop"]).output().unwrap();
    assert!(stopped.status.success() && !alive(process), "{stopped:?}");
    until("keeper and standby have ended", || (!alive(next) && !alive(last)).then_some(()));
    assert!(!place.path().join("keeper.sock").exists());
}

/// Without the key a gateway keeps its user, and nothing else. It makes a state directory for the user that it names.
#[tokio::test]
async fn capabilities_are_given_up_in_any_case() {
    let own = geteuid().as_raw();
    let place = Place::new(own, &json!({}));
    let gateway = place.start(&[]);
    is_bare(gateway.process_id(), own);
    is_not_bare(gateway.keeper().expect("a keeper"));
    answers(&gateway, "a").await;

    if needs_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    chown(folder.path(), Some(NOBODY.1), None).unwrap();
    let config = folder.path().join("settings.json5");
    std::fs::write(&config, "{gateway: {auth: {mode: 'none'}, user: 65534}}").unwrap();
    let made = folder.path().join("a/b");
    let mut command = Command::new(binary("openclaw"));
    command.args(["gateway", "run", "--port", "0", "--restart", "never", "--handover-timeout-ms", "0"]);
    command.arg("--config").arg(&config).arg("--state-dir").arg(&made).stdout(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    until("it answers", || {
        let asked = openclaw(&made, &["gateway", "status"]).output().unwrap();
        asked.status.success().then_some(())
    });
    is_bare(child.id(), NOBODY.1);
    let owners = ["a", "a/b"].map(|path| std::fs::metadata(folder.path().join(path)).unwrap().uid());
    assert_eq!(owners, [NOBODY.1; 2]);
    assert!(openclaw(&made, &["gateway", "stop"]).status().unwrap().success());
    child.wait().unwrap();
}

/// A user who is not there, a directory of somebody else, and a gateway that is not root: refused before anything starts,
/// with key, value and rule; and a running gateway does not make room for one that would be refused.
#[tokio::test]
async fn users_that_cannot_be_are_refused() {
    let own = geteuid().as_raw();
    let bare = || Command::new(binary("openclaw"));
    let said = Place::new(own, &json!({"gateway": {"user": "no-such-user"}})).refused(bare());
    assert!(said.contains("gateway.user = \"no-such-user\": no such user in /etc/passwd"), "{said}");
    if needs_root() {
        return;
    }
    let place = Place::new(0, &json!({"gateway": {"user": NOBODY.0}}));
    let said = place.refused(bare());
    let rule = format!(
        "gateway.user = \"nobody\": {} must belong to user 65534, and belongs to user 0",
        place.path().display()
    );
    assert!(said.contains(&rule), "{said}");

    let mut ordinary = Command::new("setpriv");
    ordinary.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(binary("openclaw"));
    let said = Place::new(NOBODY.1, &json!({"gateway": {"user": 0}})).refused(ordinary);
    assert!(said.contains("gateway.user = 0: only root can become another user"), "{said}");

    // Only capabilities would let root write here.
    let said = Gateway::start_in(Arc::clone(&Place::new(NOBODY.1, &json!({})).0), &[]).unwrap_err().stderr;
    assert!(said.contains("belongs to user 65534") && said.contains("set gateway.user to 65534"), "{said}");

    let place = Place::new(NOBODY.1, &json!({"gateway": {"user": NOBODY.1}}));
    let gateway = place.start(&["--restart", "always"]);
    configure(place.path(), &json!({"gateway": {"user": 7}}));
    let output = openclaw(place.path(), &["gateway", "restart"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("gateway.user = 7: ") && said.contains("must belong to user 7"), "{said}");
    answers(&gateway, "a").await;
}
