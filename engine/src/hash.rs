//! Hashing of words that are spread already, or counted up by us: no protection is needed, and none is paid for.

use std::hash::{BuildHasherDefault, Hasher};

/// Spreads one word.
#[derive(Default, Clone, Copy, Debug)]
pub struct WordHasher(u64);

/// Makes [`WordHasher`]s. The same in every run, so that a run can be repeated exactly.
pub type WordHash = BuildHasherDefault<WordHasher>;

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }
    fn write_u64(&mut self, number: u64) {
        let spread = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table takes its tag from the top bits and its place from the bottom ones.
        self.0 = spread ^ (spread >> 32);
    }
}
