//! The methods `device.pair.*` and `device.token.*`: the words of the protocol for what [`Access`] does.

use serde_json::{Value, json};

use super::method::Method;
use super::params::Params;
use crate::access::devices::{DevicesError, Paired, Pending};
use crate::access::login::PairingNews;
use crate::access::scopes::Scope;
use crate::access::{Access, Identity, Role};
use crate::refusal::{RpcCode, RpcError};

use super::event::EventName;

/// Serves one of these methods, whose parameters satisfy its rules. `None`: it is none of them. What happened to the
/// devices is for those who watch them, see [`event`].
pub fn serve(
    access: &Access,
    method: Method,
    fields: &Params<'_>,
    asker: &Identity,
    now_ms: u64,
) -> Option<Result<(Value, Option<PairingNews>), RpcError>> {
    let text = |name| fields.text(name).unwrap_or_default();
    let id = text("deviceId");
    let done = match method {
        Method::DevicePairList => Ok((list(access, now_ms), None)),
        Method::DevicePairApprove => {
            access.approve_device(&text("requestId"), asker, now_ms).map(|pending| {
                let value = json!({ "requestId": pending.request_id, "device": wish(&pending) });
                (value, Some(PairingNews::Resolved { pending, is_approved: true }))
            })
        }
        Method::DevicePairReject => access.reject_device(&text("requestId"), now_ms).map(|pending| {
            let value = json!({ "requestId": pending.request_id, "deviceId": pending.wish.id });
            (value, Some(PairingNews::Resolved { pending, is_approved: false }))
        }),
        Method::DevicePairRemove => access
            .remove_device(&id)
            .map(|device| (json!({ "deviceId": device }), Some(PairingNews::Changed(device)))),
        Method::DevicePairRename => {
            let label = text("label");
            let renamed = access.rename_device(&id, &label);
            renamed.map(|device| {
                (json!({ "deviceId": device, "label": label }), Some(PairingNews::Changed(device)))
            })
        }
        Method::DeviceTokenRotate => return Some(rotate(access, fields, asker, now_ms)),
        Method::DeviceTokenRevoke => {
            let role = match role(fields) {
                Ok(role) => role,
                Err(error) => return Some(Err(error)),
            };
            access.revoke_token(&id, role).map(|device| {
                let value = json!({ "deviceId": device, "role": role.name(), "revokedAtMs": now_ms });
                (value, Some(PairingNews::Changed(device)))
            })
        }
        _ => return None,
    };
    Some(done.map_err(|error| of_devices(&error)))
}

/// What those who watch devices are told of.
pub fn event(news: &PairingNews, now_ms: u64) -> (EventName, Value) {
    match news {
        PairingNews::Requested(pending) => (EventName::DevicePairRequested, requested(pending)),
        PairingNews::PairedBySecret(wish) => {
            let value = json!({ "deviceId": wish.id, "reason": "paired by the shared secret", "ts": now_ms });
            (EventName::DevicePairChanged, value)
        }
        PairingNews::Resolved { pending, is_approved } => {
            let decision = if *is_approved { "approved" } else { "rejected" };
            let value = json!({
                "requestId": pending.request_id,
                "deviceId": pending.wish.id,
                "decision": decision,
                "ts": now_ms,
            });
            (EventName::DevicePairResolved, value)
        }
        PairingNews::Changed(device) => {
            (EventName::DevicePairChanged, json!({ "deviceId": device, "reason": "changed", "ts": now_ms }))
        }
    }
}

fn rotate(
    access: &Access,
    fields: &Params<'_>,
    asker: &Identity,
    now_ms: u64,
) -> Result<(Value, Option<PairingNews>), RpcError> {
    let role = role(fields)?;
    let id = fields.text("deviceId").unwrap_or_default();
    let names = fields.texts("scopes");
    let unknown = names.iter().find(|name| Scope::from_name(name).is_none());
    if unknown.is_some() {
        return Err(RpcError::invalid(
            "invalid device.token.rotate params: at /scopes: must be known scopes",
        ));
    }
    let scopes =
        fields.raw("scopes").map(|_| names.iter().filter_map(|name| Scope::from_name(name)).collect());
    let (device, issued) =
        access.rotate_token(&id, role, scopes, asker, now_ms).map_err(|error| of_devices(&error))?;
    let value = json!({
        "deviceId": device,
        "role": role.name(),
        "token": issued.token,
        "tokenDelivery": "in-band",
        "scopes": issued.scopes,
        "rotatedAtMs": issued.issued_at_ms,
    });
    Ok((value, Some(PairingNews::Changed(device))))
}

