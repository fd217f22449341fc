//! Skills with real processes: an agent asks, and gets what the skill has written or the reason why not; a skill sees no
//! more than its agent, and does not outlive its time, its agent or its gateway.

use std::path::Path;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::Client;
use tests::process::{Gateway, alive, asked, configure, openclaw, processes, send_signal, until};

/// An agent that asks for a skill in each message, `SKILL INPUT`, and answers with what has come of it.
const AGENT: &str = r#"
import json, sys

def say(**line):
    print(json.dumps(line), flush=True)

for line in sys.stdin:
    line = json.loads(line)
    if line["type"] == "message":
        skill, _, rest = line["content"].partition(" ")
        say(type="skill", id=line["id"], skill=skill, input=rest)
    elif line["type"] == "skill_result":
        error = line.get("error")
        content = f"{error['code']}: {error['message']}" if error else line["output"]
        if len(content) > 500_000:
            content = f"{len(content)} characters"
        say(type="end", id=line["id"], content=content)
"#;

struct Place {
    state: Arc<TempDir>,
    folder: TempDir,
}

impl Place {
    /// With these skills, all of which the agent lists but `other`.
    fn new(skills: impl FnOnce(&Path) -> Value) -> Self {
        let place =
            Self { state: Arc::new(tempfile::tempdir().unwrap()), folder: tempfile::tempdir().unwrap() };
        let folder = place.folder.path();
        let script = folder.join("agent.py");
        std::fs::write(&script, AGENT).unwrap();
        std::fs::write(folder.join("note"), "what the agent sees\n").unwrap();
        let skills = skills(folder);
        let listed: Vec<_> = skills.as_object().unwrap().keys().filter(|name| *name != "other").collect();
        let agent =
            json!({"command": ["python3", script], "skills": listed, "sandbox": {"workspace": folder}});
        let settings = json!({"skills": {"entries": skills}, "agents": {"entries": {"asks": agent}},
            "journal": {"segmentMib": 1, "retainMib": 1}});
        configure(place.state.path(), &settings);
        place
    }

    fn start(&self, arguments: &[&str]) -> Gateway {
        Gateway::start_in(Arc::clone(&self.state), arguments).unwrap()
    }

    /// The process of a skill of this name, once it runs.
    fn skill(&self, keeper: u32, name: &str) -> u32 {
        until("the skill runs", || {
            let mut children = processes().into_iter().filter(|process| process.parent == keeper);
            let found = children.find(|child| child.variable("OPENCLAW_SKILL_NAME").as_deref() == Some(name));
            found.map(|process| process.process_id)
        })
    }
}

/// The answer of the agent to one message.
async fn ask(client: &mut Client, session: &str, content: &str) -> String {
    client.send(&json!({"type": "message", "agent": "asks", "sessionId": session, "content": content})).await;
    said(client).await
}

async fn said(client: &mut Client) -> String {
    let (_, end) = client.reply().await;
    end["content"]["content"].as_str().unwrap_or_else(|| panic!("{end}")).to_owned()
}

/// What a skill writes is the answer; each way in which there is none has a name of its own, and the agent goes on.
#[tokio::test]
async fn skills_answer_or_say_why_not() {
    let place = Place::new(|_| {
        json!({
            "upper": {"command": ["tr", "a-z", "A-Z"]},
            "words": {"command": ["printf", "%s;", "a b", "$HOME", "; exit 1"]},
            "fails": {"command": ["sh", "-c", "exit 3"]},
            "slow": {"command": ["sleep", "1000"], "timeoutMs": 200},
            "loud": {"command": ["head", "-c", "1048577", "/dev/zero"]},
            "large": {"command": ["head", "-c", "1048576", "/dev/zero"]},
            "bytes": {"command": ["printf", "\\377"]},
            "absent": {"command": ["sh", "-c", "exec /no/such/program"]},
            "other": {"command": ["true"]},
        })
    });
    let gateway = place.start(&["--shards", "2"]);
    let mut client = Client::connect(&gateway.url()).await;
    let long = "long ".repeat(50_000);
    assert_eq!(ask(&mut client, "s", &format!("upper {long}")).await, long.to_uppercase());
    assert_eq!(ask(&mut client, "s", "words").await, "a b;$HOME;; exit 1;", "nothing is given to a shell");
    assert_eq!(ask(&mut client, "s", "large").await, "1048576 characters");
    for (content, expected) in [
        ("fails", "died: skill \"fails\" ended with exit status 3"),
        ("slow", "timed_out: skill \"slow\" has not ended within 200 ms"),
        ("loud", "too_large: skill \"loud\" has written more than 1048576 bytes"),
        ("bytes", "not_text: what skill \"bytes\" has written is not UTF-8"),
        ("absent", "died: skill \"absent\" ended with exit status 127 (its program could not be started)"),
        ("other", "not_allowed: agent \"asks\" does not list skill \"other\""),
        ("nonsense", "unknown_skill: no skill is named \"nonsense\""),
    ] {
        assert_eq!(ask(&mut client, "s", content).await, expected);
    }
    assert_eq!(ask(&mut client, "s", "upper still here").await, "STILL HERE");
}

