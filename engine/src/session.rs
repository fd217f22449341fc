//! Which sessions a shard has, what each remembers, and when it is forgotten.
//!
//! A session is found by its key, (namespace, channel, user, thread), and the key's hash. It works on one turn at a
//! time; others wait in its queue. Every operation takes constant time, whether there is one session or a million:
//! the index is in [`INDEX_PARTS`] parts, so that one growing part is all that an insertion ever pays for, and
//! sessions and timers lie in pages that never move. Nothing is reserved ahead.
//!
//! # Life cycle
//!
//! | state \ event | `Message` | `Quiet` | `TimedOut` | `Reactivated` |
//! |---|---|---|---|---|
//! | `Init` | `Active` | – | `Expired` | – |
//! | `Active` | `Active` | `Dormant` | – | – |
//! | `Dormant` | – | – | `Expired` | `Active` |
//! | `Expired` | – | – | – | `Active` |
//!
//! `–` is an invalid transition and changes nothing. A session is `Init` until its first message, and expires from
//! there if none comes. It is `Quiet` after [`SessionLimits::dormant_after`] without a message or the end of a turn,
//! and `TimedOut` after another [`SessionLimits::expire_after`]. With open work it is neither. An expired session
//! leaves the table as a [`SessionRecord`]; [`Sessions::restore`] brings it back.
//!
//! # Rules
//!
//! 1. A session has exactly one timer. A message does not move it: when it fires too early it is started again.
//!    Only a reactivation moves it, since the timer of a dormant session is far away.
//! 2. A session with open work is `Active`.
//! 3. A [`SessionIndex`] names its session until the event that it has expired. Then its place is used again.

mod attributes;
mod change;
mod key;
mod life;
mod line;
mod record;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::time::Duration;

use hashbrown::HashTable;
use shm_transport::envelope::{Priority, SessionMode};

use crate::event::AgentIndex;
use crate::paged::Paged;
use crate::time::Moment;
use crate::wheel::{TimerId, Wheel};
pub use key::{SessionKey, StoredKey};
pub use life::{InvalidTransition, LifeEvent, State};
use line::Line;
pub use record::{SessionConfiguration, SessionRecord, StreamPosition};

/// In how many parts the index is. With a million sessions a part has a thousand: when it grows, the hash of each is
/// read once.
pub const INDEX_PARTS: usize = 1024;
/// How many timers one call of [`Sessions::expire`] looks at.
pub const TIMERS_PER_CALL_MAX: usize = 256;

const _: () = assert!(INDEX_PARTS.is_power_of_two(), "a part is chosen by bits of the hash");

/// What the table may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions in the table.
    pub sessions_max: usize,
    /// Messages of one session that wait for their turn.
    pub session_queue_max: usize,
    /// A session with nothing to do for so long goes dormant.
    pub dormant_after: Duration,
    /// A dormant session is forgotten after so much more.
    pub expire_after: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions_max: 1_000_000,
            session_queue_max: 1024,
            dormant_after: Duration::from_secs(5 * 60),
            expire_after: Duration::from_secs(25 * 60),
        }
    }
}

/// Names a session for as long as it is in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct SessionIndex(pub u32);

/// A session that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the table holds {sessions_max} sessions already")]
pub struct TableFull {
    /// How many it may hold.
    pub sessions_max: usize,
}

/// What became of a turn that was given to its session.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// It is the session's turn now.
    Now,
    /// It waits for those before it.
    Waiting,
    /// As many wait as may: try again later.
    Full,
}

/// What time did to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// It has been quiet for long.
    BecameDormant(SessionIndex),
    /// It has left the table. The index names nothing any more.
    Expired(SessionIndex, SessionRecord),
}

