//! Sessions in the OpenClaw protocol, against running gateways: what is answered fits the published schema, what changes
//! is told, what runs is stopped first, and nothing that a client sends leads anywhere else.
//!
//! `scripts/protocol-schema` fetches the schema. Where it is not there the test of that says that it did not run; under
//! `CI=true` it fails.

use std::sync::Arc;

use serde_json::{Value, json};
use tests::operator::Operator;
use tests::process::Gateway;
use tests::{binary, workspace};

const ALL: &[&str] = &["operator.admin"];

/// Fails if a value is not what a definition of the published schema says.
fn check(schema: Option<&Value>, definition: &str, value: &Value) {
    let Some(root) = schema else { return };
    assert!(root["definitions"][definition].is_object(), "{definition} is not defined");
    let mut wanted = json!({ "$ref": format!("#/definitions/{definition}") });
    wanted["$schema"] = root["$schema"].clone();
    wanted["definitions"] = root["definitions"].clone();
    let validator = jsonschema::validator_for(&wanted).expect("the schema is valid");
    let faults: Vec<String> =
        validator.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    assert!(faults.is_empty(), "{value:#} is no {definition}:\n{}", faults.join("\n"));
}

fn schema() -> Option<Value> {
    let path = workspace().join("target/protocol-schema/protocol.schema.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        let missing = format!("{} is missing: scripts/protocol-schema fetches it", path.display());
        assert!(std::env::var("CI").map_or(true, |ci| ci != "true"), "{missing}");
        println!("not compared with the schema: {missing}");
        return None;
    };
    Some(serde_json::from_str(&text).expect("the schema is JSON"))
}

/// The payload without a field that the published version of the schema has no place for yet.
fn without_hash(mut file: Value) -> Value {
    file["file"].as_object_mut().expect("a file").remove("hash");
    file
}

/// Every answer that the schema defines is as it says, and a session is in the list from its first moment on. By calling
/// each method on a session that has everything.
#[tokio::test]
async fn answers_fit_the_schema() {
    let schema = schema();
    let schema = schema.as_ref();
    let gateway = Gateway::start(&[]).unwrap();
    let mut client = Operator::connect(&gateway.url(), ALL).await;
    let mut ask = async |method: &str, params: Value| {
        client.ask(method, params.clone()).await.unwrap_or_else(|error| panic!("{method} {params}: {error}"))
    };
    let made =
        ask("sessions.create", json!({"label": "Work", "thinkingLevel": "high", "message": "hello"})).await;
    check(schema, "SessionsCreateResult", &made);
    check(schema, "SessionRow", &made["entry"]);
    assert_eq!((&made["runStarted"], made["runError"]["code"].is_string()), (&json!(false), true));
    let key = made["key"].as_str().expect("a key");
    let noted = ask("chat.inject", json!({"sessionKey": key, "message": "a note", "label": "from"})).await;
    assert_eq!(noted["ok"], true);
    let patch = json!({
        "key": key, "pinned": true, "unread": true, "icon": "i", "color": "c", "fastMode": true, "statusNote": "s",
    });
    let patched = ask("sessions.patch", patch).await;
    check(schema, "SessionRow", &patched["entry"]);

    let query = json!({"includeDerivedTitles": true, "includeLastMessage": true, "archived": "all"});
    let list = ask("sessions.list", query).await;
    assert_eq!((&list["count"], &list["totalCount"]), (&json!(1), &json!(1)));
    assert_eq!(list["sessions"][0]["lastMessagePreview"], "[from] a note");
    check(schema, "SessionRow", &list["sessions"][0]);
    check(schema, "SessionRow", &ask("sessions.describe", json!({"key": key})).await["session"]);
    check(schema, "SessionsResolveResult", &ask("sessions.resolve", json!({"label": "Work"})).await);
    let missing = ask("sessions.resolve", json!({"key": "nothing", "allowMissing": true})).await;
    check(schema, "SessionsResolveResult", &missing);

    let history = ask("chat.history", json!({"sessionKey": key})).await;
    assert_eq!(history["messages"][0]["content"][0]["text"], "[from]\n\na note");
    assert_eq!(history["messages"][0]["__openclaw"]["id"], noted["messageId"]);
    check(schema, "SessionRow", &history["sessionInfo"]);
    let cursor = json!({"sessionKey": key, "cursor": history["deltaCursor"]});
    check(schema, "ChatHistoryCursorResult", &ask("chat.history", cursor.clone()).await);
    check(schema, "SessionRow", &ask("sessions.reset", json!({"key": key})).await["entry"]);
    let stale = ask("chat.history", cursor).await;
    check(schema, "ChatHistoryCursorResult", &stale);
    assert_eq!(stale["kind"], "reset");

    let status = ask("status", json!({})).await;
    assert_eq!(
        (&status["sessions"]["count"], &status["sessions"]["recent"][0]["key"]),
        (&json!(1), &json!(key))
    );
    check(schema, "SessionsDeleteResult", &ask("sessions.delete", json!({"key": key})).await);
    check(schema, "SessionsDeleteResult", &ask("sessions.delete", json!({"key": key})).await);
    assert_eq!(ask("sessions.list", json!({})).await["count"], 0);

    check(schema, "AgentsFilesListResult", &ask("agents.files.list", json!({"agentId": "echo"})).await);
    let file = json!({"agentId": "echo", "name": "USER.md", "content": "somebody"});
    let set = ask("agents.files.set", file).await;
    let got = ask("agents.files.get", json!({"agentId": "echo", "name": "USER.md"})).await;
    assert_eq!((&got["file"]["content"], &got["file"]["hash"]), (&json!("somebody"), &set["file"]["hash"]));
    check(schema, "AgentsFilesSetResult", &without_hash(set));
    check(schema, "AgentsFilesGetResult", &without_hash(got));
}

