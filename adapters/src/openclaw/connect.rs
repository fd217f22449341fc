//! The handshake: what a client says of itself, and what it signs.

use crate::access::devices::{Description, TEXT_BYTES_MAX};
use crate::access::login::{Admission, ClientClass, Login, LoginRefusal, PairingNews};
use crate::access::proof::Proof;
use crate::access::scopes::Scope;
use crate::access::{Access, Peer, Role};
use crate::refusal::{CloseReason, RpcError, of_login};

use super::params::{Params, rules};
use super::presence::Entry;

/// The version of the protocol.
pub const PROTOCOL: u64 = 4;
/// The version that probes and nodes may still speak.
pub const PROTOCOL_MIN: u64 = 3;

/// The capability of clients that resume sessions.
pub const PLACES_CAP: &str = "openclaw-resume";

/// What a client wants to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Caps {
    /// What tools do in runs.
    pub tool_events: bool,
    /// Only of sessions that it has subscribed to.
    pub session_scoped_events: bool,
    /// Where events stand in the streams of their sessions. Ours: no published client knows it.
    pub places: bool,
}

/// A client that was let in by the handshake.
#[derive(Debug)]
pub(super) struct Connected {
    pub protocol: u64,
    pub caps: Caps,
    pub admission: Admission,
    /// For the list of those connected.
    pub entry: Entry,
}

/// Why it was not, and how its connection ends.
#[derive(Debug)]
pub(super) struct Refused {
    pub error: RpcError,
    pub reason: CloseReason,
    pub news: Option<Box<PairingNews>>,
}

impl Refused {
    fn new(error: RpcError, reason: CloseReason) -> Self {
        Self { error, reason, news: None }
    }
}

/// Judges the parameters of `connect`, which satisfy its rules.
pub(super) fn connect(
    params: &Params<'_>,
    nonce: &str,
    access: &Access,
    peer: &Peer,
    now_ms: u64,
) -> Result<Connected, Refused> {
    let client = params.object("client", rules::CLIENT).unwrap_or_default();
    let mode = client.text("mode").unwrap_or_default();
    let role_name = params.text("role").unwrap_or("operator".into());
    let protocol = protocol(params, &mode, &role_name)?;
    let role = Role::from_name(&role_name)
        .ok_or_else(|| Refused::new(RpcError::invalid("invalid role"), CloseReason::BadHandshake))?;
    let auth = params.object("auth", rules::AUTH).unwrap_or_default();
    let [token, password, device_token, bootstrap_token] =
        ["token", "password", "deviceToken", "bootstrapToken"].map(|name| auth.text(name));
    let scope_names = params.texts("scopes");
    let device = params.object("device", rules::DEVICE).map(|device| DeviceTexts::of(&device));
    let signed_token = [&token, &device_token, &bootstrap_token].into_iter().flatten().next();
    let payloads = device.as_ref().map(|device| {
        let claims = [role_name.as_ref(), &scope_names.join(","), signed_token.map_or("", |token| token)];
        device.payloads(&client, claims)
    });
    let login = Login {
        nonce,
        token: token.as_deref(),
        password: password.as_deref(),
        device_token: device_token.as_deref(),
        device: device.as_ref().zip(payloads.as_ref()).map(|(device, payloads)| device.proof(payloads)),
        role,
        // What is no scope here is not given, whatever it is elsewhere.
        wanted: scope_names.iter().filter_map(|name| Scope::from_name(name)).collect(),
        class: class(&client),
        description: description(&client),
    };
    match access.log_in(&login, peer, now_ms) {
        Ok(admission) => {
            let entry = entry(&client, &admission, peer, now_ms);
            Ok(Connected { protocol, caps: caps(params), admission, entry })
        }
        Err(refusal) => {
            if let LoginRefusal::Devices(error) = &refusal {
                tracing::error!(%error, "a device cannot be paired");
            }
            let (error, reason) = of_login(&refusal);
            let news = match refusal {
                LoginRefusal::Pairing { pending, is_new: true, .. } => Some(PairingNews::Requested(*pending)),
                _ => None,
            };
            Err(Refused { error, reason, news: news.map(Box::new) })
        }
    }
}

