//! Whether the keeper gets on: the gateway asks it for a sign of life, and replaces one that gives none.
//!
//! The keeper has one thread, and answers when it has done all that was asked before; so an answer says that it is
//! scheduled, and hangs in nothing. Whatever else it says is a sign as well. A look that finds nothing new is a miss; after
//! [`MISSES_MAX`] in a row the keeper is hung.
//!
//! As with agents (decision 0016) a gateway that does not run asks nothing and misses nobody: when it goes on after a stall,
//! it hears first what was said meanwhile. What was asked just before the whole machine stalls may stay unanswered; so a
//! look that comes more than [`LATE`] after its time is a part of a miss only.
//!
//! A keeper that waits for a disk is not hung: it could not be killed, and the next one would wait for the same disk.

use std::time::{Duration, Instant};

use keeper::client::ClientError;
use keeper::control::Request;

use super::{Control, ControlError};

/// Between two looks.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// How many looks in a row find nothing of a keeper that is hung.
pub(super) const MISSES_MAX: u32 = 5;
/// How long after its time a look may come and still be a whole miss.
const LATE: Duration = Duration::from_millis(500);
/// How many late looks are a miss.
const LATE_LOOKS_PER_MISS: u32 = 10;

/// What is to be done about the keeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// It has said something since the last look: it is asked again.
    Ask,
    /// It has said nothing yet.
    Wait,
    /// It has said nothing for too long.
    Hung,
}

/// What is known of the signs of life of the keeper.
#[derive(Debug)]
pub(super) struct KeeperBeats {
    next_look: Instant,
    has_spoken: bool,
    /// Looks in a row that found nothing: one for each that was late, [`LATE_LOOKS_PER_MISS`] for each that was not.
    missed: u32,
    /// Whether it was told that it waits for a disk.
    told: bool,
}

impl KeeperBeats {
    /// Of a keeper that has just said something.
    pub(super) fn new(now: Instant) -> Self {
        Self { next_look: now + INTERVAL, has_spoken: true, missed: 0, told: false }
    }

    /// When [`Control::look_after_keeper`] is to be called.
    pub(super) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// The keeper has said something.
    pub(super) fn heard(&mut self) {
        self.has_spoken = true;
    }

    fn look(&mut self, now: Instant) -> Verdict {
        let late = now.saturating_duration_since(self.next_look) > LATE;
        self.next_look = now + INTERVAL;
        if std::mem::take(&mut self.has_spoken) {
            self.missed = 0;
            return Verdict::Ask;
        }
        self.missed += if late { 1 } else { LATE_LOOKS_PER_MISS };
        if self.missed >= MISSES_MAX * LATE_LOOKS_PER_MISS { Verdict::Hung } else { Verdict::Wait }
    }
}

impl Control {
    /// Looks whether the keeper has said something since it was asked, and asks it again; replaces one that is hung.
    pub(super) fn look_after_keeper(&mut self) -> Result<(), ControlError> {
        // What it has said while this thread did not run.
        let before = self.parts.keeper.process_id();
        self.hear_keeper()?;
        self.mind_standby();
        if self.parts.keeper.process_id() != before || !self.parts.keeper.answers_beats() {
            self.keeper_beats = KeeperBeats::new(Instant::now());
            return Ok(());
        }
        let verdict = self.keeper_beats.look(Instant::now());
        let is_hung = verdict == Verdict::Hung || self.parts.keeper.is_stuck();
        if is_hung && waits_for_disk(before) {
            if !std::mem::replace(&mut self.keeper_beats.told, true) {
                tracing::warn!(process_id = before, "the keeper does not answer: it waits for a disk");
            }
            return Ok(());
        }
        if is_hung {
            tracing::error!(process_id = before, "the keeper does not answer; it is killed");
            let source = std::io::ErrorKind::TimedOut.into();
            return self.replace_keeper(ClientError::System { step: "waiting for a sign of life", source });
        }
        if verdict == Verdict::Ask {
            self.keeper_beats.told = false;
            // One that is gone is found by its socket.
            let _ = self.parts.keeper.send(&Request::Beat); // As above.
        }
        Ok(())
    }
}

/// Whether a process is in a call that no signal ends.
fn waits_for_disk(process: u32) -> bool {
    // One that is gone waits for nothing.
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name before it is in brackets, and may have some.
    stat.rsplit(')').next().is_some_and(|after| after.trim_start().starts_with('D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// Looks at `late` after each of `count` times, at a keeper that has said something before each where `speaks`.
    fn looks(beats: &mut KeeperBeats, count: u32, late: Duration, speaks: bool) -> Verdict {
        let mut verdict = Verdict::Wait;
        for _ in 0..count {
            if speaks {
                beats.heard();
            }
            verdict = beats.look(beats.next_look() + late);
        }
        verdict
    }

    /// The limit from both sides; a word of it, of whatever kind, is the end of all misses.
    #[test]
    fn silence_is_hung() {
        let mut beats = KeeperBeats::new(Instant::now());
        assert_eq!(looks(&mut beats, 1, Duration::ZERO, false), Verdict::Ask, "it had just spoken");
        assert_eq!(looks(&mut beats, MISSES_MAX - 1, LATE, false), Verdict::Wait);
        assert_eq!(looks(&mut beats, 1, LATE, true), Verdict::Ask);
        assert_eq!(looks(&mut beats, MISSES_MAX - 1, Duration::ZERO, false), Verdict::Wait);
        assert_eq!(looks(&mut beats, 1, Duration::ZERO, false), Verdict::Hung);
        assert_eq!(looks(&mut KeeperBeats::new(Instant::now()), 100, Duration::ZERO, true), Verdict::Ask);
    }

    /// One stall, however long, is no miss; a gateway that is always late finds a hung keeper in its time.
    #[test]
    fn a_stall_of_our_own_is_no_silence() {
        let mut beats = KeeperBeats::new(Instant::now());
        looks(&mut beats, 1, Duration::ZERO, false);
        assert_eq!(looks(&mut beats, 1, Duration::from_secs(3600), false), Verdict::Wait);
        assert_eq!(looks(&mut beats, MISSES_MAX - 1, Duration::ZERO, false), Verdict::Wait);
        let mut beats = KeeperBeats::new(Instant::now());
        let all = MISSES_MAX * LATE_LOOKS_PER_MISS;
        assert_eq!(looks(&mut beats, all, LATE + MOMENT, false), Verdict::Wait);
        assert_eq!(looks(&mut beats, 1, LATE + MOMENT, false), Verdict::Hung);
    }
}
