//! The way of a change from a client into the file: checked whole before anything is written, written whole or not at all,
//! and taken at once.
//!
//! Nobody else changes the file meanwhile: its directory is locked, as the commands lock it. An editor does not lock; what it
//! writes after the hash was compared is lost.

use std::sync::Arc;

use adapters::openclaw::method::Method;
use adapters::refusal::RpcError;
use serde_json::{Value, json};

use super::{invalid, show};
use crate::admin::answer::Reloaded;
use crate::admin::order::ReloadKind;
use crate::admin::request::{Complaint, ErrorCode};
use crate::admin::{Admin, agents};
use crate::config::Keys;
use crate::config::document::Document;
use crate::config::file::{self, Lock};
use crate::config::source::{Source, Text};

/// Which text a change is made for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Base {
    /// The one of this hash. A client that names none is told to.
    Named(Option<String>),
    /// Whatever is there.
    Any,
}

/// What makes a new text of the one before.
pub type Make = Box<dyn FnOnce(&Text) -> Result<String, RpcError> + Send>;

/// Says of a key whether it may change all the same.
pub type Allowed = Box<dyn Fn(&[String]) -> bool + Send>;

/// A change.
pub struct Change {
    /// How it was asked for.
    pub method: Method,
    /// Of which text.
    pub base: Base,
    /// Into which.
    pub make: Make,
    /// Keys that may change beyond those that clients may change.
    pub allowed: Allowed,
}

/// What has come of one.
#[derive(Debug)]
pub struct Written {
    /// What the file says now, secrets and all.
    document: Document,
    hash: String,
    /// What counts, and what does not yet; absent where nothing has changed.
    reloaded: Option<Reloaded>,
}

impl Written {
    /// The answer to `config.set` and the like.
    pub fn answer(&self, source: &Source) -> Value {
        let mut answer = json!({
            "ok": true,
            "path": source.path().display().to_string(),
            "config": show::redacted(&self.document.0),
            "hash": self.hash,
        });
        match &self.reloaded {
            None => answer["noop"] = true.into(),
            Some(reloaded) => answer["applied"] = reloaded.applied.clone().into(),
        }
        answer["restart"] = self.restart();
        answer
    }

    /// What it takes until all of it counts.
    pub fn restart(&self) -> Value {
        let nothing = Reloaded::default();
        let Reloaded { restart_agents, restart_gateway, .. } = self.reloaded.as_ref().unwrap_or(&nothing);
        json!({
            "required": !restart_gateway.is_empty() || !restart_agents.is_empty(),
            "keys": restart_gateway,
            "agents": restart_agents,
        })
    }
}

/// A change that keeps all rules, and the right to write it.
struct Prepared {
    _lock: Lock,
    text: String,
    document: Document,
    hash: String,
    is_new: bool,
}

/// Makes a change, unless it breaks a rule.
pub async fn write(source: &Arc<Source>, admin: &Admin, change: Change) -> Result<Written, RpcError> {
    let own = Arc::clone(source);
    let prepared = blocking(move || prepare(&own, change)).await?;
    if !prepared.is_new {
        let Prepared { document, hash, .. } = prepared;
        return Ok(Written { document, hash, reloaded: None });
    }
    // What only the running gateway knows: whether rules of routing fit its agents.
    let weighed = agents::reload(admin, ReloadKind::Weigh(prepared.document.clone())).await;
    weighed.map_err(refused)?;
    let own = Arc::clone(source);
    let prepared = blocking(move || {
        file::write(own.path(), &prepared.text).map_err(|error| not_written(&error))?;
        Ok(prepared)
    })
    .await?;
    tracing::info!(file = %source.path().display(), "a client has changed the configuration");
    let reloaded = agents::reload(admin, ReloadKind::Follow).await.map_err(refused)?;
    let Prepared { document, hash, .. } = prepared;
    Ok(Written { document, hash, reloaded: Some(reloaded) })
}

/// Reads the file, makes the new text, and checks all that can be checked without the control thread.
fn prepare(source: &Source, change: Change) -> Result<Prepared, RpcError> {
    let Change { method, base, make, allowed } = change;
    let lock = Lock::of(source.path()).map_err(|error| not_written(&error))?;
    let before = source
        .read()
        .map_err(|error| RpcError::invalid(format!("{}; it has to be mended on disk", show::told(&error))))?;
    if before.text.is_some() {
        check_base(&base, &before.hash)?;
    }
    let text = make(&before)?;
    let document =
        Document::parse(&text).map_err(|error| RpcError::invalid(format!("invalid config: {error}")))?;
    let (said, wanted) = (Keys::of(&before.document.0), Keys::of(&document.0));
    if let Some(key) = said.not_for_clients(&wanted, allowed) {
        tracing::warn!(key, method = method.name(), "a client may not change this setting");
        let message = format!(
            "{} may not change {key}: it is for the configuration file on disk only; nothing is written",
            method.name()
        );
        return Err(
            RpcError::invalid(message).with_details(json!({"code": "CONFIG_KEY_ON_DISK_ONLY", "key": key}))
        );
    }
    let broken = source.examine(document.clone()).broken;
    if !broken.is_empty() {
        return Err(invalid(&broken));
    }
    let (hash, is_new) = (source.hash(&text), before.text.as_deref() != Some(&text));
    Ok(Prepared { _lock: lock, text, document, hash, is_new })
}

/// In the words of the incumbent, which clients look for.
fn check_base(base: &Base, hash: &str) -> Result<(), RpcError> {
    match base {
        Base::Any => Ok(()),
        Base::Named(None) => {
            Err(RpcError::invalid("config base hash required; re-run config.get and retry with baseHash"))
        }
        Base::Named(Some(named)) if named.trim() == hash => Ok(()),
        Base::Named(Some(_)) => {
            Err(RpcError::invalid("config changed since last load; re-run config.get and retry"))
        }
    }
}

fn refused(complaint: Complaint) -> RpcError {
    match complaint.code {
        ErrorCode::InvalidConfig => {
            let lines: Vec<_> = complaint.message.lines().map(|line| line.trim().to_owned()).collect();
            invalid(&lines)
        }
        _ => RpcError::unavailable(complaint.message),
    }
}

fn not_written(error: &file::FileError) -> RpcError {
    let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
    RpcError::unavailable(format!("the configuration cannot be written: {error}{cause}"))
}

/// Does what waits for the disk.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(crate::rpc::going()))
}
