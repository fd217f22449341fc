//! Any text frame of a client of the OpenClaw protocol, before the handshake and after it: an answer that is JSON, a
//! call whose parameters are within their rules, or a close; and no client is let in that has not shown the secret.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use adapters::access::devices::Devices;
use adapters::access::secret::Secret;
use adapters::access::{Access, AccessSettings, AuthMode, Peer};
use adapters::openclaw::backend::{Answer, Backend, OwnedCall};
use adapters::openclaw::conversation::{Conversation, Heard};
use adapters::openclaw::event::{EventName, EventSet, StateVersion};
use adapters::openclaw::method::{Method, MethodSet};
use adapters::openclaw::surroundings::{Limits, Phase, Surroundings};
use adapters::openclaw::turn::Turn;
use libfuzzer_sys::fuzz_target;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const CONNECT: &str = concat!(
    r#"{"type":"req","id":"1","method":"connect","params":{"minProtocol":4,"maxProtocol":4,"#,
    r#""client":{"id":"cli","version":"1","platform":"x","mode":"cli"},"scopes":["operator.admin"],"#,
    r#""auth":{"token":"0123456789abcdef0123456789abcdef"}}}"#,
);

static ACCESS: LazyLock<Access> = LazyLock::new(|| {
    let settings = AccessSettings::new(AuthMode::Token, Secret::new(TOKEN).ok()).expect("settings");
    Access::new(&settings, Devices::in_memory()).expect("random numbers")
});

#[derive(Debug)]
struct AnyBackend;

impl Backend for AnyBackend {
    fn methods(&self) -> MethodSet {
        MethodSet::of(Method::ALL)
    }

    fn call(&self, _: OwnedCall, _: Answer) {}

    fn health(&self) -> Vec<u8> {
        b"{}".to_vec()
    }

    fn presence(&self) -> Vec<u8> {
        b"[]".to_vec()
    }

    fn state_version(&self) -> StateVersion {
        StateVersion::default()
    }
}

fuzz_target!(|text: &str| {
    let mut conversation = Conversation::new("nonce".to_owned(), 1);
    hear(&mut conversation, text);
    assert!(conversation.identity().is_none() || text.contains(TOKEN) || text.contains('\\'), "let in by {text}");

    let mut conversation = Conversation::new("nonce".to_owned(), 1);
    hear(&mut conversation, CONNECT);
    assert!(conversation.identity().is_some());
    hear(&mut conversation, text);
});

fn hear(conversation: &mut Conversation, text: &str) {
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let peer = Peer { source, is_proxied: false, is_browser: false };
    let surroundings = Surroundings {
        phase: Phase::Running,
        version: "1",
        boot_id: "b",
        connection_id: "c",
        uptime_ms: 1,
        default_agent: "main",
        edge_methods: MethodSet::NONE,
        events: EventSet::of(EventName::ALL),
        config_path: None,
        state_folder: None,
        limits: Limits {
            payload_bytes_max: 1,
            buffered_bytes_max: 1,
            tick_interval_ms: 1,
            attachment_bytes_max: 1,
            image_bytes_max: 1,
        },
        backend: &AnyBackend,
    };
    let mut out = Vec::new();
    match conversation.hear(text, &peer, &ACCESS, &surroundings, 1, &mut out) {
        Heard::Call(call) => {
            assert!(out.is_empty());
            if matches!(call.method, Method::ChatSend | Method::SessionsSend | Method::Agent)
                && let Ok(turn) = Turn::of(&call, "main")
            {
                assert!(turn.session_key.starts_with("agent:") && !turn.agent.is_empty());
            }
        }
        Heard::Answered | Heard::Welcomed | Heard::Close(_) => {}
    }
    if !out.is_empty() {
        let frame: serde_json::Value = serde_json::from_slice(&out).expect("an answer is JSON");
        assert_eq!(frame["type"], "res");
    }
}
