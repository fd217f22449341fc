//! What creates, changes, resets and deletes a session. Each is answered when it is on the disk, and told to those who
//! watch the list.

use std::borrow::Cow;
use std::sync::Arc;

use adapters::openclaw::backend::Outcome;
use adapters::openclaw::method::Method;
use adapters::openclaw::params::Params;
use adapters::openclaw::session_key::agent_of;
use adapters::refusal::RpcError;
use serde_json::{Value, json};
use sessions::{ChangeError, Patch, SessionId, SessionRow, Target};

use super::entry::{Entry, is_main};
use super::list::path;
use super::{Desk, fields, key_of, not_found, of_change, of_read};
use crate::rpc::{Known, json as write, now_ms};

/// The channel of sessions that clients begin; that of the messages they send.
const CHANNEL: &str = "openclaw";

/// The agent of a key in full, if it is one of the configuration.
fn agent(known: &Known, key: &str) -> Result<String, RpcError> {
    let agent = agent_of(key).unwrap_or_default();
    if known.agents.iter().any(|name| name == agent) || agent == known.default_agent {
        return Ok(agent.to_owned());
    }
    Err(RpcError::invalid(format!("Agent \"{agent}\" no longer exists in configuration")))
}

/// The session with that key, which may be none.
fn find(desk: &Desk, key: &str) -> Result<Option<Arc<SessionRow>>, RpcError> {
    desk.sessions.get(key).map_err(|error| of_read(error.into()))
}

/// The session that is to be changed, as the parameters expect it to be.
fn target<'a>(key: &'a str, params: &Params<'_>) -> Result<Target<'a>, RpcError> {
    let expected = match params.text("expectedSessionId") {
        None => None,
        Some(id) => Some(SessionId::parse(&id).ok_or_else(|| changed(key, "it is another session now"))?),
    };
    let revision = match params.text("expectedLifecycleRevision") {
        None => None,
        Some(revision) => {
            let other = || changed(key, "its lifecycle revision is another");
            Some(revision.parse().map_err(|_| other())?)
        }
    };
    let updated_ms = match params.raw("expectedSessionUpdatedAt") {
        None => None,
        Some(_) => {
            let updated_ms = params.count("expectedSessionUpdatedAt");
            Some(updated_ms.ok_or_else(|| changed(key, "its last change is another"))?)
        }
    };
    Ok(Target { expected, revision, updated_ms, ..key.into() })
}

/// Whether a session has to be there, and as it was, for the change to make sense.
fn is_expected(target: &Target<'_>) -> bool {
    target.expected.is_some() || target.revision.is_some() || target.updated_ms.is_some()
}

fn changed(key: &str, what: &str) -> RpcError {
    let message = format!("Session {key} changed; refresh and try again: {what}");
    RpcError::invalid(message).with_details(json!({"reason": "session-changed"}))
}

/// `sessions.create`: begins a session, or finds the one that is there.
pub fn create(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    let patch = fields::patch(Method::SessionsCreate, params)?;
    let key = match params.raw("key") {
        Some(_) => key_of(known, desk, params, "key")?,
        None => {
            let agent = params.text("agentId");
            let agent = agent.as_deref().unwrap_or(&known.default_agent);
            format!("agent:{agent}:dashboard:{}", SessionId::fresh())
        }
    };
    let row = begin_or_patch(known, desk, key.as_str().into(), patch, "create")?;
    let run_error = ["message", "task"].into_iter().any(|name| params.raw(name).is_some()).then(|| {
        let message =
            format!("the session is there; send the message to it with chat.send and sessionKey {key}");
        json!({"code": "INVALID_REQUEST", "message": message})
    });
    let mut told = json!({
        "ok": true,
        "key": row.key,
        "sessionId": row.session_id.to_string(),
        "entry": Entry::of(&row, None),
        "runStarted": false,
    });
    if let (Some(error), Value::Object(told)) = (run_error, &mut told) {
        told.insert("runError".to_owned(), error);
    }
    Ok(write(&told))
}

