//! Compares what the gateway says in the OpenClaw protocol, and what it understands, with the published schema.
//!
//! `scripts/protocol-schema` fetches it. Where it is not there the tests say that they did not run; under `CI=true`
//! they fail.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use adapters::access::devices::Devices;
use adapters::access::login::PairingNews;
use adapters::access::scopes::{Scope, Scopes};
use adapters::access::secret::Secret;
use adapters::access::{Access, AccessSettings, AuthMode, Identity, Peer, Role};
use adapters::openclaw::backend::{Answer, Backend, OwnedCall};
use adapters::openclaw::conversation::{Conversation, Heard};
use adapters::openclaw::event::{EventName, EventSet, StateVersion};
use adapters::openclaw::method::{Method, MethodSet, Need};
use adapters::openclaw::params::{Params, Presence, rules};
use adapters::openclaw::run::{Run, RunEvent};
use adapters::openclaw::surroundings::{Limits, Phase, Surroundings};
use adapters::openclaw::{devices, frame, runs};
use adapters::refusal::RpcError;
use jsonschema::Validator;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use shm_transport::envelope::{BlockType, FailureCode};

const NOW_MS: u64 = 1_795_241_982_744;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The published schema, and validators of its definitions as they are asked for.
struct Schema {
    root: Value,
    validators: HashMap<String, Validator>,
}

impl Schema {
    /// `None` where it was not fetched, which is said.
    fn load() -> Option<Self> {
        let path = tests::workspace().join("target/protocol-schema/protocol.schema.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            let missing = format!("{} is missing: scripts/protocol-schema fetches it", path.display());
            assert!(std::env::var("CI").map_or(true, |ci| ci != "true"), "{missing}");
            println!("not run: {missing}");
            return None;
        };
        let root = serde_json::from_str(&text).expect("the schema is JSON");
        Some(Self { root, validators: HashMap::new() })
    }

    /// Fails if a value is not what a definition says.
    fn check(&mut self, definition: &str, value: &Value) {
        let root = &self.root;
        let validator = self.validators.entry(definition.to_owned()).or_insert_with(|| {
            assert!(root["definitions"][definition].is_object(), "{definition} is not defined");
            let mut schema = json!({ "$ref": format!("#/definitions/{definition}") });
            schema["$schema"] = root["$schema"].clone();
            schema["definitions"] = root["definitions"].clone();
            jsonschema::validator_for(&schema).expect("the schema is valid")
        });
        let faults: Vec<String> =
            validator.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        assert!(faults.is_empty(), "{value} is no {definition}:\n{}", faults.join("\n"));
    }

    /// Fails if a frame, or what it carries, is not what the schema says.
    fn check_frame(&mut self, text: &[u8]) -> Value {
        let frame: Value = serde_json::from_slice(text).expect("a frame is JSON");
        let payload = &frame["payload"];
        match (frame["type"].as_str(), frame["event"].as_str()) {
            (Some("res"), None) => {
                self.check("ResponseFrame", &frame);
                if frame["ok"] == json!(false) {
                    self.check("ErrorShape", &frame["error"]);
                }
                if payload["type"] == json!("hello-ok") {
                    self.check("HelloOk", payload);
                }
                let details = &frame["error"]["details"];
                if details["code"] == json!("MISSING_SCOPE") {
                    self.check("MissingScopeErrorDetails", details);
                }
            }
            (Some("event"), Some(event)) => {
                self.check("EventFrame", &frame);
                self.check_event(event, payload);
            }
            other => panic!("neither a response nor an event: {other:?}"),
        }
        frame
    }

    fn check_event(&mut self, event: &str, payload: &Value) {
        match event {
            "tick" => self.check("TickEvent", payload),
            "shutdown" => self.check("ShutdownEvent", payload),
            "chat" => self.check("ChatEvent", payload),
            "device.pair.requested" => self.check("DevicePairRequestedEvent", payload),
            "device.pair.resolved" => self.check("DevicePairResolvedEvent", payload),
            "agent" => {
                // The incumbent's own events name session and agent, which its schema has no place for: clients need
                // them to tell sessions apart.
                let mut payload = payload.clone();
                let fields = payload.as_object_mut().expect("an object");
                assert!(fields.remove("sessionKey").is_some() && fields.remove("agentId").is_some());
                self.check("AgentEvent", &payload);
            }
            // No definition of their own.
            "connect.challenge" | "device.pair.changed" => {}
            other => panic!("no definition is known for the event {other}"),
        }
    }
}

#[derive(Debug)]
struct TestBackend;

impl Backend for TestBackend {
    fn methods(&self) -> MethodSet {
        MethodSet::of(Method::ALL)
    }

