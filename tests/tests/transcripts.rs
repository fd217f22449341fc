//! What is said is in the transcripts once and in order, whatever happens to the gateway.

#[path = "handover/book.rs"]
mod book;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use book::Book;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::client::Client;
use tests::process::{Gateway, configure, end_all, openclaw, send_signal, until};
use tests::workspace;

/// A state directory. Whatever runs there is ended when this is dropped.
struct Place(Arc<TempDir>);

impl Place {
    fn new(settings: &Value) -> Self {
        let place = Self(Arc::new(tempfile::tempdir().unwrap()));
        configure(place.path(), settings);
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn start(&self, arguments: &[&str]) -> Gateway {
        Gateway::start_in(Arc::clone(&self.0), arguments).unwrap()
    }

    /// Ids, texts and reasons of the rows of each session, by key.
    fn transcripts(&self) -> BTreeMap<String, Vec<(String, String, String)>> {
        let mut all = BTreeMap::new();
        for path in files(&self.path().join("agents"), "jsonl") {
            let text = std::fs::read_to_string(&path).unwrap();
            // The last line may be on its way.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let mut lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let Some(header) = lines.next() else { continue };
            assert_eq!(header["type"], "session", "{}", path.display());
            let agent = header["agent"].as_str().unwrap();
            assert!(path.starts_with(self.path().join("agents").join(agent)), "{}", path.display());
            let mut parent = Value::Null;
            let rows = lines.map(|row| {
                assert_eq!(row["parentId"], parent, "{}", path.display());
                parent = row["id"].clone();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let message = &row["message"];
                (text(&row["id"]), text(&message["content"]), text(&message["stopReason"]))
            });
            let before = all.insert(header["key"].as_str().unwrap().to_owned(), rows.collect());
            assert_eq!(before, None, "two transcripts of a session");
        }
        all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        end_all(self.path());
    }
}

/// The files below a directory whose names end so.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().map(|entry| entry.path()) {
        if entry.is_dir() {
            found.extend(files(&entry, extension));
        } else if entry.extension().is_some_and(|end| end == extension) {
            found.push(entry);
        }
    }
    found
}

/// Agents that answer at once and word by word; small segments; rows are committed soon.
fn settings() -> Value {
    let words = json!({"command": ["python3", workspace().join("examples/streaming_agent.py")]});
    json!({
        "journal": {"segmentMib": 1, "retainMib": 1},
        "sessions": {"commitRows": 20, "commitIntervalMs": 100},
        "routing": {"default": "echo"},
        "agents": {"entries": {"echo": {}, "words": words, "pool": {"command": words["command"], "instances": 2}}},
    })
}

/// Each session has every message and its reply, once and in the order of the session.
fn check(place: &Place, book: &Book) {
    let transcripts = place.transcripts();
    let mut expected: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (id, (_, session)) in book.sent.iter().enumerate() {
        let rows = expected.entry(format!("websocket:local:{session}")).or_default();
        rows.push((format!("u-{id}"), format!("message {id}"), String::new()));
        rows.push((format!("a-{id}"), book.replies[&id].clone(), "stop".to_owned()));
    }
    assert_eq!(transcripts.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, rows) in transcripts {
        // Messages are written when they are accepted, replies when they are complete.
        let of = |rows: &[(String, String, String)], kind: &str| -> Vec<_> {
            rows.iter().filter(|(id, ..)| id.starts_with(kind)).cloned().collect()
        };
        for kind in ["u-", "a-"] {
            assert_eq!(of(&rows, kind), of(&expected[&key], kind), "{key}");
        }
        assert_eq!(rows.len(), expected[&key].len(), "{key}");
        let place = |id: &str| rows.iter().position(|(row, ..)| row == id);
        assert!(expected[&key].chunks(2).all(|pair| place(&pair[0].0) < place(&pair[1].0)), "{key}");
    }
}

