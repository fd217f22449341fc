//! The sandbox of agents, as an agent finds it that tries to get out: by the real gateway and its keeper, as root and
//! as an ordinary user; and what the gateway says where a sandbox is not to be had.

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::binary;
use tests::client::Client;
use tests::process::{Gateway, configure, until};

const DOCUMENT: &str = include_str!("../../docs/trust-model.md");
/// The user and group that everything runs as which is not to be root.
const NOBODY: u32 = 65_534;

type Outcomes = BTreeMap<String, String>;

/// A directory for the gateway, and one with a file of another agent.
struct Place {
    state: Arc<TempDir>,
    other: TempDir,
    user: Option<u32>,
}

impl Place {
    /// Owned by `user`, if it is another one.
    fn new(user: Option<u32>) -> Self {
        let (state, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("secret"), "of another agent").unwrap();
        for path in [state.path().to_owned(), other.path().to_owned(), other.path().join("secret")] {
            chown(path, user, user).unwrap();
        }
        Self { state: Arc::new(state), other, user }
    }

    fn secret(&self) -> PathBuf {
        self.other.path().join("secret")
    }

    /// Starts a gateway with the probe in a sandbox with these settings.
    fn start(&self, sandbox: &Value) -> Gateway {
        let probe = json!({"command": [binary("sandbox-probe")], "sandbox": sandbox});
        let words = json!({"command": ["sleep", "infinity"]});
        let settings = json!({"agents": {"entries": {"probe": probe, "other": words}}});
        configure(self.state.path(), &settings);
        let command = match self.user {
            None => Command::new(binary("openclaw")),
            Some(user) => {
                let mut command = Command::new("setpriv");
                let user = user.to_string();
                command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]).arg(binary("openclaw"));
                command
            }
        };
        Gateway::start_as(command, Arc::clone(&self.state), &["--shards", "1"]).unwrap()
    }

    /// What each attempt of the probe meets.
    async fn probe(&self, sandbox: &Value) -> Outcomes {
        let gateway = self.start(sandbox);
        let other = until("the other agent runs", || {
            gateway.agents().into_iter().find(|(name, _)| name == "other").map(|(_, process)| process)
        });
        let aim = json!({
            "gateway": gateway.process_id(),
            "agent": other,
            "state": gateway.state(),
            "file": self.secret(),
            "sandboxed": sandbox["mode"] != "off",
        });
        let mut client = Client::connect(&gateway.url()).await;
        client.say("probe", "s", &sandbox.to_string(), &aim.to_string()).await;
        let reply = client.reply().await.1;
        let content = reply["content"]["content"].as_str().unwrap_or_else(|| panic!("{reply}"));
        serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {reply}"))
    }
}

/// The table of the document: attempt, what stops it, and the two answers.
fn documented() -> Vec<[&'static str; 4]> {
    let header = "| attempt | what stops it | answer | answer with `seccomp: \"none\"` |\n";
    let (_, table) = DOCUMENT.split_once(header).expect("there is a table of attempts");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> =
            row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        cells.try_into().unwrap_or_else(|_| panic!("four cells: {row}"))
    })
    .collect()
}

fn compare(column: usize, mut found: Outcomes) {
    let mut documented: Outcomes =
        documented().iter().map(|row| (row[0].to_owned(), row[column].to_owned())).collect();
    // What is up to the machine has been tried, and any answer will do.
    documented.retain(|attempt, answer| answer != "–" || found.remove(attempt).is_none());
    let lines: Vec<_> = found.iter().map(|(attempt, answer)| format!("| {attempt} | `{answer}` |")).collect();
    assert_eq!(documented, found, "docs/trust-model.md (left), and the probe:\n{}", lines.join("\n"));
}

/// Every attempt is answered as the document says, with the filter of system calls and without it; so no attempt but
/// those that only the filter stops depends on one layer.
#[tokio::test]
async fn attempts_to_get_out_are_answered_as_documented() {
    let place = Place::new(None);
    compare(2, place.probe(&json!({})).await);
    compare(3, place.probe(&json!({"seccomp": "none"})).await);
    let strict = place.probe(&json!({"seccomp": "strict", "network": "none"})).await;
    let allowed: Vec<_> = strict.iter().filter(|(_, answer)| *answer == "allowed").collect();
    assert_eq!(allowed, Vec::<(&String, &String)>::new());
}

/// The same as an ordinary user.
#[tokio::test]
async fn an_ordinary_user_has_the_same_sandbox() {
    if !rustix::process::geteuid().is_root() {
        return println!("not run: this is an ordinary user already");
    }
    let place = Place::new(Some(NOBODY));
    compare(2, place.probe(&json!({})).await);
    compare(3, place.probe(&json!({"seccomp": "none"})).await);
}