/// An agent has so many skills under way at once; one more is refused, the others are not touched.
#[tokio::test]
async fn skills_of_one_agent_are_bounded() {
    let place = Place::new(|folder| {
        let wait = "until [ -e go ]; do sleep 0.01; done; echo went";
        json!({"waits": {"command": ["sh", "-c", format!("cd {}; {wait}", folder.display())]}})
    });
    let gateway = place.start(&["--shards", "1"]);
    let mut client = Client::connect(&gateway.url()).await;
    for session in ["a", "b", "c", "d", "e"] {
        client.say("asks", session, session, "waits").await;
    }
    assert_eq!(said(&mut client).await, "busy: 4 skills of this agent are under way already");
    std::fs::write(place.folder.path().join("go"), "").unwrap();
    for _ in 0..4 {
        assert_eq!(said(&mut client).await, "went\n");
    }
}

/// A skill sees what its agent sees, and less where it is said so: files, and the network.
#[tokio::test]
async fn skills_see_no_more_than_their_agent() {
    let place = Place::new(|folder| {
        let read = json!(["cat", folder.join("note")]);
        let write = json!(["sh", "-c", format!("echo changed > {}", folder.join("note").display())]);
        let network = json!(["readlink", "/proc/self/ns/net"]);
        let read_only = json!([{"source": folder, "writable": false}]);
        json!({
            "reads": {"command": read},
            "blind": {"command": read, "sandbox": {"binds": []}},
            "writes": {"command": write, "sandbox": {"binds": read_only}},
            "network": {"command": network},
            "alone": {"command": network, "sandbox": {"network": "none"}},
            "escapes": {"command": ["cat", "/proc/1/environ"]},
        })
    });
    let gateway = place.start(&["--shards", "1"]);
    let mut client = Client::connect(&gateway.url()).await;
    assert_eq!(ask(&mut client, "s", "reads").await, "what the agent sees\n");
    assert_eq!(ask(&mut client, "s", "blind").await, "died: skill \"blind\" ended with exit status 1");
    let answer = ask(&mut client, "s", "writes").await;
    assert!(answer.starts_with("died: skill \"writes\" ended with exit status"), "{answer}");
    assert_eq!(ask(&mut client, "s", "reads").await, "what the agent sees\n", "it is as it was");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(ask(&mut client, "s", "network").await.trim_end(), own.to_str().unwrap());
    let alone = ask(&mut client, "s", "alone").await;
    assert!(alone.starts_with("net:[") && alone.trim_end() != own.to_str().unwrap(), "{alone}");
    let first = ask(&mut client, "s", "escapes").await;
    assert!(first.contains("OPENCLAW_SKILL_NAME=escapes"), "it is the first of its namespace: {first}");
    assert!(!first.contains("OPENCLAW_AGENT_NAME"), "{first}");
}