/// Who has subscribed is told of every row and every change, and nobody else is. By one who has subscribed to the list, one
/// to a session, and one to nothing, while a fourth one changes things.
#[tokio::test]
async fn changes_are_told() {
    let schema = schema();
    let gateway = Gateway::start(&[]).unwrap();
    let read = &["operator.read"];
    let mut watcher = Operator::connect(&gateway.url(), read).await;
    let mut reader = Operator::connect(&gateway.url(), read).await;
    let mut other = Operator::connect(&gateway.url(), read).await;
    let mut actor = Operator::connect(&gateway.url(), ALL).await;
    watcher.ask("sessions.subscribe", json!({})).await.unwrap();
    // In short: the key of the default agent.
    reader.ask("sessions.messages.subscribe", json!({"key": "x"})).await.unwrap();
    let key = "agent:echo:x";
    actor.ask("sessions.create", json!({"key": "x"})).await.unwrap();
    let noted = actor.ask("chat.inject", json!({"sessionKey": "x", "message": "one"})).await.unwrap();
    actor.ask("sessions.patch", json!({"key": "x", "pinned": true})).await.unwrap();
    actor.ask("sessions.reset", json!({"key": "x"})).await.unwrap();
    actor.ask("sessions.delete", json!({"key": "x"})).await.unwrap();

    for reason in ["create", "message", "patch", "reset", "delete"] {
        let told = watcher.event("sessions.changed", |told| told["reason"] == reason).await;
        assert_eq!((&told["sessionKey"], &told["agentId"]), (&json!(key), &json!("echo")));
        if reason != "delete" {
            check(schema.as_ref(), "SessionRow", &told["session"]);
        }
    }
    let told = reader.event("session.message", |_| true).await;
    assert_eq!((&told["sessionKey"], &told["messageId"]), (&json!(key), &noted["messageId"]));
    assert_eq!((&told["messageSeq"], &told["message"]["content"][0]["text"]), (&json!(1), &json!("one")));
    // A chat shows the note at once, whoever has subscribed to what.
    let told = other.event("chat", |_| true).await;
    check(schema.as_ref(), "ChatEvent", &told);
    assert_eq!((&told["state"], &told["message"]["content"][0]["text"]), (&json!("final"), &json!("one")));
    // What comes before the answer to a question was told before it.
    other.ask("health", json!({})).await.unwrap();
    reader.ask("health", json!({})).await.unwrap();
    assert_eq!(other.told("sessions.changed") + other.told("session.message"), 0);
    assert_eq!(reader.told("sessions.changed"), 0);
}

