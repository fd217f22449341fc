//! What the commands print and how they end, and a configuration that is read again.

use rustix::process::Signal;

use super::*;

/// Runs a command that fails: its exit code is 1, or 3 where no gateway runs, and this is what it says.
fn complaint(place: &Place, arguments: &[&str]) -> String {
    let output = openclaw(place.state(), arguments).output().expect("the command starts");
    let told = String::from_utf8(output.stderr.clone()).expect("text");
    let code = if told.contains("no gateway runs") { 3 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    told
}

fn printed(place: &Place, arguments: &[&str]) -> String {
    let output = openclaw(place.state(), arguments).output().expect("the command starts");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Tables have a row for each agent; filters leave some out; an unknown name is told with those that are near, and what
/// makes no sense with what does.
#[tokio::test]
async fn commands_tell_what_is_there() {
    let place = Place::new(&json!({"agents": {"entries": {
        "words": {"command": "COMMAND", "instances": 2, "skills": ["english", "latin"], "channels": ["mail"]},
        "noisy": {"command": ["sh", "-c", "echo one >&2; echo two >&2; exec cat"], "skills": ["english"]},
    }}}));
    let gateway = place.start("1");
    let table = until("all have said hello", || {
        let hello = |agent: &Value| {
            agent["version"].as_str().is_some_and(|version| version.starts_with("agent-sdk/"))
        };
        let list = asked(place.state(), &["agent", "list"]);
        list["agents"].as_array().unwrap().iter().all(hello).then(|| printed(&place, &["agent", "list"]))
    });
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "PID", "RESTARTS", "OPEN", "QUEUE", "UPTIME", "LAST", "CAUSE"]);
    let names: Vec<_> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(names, ["echo", "noisy", "words~1", "words~2"]);
    assert!(rows[1..].iter().all(|row| row[1] == "running" && row[3] == "0"), "{table}");
    let found = |arguments: &[&str]| -> Vec<String> {
        let list = asked(place.state(), &[&["agent", "list"], arguments].concat());
        let agents = list["agents"].as_array().unwrap();
        agents.iter().map(|agent| agent["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(found(&["--skill", "english"]), ["noisy", "words~1", "words~2"]);
    assert_eq!(found(&["--skill", "english", "--channel", "mail"]), ["words~1", "words~2"]);
    assert_eq!(found(&["--state", "quarantined"]), [""; 0]);
    assert!(printed(&place, &["agent", "status", "words"]).contains("skills       english latin"));

    for command in ["status", "restart", "drain", "quarantine", "release", "logs"] {
        let unknown = complaint(&place, &["agent", command, "wrds"]);
        assert!(unknown.contains("no agent and no pool is named \"wrds\"; did you mean words?"), "{unknown}");
    }
    let senseless = complaint(&place, &["agent", "release", "noisy"]);
    assert_eq!(senseless, "openclaw: agent \"noisy\" is running (not_possible)\n");
    let many = complaint(&place, &["agent", "logs", "words"]);
    assert!(many.contains("name one of its members: words~1, words~2"), "{many}");
    let log = until("it has written", || {
        let log = printed(&place, &["agent", "logs", "noisy"]);
        log.contains("two").then_some(log)
    });
    assert_eq!(log, "one\ntwo\n");
    assert_eq!(printed(&place, &["agent", "logs", "noisy", "--lines", "1"]), "two\n");
    let help = openclaw(place.state(), &["agent", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for command in ["list", "status", "restart", "drain", "quarantine", "release", "logs"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
    drop(gateway);
    // It may have noted its end.
    assert!(printed(&place, &["agent", "logs", "noisy"]).starts_with("one\ntwo\n"));
    assert!(complaint(&place, &["agent", "list"]).contains("no gateway runs"));
}

fn settings(rules: &Value, more: &Value) -> Value {
    let mut words = json!({"command": "COMMAND"});
    for (key, value) in more.as_object().unwrap() {
        words[key] = value.clone();
    }
    json!({"routing": {"default": "echo", "rules": rules}, "agents": {"entries": {"words": words}}})
}

/// A configuration that is read again while messages flow: rules count at once, no message is lost, settings that need
/// more are named until they count; what cannot be used changes nothing; and SIGHUP does the same.
#[tokio::test]
async fn configurations_are_read_again() {
    let rule = |text: &str| json!([{"textContains": text, "agent": "words"}]);
    let place = Place::new(&settings(&rule("first"), &json!({})));
    let gateway = place.start("2");
    let mut client = Client::connect(&gateway.url()).await;
    let mut number = 0;
    // Each in a session of its own: a session keeps to its agent.
    let mut routed = async |content: &str| -> bool {
        number += 1;
        let id = number.to_string();
        client.send(&json!({"type": "message", "id": id, "sessionId": id, "content": content})).await;
        let (_, end) = client.reply().await;
        assert_eq!((&end["type"], &end["id"]), (&json!("message"), &json!(id)), "{end}");
        text(&end).contains("attempt 1")
    };
    assert!(routed("first").await && !routed("second").await);

    place.configure(&settings(
        &rule("second"),
        &json!({"inFlightMax": 3, "environment": {"A": "b"}, "skills": ["x"]}),
    ));
    let reload = || {
        let state = place.state().to_owned();
        tokio::task::spawn_blocking(move || asked(&state, &["gateway", "reload"]))
    };
    let reloading = reload();
    for _ in 0..50 {
        routed("first").await;
        routed("second").await;
    }
    let reloaded = reloading.await.unwrap();
    let expected = json!({"applied": ["agents.entries.words.skills", "routing.rules"],
        "restartAgents": {"words": ["agents.entries.words.environment.A"]},
        "restartGateway": ["agents.entries.words.inFlightMax"]});
    assert_eq!(reloaded, expected);
    assert!(!routed("first").await && routed("second").await);
    assert_eq!(place.agents("words")[0]["skills"], json!(["x"]));
    let again = asked(place.state(), &["gateway", "reload"]);
    assert_eq!(
        again["restartGateway"],
        json!(["agents.entries.words.inFlightMax"]),
        "it still does not count"
    );
    assert_eq!(again["applied"], json!([]));

    place.configure(&settings(
        &json!([{"textContains": "third", "agent": "nobody"}]),
        &json!({"restart": {"max": 5000}}),
    ));
    let refused = complaint(&place, &["gateway", "reload"]);
    assert!(refused.contains("agents.entries.words.restart.max = 5000"), "{refused}");
    assert!(refused.contains("routing.rules[0].agent = \"nobody\": no agent is named so"), "{refused}");
    assert!(!routed("first").await && routed("second").await && !routed("third").await);

    place.configure(&settings(&rule("third"), &json!({})));
    gateway.signal(Signal::HUP);
    while !routed("third").await {}
    assert!(!routed("second").await);
}
