//! The configuration over the wire, with the real binary: what clients see of it, what they may change, and what they may not.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tests::client::Client;
use tests::process::{Gateway, asked};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const REDACTED: &str = "__OPENCLAW_REDACTED__";

/// A client of the OpenClaw protocol.
struct Operator {
    client: Client,
    next: u64,
}

impl Operator {
    /// Let in by the token, with these scopes.
    async fn connect(gateway: &Gateway, scopes: &[&str]) -> Self {
        let mut operator = Self { client: Client::connect(&gateway.url()).await, next: 0 };
        let params = json!({
            "minProtocol": 4, "maxProtocol": 4, "scopes": scopes, "auth": {"token": TOKEN},
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
        });
        operator.call("connect", params).await.expect("it is let in");
        operator
    }

    /// What comes of a call: the payload, or the error.
    async fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.next += 1;
        let id = self.next.to_string();
        let frame = json!({"type": "req", "id": id, "method": method, "params": params});
        self.client.send(&frame).await;
        loop {
            let frame = self.client.frame().await;
            if frame["type"] == "res" && frame["id"] == json!(id) {
                let is_ok = frame["ok"] == json!(true);
                return if is_ok { Ok(frame["payload"].clone()) } else { Err(frame["error"].clone()) };
            }
        }
    }

    /// The next event of this name.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            let frame = self.client.frame().await;
            if frame["event"] == name {
                return frame["payload"].clone();
            }
        }
    }

    /// The hash of the file.
    async fn hash(&mut self) -> String {
        let found = self.call("config.get", json!({})).await.expect("the configuration");
        found["hash"].as_str().expect("a hash").to_owned()
    }

    /// What comes of a patch of the file as it is.
    async fn patch(&mut self, patch: &Value) -> Result<Value, Value> {
        let hash = self.hash().await;
        self.call("config.patch", json!({"raw": patch.to_string(), "baseHash": hash})).await
    }

    /// The sentence of the refusal of a patch.
    async fn refused(&mut self, patch: &Value) -> String {
        sentence(&self.patch(patch).await.expect_err("it is refused"))
    }
}

fn sentence(error: &Value) -> String {
    assert_eq!(error["code"], "INVALID_REQUEST", "{error}");
    error["message"].as_str().expect("a sentence").to_owned()
}

const ADMIN: &[&str] = &["operator.admin"];

/// The keys that an agent and a skill need to be there, and comments.
fn file() -> String {
    format!(
        "// Ours.\n{{\n  gateway: {{auth: {{token: '{TOKEN}'}}, drainTimeoutMs: 1000}}, // How long.\n  agents: {{\n    \
         templates: {{default: {{command: ['cat']}}}},\n    \
         entries: {{words: {{command: ['cat'], environment: {{SECRET: 'hush-hush-hush'}}, spares: 0}}}},\n  }},\n}}\n"
    )
}

fn started(file: &str) -> (Gateway, Arc<tempfile::TempDir>) {
    let state = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(state.path().join("openclaw.json"), file).unwrap();
    (Gateway::start_in(Arc::clone(&state), &[]).expect("it starts"), state)
}

fn text(state: &Path) -> String {
    std::fs::read_to_string(state.join("openclaw.json")).unwrap()
}