/// What runs in a session is stopped before it is reset or deleted, and meanwhile the session is in the list of those in
/// which something runs.
#[tokio::test]
async fn runs_are_stopped_first() {
    let folder = tempfile::tempdir().unwrap();
    let command = format!("words={} {}", binary("delivery-agent").display(), folder.path().display());
    let gateway = Gateway::start(&["--agent", &command]).unwrap();
    let mut client = Operator::connect(&gateway.url(), ALL).await;
    let key = "agent:words:x";
    for method in ["sessions.reset", "sessions.delete"] {
        client.ask("sessions.create", json!({"key": key})).await.unwrap();
        let run = format!("run-{method}");
        let message = json!({"sessionKey": key, "message": "wait", "idempotencyKey": run});
        client.ask("chat.send", message).await.unwrap();
        let active = client.ask("sessions.list", json!({"activeOnly": true})).await.unwrap();
        assert_eq!(active["count"], 1, "{active}");
        let row = &active["sessions"][0];
        assert_eq!((&row["status"], &row["lastRunId"]), (&json!("running"), &json!(run)));
        let history = client.ask("chat.history", json!({"sessionKey": key})).await.unwrap();
        assert_eq!(history["inFlightRun"]["runId"], json!(run));

        client.ask(method, json!({"key": key})).await.unwrap();
        client.event("chat", |told| told["runId"] == json!(run) && told["state"] == "aborted").await;
        let active = client.ask("sessions.list", json!({"activeOnly": true})).await.unwrap();
        assert_eq!(active["count"], 0);
    }
}

/// What was changed is there after the gateway was killed, and the next one goes on with it.
#[tokio::test]
async fn sessions_survive_their_gateway() {
    let state = Arc::new(tempfile::tempdir().unwrap());
    let mut kept = Vec::new();
    for round in 0..2 {
        let gateway = Gateway::start_in(Arc::clone(&state), &[]).unwrap();
        let mut client = Operator::connect(&gateway.url(), ALL).await;
        if round == 0 {
            client.ask("sessions.create", json!({"key": "x", "label": "Work"})).await.unwrap();
            client.ask("chat.inject", json!({"sessionKey": "x", "message": "one"})).await.unwrap();
            client.ask("sessions.patch", json!({"key": "x", "pinned": true})).await.unwrap();
        }
        let list = client.ask("sessions.list", json!({})).await.unwrap();
        let history = client.ask("chat.history", json!({"sessionKey": "x"})).await.unwrap();
        kept.push((list["sessions"].clone(), history["messages"].clone()));
        // Dropped, it is killed.
    }
    assert_eq!(kept[0], kept[1]);
    assert_eq!(kept[0].0[0]["label"], "Work");
}

/// The same name makes one session, and a scope that is missing makes none.
#[tokio::test]
async fn sessions_are_made_once_and_by_who_may() {
    let gateway = Gateway::start(&[]).unwrap();
    let mut client = Operator::connect(&gateway.url(), ALL).await;
    let params = json!({"label": "Once", "idempotencyKey": "k"});
    let first = client.ask("sessions.create", params.clone()).await.unwrap();
    assert_eq!(client.ask("sessions.create", params).await.unwrap(), first);
    let other =
        client.ask("sessions.create", json!({"label": "Other", "idempotencyKey": "k"})).await.unwrap_err();
    assert_eq!(other["details"]["reason"], "session-create-conflict");
    assert_eq!(client.ask("sessions.list", json!({})).await.unwrap()["count"], 1);

    let mut reader = Operator::connect(&gateway.url(), &["operator.read"]).await;
    let mut writer = Operator::connect(&gateway.url(), &["operator.write"]).await;
    let key = first["key"].as_str().unwrap();
    let missing = |error: Value| error["details"]["missingScope"].as_str().unwrap_or_default().to_owned();
    let create = reader.ask("sessions.create", json!({"key": "y"})).await.unwrap_err();
    assert_eq!(missing(create), "operator.write");
    let set = json!({"agentId": "echo", "name": "SOUL.md", "content": "mine"});
    for (method, params) in [
        ("sessions.reset", json!({"key": key})),
        ("sessions.delete", json!({"key": key})),
        ("chat.inject", json!({"sessionKey": key, "message": "x"})),
        ("agents.files.set", set),
        ("sessions.create", json!({"key": "y", "cwd": "/"})),
    ] {
        let refused = writer.ask(method, params).await.unwrap_err();
        assert_eq!(missing(refused), "operator.admin", "{method}");
    }
    // What is put aside already may be deleted by who may write.
    writer.ask("sessions.patch", json!({"key": key, "archived": true})).await.unwrap();
    let deleted = writer.ask("sessions.delete", json!({"key": key, "archivedOnly": true})).await.unwrap();
    assert_eq!(deleted["deleted"], true);
}