/// The version that both speak. Version 3 is for probes and nodes only.
fn protocol(params: &Params<'_>, mode: &str, role: &str) -> Result<u64, Refused> {
    let (min, max) = (params.count("minProtocol").unwrap_or(0), params.count("maxProtocol").unwrap_or(0));
    if (min..=max).contains(&PROTOCOL) {
        return Ok(PROTOCOL);
    }
    let may_be_older = mode == "probe" || (mode == "node" && role == "node");
    if may_be_older && (min..=max).contains(&PROTOCOL_MIN) {
        return Ok(PROTOCOL_MIN);
    }
    let details = serde_json::json!({
        "code": "PROTOCOL_MISMATCH",
        "clientMinProtocol": min,
        "clientMaxProtocol": max,
        "expectedProtocol": PROTOCOL,
        "minimumProbeProtocol": PROTOCOL_MIN,
    });
    Err(Refused::new(
        RpcError::invalid("protocol mismatch").with_details(details),
        CloseReason::ProtocolMismatch,
    ))
}

/// What a device shows, as text.
struct DeviceTexts {
    id: String,
    public_key: String,
    signature: String,
    nonce: String,
    signed_at_ms: u64,
}

impl DeviceTexts {
    fn of(device: &Params<'_>) -> Self {
        let text = |name| device.text(name).unwrap_or_default().into_owned();
        Self {
            id: text("id"),
            public_key: text("publicKey"),
            signature: text("signature"),
            nonce: text("nonce"),
            signed_at_ms: device.count("signedAt").unwrap_or(0),
        }
    }

    /// The texts that it may have signed: with what the client runs on, or as before that was added.
    fn payloads(&self, client: &Params<'_>, [role, scopes, token]: [&str; 3]) -> [String; 2] {
        let text = |name| client.text(name).unwrap_or_default();
        let (client_id, mode) = (text("id"), text("mode"));
        let Self { id, nonce, signed_at_ms, .. } = self;
        let common = format!("{id}|{client_id}|{mode}|{role}|{scopes}|{signed_at_ms}|{token}|{nonce}");
        let [platform, family] =
            ["platform", "deviceFamily"].map(|name| text(name).trim().to_ascii_lowercase());
        [format!("v3|{common}|{platform}|{family}"), format!("v2|{common}")]
    }

    fn proof<'a>(&'a self, payloads: &'a [String]) -> Proof<'a> {
        Proof {
            id: &self.id,
            public_key: &self.public_key,
            signature: &self.signature,
            signed_at_ms: self.signed_at_ms,
            nonce: &self.nonce,
            payloads,
        }
    }
}

/// Which programs keep their scopes without a device, if they are on this machine.
fn class(client: &Params<'_>) -> ClientClass {
    let text = |name| client.text(name).unwrap_or_default();
    match (text("id").as_ref(), text("mode").as_ref()) {
        ("gateway-client", "backend") | ("cli", "cli") => ClientClass::LocalProgram,
        ("openclaw-control-ui", _) => ClientClass::ControlUi,
        _ => ClientClass::Other,
    }
}

fn caps(params: &Params<'_>) -> Caps {
    let caps = params.texts("caps");
    let has = |name: &str| caps.iter().any(|cap| cap == name);
    Caps {
        tool_events: has("tool-events"),
        session_scoped_events: has("session-scoped-events"),
        places: has(PLACES_CAP),
    }
}

/// The client in the list of those connected: what it says of itself, and what was verified.
fn entry(client: &Params<'_>, admission: &Admission, peer: &Peer, now_ms: u64) -> Entry {
    let text = |name| client.text(name).unwrap_or_default().into_owned();
    let identity = &admission.identity;
    let (host, mode) = (client.text("displayName").unwrap_or_else(|| text("id").into()), text("mode"));
    Entry {
        text: format!("{host} · mode {mode} · reason connect"),
        host: host.into_owned(),
        ip: peer.source.to_canonical().to_string(),
        version: text("version"),
        platform: text("platform"),
        device_family: text("deviceFamily"),
        model_identifier: text("modelIdentifier"),
        mode,
        reason: "connect".to_owned(),
        ts: now_ms,
        device_id: identity.device.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
        roles: vec![identity.role.name()],
        scopes: identity.scopes.iter().map(Scope::name).collect(),
        instance_id: text("instanceId"),
    }
}

fn description(client: &Params<'_>) -> Description {
    let text = |name| {
        let text = client.text(name).unwrap_or_default();
        text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
    };
    Description {
        display_name: text("displayName"),
        platform: text("platform"),
        device_family: text("deviceFamily"),
        client_id: text("id"),
        client_mode: text("mode"),
    }
}
