//! Agents with real processes: crash loops end in quarantine, drains and restarts lose nothing, pools follow the load, the
//! configuration is read again while messages flow; and what the commands say of it.

#[path = "agents/commands.rs"]
mod commands;
#[path = "agents/conversations.rs"]
mod conversations;
#[path = "agents/drains.rs"]
mod drains;
#[path = "agents/pools.rs"]
mod pools;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::Client;
use tests::process::{Gateway, asked, configure, openclaw, until};
use tests::{binary, diary};

/// A state directory with a configuration, and the folder of the agents in it.
struct Place {
    state: Arc<TempDir>,
    folder: TempDir,
}

impl Place {
    /// With these agents, as JSON; `COMMAND` in them is the delivery agent and its folder.
    fn new(settings: &Value) -> Self {
        let place =
            Self { state: Arc::new(tempfile::tempdir().unwrap()), folder: tempfile::tempdir().unwrap() };
        place.configure(settings);
        place
    }

    fn state(&self) -> &Path {
        self.state.path()
    }

    fn configure(&self, settings: &Value) {
        let command = json!([binary("delivery-agent"), self.folder.path()]).to_string();
        let mut settings = settings.clone();
        // What is seen is noted there.
        settings["agents"]["defaults"] = json!({"sandbox": {"workspace": self.folder.path()}});
        let text = settings.to_string().replace("\"COMMAND\"", &command);
        configure(self.state(), &serde_json::from_str(&text).unwrap());
    }

    fn start(&self, shards: &str) -> Gateway {
        Gateway::start_in(Arc::clone(&self.state), &["--shards", shards]).unwrap()
    }

    /// The attempts that agents have seen, by content.
    fn seen(&self) -> BTreeMap<String, Vec<u64>> {
        diary::attempts(self.folder.path())
    }

    /// What is known of agents of this name.
    fn agents(&self, name: &str) -> Vec<Value> {
        asked(self.state(), &["agent", "status", name])["agents"].as_array().expect("a list").clone()
    }

    /// Waits until all agents of this name are in one of these states, and gives them.
    fn wait_for(&self, name: &str, states: &[&str]) -> Vec<Value> {
        let what = format!("{name} is {states:?}");
        until(&what, || {
            let agents = self.agents(name);
            agents.iter().all(|agent| states.contains(&agent["state"].as_str().unwrap())).then_some(agents)
        })
    }
}

fn text(frame: &Value) -> &str {
    frame["content"]["content"].as_str().unwrap_or_default()
}

fn code(frame: &Value) -> &str {
    frame["content"]["code"].as_str().unwrap_or_default()
}

/// Sends a message and gives its reply.
async fn exchange(client: &mut Client, agent: &str, session: &str, id: &str, content: &str) -> Value {
    client.say(agent, session, id, content).await;
    let (_, end) = client.reply().await;
    assert_eq!(end["id"], id, "{end}");
    end
}

/// Thirty agents that end as soon as they run, and a fleet that is allowed less than that at once: all are quarantined in
/// the end, none has been started more often than its limit says, and an agent that is well is not harmed.
#[tokio::test]
async fn crash_loops_end_in_quarantine() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("crash.sh");
    std::fs::write(&script, format!("echo $1 >> {}/starts; exit 3", folder.path().display())).unwrap();
    let names: Vec<_> = (0..30).map(|number| format!("loop-{number}")).collect();
    let agent = |name: &String| {
        // An hour, so that a slow machine does not forgive.
        let restart = json!({"max": 2, "windowMs": 3_600_000});
        let sandbox = json!({"workspace": folder.path()});
        (name.clone(), json!({"command": ["sh", script, name], "restart": restart, "sandbox": sandbox}))
    };
    let entries: serde_json::Map<_, _> = names.iter().map(agent).collect();
    let place = Place::new(&json!({"agents": {"entries": entries},
        "supervision": {"fleet": {"max": 20, "windowMs": 1000}}}));
    let gateway = place.start("2");
    let quarantined = until("all are quarantined", || {
        let list = asked(place.state(), &["agent", "list", "--state", "quarantined"]);
        (list["total"] == 30).then_some(list)
    });
    for agent in quarantined["agents"].as_array().unwrap() {
        assert_eq!(agent["cause"], "it ended again and again, last with exit status 3", "{agent}");
        assert_eq!((&agent["restarts"], &agent["processId"]), (&json!(2), &Value::Null), "{agent}");
    }
    let starts = std::fs::read_to_string(folder.path().join("starts")).unwrap();
    let mut count = BTreeMap::<_, usize>::new();
    for name in starts.lines() {
        *count.entry(name).or_default() += 1;
    }
    let expected: BTreeMap<_, _> = names.iter().map(|name| (name.as_str(), 3)).collect();
    assert_eq!(count, expected, "each once, and twice more");
    let mut client = Client::connect(&gateway.url()).await;
    assert_eq!(text(&exchange(&mut client, "echo", "s", "m", "hello").await), "hello");
    let refused = exchange(&mut client, "loop-7", "s", "n", "hello").await;
    assert_eq!(code(&refused), "agent_unavailable", "{refused}");
}

/// Which ends are answered with a start, by policy and exit status; who has ended for good is started by a release.
#[tokio::test]
async fn policies_decide_on_restarts() {
    let agent = |policy: &str, program: &str| {
        // Rarely enough that nobody is quarantined.
        json!({"command": ["sh", "-c", program], "restart": {"policy": policy, "max": 1000}})
    };
    let kill = "kill -9 $$";
    let place = Place::new(&json!({"agents": {"entries": {
        "transient-done": agent("transient", "exit 0"),
        "transient-crash": agent("transient", "exit 1"),
        "temporary-done": agent("temporary", "exit 0"),
        "temporary-crash": agent("temporary", kill),
        "permanent-done": agent("permanent", "exit 0"),
    }}}));
    let gateway = place.start("1");
    for (name, cause) in [
        ("transient-done", "exit status 0 and is transient"),
        ("temporary-done", "exit status 0 and is temporary"),
        ("temporary-crash", "and is temporary"),
    ] {
        let agent = place.wait_for(name, &["terminated"]).remove(0);
        assert_eq!(agent["restarts"], 0, "{agent}");
        assert!(agent["cause"].as_str().unwrap().contains(cause), "{agent}");
    }
    for name in ["transient-crash", "permanent-done"] {
        until("it is started again", || {
            (place.agents(name)[0]["restarts"].as_u64() >= Some(3)).then_some(())
        });
    }
    let mut client = Client::connect(&gateway.url()).await;
    let refused = exchange(&mut client, "temporary-done", "s", "m", "hello").await;
    assert_eq!(code(&refused), "agent_unavailable", "{refused}");
    let released = openclaw(place.state(), &["agent", "release", "temporary-done"]).status().unwrap();
    assert!(released.success());
    let agent = until("it has ended once more", || {
        let agent = place.agents("temporary-done").remove(0);
        (agent["restarts"] == 1 && agent["state"] == "terminated").then_some(agent)
    });
    assert!(agent["cause"].as_str().unwrap().contains("exit status 0"), "{agent}");
}