    fn call(&self, _: OwnedCall, answer: Answer) {
        answer.give(Ok(b"{}".to_vec()));
    }

    fn health(&self) -> Vec<u8> {
        json!({ "ok": true, "ts": NOW_MS, "durationMs": 0 }).to_string().into_bytes()
    }

    fn presence(&self) -> Vec<u8> {
        json!([{ "ts": NOW_MS, "host": "h", "mode": "gateway", "reason": "self", "text": "" }])
            .to_string()
            .into_bytes()
    }

    fn state_version(&self) -> StateVersion {
        StateVersion { presence: 1, health: 2 }
    }
}

/// A connection, whose every frame is compared with the schema.
struct Rig<'a> {
    schema: &'a mut Schema,
    access: &'a Access,
    peer: Peer,
    phase: Phase,
    conversation: Conversation,
}

impl<'a> Rig<'a> {
    fn new(schema: &'a mut Schema, access: &'a Access, source: [u8; 4]) -> Self {
        let source = IpAddr::V4(Ipv4Addr::from(source));
        let peer = Peer { source, is_proxied: false, is_browser: false };
        let conversation = Conversation::new("nonce".to_owned(), NOW_MS);
        Self { schema, access, peer, phase: Phase::Running, conversation }
    }

    /// What comes of a frame: null where that is nothing.
    fn say(&mut self, text: &str) -> Value {
        let surroundings = Surroundings {
            phase: self.phase,
            version: "1.0.0",
            boot_id: "boot",
            connection_id: "connection",
            uptime_ms: 1,
            default_agent: "main",
            edge_methods: MethodSet::NONE,
            events: EventSet::of(EventName::ALL),
            config_path: Some("/etc/openclaw.json"),
            state_folder: Some("/var/lib/openclaw"),
            limits: Limits {
                payload_bytes_max: 1 << 20,
                buffered_bytes_max: 1 << 18,
                tick_interval_ms: 30_000,
                attachment_bytes_max: 1 << 20,
                image_bytes_max: 1 << 20,
            },
            backend: &TestBackend,
        };
        let mut out = Vec::new();
        let heard = self.conversation.hear(text, &self.peer, self.access, &surroundings, NOW_MS, &mut out);
        if let Heard::Call(call) = heard {
            frame::write_result(&mut out, &call.id, b"{}");
        }
        if out.is_empty() { Value::Null } else { self.schema.check_frame(&out) }
    }
}

fn access() -> Access {
    let settings = AccessSettings::new(AuthMode::Token, Secret::new(TOKEN).ok()).expect("settings");
    Access::new(&settings, Devices::in_memory()).expect("random numbers")
}

fn request(method: &str, params: &Value) -> String {
    json!({ "type": "req", "id": "1", "method": method, "params": params }).to_string()
}

fn connect(client: (&str, &str), changes: &Value) -> String {
    let mut params = json!({
        "minProtocol": 4,
        "maxProtocol": 4,
        "client": { "id": client.0, "version": "1", "platform": "linux", "mode": client.1 },
        "scopes": ["operator.admin"],
        "auth": { "token": TOKEN },
    });
    for (name, value) in changes.as_object().expect("an object") {
        params[name] = value.clone();
    }
    request("connect", &params)
}

/// The `device` of a handshake of the command line, signed as it signs.
fn device() -> Value {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
    let key = pair.public_key().as_ref();
    let digest = ring::digest::digest(&ring::digest::SHA256, key);
    let id: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let signed = format!("v3|{id}|cli|cli|operator|operator.admin|{NOW_MS}|{TOKEN}|nonce|linux|");
    let signature = pair.sign(signed.as_bytes());
    json!({
        "id": id,
        "publicKey": base64url(key),
        "signature": base64url(signature.as_ref()),
        "signedAt": NOW_MS,
        "nonce": "nonce",
    })
}

fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let letter = |at: usize| (0..6).fold(0, |value, offset| value << 1 | bit(at + offset));
    (0..bytes.len() * 8).step_by(6).map(|at| char::from(LETTERS[usize::from(letter(at))])).collect()
}

