//! Keepers that are killed while messages flow: alone, together with an agent, and together with their gateway.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use keeper::client::PROGRAM;
use rustix::process::Signal;
use serde_json::json;
use tests::client::Client;
use tests::process::{Gateway, alive, asked, processes, send_signal, until};
use tests::{binary, diary};

use super::book::Book;
use super::{Line, number, settings, settings_with_diary, stopped};

/// How long the gateway is stopped: longer than a keeper may say nothing.
const STALL: Duration = Duration::from_secs(6);

impl Line {
    /// The keeper that its gateway has.
    fn keeper(&self) -> u32 {
        number(&asked(self.state(), &["gateway", "status"])["keeperProcessId"])
    }

    /// Kills the keeper, and returns the next one.
    fn kill_keeper(&self) -> u32 {
        let before = self.keeper();
        send_signal(before, Signal::KILL);
        until("the next keeper is there", || Some(self.keeper()).filter(|&keeper| keeper != before))
    }
}

/// `kill -9` of the keeper under load, five times in a row: the gateway serves on, over the same connection; agents keep
/// their processes, and each message is given out and answered once. Then a killed agent is replaced, with the cause,
/// and a killed gateway is followed by one that has the same agents: the last keeper does all that the first did.
#[tokio::test]
async fn agents_go_on_when_their_keeper_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let line = Line::new(&settings_with_diary(folder.path()));
    let gateway = line.start(&["--shards", "2", "--restart", "always"]);
    let agents = line.all_agents(5);
    let mut book = Book::default();
    let mut client = Client::connect(&gateway.url()).await;
    for _ in 0..5 {
        for _ in 0..20 {
            for agent in ["echo", "words", "pool", "noted"] {
                book.send_new(&mut client, agent).await;
            }
        }
        book.read(&mut client, 10).await;
        line.kill_keeper();
        assert_eq!(line.agents(), agents);
    }
    let open = book.open().len();
    book.read(&mut client, open).await;
    book.check();
    let mut seen: Vec<_> = diary::lines(folder.path()).into_iter().map(|(_, content)| content).collect();
    seen.sort_unstable();
    let noted = book.sent.iter().enumerate().filter(|(_, (agent, _))| *agent == "noted");
    let mut noted: Vec<_> = noted.map(|(id, _)| format!("message {id}")).collect();
    noted.sort_unstable();
    assert_eq!(seen, noted, "each once");

    send_signal(agents["echo"], Signal::KILL);
    let agents = until("it is replaced", || {
        Some(line.agents()).filter(|now| now.len() == 5 && now["echo"] != agents["echo"])
    });
    // It was a child of the gateway by then, which knows how it ended and has reaped it.
    let list = asked(line.state(), &["agent", "list"]);
    let echo = list["agents"].as_array().unwrap().iter().find(|row| row["name"] == "echo");
    assert_eq!(echo.unwrap()["cause"], "signal 9", "{list}");

    let keeper = line.keeper();
    let process = gateway.process_id();
    send_signal(process, Signal::KILL);
    let status = line.status_after(process);
    assert_eq!(status["agents"], json!({"configured": 5, "alive": 5, "adopted": 5, "started": 0}));
    assert_eq!((number(&status["keeperProcessId"]), line.agents()), (keeper, agents.clone()));
    // Those agents are nobody's children that is known here; with a third keeper they go on once more.
    let keeper = line.kill_keeper();
    let mut client = Client::connect(&gateway.url()).await;
    client.say("words", "s", "m", "hello").await;
    assert_eq!(client.reply().await.1["content"]["content"], "HELLO");
    assert_eq!(line.agents(), agents);
    stopped(&line, number(&status["processId"]), keeper, &agents);
    assert!(!line.state().join("keeper.agents").exists());
}

