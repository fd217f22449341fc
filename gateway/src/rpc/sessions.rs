//! What clients ask about sessions, and what they have done to them. The crate `sessions` keeps them.
//!
//! | module | decides |
//! |---|---|
//! | [`entry`] | how a session and a message look to clients |
//! | [`list`] | lists, look-ups, and the sessions in `status` |
//! | [`change`] | what creates, changes, resets and deletes a session |
//! | `fields` | which fields of a session clients may set |
//! | `made` | what comes of the same `sessions.create` twice |
//! | `inject` | words that no agent has said |
//! | [`news`] | what clients are told of rows that were written |
//!
//! Everything here waits for the disk, so none of it is done on the thread of an edge.

mod change;
pub mod entry;
mod fields;
mod inject;
pub mod list;
mod made;
pub mod news;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adapters::edge::EdgeShared;
use adapters::edge::events::Event;
use adapters::openclaw::backend::{Answer, Outcome, OwnedCall};
use adapters::openclaw::event::EventName;
use adapters::openclaw::method::{Method, MethodSet};
use adapters::openclaw::params::Params;
use adapters::openclaw::session_key::{KEY_CHARS_MAX, agent_of, canonical};
use adapters::refusal::{RpcCode, RpcError};
use serde_json::json;
use sessions::store::StoreError;
use sessions::{ChangeError, ReadError, SessionRow, Sessions, Workspaces};
use tokio::sync::oneshot;

use super::{Facts, Known, files, history, json as write, now_ms, params, unknown};
use entry::Entry;
use made::Made;

/// What is served here.
pub const METHODS: MethodSet = MethodSet::of(&[
    Method::SessionsList,
    Method::SessionsResolve,
    Method::SessionsDescribe,
    Method::SessionsCreate,
    Method::SessionsPatch,
    Method::SessionsReset,
    Method::SessionsDelete,
    Method::ChatHistory,
    Method::ChatInject,
    Method::AgentsFilesList,
    Method::AgentsFilesGet,
    Method::AgentsFilesSet,
]);
/// How long a run may take to stop before a session is reset or deleted.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// When a session that could not be stopped may be tried again.
const BUSY_RETRY_MS: u64 = 1_000;

/// Sessions and workspaces, for all that work on them.
#[derive(Debug)]
pub struct Desk {
    /// The sessions. Arc: those who write rows have them too.
    pub sessions: Arc<Sessions>,
    /// Whom changes are told, and who knows what runs. Arc: the edges have it.
    edges: Arc<EdgeShared>,
    workspaces: Workspaces,
    made: Made,
}

/// A session whose runs did not stop in time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("Session {key} is still active; try again in a moment. It waits for {}", runs.join(", "))]
pub struct Busy {
    /// Its key.
    key: String,
    /// The runs that go on.
    runs: Vec<String>,
}

impl Desk {
    /// Over the sessions and workspaces of a state directory.
    pub fn new(sessions: Arc<Sessions>, edges: Arc<EdgeShared>, state_directory: &Path) -> Self {
        let workspaces = Workspaces::new(state_directory.join("agents"));
        Self { sessions, edges, workspaces, made: Made::default() }
    }

    /// Stops the runs of a session, and waits until they are over. Turns that came by another dialect are not runs.
    pub async fn stop(&self, key: &str) -> Result<(), Busy> {
        if self.edges.running_in(key).is_empty() {
            return Ok(());
        }
        let (sender, stopped) = oneshot::channel();
        let answer = Answer::new(move |_| {
            // Nobody waits any more once the time is over.
            let _ = sender.send(());
        });
        self.edges.stop_runs(Some(key), None, answer);
        // Whether it was in time or not: what counts is what runs now.
        let _ = tokio::time::timeout(STOP_PATIENCE, stopped).await;
        let runs: Vec<_> = self.edges.running_in(key).iter().map(|run| run.to_string()).collect();
        if runs.is_empty() { Ok(()) } else { Err(Busy { key: key.to_owned(), runs }) }
    }

    /// The key of a session that was named by an operator: as it is, or in short.
    pub fn named(&self, key: &str) -> Result<String, StoreError> {
        let is_there = self.sessions.get(key)?.is_some();
        let in_full = || canonical(key, &self.edges.about.default_agent).into_owned();
        Ok(if is_there { key.to_owned() } else { in_full() })
    }

    /// The run of a session that is not over.
    pub(super) fn run_in(&self, key: &str) -> Option<Arc<str>> {
        self.edges.running_in(key).into_iter().next()
    }

    /// Tells those who watch the list that a session has changed.
    pub fn tell_changed(&self, row: &SessionRow, reason: &str) {
        let run = self.run_in(&row.key);
        let session = Entry::of(row, run.as_deref());
        let told = json!({
            "sessionKey": row.key, "agentId": row.agent, "reason": reason, "ts": now_ms(), "session": session,
        });
        self.publish(EventName::SessionsChanged, &row.key, &row.agent, write(&told));
    }

    /// Tells those who watch the list that a session is there no more.
    pub fn tell_deleted(&self, row: &SessionRow) {
        let told = json!({
            "sessionKey": row.key, "agentId": row.agent, "reason": "delete", "ts": now_ms(),
        });
        self.publish(EventName::SessionsChanged, &row.key, &row.agent, write(&told));
    }

    fn publish(&self, name: EventName, key: &str, agent: &str, payload: Vec<u8>) {
        // Clients subscribe to keys in full; the key of a session that came by another dialect is none.
        let session = Some(canonical(key, agent).into());
        self.edges.publish(Event { session, ..Event::plain(name, payload) });
    }
}

