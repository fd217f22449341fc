//! All sessions in memory, as far as lists and look-ups need them.
//!
//! Whole rows stay in the store. What is here is about 400 bytes a session, so that a list touches a page of rows and
//! never all of them.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use memchr::memmem::Finder;

use crate::ranking::{Ranked, Ranking};
use crate::row::{SessionId, SessionRow};
use crate::search::{Hits, Texts, folded};

/// Most sessions of an index.
pub const SESSIONS_MAX: usize = 1_000_000;
/// Most sessions of a page.
pub const LIST_LIMIT_MAX: usize = 1000;

/// Which sessions are wanted; the newest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// How many at most; never more than [`LIST_LIMIT_MAX`].
    pub limit: usize,
    /// How many of the newest are left out.
    pub offset: usize,
    /// Of this agent only.
    pub agent: Option<String>,
    /// Changed at this time or later, Unix milliseconds.
    pub active_since_ms: Option<u64>,
    /// With this in the key or the label, in any case.
    pub search: Option<String>,
    /// With exactly this label.
    pub label: Option<String>,
    /// Only those that are put aside, or that are not; `None` for all.
    pub archived: Option<bool>,
    /// Only those that are pinned, or that are not; `None` for all.
    pub pinned: Option<bool>,
    /// Only those in which something was said.
    pub spoken: bool,
    /// Of these agents only; `None` for all.
    pub agents: Option<Vec<String>>,
}

impl Query {
    /// Whether each session has to be looked at.
    fn is_particular(&self) -> bool {
        self.pinned.is_some() || self.spoken || self.agents.is_some()
    }
}

impl Default for Query {
    fn default() -> Self {
        Self {
            limit: 100,
            offset: 0,
            agent: None,
            active_since_ms: None,
            search: None,
            label: None,
            archived: Some(false),
            pinned: None,
            spoken: false,
            agents: None,
        }
    }
}

/// A page of a list.
#[derive(Clone, PartialEq, Debug)]
pub struct Page<T> {
    /// The newest first.
    pub sessions: Vec<T>,
    /// How many the query has; `None` where that would mean to look at all of them.
    pub total: Option<usize>,
    /// Where the next page begins, if there is one.
    pub next_offset: Option<usize>,
    /// How many steps it took: places of lists and texts of sessions looked at.
    pub visited: usize,
}

#[derive(Debug)]
struct Entry {
    key: Arc<str>,
    session_id: SessionId,
    agent: u32,
    updated_ms: u64,
    archived: bool,
    pinned: bool,
    spoken: bool,
    label: Option<Arc<str>>,
}

/// Which sessions a ranking has: of one agent or all, put aside or not or both.
type Scope = (Option<u32>, Option<bool>);

/// All sessions.
#[derive(Debug, Default)]
pub struct Index {
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_key: HashMap<Arc<str>, u32>,
    by_id: HashMap<SessionId, u32>,
    by_label: HashMap<Arc<str>, u32>,
    agents: HashMap<Box<str>, u32>,
    rankings: HashMap<Scope, Ranking>,
    texts: Texts,
}

