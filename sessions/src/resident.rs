//! What is in memory of all sessions, shared by the thread that writes and by those that ask.
//!
//! **Who may touch what.** 1. Only the writer changes anything but the cache. 2. What the writer is about to store is
//! `pending` from before until after: a reader never takes a row out of the store that is older than what it has been
//! told. 3. Readers load under the lock, so that what they put into the cache is not older either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::index::{Index, Page, Query};
use crate::row::{SessionId, SessionRow};
use crate::store::{SessionStore, StoreError};

/// Most rows kept in memory beside those that are being written.
pub const ROWS_CACHED_MAX: usize = 8192;

/// Rows that were used lately. One that is needed takes the place of one that has not been used since the hand last came
/// by, so that nobody ever waits until many are forgotten at once.
#[derive(Debug, Default)]
struct Cache {
    /// Rows, and whether they have been used since.
    rows: Vec<(Arc<SessionRow>, bool)>,
    by_id: HashMap<SessionId, usize>,
    hand: usize,
}

impl Cache {
    fn get(&mut self, session: SessionId) -> Option<Arc<SessionRow>> {
        let (row, used) = &mut self.rows[*self.by_id.get(&session)?];
        *used = true;
        Some(Arc::clone(row))
    }

    fn put(&mut self, row: Arc<SessionRow>) {
        let session = row.session_id;
        if let Some(place) = self.by_id.get(&session) {
            self.rows[*place] = (row, true);
            return;
        }
        if self.rows.len() < ROWS_CACHED_MAX {
            self.by_id.insert(session, self.rows.len());
            self.rows.push((row, false));
            return;
        }
        while std::mem::take(&mut self.rows[self.hand].1) {
            self.hand = (self.hand + 1) % ROWS_CACHED_MAX;
        }
        let (forgotten, _) = std::mem::replace(&mut self.rows[self.hand], (row, false));
        self.by_id.remove(&forgotten.session_id);
        self.by_id.insert(session, self.hand);
        self.hand = (self.hand + 1) % ROWS_CACHED_MAX;
    }

    fn remove(&mut self, session: SessionId) {
        let Some(place) = self.by_id.remove(&session) else { return };
        self.rows.swap_remove(place);
        if let Some((moved, _)) = self.rows.get(place) {
            self.by_id.insert(moved.session_id, place);
        }
        self.hand = 0;
    }
}

#[derive(Debug, Default)]
struct Held {
    index: Index,
    cache: Cache,
    pending: HashMap<SessionId, Arc<SessionRow>>,
}

/// See the module.
#[derive(Debug)]
pub struct Resident {
    store: Arc<dyn SessionStore>,
    held: Mutex<Held>,
}

impl Resident {
    /// Over a store, of which nothing has been read yet.
    pub fn new(store: Arc<dyn SessionStore>, index: Index) -> Self {
        Self { store, held: Mutex::new(Held { index, ..Held::default() }) }
    }

    /// Where rows come from.
    pub fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    /// How many sessions there are.
    pub fn count(&self) -> usize {
        self.held().index.count()
    }

    /// Something of the index.
    pub fn index<T>(&self, ask: impl FnOnce(&Index) -> T) -> T {
        ask(&self.held().index)
    }

    /// A session.
    pub fn row(&self, session: SessionId) -> Result<Option<Arc<SessionRow>>, StoreError> {
        let mut held = self.held();
        if !held.index.has(session) {
            return Ok(None);
        }
        Ok(load(&mut held, &*self.store, &[session])?.pop())
    }

    /// The session with that key.
    pub fn with_key(&self, key: &str) -> Result<Option<Arc<SessionRow>>, StoreError> {
        let mut held = self.held();
        let Some(session) = held.index.with_key(key) else { return Ok(None) };
        Ok(load(&mut held, &*self.store, &[session])?.pop())
    }

    /// A page of sessions.
    pub fn list(&self, query: &Query) -> Result<Page<Arc<SessionRow>>, StoreError> {
        let mut held = self.held();
        let Page { sessions, total, next_offset, visited } = held.index.list(query);
        let rows = load(&mut held, &*self.store, &sessions)?;
        Ok(Page { sessions: rows, total, next_offset, visited })
    }

    /// These rows are about to be stored.
    pub fn publish(&self, rows: &[Arc<SessionRow>]) {
        let mut held = self.held();
        for row in rows {
            held.index.put(row);
            held.pending.insert(row.session_id, Arc::clone(row));
        }
    }

    /// What was published is stored.
    pub fn settle(&self) {
        let mut held = self.held();
        let rows = std::mem::take(&mut held.pending);
        rows.into_values().for_each(|row| held.cache.put(row));
    }

    /// A session is not there any more, neither here nor in the store.
    pub fn remove(&self, session: SessionId) {
        let mut held = self.held();
        held.index.remove(session);
        held.cache.remove(session);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Whoever panicked here ends the process; until then what is held is whole enough to be read.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows of sessions, in the order of the sessions: those that are not in memory with one question to the store.
fn load(
    held: &mut Held,
    store: &dyn SessionStore,
    sessions: &[SessionId],
) -> Result<Vec<Arc<SessionRow>>, StoreError> {
    let Held { cache, pending, .. } = held;
    let mut rows = HashMap::new();
    let mut missing = Vec::new();
    for session in sessions {
        match pending.get(session).map(Arc::clone).or_else(|| cache.get(*session)) {
            Some(row) => drop(rows.insert(*session, row)),
            None => missing.push(*session),
        }
    }
    if !missing.is_empty() {
        store.sessions(&missing, &mut |row| {
            let row = Arc::new(row);
            cache.put(Arc::clone(&row));
            rows.insert(row.session_id, row);
        })?;
    }
    Ok(sessions.iter().filter_map(|session| rows.remove(session)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: usize) -> Arc<SessionRow> {
        Arc::new(SessionRow::new(&format!("k{number}"), "main", "test", number as u64))
    }

    /// Never more than the limit are kept; one that is used stays, one that is not goes, and what is found is the newest
    /// that was put there.
    #[test]
    fn the_cache_forgets_what_is_not_used() {
        let mut cache = Cache::default();
        let rows: Vec<_> = (0..ROWS_CACHED_MAX * 2).map(row).collect();
        for (number, row) in rows.iter().enumerate() {
            cache.put(Arc::clone(row));
            assert!(cache.get(rows[0].session_id).is_some(), "the first one is used all the time");
            assert!(cache.rows.len() <= ROWS_CACHED_MAX);
            assert_eq!(cache.by_id.len(), cache.rows.len(), "after {number}");
        }
        let kept = rows.iter().filter(|row| cache.by_id.contains_key(&row.session_id)).count();
        assert_eq!(kept, ROWS_CACHED_MAX);
        assert!(cache.get(rows[1].session_id).is_none());

        let changed = Arc::new(SessionRow { updated_ms: 7, ..(*rows[0]).clone() });
        cache.put(Arc::clone(&changed));
        assert_eq!(cache.get(changed.session_id), Some(changed));
        for row in &rows[..rows.len() - 1] {
            cache.remove(row.session_id);
            assert!(cache.get(row.session_id).is_none());
        }
        let last = rows.last().expect("there are rows");
        assert_eq!((cache.rows.len(), cache.get(last.session_id).as_ref()), (1, Some(last)));
        cache.put(Arc::clone(&rows[3]));
        assert_eq!(cache.get(rows[3].session_id).as_ref(), Some(&rows[3]));
    }
}