/// Every answer to a handshake is as the schema says: let in or refused, for each reason. One row each.
#[test]
fn handshakes_are_valid() {
    let Some(schema) = &mut Schema::load() else { return };
    let cli = ("cli", "cli");
    let rows = [
        (connect(cli, &json!({})), "ok"),
        (connect(("cli", "probe"), &json!({ "minProtocol": 3 })), "ok"),
        (connect(cli, &json!({ "device": device() })), "ok"),
        (connect(cli, &json!({ "auth": { "token": "guess" } })), "unauthorized: gateway token mismatch"),
        (connect(cli, &json!({ "auth": {} })), "device identity required"),
        (connect(cli, &json!({ "role": "node" })), "device identity required"),
        (connect(("openclaw-control-ui", "ui"), &json!({})), "control ui requires device identity"),
        (connect(cli, &json!({ "minProtocol": 9, "maxProtocol": 9 })), "protocol mismatch"),
        (
            connect(cli, &json!({ "nothing": 1 })),
            "invalid connect params: at root: unexpected property 'nothing'",
        ),
        (request("health", &json!({})), "invalid handshake: first request must be connect"),
    ];
    for (text, expected) in rows {
        let access = access();
        let mut rig = Rig::new(schema, &access, [127, 0, 0, 1]);
        let mut challenge = Vec::new();
        rig.conversation.challenge(&mut challenge);
        rig.schema.check_frame(&challenge);
        let answer = rig.say(&text);
        let found = answer["error"]["message"].as_str().unwrap_or("ok");
        assert_eq!(found, expected);
    }
    let access = access();
    let mut rig = Rig { phase: Phase::Starting, ..Rig::new(schema, &access, [127, 0, 0, 1]) };
    assert_eq!(rig.say(&connect(cli, &json!({})))["error"]["code"], json!("UNAVAILABLE"));
    let mut rig = Rig::new(schema, &access, [127, 0, 0, 1]);
    let guess = connect(cli, &json!({ "auth": { "token": "guess" } }));
    let last = (0..6).map(|_| rig.say(&guess)).last().expect("answers");
    assert_eq!(last["error"]["details"]["code"], json!("AUTH_RATE_LIMITED"));
}

/// What is answered to requests, and told of devices, is as the schema says. By letting a device wait, and deciding.
#[test]
fn answers_and_devices_are_valid() {
    let Some(schema) = &mut Schema::load() else { return };
    let access = access();
    let mut rig = Rig::new(schema, &access, [192, 0, 2, 1]);
    let answer = rig.say(&connect(("cli", "cli"), &json!({ "device": device() })));
    assert_eq!(answer["error"]["code"], json!("NOT_PAIRED"));
    let news = rig.conversation.take_news().expect("a device waits");
    let PairingNews::Requested(pending) = &news else { panic!("{news:?}") };
    let asker = Identity { role: Role::Operator, scopes: Scopes::ALL, device: None, generation: 1 };
    let mut told = vec![devices::event(&news, NOW_MS)];
    let mut serve = |method: Method, params: Value| {
        let raw = serde_json::value::to_raw_value(&params).expect("JSON");
        let fields = Params::of(method, Some(&raw)).expect("valid");
        let served = devices::serve(&access, method, &fields, &asker, NOW_MS).expect("one of these");
        let (value, news) = served.expect("done");
        told.extend(news.map(|news| devices::event(&news, NOW_MS)));
        value
    };
    serve(Method::DevicePairApprove, json!({ "requestId": pending.request_id }));
    let id = pending.wish.id.as_str();
    let rotated = serve(Method::DeviceTokenRotate, json!({ "deviceId": id, "role": "operator" }));
    schema.check("DeviceTokenRotateResult", &rotated);

    let mut rig = Rig::new(schema, &access, [127, 0, 0, 1]);
    rig.say(&connect(("cli", "probe"), &json!({})));
    for (event, payload) in told {
        let mut out = Vec::new();
        rig.conversation.write_event(&mut out, event, payload.to_string().as_bytes(), None);
        rig.schema.check_frame(&out);
    }
    for text in [
        request("status", &json!({})),
        request("no.such.method", &json!({})),
        request("health", &json!({ "x": 1 })),
        "[]".to_owned(),
        r#"{"type":"req","id":"","method":"health"}"#.to_owned(),
    ] {
        assert_eq!(rig.say(&text)["ok"], json!(false), "{text}");
    }
    assert_eq!(rig.say(&request("health", &json!({})))["ok"], json!(true));
}

