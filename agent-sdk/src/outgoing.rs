//! What both directions of an agent share: its way to the gateway, and what has been said on it.
//!
//! The outbox says replies. The inbox answers roll calls: a gateway that has taken over the rings of another asks which
//! turns the agent has received and not ended. The answer has to stand behind everything said before, and must not wait
//! until the outbox has something to say; so both use one sender, behind a lock that is taken for one word at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shm_transport::envelope::{Body, Content, Route, SkillV1};
use shm_transport::link::{SendError, Sender};

use crate::agent::hello;
use crate::heartbeat::Heartbeat;
use crate::outbox::ReplyError;

/// How long to sleep for room before looking again: a net under a lost ring.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// A gateway that takes nothing for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// The sending side, and how far each reply is.
#[derive(Debug)]
pub(crate) struct Outgoing {
    sender: Sender,
    /// Of turns with blocks and without an end: the attempt, and how many blocks were said.
    blocks: HashMap<u64, (u32, u32)>,
    /// Turns and attempts that have been ended, and that the inbox has not taken note of.
    ended: Vec<(u64, u32)>,
    /// Skills that were asked for and not answered.
    skills: BTreeSet<u64>,
    /// Beats until both directions are gone.
    _heartbeat: Heartbeat,
}

/// [`Outgoing`], for both directions.
// Arc, Mutex: the inbox and the outbox, which may live on two threads.
#[derive(Clone, Debug)]
pub(crate) struct Shared(Arc<Mutex<Outgoing>>);

impl Shared {
    pub(crate) fn new(sender: Sender, heartbeat: Heartbeat) -> Self {
        let (blocks, ended, skills) = (HashMap::new(), Vec::new(), BTreeSet::new());
        Self(Arc::new(Mutex::new(Outgoing { sender, blocks, ended, skills, _heartbeat: heartbeat })))
    }

    /// Waits for a word of the other direction, also while that waits for room.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Outgoing> {
        // A panic in the middle of a word leaves the sender whole: a record is committed or not there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells `each` which turns and attempts have been ended since the last time, unless the other direction is busy.
    pub(crate) fn take_ended(&self, each: impl FnMut((u64, u32))) {
        if let Ok(mut outgoing) = self.0.try_lock() {
            outgoing.take_ended(each);
        }
    }
}

impl Outgoing {
    /// Tells `each` which turns and attempts have been ended since the last time.
    pub(crate) fn take_ended(&mut self, each: impl FnMut((u64, u32))) {
        self.ended.drain(..).for_each(each);
    }

    /// Adds a block to a reply, with its number.
    ///
    /// HOT: no allocation or syscall while there is room, but for the first block of a reply.
    pub(crate) fn block(&mut self, route: &Route, block: &impl Content) -> Result<(), ReplyError> {
        let route = self.numbered(route);
        self.send(&route, block)?;
        self.blocks.insert(route.turn, (route.attempt, route.sequence + 1));
        Ok(())
    }

    /// Says the last word of a reply, with the number of its blocks.
    ///
    /// HOT: no allocation or syscall while there is room.
    pub(crate) fn end(&mut self, route: &Route, word: &impl Content) -> Result<(), ReplyError> {
        let route = self.numbered(route);
        self.send(&route, word)?;
        if !self.blocks.is_empty() {
            self.blocks.remove(&route.turn);
        }
        self.ended.push((route.turn, route.attempt));
        Ok(())
    }

    /// Asks for a skill.
    pub(crate) fn skill(&mut self, call: u64, asked: &SkillV1) -> Result<(), ReplyError> {
        self.send(&Route { origin: call, ..Route::default() }, asked)?;
        self.skills.insert(call);
        Ok(())
    }

    /// A skill has been answered. `false`: it had been given up.
    pub(crate) fn take_skill(&mut self, call: u64) -> bool {
        self.skills.remove(&call)
    }

    /// Gives up all skills that have not been answered: who was asked is gone.
    pub(crate) fn give_up_skills(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.skills)
    }

    /// Says which turns are being worked on, each with its attempt and the bytes of its message, then hello, since who asks
    /// has not heard that; and makes it visible.
    pub(crate) fn answer_roll_call(
        &mut self,
        roll_call: u64,
        turns: impl Iterator<Item = (u64, u32, u64)>,
    ) -> Result<(), ReplyError> {
        for (turn, attempt, bytes) in turns.chain([(0, 0, 0)]) {
            let route = Route { turn, session: roll_call, origin: bytes, sequence: 0, attempt };
            match self.sender.forward(&route, Body::WORKING) {
                Err(SendError::Full { .. }) => {
                    self.drain()?;
                    let sent = self.sender.forward(&route, Body::WORKING);
                    sent.map_err(|error| self.refused(&error, &route))?;
                }
                sent => sent.map_err(|error| self.refused(&error, &route))?,
            }
        }
        self.send(&Route::default(), &hello())?;
        self.drain()
    }

    fn numbered(&self, route: &Route) -> Route {
        let known = if self.blocks.is_empty() { None } else { self.blocks.get(&route.turn) };
        let said = known.filter(|&&(attempt, _)| attempt == route.attempt).map_or(0, |&(_, said)| said);
        Route { sequence: said, ..*route }
    }

    fn send<T: Content>(&mut self, route: &Route, value: &T) -> Result<(), ReplyError> {
        match self.sender.send(route, value) {
            Ok(()) => Ok(()),
            Err(SendError::Full { .. }) => {
                self.drain()?;
                self.sender.send(route, value).map_err(|error| self.refused(&error, route))
            }
            Err(error) => Err(self.refused(&error, route)),
        }
    }

    /// Flushes until nothing waits, sleeping for room in between.
    #[inline]
    pub(crate) fn drain(&mut self) -> Result<(), ReplyError> {
        let route = Route::default();
        self.sender.flush().map_err(|error| self.refused(&error, &route))?;
        if self.sender.backlog_bytes() == 0 { Ok(()) } else { self.wait_for_room() }
    }

    #[cold]
    fn wait_for_room(&mut self) -> Result<(), ReplyError> {
        let route = Route::default();
        let mut moved_at = Instant::now();
        while self.sender.backlog_bytes() > 0 {
            let before = self.sender.published();
            self.sender.wait_for_room(ROOM_WAIT);
            self.sender.flush().map_err(|error| self.refused(&error, &route))?;
            if self.sender.published() != before {
                moved_at = Instant::now();
            } else if moved_at.elapsed() >= STALL_MAX {
                return Err(self.stalled());
            }
        }
        Ok(())
    }

    /// Says that nothing more will come.
    pub(crate) fn close(&mut self) {
        self.sender.close();
    }

    fn stalled(&self) -> ReplyError {
        ReplyError::Stalled { seconds: STALL_MAX.as_secs(), backlog_bytes: self.sender.backlog_bytes() }
    }

    #[cold]
    fn refused(&self, error: &SendError, route: &Route) -> ReplyError {
        match *error {
            SendError::TooLarge { len, max } => ReplyError::TooLarge { turn: route.turn, len, max },
            SendError::Poisoned(poison) => ReplyError::Poisoned(poison),
            SendError::Full { .. } => self.stalled(),
        }
    }
}
