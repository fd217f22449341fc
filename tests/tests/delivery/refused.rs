//! A journal that cannot be used is left alone, and the gateway says what is wrong with it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::json;
use tests::binary;
use tests::client::Client;
use tests::process::{Gateway, Refused};

use super::{Place, code, end, exchange, text};

/// All files below a folder with what they hold.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder can be listed").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(path).expect("a file can be read"));
        }
    }
    found
}

/// A place whose gateway has answered one message and has ended.
async fn used() -> Place {
    let place = Place::new(&json!({}));
    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    assert_eq!(exchange(&mut client, "s", "m", "x").await["type"], "message");
    end(gateway);
    place
}

/// A command that runs the rest in a mount namespace of its own, after a shell line that finds the folder in `$0`;
/// `None` where that is not allowed.
fn mounted(line: &str, folder: &Path) -> Option<Command> {
    let command = |line: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", line]).arg(folder);
        command
    };
    let tried = command(line).output().ok()?;
    let mut command = command(&format!("{line} && exec \"$@\""));
    command.arg(binary("openclaw"));
    tried.status.success().then_some(command)
}

/// Starting there is refused, the message has all the facts, and no file of the journal is another one afterwards.
fn refused(place: &Place, command: Command, facts: &[&str]) {
    let journal = place.state().join("journal");
    let before = files(&journal);
    let Err(error) = Gateway::start_as(command, Arc::clone(&place.state), &["--shards", "1"]) else {
        panic!("it starts, though {facts:?}");
    };
    let Refused { status, stderr } = *error;
    assert_eq!(status.code(), Some(1), "{stderr}");
    for fact in facts {
        assert!(stderr.contains(fact), "{fact} is not in: {stderr}");
    }
    let after = files(&journal);
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).collect();
    assert!(changed.is_empty(), "{:?} changed", changed.iter().map(|(path, _)| path).collect::<Vec<_>>());
}

fn plainly() -> Command {
    Command::new(binary("openclaw"))
}

/// The manifest of a newer version, a manifest that is damaged, a segment whose header is damaged.
#[tokio::test]
async fn a_journal_that_cannot_be_read_is_left_alone() {
    let place = used().await;
    let manifest = place.state().join("journal/current");
    let good = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, good.replace("openclaw-journal 1", "openclaw-journal 2")).unwrap();
    let path = manifest.to_str().unwrap();
    refused(&place, plainly(), &[path, "format version 2, this build reads 1"]);
    std::fs::write(&manifest, good.replace("shards 1", "shards 2")).unwrap();
    refused(&place, plainly(), &[path, "checksum"]);
    std::fs::write(&manifest, good).unwrap();

    let journal = files(&place.state().join("journal"));
    let (segment, bytes) =
        journal.iter().find(|(path, _)| path.extension().is_some_and(|e| e == "log")).unwrap();
    let mut damaged = bytes.clone();
    damaged[0] ^= 1;
    std::fs::write(segment, damaged).unwrap();
    let name = segment.file_name().and_then(|name| name.to_str()).unwrap();
    let folder = segment.parent().and_then(Path::to_str).unwrap();
    refused(&place, plainly(), &[folder, name, "header"]);
    std::fs::write(segment, bytes).unwrap();

    let gateway = place.start("1");
    let mut client = Client::connect(&gateway.url()).await;
    let reply = exchange(&mut client, "s", "m", "x").await;
    assert!(text(&reply).starts_with("x: "), "the reply is still there: {reply}");
}

/// A journal that cannot be written.
#[tokio::test]
async fn a_journal_that_cannot_be_written_is_left_alone() {
    let place = used().await;
    let journal = place.state().join("journal");
    let facts = [journal.to_str().unwrap(), "cannot be opened"];
    if rustix::process::geteuid().is_root() {
        // Permissions do not bind who runs this.
        let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
        let Some(command) = mounted(read_only, &journal) else {
            return println!("not run: no mount namespace, and permissions do not bind root");
        };
        return refused(&place, command, &facts);
    }
    let mode = |mode| std::fs::set_permissions(&journal, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o500);
    refused(&place, plainly(), &facts);
    mode(0o700);
}

/// A second gateway in the same directory is refused, and told who is first.
#[tokio::test]
async fn a_second_gateway_is_refused() {
    let place = Place::new(&json!({}));
    let first = place.start("1");
    let mut client = Client::connect(&first.url()).await;
    let error = Gateway::start_in(Arc::clone(&place.state), &[]).expect_err("the directory is taken");
    assert_eq!(error.status.code(), Some(1));
    for fact in [place.state().to_str().unwrap(), &format!("process {}", first.process_id())] {
        assert!(error.stderr.contains(fact), "{fact}: {}", error.stderr);
    }
    assert_eq!(exchange(&mut client, "s", "m", "x").await["type"], "message");
}

/// On a full disk new messages are refused as such, and what was accepted is answered. By a file system of a few MiB.
#[tokio::test]
async fn a_full_disk_refuses_new_messages() {
    let place = Place::new(&json!({}));
    let journal = place.state().join("journal");
    std::fs::create_dir(&journal).unwrap();
    let Some(command) = mounted("mount -t tmpfs -o size=6m tmpfs \"$0\"", &journal) else {
        return println!("not run: no mount namespace");
    };
    let agent = "silent=sleep infinity";
    let gateway =
        Gateway::start_as(command, Arc::clone(&place.state), &["--shards", "1", "--agent", agent]).unwrap();
    let mut client = Client::connect(&gateway.url()).await;
    let answered = {
        client.say("echo", "s", "before", "x").await;
        client.reply().await.1
    };
    assert_eq!(answered["type"], "message", "{answered}");
    // Kept until they are answered, which is never.
    let large = "x".repeat(200_000);
    let mut refused = None;
    for number in 0..60 {
        let frame = json!({"type": "message", "id": number.to_string(), "agent": "silent", "content": large,
            "sessionId": format!("t-{number}"), "metadata": {"ack": true}});
        client.send(&frame).await;
        let frame = client.frame().await;
        if frame["type"] == "error" {
            refused = Some(frame);
            break;
        }
        assert_eq!(frame["content"]["state"], "accepted", "{frame}");
    }
    let refused = refused.expect("6 MiB do not hold 12 MB");
    assert_eq!((code(&refused), &refused["content"]["retryable"]), ("disk_full", &json!(true)), "{refused}");
}
