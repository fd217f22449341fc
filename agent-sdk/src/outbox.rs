//! The sending half of an agent: blocks, the end of a reply, failures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shm_transport::envelope::{
    BlockType, BorrowedBlock, BorrowedEnd, Content, FailureCode, FailureV1, Route,
};
use shm_transport::link::{SendError, Sender};
use shm_transport::record::Poison;

use crate::TurnId;
use crate::heartbeat::Heartbeat;

/// How long to sleep for room before looking again: a net under a lost ring.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// A gateway that takes nothing for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Why a reply was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// It is too large; the turn is still open and may be failed or answered in blocks.
    #[error("the reply to turn {turn} has {len} bytes, at most {max} fit in one piece")]
    TooLarge {
        /// The turn.
        turn: u64,
        /// Its size, routing words included.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The gateway takes nothing; the process should end.
    #[error("the gateway has taken nothing for {seconds} s, {backlog_bytes} bytes wait")]
    Stalled {
        /// For how long.
        seconds: u64,
        /// How much waits.
        backlog_bytes: usize,
    },
    /// The ring is broken; the process should end.
    #[error("the ring to the gateway is broken")]
    Poisoned(#[source] Poison),
}

/// The sending half of an agent.
///
/// Nothing is visible to the gateway before [`Outbox::flush`], save when the room is used up.
#[derive(Debug)]
pub struct Outbox {
    sender: Sender,
    // Arc: it beats until the inbox is gone, too.
    _heartbeat: Arc<Heartbeat>,
}

impl Outbox {
    pub(crate) fn new(sender: Sender, heartbeat: Arc<Heartbeat>) -> Self {
        Self { sender, _heartbeat: heartbeat }
    }

    /// Adds a block to a reply. Blocks arrive in the order in which they are sent.
    pub fn block(&mut self, id: &TurnId, block_type: BlockType, content: &str) -> Result<(), ReplyError> {
        send(&mut self.sender, &id.route, &BorrowedBlock { block_type: block_type as u8, content })
    }

    /// Ends a reply. `content` is what remains to be said after the blocks.
    ///
    /// HOT: no allocation, lock or syscall while there is room.
    pub fn end(&mut self, id: &TurnId, content: &str) -> Result<(), ReplyError> {
        send(&mut self.sender, &id.route, &BorrowedEnd { content })
    }

    /// Says that a message gets no reply. `text` is a sentence that names the reason.
    pub fn fail(&mut self, id: &TurnId, code: FailureCode, text: &str) -> Result<(), ReplyError> {
        let failure = FailureV1 { code: code as u16, retry_after_ms: 0, text: text.to_owned() };
        send(&mut self.sender, &id.route, &failure)
    }

    /// Makes everything visible to the gateway, and wakes it if it sleeps. Waits for room where it must.
    pub fn flush(&mut self) -> Result<(), ReplyError> {
        drain(&mut self.sender)
    }

    /// Makes everything visible, and says that nothing more will come.
    pub fn close(mut self) -> Result<(), ReplyError> {
        self.flush()?;
        self.sender.close();
        Ok(())
    }
}

fn send<T: Content>(sender: &mut Sender, route: &Route, value: &T) -> Result<(), ReplyError> {
    match sender.send(route, value) {
        Ok(()) => Ok(()),
        Err(SendError::Full { .. }) => {
            drain(sender)?;
            sender.send(route, value).map_err(|error| refused(&error, route, sender))
        }
        Err(error) => Err(refused(&error, route, sender)),
    }
}

/// Flushes until nothing waits, sleeping for room in between.
#[inline]
fn drain(sender: &mut Sender) -> Result<(), ReplyError> {
    let route = Route::default();
    sender.flush().map_err(|error| refused(&error, &route, sender))?;
    if sender.backlog_bytes() == 0 { Ok(()) } else { wait_for_room(sender) }
}

#[cold]
fn wait_for_room(sender: &mut Sender) -> Result<(), ReplyError> {
    let route = Route::default();
    let mut moved_at = Instant::now();
    while sender.backlog_bytes() > 0 {
        let before = sender.published();
        sender.wait_for_room(ROOM_WAIT);
        sender.flush().map_err(|error| refused(&error, &route, sender))?;
        if sender.published() != before {
            moved_at = Instant::now();
        } else if moved_at.elapsed() >= STALL_MAX {
            return Err(stalled(sender));
        }
    }
    Ok(())
}

fn stalled(sender: &Sender) -> ReplyError {
    ReplyError::Stalled { seconds: STALL_MAX.as_secs(), backlog_bytes: sender.backlog_bytes() }
}

#[cold]
fn refused(error: &SendError, route: &Route, sender: &Sender) -> ReplyError {
    match *error {
        SendError::TooLarge { len, max } => ReplyError::TooLarge { turn: route.turn, len, max },
        SendError::Poisoned(poison) => ReplyError::Poisoned(poison),
        SendError::Full { .. } => stalled(sender),
    }
}
