//! What a conversation comes to, frame by frame: a connection with everything around it.

mod handshake;
mod open;

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::*;
use crate::access::devices::Devices;
use crate::access::proof::tests::TestDevice;
use crate::access::secret::Secret;
use crate::access::{AccessSettings, AuthMode};
use crate::openclaw::backend::{Answer, Backend, OwnedCall};
use crate::openclaw::event::EventSet;
use crate::openclaw::surroundings::Limits;

const NOW_MS: u64 = 1_795_241_982_744;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const HERE: Peer = Peer { source: IpAddr::V4(Ipv4Addr::LOCALHOST), is_proxied: false, is_browser: false };
const AWAY: Peer = Peer { source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), ..HERE };

#[derive(Debug)]
struct TestBackend;

impl Backend for TestBackend {
    fn methods(&self) -> MethodSet {
        MethodSet::of(&[
            Method::Health,
            Method::Status,
            Method::SessionsCreate,
            Method::SessionsDelete,
            Method::ConfigApply,
        ])
    }

    fn call(&self, _: OwnedCall, answer: Answer) {
        answer.give(Ok(b"{}".to_vec()));
    }

    fn health(&self) -> Vec<u8> {
        br#"{"ok":true,"ts":1}"#.to_vec()
    }

    fn presence(&self) -> Vec<u8> {
        br#"[{"ts":1,"mode":"gateway"}]"#.to_vec()
    }

    fn state_version(&self) -> StateVersion {
        StateVersion { presence: 3, health: 4 }
    }
}

/// A connection, with what is around it.
struct Rig {
    access: Access,
    phase: Phase,
    peer: Peer,
    conversation: Conversation,
    now_ms: u64,
}

/// What came of a frame, without what it borrows.
#[derive(PartialEq, Debug)]
enum Got {
    Answered,
    Welcomed,
    Call(Method),
    Close(u16, &'static str),
}

impl Rig {
    fn new() -> Self {
        Self::with(AuthMode::Token, HERE)
    }

    fn with(mode: AuthMode, peer: Peer) -> Self {
        let secret = (mode != AuthMode::None).then(|| Secret::new(TOKEN).expect("a secret"));
        let settings = AccessSettings::new(mode, secret).expect("settings");
        let access = Access::new(&settings, Devices::in_memory()).expect("access");
        let conversation = Conversation::new("nonce".to_owned(), NOW_MS);
        Self { access, phase: Phase::Running, peer, conversation, now_ms: NOW_MS }
    }

    /// A client with these scopes.
    fn open(scopes: &[&str]) -> Self {
        let mut rig = Self::new();
        let (got, _) = rig.say(&connect(&json!({ "scopes": scopes })));
        assert_eq!(got, Got::Welcomed);
        rig
    }

    fn say(&mut self, text: &str) -> (Got, Value) {
        let surroundings = Surroundings {
            phase: self.phase,
            version: "1.2.3",
            boot_id: "boot",
            connection_id: "conn",
            uptime_ms: 7,
            default_agent: "pi",
            edge_methods: MethodSet::of(&[Method::ChatSend, Method::Agent]),
            events: EventSet::of(&[EventName::Tick, EventName::Chat]),
            config_path: Some("/etc/openclaw.json"),
            state_folder: None,
            limits: Limits {
                payload_bytes_max: 1,
                buffered_bytes_max: 2,
                tick_interval_ms: 3,
                attachment_bytes_max: 4,
                image_bytes_max: 5,
            },
            backend: &TestBackend,
        };
        let mut out = Vec::new();
        let heard =
            self.conversation.hear(text, &self.peer, &self.access, &surroundings, self.now_ms, &mut out);
        let got = match heard {
            Heard::Answered => Got::Answered,
            Heard::Welcomed => Got::Welcomed,
            Heard::Call(call) => Got::Call(call.method),
            Heard::Close(reason) => {
                let (code, text) = reason.parts().expect("a close frame");
                Got::Close(code, text)
            }
        };
        let out = if out.is_empty() { Value::Null } else { serde_json::from_slice(&out).expect("JSON") };
        (got, out)
    }

    /// The message of the error that a frame comes to.
    fn error(&mut self, text: &str) -> (Got, String) {
        let (got, out) = self.say(text);
        (got, out["error"]["message"].as_str().unwrap_or_default().to_owned())
    }
}

fn request(method: &str, params: &Value) -> String {
    json!({ "type": "req", "id": "7", "method": method, "params": params }).to_string()
}

/// The minimal connect of a program of this machine, with some parameters set otherwise, or taken away by null.
fn connect(changes: &Value) -> String {
    let mut params = json!({
        "minProtocol": 4,
        "maxProtocol": 4,
        "client": { "id": "gateway-client", "version": "1.0.0", "platform": "linux", "mode": "backend" },
        "auth": { "token": TOKEN },
    });
    let fields = params.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            fields.remove(name)
        } else {
            fields.insert(name.clone(), value.clone())
        };
    }
    request("connect", &params)
}

/// A signed connect. `changes` is applied to the device after it has signed.
fn signed(version: &str, token: &str, changes: &Value) -> String {
    let device = TestDevice::new(9);
    let id = device.id();
    let common = format!("{id}|cli|ui|operator|operator.read,operator.admin|{NOW_MS}|{token}|nonce");
    let payload = match version {
        "v3" => format!("v3|{common}|macos|mac"),
        _ => format!("{version}|{common}"),
    };
    let mut shown = json!({
        "id": id,
        "publicKey": device.public_key(),
        "signature": device.sign(&payload),
        "signedAt": NOW_MS,
        "nonce": "nonce",
    });
    for (name, value) in changes.as_object().expect("an object") {
        shown[name] = value.clone();
    }
    connect(&json!({
        "client": { "id": "cli", "version": "1", "platform": " MacOS ", "mode": "ui", "deviceFamily": "Mac" },
        "scopes": ["operator.read", "operator.admin"],
        "auth": { "token": token },
        "device": shown,
    }))
}
