//! What clients are told of rows that were written: `session.message`, and `sessions.changed` for the list.
//!
//! Whoever writes rows says so and goes on. A row is read again, for the events, by the runtime of the control thread; as
//! long as no client is connected, none is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adapters::openclaw::event::EventName;
use serde_json::json;
use sessions::{NumberedRow, Role, RowKind};
use tokio::sync::Notify;

use super::Desk;
use super::entry::{Entry, Shown};
use crate::rpc::json as write;

/// Rows that wait to be told. Clients do without those beyond: they ask for the history when they want to know.
pub const ROWS_MAX: usize = 4_096;
/// Rows that are told together.
const BATCH_ROWS_MAX: usize = 256;

/// A row that was written: key of its session, and its id.
type Written = (String, String);

/// Rows that were written, until they are told. Any thread writes, the runtime of the control thread tells.
#[derive(Debug, Default)]
pub struct News {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: VecDeque<Written>,
    missed: u64,
}

impl News {
    /// A row stands in the transcript of its session. Waits for nothing.
    pub fn written(&self, key: &str, row_id: &str) {
        let mut waiting = self.lock();
        if waiting.rows.len() >= ROWS_MAX {
            waiting.missed += 1;
        } else {
            waiting.rows.push_back((key.to_owned(), row_id.to_owned()));
        }
        drop(waiting);
        self.bell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is complete before anything can panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next rows, the oldest first, and how many there was no room for.
    fn take(&self) -> (Vec<Written>, u64) {
        let mut waiting = self.lock();
        let count = waiting.rows.len().min(BATCH_ROWS_MAX);
        let missed = std::mem::take(&mut waiting.missed);
        (waiting.rows.drain(..count).collect(), missed)
    }
}

/// Tells for as long as the runtime goes on.
pub async fn tell(news: Arc<News>, desk: Arc<Desk>) {
    loop {
        let (rows, missed) = news.take();
        if missed > 0 {
            tracing::warn!(missed, "rows were written faster than clients can be told");
        }
        if rows.is_empty() {
            news.bell.notified().await;
        } else if desk.edges.presence.has_clients() {
            let desk = Arc::clone(&desk);
            // A batch that is given up when the runtime ends has nobody to be told to.
            let _ = tokio::task::spawn_blocking(move || tell_rows(&desk, &rows)).await;
        }
    }
}

/// Tells of rows, and of each of their sessions once.
fn tell_rows(desk: &Desk, rows: &[Written]) {
    let mut sessions = BTreeMap::new();
    for (key, id) in rows {
        match desk.sessions.message(key, id) {
            Ok(Some(told)) => {
                let is_sent = told.row.kind == RowKind::Message && told.row.message.role == Role::User;
                *sessions.entry(key).or_insert(false) |= is_sent;
                tell_row(desk, key, &told);
            }
            // Its session is gone already.
            Ok(None) | Err(sessions::ReadError::Unknown { .. }) => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, key, "a row cannot be told");
            }
        }
    }
    for (key, is_sent) in sessions {
        if let Ok(Some(row)) = desk.sessions.get(key) {
            desk.tell_changed(&row, if is_sent { "send" } else { "message" });
        }
    }
}

fn tell_row(desk: &Desk, key: &str, told: &NumberedRow) {
    let Ok(Some(row)) = desk.sessions.get(key) else { return };
    let run = desk.run_in(key);
    let payload = json!({
        "sessionKey": key,
        "agentId": row.agent,
        "messageId": told.row.id,
        "messageSeq": told.number + 1,
        "message": Shown::of(told, None),
        "session": Entry::of(&row, run.as_deref()),
    });
    desk.publish(EventName::SessionMessage, key, &row.agent, write(&payload));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What waits is bounded, comes in order, and what there is no room for is counted.
    #[test]
    fn rows_that_wait_are_bounded() {
        let news = News::default();
        (0..ROWS_MAX + 3).for_each(|number| news.written("k", &number.to_string()));
        let (first, missed) = news.take();
        assert_eq!((first.len(), missed), (BATCH_ROWS_MAX, 3));
        assert_eq!((first[0].1.as_str(), first[255].1.as_str()), ("0", "255"));
        let mut rest = 0;
        while let (rows, 0) = news.take()
            && !rows.is_empty()
        {
            rest += rows.len();
        }
        assert_eq!(rest + first.len(), ROWS_MAX);
    }
}
