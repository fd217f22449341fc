//! The numbered words of a session: what stands where, and what a client gets that comes back.
//!
//! 1. A place holds one word, for everybody and for ever.
//! 2. One listener gets places that grow.
//! 3. Who asks for what came behind a place gets every word that anybody has seen there, in order, once; or is told
//!    that some are gone.

use std::collections::BTreeMap;

use engine::session::StreamPosition;
use shm_transport::envelope::{Opened, ResumeStep};

use super::Checker;
use crate::simulation::packet::Packet;

/// What clients have seen of a session.
#[derive(Debug, Default)]
pub struct Stream {
    /// Fingerprint and turn, by place.
    seen: BTreeMap<u64, (u64, u64)>,
    /// Whether a log has lost some of its words: what was behind them is numbered again.
    pub(super) lost: bool,
}

impl Checker {
    /// A listener hears the word at a place.
    pub(super) fn placed(&mut self, key: (u64, u32), place: u64, fingerprint: u64, turn: u64) {
        let listener = self.listeners.get_mut(&key).expect("it was there");
        assert!(
            place > listener.place || listener.place == 0,
            "reordered: place {place:x} after {:x}",
            listener.place
        );
        listener.place = place;
        let session = self.messages[listener.message].session;
        let first = *self.sessions[session].stream.seen.entry(place).or_insert((fingerprint, turn));
        assert_eq!(
            first,
            (fingerprint, turn),
            "place {place:x} of session {session} holds another word than before"
        );
    }

    /// A word is gone with a part of a log.
    pub(super) fn word_lost(&mut self, session: usize, place: u64) {
        let stream = &mut self.sessions[session].stream;
        stream.seen.remove(&place);
        stream.lost = true;
    }

    /// A place that somebody has seen, or the very beginning.
    pub(in crate::simulation) fn some_place(
        &self,
        session: usize,
        random: &mut fastrand::Rng,
    ) -> Option<StreamPosition> {
        let places = self.sessions[session].stream.seen.keys().rev().take(12).copied();
        random.choice(places).map(StreamPosition::from_word)
    }

    /// A client that came back is answered.
    pub(in crate::simulation) fn resumed(
        &mut self,
        session: usize,
        after: StreamPosition,
        answer: &[Packet],
    ) {
        let stream = &mut self.sessions[session].stream;
        let after = after.word();
        let (mut gap, mut last) = (false, after);
        let mut got = Vec::new();
        for packet in answer {
            let place = packet.route.session;
            if let Opened::Resumed(said) = packet.message().open() {
                let step = ResumeStep::from_number(said.step);
                gap |= matches!(step, Some(ResumeStep::Gap | ResumeStep::Unknown));
                continue;
            }
            // Words before its place belong to a reply that goes on behind it.
            if place <= after {
                continue;
            }
            assert!(Checker::is_word(packet.kind()), "{:?} is no word of a session", packet.kind());
            assert!(place > last, "reordered: resuming session {session}, place {place:x} after {last:x}");
            last = place;
            got.push(place);
        }
        if gap || stream.lost {
            return;
        }
        for (&place, &(_, turn)) in stream.seen.range(after + 1..) {
            assert!(
                got.binary_search(&place).is_ok(),
                "lost: resuming session {session} behind {after:x}, place {place:x} of turn {turn:x} is missing"
            );
        }
    }
}