/// After an orderly end everything is there: replies at once and word by word, of a message that names no agent and
/// has the default one. A second gateway, with another number of shards, goes on in the same transcripts.
#[tokio::test]
async fn everything_said_is_written_down() {
    let place = Place::new(&settings());
    let mut book = Book::default();
    for shards in ["2", "3"] {
        let mut gateway = place.start(&["--shards", shards]);
        let mut client = Client::connect(&gateway.url()).await;
        for _ in 0..10 {
            for agent in ["echo", "words", "pool"] {
                book.send_new(&mut client, agent).await;
            }
        }
        book.read(&mut client, 30).await;
        gateway.signal(Signal::TERM);
        assert!(gateway.wait().success());
        check(&place, &book);
    }
    let mut gateway = place.start(&[]);
    let mut client = Client::connect(&gateway.url()).await;
    let message = json!({"type": "message", "id": "n", "sessionId": "nobody", "content": "hello"});
    client.send(&message).await;
    client.reply().await;
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().success());
    let row = |id: &str, reason: &str| (id.to_owned(), "hello".to_owned(), reason.to_owned());
    assert_eq!(place.transcripts()["websocket:local:nobody"], [row("u-n", ""), row("a-n", "stop")]);
    assert_eq!(files(&place.path().join("agents/echo/sessions"), "jsonl").len(), 6);
}

/// `kill -9` of the gateway under load, several times: what is acknowledged and answered then and later is in the transcripts
/// exactly once.
#[tokio::test]
async fn killed_gateways_lose_and_repeat_nothing() {
    let place = Place::new(&settings());
    let gateway = place.start(&["--shards", "2", "--restart", "always", "--handover-timeout-ms", "60000"]);
    let mut book = Book::default();
    let mut process = u64::from(gateway.process_id());
    for round in 0..5 {
        let mut client = Client::connect(&gateway.url()).await;
        for id in book.open() {
            book.send(&mut client, id).await;
        }
        for _ in 0..20 {
            for agent in ["echo", "words", "pool"] {
                book.send_new(&mut client, agent).await;
            }
        }
        book.read(&mut client, 10 * round).await;
        send_signal(process.try_into().unwrap(), Signal::KILL);
        assert_eq!(book.read_to_end(&mut client).await, None);
        process = until("the next gateway answers", || {
            let output = openclaw(place.path(), &["gateway", "status", "--json"]).output().unwrap();
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            status["processId"].as_u64().filter(|next| *next != process)
        });
    }
    let mut client = Client::connect(&gateway.url()).await;
    let open = book.open();
    for &id in &open {
        book.send(&mut client, id).await;
    }
    book.read(&mut client, open.len()).await;
    book.check();
    let stopped = openclaw(place.path(), &["gateway", "stop"]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    check(&place, &book);
}

/// Segments that are written down are not kept for ever, also while nothing ends; and none is kept for nobody.
#[tokio::test]
async fn the_journal_is_given_up_behind_the_transcripts() {
    for transcripts in [true, false] {
        let mut settings = settings();
        settings["sessions"]["transcripts"] = transcripts.into();
        let place = Place::new(&settings);
        let gateway = place.start(&["--shards", "1"]);
        let mut client = Client::connect(&gateway.url()).await;
        let content = "x".repeat(100_000);
        for id in 0..400 {
            client.say("echo", "s", &format!("m{id}"), &content).await;
            client.reply().await;
        }
        // Over 80 MB were written; what is retained, trimmed at once and in reserve is some 12 MB.
        let mut id = 400;
        let live = |place: &Place| -> u64 {
            let logs = files(&place.path().join("journal/g000001/shard-00"), "log");
            logs.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len()).sum()
        };
        while live(&place) > 40_000_000 {
            client.say("echo", "s", &format!("m{id}"), "more").await;
            client.reply().await;
            id += 1;
            assert!(id < 100_000, "{} bytes are kept", live(&place));
        }
        if transcripts {
            until("all is written down", || {
                let rows = place.transcripts().remove("websocket:local:s").map_or(0, |rows| rows.len());
                (rows == 2 * id).then_some(())
            });
        } else {
            assert_eq!(place.transcripts(), BTreeMap::new());
        }
    }
}