/// A configuration that is read again counts for skills at once, and for the sandbox of an agent with its next process: until
/// then a skill that would see more than that process does is refused.
#[tokio::test]
async fn a_skill_is_no_wider_than_the_process_that_asks() {
    let place = Place::new(|_| json!({"network": {"command": ["readlink", "/proc/self/ns/net"]}}));
    let file = place.state.path().join("openclaw.json");
    let host = std::fs::read_to_string(&file).unwrap();
    let mut settings: Value = serde_json::from_str(&host).unwrap();
    settings["agents"]["entries"]["asks"]["sandbox"]["network"] = json!("none");
    std::fs::write(&file, settings.to_string()).unwrap();
    let gateway = place.start(&["--shards", "1"]);
    let mut client = Client::connect(&gateway.url()).await;
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let alone = ask(&mut client, "s", "network").await;
    assert!(alone.starts_with("net:[") && alone.trim_end() != own.to_str().unwrap(), "{alone}");

    std::fs::write(&file, host).unwrap();
    asked(place.state.path(), &["gateway", "reload"]);
    let refused = ask(&mut client, "s", "network").await;
    let text = "network of its sandbox is wider than that of the agent's process: restart the agent";
    assert_eq!(refused, format!("too_wide: {text}"));
    let output = openclaw(place.state.path(), &["agent", "restart", "asks", "--wait"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(ask(&mut client, "s", "network").await.trim_end(), own.to_str().unwrap());
}

/// A skill dies with its agent, with all that it has started.
#[tokio::test]
async fn skills_die_with_their_agent() {
    let place = Place::new(|_| json!({"holds": {"command": ["sh", "-c", "sleep 1000 & sleep 1000"]}}));
    let gateway = place.start(&["--shards", "1"]);
    let mut client = Client::connect(&gateway.url()).await;
    client.say("asks", "s", "1", "holds").await;
    let skill = place.skill(gateway.keeper().unwrap(), "holds");
    let children = until("it has children", || {
        let all = processes().into_iter().filter(|process| process.parent == skill);
        let all: Vec<_> = all.map(|process| process.process_id).collect();
        (all.len() == 2).then_some(all)
    });
    let agent = asked(place.state.path(), &["agent", "status", "asks"])["agents"][0]["processId"].clone();
    send_signal(agent.as_u64().unwrap().try_into().unwrap(), Signal::KILL);
    until("all are dead", || (!alive(skill) && !children.iter().any(|&child| alive(child))).then_some(()));
}

/// A skill dies with the keeper that has started it; its agent goes on in the same process, is told that it is lost, and may ask
/// the next keeper for another one.
#[tokio::test]
async fn skills_die_with_their_keeper() {
    let place = Place::new(
        |_| json!({"holds": {"command": ["sleep", "1000"]}, "answers": {"command": ["echo", "here"]}}),
    );
    let gateway = place.start(&["--shards", "1", "--restart", "always"]);
    let mut client = Client::connect(&gateway.url()).await;
    client.say("asks", "s", "1", "holds").await;
    let keeper = gateway.keeper().unwrap();
    let skill = place.skill(keeper, "holds");
    let agents = || asked(place.state.path(), &["agent", "status", "asks"])["agents"][0]["processId"].clone();
    let agent = agents();
    send_signal(keeper, Signal::KILL);
    until("it is dead", || (!alive(skill)).then_some(()));
    assert_eq!(said(&mut client).await, "lost: the keeper died while skill \"holds\" ran");
    assert_eq!((ask(&mut client, "s", "answers").await.trim_end(), agents()), ("here", agent));
    let next = gateway.keeper().unwrap();
    let stopped = openclaw(place.state.path(), &["gateway", "stop", "--timeout-ms", "0"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    until("the keeper has ended", || (!alive(next)).then_some(()));
}

/// A skill dies with the gateway that has started it; its agent goes on, and is told that it is lost.
#[tokio::test]
async fn skills_die_with_their_gateway() {
    let place = Place::new(|_| json!({"holds": {"command": ["sleep", "1000"]}}));
    let gateway = place.start(&["--shards", "1", "--restart", "always"]);
    let mut client = Client::connect(&gateway.url()).await;
    client.say("asks", "s", "1", "holds").await;
    let keeper = gateway.keeper().unwrap();
    let skill = place.skill(keeper, "holds");
    send_signal(gateway.process_id(), Signal::KILL);
    until("it is dead", || (!alive(skill)).then_some(()));
    until("the next gateway serves", || {
        let output = openclaw(place.state.path(), &["gateway", "status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        (status["processId"] != gateway.process_id()).then_some(())
    });
    let mut client = Client::connect(&gateway.url()).await;
    client.say("asks", "s", "1", "holds").await;
    assert_eq!(said(&mut client).await, "lost: the gateway that was asked for it is gone");
    let stopped = openclaw(place.state.path(), &["gateway", "stop", "--timeout-ms", "0"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    until("the keeper has ended", || (!alive(keeper)).then_some(()));
}
