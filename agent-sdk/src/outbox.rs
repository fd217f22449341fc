//! The sending half of an agent: blocks, the end of a reply, failures.

use shm_transport::envelope::{BlockType, BorrowedBlock, BorrowedEnd, FailureCode, FailureV1, SkillV1};
use shm_transport::record::Poison;

use crate::TurnId;
use crate::outgoing::Shared;

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
/// Nothing need be visible to the gateway before [`Outbox::flush`], but may be: when the room is used up, or when a
/// gateway that has taken over from another has asked what the agent works on.
#[derive(Debug)]
pub struct Outbox {
    outgoing: Shared,
}

impl Outbox {
    pub(crate) fn new(outgoing: Shared) -> Self {
        Self { outgoing }
    }

    /// Adds a block to a reply. Blocks arrive in the order in which they are sent.
    pub fn block(&mut self, id: &TurnId, block_type: BlockType, content: &str) -> Result<(), ReplyError> {
        self.outgoing.lock().block(&id.route, &BorrowedBlock { block_type: block_type as u8, content })
    }

    /// Ends a reply. `content` is what remains to be said after the blocks.
    ///
    /// HOT: no allocation or syscall while there is room, and a lock that nobody else takes but for a moment.
    pub fn end(&mut self, id: &TurnId, content: &str) -> Result<(), ReplyError> {
        self.outgoing.lock().end(&id.route, &BorrowedEnd { content })
    }

    /// Says that a message gets no reply. `text` is a sentence that names the reason.
    pub fn fail(&mut self, id: &TurnId, code: FailureCode, text: &str) -> Result<(), ReplyError> {
        let failure = FailureV1 { code: code as u16, retry_after_ms: 0, text: text.to_owned() };
        self.outgoing.lock().end(&id.route, &failure)
    }

    /// Asks for a skill: a command of the gateway's configuration that is run once, with `input` as its standard input.
    /// `call` is a number that no other skill under way has. The answer comes with [`crate::Inbox::skill_results`].
    pub fn ask_skill(&mut self, call: u64, skill: &str, input: &str) -> Result<(), ReplyError> {
        let asked = SkillV1 { skill: skill.to_owned(), input: input.to_owned() };
        self.outgoing.lock().skill(call, &asked)
    }

    /// Makes everything visible to the gateway, and wakes it if it sleeps. Waits for room where it must.
    pub fn flush(&mut self) -> Result<(), ReplyError> {
        self.outgoing.lock().drain()
    }

    /// Makes everything visible, and says that nothing more will come.
    pub fn close(self) -> Result<(), ReplyError> {
        let mut outgoing = self.outgoing.lock();
        outgoing.drain()?;
        outgoing.close();
        Ok(())
    }
}