/// A keeper that is stopped, and so neither dies nor answers: it is killed and replaced, agents keep their processes, and
/// who dies meanwhile is started again. A gateway that goes down finds one that is stopped as well, and ends the agents.
#[tokio::test]
async fn a_keeper_that_hangs_is_replaced() {
    let line = Line::new(&settings());
    let mut gateway = line.start(&[]);
    let agents = line.all_agents(4);
    let keeper = line.keeper();
    let mut client = Client::connect(&gateway.url()).await;
    send_signal(keeper, Signal::STOP);
    send_signal(agents["echo"], Signal::KILL);
    client.say("words", "s", "m", "hello").await;
    assert_eq!(client.reply().await.1["content"]["content"], "HELLO");
    until("the stopped keeper is killed", || (!alive(keeper)).then_some(()));
    let now = until("the dead agent is replaced", || {
        Some(line.agents()).filter(|now| now.len() == 4 && now["echo"] != agents["echo"])
    });
    let others = |agents: &BTreeMap<String, u32>| {
        agents.iter().filter(|(name, _)| *name != "echo").map(|(_, id)| *id).collect::<Vec<_>>()
    };
    assert_eq!(others(&now), others(&agents));
    client.say("echo", "s", "n", "hello").await;
    assert_eq!(client.reply().await.1["content"]["content"], "hello");

    let keeper = line.keeper();
    send_signal(keeper, Signal::STOP);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(1), "the end was not clean");
    until("all have ended", || (!alive(keeper) && now.values().all(|&agent| !alive(agent))).then_some(()));
}

/// A gateway that was stopped, alone or with its keeper, for longer than a keeper may be silent, has the same keeper when it
/// goes on; and that keeper is looked after further.
#[tokio::test]
async fn a_stall_of_the_gateway_costs_no_keeper() {
    let line = Line::new(&settings());
    let gateway = line.start(&[]);
    let agents = line.all_agents(4);
    let keeper = line.keeper();
    let mut client = Client::connect(&gateway.url()).await;
    for (id, keeper_too) in [("a", false), ("b", true)] {
        let still: Vec<u32> =
            [gateway.process_id(), keeper].into_iter().take(1 + usize::from(keeper_too)).collect();
        still.iter().for_each(|&process| send_signal(process, Signal::STOP));
        std::thread::park_timeout(STALL);
        still.iter().for_each(|&process| send_signal(process, Signal::CONT));
        client.say("words", "s", id, "hello").await;
        assert_eq!(client.reply().await.1["content"]["content"], "HELLO");
        // Its death, if it was killed, is the first thing that the gateway does.
        assert_eq!((line.keeper(), line.agents()), (keeper, agents.clone()));
    }
    send_signal(keeper, Signal::STOP);
    until("one that stays silent is killed all the same", || (!alive(keeper)).then_some(()));
    until("there is another one", || (line.keeper() != keeper).then_some(()));
    assert_eq!(line.agents(), agents);
    stopped(&line, gateway.process_id(), line.keeper(), &agents);
}

/// Keeper and agents killed at the same moment: the agents are found dead, and others are started in their place, by a
/// keeper that was not told to start them the first time.
#[tokio::test]
async fn agents_that_die_with_their_keeper_are_replaced() {
    let line = Line::new(&settings());
    let gateway = line.start(&[]);
    let agents = line.all_agents(4);
    let keeper = line.keeper();
    send_signal(keeper, Signal::STOP);
    send_signal(agents["words"], Signal::KILL);
    send_signal(keeper, Signal::KILL);
    send_signal(agents["echo"], Signal::KILL);
    let now = until("both are replaced", || {
        let now = line.agents();
        let replaced =
            ["words", "echo"].iter().all(|name| now.get(*name).is_some_and(|id| *id != agents[*name]));
        replaced.then_some(now)
    });
    let others = |agents: &BTreeMap<String, u32>| {
        let others = agents.iter().filter(|(name, _)| !["words", "echo"].contains(&name.as_str()));
        others.map(|(name, id)| (name.clone(), *id)).collect::<Vec<_>>()
    };
    assert_eq!(others(&now), others(&agents));
    let mut client = Client::connect(&gateway.url()).await;
    for agent in ["words", "echo"] {
        client.say(agent, "s", agent, "hello").await;
        assert_eq!(client.reply().await.1["content"]["content"].as_str().unwrap().to_lowercase(), "hello");
    }
    until("no zombie is left to the gateway", || {
        let children = processes().into_iter().filter(|child| child.parent == gateway.process_id());
        children.map(|child| child.process_id).all(alive).then_some(())
    });
    stopped(&line, gateway.process_id(), line.keeper(), &now);
}

