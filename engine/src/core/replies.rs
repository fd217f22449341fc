//! What agents have said, as it was numbered for the client: kept for those who send a message again, and for those
//! who lost their connection.
//!
//! The words of a session form one stream. The place of a word is (epoch, offset): offsets count up, and an epoch ends
//! where the gateway cannot say any more what the last offset was. The store is bounded in bytes; whole replies are
//! given up, oldest first, and only after they have ended.

use std::collections::VecDeque;

use hashbrown::HashMap;
use shm_transport::envelope::StoredBody;

use super::hash::WordHash;
use crate::session::StreamPosition;

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
    /// The turn of the session that spoke before.
    previous: u64,
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
pub enum Since {
    /// These turns hold them all, oldest first.
    Turns(Vec<u64>),
    /// Words in between are not kept any more; these turns hold the rest.
    Gap(Vec<u64>),
}

/// The store.
#[derive(Debug)]
pub struct Replies {
    by_turn: HashMap<u64, Reply, WordHash>,
    /// The turn that spoke last, by session.
    last: HashMap<u64, u64, WordHash>,
    /// Turns that have ended, oldest first.
    ended: VecDeque<u64>,
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
            by_turn: HashMap::default(),
            last: HashMap::default(),
            ended: VecDeque::new(),
            spare: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a word of a turn.
    pub fn push(&mut self, turn: u64, session: u64, word: Word) {
        let bytes = WORD_BYTES + word.body.bytes_len();
        let Self { by_turn, last, spare, .. } = self;
        let reply = by_turn.entry(turn).or_insert_with(|| Reply {
            words: spare.pop().unwrap_or_default(),
            session,
            previous: last.insert(session, turn).unwrap_or(0),
            ..Reply::default()
        });
        reply.words.push(word);
        reply.bytes += bytes;
        self.bytes += bytes;
    }

    /// The words of a turn so far.
    pub fn get(&self, turn: u64) -> Option<&Reply> {
        self.by_turn.get(&turn)
    }

    /// The word at that place is in the journal now.
    pub fn keep(&mut self, turn: u64, position: StreamPosition) -> Option<&Word> {
        let reply = self.by_turn.get_mut(&turn)?;
        // The newest words are asked for.
        let word = reply.words.iter_mut().rev().find(|word| word.position == position)?;
        word.kept = true;
        Some(word)
    }

    /// Its last word has been said; it may be given up from now on.
    pub fn end(&mut self, turn: u64) {
        if let Some(reply) = self.by_turn.get_mut(&turn)
            && !std::mem::replace(&mut reply.ended, true)
        {
            self.ended.push_back(turn);
        }
        while self.bytes > self.bytes_max {
            let Some(turn) = self.ended.pop_front() else { return };
            self.forget(turn);
        }
    }

    /// Gives a reply up.
    pub fn forget(&mut self, turn: u64) {
        let Some(mut reply) = self.by_turn.remove(&turn) else { return };
        self.bytes -= reply.bytes;
        if self.last.get(&reply.session) == Some(&turn) {
            self.last.remove(&reply.session);
        }
        if self.spare.len() < SPARE_MAX {
            reply.words.clear();
            self.spare.push(reply.words);
        }
    }

    /// The turns of a session that said something behind `after`.
    pub fn since(&self, session: u64, after: StreamPosition) -> Since {
        let mut turns = Vec::new();
        let mut turn = self.last.get(&session).copied().unwrap_or(0);
        while let Some(reply) = self.by_turn.get(&turn) {
            let Some((first, last)) = reply.words.first().zip(reply.words.last()) else { break };
            if last.position <= after {
                turns.reverse();
                return Since::Turns(turns);
            }
            turns.push(turn);
            if first.position <= after.next() {
                turns.reverse();
                return Since::Turns(turns);
            }
            turn = reply.previous;
        }
        turns.reverse();
        Since::Gap(turns)
    }
}
