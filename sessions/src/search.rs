//! The texts by which sessions are searched, one behind the other.
//!
//! One pass over one block of memory finds the few sessions that hold a rare word. A word that many hold is not worth
//! a whole pass: the caller walks its list then, and asks for each session.

use memchr::memmem::Finder;

/// Hits from which on a word counts as common.
pub const HITS_MAX: usize = 2048;
/// A byte of no text: what has been removed is filled with it, so that nothing is found there.
const REMOVED: u8 = 0xff;

/// Where the text of a session lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    slot: u32,
}

/// The texts of all sessions.
#[derive(Debug, Default)]
pub struct Texts {
    bytes: Vec<u8>,
    /// By start.
    places: Vec<Place>,
    /// Start and end of the text of each slot.
    of_slot: Vec<(usize, usize)>,
    removed: usize,
}

/// What a search has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Hits {
    /// These, in no order.
    Few(Vec<u32>),
    /// More than [`HITS_MAX`].
    Many,
}

/// A word as texts are searched for it.
pub fn folded(text: &str) -> String {
    text.to_lowercase()
}

impl Texts {
    /// Sets the text of a session, in place of an earlier one.
    pub fn set(&mut self, slot: u32, text: &str) {
        self.remove(slot);
        let (start, index) = (self.bytes.len(), slot as usize);
        self.bytes.extend_from_slice(folded(text).as_bytes());
        // Between two texts, so that nothing is found across them.
        self.bytes.push(REMOVED);
        if self.of_slot.len() <= index {
            self.of_slot.resize(index + 1, (0, 0));
        }
        self.of_slot[index] = (start, self.bytes.len());
        self.places.push(Place { start, slot });
    }

    /// Takes out the text of a session.
    pub fn remove(&mut self, slot: u32) {
        let Some(held) = self.of_slot.get_mut(slot as usize) else { return };
        let (start, end) = std::mem::take(held);
        self.bytes[start..end].fill(REMOVED);
        self.removed += end - start;
        if self.removed > self.bytes.len() / 2 && self.removed > 4096 {
            self.compact();
        }
    }

    /// Whether the text of that session holds it. `word` is folded.
    pub fn holds(&self, slot: u32, word: &Finder<'_>) -> bool {
        let Some(&(start, end)) = self.of_slot.get(slot as usize) else { return false };
        word.find(&self.bytes[start..end]).is_some()
    }

    /// The sessions whose texts hold it, if they are few. `word` is folded and not empty.
    pub fn search(&self, word: &Finder<'_>) -> Hits {
        let (mut hits, mut from, mut next) = (Vec::new(), 0, 0);
        while let Some(found) = word.find(&self.bytes[from..]) {
            if hits.len() == HITS_MAX {
                return Hits::Many;
            }
            let at = from + found;
            next += self.places[next..].partition_point(|place| place.start <= at);
            hits.push(self.places[next - 1].slot);
            // A session counts once, however often the word stands in its text.
            from = self.places.get(next).map_or(self.bytes.len(), |place| place.start);
        }
        Hits::Few(hits)
    }

    fn compact(&mut self) {
        let old = std::mem::take(&mut self.bytes);
        self.removed = 0;
        self.places.clear();
        for (slot, held) in (0u32..).zip(&mut self.of_slot) {
            let (start, end) = *held;
            if start < end {
                *held = (self.bytes.len(), self.bytes.len() + end - start);
                self.places.push(Place { start: self.bytes.len(), slot });
                self.bytes.extend_from_slice(&old[start..end]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn few(texts: &Texts, word: &str) -> Vec<u32> {
        match texts.search(&Finder::new(word)) {
            Hits::Few(mut hits) => {
                hits.sort_unstable();
                hits
            }
            Hits::Many => panic!("{word} is common"),
        }
    }

    proptest! {
        /// After random changes, every search finds what looking into each text finds.
        #[test]
        fn it_finds_what_is_there(
            changes in prop::collection::vec((0u32..40, prop::option::of("[abAB]{1,200}")), 1..400),
            words in prop::collection::vec("[ab]{1,6}", 1..8),
        ) {
            let (mut texts, mut model) = (Texts::default(), BTreeMap::new());
            for (slot, text) in changes {
                match text {
                    Some(text) => {
                        texts.set(slot, &text);
                        model.insert(slot, text.to_lowercase());
                    }
                    None => {
                        texts.remove(slot);
                        model.remove(&slot);
                    }
                }
            }
            for word in &words {
                let expected: Vec<_> = model.iter().filter(|(_, text)| text.contains(word)).map(|(slot, _)| *slot).collect();
                prop_assert_eq!(&few(&texts, word), &expected);
                let held: Vec<_> = (0..40).filter(|&slot| texts.holds(slot, &Finder::new(word))).collect();
                prop_assert_eq!(held, expected);
            }
        }
    }

    /// A word that too many hold is not searched to the end.
    #[test]
    fn common_words_are_given_up() {
        let mut texts = Texts::default();
        (0..HITS_MAX as u32).for_each(|slot| texts.set(slot, "word word"));
        assert_eq!(few(&texts, "word").len(), HITS_MAX);
        texts.set(HITS_MAX as u32, "Word");
        assert_eq!(texts.search(&Finder::new("word")), Hits::Many);
    }
}
