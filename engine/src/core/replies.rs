//! What agents have said, as it was numbered for the client: kept for those who send a message again, and for those
//! who lost their connection.
//!
//! The words of a session form one stream. The place of a word is (epoch, offset): offsets count up, and an epoch ends
//! where the gateway cannot say any more what the last offset was. The store is bounded in bytes; whole replies are
//! given up, oldest first, and only after they have ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use shm_transport::envelope::{ArchivedMessageV2, FLAG_NO_REPLY, StoredBody};

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
    /// What was replied to.
    pub asked: Asked,
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

/// How a client called the message that is replied to, and for whom it was.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// Its name for it; empty without one.
    pub client_id: String,
    /// The agent that it names; empty if none.
    pub agent: String,
    /// Whether it wants the reply.
    pub wants_reply: bool,
}

impl Asked {
    /// Takes what a message says about itself, into the memory that is there.
    pub fn take(&mut self, archive: &ArchivedMessageV2) {
        self.client_id.clear();
        self.client_id.push_str(&archive.client_id);
        self.agent.clear();
        self.agent.push_str(&archive.agent);
        self.wants_reply = archive.flags & FLAG_NO_REPLY == 0;
    }
}

/// A part of what a session has said.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// Places in order, each with its turn.
    pub words: Vec<(StreamPosition, u64)>,
    /// Whether there are more behind them.
    pub more: bool,
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
    spare: Vec<(Vec<Word>, Asked)>,
    bytes: usize,
    bytes_max: usize,
}

/// Emptied lists that are kept.
const SPARE_MAX: usize = 1024;
/// Replies of one session, from the newest back, among which those are looked for that a client has missed.
pub const CHAIN_MAX: usize = 1024;

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
    pub fn push(&mut self, turn: u64, session: u64, word: Word, take_asked: impl FnOnce(&mut Asked)) {
        let Self { by_turn, last, spare, next_number, .. } = self;
        let mut bytes = WORD_BYTES + word.body.bytes_len();
        let reply = by_turn.at_mut(turn).entry(turn).or_insert_with(|| {
            let number = *next_number;
            *next_number += 1;
            let (words, mut asked) = spare.pop().unwrap_or_default();
            take_asked(&mut asked);
            bytes += asked.client_id.len() + asked.agent.len();
            Reply {
                words,
                asked,
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
            self.spare.push((reply.words, reply.asked));
        }
    }

    /// Whether anything that a session has said is kept.
    pub fn has_any(&self, session: u64) -> bool {
        self.last.at(session).get(&session).is_some()
    }

    /// The place of the newest word of a session that is kept, in one epoch or in whichever; of turns that began among
    /// the last ones.
    pub fn newest(&self, session: u64, epoch: Option<u32>) -> Option<StreamPosition> {
        let newest = |(_, reply): (u64, &Reply)| {
            let mut places = reply.words.iter().rev().map(|word| word.position);
            places.find(|place| epoch.is_none_or(|epoch| place.epoch == epoch))
        };
        self.chain(session).filter_map(newest).max()
    }

    /// The replies of a session, the one that began last first.
    fn chain(&self, session: u64) -> impl Iterator<Item = (u64, &Reply)> {
        let (mut turn, mut number) = self.last.at(session).get(&session).copied().unwrap_or_default();
        let next = move || {
            let reply = self.by_turn.at(turn).get(&turn).filter(|reply| reply.number == number)?;
            let found = (turn, reply);
            (turn, number) = reply.previous;
            Some(found)
        };
        std::iter::from_fn(next).take(CHAIN_MAX)
    }

    /// Which turns have said something behind `after`, or are among `open`: those a client at `after` has to be told of.
    fn concerned(&self, session: u64, after: StreamPosition, open: &[u64]) -> Vec<(u64, &Reply)> {
        let said_more = |reply: &Reply| reply.words.last().is_some_and(|last| last.position > after);
        let mut found: Vec<(u64, &Reply)> =
            self.chain(session).filter(|(turn, reply)| said_more(reply) || open.contains(turn)).collect();
        // Turns take turns only at agents: an open one may have begun to speak before many others.
        for &turn in open {
            if found.iter().all(|&(known, _)| known != turn)
                && let Some(reply) = self.by_turn.at(turn).get(&turn)
            {
                found.push((turn, reply));
            }
        }
        found
    }

    /// What a session has said behind `sent`, as far as it goes into one page: all words of the turns that have said
    /// something behind `after` or are `open`, those before `after` too, since what is said later goes on with them.
    ///
    /// The places behind `after` that are missing are those of words that are not kept.
    pub fn page(
        &self,
        session: u64,
        (after, sent): (StreamPosition, Option<StreamPosition>),
        open: &[u64],
        (words_max, bytes_max): (usize, usize),
    ) -> Page {
        let concerned = self.concerned(session, after, open);
        let mut heads = BinaryHeap::with_capacity(concerned.len());
        for (place, (_, reply)) in concerned.iter().enumerate() {
            let at = reply.words.partition_point(|word| Some(word.position) <= sent);
            if let Some(word) = reply.words.get(at) {
                heads.push(Reverse((word.position, place, at)));
            }
        }
        let (mut words, mut bytes) = (Vec::new(), 0);
        while let Some(Reverse((position, place, at))) = heads.pop() {
            let (turn, reply) = concerned[place];
            bytes += reply.words[at].body.bytes_len();
            if words.len() == words_max || (bytes > bytes_max && !words.is_empty()) {
                return Page { words, more: true };
            }
            words.push((position, turn));
            if let Some(word) = reply.words.get(at + 1) {
                heads.push(Reverse((word.position, place, at + 1)));
            }
        }
        Page { words, more: false }
    }

    /// The word of a turn at a place.
    pub fn word(&self, turn: u64, position: StreamPosition) -> Option<&Word> {
        let words = &self.by_turn.at(turn).get(&turn)?.words;
        let at = words.binary_search_by_key(&position, |word| word.position).ok()?;
        words.get(at)
    }
}
