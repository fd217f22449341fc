//! `hello-ok`: what a client that was let in is told of the gateway and of itself.

use serde_json::json;

use super::connect::Connected;
use super::frame::{write_number, write_string};
use super::surroundings::{Phase, Surroundings};
use crate::access::AuthMode;
use crate::access::scopes::Scope;

/// Writes the payload of the response to `connect`.
pub(super) fn write_hello(
    out: &mut Vec<u8>,
    connected: &Connected,
    surroundings: &Surroundings<'_>,
    mode: AuthMode,
) {
    out.extend_from_slice(br#"{"type":"hello-ok","protocol":"#);
    write_number(out, connected.protocol);
    let server = json!({
        "version": surroundings.version,
        "connId": surroundings.connection_id,
        "bootId": surroundings.boot_id,
    });
    write_value(out, ",\"server\":", &server);
    let methods: Vec<_> = surroundings.methods().iter().map(|method| method.name()).collect();
    let events: Vec<_> = surroundings.events.iter().map(|event| event.name()).collect();
    write_value(out, ",\"features\":", &json!({ "methods": methods, "events": events }));
    write_snapshot(out, connected, surroundings, mode);
    write_auth(out, connected);
    let limits = &surroundings.limits;
    let policy = json!({
        "maxPayload": limits.payload_bytes_max,
        "maxBufferedBytes": limits.buffered_bytes_max,
        "tickIntervalMs": limits.tick_interval_ms,
        "attachments": {
            "maxBytes": limits.attachment_bytes_max,
            "maxImageBytes": limits.image_bytes_max,
        },
    });
    write_value(out, ",\"policy\":", &policy);
    out.push(b'}');
}

fn write_snapshot(out: &mut Vec<u8>, connected: &Connected, surroundings: &Surroundings<'_>, mode: AuthMode) {
    let scopes = connected.admission.identity.scopes;
    let backend = surroundings.backend;
    out.extend_from_slice(br#","snapshot":{"presence":"#);
    // Who else is connected is for those who may ask for it.
    if scopes.allow(Scope::Read) {
        out.extend_from_slice(&backend.presence());
    } else {
        out.extend_from_slice(b"[]");
    }
    out.extend_from_slice(br#","health":"#);
    out.extend_from_slice(&backend.health());
    let version = backend.state_version();
    write_value(
        out,
        ",\"stateVersion\":",
        &json!({ "presence": version.presence, "health": version.health }),
    );
    out.extend_from_slice(br#","uptimeMs":"#);
    write_number(out, surroundings.uptime_ms);
    let suspension = if surroundings.phase == Phase::Running { "accepting" } else { "draining" };
    write_value(out, ",\"suspension\":", &json!({ "phase": suspension }));
    if scopes.contains(Scope::Admin) {
        for (name, value) in [
            (",\"configPath\":", surroundings.config_path),
            (",\"stateDir\":", surroundings.state_folder),
            (",\"authMode\":", Some(mode.name())),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                out.extend_from_slice(name.as_bytes());
                write_string(out, value);
            }
        }
    }
    let agent = surroundings.default_agent;
    if !agent.is_empty() {
        let defaults = json!({
            "defaultAgentId": agent,
            "mainKey": "main",
            "mainSessionKey": format!("agent:{agent}:main"),
            "scope": "per-sender",
        });
        write_value(out, ",\"sessionDefaults\":", &defaults);
    }
    out.push(b'}');
}

fn write_auth(out: &mut Vec<u8>, connected: &Connected) {
    let identity = &connected.admission.identity;
    let mut auth = json!({ "role": identity.role.name(), "scopes": identity.scopes });
    if let Some(issued) = &connected.admission.issued {
        auth["deviceToken"] = json!(issued.token);
        auth["issuedAtMs"] = json!(issued.issued_at_ms);
    }
    write_value(out, ",\"auth\":", &auth);
}

fn write_value(out: &mut Vec<u8>, name: &str, value: &serde_json::Value) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value.to_string().as_bytes());
}
