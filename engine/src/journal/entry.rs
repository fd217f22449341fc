//! What a shard asks the journal to keep: an entry of few words, and a body.
//!
//! On the ring to the journal thread an entry travels as the routing words of its body:
//!
//! | routing word | `Accepted`, `Moved`, `Known` | `Attempt` | `Block`, `Done`, `Dead` | `Dropped`, `Routed` | `Trim` |
//! |---|---|---|---|---|---|
//! | `turn` | the turn; 0 for `Known` | the turn | the turn | the turn | 0 |
//! | `session` | hash of the session key | the same | the same | the same | 0 |
//! | `origin` | hash of the client's id, 0 if it gave none | 0 | place in the session's stream | 0 | sequence below which nothing is needed |
//! | `attempt` | fingerprint of the body | failures | 0; for `Dead` the code of its last failure | 0 | 0 |
//! | `sequence` | bits 0–7 kind, bit 8 durable, bits 16–31 attempt | the same | the same | the same | the same | the same |
//!
//! Entries of a shard are numbered from the first one of its log, in the order of sending; both sides count, so
//! the number does not travel. A `Trim` is no entry of the log and is not counted.

use shm_transport::envelope::Route;

const DURABLE: u32 = 1 << 8;
const ATTEMPT_SHIFT: u32 = 16;

/// Declares the kinds with their numbers, once.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What an entry says.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum EntryKind { $($(#[$doc])* $name = $number,)* }

        impl EntryKind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The one with this number.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// A message has been accepted. Body: the message.
    Accepted = 1,
    /// A turn is about to be given out again. No body.
    Attempt = 2,
    /// A piece of the reply. Body: the block.
    Block = 3,
    /// The one terminal word of a turn. Body: end or failure.
    Done = 4,
    /// A turn ended in the dead letter queue; it stays until `Dropped`. Body: the failure.
    Dead = 5,
    /// A dead letter is not wanted any more, or has been replayed as another turn. No body.
    Dropped = 6,
    /// The id of a message that has been answered, taken over from a log that is replaced. No body.
    Known = 7,
    /// An old message, written again so that its first place may be given up. Body: the message.
    Moved = 8,
    /// Nothing below this sequence is needed any more. Not part of the log.
    Trim = 9,
    /// To which agent the message goes that comes next, and names none. Body: the end of a reply, with the name as text.
    Routed = 10,
}

/// What a shard asks the journal to keep, without its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it says.
    pub kind: EntryKind,
    /// Whether it has to survive a loss of power, and not only of processes.
    pub durable: bool,
    /// Whose turn.
    pub turn: u64,
    /// Hash of the session key.
    pub session: u64,
    /// The word that depends on the kind; see the table.
    pub word: u64,
    /// How often the turn has been given out, this time included.
    pub attempt: u16,
    /// Fingerprint of the body of a message, by which another body under the same id is told apart.
    pub check: u32,
}

impl Entry {
    /// As the routing words of its body.
    #[inline]
    pub fn to_route(self) -> Route {
        let durable = if self.durable { DURABLE } else { 0 };
        Route {
            turn: self.turn,
            session: self.session,
            origin: self.word,
            sequence: u32::from(self.kind as u8) | durable | u32::from(self.attempt) << ATTEMPT_SHIFT,
            attempt: self.check,
        }
    }

    /// From routing words; `None` if they name a kind that this build does not know.
    #[inline]
    pub fn from_route(route: Route) -> Option<Self> {
        let [kind, _, attempt_low, attempt_high] = route.sequence.to_le_bytes();
        Some(Self {
            kind: EntryKind::from_number(kind)?,
            durable: route.sequence & DURABLE != 0,
            turn: route.turn,
            session: route.session,
            word: route.origin,
            attempt: u16::from_le_bytes([attempt_low, attempt_high]),
            check: route.attempt,
        })
    }
}

/// A message id as it is remembered after its message is gone: 16 bytes of fingerprint, and what tells another body apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IdEntry {
    /// Hash of the session key.
    pub session: u64,
    /// Hash of the client's id.
    pub id: u64,
    /// Fingerprint of the body.
    pub check: u32,
    /// When it was accepted, Unix seconds.
    pub at_s: u32,
}

/// Whether the journal can take work; the worst is the largest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u32)]
pub enum JournalState {
    /// It can.
    #[default]
    Writing = 0,
    /// The disk is full: what is under way can be finished, nothing new can be taken. Ends by itself.
    Full = 1,
    /// A write or sync failed: nothing is acknowledged any more.
    Failed = 2,
}

impl JournalState {
    /// Its name, for people and pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Full => "full",
            Self::Failed => "failed",
        }
    }

    /// The state with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Writing),
            1 => Some(Self::Full),
            2 => Some(Self::Failed),
            _ => None,
        }
    }
}

/// How far the journal of a shard is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Entries below this sequence survive the death of any process.
    pub written: u64,
    /// Entries below this sequence survive a loss of power.
    pub synced: u64,
    /// Whether it can go on.
    pub state: JournalState,
}

impl Progress {
    /// As the routing words of a [`shm_transport::envelope::Kind::Journaled`]: `turn` is written, `session` synced,
    /// `sequence` the state.
    #[inline]
    pub fn to_route(self) -> Route {
        Route { turn: self.written, session: self.synced, sequence: self.state as u32, ..Route::default() }
    }

    /// From routing words.
    #[inline]
    pub fn from_route(route: Route) -> Option<Self> {
        let state = JournalState::from_number(route.sequence)?;
        Some(Self { written: route.turn, synced: route.session, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind, flag and word comes back.
    #[test]
    fn entries_survive_routing_words() {
        for &kind in EntryKind::ALL {
            for durable in [false, true] {
                for attempt in [0, 1, u16::MAX] {
                    let entry =
                        Entry { kind, durable, turn: 1, session: u64::MAX, word: 3, attempt, check: 4 };
                    assert_eq!(Entry::from_route(entry.to_route()), Some(entry));
                }
            }
        }
        assert_eq!(Entry::from_route(Route::default()), None);
        let progress = Progress { written: 3, synced: 2, state: JournalState::Failed };
        assert_eq!(Progress::from_route(progress.to_route()), Some(progress));
    }
}