type Trick = (&'static str, Value, &'static str);

fn of_sessions() -> Vec<Trick> {
    let long = "k".repeat(513);
    vec![
        ("sessions.list", json!({"limit": 0}), "invalid sessions.list params: at /limit: must be >= 1"),
        (
            "sessions.list",
            json!({"archived": "some"}),
            "invalid sessions.list params: at /archived: must be boolean or 'all'",
        ),
        (
            "sessions.list",
            json!({"__proto__": {}}),
            "invalid sessions.list params: at root: unexpected property '__proto__'",
        ),
        (
            "sessions.describe",
            json!({}),
            "invalid sessions.describe params: must have required property 'key'",
        ),
        (
            "sessions.describe",
            json!({"key": long}),
            "invalid session key: must be at most 512 characters, none of them a control character",
        ),
        (
            "sessions.create",
            json!({"key": "a\nb"}),
            "invalid session key: must be at most 512 characters, none of them a control character",
        ),
        (
            "sessions.create",
            json!({"key": "agent:../../x:main"}),
            "Agent \"../../x\" no longer exists in configuration",
        ),
        (
            "sessions.create",
            json!({"agentId": "nosuch"}),
            "Agent \"nosuch\" no longer exists in configuration",
        ),
        (
            "sessions.create",
            json!({"worktree": true}),
            "sessions.create: 'worktree' cannot be set on this gateway",
        ),
        ("sessions.delete", json!({"key": "main"}), "Cannot delete the main session (agent:echo:main)."),
    ]
}

fn of_words() -> Vec<Trick> {
    vec![
        (
            "chat.inject",
            json!({"sessionKey": "nothing", "message": "m"}),
            "session not found: agent:echo:nothing",
        ),
        (
            "chat.inject",
            json!({"sessionKey": "x", "message": ""}),
            "invalid chat.inject params: at /message: must NOT have fewer than 1 characters",
        ),
        (
            "chat.history",
            json!({"sessionKey": "x", "limit": 1001}),
            "invalid chat.history params: at /limit: must be <= 1000",
        ),
        ("chat.history", json!({"sessionKey": "x", "messageId": "../../x"}), "message not found: ../../x"),
        (
            "agents.files.get",
            json!({"agentId": "echo", "name": "../../openclaw.json"}),
            "unsupported file \"../../openclaw.json\"",
        ),
        (
            "agents.files.get",
            json!({"agentId": "../echo", "name": "SOUL.md"}),
            "unknown agent id \"../echo\"",
        ),
        (
            "agents.files.set",
            json!({"agentId": "echo", "name": "config.json\u{0}", "content": "{}"}),
            "unsupported file \"config.json\u{0}\"",
        ),
    ]
}

/// What is no parameter is refused by name, and the gateway goes on. One row for each trick.
#[tokio::test]
async fn hostile_parameters_are_refused() {
    let gateway = Gateway::start(&[]).unwrap();
    let mut client = Operator::connect(&gateway.url(), ALL).await;
    client.ask("sessions.create", json!({"key": "x"})).await.unwrap();
    client.ask("agents.files.list", json!({"agentId": "echo"})).await.unwrap();
    for (method, params, expected) in of_sessions().into_iter().chain(of_words()) {
        let refused = client.ask(method, params.clone()).await.expect_err("it is refused");
        assert_eq!(
            (&refused["code"], &refused["message"]),
            (&json!("INVALID_REQUEST"), &json!(expected)),
            "{method}"
        );
    }
    assert_eq!(client.ask("sessions.list", json!({})).await.unwrap()["count"], 1);
    let below = gateway.state().join("agents");
    let names: Vec<_> = std::fs::read_dir(&below).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["echo"], "nothing else was made in {}", below.display());
}
