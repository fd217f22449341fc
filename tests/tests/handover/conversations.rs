//! Agents of which each process serves one conversation, and their gateway's end.

use super::*;

/// `kill -9` of the gateway, with one conversation at work and one quiet: the process that works goes on for its
/// conversation and answers, the quiet one's is ended, and no process answers two conversations.
#[tokio::test]
async fn conversations_keep_the_processes_that_work() {
    let folder = tempfile::tempdir().unwrap();
    let agent = json!({"command": [binary("delivery-agent"), folder.path()], "instancesPer": "conversation",
        "maxInstances": 3, "sandbox": {"mode": "off"}});
    let line = Line::new(
        &json!({"journal": {"segmentMib": 1, "retainMib": 1}, "agents": {"entries": {"words": agent}}}),
    );
    let gateway = line.start(&["--shards", "2", "--restart", "always"]);
    let who = |end: &Value| -> (u32, u32) {
        let text = end["content"]["content"].as_str().unwrap_or_else(|| panic!("{end}"));
        let (process, rest) = text.rsplit(": ").next().unwrap().split_once('.').unwrap();
        (process.parse().unwrap(), rest.split_once(',').unwrap().0.parse().unwrap())
    };
    let mut client = Client::connect(&gateway.url()).await;
    let mut before = Vec::new();
    for session in ["works", "quiet"] {
        client.say("words", session, "1", "hello").await;
        before.push(who(&client.reply().await.1));
    }
    assert!(before[0].0 != before[1].0 && before.iter().all(|(_, count)| *count == 1), "{before:?}");
    client.say("words", "works", "2", "wait for go").await;
    until("it works", || diary::attempts(folder.path()).contains_key("wait for go").then_some(()));
    send_signal(gateway.process_id(), Signal::KILL);
    let status = line.status_after(gateway.process_id());
    assert_eq!(
        (&status["listenerTakenOver"], &status["agents"]["adopted"]),
        (&json!(true), &json!(3)),
        "{status}"
    );
    until("the quiet one has ended", || (!alive(before[1].0)).then_some(()));

    let mut client = Client::connect(&gateway.url()).await;
    client.say("words", "new", "3", "hello").await;
    let new = who(&client.reply().await.1);
    client.say("words", "quiet", "4", "hello").await;
    let quiet = who(&client.reply().await.1);
    assert_eq!((new.1, quiet.1), (1, 1), "nobody has been served by them before");
    client.say("words", "works", "2", "wait for go").await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    assert_eq!(who(&client.reply().await.1), (before[0].0, 2));
    client.say("words", "works", "5", "hello").await;
    assert_eq!(who(&client.reply().await.1), (before[0].0, 3));
    assert_eq!(diary::attempts(folder.path())["wait for go"], [1]);
    let stopped = openclaw(line.state(), &["gateway", "stop", "--timeout-ms", "0"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
}