/// What a run becomes is as the schema says, whichever way it ends. By ending it in each way, after all kinds of blocks.
#[test]
fn runs_are_valid() {
    let Some(schema) = &mut Schema::load() else { return };
    let mut kinds = BTreeSet::new();
    for code in FailureCode::ALL.iter().copied().map(Some).chain([None]) {
        let mut told: Vec<(EventName, Vec<u8>)> = Vec::new();
        let mut sink = |event: RunEvent<'_>| told.push((event.event, event.payload.to_vec()));
        let mut run = Run::new("k".to_owned(), "agent:main:main".to_owned(), "main".to_owned(), NOW_MS);
        run.start(NOW_MS, &mut sink);
        for (number, &block) in BlockType::ALL.iter().enumerate() {
            run.block(block, "\"words\"\n", NOW_MS + 100 * number as u64, &mut sink);
        }
        run.restart();
        run.block(BlockType::Text, "again", NOW_MS + 5_000, &mut sink);
        match code {
            Some(code) => drop(run.fail(code, "why", NOW_MS + 6_000, &mut sink)),
            None => drop(run.end(".", NOW_MS + 6_000, &mut sink)),
        }
        for (event, payload) in told {
            let mut out = Vec::new();
            frame::write_event(&mut out, event, &payload, Some(1), None);
            let frame = schema.check_frame(&out);
            let kind = &frame["payload"][if event == EventName::Chat { "state" } else { "stream" }];
            kinds.insert(kind.as_str().expect("a kind").to_owned());
        }
    }
    let expected = ["aborted", "assistant", "block", "delta", "error", "final", "lifecycle", "tool"];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// Events and errors that the gateway tells of itself are as the schema says.
#[test]
fn single_frames_are_valid() {
    let Some(schema) = &mut Schema::load() else { return };
    let version = Some(StateVersion { presence: 1, health: 2 });
    let events = [
        (EventName::Tick, json!({ "ts": NOW_MS }), None),
        (EventName::Tick, json!({ "ts": NOW_MS }), version),
        (EventName::Shutdown, json!({ "reason": "restart", "restartExpectedMs": 100 }), None),
    ];
    for (event, payload, version) in events {
        let mut out = Vec::new();
        frame::write_event(&mut out, event, payload.to_string().as_bytes(), Some(1), version);
        schema.check_frame(&out);
    }
    let failures = FailureCode::ALL.iter().map(|&code| RpcError::of_failure(code, "why", 5));
    let scopes = Scope::ALL.iter().map(|&scope| RpcError::missing_scope(scope));
    for error in
        failures.chain(scopes).chain([runs::conflict(), runs::full(), RpcError::wrong_role(Role::Node)])
    {
        let mut out = Vec::new();
        frame::write_error(&mut out, "an \"id\"", &error);
        assert_eq!(schema.check_frame(&out)["error"]["code"], json!(error.code.name()));
    }
}

/// The one method that is not in the schema: no published client calls it.
const OURS: Method = Method::ChatResume;

/// Methods are those of the schema, with their scopes. `connect` is no call, and `health` is for all who are let in.
#[test]
fn methods_are_those_of_the_schema() {
    let Some(schema) = Schema::load() else { return };
    for &method in Method::ALL.iter().filter(|&&method| method != OURS) {
        let published = &schema.root["methods"][method.name()]["scope"];
        let expected = match (method, method.need()) {
            (Method::Connect | Method::Health, Need::Nothing) => continue,
            (_, Need::Nothing) => Value::Null,
            (_, Need::Scope(scope)) => json!(scope.name()),
            (_, Need::AdminForSome(_)) => json!("dynamic"),
        };
        assert_eq!(published, &expected, "{}", method.name());
    }
}

/// The tables of parameters know every field that the schema knows, and ask for those that it asks for. Methods whose
/// parameters the schema does not define are named here.
#[test]
fn parameters_are_those_of_the_schema() {
    let Some(schema) = Schema::load() else { return };
    let undefined = ["health", "last-heartbeat", "sessions.subscribe", "status", "system-presence"];
    for &method in Method::ALL.iter().filter(|&&method| method != OURS) {
        let mut words = method.name().split(['.', '-']).map(|word| {
            let (first, rest) = word.split_at(1);
            format!("{}{rest}", first.to_uppercase())
        });
        let definition = format!("{}Params", words.by_ref().collect::<String>());
        let published = &schema.root["definitions"][&definition];
        if undefined.contains(&method.name()) {
            assert!(published.is_null(), "{definition} is defined by now");
            continue;
        }
        let table = rules::of(method);
        let fields = published["properties"].as_object().unwrap_or_else(|| panic!("{definition} is missing"));
        for name in fields.keys() {
            assert!(table.iter().any(|field| field.name == name), "{definition} knows {name}");
        }
        let required: BTreeSet<&str> =
            published["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let ours = table.iter().filter(|field| field.presence == Presence::Required);
        assert_eq!(ours.map(|field| field.name).collect::<BTreeSet<_>>(), required, "{definition}");
        assert_eq!(published["additionalProperties"], json!(false), "{definition} is closed");
    }
}

/// The closed lists of programs and modes are those of the schema.
#[test]
fn clients_are_those_of_the_schema() {
    let Some(schema) = Schema::load() else { return };
    let client = &schema.root["definitions"]["ConnectParams"]["properties"]["client"]["properties"];
    assert_eq!(client["id"]["enum"], json!(rules::CLIENT_IDS));
    assert_eq!(client["mode"]["enum"], json!(rules::CLIENT_MODES));
}
