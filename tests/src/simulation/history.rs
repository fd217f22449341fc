//! Everything that happens in a run, as one number and, if wanted, as text.

/// The history of a run.
#[derive(Debug)]
pub(super) struct History {
    digest: u64,
    pub(super) step: u64,
    pub(super) trace: bool,
}

impl History {
    pub(super) fn new(seed: u64, trace: bool) -> Self {
        Self { digest: seed, step: 0, trace }
    }

    /// Something has happened. The text is made for the trace only.
    pub(super) fn note(&mut self, what: &str, words: &[u64], text: impl FnOnce() -> String) {
        for chunk in what.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        words.iter().for_each(|&word| self.mix(word));
        if self.trace {
            let words: Vec<String> = words.iter().map(|word| format!("{word:x}")).collect();
            println!("{:>6} {what:<18} {:<40} {}", self.step, words.join(" "), text());
        }
    }

    fn mix(&mut self, word: u64) {
        let mixed = (self.digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.digest = mixed ^ (mixed >> 29);
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }
}
