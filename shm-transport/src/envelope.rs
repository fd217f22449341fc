//! What messages say: kinds, routing words, and the flat archives behind them.
//!
//! A message is parsed once, at the edge. The routing words are rewritten by each hop; the archive behind
//! them is never touched again until the agent reads it. Archives hold integers and strings only, so that
//! validation is bounded and no kind can hide a pointer.
//!
//! Numbers and layouts are rows of `docs/wire-format.md`, which a test compares with this module.

mod archives;
mod body;

pub use archives::{
    ACCEPTED_DUPLICATE, ArchivedBlockV1, ArchivedEndV1, ArchivedFailureV1, ArchivedHelloV1,
    ArchivedMessageV2, ArchivedResumeV1, ArchivedResumedV1, ArchivedSkillResultV1, ArchivedSkillV1,
    BlockType, BlockV1, BorrowedBlock, BorrowedEnd, CONTENT_JSON, CONTENT_TEXT, Content, DurabilityClass,
    EndV1, FLAG_ACTIVATE, FLAG_DEACTIVATE, FLAG_MENTION, FLAG_NO_REPLY, FLAG_REPLY_TO_AGENT, FLAG_WANTS_ACK,
    FailureCode, FailureV1, HelloV1, MessageV2, Priority, ResumeStep, ResumeV1, ResumedV1, SKILL_BYTES_MAX,
    SKILL_NAME_BYTES_MAX, SKILLS_AT_ONCE_MAX, SessionMode, SkillOutcome, SkillResultV1, SkillV1, TURN_BEGUN,
    TURN_OPEN, TURN_OVER,
};
pub use body::{Body, Encoder, Message, Opened, StoredBody};
pub(crate) use body::{archive_into, archive_to};

/// Bytes of the routing words in front of every archive.
pub const ROUTE_BYTES: usize = 32;

const _: () = assert!(ROUTE_BYTES.is_multiple_of(crate::layout::RECORD_ALIGN), "the archive stays aligned");

/// Routing words: what a hop needs to know without opening the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Route {
    /// Names one turn (a message and its reply) for the life of the gateway; zero until a shard assigns it.
    pub turn: u64,
    /// Hash of the session key.
    pub session: u64,
    /// The connection a message came from, as its edge thread numbers it.
    pub origin: u64,
    /// Counts the messages of a connection, or the blocks of a reply.
    pub sequence: u32,
    /// How often this turn has been given to an agent, from 1.
    pub attempt: u32,
}

impl Route {
    /// As stored, little-endian.
    #[inline]
    pub fn encode(&self) -> [u8; ROUTE_BYTES] {
        // Whole words only: bytes that are read wider than they were written wait for the store.
        let last = u64::from(self.sequence) | u64::from(self.attempt) << 32;
        let mut bytes = [0u8; ROUTE_BYTES];
        for (chunk, word) in
            bytes.as_chunks_mut().0.iter_mut().zip([self.turn, self.session, self.origin, last])
        {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    /// From any 32 bytes.
    #[inline]
    pub fn decode(bytes: &[u8; ROUTE_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0u8; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let last = word(24);
        Self {
            turn: word(0),
            session: word(8),
            origin: word(16),
            sequence: (last & u64::from(u32::MAX)) as u32,
            attempt: (last >> 32) as u32,
        }
    }
}

/// Declares the kinds with their numbers, once.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a message is. The number is the record's `kind` and includes the version of its archive.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u16)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// All kinds of this build.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The same as a set of bits: bit n stands for kind n.
            pub const SET: u64 = 0 $(| 1 << $number)*;

            /// The kind with this number, if this build knows it.
            #[inline]
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

// Number 1 was `MessageV1`, which was never released. It is not used again.
kinds! {
    /// A piece of a reply: agent to shard, shard to edge. Archive: [`BlockV1`].
    Block = 2,
    /// The end of a reply: agent to shard, shard to edge. Archive: [`EndV1`].
    End = 3,
    /// A message will get no reply: agent to shard, shard to edge. Archive: [`FailureV1`].
    Failure = 4,
    /// A message has been taken, and its sender wants no reply: shard to edge. No archive.
    Accepted = 5,
    /// First words of an agent: agent to shard. Archive: [`HelloV1`].
    Hello = 6,
    /// Finish what you have and exit: shard to agent. No archive.
    Stop = 7,
    /// A user's message: edge to shard, shard to agent. Archive: [`MessageV2`].
    Message = 8,
    /// Nobody waits for this turn any more: edge to shard, shard to agent. No archive.
    Cancel = 9,
    /// How far the journal of a shard is: journal thread to shard. No archive.
    Journaled = 10,
    /// Which turns are you working on? A gateway has taken over the rings of another: shard to agent. No archive.
    RollCall = 11,
    /// A turn that an agent works on, or that these were all: agent to shard, shard to shard. No archive.
    Working = 12,
    /// How many words of agents are in the journal: shard to shard. No archive.
    Kept = 13,
    /// An agent asks for a skill: agent to shard. Archive: [`SkillV1`].
    Skill = 14,
    /// What has come of it: shard to agent. Archive: [`SkillResultV1`].
    SkillResult = 15,
    /// A client wants what its session has said behind some place: edge to shard. Archive: [`ResumeV1`].
    Resume = 16,
    /// What a shard says to that between the words: shard to edge. Archive: [`ResumedV1`].
    Resumed = 17,
}

impl Kind {
    /// As stored in a record.
    #[inline]
    pub fn number(self) -> u16 {
        self as u16
    }
}

/// Fingerprint of the kinds this build knows; two builds with the same value agree on all of them.
pub fn schema_hash() -> u64 {
    let mut text = String::new();
    for kind in Kind::ALL {
        text.push_str(&format!("{}={kind:?};", kind.number()));
    }
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

#[cfg(test)]
mod tests;
