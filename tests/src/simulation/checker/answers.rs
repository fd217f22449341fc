//! What clients hear: each frame, against everything that came before.

use shm_transport::envelope::{FailureCode, Kind, Opened, Route};

use super::text::{Said, Word};
use super::{Checker, Heard, Message, Promise};
use crate::simulation::packet::Packet;

/// What a frame says, with what is the same whenever it is repeated.
struct Frame<'a> {
    route: Route,
    text: &'a str,
    fingerprint: u64,
}

fn fingerprint(kind: u64, code: u64, text: &str) -> u64 {
    let mut print = kind << 32 | code;
    for &byte in text.as_bytes().iter().take(64) {
        print = (print ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    print ^ text.len() as u64
}

impl Checker {
    /// A client hears a frame. Says which message it is about.
    pub(in crate::simulation) fn heard(&mut self, packet: &Packet) -> (usize, Heard) {
        let now = self.tick();
        let Route { origin, sequence, .. } = packet.route;
        let key = (origin, sequence);
        let listener = self.listeners.get(&key).copied();
        let listener = listener.unwrap_or_else(|| panic!("phantom: nothing was sent as {key:?}: {packet:?}"));
        assert!(listener.arrived_at > 0, "phantom: {key:?} is answered before it is read");
        let name = format!("message {} at {key:?}", listener.message);
        assert!(!listener.ended, "reordered: {name} hears {:?} after its end", packet.kind());
        let frame = |kind: u64, code: u64, text| Frame {
            route: packet.route,
            text,
            fingerprint: fingerprint(kind, code, text),
        };
        let heard = match packet.message().open() {
            Opened::Accepted => self.accepted(key, packet.route, now),
            Opened::Block(block) => self.word(key, &frame(0, 0, block.content.as_str()), false, now),
            Opened::End(end) => self.word(key, &frame(1, 0, end.content.as_str()), true, now),
            Opened::Failure(failure) => {
                let code = FailureCode::from_number(failure.code.to_native()).expect("failures have names");
                let frame = frame(2, code as u64, failure.text.as_str());
                match code {
                    // It is worked on after the next start: no answer.
                    FailureCode::JournalFailed if packet.route.turn != 0 => {
                        assert!(self.journal_failure_seen, "phantom: {name}: no journal has failed");
                        Heard::Refused(code.name())
                    }
                    _ if packet.route.turn == 0 => self.refused(key, code, now),
                    _ => self.failed(key, code, &frame, now),
                }
            }
            _ => panic!("{:?} for a client", packet.kind()),
        };
        let listener = self.listeners.get_mut(&key).expect("it was there");
        listener.ended = heard != Heard::More;
        (listener.message, heard)
    }

    fn accepted(&mut self, key: (u64, u32), route: Route, now: u64) -> Heard {
        let listener = self.listeners.get_mut(&key).expect("it was there");
        listener.acknowledged += 1;
        let (message, times) = (listener.message, listener.acknowledged);
        assert_eq!(times, 1, "duplicate: message {message} is acknowledged again to {key:?}");
        let durable = route.attempt & 0xff == 2;
        assert_eq!(durable, self.messages[message].durable, "message {message} is kept in the wrong class");
        self.promised(message, route.turn, now);
        Heard::More
    }

    /// A message is known to be accepted, as that turn.
    fn promised(&mut self, message: usize, turn: u64, now: u64) {
        let known = self.turns.get(&turn);
        let known = known.unwrap_or_else(|| panic!("phantom: nobody was asked to keep turn {turn:x}"));
        assert_eq!(known.message, message, "phantom: turn {turn:x} is of another message");
        let identity = &mut self.identities[self.messages[message].identity];
        match identity.promise {
            _ if identity.forgotten => {}
            None => identity.promise = Some(Promise { turn, message, known_at: now }),
            Some(promise) => {
                let Promise { turn: first, message: body, .. } = promise;
                assert_eq!(
                    (first, body),
                    (turn, message),
                    "lost: message {body} was accepted as turn {first:x}, and message {message} under its id as {turn:x}"
                );
            }
        }
    }

    /// How many ids the shard has taken at most since it took that of a message for the first time.
    pub(super) fn newer_ids(&self, message: usize) -> u64 {
        let Message { session, identity, .. } = self.messages[message];
        let taken = self.ids_taken.get(&self.shard_of(session)).copied().unwrap_or(0);
        taken.saturating_sub(self.identities[identity].counted_at)
    }

    /// A block, or the last word of an agent.
    fn word(&mut self, key: (u64, u32), frame: &Frame<'_>, ends: bool, now: u64) -> Heard {
        let Route { turn, session: place, attempt, .. } = frame.route;
        let message = self.listeners[&key].message;
        self.promised(message, turn, now);
        let said = Said::parse(frame.text);
        let said = said.unwrap_or_else(|| panic!("phantom: {key:?} hears {:?}", frame.text));
        assert_eq!(said.message as usize, message, "phantom: the reply of another message at {key:?}");
        assert_eq!(said.attempt, attempt, "stale: words of attempt {} are shown as {attempt}", said.attempt);
        self.placed(key, place, frame.fingerprint, turn);
        let wants_reply = self.messages[message].wants_reply;
        let listener = self.listeners.get_mut(&key).expect("it was there");
        assert!(attempt >= listener.attempt, "reordered: attempt {attempt} after {}", listener.attempt);
        if attempt > listener.attempt {
            (listener.attempt, listener.next_block) = (attempt, 0);
        }
        match said.word {
            Word::Block(number) => {
                assert!(wants_reply, "phantom: {key:?} wants no reply");
                let expected = listener.next_block;
                listener.next_block += 1;
                let partial = self.turns[&turn].words_lost_until >= attempt;
                assert!(
                    number == expected || partial,
                    "reordered: block {number} instead of {expected} at {key:?}"
                );
            }
            Word::End(blocks) => {
                let heard = listener.next_block;
                let partial = self.turns[&turn].words_lost_until >= attempt;
                let all = !wants_reply || heard == blocks || partial;
                assert!(all, "lost: the end of message {message} comes after {heard} of {blocks} blocks");
            }
            Word::Failure => {}
        }
        if ends {
            self.answered(message, frame);
            return Heard::Ended("answered");
        }
        Heard::More
    }

    /// The one answer, or its repetition.
    fn answered(&mut self, message: usize, frame: &Frame<'_>) {
        let identity = &mut self.identities[self.messages[message].identity];
        identity.may_have_ended = true;
        if identity.forgotten {
            return;
        }
        let first = *identity.answer.get_or_insert(frame.fingerprint);
        assert_eq!(
            first,
            frame.fingerprint,
            "duplicate effect: message {message} has another answer than before: {:?}",
            frame.text.chars().take(80).collect::<String>()
        );
    }

    /// A turn has ended with a failure.
    fn failed(&mut self, key: (u64, u32), code: FailureCode, frame: &Frame<'_>, now: u64) -> Heard {
        let listener = self.listeners[&key];
        let message = listener.message;
        let Route { turn, session: place, .. } = frame.route;
        match code {
            FailureCode::AgentError => {
                self.word(key, frame, true, now);
                return Heard::Ended(code.name());
            }
            FailureCode::Cancelled => {
                assert!(self.messages[message].cancelled, "phantom: nobody cancelled message {message}");
            }
            FailureCode::DeadlineExceeded => {
                assert!(self.messages[message].has_deadline, "phantom: message {message} has no deadline");
            }
            FailureCode::DeadLettered => {
                self.promised(message, turn, now);
                let identity = &mut self.identities[self.messages[message].identity];
                if !identity.deaths.contains(&place) {
                    identity.deaths.push(place);
                }
                let (deaths, replays) = (identity.deaths.len(), identity.replays);
                let allowed = identity.forgotten || deaths <= 1 + replays;
                assert!(allowed, "message {message} died {deaths} times, tried anew {replays} times");
                self.placed(key, place, 2, turn);
                return Heard::Ended(code.name());
            }
            other => panic!("phantom: message {message} ends as {}", other.name()),
        }
        self.promised(message, turn, now);
        self.placed(key, place, frame.fingerprint, turn);
        self.answered(message, frame);
        Heard::Ended(code.name())
    }

    /// A message was not taken.
    fn refused(&mut self, key: (u64, u32), code: FailureCode, now: u64) -> Heard {
        let listener = self.listeners[&key];
        let number = listener.message;
        let message = &self.messages[number];
        let session = message.session;
        let identity = &self.identities[message.identity];
        let forgotten = identity.forgotten || self.newer_ids(number) >= self.ids_max;
        let known = identity.promise.filter(|promise| promise.known_at < listener.arrived_at && !forgotten);
        let reason = match code {
            FailureCode::AlreadyAnswered => identity.may_have_ended || message.has_deadline,
            FailureCode::DeadLettered => identity.may_have_died,
            FailureCode::Conflict => {
                identity.bodies.len() > 1 && known.is_none_or(|promise| promise.message != number)
            }
            FailureCode::UnknownAgent => message.agent == "nobody",
            FailureCode::NotAddressed => {
                self.sessions[session].mode == shm_transport::envelope::SessionMode::Group
            }
            FailureCode::DiskFull => self.disk_full_seen,
            FailureCode::JournalFailed => self.journal_failure_seen,
            FailureCode::Overloaded | FailureCode::AgentUnavailable => true,
            _ => false,
        };
        assert!(reason, "message {number} is refused as {} without a reason", code.name());
        use FailureCode::{AlreadyAnswered, Conflict, DeadLettered};
        // With a broken journal nothing can be told of what was accepted before, until the next start.
        let had = matches!(code, AlreadyAnswered | Conflict | DeadLettered | FailureCode::JournalFailed);
        if let Some(Promise { turn, .. }) = known {
            assert!(
                had,
                "lost: message {number} was accepted as turn {turn:x}, and is refused as {}",
                code.name()
            );
        }
        let _ = now;
        match code {
            FailureCode::Overloaded
            | FailureCode::AgentUnavailable
            | FailureCode::DiskFull
            | FailureCode::JournalFailed => Heard::Refused(code.name()),
            _ => Heard::Ended(code.name()),
        }
    }

    /// What `Kind` a frame may have that a client did not ask for by a message.
    pub(in crate::simulation) fn is_word(kind: Kind) -> bool {
        matches!(kind, Kind::Block | Kind::End | Kind::Failure)
    }
}