#[derive(Debug)]
struct Session {
    key: StoredKey,
    hash: u64,
    configuration: Option<Box<SessionConfiguration>>,
    active_turn: Option<u64>,
    /// Not there if nothing waits: an idle session does not keep the memory of its busiest hour.
    waiting: Option<Box<Line>>,
    last_active: Moment,
    timer: TimerId,
    stream: StreamPosition,
    agent: Option<AgentIndex>,
    state: State,
    mode: SessionMode,
    activated: bool,
}

impl Session {
    fn has_work(&self) -> bool {
        self.active_turn.is_some() || self.waiting.is_some()
    }
}

/// The least that an idle session costs is this, its key, a timer and its share of the index.
const _: () = assert!(size_of::<Place>() <= 112, "a million idle sessions have to fit");

#[derive(Debug)]
enum Place {
    Used(Session),
    Free { next: Option<u32> },
}

/// The table.
#[derive(Debug)]
pub struct Sessions {
    limits: SessionLimits,
    index: Box<[HashTable<u32>]>,
    places: Paged<Place>,
    free: Option<u32>,
    timers: Wheel<u32>,
    /// By [`State`].
    counts: [usize; State::ALL.len()],
    waiting: usize,
}

/// The part of the index that a hash belongs to.
fn part_of(hash: u64) -> usize {
    hash as usize % INDEX_PARTS
}

/// The hash as the index takes it. Sessions of a shard have the top bits in common, of which the index makes its
/// tags, and those of a part the lowest ones, of which it makes places.
fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}

impl Sessions {
    /// An empty table.
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            index: (0..INDEX_PARTS).map(|_| HashTable::new()).collect(),
            places: Paged::new(),
            free: None,
            timers: Wheel::new(),
            counts: [0; State::ALL.len()],
            waiting: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them are in a state.
    pub fn count(&self, state: State) -> usize {
        self.counts[state as usize]
    }

    /// How many turns wait for those before them.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The session with a key. `hash` is that of the key; sessions with the same hash are told apart.
    ///
    /// HOT: no allocation; one comparison of keys for each session with the same hash.
    pub fn find(&self, hash: u64, key: &SessionKey<'_>) -> Option<SessionIndex> {
        let matches = |&index: &u32| {
            let session = self.session(SessionIndex(index));
            session.hash == hash && session.key.is(key)
        };
        self.index[part_of(hash)].find(spread(hash), matches).map(|&index| SessionIndex(index))
    }

    /// The session with a key, made if it is new. The mode is for a new one.
    ///
    /// HOT: one that is found costs no allocation.
    pub fn find_or_create(
        &mut self,
        now: Moment,
        hash: u64,
        key: &SessionKey<'_>,
        mode: SessionMode,
    ) -> Result<(SessionIndex, bool), TableFull> {
        if let Some(index) = self.find(hash, key) {
            return Ok((index, false));
        }
        self.has_room()?;
        let record = SessionRecord::new(hash, StoredKey::new(key), mode);
        Ok((self.insert(now, record, State::Init), true))
    }

    /// Brings an expired session back, as `Active`; from its record, also after a restart. If the table has one with
    /// its key meanwhile, that one stays as it is.
    pub fn restore(&mut self, now: Moment, record: SessionRecord) -> Result<SessionIndex, TableFull> {
        if let Some(index) = self.find(record.hash, &record.key.parts()) {
            return Ok(index);
        }
        self.has_room()?;
        Ok(self.restore_regardless(now, record))
    }

    /// As [`Self::restore`], also into a full table: what has been accepted has a session.
    pub fn restore_regardless(&mut self, now: Moment, record: SessionRecord) -> SessionIndex {
        if let Some(index) = self.find(record.hash, &record.key.parts()) {
            return index;
        }
        let index = self.insert(now, record, State::Expired);
        self.change(index, LifeEvent::Reactivated);
        index
    }

    fn has_room(&self) -> Result<(), TableFull> {
        let sessions_max = self.limits.sessions_max;
        if self.len() < sessions_max { Ok(()) } else { Err(TableFull { sessions_max }) }
    }

