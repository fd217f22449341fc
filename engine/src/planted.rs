//! Mistakes that can be planted into the engine, to see whether the simulation finds them.
//!
//! Only with the feature `testing`, and only on a thread that asked for one: else [`is`] is the constant `false`, and the
//! places that ask it are the code that runs.

use crate::named::named;

named! {
    /// A mistake.
    pub enum Bug {
        /// A message is acknowledged before the journal has it.
        AckBeforeJournal "ack-before-journal",
        /// Every eighth id is not remembered.
        IdForgotten "id-forgotten",
        /// The end of a turn gives back the credit of another one too.
        DoubleRelease "double-release",
        /// The end of a turn does not begin the next one of its session.
        LostWake "lost-wake",
        /// A word is shown before the journal has it.
        ShownBeforeKept "shown-before-kept",
        /// A further attempt is not written to the journal.
        AttemptNotKept "attempt-not-kept",
        /// The journal is told to give up what is still needed.
        TrimTooFar "trim-too-far",
        /// A durable message is acknowledged when it is written, and not when it is on disk.
        DurableWhenWritten "durable-when-written",
        /// A dead letter that is tried again stays in the list.
        ReplayedLetterStays "replayed-letter-stays",
        /// Checksums of the journal are not compared.
        ChecksumIgnored "checksum-ignored",
        /// The end of a cancelled turn is not written to the journal.
        CancelNotKept "cancel-not-kept",
        /// The room of an agent's words is given back before the journal has them.
        ReleasedBeforeKept "released-before-kept",
        /// A turn that an agent of an earlier gateway works on is given out again.
        HeldTurnGivenAgain "held-turn-given-again",
        /// The numbers of words are not compared with what the journal has.
        WordsNotCompared "words-not-compared",
        /// An agent that serves one session at a time does not keep to it.
        SeatNotKept "seat-not-kept",
        /// Skills under way are not counted.
        SkillNotCounted "skill-not-counted",
        /// What has come of a skill is not told if it has failed.
        SkillFailureNotTold "skill-failure-not-told",
        /// A skill that the gateway before was asked for is run again.
        SkillRunAgain "skill-run-again",
    }
}

#[cfg(feature = "testing")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a mistake on this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this mistake is planted on this thread.
    #[inline]
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(not(feature = "testing"))]
mod switch {
    /// Whether this mistake is planted: never in this build.
    #[inline(always)]
    pub const fn is(_bug: super::Bug) -> bool {
        false
    }
}

pub use switch::*;
