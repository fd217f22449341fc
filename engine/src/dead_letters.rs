//! The turns of a shard that ended without a reply and were not refused: kept with their message and what was tried,
//! until somebody drops or replays them.
//!
//! Letters are in the order of death, which within a session is the order in which its messages were worked on; a
//! replay goes by it. To be replayed is a mark: the core takes marked letters one by one as their agents have room,
//! and removes a letter when its message has been accepted as another turn.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use shm_transport::envelope::FailureCode;

use crate::event::AgentIndex;

/// Bytes that a letter counts beside those of its message and its texts.
pub const LETTER_OVERHEAD_BYTES: usize = 512;

/// What the table may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLetterLimits {
    /// Letters.
    pub letters_max: usize,
    /// Bytes of their messages, texts, and [`LETTER_OVERHEAD_BYTES`] each.
    pub bytes_max: usize,
    /// Attempts that a letter tells of; of more, the first and the last ones.
    pub history_max: usize,
    /// Bytes of one text; longer ones are cut.
    pub text_bytes_max: usize,
}

impl Default for DeadLetterLimits {
    fn default() -> Self {
        Self { letters_max: 10_000, bytes_max: 64 * 1024 * 1024, history_max: 8, text_bytes_max: 256 }
    }
}

/// How one attempt went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailedAttempt {
    /// Which, from 1.
    pub attempt: u16,
    /// When it failed, Unix milliseconds.
    pub at_ms: u64,
    /// Why.
    pub code: FailureCode,
    /// Why, as a short sentence.
    pub text: String,
}

/// A turn that ended without a reply.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The turn.
    pub turn: u64,
    /// Hash of the session key.
    pub session: u64,
    /// Hash of the client's id; 0 if it gave none.
    pub id: u64,
    /// Whom it was for.
    pub agent: AgentIndex,
    /// Why it died.
    pub code: FailureCode,
    /// Why, as a sentence.
    pub text: String,
    /// What was tried, oldest first.
    pub history: Vec<FailedAttempt>,
    /// Bytes of its message, which stays in the table of turns.
    pub body_bytes: usize,
    /// When it died, Unix milliseconds.
    pub died_at_ms: u64,
}

impl DeadLetter {
    /// What it counts in the table.
    fn bytes(&self) -> usize {
        let texts: usize = self.history.iter().map(|failed| failed.text.len()).sum();
        self.body_bytes + self.text.len() + texts + LETTER_OVERHEAD_BYTES
    }

    fn shorten(&mut self, limits: DeadLetterLimits) {
        cut(&mut self.text, limits.text_bytes_max);
        if self.history.len() > limits.history_max {
            // The first tells how it began.
            let first = usize::from(limits.history_max > 0);
            let last = limits.history_max - first;
            self.history.drain(first..self.history.len() - last);
        }
        self.history.iter_mut().for_each(|failed| cut(&mut failed.text, limits.text_bytes_max));
    }
}

/// Cuts a text between two characters.
fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
}

/// Which bound of the table is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Full {
    /// [`DeadLetterLimits::letters_max`].
    #[error("the table holds {letters_max} dead letters already")]
    Letters {
        /// The bound.
        letters_max: usize,
    },
    /// [`DeadLetterLimits::bytes_max`].
    #[error("dead letters hold {bytes} of {bytes_max} bytes, and this one has {letter_bytes}")]
    Bytes {
        /// What they hold.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
        /// What this one has.
        letter_bytes: usize,
    },
}

/// Which letters are meant: those to which everything that is given applies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// For this agent.
    pub agent: Option<AgentIndex>,
    /// Of this session.
    pub session: Option<u64>,
    /// That died of this.
    pub code: Option<FailureCode>,
}

impl Filter {
    fn admits(&self, letter: &DeadLetter) -> bool {
        self.agent.is_none_or(|agent| letter.agent == agent)
            && self.session.is_none_or(|session| letter.session == session)
            && self.code.is_none_or(|code| letter.code == code)
    }
}

/// Which letters are to be replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selection {
    /// That of this turn.
    One(u64),
    /// All of them.
    All,
    /// Those to which a filter applies.
    Filter(Filter),
}

/// Whether a replay is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay {
    /// Only to see which letters it would be.
    DryRun,
    /// Mark them.
    Mark,
}

/// The table of a shard.
#[derive(Debug)]
pub struct DeadLetters {
    limits: DeadLetterLimits,
    /// By order of death.
    letters: BTreeMap<u64, DeadLetter>,
    /// Order of death by turn.
    by_turn: BTreeMap<u64, u64>,
    /// Those to be replayed, by order of death.
    marked: BTreeSet<u64>,
    next: u64,
    bytes: usize,
}

