//! Which runs there are, on whichever edge, and what comes of the same request twice.
//!
//! | known as | the same message again | another message |
//! |---|---|---|
//! | going on | in flight | a conflict |
//! | over, less than five minutes ago | how it ended | a conflict |
//! | not known | a new run | a new run |
//!
//! The engine knows more than this table: what a gateway has accepted before it restarted is found again by its
//! journal. A run is remembered for [`ENDED_MS_MAX`] after its end, so that a client that asks again gets the same answer and
//! no second run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::openclaw::backend::Answer;
use crate::openclaw::runs::{ENDED_MAX, ENDED_MS_MAX, Ended, LIVE_MAX};

/// The most calls that wait for one run.
pub const WAITERS_MAX: usize = 64;

/// Which edge has a run, and under which number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The edge.
    pub edge_index: usize,
    /// Its number there.
    pub sequence: u32,
}

/// A call that waits for the end of a run.
#[derive(Debug)]
pub enum Waiter {
    /// `agent.wait`.
    Wait(Answer),
    /// The second response of `agent`.
    Final(Answer),
    /// `chat.abort`; it is answered when the last of the runs that it stops is over. Arc: all these runs have it.
    Abort(Arc<Aborting>),
}

/// A call that stops runs, and waits for the end of all.
#[derive(Debug)]
pub struct Aborting(Mutex<Option<(Answer, Vec<u8>)>>);

impl Aborting {
    /// The answer, and what it will be.
    pub fn new(answer: Answer, payload: Vec<u8>) -> Self {
        Self(Mutex::new(Some((answer, payload))))
    }
}

impl Drop for Aborting {
    // The last run that has it is over.
    fn drop(&mut self) {
        if let Some((answer, payload)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            answer.give(Ok(payload));
        }
    }
}

/// What a request to begin a run comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begun {
    /// It begins.
    New,
    /// It has begun before and is not over.
    InFlight,
    /// It is over.
    Over(Arc<Ended>),
    /// The key belongs to another request.
    Conflict,
    /// There are too many.
    Full,
}

/// What a call that waits finds.
#[derive(Debug)]
pub enum Found {
    /// The run is over, and the call is to be answered.
    Over(Waiter, Arc<Ended>),
    /// It waits, under this number.
    Waiting(u64),
    /// There is no such run.
    Unknown(Waiter),
    /// Too many wait for it.
    Full(Waiter),
}

#[derive(Debug)]
enum State {
    InFlight { owner: Owner, waiters: Vec<(u64, Waiter)> },
    Over(Arc<Ended>),
}

#[derive(Debug)]
struct Entry {
    fingerprint: u64,
    session_key: Box<str>,
    state: State,
}

/// All runs.
///
/// A lock, since a run of one edge may be asked for, awaited or stopped on another. It is taken for calls, not
/// for the words of agents.
#[derive(Debug, Default)]
pub struct RunBoard(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    runs: HashMap<Arc<str>, Entry>,
    over: VecDeque<(u64, Arc<str>)>,
    waiter_count: u64,
}

impl RunBoard {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run. `fingerprint` tells requests of one key apart.
    pub fn begin(
        &self,
        run: &Arc<str>,
        session_key: &str,
        fingerprint: u64,
        owner: Owner,
        now_ms: u64,
    ) -> Begun {
        let mut inner = self.lock();
        inner.forget_old(now_ms);
        if let Some(entry) = inner.runs.get(run) {
            return match &entry.state {
                _ if entry.fingerprint != fingerprint => Begun::Conflict,
                State::InFlight { .. } => Begun::InFlight,
                State::Over(ended) => Begun::Over(Arc::clone(ended)),
            };
        }
        if inner.runs.len() - inner.over.len() >= LIVE_MAX {
            return Begun::Full;
        }
        let state = State::InFlight { owner, waiters: Vec::new() };
        let entry = Entry { fingerprint, session_key: session_key.into(), state };
        inner.runs.insert(Arc::clone(run), entry);
        Begun::New
    }