fn role(fields: &Params<'_>) -> Result<Role, RpcError> {
    let role = fields.text("role").and_then(|name| Role::from_name(&name));
    role.ok_or_else(|| RpcError::invalid("invalid params: at /role: must be operator or node"))
}

fn list(access: &Access, now_ms: u64) -> Value {
    let (pending, paired) = access.devices(now_ms);
    let pending: Vec<_> = pending.iter().map(requested).collect();
    let paired: Vec<_> = paired.iter().map(device).collect();
    json!({ "pending": pending, "paired": paired })
}

fn requested(pending: &Pending) -> Value {
    let mut value = wish(pending);
    value["requestId"] = json!(pending.request_id);
    value["ts"] = json!(pending.asked_at_ms);
    value
}

fn wish(pending: &Pending) -> Value {
    let wish = &pending.wish;
    let mut value = json!(wish.description);
    value["deviceId"] = json!(wish.id);
    value["publicKey"] = json!(wish.public_key);
    value["role"] = json!(wish.role.name());
    value["roles"] = json!([wish.role.name()]);
    value["scopes"] = json!(wish.scopes);
    value["remoteIp"] = json!(wish.source.to_string());
    value["silent"] = json!(false);
    value
}

fn device(paired: &Paired) -> Value {
    let mut value = json!(paired.description);
    value["deviceId"] = json!(paired.id);
    value["publicKey"] = json!(paired.public_key);
    value["createdAtMs"] = json!(paired.paired_at_ms);
    value["approvedAtMs"] = json!(paired.paired_at_ms);
    value["roles"] = paired.grants.iter().map(|grant| json!(grant.role.name())).collect();
    value["scopes"] = json!(paired.scopes());
    if let Some(label) = &paired.label {
        value["label"] = json!(label);
    }
    let tokens = paired.grants.iter().filter(|grant| grant.token_sha256.is_some());
    let token = |grant: &crate::access::devices::Grant| json!({ "role": grant.role.name(), "scopes": grant.scopes, "createdAtMs": grant.issued_at_ms });
    value["tokens"] = tokens.map(token).collect();
    value
}