impl DeadLetters {
    /// An empty table.
    pub fn new(limits: DeadLetterLimits) -> Self {
        Self {
            limits,
            letters: BTreeMap::new(),
            by_turn: BTreeMap::new(),
            marked: BTreeSet::new(),
            next: 0,
            bytes: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Another bound. Letters that are there stay, also beyond it.
    pub fn set_limits(&mut self, limits: DeadLetterLimits) {
        self.limits = limits;
    }

    /// What they count together.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a letter; one for a turn that has one already takes its place, with the same order of death.
    pub fn insert(&mut self, mut letter: DeadLetter) -> Result<(), Full> {
        letter.shorten(self.limits);
        let letter_bytes = letter.bytes();
        let order = self.by_turn.get(&letter.turn).copied();
        let old_bytes = order.and_then(|order| self.letters.get(&order)).map_or(0, DeadLetter::bytes);
        let DeadLetterLimits { letters_max, bytes_max, .. } = self.limits;
        if order.is_none() && self.letters.len() >= letters_max {
            return Err(Full::Letters { letters_max });
        }
        let bytes = self.bytes - old_bytes;
        if bytes.saturating_add(letter_bytes) > bytes_max {
            return Err(Full::Bytes { bytes, bytes_max, letter_bytes });
        }
        self.put(letter);
        Ok(())
    }

    /// Whether there is room for the letter of a message of that size.
    pub fn has_room(&self, body_bytes: usize) -> bool {
        let DeadLetterLimits { letters_max, bytes_max, history_max, text_bytes_max } = self.limits;
        let letter_bytes = body_bytes + LETTER_OVERHEAD_BYTES + (history_max + 1) * text_bytes_max;
        self.letters.len() < letters_max && self.bytes.saturating_add(letter_bytes) <= bytes_max
    }

    /// Takes a letter beyond all bounds: one that had room when it died, or that a journal holds.
    pub fn insert_regardless(&mut self, mut letter: DeadLetter) {
        letter.shorten(self.limits);
        self.put(letter);
    }

    fn put(&mut self, letter: DeadLetter) {
        let order = self.by_turn.get(&letter.turn).copied().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.by_turn.insert(letter.turn, order);
        self.bytes += letter.bytes();
        if let Some(old) = self.letters.insert(order, letter) {
            self.bytes -= old.bytes();
        }
    }

    /// Whether the letter of a turn is to be replayed, and has not been yet.
    pub fn is_marked(&self, turn: u64) -> bool {
        self.by_turn.get(&turn).is_some_and(|order| self.marked.contains(order))
    }

    /// Some of those that are meant, oldest death first. Looks at every letter before them.
    pub fn list(&self, offset: usize, limit: usize, filter: Filter) -> impl Iterator<Item = &DeadLetter> {
        self.letters.values().filter(move |letter| filter.admits(letter)).skip(offset).take(limit)
    }

    /// The letter of a turn.
    pub fn get(&self, turn: u64) -> Option<&DeadLetter> {
        self.letters.get(self.by_turn.get(&turn)?)
    }

    /// Takes the letter of a turn out.
    pub fn remove(&mut self, turn: u64) -> Option<DeadLetter> {
        let order = self.by_turn.remove(&turn)?;
        self.marked.remove(&order);
        let letter = self.letters.remove(&order)?;
        self.bytes -= letter.bytes();
        Some(letter)
    }

    /// The turns that are meant, oldest death first.
    pub fn selected(&self, selection: Selection) -> Vec<u64> {
        self.orders(selection)
            .filter_map(|order| self.letters.get(&order))
            .map(|letter| letter.turn)
            .collect()
    }

    fn orders(&self, selection: Selection) -> impl Iterator<Item = u64> {
        let (one, filter) = match selection {
            Selection::One(turn) => (Some(turn), Filter::default()),
            Selection::All => (None, Filter::default()),
            Selection::Filter(filter) => (None, filter),
        };
        let named = one.and_then(|turn| self.by_turn.get(&turn)).copied();
        let all = self.letters.iter().filter(move |(_, letter)| one.is_none() && filter.admits(letter));
        named.into_iter().chain(all.map(|(&order, _)| order))
    }

    /// Which turns [`Self::take_for_replay`] would name.
    pub fn to_be_replayed(&self, selection: Selection) -> Vec<u64> {
        self.selected(selection).into_iter().filter(|&turn| !self.is_marked(turn)).collect()
    }

    /// The turns to be replayed, oldest death first, so that the order within each session is kept. Those that
    /// are marked already are not named again.
    pub fn take_for_replay(&mut self, selection: Selection, replay: Replay) -> Vec<u64> {
        let new: Vec<u64> = self.orders(selection).filter(|order| !self.marked.contains(order)).collect();
        if replay == Replay::Mark {
            self.marked.extend(&new);
        }
        new.iter().filter_map(|order| self.letters.get(order)).map(|letter| letter.turn).collect()
    }

    /// The marked letter that died first. It stays until it is removed or its mark is.
    pub fn next_for_replay(&self) -> Option<&DeadLetter> {
        self.letters.get(self.marked.first()?)
    }

    /// Takes the mark off a letter. False if it had none.
    pub fn unmark(&mut self, turn: u64) -> bool {
        self.by_turn.get(&turn).is_some_and(|order| self.marked.remove(order))
    }

    /// How many are marked.
    pub fn marked(&self) -> usize {
        self.marked.len()
    }
}
