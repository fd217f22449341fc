//! What is left of a session outside of the table.

use shm_transport::envelope::SessionMode;

use super::StoredKey;
use crate::event::AgentIndex;

/// What an agent is told about a session.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SessionConfiguration {
    /// The tools it may use.
    pub tools: Vec<Box<str>>,
    /// JSON text that only the agent reads.
    pub settings: Box<str>,
}

/// The place of an output in the stream of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct StreamPosition {
    /// Counts the streams of the session: offsets begin anew where the earlier ones are not known.
    pub epoch: u32,
    /// Counts the outputs of the stream, from 0.
    pub offset: u64,
}

/// Bits of a stream position as a word that count outputs.
const OFFSET_BITS: u32 = 40;

impl StreamPosition {
    /// As one word: the epoch in the upper 24 bits, the offset in the lower 40.
    #[inline]
    pub fn word(self) -> u64 {
        debug_assert!(self.offset >> OFFSET_BITS == 0, "no session says so much");
        u64::from(self.epoch) << OFFSET_BITS | self.offset
    }

    /// From one word.
    #[inline]
    pub fn from_word(word: u64) -> Self {
        Self { epoch: (word >> OFFSET_BITS) as u32, offset: word & ((1 << OFFSET_BITS) - 1) }
    }

    /// The place behind it.
    #[must_use]
    pub fn next(self) -> Self {
        Self { offset: self.offset + 1, ..self }
    }
}

/// A session without its work and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its key.
    pub key: StoredKey,
    /// The hash of its key.
    pub hash: u64,
    /// What order it keeps.
    pub mode: SessionMode,
    /// Whether the agent of a group answers every message.
    pub activated: bool,
    /// Who answered last.
    pub agent: Option<AgentIndex>,
    /// What its agent is told about it.
    pub configuration: Option<Box<SessionConfiguration>>,
    /// The place of its next output.
    pub stream: StreamPosition,
}

impl SessionRecord {
    /// Of a session that remembers nothing.
    pub fn new(hash: u64, key: StoredKey, mode: SessionMode) -> Self {
        let stream = StreamPosition::default();
        Self { key, hash, mode, activated: false, agent: None, configuration: None, stream }
    }
}