    /// A run has never begun: it may be asked for again.
    pub fn forget(&self, run: &str) -> Vec<Waiter> {
        match self.lock().runs.remove(run) {
            Some(Entry { state: State::InFlight { waiters, .. }, .. }) => {
                waiters.into_iter().map(|(_, waiter)| waiter).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A run is over. Gives those who waited for it.
    pub fn end(&self, run: &Arc<str>, ended: Arc<Ended>) -> Vec<Waiter> {
        let mut inner = self.lock();
        inner.forget_old(ended.ended_ms);
        let ended_ms = ended.ended_ms;
        let Some(entry) = inner.runs.get_mut(run) else { return Vec::new() };
        let State::InFlight { waiters, .. } = std::mem::replace(&mut entry.state, State::Over(ended)) else {
            return Vec::new();
        };
        inner.over.push_back((ended_ms, Arc::clone(run)));
        if inner.over.len() > ENDED_MAX {
            inner.forget_oldest();
        }
        waiters.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Waits for the end of a run.
    pub fn wait(&self, run: &str, waiter: Waiter) -> Found {
        let mut inner = self.lock();
        let number = inner.waiter_count;
        let Some(entry) = inner.runs.get_mut(run) else { return Found::Unknown(waiter) };
        match &mut entry.state {
            State::Over(ended) => Found::Over(waiter, Arc::clone(ended)),
            State::InFlight { waiters, .. } if waiters.len() >= WAITERS_MAX => Found::Full(waiter),
            State::InFlight { waiters, .. } => {
                waiters.push((number, waiter));
                inner.waiter_count += 1;
                Found::Waiting(number)
            }
        }
    }

    /// Waits no longer.
    pub fn stop_waiting(&self, run: &str, number: u64) -> Option<Waiter> {
        let mut inner = self.lock();
        let State::InFlight { waiters, .. } = &mut inner.runs.get_mut(run)?.state else { return None };
        let index = waiters.iter().position(|&(found, _)| found == number)?;
        Some(waiters.swap_remove(index).1)
    }

    /// The runs that are not over, each with the key of its session.
    pub fn running(&self) -> Vec<(String, Arc<str>)> {
        let inner = self.lock();
        let running = inner.runs.iter().filter(|(_, entry)| matches!(entry.state, State::InFlight { .. }));
        running.map(|(id, entry)| (entry.session_key.to_string(), Arc::clone(id))).collect()
    }

    /// Whether a run of this name goes on or is remembered.
    pub fn knows(&self, run: &str) -> bool {
        self.lock().runs.contains_key(run)
    }

    /// The runs of a session that are not over; or one of them.
    pub fn in_flight(&self, session_key: Option<&str>, run: Option<&str>) -> Vec<(Arc<str>, Owner)> {
        let inner = self.lock();
        let matching = |(id, entry): (&Arc<str>, &Entry)| match entry.state {
            State::InFlight { owner, .. }
                if session_key.is_none_or(|key| *entry.session_key == *key)
                    && run.is_none_or(|run| **id == *run) =>
            {
                Some((Arc::clone(id), owner))
            }
            _ => None,
        };
        inner.runs.iter().filter_map(matching).collect()
    }
}

impl Inner {
    fn forget_old(&mut self, now_ms: u64) {
        while self.over.front().is_some_and(|&(ended_ms, _)| now_ms.saturating_sub(ended_ms) >= ENDED_MS_MAX)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, run)) = self.over.pop_front() {
            self.runs.remove(&run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openclaw::run::Ending;

    const OWNER: Owner = Owner { edge_index: 0, sequence: 0 };

    fn ended(ended_ms: u64) -> Arc<Ended> {
        Arc::new(Ended { ending: Ending::Ok, started_ms: 0, ended_ms })
    }

    /// One key is one run, until it is forgotten; another request under it is a conflict. By asking at each stage.
    #[test]
    fn a_key_is_one_run() {
        let board = RunBoard::default();
        let run: Arc<str> = "r".into();
        let begin = |fingerprint, now_ms| board.begin(&run, "s", fingerprint, OWNER, now_ms);
        assert_eq!(begin(1, 0), Begun::New);
        assert_eq!(begin(1, 0), Begun::InFlight);
        assert_eq!(begin(2, 0), Begun::Conflict);
        assert_eq!(board.in_flight(Some("s"), None), [(Arc::clone(&run), OWNER)]);
        assert_eq!(board.in_flight(Some("other"), None), []);
        assert_eq!(board.running(), [("s".to_owned(), Arc::clone(&run))]);
        board.end(&run, ended(10));
        assert_eq!((board.in_flight(Some("s"), None), board.running()), (vec![], vec![]));
        assert_eq!(begin(1, 9 + ENDED_MS_MAX), Begun::Over(ended(10)));
        assert_eq!(begin(2, 10 + ENDED_MS_MAX), Begun::New);
    }

    /// Neither runs that are open nor runs that are over grow without limit. By filling both.
    #[test]
    fn runs_are_limited() {
        let board = RunBoard::default();
        let name = |number: usize| Arc::<str>::from(number.to_string());
        let begin = |number| board.begin(&name(number), "s", 0, OWNER, 0);
        for number in 0..LIVE_MAX {
            assert_eq!(begin(number), Begun::New);
        }
        assert_eq!(begin(LIVE_MAX), Begun::Full);
        for number in 0..=ENDED_MAX {
            board.end(&name(number), ended(0));
        }
        assert_eq!(board.lock().runs.len(), LIVE_MAX - 1);
        assert_eq!(begin(0), Begun::New);
        assert_eq!(begin(1), Begun::Over(ended(0)));
    }
}