/// A client sees the file without its secrets, changes it by a patch and by a whole text, and comments and secrets stay. What it
/// changed counts, other clients hear of it, and a client that has seen another text is refused.
#[tokio::test]
async fn the_file_is_read_and_changed() {
    let (gateway, state) = started(&file());
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let mut reader = Operator::connect(&gateway, &["operator.read"]).await;
    let found = reader.call("config.get", json!({})).await.unwrap();
    assert_eq!(
        (&found["valid"], &found["exists"], &found["issues"]),
        (&json!(true), &json!(true), &json!([]))
    );
    assert_eq!(found["hash"], found["appliedConfigHash"]);
    assert_eq!(found["config"]["agents"]["entries"]["words"]["environment"]["SECRET"], REDACTED);
    let expected = file()
        .replace(&format!("'{TOKEN}'"), &format!("\"{REDACTED}\""))
        .replace("'hush-hush-hush'", &format!("\"{REDACTED}\""));
    assert_eq!(found["raw"], expected);

    let raw = json!({"gateway": {"drainTimeoutMs": 2000, "auth": {"token": REDACTED}}}).to_string();
    let denied =
        reader.call("config.patch", json!({"raw": raw, "baseHash": found["hash"]})).await.unwrap_err();
    assert_eq!(denied["code"], "FORBIDDEN", "{denied}");
    let without = operator.call("config.patch", json!({"raw": raw})).await.unwrap_err();
    assert_eq!(sentence(&without), "config base hash required; re-run config.get and retry with baseHash");
    let done = operator.call("config.patch", json!({"raw": raw, "baseHash": found["hash"]})).await.unwrap();
    assert_eq!(done["applied"], json!(["gateway.drainTimeoutMs"]), "{done}");
    assert_eq!(done["restart"], json!({"required": false, "keys": [], "agents": {}}));
    assert_eq!(done["config"]["gateway"]["auth"]["token"], REDACTED);
    assert_eq!(text(state.path()), file().replace("Ms: 1000", "Ms: 2000"));
    assert_eq!(reader.event("config.changed").await["hash"], done["hash"]);
    assert_eq!(asked(state.path(), &["gateway", "status"])["drainTimeoutMs"], 2000);

    let stale =
        operator.call("config.set", json!({"raw": "{}", "baseHash": found["hash"]})).await.unwrap_err();
    assert_eq!(sentence(&stale), "config changed since last load; re-run config.get and retry");
    let found = operator.call("config.get", json!({})).await.unwrap();
    let raw = found["raw"].as_str().unwrap().replace("2000}, // How long.", "3000}, // Longer.");
    let raw = raw.replace("spares: 0", "inFlightMax: 9");
    let done = operator.call("config.apply", json!({"raw": raw, "baseHash": found["hash"]})).await.unwrap();
    assert_eq!(done["restart"]["keys"], json!(["agents.entries.words.inFlightMax"]), "{done}");
    assert_eq!(done["restart"]["required"], true);
    let now = text(state.path());
    assert!(now.contains("// Longer.") && now.contains(TOKEN) && now.contains("hush-hush-hush"), "{now}");
    let again = operator.call("config.set", json!({"raw": now, "baseHash": done["hash"]})).await.unwrap();
    assert_eq!(again["noop"], true, "{again}");
}

/// A change that breaks a rule, or is none, is refused, and nothing is written.
#[tokio::test]
async fn what_breaks_a_rule_is_refused() {
    let (gateway, state) = started(&file());
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let rows = [
        (json!({"delivery": {"attemptsMax": 0}}), "invalid config: delivery.attemptsMax = 0: must be"),
        (
            json!({"gateway": {"drainTimeoutMs": "x"}}),
            "invalid config: gateway.drainTimeoutMs = \"x\": must be",
        ),
        (json!({"gateway": {"auth": {"token": ""}}}), "invalid config: gateway.auth.token: is blank"),
        (
            json!({"routing": {"rules": [{"textContains": "a", "agent": "nobody"}]}}),
            "invalid config: routing.rules[0].agent = \"nobody\": no agent is named so",
        ),
    ];
    for (patch, start) in rows {
        let told = operator.refused(&patch).await;
        assert!(told.starts_with(start), "{told}");
        assert_eq!(text(state.path()), file());
    }
    let hash = operator.hash().await;
    let error = operator.call("config.set", json!({"raw": "{gateway:", "baseHash": hash})).await.unwrap_err();
    assert!(sentence(&error).starts_with("invalid config: "), "{error}");
    assert_eq!(text(state.path()), file());
}

/// The keys below a schema, with a name for each map, and a value of the right kind.
fn keys_of(schema: &Value, path: &[&str], keys: &mut Vec<(Vec<String>, Value)>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (name, schema) in properties {
            keys_of(schema, &[path, &[name]].concat(), keys);
        }
        return;
    }
    let named = &schema["additionalProperties"];
    if named["properties"].is_object() {
        return keys_of(named, &[path, &["words"]].concat(), keys);
    }
    let is_of = |name: &str| {
        schema["type"] == name || schema["type"].as_array().is_some_and(|of| of.contains(&json!(name)))
    };
    let value = match () {
        () if is_of("boolean") => json!(true),
        () if is_of("integer") || is_of("number") => json!(17),
        () if is_of("array") => json!(["x"]),
        () if is_of("object") => json!({"A": "b"}),
        () => json!("x"),
    };
    keys.push((path.iter().map(|&step| step.to_owned()).collect(), value));
}

/// The keys of the table of the document, each with whether clients may change it.
fn rows() -> Vec<(&'static str, bool)> {
    const DOCUMENT: &str = include_str!("../../docs/config.md");
    let rows = DOCUMENT.lines().skip_while(|line| *line != "| key | counts | by clients |").skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| (line.split('`').nth(1).expect("a key"), line.ends_with("| yes |")))
        .collect()
}

