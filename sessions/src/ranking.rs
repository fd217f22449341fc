//! Sessions by the time of their last change, with the number of each place known.
//!
//! A sorted list in pieces of bounded size. Finding the n-th, or how many are newer than a time, steps over pieces and
//! not over sessions: a page deep in a long list costs what the first page costs, and a few hundred steps.

/// Most entries of a piece; a full one becomes two.
const PIECE_MAX: usize = 512;

/// When it was last changed, and which session it is. Ordered by time, then by slot.
pub type Ranked = (u64, u32);

/// A sorted list of sessions.
#[derive(Debug, Default)]
pub struct Ranking {
    /// None of them is empty.
    pieces: Vec<Vec<Ranked>>,
    len: usize,
}

impl Ranking {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.len
    }

    /// Takes one in. It must not be there.
    pub fn insert(&mut self, entry: Ranked) {
        let index = self.piece_of(entry);
        let Some(piece) = self.pieces.get_mut(index) else {
            self.pieces.push(vec![entry]);
            self.len = 1;
            return;
        };
        let place = piece.partition_point(|held| *held < entry);
        debug_assert_ne!(piece.get(place), Some(&entry));
        piece.insert(place, entry);
        self.len += 1;
        if piece.len() > PIECE_MAX {
            let upper = piece.split_off(PIECE_MAX / 2);
            self.pieces.insert(index + 1, upper);
        }
    }

    /// Takes one out; whether it was there.
    pub fn remove(&mut self, entry: Ranked) -> bool {
        let index = self.piece_of(entry);
        let Some(piece) = self.pieces.get_mut(index) else { return false };
        let Ok(place) = piece.binary_search(&entry) else { return false };
        piece.remove(place);
        self.len -= 1;
        if piece.is_empty() {
            self.pieces.remove(index);
        }
        true
    }

    /// How many are older than that time, and how many pieces were looked at.
    pub fn older_than(&self, updated_ms: u64) -> (usize, usize) {
        let mut count = 0;
        for (index, piece) in self.pieces.iter().enumerate() {
            if piece.last().is_some_and(|last| last.0 >= updated_ms) {
                return (count + piece.partition_point(|held| held.0 < updated_ms), index + 1);
            }
            count += piece.len();
        }
        (count, self.pieces.len())
    }

    /// From the newest on, after `skip` of them; and how many pieces were stepped over.
    pub fn newest(&self, skip: usize) -> (impl Iterator<Item = Ranked> + '_, usize) {
        let (mut left, mut pieces) = (skip, self.pieces.len());
        while pieces > 0 && self.pieces[pieces - 1].len() <= left {
            left -= self.pieces[pieces - 1].len();
            pieces -= 1;
        }
        let stepped = self.pieces.len() - pieces;
        let rest = self.pieces[..pieces].iter().rev().flat_map(|piece| piece.iter().rev()).copied();
        (rest.skip(if pieces == 0 { 0 } else { left }), stepped)
    }

    /// The piece in which an entry lies or would lie; the last one if it is the newest of all.
    fn piece_of(&self, entry: Ranked) -> usize {
        let index = self.pieces.partition_point(|piece| piece.last().is_some_and(|last| *last < entry));
        index.min(self.pieces.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Random insertions and removals give what a set of the same entries gives, at every skip and time.
        #[test]
        fn it_is_a_sorted_set(operations in prop::collection::vec((any::<bool>(), 0u64..40, 0u32..60), 1..3000)) {
            let (mut ranking, mut model) = (Ranking::default(), BTreeSet::new());
            for (insert, time, slot) in operations {
                let entry = (time, slot);
                if insert && model.insert(entry) {
                    ranking.insert(entry);
                } else if !insert {
                    prop_assert_eq!(ranking.remove(entry), model.remove(&entry));
                }
            }
            prop_assert_eq!(ranking.count(), model.len());
            for time in 0..41 {
                let expected = model.iter().filter(|held| held.0 < time).count();
                prop_assert_eq!(ranking.older_than(time).0, expected);
            }
            let skips = (0..model.len() + 2).step_by(97).chain([model.len()]);
            for skip in skips {
                let expected: Vec<_> = model.iter().rev().skip(skip).copied().collect();
                prop_assert_eq!(ranking.newest(skip).0.collect::<Vec<_>>(), expected);
            }
        }
    }

    /// A place deep in a long list is found by stepping over pieces.
    #[test]
    fn deep_places_are_near() {
        let mut ranking = Ranking::default();
        for slot in 0..100_000u32 {
            ranking.insert((u64::from(slot) * 7919 % 100_003, slot));
        }
        let (mut rest, stepped) = ranking.newest(99_990);
        assert!(stepped <= 100_000 / (PIECE_MAX / 2) + 1, "{stepped} pieces");
        assert!(rest.next().is_some());
        assert!(ranking.older_than(u64::MAX).1 <= 100_000 / (PIECE_MAX / 2) + 1);
    }
}