impl Index {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_id.len()
    }

    /// The session with that key.
    pub fn with_key(&self, key: &str) -> Option<SessionId> {
        self.id_at(*self.by_key.get(key)?)
    }

    /// The session with that label.
    pub fn with_label(&self, label: &str) -> Option<SessionId> {
        self.id_at(*self.by_label.get(label)?)
    }

    /// Whether it is here.
    pub fn has(&self, session: SessionId) -> bool {
        self.by_id.contains_key(&session)
    }

    /// Takes a session in, or what is new of it.
    pub fn put(&mut self, row: &SessionRow) {
        let agent = self.agent(&row.agent);
        let known = self.by_id.get(&row.session_id).copied();
        let unchanged = |entry: &Entry| {
            *entry.key == *row.key && entry.agent == agent && entry.label.as_deref() == row.label.as_deref()
        };
        if let Some(slot) = known
            && let Some(Some(entry)) = self.slots.get_mut(slot as usize)
            && unchanged(entry)
        {
            let before = (entry.updated_ms, entry.archived);
            (entry.updated_ms, entry.archived) = (row.updated_ms, row.archived);
            (entry.pinned, entry.spoken) = (row.is_pinned(), row.message_count() > 0);
            if before != (row.updated_ms, row.archived) {
                self.unrank(agent, before.1, (before.0, slot));
                self.rank(agent, row.archived, (row.updated_ms, slot));
            }
            return;
        }
        self.remove(row.session_id);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("an index has a limit below this")
        });
        let (key, label) = (Arc::<str>::from(row.key.as_str()), row.label.as_deref().map(Arc::<str>::from));
        self.by_key.insert(Arc::clone(&key), slot);
        self.by_id.insert(row.session_id, slot);
        if let Some(label) = &label {
            self.by_label.insert(Arc::clone(label), slot);
        }
        self.texts.set(slot, &format!("{key}\n{}", label.as_deref().unwrap_or_default()));
        self.rank(agent, row.archived, (row.updated_ms, slot));
        self.slots[slot as usize] = Some(Entry {
            key,
            session_id: row.session_id,
            agent,
            updated_ms: row.updated_ms,
            archived: row.archived,
            pinned: row.is_pinned(),
            spoken: row.message_count() > 0,
            label,
        });
    }

    /// Takes a session out.
    pub fn remove(&mut self, session: SessionId) {
        let Some(slot) = self.by_id.remove(&session) else { return };
        let Some(entry) = self.slots[slot as usize].take() else { return };
        self.by_key.remove(&entry.key);
        if let Some(label) = &entry.label {
            self.by_label.remove(label);
        }
        self.texts.remove(slot);
        self.unrank(entry.agent, entry.archived, (entry.updated_ms, slot));
        self.free.push(slot);
    }

    /// A page of those that the query wants.
    pub fn list(&self, query: &Query) -> Page<SessionId> {
        let limit = query.limit.min(LIST_LIMIT_MAX);
        let nothing = Page { sessions: Vec::new(), total: Some(0), next_offset: None, visited: 1 };
        let agent = match &query.agent {
            None => None,
            Some(name) => match self.agents.get(name.as_str()) {
                None => return nothing,
                known => known.copied(),
            },
        };
        let Some(ranking) = self.rankings.get(&(agent, query.archived)) else { return nothing };
        let since = query.active_since_ms.unwrap_or(0);
        let named = query.agents.as_ref().map(|names| {
            let known = names.iter().filter_map(|name| self.agents.get(name.as_str()).copied());
            known.collect::<HashSet<_>>()
        });
        let wanted = |entry: &Entry| {
            agent.is_none_or(|agent| entry.agent == agent)
                && query.archived.is_none_or(|archived| entry.archived == archived)
                && entry.updated_ms >= since
                && query.pinned.is_none_or(|pinned| entry.pinned == pinned)
                && (!query.spoken || entry.spoken)
                && named.as_ref().is_none_or(|named| named.contains(&entry.agent))
        };
        let word = query.search.as_deref().filter(|word| !word.is_empty()).map(folded);
        let word = word.as_deref().map(Finder::new);

        if let Some(label) = &query.label {
            let slot = self.by_label.get(label.as_str()).copied();
            let slot = slot.filter(|&slot| word.as_ref().is_none_or(|word| self.texts.holds(slot, word)));
            return self.page_of(slot.into_iter().collect(), wanted, limit, query.offset);
        }
        match word.map(|word| (self.texts.search(&word), word)) {
            Some((Hits::Few(slots), _)) => self.page_of(slots, wanted, limit, query.offset),
            Some((Hits::Many, word)) => {
                let holds = |slot, entry: &Entry| self.texts.holds(slot, &word) && wanted(entry);
                self.walk(ranking, since, holds, limit, query.offset)
            }
            None if query.is_particular() => {
                self.walk(ranking, since, |_, entry: &Entry| wanted(entry), limit, query.offset)
            }
            None => {
                let (older, looked) = ranking.older_than(since);
                let total = ranking.count() - older;
                let (newest, stepped) = ranking.newest(query.offset);
                let count = limit.min(total.saturating_sub(query.offset));
                let sessions: Vec<_> = newest.take(count).filter_map(|(_, slot)| self.id_at(slot)).collect();
                let next = query.offset.saturating_add(count);
                let next_offset = (next < total && count > 0).then_some(next);
                Page { visited: looked + stepped + count, sessions, total: Some(total), next_offset }
            }
        }
    }

    /// Sessions that are not put aside and have not changed since, the oldest last; at most so many.
    pub fn idle_since(&self, agent: Option<&str>, before_ms: u64, count_max: usize) -> Vec<SessionId> {
        let agent = match agent.map(|name| self.agents.get(name)) {
            Some(None) => return Vec::new(),
            Some(known) => known.copied(),
            None => None,
        };
        let Some(ranking) = self.rankings.get(&(agent, Some(false))) else { return Vec::new() };
        let newer = ranking.count() - ranking.older_than(before_ms).0;
        ranking.newest(newer).0.take(count_max).filter_map(|(_, slot)| self.id_at(slot)).collect()
    }

    /// A page of a few that are known by slot.
    fn page_of(
        &self,
        mut slots: Vec<u32>,
        wanted: impl Fn(&Entry) -> bool,
        limit: usize,
        offset: usize,
    ) -> Page<SessionId> {
        let visited = slots.len();
        slots.retain(|&slot| self.entry(slot).is_some_and(&wanted));
        slots.sort_unstable_by_key(|&slot| Reverse((self.entry(slot).map(|entry| entry.updated_ms), slot)));
        let rest = slots.iter().skip(offset).take(limit);
        let sessions: Vec<_> = rest.filter_map(|&slot| self.id_at(slot)).collect();
        let next = offset.saturating_add(sessions.len());
        let next_offset = (next < slots.len() && !sessions.is_empty()).then_some(next);
        Page { sessions, total: Some(slots.len()), next_offset, visited }
    }

    /// A page of what many have: from the newest on until the page is full.
    fn walk(
        &self,
        ranking: &Ranking,
        since: u64,
        holds: impl Fn(u32, &Entry) -> bool,
        limit: usize,
        offset: usize,
    ) -> Page<SessionId> {
        let mut visited = 0;
        let (newest, _) = ranking.newest(0);
        let mut found = newest
            .take_while(|(updated_ms, _)| *updated_ms >= since)
            .inspect(|_| visited += 1)
            .filter(|&(_, slot)| self.entry(slot).is_some_and(|entry| holds(slot, entry)))
            .skip(offset);
        let slots: Vec<_> = found.by_ref().take(limit).collect();
        let more = !slots.is_empty() && found.next().is_some();
        drop(found);
        let next_offset = more.then_some(offset.saturating_add(slots.len()));
        let sessions = slots.into_iter().filter_map(|(_, slot)| self.id_at(slot)).collect();
        Page { sessions, total: None, next_offset, visited }
    }

    fn entry(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn id_at(&self, slot: u32) -> Option<SessionId> {
        Some(self.entry(slot)?.session_id)
    }

    fn agent(&mut self, name: &str) -> u32 {
        if let Some(known) = self.agents.get(name) {
            return *known;
        }
        let index = u32::try_from(self.agents.len()).expect("there are fewer agents than sessions");
        self.agents.insert(name.into(), index);
        index
    }

    fn rank(&mut self, agent: u32, archived: bool, entry: Ranked) {
        for scope in scopes(agent, archived) {
            self.rankings.entry(scope).or_default().insert(entry);
        }
    }

    fn unrank(&mut self, agent: u32, archived: bool, entry: Ranked) {
        for scope in scopes(agent, archived) {
            let removed = self.rankings.get_mut(&scope).is_some_and(|ranking| ranking.remove(entry));
            debug_assert!(removed);
        }
    }
}

/// The rankings that a session is in.
fn scopes(agent: u32, archived: bool) -> [Scope; 4] {
    [(None, None), (None, Some(archived)), (Some(agent), None), (Some(agent), Some(archived))]
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