/// The probe is able to succeed: without a sandbox it does what an agent of the gateway's user may do.
#[tokio::test]
async fn without_a_sandbox_attempts_succeed() {
    let outcomes = Place::new(None).probe(&json!({"mode": "off"})).await;
    let allowed: Vec<_> = outcomes
        .iter()
        .filter(|(_, answer)| *answer == "allowed")
        .map(|(attempt, _)| attempt.as_str())
        .collect();
    for attempt in [
        "trace another agent",
        "read the memory of another agent",
        "open the memory of another agent",
        "read the environment of another agent",
        "look at the gateway in /proc",
        "signal the gateway",
        "hold on to another agent",
        "list the state directory",
        "read a file of another agent",
        "reach the root of another agent",
    ] {
        assert!(allowed.contains(&attempt), "{attempt}: {outcomes:?}");
    }
}

/// What is orphaned in a sandbox is reaped by the host of the command.
#[tokio::test]
async fn orphans_are_reaped() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let script = state.path().join("agent.sh");
    // Leaves ten orphans, looks for zombies until there is none or it has looked often, and tells how many are left.
    let text = r#"while read line; do
    for i in 1 2 3 4 5 6 7 8 9 10; do (true & ) ; done
    looks=0
    while [ $looks -lt 500 ] && grep -q '^State:.*zombie' /proc/[0-9]*/status 2>/dev/null; do
        looks=$((looks + 1))
    done
    left=$(grep -l '^State:.*zombie' /proc/[0-9]*/status 2>/dev/null | wc -l)
    id=$(printf '%s' "$line" | sed 's/.*"id":\("[^"]*"\|[0-9]*\).*/\1/')
    printf '{"type":"end","id":%s,"content":"%s are left"}\n' "$id" "$left"
done"#;
    std::fs::write(&script, text).unwrap();
    let agent = format!("orphans=sh {}", script.display());
    let gateway = Gateway::start_in(state, &["--shards", "1", "--agent", &agent]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("orphans", "s", "m", "x").await;
    assert_eq!(client.reply().await.1["content"]["content"], "0 are left");
}

/// A gateway on a machine without user namespaces, as far as its own processes can tell.
fn without_namespaces() -> Command {
    let mut command = Command::new("unshare");
    let line = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$0\" \"$@\"";
    command.args(["-Ur", "sh", "-c", line]).arg(binary("openclaw"));
    command
}

/// Where there are no user namespaces the gateway starts, names for each agent what is not enforced, and `doctor` says
/// how to turn it on; an agent that requires all of its sandbox keeps the gateway from starting.
#[test]
fn what_is_missing_is_named_or_refused() {
    let output = without_namespaces().args(["doctor", "--json"]).output().unwrap();
    let found: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let features = found["features"].as_array().unwrap();
    let feature = |name: &str| features.iter().find(|feature| feature["feature"] == name).unwrap();
    let missing = feature("namespaces");
    assert_eq!(missing["enforced"], false);
    assert!(missing["remedy"].as_str().unwrap().contains("user.max_user_namespaces"), "{missing}");
    for name in ["landlock", "seccomp", "io_uring", "locked memory", "open files"] {
        assert!(feature(name)["reason"].is_string(), "{name}");
    }
    let output = without_namespaces().arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("FEATURE") && text.contains("\nnamespaces: allow user namespaces"), "{text}");

    let state = Arc::new(tempfile::tempdir().unwrap());
    let settings = json!({"agents": {"entries": {"echo": {"sandbox": {"require": true}}}}});
    configure(state.path(), &settings);
    let refused = Gateway::start_as(without_namespaces(), Arc::clone(&state), &[]).unwrap_err();
    let expected = "agent echo: namespaces (making namespaces: No space left on device";
    assert!(refused.stderr.contains(expected) && !refused.status.success(), "{}", refused.stderr);

    configure(state.path(), &json!({}));
    let mut gateway = Gateway::start_as(without_namespaces(), Arc::clone(&state), &[]).unwrap();
    until("the agent runs", || gateway.agents().into_iter().find(|(name, _)| name == "echo"));
    gateway.signal(rustix::process::Signal::INT);
    assert!(gateway.wait().success());
    let log = gateway.log();
    let line = "agent echo: not enforced: namespaces (making namespaces: No space left on device";
    assert_eq!(log.matches(line).count(), 1, "{log}");
}

/// Settings that cannot be used are refused before anything starts, with key and reason.
#[test]
fn bad_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/srv", &link).unwrap();
    let sandbox = json!({"binds": [{"source": link}], "network": "lan"});
    let config = folder.path().join("openclaw.json");
    let settings = json!({"agents": {"defaults": {"sandbox": sandbox}}});
    std::fs::write(&config, settings.to_string()).unwrap();
    let refused = Gateway::start(&["--config", config.to_str().unwrap()]).unwrap_err();
    for rule in [
        format!("binds = {}: must not be, or lie behind, a symbolic link", link.display()),
        "agents.defaults.sandbox.network = \"lan\": must be \"host\" or \"none\"".to_owned(),
    ] {
        assert!(refused.stderr.contains(&rule), "{rule}: {}", refused.stderr);
    }
}

/// `doctor` needs no gateway and no state directory.
#[test]
fn doctor_needs_no_gateway() {
    let output = Command::new(binary("openclaw")).arg("doctor").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for feature in ["namespaces", "landlock", "seccomp", "io_uring", "locked memory", "open files"] {
        assert!(text.lines().any(|line| line.starts_with(feature)), "{feature}: {text}");
    }
}
