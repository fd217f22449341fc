//! The commands on sessions, with the real binary: against a running gateway, and on its files where none runs.

use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tests::operator::Operator;
use tests::process::{Gateway, asked, openclaw};

fn run(state: &Path, arguments: &[&str]) -> Output {
    openclaw(state, arguments).stdin(Stdio::null()).output().expect("the command starts")
}

fn said(state: &Path, arguments: &[&str]) -> String {
    let output = run(state, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// What a command complains of, and with which exit code.
fn refused(state: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(state, arguments);
    (output.status.code(), String::from_utf8(output.stderr).expect("text").trim_end().to_owned())
}

/// A gateway with a session `agent:echo:x` of three notes, one of them longer than a line of the admin socket.
async fn filled(state: &Arc<tempfile::TempDir>) -> Gateway {
    let gateway = Gateway::start_in(Arc::clone(state), &[]).unwrap();
    let mut client = Operator::connect(&gateway.url(), &["operator.admin"]).await;
    client.ask("sessions.create", json!({"key": "x", "label": "Work", "thinkingLevel": "i"})).await.unwrap();
    client.ask("sessions.create", json!({"key": "y"})).await.unwrap();
    let long = "lobster 🦞 \"quoted\"\\ ".repeat(10_000);
    for text in ["first", &long, "last"] {
        client.ask("chat.inject", json!({"sessionKey": "x", "message": text})).await.unwrap();
    }
    gateway
}

/// Sessions are listed and shown, and a transcript comes whole in each form; by the gateway and, once it has been killed,
/// from its files, in the same words.
#[tokio::test]
async fn sessions_are_shown_with_and_without_a_gateway() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let gateway = filled(&state).await;
    let place = state.path();
    let key = "agent:echo:x";
    let tell = || {
        let list = asked(place, &["session", "list"]);
        let found = asked(place, &["sessions", "list", "--search", "work", "--agent", "echo"]);
        let one = asked(place, &["session", "get", key]);
        let table = said(place, &["session", "list"]);
        let jsonl = said(place, &["session", "export", key]);
        let markdown = said(place, &["session", "export", key, "--format", "markdown"]);
        let whole = asked(place, &["session", "export", key]);
        (list, found, one, (table.lines().count(), jsonl, markdown, whole))
    };
    let with = tell();
    let (list, found, one, (lines, jsonl, markdown, whole)) = &with;
    assert_eq!((&list["total"], &list["sessions"][0]["key"], *lines), (&json!(2), &json!(key), 3));
    assert_eq!((&found["total"], &found["sessions"][0]), (&json!(1), &list["sessions"][0]));
    assert_eq!(
        (&one["label"], &one["rows"], &one["preferences"]["thinkingLevel"]),
        (&json!("Work"), &json!(3), &json!("i"))
    );
    let path =
        place.join("agents/echo/sessions").join(format!("{}.jsonl", one["sessionId"].as_str().unwrap()));
    assert!(*jsonl == std::fs::read_to_string(path).unwrap(), "it is the file as it is");
    assert!(markdown.starts_with("# Work\n") && markdown.ends_with("\n## Assistant\n\nlast\n"));
    assert_eq!(whole["rows"].as_array().map(Vec::len), Some(3));
    let empty = said(place, &["session", "list", "--archived"]);
    assert_eq!(empty, "no sessions\n");
    assert_eq!(asked(place, &["session", "get", "x"])["key"], key, "the gateway knows its default agent");
    assert_eq!(asked(place, &["session", "commit", "--all"]), json!({"key": null, "rows": null}));
    assert_eq!(asked(place, &["session", "commit", "x"]), json!({"key": key, "rows": 3}));

    drop(gateway);
    let without = tell();
    let times = |told: &Value| (told["rows"].clone(), told["bytes"].clone(), told["updatedMs"].clone());
    assert_eq!(times(&with.2), times(&without.2));
    assert!(with.3.1 == without.3.1 && with.3.2 == without.3.2 && with.1 == without.1);
    let (code, told) = refused(place, &["session", "get", "nothing"]);
    assert_eq!((code, &*told), (Some(1), "openclaw: there is no session \"nothing\""));
}

/// Sessions are put aside, reset and deleted only when somebody has said so, and only where a gateway runs.
#[tokio::test]
async fn sessions_are_changed_on_purpose_only() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let gateway = filled(&state).await;
    let place = state.path();
    let keys = |arguments: &[&str]| -> Vec<Value> {
        let list = asked(place, &[&["session", "list"], arguments].concat());
        list["sessions"].as_array().unwrap().iter().map(|row| row["key"].clone()).collect()
    };
    for what in ["reset", "delete"] {
        let (code, told) = refused(place, &["session", what, "x"]);
        assert!(code == Some(1) && told.ends_with("nothing was changed"), "{told}");
    }
    assert_eq!(asked(place, &["session", "get", "x"])["lifecycleRevision"], 1);
    let reset = asked(place, &["session", "reset", "x", "--yes"]);
    assert_eq!(
        (&reset["lifecycleRevision"], &reset["messages"], &reset["rows"]),
        (&json!(2), &json!(1), &json!(4))
    );

    let old = asked(place, &["session", "archive", "--older-than", "7d"]);
    assert_eq!(old, json!({"count": 0, "dryRun": false}));
    let both = asked(place, &["session", "archive", "--older-than", "0s", "--dry-run"]);
    assert_eq!(both, json!({"count": 2, "dryRun": true}));
    assert_eq!(keys(&["--archived"]).len(), 0);
    let done = said(place, &["session", "archive", "--older-than", "0s", "--agent", "echo"]);
    assert_eq!(done, "2 sessions put aside\n");
    assert_eq!((keys(&["--archived"]).len(), keys(&[]).len()), (2, 0));

    let deleted = asked(place, &["session", "delete", "x", "--yes"]);
    let kept = deleted["transcript"].as_str().unwrap();
    assert!(Path::new(kept).exists() && kept.contains(".deleted."), "{kept}");
    asked(place, &["session", "delete", "y", "--yes", "--erase"]);
    assert_eq!(keys(&["--archived"]).len(), 0);
    let (code, told) = refused(place, &["session", "delete", "y", "--yes"]);
    assert_eq!((code, &*told), (Some(1), "openclaw: there is no session \"agent:echo:y\" (not_found)"));
    let (code, told) = refused(place, &["session", "delete", "main", "--yes"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("agent:echo:main is a main session"), "{told}");
    let (code, _) = refused(place, &["session", "archive", "--older-than", "soon"]);
    assert_eq!(code, Some(2));

    drop(gateway);
    let (code, told) = refused(place, &["session", "delete", "x", "--yes"]);
    assert!(code == Some(3) && told.contains("no gateway runs"), "{told}");
    let nowhere = tempfile::tempdir().unwrap();
    let (code, told) = refused(nowhere.path(), &["session", "list"]);
    assert!(code == Some(3) && told.contains("no gateway runs"), "{told}");
    assert_eq!(std::fs::read_dir(nowhere.path()).unwrap().count(), 0, "nothing was made there");
}
