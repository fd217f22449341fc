//! What the gateway answers, against the published schema, the words of the protocol, and the document.
//!
//! `scripts/protocol-schema` fetches the schema. Where it is not there the tests of that say that they did not run;
//! under `CI=true` they fail.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as channel;

use adapters::access::devices::{DeviceId, Devices};
use adapters::access::scopes::{Scope, Scopes};
use adapters::access::secret::Secret;
use adapters::access::{AccessSettings, AuthMode, Identity, Role};
use adapters::openclaw::presence::Entry;
use adapters::refusal::RpcCode;
use engine::event::ShardIndex;
use engine::journal::entry::JournalState;
use engine::stats::{Counters, SharedCounters};
use engine::time::Clock;
use serde_json::{Value, json};

use super::*;
use crate::admin::AgentName;
use crate::admin::answer::{AgentRow, Reloaded};
use crate::admin::bulletin::Bulletin;
use crate::admin::order::Order;
use crate::admin::shards::Shards;
use crate::config::Standing;
use crate::health::AgentBoard;
use crate::log::file::LogFile;
use crate::options::RunOptions;

const DOCUMENT: &str = include_str!("../../../docs/openclaw-methods.md");
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Two devices that are paired.
const DEVICES: [&str; 2] = ["d1", "d2"];

/// A gateway of two agents and two paired devices, without its threads.
struct Fixture {
    rpc: Arc<Rpc>,
    unserved: Option<Unserved>,
    board: Arc<AgentBoard>,
    counters: Arc<SharedCounters>,
    draining: Arc<AtomicBool>,
    log: LogFile,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (log, log_place) = LogFile::open(&directory.path().join("gateway.log"), 1 << 20).unwrap();
        let settings = AccessSettings::new(AuthMode::Token, Secret::new(TOKEN).ok()).unwrap();
        let (board, counters, draining) =
            <(Arc<AgentBoard>, Arc<SharedCounters>, Arc<AtomicBool>)>::default();
        let health = HealthSource {
            started: std::time::Instant::now(),
            runtime: "epoll",
            shards: vec![Arc::clone(&counters)],
            agents: Arc::clone(&board),
            draining: Arc::clone(&draining),
        };
        let known = Known {
            agents: vec!["coder".into(), "echo".into()],
            default_agent: "coder".into(),
            state_directory: directory.path().to_owned(),
        };
        let sources = Sources {
            health: Arc::new(health),
            access: Arc::new(Access::new(&settings, devices(directory.path())).unwrap()),
            sessions: crate::transcripts::open(directory.path()).unwrap(),
            news: Arc::default(),
            source: source(directory.path()),
            presence: Arc::new(Presence::new(status::own_entry("127.0.0.1:1".parse().unwrap()))),
            log: Log::detached(),
            log_place: Some(log_place),
        };
        let (rpc, unserved) = Rpc::over(known, sources);
        let unserved = Some(unserved);
        Self { rpc, unserved, board, counters, draining, log, _directory: directory }
    }

    /// Answers what waits, with a control thread that knows the skills of its agents.
    fn serve(&mut self) {
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let names: Vec<AgentName> = Vec::new();
        let clock = Clock::start();
        let bulletin = Arc::new(Bulletin::default());
        let unserved = self.unserved.take().unwrap();
        let Sources { health, access, sessions, .. } = &unserved.facts.sources;
        let (health, access) = (Arc::clone(health), Arc::clone(access));
        let edges = Arc::new(EdgeShared::new(1, Box::new(move || health.report()), access));
        let place = &unserved.facts.known.state_directory;
        let desk = sessions::Desk::new(Arc::clone(sessions), Arc::clone(&edges), place);
        let shards = Shards::new(Vec::new());
        let admin = Admin::new(shards, names.into(), clock, bulletin, orders, Arc::new(desk));
        tokio::spawn(async move {
            while let Some(order) = ordered.recv().await {
                if let Order::Reload { reply, .. } = order {
                    reply.send(Ok(Reloaded::default())).unwrap();
                } else if let Order::List { reply, .. } = order {
                    let rows = [row("coder~1", "coder", &["rust", "sql"]), row("echo", "echo", &[])];
                    let rows = rows.into_iter().zip(0..);
                    let rows = rows.map(|(row, index)| (engine::event::AgentIndex(index), row)).collect();
                    reply.send(Ok(rows)).unwrap();
                }
            }
        });
        tokio::spawn(unserved.serve(Arc::new(admin), edges));
    }

    /// What comes of a call, as soon as it does.
    fn ask(&self, method: Method, params: &Value, caller: &Identity) -> channel::Receiver<Outcome> {
        let (sender, receiver) = channel::channel();
        let params = Some(serde_json::value::to_raw_value(params).unwrap());
        let call = OwnedCall {
            method,
            params,
            identity: caller.clone(),
            source: [127, 0, 0, 1].into(),
            connection: "c1".into(),
        };
        self.rpc.call(call, Answer::new(move |outcome| sender.send(outcome).unwrap()));
        receiver
    }

    /// What comes of a call that is answered at once.
    fn at_once(&self, method: Method, params: &Value) -> Result<Value, RpcError> {
        parsed(self.ask(method, params, &operator(Scopes::ALL)).try_recv().expect("it is answered at once"))
    }

    /// What comes of a call, however long it takes.
    async fn call(&self, method: Method, params: Value, caller: &Identity) -> Result<Value, RpcError> {
        let answer = self.ask(method, &params, caller);
        parsed(tokio::task::spawn_blocking(move || answer.recv().unwrap()).await.unwrap())
    }
}