    #[cold]
    fn insert(&mut self, now: Moment, record: SessionRecord, state: State) -> SessionIndex {
        let index = self.free.unwrap_or_else(|| self.places.push(Place::Free { next: None }));
        let Place::Free { next } = self.places[index] else {
            unreachable!("a free place has no session");
        };
        self.free = next;
        let timer = self.timers.insert(now.plus(self.limits.dormant_after), index);
        let SessionRecord { key, hash, mode, activated, agent, configuration, stream } = record;
        self.places[index] = Place::Used(Session {
            key,
            hash,
            configuration,
            active_turn: None,
            waiting: None,
            last_active: now,
            timer,
            stream,
            agent,
            state,
            mode,
            activated,
        });
        self.counts[state as usize] += 1;
        let places = &self.places;
        let hash_of = |&index: &u32| match &places[index] {
            Place::Used(session) => spread(session.hash),
            Place::Free { .. } => unreachable!("the index names sessions only"),
        };
        self.index[part_of(hash)].insert_unique(spread(hash), index, hash_of);
        SessionIndex(index)
    }

    /// A message for the session has come: to be called for each, before its turn is given to the session. Says in
    /// which state the session was.
    ///
    /// HOT: no allocation. The timer is moved only for a dormant session.
    pub fn touch(&mut self, now: Moment, index: SessionIndex) -> State {
        let limits = self.limits;
        let session = self.session_mut(index);
        let before = session.state;
        session.last_active = now;
        if before == State::Dormant {
            let timer = session.timer;
            self.timers.cancel(timer);
            self.rearm(index, now.plus(limits.dormant_after));
            self.change(index, LifeEvent::Reactivated);
        } else {
            self.change(index, LifeEvent::Message);
        }
        before
    }

    /// Gives a turn to its session. More urgent ones overtake those that wait, unless the session keeps strict order.
    ///
    /// HOT: allocates only for the first one that waits, and when more wait than before.
    pub fn begin_or_wait(&mut self, index: SessionIndex, turn: u64, class: Priority) -> Begin {
        self.begin_or_wait_behind(index, turn, class, self.limits.session_queue_max)
    }

    /// As [`Self::begin_or_wait`], but never `Full`: for a turn that has been accepted before.
    pub fn begin_or_wait_regardless(&mut self, index: SessionIndex, turn: u64, class: Priority) -> Begin {
        self.begin_or_wait_behind(index, turn, class, usize::MAX)
    }

    #[inline]
    fn begin_or_wait_behind(
        &mut self,
        index: SessionIndex,
        turn: u64,
        class: Priority,
        queue_max: usize,
    ) -> Begin {
        let session = self.session_mut(index);
        debug_assert_eq!(session.state, State::Active, "rule 2: a message touches its session first");
        if !session.has_work() {
            session.active_turn = Some(turn);
            return Begin::Now;
        }
        if session.waiting.as_ref().map_or(0, |line| line.len()) >= queue_max {
            return Begin::Full;
        }
        // In strict order all have the same class.
        let class = if session.mode == SessionMode::Queue { Priority::Normal } else { class };
        session.waiting.get_or_insert_default().push(class, turn);
        self.waiting += 1;
        Begin::Waiting
    }

    /// The turn at work has ended. Gives its name.
    pub fn end(&mut self, now: Moment, index: SessionIndex) -> Option<u64> {
        let session = self.session_mut(index);
        session.last_active = now;
        session.active_turn.take()
    }

    /// Begins the turn that is next, if none is at work.
    pub fn begin_next(&mut self, index: SessionIndex) -> Option<u64> {
        let session = self.session_mut(index);
        if session.active_turn.is_some() {
            return None;
        }
        let line = session.waiting.as_mut()?;
        session.active_turn = line.pop();
        if line.len() == 0 {
            session.waiting = None;
        }
        let begun = session.active_turn;
        self.waiting -= 1;
        begun
    }