/// Changes a session that is there, or begins it as it is to be.
fn begin_or_patch(
    known: &Known,
    desk: &Desk,
    target: Target<'_>,
    patch: Patch,
    reason: &str,
) -> Result<Arc<SessionRow>, RpcError> {
    let key = target.key;
    if find(desk, key)?.is_some() {
        if fields::is_nothing(&patch) && !is_expected(&target) {
            return find(desk, key)?.ok_or_else(|| not_found(key));
        }
        let row = desk.sessions.patch(target, patch, now_ms()).map_err(of_change)?;
        desk.tell_changed(&row, if reason == "create" { "patch" } else { reason });
        return Ok(row);
    }
    if is_expected(&target) {
        return Err(not_found(key));
    }
    let agent = agent(known, key)?;
    let mut row = match desk.sessions.create(key, &agent, CHANNEL, now_ms()) {
        // Somebody else has begun it meanwhile.
        Err(ChangeError::Exists { .. }) => find(desk, key)?.ok_or_else(|| not_found(key))?,
        begun => begun.map_err(of_change)?,
    };
    if !fields::is_nothing(&patch) {
        match desk.sessions.patch(key.into(), patch, now_ms()) {
            Ok(patched) => row = patched,
            Err(error) => {
                // All or nothing, as far as the disk allows; that it did not is told by the error.
                let fresh =
                    Target { expected: Some(row.session_id), updated_ms: Some(row.updated_ms), ..key.into() };
                let _ = desk.sessions.delete(fresh, false, now_ms());
                return Err(of_change(error));
            }
        }
    }
    desk.tell_changed(&row, "create");
    Ok(row)
}

/// `sessions.patch`.
pub fn patch(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    let key = key_of(known, desk, params, "key")?;
    let patch = fields::patch(Method::SessionsPatch, params)?;
    if let Some(row) = find(desk, &key)? {
        fields::check_expected(&row, params)?;
    }
    let row = begin_or_patch(known, desk, target(&key, params)?, patch, "patch")?;
    let run = desk.run_in(&key);
    Ok(write(&json!({
        "ok": true,
        "path": path(known),
        "key": row.key,
        "entry": Entry::of(&row, run.as_deref()),
    })))
}

/// Refuses what `sessions.reset` and `sessions.delete` would refuse, before anything is stopped for it; the key.
pub fn check(known: &Known, desk: &Desk, method: Method, params: &Params<'_>) -> Result<String, RpcError> {
    let key = key_of(known, desk, params, "key")?;
    let target = target(&key, params)?;
    let row = find(desk, &key)?;
    if method == Method::SessionsDelete && is_main(&key) {
        return Err(RpcError::invalid(format!("Cannot delete the main session ({key}).")));
    }
    let Some(row) = row else {
        return if is_expected(&target) { Err(not_found(&key)) } else { Ok(key) };
    };
    let what = if target.expected.is_some_and(|expected| expected != row.session_id) {
        "it is another session now"
    } else if target.revision.is_some_and(|revision| revision != row.lifecycle_revision) {
        "its lifecycle revision is another"
    } else if target.updated_ms.is_some_and(|updated_ms| updated_ms != row.updated_ms) {
        "its last change is another"
    } else if params.is_true("archivedOnly") && !row.archived {
        return Err(RpcError::invalid(format!("Session {key} is not archived")));
    } else {
        return Ok(key);
    };
    Err(changed(&key, what))
}

/// `sessions.reset`. Its runs have been stopped. A session that is not there begins.
pub fn reset(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    let key = key_of(known, desk, params, "key")?;
    let target = target(&key, params)?;
    let row = if find(desk, &key)?.is_none() && !is_expected(&target) {
        let agent = agent(known, &key)?;
        desk.sessions.create(&key, &agent, CHANNEL, now_ms())
    } else {
        desk.sessions.reset(target, now_ms())
    };
    let row = row.map_err(of_change)?;
    let reason = params.text("reason").unwrap_or(Cow::Borrowed("reset"));
    desk.tell_changed(&row, &reason);
    Ok(write(&json!({"ok": true, "key": row.key, "entry": Entry::of(&row, None)})))
}

/// `sessions.delete`. Its runs have been stopped. The transcript is put aside, where nobody reads it any more.
pub fn delete(known: &Known, desk: &Desk, params: &Params<'_>) -> Outcome {
    let key = check(known, desk, Method::SessionsDelete, params)?;
    let Some(row) = find(desk, &key)? else {
        return Ok(write(&json!({"ok": true, "key": key, "deleted": false, "archived": []})));
    };
    let kept = desk.sessions.delete(target(&key, params)?, true, now_ms()).map_err(of_change)?;
    desk.tell_deleted(&row);
    let archived: Vec<_> = kept.iter().map(|path| path.display().to_string()).collect();
    Ok(write(&json!({"ok": true, "key": key, "deleted": true, "archived": archived})))
}
