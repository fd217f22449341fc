//! Pools that follow the load, and agents that are found sick.

use super::*;

/// A pool grows while messages wait, one member at a time and up to its most; when there is nothing to do it shrinks to its
/// least; and all messages are answered.
#[tokio::test]
async fn pools_follow_the_load() {
    let place = Place::new(&json!({"agents": {"entries": {"words": {"command": "COMMAND", "inFlightMax": 1,
        "minInstances": 1, "maxInstances": 3, "idleTimeoutMs": 1000}}}}));
    let gateway = place.start("2");
    let running = || place.agents("words").iter().filter(|agent| agent["state"] == "running").count();
    until("the least runs", || (running() == 1).then_some(()));
    let mut events = events(&place, &["pool.scale_up", "pool.scale_down"], 4);
    let mut client = Client::connect(&gateway.url()).await;
    for id in 0..300 {
        let session = format!("s-{id}");
        client.say("words", &session, &id.to_string(), &format!("wait {id}")).await;
    }
    until("the most run", || (running() == 3).then_some(()));
    std::fs::write(place.folder.path().join("go"), "").unwrap();
    for _ in 0..300 {
        assert_eq!(client.reply().await.1["type"], "message");
    }
    until("the least runs again", || (running() == 1).then_some(()));
    let seen = place.seen();
    assert_eq!(seen.len(), 300);
    assert!(seen.values().all(|attempts| *attempts == [1]), "{seen:?}");
    let told: Vec<_> = events.by_ref().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["pool.scale_up", "pool.scale_up", "pool.scale_down", "pool.scale_down"]);
    assert_eq!(exchange(&mut client, "words", "s-7", "again", "hello").await["type"], "message");
}

/// An agent that fails its messages is told to be sick, and started anew when that has gone on for as long as configured.
#[tokio::test]
async fn sick_agents_are_started_anew() {
    let sickness = json!({"windowMs": 1000, "windows": 2});
    let place = Place::new(&json!({"delivery": {"attemptsMax": 1},
        "agents": {"entries": {"words": {"command": "COMMAND", "sickness": sickness}}}}));
    let gateway = place.start("1");
    let mut events = events(&place, &["agent.sick"], 2);
    let mut client = Client::connect(&gateway.url()).await;
    // The first of each session are under way before one fails; afterwards its breaker lets one through at a time.
    for id in 0..60 {
        client.say("words", &format!("s-{}", id % 12), &id.to_string(), &format!("fail {id}")).await;
    }
    let sick = || {
        let agent = place.agents("words").remove(0);
        agent["sick"].as_str().map(str::to_owned)
    };
    let reason = until("it is sick", sick);
    assert!(reason.contains("messages failed within 1 s"), "{reason}");
    until("it is started anew", || (place.agents("words")[0]["restarts"] == 1).then_some(()));
    assert_eq!(events.next().unwrap()["cause"], *reason);
    assert!(events.next().unwrap()["cause"].as_str().unwrap().contains("messages failed"));
}

/// So many events of these types, as the command prints them.
fn events(place: &Place, types: &[&str], count: usize) -> impl Iterator<Item = Value> + use<> {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let count = count.to_string();
    let mut arguments = vec!["gateway", "events", "--count", &count];
    arguments.extend(types.iter().flat_map(|each| ["--type", each]));
    let mut command = openclaw(place.state(), &arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut listening = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut listening).unwrap();
    assert_eq!(listening, "listening\n");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It ends after so many, or when its gateway does.
    let _end = std::thread::spawn(move || child.wait());
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}