/// Paired devices, from a file that holds them.
fn devices(folder: &Path) -> Devices {
    let device = |id: &str| {
        let grant = json!({
            "role": "operator", "scopes": ["operator.read", "operator.pairing"], "tokenSha256": null, "issuedAtMs": 0,
        });
        json!({
            "id": id, "publicKey": "AAAA", "description": {}, "label": null, "grants": [grant], "pairedAtMs": 7,
        })
    };
    let path = folder.join("devices.json");
    let content = json!({"version": 1, "devices": DEVICES.map(device)});
    std::fs::write(&path, content.to_string()).unwrap();
    Devices::open(&path).unwrap()
}

/// The configuration of a gateway whose file says little.
fn source(folder: &Path) -> Arc<Source> {
    std::fs::write(folder.join("openclaw.json"), format!("{{gateway: {{auth: {{token: '{TOKEN}'}}}}}}"))
        .unwrap();
    let options = RunOptions { state_dir: Some(folder.to_owned()), ..RunOptions::default() };
    Arc::new(Source::new(&options, &Standing::of(folder)).unwrap())
}

fn device_id(id: &str) -> DeviceId {
    serde_json::from_value(json!(id)).unwrap()
}

fn parsed(outcome: Outcome) -> Result<Value, RpcError> {
    outcome.map(|payload| serde_json::from_slice(&payload).unwrap())
}

fn operator(scopes: Scopes) -> Identity {
    Identity { role: Role::Operator, scopes, device: None, generation: 1 }
}

fn row(name: &str, pool: &str, skills: &[&str]) -> AgentRow {
    serde_json::from_value(json!({
        "name": name, "pool": pool, "skills": skills, "state": "ready", "sinceMs": 0, "processId": null,
        "startedMs": null, "restarts": 0, "open": 0, "queued": 0, "cause": null, "sick": null,
        "restartPending": false, "version": "", "policy": "always", "channels": [], "capabilities": [],
    }))
    .unwrap()
}

/// The definition of each result that the schema has one for, with parameters that show all of it.
fn results() -> Vec<(Method, Value, Definition)> {
    use Definition::{Named, Rows, Within};
    let none = json!({});
    vec![
        (Method::Health, none.clone(), Within("Snapshot", "health")),
        (Method::SystemPresence, none.clone(), Rows("PresenceEntry")),
        (Method::AgentsList, none.clone(), Named("AgentsListResult")),
        (Method::ModelsList, none.clone(), Named("ModelsListResult")),
        (Method::ConfigSchema, none.clone(), Named("ConfigSchemaResponse")),
        (Method::ConfigSchemaLookup, json!({"path": "agents.entries.*"}), Named("ConfigSchemaLookupResult")),
        (Method::ChannelsStatus, none.clone(), Named("ChannelsStatusResult")),
        (Method::ToolsCatalog, none.clone(), Named("ToolsCatalogResult")),
        (Method::ToolsEffective, json!({"sessionKey": "agent:echo:main"}), Named("ToolsEffectiveResult")),
        (Method::LogsTail, json!({"limit": 1, "cursor": 1_000_000}), Named("LogsTailResult")),
    ]
}