/// Serves one of [`METHODS`].
pub(super) async fn serve(facts: Arc<Facts>, desk: Arc<Desk>, call: OwnedCall) -> Outcome {
    if matches!(call.method, Method::SessionsReset | Method::SessionsDelete) {
        let (call, key) = {
            let (facts, desk) = (Arc::clone(&facts), Arc::clone(&desk));
            let checked = blocking(move || {
                let key = change::check(&facts.known, &desk, call.method, &params(&call)?)?;
                Ok((call, key))
            });
            checked.await?
        };
        desk.stop(&key).await.map_err(|busy| of_busy(&busy))?;
        return blocking(move || of_disk(&facts, &desk, &call)).await;
    }
    blocking(move || of_disk(&facts, &desk, &call)).await
}

/// Does something on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RpcError> + Send + 'static,
) -> Result<T, RpcError> {
    let done = tokio::task::spawn_blocking(work).await;
    // It is given up when the runtime ends.
    done.unwrap_or_else(|_| Err(RpcError::unavailable("the gateway is going down")))
}

fn of_disk(facts: &Facts, desk: &Desk, call: &OwnedCall) -> Outcome {
    let (known, params) = (&facts.known, params(call)?);
    match call.method {
        Method::SessionsList => list::list(known, desk, &params),
        Method::SessionsResolve => list::resolve(known, desk, &params),
        Method::SessionsDescribe => list::describe(known, desk, &params),
        Method::SessionsCreate => made::once(known, desk, call, &params),
        Method::SessionsPatch => change::patch(known, desk, &params),
        Method::SessionsReset => change::reset(known, desk, &params),
        Method::SessionsDelete => change::delete(known, desk, &params),
        Method::ChatHistory => history::page(known, desk, &params),
        Method::ChatInject => inject::inject(facts, desk, &params),
        Method::AgentsFilesList => files::list(known, &desk.workspaces, &params),
        Method::AgentsFilesGet => files::get(known, &desk.workspaces, &params),
        Method::AgentsFilesSet => files::set(known, &desk.workspaces, &params),
        other => Err(unknown(other)),
    }
}

/// The key that a field names, in full. A session that came by another dialect is named as it is.
pub(super) fn key_of(
    known: &Known,
    desk: &Desk,
    params: &Params<'_>,
    field: &str,
) -> Result<String, RpcError> {
    let given = params.text(field).unwrap_or_default();
    let given = given.trim();
    let agent_id = params.text("agentId");
    if agent_of(given).is_none() && desk.sessions.get(given).map_err(|error| of_read(error.into()))?.is_some()
    {
        return Ok(given.to_owned());
    }
    let key = canonical(given, agent_id.as_deref().unwrap_or(&known.default_agent)).into_owned();
    if key.chars().count() > KEY_CHARS_MAX || key.chars().any(char::is_control) {
        let rule = format!("must be at most {KEY_CHARS_MAX} characters, none of them a control character");
        return Err(RpcError::invalid(format!("invalid session key: {rule}")));
    }
    let agent = agent_of(&key);
    if agent.is_none() {
        return Err(RpcError::invalid("invalid session key: it names neither an agent nor a session"));
    }
    if agent_id.as_deref().is_some_and(|named| agent != Some(named)) {
        return Err(RpcError::invalid(format!("agentId does not match the agent of session key '{key}'")));
    }
    Ok(key)
}

fn not_found(key: &str) -> RpcError {
    RpcError::invalid(format!("session not found: {key}"))
}

fn of_busy(busy: &Busy) -> RpcError {
    let details = json!({"code": "SESSION_ACTIVE", "runIds": busy.runs});
    let error = RpcError { retry_after_ms: Some(BUSY_RETRY_MS), ..RpcError::unavailable(busy.to_string()) };
    error.with_details(details)
}

/// Why a session cannot be changed, for clients. What is wrong with the disk is for the log.
fn of_change(error: ChangeError) -> RpcError {
    let changed =
        |message: String| RpcError::invalid(message).with_details(json!({"reason": "session-changed"}));
    match error {
        ChangeError::Unknown { key } => not_found(&key),
        ChangeError::LabelTaken { label, .. } => RpcError::invalid(format!("label already in use: {label}")),
        ChangeError::Another { key, .. } => {
            changed(format!("Session {key} changed; refresh and try again: it is another session now"))
        }
        ChangeError::Changed { key, what, .. } => {
            changed(format!("Session {key} changed; refresh and try again: its {what} is another"))
        }
        ChangeError::Invalid(_) | ChangeError::Exists { .. } => RpcError::invalid(error.to_string()),
        ChangeError::TooManySessions { .. } => RpcError::new(RpcCode::Unavailable, error.to_string()),
        ChangeError::Stalled { .. } | ChangeError::Closed => RpcError::unavailable(error.to_string()),
        ChangeError::Broken { .. } => RpcError::new(RpcCode::Unavailable, error.to_string()),
        ChangeError::Write(source) => {
            tracing::error!(error = &source as &dyn std::error::Error, "a session cannot be changed");
            RpcError::unavailable("the session cannot be written; the log of the gateway says why")
        }
    }
}

/// Why a session cannot be read, for clients.
pub(super) fn of_read(error: ReadError) -> RpcError {
    match error {
        ReadError::Unknown { key } => not_found(&key),
        error => {
            tracing::error!(error = &error as &dyn std::error::Error, "a session cannot be read");
            RpcError::unavailable("the session cannot be read; the log of the gateway says why")
        }
    }
}
