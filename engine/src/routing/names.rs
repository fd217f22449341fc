//! From names to what they stand for.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// A map by name, without an order.
#[derive(Debug)]
pub(super) struct Names<T> {
    table: HashTable<(Box<str>, T)>,
}

impl<T: Copy> Names<T> {
    pub(super) fn new() -> Self {
        Self { table: HashTable::new() }
    }

    /// HOT: one hash, one comparison as a rule.
    pub(super) fn get(&self, name: &str) -> Option<T> {
        let found = self.table.find(xxh3_64(name.as_bytes()), |(other, _)| **other == *name);
        found.map(|&(_, value)| value)
    }

    /// Adds a name; `false` if it is there already.
    pub(super) fn insert(&mut self, name: &str, value: T) -> bool {
        let new = self.get(name).is_none();
        if new {
            let hash_of = |(other, _): &(Box<str>, T)| xxh3_64(other.as_bytes());
            self.table.insert_unique(xxh3_64(name.as_bytes()), (name.into(), value), hash_of);
        }
        new
    }
}
