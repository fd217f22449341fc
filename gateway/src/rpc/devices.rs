//! `device.pair.*`, `device.token.*`: whose devices a caller may decide on. What is done with them is
//! [`adapters::openclaw::devices`]. Changes wait for the disk.
//!
//! | who calls | sees and decides on |
//! |---|---|
//! | an admin | every device, in every role |
//! | somebody without a device | every device, as operator |
//! | a device | itself, as operator |

use adapters::access::scopes::Scope;
use adapters::access::{Access, Identity, Role};
use adapters::openclaw::devices;
use adapters::openclaw::event::EventName;
use adapters::openclaw::method::Method;
use adapters::openclaw::params::Params;
use adapters::refusal::RpcError;
use serde_json::{Value, json};

/// What a call comes to, and what everybody who may see it is told of it.
type Served = (Vec<u8>, Option<(EventName, Value)>);

/// Serves one of the methods. Blocks while the file of devices is written.
pub fn serve(
    access: &Access,
    method: Method,
    params: &Params<'_>,
    caller: &Identity,
    now_ms: u64,
) -> Result<Served, RpcError> {
    let target = Target::of(access, method, params, now_ms);
    if !target.is_in_reach_of(caller) {
        tracing::warn!(method = method.name(), caller = ?caller.device, device = ?target.device, "denied");
        // In the same words whether there is such a device or not.
        return Err(RpcError::invalid(format!("{} denied", method.name())));
    }
    let done = devices::serve(access, method, params, caller, now_ms);
    let (mut payload, news) = done.unwrap_or_else(|| Err(super::unknown(method)))?;
    match method {
        Method::DevicePairList => show_own(&mut payload, caller),
        Method::DeviceTokenRotate => withhold(&mut payload, caller),
        _ => {}
    }
    Ok((super::json(&payload), news.map(|news| devices::event(&news, now_ms))))
}

/// What a call is about.
struct Target {
    /// Absent if it is about all devices, or about nothing that is there.
    device: Option<String>,
    roles: Vec<Role>,
}

impl Target {
    fn of(access: &Access, method: Method, params: &Params<'_>, now_ms: u64) -> Self {
        let text = |name| params.text(name).map(std::borrow::Cow::into_owned);
        let (pending, paired) = access.devices(now_ms);
        let about_request = |id: String| {
            let found = pending.iter().find(|pending| pending.request_id == id);
            found.map(|found| (found.wish.id.as_str().to_owned(), vec![found.wish.role]))
        };
        let about_device = |id: String| {
            let found = paired.iter().find(|paired| paired.id.as_str() == id);
            let granted = found.into_iter().flat_map(|found| &found.grants).map(|grant| grant.role);
            (id, granted.collect())
        };
        let found = match method {
            Method::DevicePairApprove | Method::DevicePairReject => text("requestId").and_then(about_request),
            Method::DevicePairRemove | Method::DevicePairRename => text("deviceId").map(about_device),
            Method::DeviceTokenRotate | Method::DeviceTokenRevoke => {
                let role = text("role").and_then(|name| Role::from_name(&name));
                text("deviceId").map(|id| (id, role.into_iter().collect()))
            }
            _ => None,
        };
        let (device, roles) = found.map_or((None, Vec::new()), |(device, roles)| (Some(device), roles));
        Self { device, roles }
    }

    fn is_in_reach_of(&self, caller: &Identity) -> bool {
        let Some(device) = &self.device else { return true };
        let is_of_operators = self.roles.iter().all(|role| *role == Role::Operator);
        caller.scopes.contains(Scope::Admin) || (is_of_operators && reaches(caller, device))
    }
}

/// Whether a device is any business of a caller who is no admin.
fn reaches(caller: &Identity, device: &str) -> bool {
    caller.device.as_ref().is_none_or(|own| own.as_str() == device)
}

/// Takes out of a list what is not the caller's business.
fn show_own(payload: &mut Value, caller: &Identity) {
    if caller.scopes.contains(Scope::Admin) {
        return;
    }
    for key in ["pending", "paired"] {
        if let Some(rows) = payload[key].as_array_mut() {
            rows.retain(|row| row["deviceId"].as_str().is_some_and(|device| reaches(caller, device)));
        }
    }
}

/// Nobody gets the token of another device: that one is given it when it comes the next time.
fn withhold(payload: &mut Value, caller: &Identity) {
    let is_own = caller.device.as_ref().is_some_and(|own| payload["deviceId"].as_str() == Some(own.as_str()));
    if is_own {
        return;
    }
    if let Some(fields) = payload.as_object_mut() {
        fields.remove("token");
        fields.insert("tokenDelivery".to_owned(), json!("withheld-cross-device"));
    }
}