    /// Takes a turn out of the queue, which ends it; `false` if it does not wait.
    pub fn remove_waiting(&mut self, now: Moment, index: SessionIndex, turn: u64) -> bool {
        let session = self.session_mut(index);
        let Some(line) = session.waiting.as_mut() else { return false };
        if !line.remove(turn) {
            return false;
        }
        if line.len() == 0 {
            session.waiting = None;
        }
        session.last_active = now;
        self.waiting -= 1;
        true
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.next_deadline()
    }

    /// Sends quiet sessions to sleep, and those that slept for long away. Looks at [`TIMERS_PER_CALL_MAX`] of them;
    /// while [`Self::next_deadline`] is not after `now`, there are more.
    pub fn expire(&mut self, now: Moment, each: &mut dyn FnMut(SessionEvent)) {
        for _ in 0..TIMERS_PER_CALL_MAX {
            let Some(index) = self.timers.pop_due(now) else { return };
            self.timer_fired(now, SessionIndex(index), each);
        }
    }

    fn timer_fired(&mut self, now: Moment, index: SessionIndex, each: &mut dyn FnMut(SessionEvent)) {
        let SessionLimits { dormant_after, expire_after, .. } = self.limits;
        let session = self.session(index);
        let quiet_at = session.last_active.plus(dormant_after);
        let expired_at = quiet_at.plus(expire_after);
        match session.state {
            // The silence begins when the work ends, which is not before now.
            State::Active if session.has_work() => self.rearm(index, now.plus(dormant_after)),
            State::Init | State::Active if quiet_at > now => self.rearm(index, quiet_at),
            State::Active => {
                self.change(index, LifeEvent::Quiet);
                self.rearm(index, expired_at);
                each(SessionEvent::BecameDormant(index));
            }
            State::Dormant if expired_at > now => self.rearm(index, expired_at),
            State::Init | State::Dormant => {
                self.change(index, LifeEvent::TimedOut);
                let record = self.remove(index);
                each(SessionEvent::Expired(index, record));
            }
            State::Expired => unreachable!("an expired session is not in the table"),
        }
    }

    fn rearm(&mut self, index: SessionIndex, at: Moment) {
        let timer = self.timers.insert(at, index.0);
        self.session_mut(index).timer = timer;
    }

    /// Takes a session out whose timer is over.
    fn remove(&mut self, index: SessionIndex) -> SessionRecord {
        let free = Place::Free { next: self.free.replace(index.0) };
        let Place::Used(session) = std::mem::replace(&mut self.places[index.0], free) else {
            unreachable!("{index:?} is not in the table");
        };
        debug_assert!(!session.has_work(), "rule 2");
        self.counts[session.state as usize] -= 1;
        let Session { key, hash, mode, activated, agent, configuration, stream, .. } = session;
        let entry = self.index[part_of(hash)].find_entry(spread(hash), |&other| other == index.0);
        debug_assert!(entry.is_ok(), "a session is in the index");
        if let Ok(entry) = entry {
            entry.remove();
        }
        SessionRecord { key, hash, mode, activated, agent, configuration, stream }
    }

    fn change(&mut self, index: SessionIndex, event: LifeEvent) {
        let session = self.session_mut(index);
        let before = session.state;
        match before.on(event) {
            Ok(after) => {
                session.state = after;
                self.counts[before as usize] -= 1;
                self.counts[after as usize] += 1;
            }
            Err(invalid) => debug_assert!(false, "{invalid}"),
        }
    }

    #[inline]
    fn session(&self, index: SessionIndex) -> &Session {
        match &self.places[index.0] {
            Place::Used(session) => session,
            Place::Free { .. } => unreachable!("rule 3: {index:?} has expired"),
        }
    }

    #[inline]
    fn session_mut(&mut self, index: SessionIndex) -> &mut Session {
        match &mut self.places[index.0] {
            Place::Used(session) => session,
            Place::Free { .. } => unreachable!("rule 3: {index:?} has expired"),
        }
    }
}
