//! The effect of what has been received, stored so that a kill at any instruction leaves the old or the new.
//!
//! Two slots, written in turn. A slot counts if its check agrees with its content; of two, the later sequence.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::MemfdFlags;

use super::chain::Effect;

const SLOT_BYTES: u64 = 64;
/// Position, count and hash; then sequence and check.
const BODY_BYTES: usize = 24;

/// A file of its own for the effects of one direction.
pub fn new_file() -> rustix::io::Result<OwnedFd> {
    rustix::fs::memfd_create("effect", MemfdFlags::CLOEXEC)
}

/// The effects of one direction.
#[derive(Debug)]
pub struct EffectStore<F: AsFd> {
    file: F,
    /// Of the slot written last.
    sequence: u64,
    stored: Effect,
}

impl<F: AsFd> EffectStore<F> {
    /// What the file holds; nothing has happened yet if it is empty.
    pub fn open(file: F) -> rustix::io::Result<Self> {
        let (mut sequence, mut stored) = (0, Effect::default());
        for slot in 0..2 {
            let mut words = [0u64; 5];
            for (index, word) in (0..).zip(&mut words) {
                let mut bytes = [0; 8];
                rustix::io::pread(&file, &mut bytes, slot * SLOT_BYTES + index * 8)?;
                *word = u64::from_le_bytes(bytes);
            }
            let [position, count, hash, found, check] = words;
            let effect = Effect { position, count, hash };
            if check == check_of(effect, found) && found > sequence {
                (sequence, stored) = (found, effect);
            }
        }
        Ok(Self { file, sequence, stored })
    }

    /// The last effect stored.
    pub fn stored(&self) -> Effect {
        self.stored
    }

    /// Stores an effect; `half` is called when one half of the slot is written.
    pub fn store(&mut self, effect: Effect, half: impl FnOnce()) -> rustix::io::Result<()> {
        let sequence = self.sequence + 1;
        let at = sequence % 2 * SLOT_BYTES;
        let mut body = [0u8; BODY_BYTES];
        body[0..8].copy_from_slice(&effect.position.to_le_bytes());
        body[8..16].copy_from_slice(&effect.count.to_le_bytes());
        body[16..24].copy_from_slice(&effect.hash.to_le_bytes());
        rustix::io::pwrite(&self.file, &body, at)?;
        half();
        let mut seal = [0u8; 16];
        seal[0..8].copy_from_slice(&sequence.to_le_bytes());
        seal[8..16].copy_from_slice(&check_of(effect, sequence).to_le_bytes());
        rustix::io::pwrite(&self.file, &seal, at + BODY_BYTES as u64)?;
        (self.sequence, self.stored) = (sequence, effect);
        Ok(())
    }
}

/// Never 0 for an empty slot, so that one is not taken for an effect.
fn check_of(effect: Effect, sequence: u64) -> u64 {
    [effect.position, effect.count, effect.hash, sequence]
        .into_iter()
        .fold(0x510e_527f_ade6_82d1, |sum, word| {
            (sum.rotate_left(9) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that ends in the middle of an update holds the effect before it, and takes the next.
    #[test]
    fn half_an_update_changes_nothing() {
        let file = new_file().unwrap();
        let effect = |count| Effect { position: count * 32, count, hash: count };
        for count in 0..5 {
            let mut store = EffectStore::open(&file).unwrap();
            assert_eq!(store.stored(), effect(count));
            store
                .store(effect(count + 1), || {
                    assert_eq!(EffectStore::open(&file).unwrap().stored(), effect(count));
                })
                .unwrap();
        }
    }
}