fn is_for_clients(rows: &[(&str, bool)], key: &[String]) -> bool {
    let begins = |row: &&(&str, bool)| {
        let mut steps = row.0.split('.').zip(key);
        row.0.split('.').count() <= key.len() && steps.all(|(step, own)| step == "<name>" || step == own)
    };
    rows.iter().filter(begins).max_by_key(|row| row.0.len()).is_some_and(|row| row.1)
}

/// For every key of the schema, so that a new one cannot be forgotten: a client may change it only if the table of the document
/// says so; else it is refused by its name, and nothing is written. What says which program
/// runs, how, as whom and in which sandbox is among the refused ones.
#[tokio::test]
async fn no_client_names_a_program() {
    let rows = rows();
    let (mut gateway, mut state) = started(&file());
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let schema = operator.call("config.schema", json!({})).await.unwrap()["schema"].clone();
    let mut keys = Vec::new();
    keys_of(&schema, &[], &mut keys);
    let (mut refused, mut calls) = (Vec::new(), 0);
    for (key, value) in keys.iter().filter(|(key, _)| !is_for_clients(&rows, key)) {
        // Budgets are for so many calls: another gateway has another one, another connection may err again.
        calls += 1;
        if calls % 30 == 0 {
            (gateway, state) = started(&file());
        }
        if calls % 15 == 0 {
            operator = Operator::connect(&gateway, ADMIN).await;
        }
        let patch = key.iter().rev().fold(value.clone(), |value, step| json!({ step: value }));
        let told = operator.refused(&patch).await;
        let name = key.join(".");
        let start = format!("config.patch may not change {name}");
        assert!(told.starts_with(&start), "{told}");
        assert_eq!(text(state.path()), file(), "{name}");
        refused.push(name);
    }
    for key in [
        "agents.entries.words.command",
        "agents.entries.words.environment",
        "agents.entries.words.workingDirectory",
        "agents.entries.words.sandbox.mode",
        "agents.entries.words.sandbox.binds",
        "agents.entries.words.template",
        "agents.entries.words.skills",
        "agents.defaults.sandbox.workspace",
        "agents.templates.words.command",
        "skills.entries.words.command",
        "gateway.user",
        "gateway.auth.mode",
        "engine.runtime",
    ] {
        assert!(refused.iter().any(|name| name == key), "{key} is not refused");
    }
}

/// The same for a whole text: another command, a new agent, one that is gone, and keys that nobody knows.
#[tokio::test]
async fn no_text_names_a_program() {
    let (gateway, state) = started(&file());
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let found = operator.call("config.get", json!({})).await.unwrap();
    let raw = found["raw"].as_str().unwrap();
    for (raw, key) in [
        (
            raw.replace("entries: {words: {command: ['cat']", "entries: {words: {command: ['id']"),
            "agents.entries.words.command",
        ),
        (raw.replace("entries: {", "entries: {new: {command: ['id']}, "), "agents.entries.new.command"),
        (
            raw.replace("agents: {", "mcp: {servers: {x: {command: 'id'}}}, agents: {"),
            "mcp.servers.x.command",
        ),
    ] {
        let params = json!({"raw": raw, "baseHash": found["hash"]});
        let told = sentence(&operator.call("config.set", params).await.unwrap_err());
        assert!(told.starts_with(&format!("config.set may not change {key}")), "{told}");
    }
    let told = operator.refused(&json!({"agents": {"entries": {"words": null}}})).await;
    assert!(told.starts_with("config.patch may not change agents.entries.words."), "{told}");
    assert_eq!(text(state.path()), file());
}

/// Who changes settings too often is told when to come back.
#[tokio::test]
async fn changes_have_a_budget() {
    let (gateway, _state) = started(&file());
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let mut last = json!(null);
    for call in 0..31 {
        // One that errs too often is closed.
        if call % 15 == 14 {
            operator = Operator::connect(&gateway, ADMIN).await;
        }
        last = operator.call("config.set", json!({"raw": "{}"})).await.unwrap_err();
    }
    assert_eq!((&last["code"], &last["retryable"]), (&json!("UNAVAILABLE"), &json!(true)), "{last}");
    let told = last["message"].as_str().unwrap();
    assert!(told.starts_with("rate limit exceeded for config.set; retry after "), "{told}");
    assert!(last["retryAfterMs"].as_u64().is_some_and(|ms| (1..=60_000).contains(&ms)), "{last}");
    assert!(operator.patch(&json!({"gateway": {"drainTimeoutMs": 1}})).await.is_ok(), "another method");
}

