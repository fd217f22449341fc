//! Which fields of a session clients may set, and what is made of them.
//!
//! Fields that only say how a session is shown, or what its agent is asked for, are kept as preferences. A field that
//! would promise something that this gateway does not do, another model or a permission, is refused by its name; to
//! clear it changes nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use adapters::openclaw::method::Method;
use adapters::openclaw::params::{Params, rules};
use adapters::refusal::RpcError;
use sessions::{Patch, Preference, SessionRow};

use super::entry::UNREAD;
use crate::rpc::now_ms;

/// Kept as they come: text, or cleared by null.
const TEXTS: [&str; 12] = [
    "autoLabel",
    "attention",
    "category",
    "color",
    "contextWindow",
    "displayName",
    "icon",
    "reasoningLevel",
    "statusNote",
    "thinkingLevel",
    "traceLevel",
    "verboseLevel",
];
/// The words that `responseUsage` may be.
const RESPONSE_USAGE: [&str; 4] = ["off", "on", "tokens", "full"];
/// What else is understood, apart from what a session is to be like.
const UNDERSTOOD: [&str; 21] = [
    "agentId",
    "archived",
    "emitCommandHooks",
    "expectedLifecycleRevision",
    "expectedMarkedUnreadAt",
    "expectedNativeRuntimeConsent",
    "expectedPermissionMode",
    "expectedSandboxMode",
    "expectedSessionId",
    "expectedToolOverrides",
    "fastMode",
    "idempotencyKey",
    "key",
    "label",
    "message",
    "parentSessionKey",
    "pinned",
    "responseUsage",
    "task",
    "titleSource",
    "unread",
];
/// What no session has, so that it is as expected only if nothing is.
const NEVER_SET: [&str; 4] = [
    "expectedNativeRuntimeConsent",
    "expectedPermissionMode",
    "expectedSandboxMode",
    "expectedToolOverrides",
];

/// What the parameters of `sessions.create` or `sessions.patch` change.
pub fn patch(method: Method, params: &Params<'_>) -> Result<Patch, RpcError> {
    refuse_others(method, params)?;
    let mut preferences = BTreeMap::new();
    for name in TEXTS {
        if let Some(value) = nullable(params, name) {
            preferences.insert(name.to_owned(), value.map(|text| Preference::Text(text.into_owned())));
        }
    }
    if let Some(value) = chosen(method, params, "fastMode", &["auto"], true)? {
        preferences.insert("fastMode".to_owned(), value);
    }
    if let Some(value) = chosen(method, params, "responseUsage", &RESPONSE_USAGE, false)? {
        preferences.insert("responseUsage".to_owned(), value);
    }
    if let Some(key) = params.text("parentSessionKey") {
        preferences.insert("parentSessionKey".to_owned(), Some(Preference::Text(key.into_owned())));
    }
    let now = Preference::Integer(i64::try_from(now_ms()).unwrap_or(i64::MAX));
    for (field, name) in [("pinned", sessions::row::PINNED), ("unread", UNREAD)] {
        if params.raw(field).is_some() {
            preferences.insert(name.to_owned(), params.is_true(field).then(|| now.clone()));
        }
    }
    Ok(Patch {
        label: nullable(params, "label").map(|label| label.map(Cow::into_owned)),
        archived: params.raw("archived").map(|raw| raw.get() == "true"),
        preferences,
        context: None,
    })
}

/// Whether there is nothing to change.
pub fn is_nothing(patch: &Patch) -> bool {
    *patch == Patch::default()
}

/// Refuses what is not done here, unless it is not wanted either.
fn refuse_others(method: Method, params: &Params<'_>) -> Result<(), RpcError> {
    for field in rules::of(method) {
        let is_known = TEXTS.contains(&field.name) || UNDERSTOOD.contains(&field.name);
        let is_wanted =
            || params.raw(field.name).is_some_and(|raw| !is_nothing_wanted(field.name, raw.get()));
        if !is_known && is_wanted() {
            let message = format!("{}: '{}' cannot be set on this gateway", method.name(), field.name);
            return Err(RpcError::invalid(message));
        }
    }
    Ok(())
}

/// Whether a value says no more than what holds anyway.
fn is_nothing_wanted(name: &str, json: &str) -> bool {
    matches!(json, "null" | "false" | "[]" | "{}" | "\"\"") || (name, json) == ("visibility", "\"shared\"")
}

/// Refuses a change of a session that is not as it was expected to be.
pub fn check_expected(row: &SessionRow, params: &Params<'_>) -> Result<(), RpcError> {
    let wrong = |name: &str| {
        let message = format!("Session {} changed; refresh and try again: {name} does not hold", row.key);
        let details = serde_json::json!({"reason": "session-changed"});
        Err(RpcError::invalid(message).with_details(details))
    };
    for name in NEVER_SET {
        if params.raw(name).is_some_and(|raw| !matches!(raw.get(), "null" | "{}")) {
            return wrong(name);
        }
    }
    let name = "expectedMarkedUnreadAt";
    if params.raw(name).is_some() {
        let expected = params.count(name).and_then(|ms| i64::try_from(ms).ok()).map(Preference::Integer);
        let is_null = params.raw(name).is_some_and(|raw| raw.get() == "null");
        if row.preferences.get(UNREAD) != expected.as_ref() || expected.is_none() != is_null {
            return wrong(name);
        }
    }
    Ok(())
}

/// A text, or null; `None` where the field is absent.
fn nullable<'a>(params: &Params<'a>, name: &str) -> Option<Option<Cow<'a, str>>> {
    params.raw(name)?;
    Some(params.text(name))
}

/// One of some words, or null, or perhaps a flag.
fn chosen(
    method: Method,
    params: &Params<'_>,
    name: &str,
    words: &[&str],
    is_flag: bool,
) -> Result<Option<Option<Preference>>, RpcError> {
    let Some(raw) = params.raw(name) else { return Ok(None) };
    let text = params.text(name);
    let value = match raw.get() {
        "null" => None,
        "true" if is_flag => Some(Preference::Switch(true)),
        "false" if is_flag => Some(Preference::Switch(false)),
        _ => match text.filter(|text| words.contains(&text.as_ref())) {
            Some(text) => Some(Preference::Text(text.into_owned())),
            None => {
                let fault = format!("at /{name}: must be equal to one of the allowed values");
                return Err(RpcError::invalid(format!("invalid {} params: {fault}", method.name())));
            }
        },
    };
    Ok(Some(value))
}