/// The end is as clean as ever after a keeper has died: descendants of agents, in sessions of their own, are the children
/// of the gateway then, which reaps them so that their cgroups become empty.
#[tokio::test]
async fn the_end_is_clean_after_a_keeper_died() {
    let mut settings = settings();
    let script = "setsid sleep 1000 & exec cat";
    settings["agents"]["entries"]["family"] =
        json!({"command": ["sh", "-c", script], "sandbox": {"mode": "off"}});
    let line = Line::new(&settings);
    let mut gateway = line.start(&[]);
    let agents = line.all_agents(5);
    let keeper = line.kill_keeper();
    stopped(&line, gateway.process_id(), keeper, &agents);
    let code = gateway.wait().code();
    let log = gateway.log();
    assert!(code == Some(0) && !log.contains("does not die"), "{code:?}: {log}");
}

/// A keeper that cannot be replaced, since its program is gone: the gateway says so and ends, and so do the agents.
#[tokio::test]
async fn a_keeper_that_cannot_be_replaced_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let [gateway, keeper] = ["openclaw", PROGRAM].map(|name| {
        std::fs::copy(binary(name), folder.path().join(name)).unwrap();
        folder.path().join(name)
    });
    let line = Line::new(&settings());
    let mut gateway = Gateway::start_as(Command::new(gateway), Arc::clone(&line.state), &[]).unwrap();
    let agents = line.all_agents(4);
    std::fs::remove_file(&keeper).unwrap();
    send_signal(line.keeper(), Signal::KILL);
    assert_eq!(gateway.wait().code(), Some(1));
    until("the agents have ended", || agents.values().all(|&agent| !alive(agent)).then_some(()));
    let log = gateway.log();
    assert!(log.contains(&format!("the keeper {} is missing", keeper.display())), "{log}");
}

/// Keeper and gateway both killed: the agents are left alone, the next start ends them, and what was open is answered.
#[tokio::test]
async fn nothing_is_left_when_both_are_killed() {
    let mut settings = settings();
    let words = settings["agents"]["entries"]["words"].clone();
    // Never answers: what it is given stays open.
    settings["agents"]["entries"]["other"] = json!({"command": ["sleep", "1000"]});
    let line = Line::new(&settings);
    let mut gateway = line.start(&[]);
    let agents = line.all_agents(5);
    let keeper = line.keeper();
    let mut book = Book::default();
    let mut client = Client::connect(&gateway.url()).await;
    for _ in 0..3 {
        book.send_new(&mut client, "other").await;
    }
    until("the agent has them, so the journal has them, too", || {
        let list = asked(line.state(), &["agent", "list"]);
        let rows = list["agents"].as_array().unwrap();
        rows.iter().any(|row| row["name"] == "other" && row["open"] == 3).then_some(())
    });
    gateway.signal(Signal::STOP);
    send_signal(keeper, Signal::KILL);
    gateway.signal(Signal::KILL);
    gateway.wait();
    until("the keeper is dead", || (!alive(keeper)).then_some(()));
    assert!(agents.values().all(|&agent| alive(agent)), "nobody was there to end them");
    settings["agents"]["entries"]["other"] = words;
    line.configure(&settings);
    let next = line.start(&[]);
    until("they are ended", || agents.values().all(|&agent| !alive(agent)).then_some(()));
    let now = line.all_agents(5);
    let mut client = Client::connect(&next.url()).await;
    for id in book.open() {
        book.send(&mut client, id).await;
    }
    book.read(&mut client, 3).await;
    book.check();
    stopped(&line, next.process_id(), line.keeper(), &now);
}