enum Definition {
    Named(&'static str),
    /// Of each row of an array.
    Rows(&'static str),
    /// Of a property of a definition.
    Within(&'static str, &'static str),
}

/// Checks values against definitions of the published schema.
struct Schema(Value);

impl Schema {
    fn load() -> Option<Self> {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/protocol-schema/protocol.schema.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            let missing = format!("{} is missing: scripts/protocol-schema fetches it", path.display());
            assert!(std::env::var("CI").map_or(true, |ci| ci != "true"), "{missing}");
            println!("not run: {missing}");
            return None;
        };
        Some(Self(serde_json::from_str(&text).unwrap()))
    }

    fn check(&self, definition: &Definition, value: &Value) {
        let place = match definition {
            Definition::Named(name) | Definition::Rows(name) => format!("/definitions/{name}"),
            Definition::Within(name, property) => format!("/definitions/{name}/properties/{property}"),
        };
        assert!(self.0.pointer(&place).is_some_and(Value::is_object), "{place} is not defined");
        let schema = json!({
            "$schema": self.0["$schema"], "definitions": self.0["definitions"], "$ref": format!("#{place}"),
        });
        let validator = jsonschema::validator_for(&schema).unwrap();
        let values = match definition {
            Definition::Rows(_) => value.as_array().unwrap().clone(),
            _ => vec![value.clone()],
        };
        for value in values {
            let faults: Vec<_> = validator
                .iter_errors(&value)
                .map(|fault| format!("{}: {fault}", fault.instance_path()))
                .collect();
            assert!(faults.is_empty(), "{place}: {faults:#?}\n{value:#}");
        }
    }
}

/// Every result that the schema has a definition for is what that says, in the best case and in the worst. By calling all
/// methods with a definition, with a connected client, lines in the log, a journal that failed and dead letters.
#[tokio::test]
async fn results_are_what_the_schema_says() {
    let Some(schema) = Schema::load() else { return };
    let mut fixture = Fixture::new();
    fixture.serve();
    fixture.log.write_all(b"{}\n{}\n").unwrap();
    let entry = Entry {
        mode: "cli".into(),
        roles: vec!["operator"],
        scopes: vec!["operator.read"],
        ..Entry::default()
    };
    let _seat = fixture.rpc.facts.sources.presence.join("c1", entry);
    for journal in [JournalState::Writing, JournalState::Failed] {
        fixture.board.note_journal(ShardIndex(0), journal);
        fixture.counters.publish(&Counters { sessions: 3, dead_letters: 2, ..Counters::default() });
        fixture.rpc.health.forget();
        for (method, params, definition) in results() {
            let result = fixture.call(method, params, &operator(Scopes::ALL)).await.unwrap();
            schema.check(&definition, &result);
        }
    }
}

/// What is served is advertised and documented, and nothing else is: each method has a row in the document, and is
/// answered with something else than that it is unknown.
#[tokio::test]
async fn methods_are_served_and_documented() {
    let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with("| method |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with("| `")).filter_map(|line| line.split('`').nth(1));
    let mut documented: Vec<_> = rows.collect();
    let mut fixture = Fixture::new();
    fixture.serve();
    let mut served: Vec<_> = fixture.rpc.methods().iter().map(Method::name).collect();
    documented.sort_unstable();
    served.sort_unstable();
    assert_eq!(documented, served);
    for method in fixture.rpc.methods().iter() {
        if let Err(error) = fixture.call(method, json!({}), &operator(Scopes::ALL)).await {
            let needs_params = error.message.starts_with(&format!("invalid {} params: ", method.name()));
            let needs_name = error.message.starts_with("Either key, ");
            assert!(needs_params || needs_name, "{}: {}", method.name(), error.message);
        }
    }
    let refused = {
        let params = json!({"to": "somebody", "idempotencyKey": "k"});
        fixture.call(Method::Send, params, &operator(Scopes::ALL)).await.unwrap_err()
    };
    assert_eq!(refused.message, "unknown method: send");
}

/// Health tells that the gateway is well only while it is, its version counts the changes of that and not of numbers,
/// and it is made anew only after a while. By a gateway whose journal fails, and that goes down.
#[test]
fn health_is_as_the_gateway_is() {
    let fixture = Fixture::new();
    let health = || fixture.at_once(Method::Health, &json!({"probe": true})).unwrap();
    let version = || fixture.rpc.state_version().health;
    let well = health();
    assert_eq!((&well["ok"], &well["sessions"]["count"], version()), (&json!(true), &json!(0), 1));
    fixture.counters.publish(&Counters { sessions: 7, ..Counters::default() });
    assert_eq!(health(), well, "it is kept for a while");
    fixture.rpc.health.forget();
    assert_eq!((&health()["sessions"]["count"], version()), (&json!(7), 1));
    fixture.draining.store(true, Ordering::Relaxed);
    fixture.rpc.health.forget();
    assert_eq!((&health()["ok"], version()), (&Value::Null, 2));
    fixture.draining.store(false, Ordering::Relaxed);
    fixture.board.note_journal(ShardIndex(0), JournalState::Full);
    fixture.rpc.health.forget();
    assert_eq!((&health()["ok"], version()), (&Value::Null, 3));
    fixture.board.note_journal(ShardIndex(0), JournalState::Writing);
    fixture.counters.publish(&Counters { dead_letters: 2, ..Counters::default() });
    fixture.rpc.health.forget();
    let letters = json!({"failed": [{"queueName": "dead-letters", "count": 2}]});
    assert_eq!((&health()["deliveryQueues"], &health()["ok"], version()), (&letters, &json!(true), 4));
}

/// Status counts what shards have counted, and takes what the official command line sends along.
#[tokio::test]
async fn status_tells_numbers() {
    let mut fixture = Fixture::new();
    fixture.serve();
    fixture.counters.publish(&Counters {
        sessions: 3,
        turns_open: 5,
        messages_queued: 2,
        replies_completed: 10,
        messages_failed: 1,
        ..Counters::default()
    });
    let params = json!({"includeChannelSummary": false, "includeCliProjection": true});
    let status = fixture.call(Method::Status, params, &operator(Scopes::ALL)).await.unwrap();
    let tasks = &status["tasks"];
    assert_eq!((&tasks["total"], &tasks["active"], &tasks["failures"]), (&json!(16), &json!(5), &json!(1)));
    assert_eq!((&tasks["byStatus"]["queued"], &tasks["byStatus"]["running"]), (&json!(2), &json!(3)));
    assert_eq!((&status["sessions"]["live"], &status["sessions"]["count"]), (&json!(3), &json!(0)));
    assert_eq!(status["pid"], std::process::id());
    assert!(status["processMemory"]["rssBytes"].as_u64().unwrap() > 0);
}

/// An agent is named by its id, by the key of a session, or not at all; one that is not there is named back.
#[test]
fn agents_are_named() {
    let fixture = Fixture::new();
    let tools = |params: Value| {
        let told = fixture.at_once(Method::ToolsEffective, &params);
        told.map(|told| told["agentId"].as_str().unwrap().to_owned()).map_err(|error| error.message)
    };
    assert_eq!(tools(json!({"sessionKey": "main"})), Ok("coder".to_owned()));
    assert_eq!(tools(json!({"sessionKey": "agent:echo:main"})), Ok("echo".to_owned()));
    assert_eq!(tools(json!({"sessionKey": "agent:echo:main", "agentId": "coder"})), Ok("coder".to_owned()));
    let unknown = "unknown agent id \"nobody\"".to_owned();
    assert_eq!(tools(json!({"sessionKey": "agent:nobody:main"})), Err(unknown.into()));
    let list = fixture.at_once(Method::AgentsList, &json!({})).unwrap();
    assert_eq!((&list["defaultId"], &list["agents"][1]["id"]), (&json!("coder"), &json!("echo")));
}

/// The skills of an agent are those that its configuration names, told in the form of the official command line.
#[tokio::test]
async fn skills_are_those_of_the_configuration() {
    let mut fixture = Fixture::new();
    fixture.serve();
    let told = fixture.call(Method::SkillsStatus, json!({"agentId": "coder"}), &operator(Scopes::ALL)).await;
    let told = told.unwrap();
    let names: Vec<_> = told["skills"].as_array().unwrap().iter().map(|skill| &skill["name"]).collect();
    assert_eq!(names, ["rust", "sql"]);
    assert_eq!(
        (&told["skills"][0]["eligible"], &told["skills"][0]["missing"]["bins"]),
        (&json!(true), &json!([]))
    );
}

/// Beyond as many calls as may wait, a call is refused at once and told when to come again; after the end of the gateway
/// too. By calls that nobody serves.
#[test]
fn calls_that_wait_are_bounded() {
    let mut fixture = Fixture::new();
    let ask = |fixture: &Fixture| fixture.ask(Method::LogsTail, &json!({}), &operator(Scopes::ALL));
    let waiting: Vec<_> = (0..CALLS_MAX).map(|_| ask(&fixture)).collect();
    assert!(waiting.iter().all(|answer| answer.try_recv().is_err()));
    let refused = ask(&fixture).try_recv().unwrap().unwrap_err();
    assert_eq!(
        (refused.code, refused.retryable, refused.retry_after_ms),
        (RpcCode::Unavailable, true, Some(100))
    );
    fixture.unserved = None;
    let refused = ask(&fixture).try_recv().unwrap().unwrap_err();
    assert_eq!((refused.code, refused.retryable), (RpcCode::Unavailable, true));
    assert!(waiting.iter().all(|answer| answer.recv().unwrap().is_err()), "no call hangs");
}

/// The log is told as the protocol says, from a cursor on.
#[tokio::test]
async fn the_log_is_told_from_a_cursor_on() {
    let mut fixture = Fixture::new();
    fixture.serve();
    fixture.log.write_all(b"{\"a\":1}\n{\"a\":2}\n").unwrap();
    let admin = operator(Scopes::ALL);
    let tail = |params| fixture.call(Method::LogsTail, params, &admin);
    let first = tail(json!({"limit": 1})).await.unwrap();
    assert_eq!((&first["lines"], &first["truncated"]), (&json!(["{\"a\":2}"]), &json!(true)));
    let next = tail(json!({"cursor": first["cursor"]})).await.unwrap();
    assert_eq!((&next["lines"], &next["cursor"]), (&json!([]), &first["size"]));
}

/// A caller with a device sees and decides on itself only, unless it is an admin; the token of another device is not
/// told. By two devices, and callers of each kind.
#[tokio::test]
async fn a_device_decides_on_itself_only() {
    let mut fixture = Fixture::new();
    fixture.serve();
    let pairing: Scopes = [Scope::Pairing, Scope::Read].into_iter().collect();
    let [one, other] = DEVICES.map(|id| Identity { device: Some(device_id(id)), ..operator(pairing) });
    let admin = operator(Scopes::ALL);
    let call = async |method, params, caller: &Identity| fixture.call(method, params, caller).await;
    let seen = async |caller: &Identity| {
        let list = call(Method::DevicePairList, json!({}), caller).await.unwrap();
        list["paired"].as_array().unwrap().len()
    };
    assert_eq!((seen(&one).await, seen(&admin).await, seen(&operator(pairing)).await), (1, 2, 2));
    let name = |caller: &Identity| caller.device.as_ref().unwrap().as_str().to_owned();
    let rotate = json!({"deviceId": name(&other), "role": "operator"});
    let denied = call(Method::DeviceTokenRotate, rotate.clone(), &one).await.unwrap_err();
    assert_eq!((denied.code, &*denied.message), (RpcCode::InvalidRequest, "device.token.rotate denied"));
    let remove = json!({"deviceId": "nobody"});
    let denied = call(Method::DevicePairRemove, remove, &one).await.unwrap_err();
    assert_eq!(denied.message, "device.pair.remove denied", "it is not told whether there is such a device");
    let withheld = call(Method::DeviceTokenRotate, rotate.clone(), &admin).await.unwrap();
    assert_eq!(
        (&withheld["tokenDelivery"], &withheld["token"]),
        (&json!("withheld-cross-device"), &Value::Null)
    );
    let own = call(Method::DeviceTokenRotate, rotate, &other).await.unwrap();
    assert_eq!(own["tokenDelivery"], "in-band");
    assert!(own["token"].as_str().is_some_and(|token| token.len() >= 32));
    if let Some(schema) = Schema::load() {
        let rotated = Definition::Named("DeviceTokenRotateResult");
        schema.check(&rotated, &own);
        schema.check(&rotated, &withheld);
    }
    let node = json!({"deviceId": name(&one), "role": "node"});
    let denied = call(Method::DeviceTokenRevoke, node, &one).await.unwrap_err();
    assert_eq!(denied.message, "device.token.revoke denied", "roles of nodes are for admins");
    let renamed =
        call(Method::DevicePairRename, json!({"deviceId": name(&one), "label": "mine"}), &one).await;
    assert_eq!(renamed.unwrap()["label"], "mine");
}
