//! What agents have said, as it was numbered for the client: kept for those who send a message again, and for those
//! who lost their connection.
//!
//! The words of a session form one stream. The place of a word is (epoch, offset): offsets count up, and an epoch ends
//! where the gateway cannot say any more what the last offset was. The store is bounded in bytes; whole replies are
//! given up, oldest first, and only after they have ended.

use shm_transport::envelope::StoredBody;

use crate::long_queue::LongQueue;
use crate::session::StreamPosition;
use crate::spread::SpreadMap;

/// Bytes of a kept word beside its body, about.
const WORD_BYTES: usize = 64;

/// One word of a reply.
#[derive(Debug)]
pub struct Word {
    /// Where it stands.
    pub position: StreamPosition,
    /// Which attempt said it.
    pub attempt: u16,
    /// Whether the journal has it, so that it may be shown.
    pub kept: bool,
    /// What it says.
    pub body: StoredBody,
}

/// The words of one turn.
#[derive(Debug, Default)]
pub struct Reply {
    /// In order; an attempt after the first replaces the text of those before.
    pub words: Vec<Word>,
    session: u64,
    /// Counts the replies: one that is given up and begun anew is another one.
    number: u64,
    /// The turn of the session that spoke before, and the number of its reply.
    previous: (u64, u64),
    bytes: usize,
    ended: bool,
}

impl Reply {
    /// Bytes of its words, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A session's words from some place on.
#[derive(Debug, PartialEq, Eq)]
pub struct Since {
    /// Their places, in order, each with its turn.
    pub words: Vec<(StreamPosition, u64)>,
    /// Whether words in between are not kept any more.
    pub gap: bool,
}

/// The store.
#[derive(Debug)]
pub struct Replies {
    by_turn: SpreadMap<Reply>,
    /// The turn that began to speak last, and the number of its reply, by session.
    last: SpreadMap<(u64, u64)>,
    next_number: u64,
    /// Turns that have ended, oldest first.
    ended: LongQueue<u64>,
    /// Emptied lists, for the next replies.
    spare: Vec<Vec<Word>>,
    bytes: usize,
    bytes_max: usize,
}

/// Emptied lists that are kept.
const SPARE_MAX: usize = 1024;

impl Replies {
    /// An empty store.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            by_turn: SpreadMap::default(),
            last: SpreadMap::default(),
            next_number: 1,
            ended: LongQueue::new(),
            spare: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps fewer bytes from now on.
    #[cfg(test)]
    pub(super) fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Adds a word of a turn.
    pub fn push(&mut self, turn: u64, session: u64, word: Word) {
        let bytes = WORD_BYTES + word.body.bytes_len();
        let Self { by_turn, last, spare, next_number, .. } = self;
        let reply = by_turn.at_mut(turn).entry(turn).or_insert_with(|| {
            let number = *next_number;
            *next_number += 1;
            Reply {
                words: spare.pop().unwrap_or_default(),
                session,
                number,
                previous: last.at_mut(session).insert(session, (turn, number)).unwrap_or_default(),
                ..Reply::default()
            }
        });
        // A dead letter that is tried again speaks again.
        reply.ended = false;
        reply.words.push(word);
        reply.bytes += bytes;
        self.bytes += bytes;
    }

    /// The words of a turn so far.
    pub fn get(&self, turn: u64) -> Option<&Reply> {
        self.by_turn.at(turn).get(&turn)
    }

    /// The word at that place is in the journal now.
    pub fn keep(&mut self, turn: u64, position: StreamPosition) -> Option<&Word> {
        let reply = self.by_turn.at_mut(turn).get_mut(&turn)?;
        // The newest words are asked for.
        let word = reply.words.iter_mut().rev().find(|word| word.position == position)?;
        word.kept = true;
        Some(word)
    }

    /// Its last word has been said; it may be given up from now on.
    pub fn end(&mut self, turn: u64) {
        if let Some(reply) = self.by_turn.at_mut(turn).get_mut(&turn)
            && !std::mem::replace(&mut reply.ended, true)
        {
            self.ended.push_back(turn);
        }
        while self.bytes > self.bytes_max {
            let Some(turn) = self.ended.pop_front() else { return };
            // A dead letter had ended too, and says something else if it is replayed.
            if self.by_turn.at(turn).get(&turn).is_some_and(|reply| reply.ended) {
                self.forget(turn);
            }
        }
    }

    /// Gives a reply up.
    pub fn forget(&mut self, turn: u64) {
        let Some(mut reply) = self.by_turn.at_mut(turn).remove(&turn) else { return };
        self.bytes -= reply.bytes;
        if self.last.at(reply.session).get(&reply.session) == Some(&(turn, reply.number)) {
            self.last.at_mut(reply.session).remove(&reply.session);
        }
        if self.spare.len() < SPARE_MAX {
            reply.words.clear();
            self.spare.push(reply.words);
        }
    }

    /// What a session has said behind `after`, whose next word will have the place `next`.
    ///
    /// Turns take turns only at agents: one that is cancelled while it waits, or tried again after its death, speaks
    /// between the words of others. So the search goes back until as many words are found as there must be.
    pub fn since(&self, session: u64, after: StreamPosition, next: StreamPosition) -> Since {
        let expected = match after.epoch == next.epoch {
            true => Some(next.offset.saturating_sub(after.offset + 1)),
            // How long the stream of another epoch was is not known.
            false => None,
        };
        let mut words = Vec::new();
        let (mut turn, mut number) = self.last.at(session).get(&session).copied().unwrap_or_default();
        while expected != Some(words.len() as u64)
            && let Some(reply) = self.by_turn.at(turn).get(&turn).filter(|reply| reply.number == number)
        {
            words.extend(
                reply.words.iter().filter(|word| word.position > after).map(|word| (word.position, turn)),
            );
            (turn, number) = reply.previous;
        }
        words.sort_unstable();
        Since { gap: expected != Some(words.len() as u64), words }
    }

    /// The word of a turn at a place.
    pub fn word(&self, turn: u64, position: StreamPosition) -> Option<&Word> {
        self.by_turn.at(turn).get(&turn)?.words.iter().find(|word| word.position == position)
    }
}
