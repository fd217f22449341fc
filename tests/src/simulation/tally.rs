//! What happened how often: ends by kind, faults by kind, and how much work it was.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Last frames that clients got, by name.
    pub ends: BTreeMap<&'static str, u64>,
    /// Faults, by name.
    pub faults: BTreeMap<&'static str, u64>,
    /// What else is worth knowing.
    pub work: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub(super) fn end(&mut self, name: &'static str) {
        *self.ends.entry(name).or_default() += 1;
    }

    pub(super) fn fault(&mut self, name: &'static str) {
        *self.faults.entry(name).or_default() += 1;
    }

    pub(super) fn work(&mut self, name: &'static str, count: u64) {
        *self.work.entry(name).or_default() += count;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        let both =
            [(&mut self.ends, &other.ends), (&mut self.faults, &other.faults), (&mut self.work, &other.work)];
        for (own, others) in both {
            for (&name, &count) in others {
                *own.entry(name).or_default() += count;
            }
        }
    }
}