fn of_devices(error: &DevicesError) -> RpcError {
    match error {
        DevicesError::UnknownRequest(_)
        | DevicesError::UnknownDevice(_)
        | DevicesError::UnknownRole { .. } => RpcError::invalid(error.to_string()),
        DevicesError::MissingScope(scope) => RpcError::missing_scope(*scope),
        DevicesError::TooMany => RpcError::new(RpcCode::Unavailable, error.to_string()),
        DevicesError::NoRandomNumbers | DevicesError::File { .. } | DevicesError::Damaged { .. } => {
            tracing::error!(%error, "the paired devices cannot be changed");
            RpcError::unavailable("the paired devices cannot be changed now")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::access::devices::{Description, Devices, Wish};
    use crate::access::login::{ClientClass, Login, LoginRefusal};
    use crate::access::proof::Proof;
    use crate::access::proof::tests::TestDevice;
    use crate::access::scopes::Scopes;
    use crate::access::secret::Secret;
    use crate::access::{AccessSettings, AuthMode, Peer};

    const NOW_MS: u64 = 1_000_000;
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    /// A device that waits, and what its request is called.
    fn waiting() -> (Access, String, String) {
        let settings = AccessSettings::new(AuthMode::Token, Secret::new(TOKEN).ok()).expect("settings");
        let access = Access::new(&settings, Devices::in_memory()).expect("access");
        let device = TestDevice::new(3);
        let payloads = ["v3|x".to_owned()];
        let (id, key, signature) = (device.id(), device.public_key(), device.sign("v3|x"));
        let proof = Proof {
            id: &id,
            public_key: &key,
            signature: &signature,
            signed_at_ms: NOW_MS,
            nonce: "n",
            payloads: &payloads,
        };
        let login = Login {
            nonce: "n",
            token: Some(TOKEN),
            password: None,
            device_token: None,
            device: Some(proof),
            role: Role::Operator,
            wanted: [Scope::Read].into_iter().collect(),
            class: ClientClass::Other,
            description: Description { display_name: "phone".to_owned(), ..Description::default() },
        };
        let source = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let peer = Peer { source, is_proxied: false, is_browser: false };
        let Err(LoginRefusal::Pairing { pending, .. }) = access.log_in(&login, &peer, NOW_MS) else {
            panic!("it does not wait");
        };
        (access, pending.request_id, id)
    }

    fn call(access: &Access, scopes: Scopes, method: Method, params: &Value) -> Result<Value, RpcError> {
        let raw = serde_json::value::to_raw_value(params).expect("JSON");
        let fields = Params::of(method, Some(&raw)).map_err(RpcError::invalid)?;
        let (device, generation) = (None, access.generation());
        let asker = Identity { role: Role::Operator, scopes, device, generation };
        serve(access, method, &fields, &asker, NOW_MS).expect("one of these methods").map(|(value, _)| value)
    }

    /// A device goes through its whole life by the methods of the protocol: it waits, is approved, renamed, gets a
    /// token, loses it, is removed.
    #[test]
    fn the_life_of_a_device() {
        let (access, request_id, id) = waiting();
        let admin = |method, params: Value| call(&access, Scopes::ALL, method, &params).expect("done");
        let list = admin(Method::DevicePairList, json!({}));
        assert_eq!(list["pending"][0]["requestId"], json!(request_id));
        assert_eq!((&list["pending"][0]["displayName"], &list["paired"]), (&json!("phone"), &json!([])));
        admin(Method::DevicePairApprove, json!({ "requestId": request_id }));
        admin(Method::DevicePairRename, json!({ "deviceId": id, "label": "mine" }));
        let rotated = admin(Method::DeviceTokenRotate, json!({ "deviceId": id, "role": "operator" }));
        assert_eq!(rotated["scopes"], json!(["operator.read"]));
        let list = admin(Method::DevicePairList, json!({}));
        let paired = &list["paired"][0];
        assert_eq!((&paired["label"], &paired["tokens"][0]["role"]), (&json!("mine"), &json!("operator")));
        let token = rotated["token"].as_str().expect("a token");
        assert!(!list.to_string().contains(token), "a token is told once");
        admin(Method::DeviceTokenRevoke, json!({ "deviceId": id, "role": "operator" }));
        assert_eq!(admin(Method::DevicePairList, json!({}))["paired"][0]["tokens"], json!([]));
        admin(Method::DevicePairRemove, json!({ "deviceId": id }));
        assert_eq!(admin(Method::DevicePairList, json!({})), json!({ "pending": [], "paired": [] }));
    }

    /// What cannot be done is told with its reason. One row each.
    #[test]
    fn refusals_name_their_reason() {
        let (access, request_id, id) = waiting();
        let weak: Scopes = [Scope::Pairing].into_iter().collect();
        let rows = [
            (
                weak,
                Method::DevicePairApprove,
                json!({ "requestId": request_id }),
                "missing scope: operator.read",
            ),
            (Scopes::ALL, Method::DevicePairReject, json!({ "requestId": "x" }), "unknown requestId \"x\""),
            (Scopes::ALL, Method::DevicePairRemove, json!({ "deviceId": "x" }), "unknown deviceId \"x\""),
            (
                Scopes::ALL,
                Method::DeviceTokenRevoke,
                json!({ "deviceId": id, "role": "root" }),
                "invalid params: at /role: must be operator or node",
            ),
            (
                Scopes::ALL,
                Method::DeviceTokenRotate,
                json!({ "deviceId": id, "role": "operator", "scopes": ["x"] }),
                "invalid device.token.rotate params: at /scopes: must be known scopes",
            ),
        ];
        for (scopes, method, params, expected) in rows {
            let error = call(&access, scopes, method, &params).expect_err("refused");
            assert_eq!(error.message, expected, "{params}");
        }
        let wish = Wish {
            id: access.devices(NOW_MS).0[0].wish.id.clone(),
            public_key: String::new(),
            description: Description::default(),
            role: Role::Operator,
            scopes: weak,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let (name, told) = event(&PairingNews::PairedBySecret(wish), NOW_MS);
        assert_eq!((name, &told["deviceId"]), (EventName::DevicePairChanged, &json!(id)));
    }
}