/// A client makes an agent of a template, which runs after the next start, changes it, and takes it out; what the operator has
/// written stays his.
#[tokio::test]
async fn agents_are_made_of_templates() {
    let (gateway, state) = started(&file());
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let made = operator.call("agents.create", json!({"name": "My Helper", "emoji": "x"})).await.unwrap();
    assert_eq!((&made["agentId"], &made["name"]), (&json!("my-helper"), &json!("My Helper")));
    assert_eq!(made["restart"]["keys"], json!(["agents.entries.my-helper"]), "it does not run yet: {made}");
    let workspace = Path::new(made["workspace"].as_str().unwrap());
    let identity = std::fs::read_to_string(workspace.join("IDENTITY.md")).unwrap();
    assert!(identity.contains("- Name: My Helper\n") && identity.contains("- Emoji: x\n"), "{identity}");
    let shown = asked(state.path(), &["config", "get", "agents.entries.my-helper"]);
    assert_eq!(shown, json!({"template": "default"}));
    assert!(text(state.path()).contains("// How long."));

    // Only the running gateway can tell: to the next one this is no fault.
    let rule = json!({"routing": {"rules": [{"label": "h", "agent": "my-helper"}, {"label": "w", "agent": "words"}]}});
    let told = operator.refused(&rule).await;
    assert!(told.starts_with("invalid config: the rules of routing cannot be used"), "{told}");
    let mut refused = async |method: &str, params: Value| {
        sentence(&operator.call(method, params).await.expect_err("it is refused"))
    };
    assert_eq!(
        refused("agents.create", json!({"name": "my helper"})).await,
        "agent \"my-helper\" already exists"
    );
    assert_eq!(refused("agents.create", json!({"name": "Echo"})).await, "\"echo\" is reserved");
    let told = refused("agents.create", json!({"name": "other", "model": "id"})).await;
    assert_eq!(told, "model \"id\" is none of agents.templates; there are: default");
    let told = refused("agents.create", json!({"name": "other", "workspace": "/etc"})).await;
    assert!(told.starts_with("workspace cannot be chosen: the files of agent \"other\" are in "), "{told}");
    let unknown = "Agent \"nosuch\" no longer exists in configuration";
    assert_eq!(refused("agents.update", json!({"agentId": "nosuch", "name": "x"})).await, unknown);
    assert_eq!(refused("agents.delete", json!({"agentId": "nosuch"})).await, unknown);
    for (method, params) in [
        ("agents.update", json!({"agentId": "words", "model": "default"})),
        ("agents.delete", json!({"agentId": "words"})),
    ] {
        let told = refused(method, params).await;
        assert!(
            told.starts_with("agent \"words\" is the operator's: agents.entries.words.command"),
            "{told}"
        );
    }
    let told = refused("agents.update", json!({"agentId": "my-helper", "model": null})).await;
    assert!(told.starts_with("model cannot be taken away"), "{told}");

    let named =
        operator.call("agents.update", json!({"agentId": "my-helper", "name": "Hans"})).await.unwrap();
    assert_eq!(named["agentId"], "my-helper");
    assert!(std::fs::read_to_string(workspace.join("IDENTITY.md")).unwrap().contains("- Name: Hans\n"));

    drop((operator, gateway));
    let gateway = Gateway::start_in(Arc::clone(&state), &[]).expect("the next one starts");
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let listed = operator.call("agents.list", json!({})).await.unwrap();
    let is_there = listed["agents"].as_array().unwrap().iter().any(|agent| agent["id"] == "my-helper");
    assert!(is_there, "{listed}");
    let rule = json!({"routing": {"rules": [{"label": "h", "agent": "my-helper"}, {"label": "w", "agent": "words"}]}});
    operator.patch(&rule).await.unwrap();
    let gone = operator.call("agents.delete", json!({"agentId": "my-helper"})).await.unwrap();
    assert_eq!(
        (&gone["removedBindings"], &gone["removed"][0]["method"]),
        (&json!(1), &json!("trash")),
        "{gone}"
    );
    assert_eq!(gone["restart"]["keys"], json!(["agents.entries.my-helper"]));
    assert!(!workspace.exists() && Path::new(gone["removed"][0]["path"].as_str().unwrap()).is_dir());
    let rules = asked(state.path(), &["config", "get", "routing.rules"]);
    assert_eq!(rules, json!([{"label": "w", "agent": "words"}]));
}

/// Without a template on disk no client makes an agent, and is told which key is missing.
#[tokio::test]
async fn without_a_template_no_agent_is_made() {
    let none = file().replace("    templates: {default: {command: ['cat']}},\n", "");
    let (gateway, state) = started(&none);
    let mut operator = Operator::connect(&gateway, ADMIN).await;
    let error = operator.call("agents.create", json!({"name": "x"})).await.unwrap_err();
    assert!(sentence(&error).ends_with("set agents.templates.default.command"), "{error}");
    assert_eq!(text(state.path()), none);
}
