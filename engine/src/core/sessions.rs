//! The sessions of a shard: created on their first message, one turn at a time, forgotten when idle.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use shm_transport::envelope::{Route, StoredBody};

use crate::time::Moment;

/// Separates the parts of a session key. Edges refuse control characters in ids, so no part holds it.
const SEPARATOR: char = '\u{1f}';

/// A message that waits for the turns before it.
#[derive(Debug)]
pub struct Waiting {
    /// Its routing words, with its turn.
    pub route: Route,
    /// Its class, for the queue of its agent.
    pub priority: u8,
    /// What it says.
    pub body: StoredBody,
}

#[derive(Debug)]
struct Session {
    /// Also the key in the table; empty for a free place.
    key: Box<str>,
    /// The turn at an agent, if any.
    active: Option<u64>,
    waiting: VecDeque<Waiting>,
    last_active: Moment,
    /// Whether the session stands in the idle list.
    listed: bool,
}

/// The table.
#[derive(Debug)]
pub struct Sessions {
    // Keyed by the whole key, so that a collision of hashes cannot join two sessions.
    by_key: HashMap<Box<str>, usize>,
    places: Vec<Session>,
    free: Vec<usize>,
    /// Sessions that were idle once, oldest first; each is looked at again when its time has come.
    idle: VecDeque<(Moment, usize)>,
    waiting: usize,
    sessions_max: usize,
    idle_after: Duration,
    /// Reused for look-ups.
    scratch: String,
}

impl Sessions {
    /// An empty table.
    pub fn new(sessions_max: usize, idle_after: Duration) -> Self {
        Self {
            by_key: HashMap::new(),
            places: Vec::new(),
            free: Vec::new(),
            idle: VecDeque::new(),
            waiting: 0,
            sessions_max,
            idle_after,
            scratch: String::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// How many messages wait for the turns before them.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The place of a session, made if it is new; `None` if the table is full.
    pub fn find_or_create(&mut self, now: Moment, channel: &str, user: &str, thread: &str) -> Option<usize> {
        self.scratch.clear();
        self.scratch.extend([channel, "\u{1f}", user, "\u{1f}", thread]);
        debug_assert_eq!(self.scratch.matches(SEPARATOR).count(), 2);
        if let Some(&slot) = self.by_key.get(self.scratch.as_str()) {
            self.places[slot].last_active = now;
            return Some(slot);
        }
        if self.by_key.len() >= self.sessions_max {
            return None;
        }
        let key: Box<str> = self.scratch.as_str().into();
        let session = Session {
            key: key.clone(),
            active: None,
            waiting: VecDeque::new(),
            last_active: now,
            listed: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.places[slot] = session;
                slot
            }
            None => {
                self.places.push(session);
                self.places.len() - 1
            }
        };
        self.by_key.insert(key, slot);
        Some(slot)
    }

    /// How many messages of a session wait.
    pub fn queue_len(&self, slot: usize) -> usize {
        self.places[slot].waiting.len()
    }

    /// `true`: the turn is at work now. `false`: it waits, and has been stored.
    pub fn begin_or_wait(&mut self, slot: usize, turn: u64, store: impl FnOnce() -> Waiting) -> bool {
        let session = &mut self.places[slot];
        if session.active.is_none() && session.waiting.is_empty() {
            session.active = Some(turn);
            return true;
        }
        session.waiting.push_back(store());
        self.waiting += 1;
        false
    }

    /// The turn at work has ended.
    pub fn end(&mut self, now: Moment, slot: usize) {
        let session = &mut self.places[slot];
        session.active = None;
        session.last_active = now;
        if session.waiting.is_empty() && !session.listed {
            session.listed = true;
            self.idle.push_back((now.plus(self.idle_after), slot));
        }
    }

    /// Begins the next waiting turn, if none is at work.
    pub fn begin_next(&mut self, slot: usize) -> Option<Waiting> {
        let session = &mut self.places[slot];
        if session.active.is_some() {
            return None;
        }
        let next = session.waiting.pop_front()?;
        session.active = Some(next.route.turn);
        self.waiting -= 1;
        if session.waiting.is_empty() {
            // An idle session must not keep the memory of its busiest hour.
            session.waiting = VecDeque::new();
        }
        Some(next)
    }

    /// When [`Self::expire`] has something to look at.
    pub fn next_expiry(&self) -> Option<Moment> {
        self.idle.front().map(|&(moment, _)| moment)
    }

    /// Forgets the sessions that have been idle for long enough.
    pub fn expire(&mut self, now: Moment) {
        while self.idle.front().is_some_and(|&(moment, _)| moment <= now) {
            let Some((_, slot)) = self.idle.pop_front() else { return };
            let session = &mut self.places[slot];
            let until = session.last_active.plus(self.idle_after);
            if session.active.is_some() || !session.waiting.is_empty() {
                // Busy: it is listed again when it ends.
                session.listed = false;
            } else if until > now {
                self.idle.push_back((until, slot));
            } else {
                session.listed = false;
                self.by_key.remove(&session.key);
                session.key = "".into();
                self.free.push(slot);
            }
        }
    }
}
