//! A map that grows in small steps: many tables, each of which is moved alone when it is full.
//!
//! One table of half a million entries takes tens of milliseconds to move, and everybody waits for the insert that
//! does it.

use hashbrown::HashMap;

use crate::hash::WordHash;

const PARTS_BITS: u32 = 7;

/// A map from words.
#[derive(Debug)]
pub(crate) struct SpreadMap<V> {
    parts: Box<[HashMap<u64, V, WordHash>]>,
}

impl<V> Default for SpreadMap<V> {
    fn default() -> Self {
        Self { parts: (0..1 << PARTS_BITS).map(|_| HashMap::default()).collect() }
    }
}

impl<V> SpreadMap<V> {
    /// The table in which a key is, if it is in any.
    #[inline]
    pub(crate) fn at(&self, key: u64) -> &HashMap<u64, V, WordHash> {
        &self.parts[Self::part(key)]
    }

    /// The same, to be changed.
    #[inline]
    pub(crate) fn at_mut(&mut self, key: u64) -> &mut HashMap<u64, V, WordHash> {
        &mut self.parts[Self::part(key)]
    }

    /// By another product than the tables use, so that each of them is filled evenly.
    #[inline]
    fn part(key: u64) -> usize {
        (key.wrapping_mul(0xd6e8_feb8_6659_fd93) >> (u64::BITS - PARTS_BITS)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No table has much more than its part, whether keys are counted up, as turns are, or spread, as sessions are.
    #[test]
    fn tables_fill_evenly() {
        let keys: [fn(u64) -> u64; 3] =
            [|n| n, |n| (n % 64) | ((n / 64) << 32), |n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)];
        for key in keys {
            let mut map = SpreadMap::default();
            for n in 0..64_000 {
                map.at_mut(key(n)).insert(key(n), n);
            }
            assert!((0..64_000).all(|n| map.at(key(n)).get(&key(n)) == Some(&n)));
            let longest = map.parts.iter().map(HashMap::len).max();
            assert!(longest < Some(750), "{longest:?} of 64,000 in one of 128");
        }
    }
}
