//! What agents are given and say, and in which order.
//!
//! 1. A session has one turn at agents at a time. It is free again when the agent has said its last word, is dead, or
//!    the turn's end was sent to the log.
//! 2. Turns of one class, and in mode `queue` all turns, are given out for the first time in a run in the order in which
//!    they were accepted.
//! 3. A turn is not given out while a more urgent one waits that was there when the turn before it ended.
//! 4. Attempts of a turn count up, also from run to run.
//! 5. An agent holds as much as it may, and gets only what is for it.
//! 6. A turn that has failed by itself as often as it may is not given out again, unless somebody replays it. A failure
//!    counts for the next run as soon as the turn has been given out after it.
//! 7. A turn that has ended is not given out.
//! 8. Nor is one about which an agent has said the last word, as long as that agent lives, whatever becomes of the
//!    gateway: then its words are in the journal or in its ring.
//!
//! A turn that was a dead letter has no place in the order.

use std::collections::BTreeMap;

use engine::event::InstanceId;
use engine::journal::entry::{Entry, EntryKind};
use shm_transport::envelope::{Body, Kind, Opened, Priority, Route, SessionMode};
use shm_transport::ports::shard_of;

use super::Checker;
use super::text::Said;
use crate::simulation::packet::Packet;
use crate::simulation::store::Missing;
use crate::simulation::world::{POOL, TALK, agent_name};

/// What is known of a turn.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    pub(super) message: usize,
    session: usize,
    class: Priority,
    /// Its place in the order of acceptance.
    accepted_at: u64,
    attempt: u32,
    /// Own failures.
    failures: u32,
    /// Those that the next run knows of.
    failures_kept: u32,
    begun: bool,
    ended: bool,
    /// Whether it was a dead letter once.
    died: bool,
    /// Places of the words of its deaths.
    deaths: Vec<u64>,
    /// Whether it has a place in the order: its log knows all of it, and it was never a dead letter.
    ordered: bool,
    /// Whether its log has lost it.
    gone: bool,
    /// Which living incarnation has said the last word about it.
    answered_by: Option<u64>,
    /// Whether its log has lost something of it that it was promised to keep.
    damaged: bool,
    /// Words of attempts up to this one may be gone.
    pub(super) words_lost_until: u32,
}

/// What an agent holds.
#[derive(Debug)]
pub(super) struct Hands {
    max: usize,
    /// Instance, attempt and bytes, by turn.
    held: BTreeMap<u64, (u64, u32, usize)>,
}

impl Hands {
    pub(super) fn new(max: usize) -> Self {
        Self { max, held: BTreeMap::new() }
    }

    pub(super) fn has(&self, turn: u64) -> bool {
        self.held.contains_key(&turn)
    }
}

impl Checker {
    pub(super) fn shard_of(&self, session: usize) -> usize {
        shard_of(self.sessions[session].hash, self.shards)
    }

    /// A log is asked to keep something.
    pub(in crate::simulation) fn journaled(&mut self, entry: &Entry, body: Body<'_>) {
        let now = self.tick();
        match entry.kind {
            EntryKind::Accepted => self.turn_accepted(entry, body, now),
            EntryKind::Done | EntryKind::Dead | EntryKind::Dropped => {
                let Some(turn) = self.turns.get_mut(&entry.turn) else { return };
                let rewritten = turn.deaths.contains(&entry.word) || entry.word == 0;
                if entry.kind == EntryKind::Dead && rewritten {
                    return;
                }
                turn.ended = true;
                turn.deaths.extend((entry.kind == EntryKind::Dead).then_some(entry.word));
                turn.died |= entry.kind != EntryKind::Done;
                turn.ordered &= !turn.died;
                let identity = &mut self.identities[self.messages[turn.message].identity];
                identity.may_have_ended |= entry.kind == EntryKind::Dropped;
                identity.may_have_died |= entry.kind == EntryKind::Dead;
                let session = &mut self.sessions[turn.session];
                // A dead letter that is dropped has left its session before.
                if session.last_begun == entry.turn && entry.kind != EntryKind::Dropped {
                    session.last_end = Some(now);
                }
                self.release(entry.turn);
            }
            EntryKind::Attempt
            | EntryKind::Block
            | EntryKind::Moved
            | EntryKind::Known
            | EntryKind::Trim
            | EntryKind::Routed => {}
        }
    }

    fn turn_accepted(&mut self, entry: &Entry, body: Body<'_>, now: u64) {
        let stored = body.to_stored();
        let Opened::Message(archive) = stored.as_message(Route::default()).open() else {
            panic!("an acceptance holds a message, not {:?}", body.kind());
        };
        let said = Said::parse(archive.content.as_str()).expect("messages have numbers");
        let message = said.message as usize;
        let session = self.messages[message].session;
        assert_eq!(self.sessions[session].hash, entry.session, "a message is kept under its session");
        let turn = Turn {
            message,
            session,
            class: self.messages[message].class,
            accepted_at: now,
            attempt: 0,
            failures: 0,
            failures_kept: 0,
            begun: false,
            ended: false,
            died: false,
            deaths: Vec::new(),
            ordered: true,
            gone: false,
            answered_by: None,
            damaged: false,
            words_lost_until: 0,
        };
        let before = self.turns.insert(entry.turn, turn);
        assert!(before.is_none(), "turn {:x} is used for a second message", entry.turn);
        self.turn_names.push(entry.turn);
        self.sessions[session].line.insert(now, entry.turn);
        if entry.word != 0 {
            let forgotten = self.newer_ids(message) >= self.ids_max;
            let shard = self.shard_of(session);
            let taken = self.ids_taken.entry(shard).or_default();
            *taken += 1;
            let taken = *taken;
            let identity = &mut self.identities[self.messages[message].identity];
            identity.counted_at = taken;
            if forgotten {
                // So many came since that it is new again.
                identity.forgotten = true;
            }
        }
    }

    /// An agent is given a message.
    pub(in crate::simulation) fn given(&mut self, agent: usize, instance: InstanceId, packet: &Packet) {
        self.tick();
        let Route { turn: name, attempt, .. } = packet.route;
        let Opened::Message(archive) = packet.message().open() else { return };
        let said = Said::parse(archive.content.as_str()).expect("messages have numbers");
        let turn =
            self.turns.get(&name).unwrap_or_else(|| panic!("phantom: nobody accepted turn {name:x}")).clone();
        assert_eq!(said.message as usize, turn.message, "phantom: turn {name:x} is of another message");
        self.messages[turn.message].given = true;
        let message = &self.messages[turn.message];
        let to = message.agent.as_str();
        assert!(self.fits(turn.message, agent), "a message for {to:?} is given to agent {agent}");
        if agent >= self.members_from {
            let first = *self.tenants.entry(instance.0).or_insert(turn.session);
            assert_eq!(
                first, turn.session,
                "two conversations: incarnation {} of agent {agent} is given turn {name:x}",
                instance.0
            );
        }
        // A turn that is taken back may be on its way to its agent; that it is taken back follows.
        let taken_back = turn.ended && (message.cancelled || message.has_deadline);
        assert!(!turn.ended || taken_back, "duplicate effect: turn {name:x} is given out after its end");
        let last = turn.attempt;
        assert!(attempt > last, "turn {name:x} is given out in attempt {attempt} after {last}");
        let (failures, max) = (turn.failures, self.attempts_max);
        assert!(failures < max, "turn {name:x} is given out after {failures} failures of {max}");
        if let Some(by) = turn.answered_by {
            let excused = taken_back || turn.damaged || self.journal_failure_seen;
            assert!(
                excused,
                "done twice: turn {name:x} is given out, although {by} has answered it and lives"
            );
        }
        if !taken_back {
            self.first_in_line(name, &turn);
            let number = turn.session;
            let session = &mut self.sessions[number];
            if let Some((other, by, tried)) = session.at_agent {
                panic!(
                    "turn {name:x} of session {number} is given out beside {other:x}.{tried}, at incarnation {by}"
                );
            }
            session.at_agent = Some((name, instance.0, attempt));
            session.last_begun = name;
        }
        let hands = &mut self.hands[agent];
        hands.held.insert(name, (instance.0, attempt, packet.body().bytes().len()));
        let bytes: usize = hands.held.values().map(|&(_, _, bytes)| bytes).sum();
        let (held, max) = (hands.held.len(), hands.max);
        assert!(held <= max, "agent {agent} holds {held} turns of {max}");
        assert!(held == 1 || bytes <= self.in_flight_bytes_max, "agent {agent} holds {bytes} bytes");
        let known = self.turns.get_mut(&name).expect("it was there");
        self.redone += u64::from(known.attempt > 0);
        known.attempt = attempt;
        known.failures_kept = known.failures;
        known.begun = true;
    }

    /// Rules 2 and 3.
    fn first_in_line(&self, name: u64, turn: &Turn) {
        if turn.begun || !turn.ordered {
            return;
        }
        let session = &self.sessions[turn.session];
        for (&accepted_at, other) in &session.line {
            let waiting = &self.turns[other];
            if *other == name || waiting.begun || waiting.ended || !waiting.ordered {
                continue;
            }
            let same_class = session.mode == SessionMode::Queue || waiting.class == turn.class;
            assert!(
                !(same_class && accepted_at < turn.accepted_at),
                "reordered: turn {name:x} is begun before {other:x}, which was accepted before it"
            );
            let was_there = session.last_end.is_some_and(|end| accepted_at < end);
            let more_urgent = session.mode != SessionMode::Queue && waiting.class > turn.class;
            assert!(
                !(more_urgent && was_there),
                "reordered: turn {name:x} is begun before {other:x}, which is more urgent and was there"
            );
        }
    }

    /// A shard hears a word of an agent.
    pub(in crate::simulation) fn said(&mut self, agent: usize, instance: InstanceId, packet: &Packet) {
        self.tick();
        let name = packet.route.turn;
        let holds = self.hands[agent].held.get(&name);
        let ends = matches!(packet.kind(), Kind::End | Kind::Failure);
        let said = (instance.0, packet.route.attempt);
        if !ends || holds.is_none_or(|&(by, attempt, _)| (by, attempt) != said) {
            return;
        }
        self.hands[agent].held.remove(&name);
        self.release(name);
        let retryable = match packet.message().open() {
            Opened::Failure(failure) => failure.retry_after_ms > 0,
            _ => false,
        };
        let turn = self.turns.get_mut(&name).expect("it was given");
        if retryable {
            turn.failures += 1;
        } else {
            turn.answered_by = Some(instance.0);
            let identity = self.messages[turn.message].identity;
            self.identities[identity].may_have_ended = true;
        }
    }

    /// Nobody works on the turn any more.
    fn release(&mut self, name: u64) {
        let Some(turn) = self.turns.get(&name) else { return };
        let at_agent = &mut self.sessions[turn.session].at_agent;
        if at_agent.is_some_and(|(held, ..)| held == name) {
            *at_agent = None;
        }
    }

    /// An agent is dead, and its shard knows; also what it had in its hands, if that is `known`.
    pub(in crate::simulation) fn agent_died(&mut self, agent: usize, instance: InstanceId, known: bool) {
        self.tick();
        self.skills_are_gone(Some(instance));
        for name in std::mem::take(&mut self.hands[agent].held).into_keys() {
            self.release(name);
            let turn = self.turns.get_mut(&name).expect("it was given");
            turn.failures += u32::from(known);
            let session = &mut self.sessions[turn.session];
            if !known && session.last_begun == name {
                // Nobody knew that it was begun, and its session may be at another one.
                session.last_begun = 0;
                turn.begun = false;
            }
        }
        for turn in self.turns.values_mut().filter(|turn| turn.answered_by == Some(instance.0)) {
            turn.answered_by = None;
        }
    }

    /// An agent has outlived a gateway, and has these turns in its hands, in these attempts and of so many bytes; or
    /// nobody has read its last word about them.
    pub(in crate::simulation) fn outlived(
        &mut self,
        agent: usize,
        instance: InstanceId,
        held: &[(u64, u32, usize)],
    ) {
        for &(name, attempt, bytes) in held {
            let Some(turn) = self.turns.get_mut(&name) else { continue };
            let before = self.hands[agent].held.get(&name);
            if before.is_some_and(|&(_, other, _)| other > attempt) {
                continue;
            }
            self.hands[agent].held.insert(name, (instance.0, attempt, bytes));
            let session = &mut self.sessions[turn.session];
            if !turn.ended && !turn.gone && attempt == turn.attempt {
                turn.begun = true;
                session.at_agent = Some((name, instance.0, attempt));
                session.last_begun = name;
            }
        }
    }

    /// Of the incarnations that the last gateway knew, only these live.
    pub(in crate::simulation) fn others_died(&mut self, living: &[InstanceId]) {
        let lives = |by: u64| living.contains(&InstanceId(by));
        for turn in self.turns.values_mut().filter(|turn| !turn.answered_by.is_some_and(lives)) {
            turn.answered_by = None;
        }
    }

    /// Whether an agent may be given a turn.
    pub(in crate::simulation) fn is_for(&self, name: u64, agent: usize) -> bool {
        self.turns.get(&name).is_some_and(|turn| self.fits(turn.message, agent))
    }

    /// Whether a message is for an agent. One that names nobody goes to the session's agent, whoever that is.
    fn fits(&self, message: usize, agent: usize) -> bool {
        let to = self.messages[message].agent.as_str();
        let is_member = agent >= self.members_from;
        let of_pool = (to == POOL && agent < self.pool) || (to == TALK && is_member);
        to.is_empty() || to == agent_name(agent) || of_pool
    }

    /// The gateway is dead; who lives on is told of at the next start.
    pub(in crate::simulation) fn gateway_died(&mut self) {
        self.tick();
        self.hands.iter_mut().for_each(|hands| hands.held.clear());
        self.skills_are_gone(None);
        for session in &mut self.sessions {
            session.at_agent = None;
            session.last_end = None;
            session.last_begun = 0;
        }
        for turn in self.turns.values_mut() {
            turn.begun = false;
            turn.failures = turn.failures_kept;
        }
    }

    /// Somebody has these dead letters tried again.
    pub(in crate::simulation) fn replayed(&mut self, names: &[u64]) {
        for name in names {
            let turn = self.turns.get_mut(name).expect("a dead letter was a turn");
            turn.ended = false;
            turn.answered_by = None;
            (turn.failures, turn.failures_kept) = (0, 0);
            let identity = self.messages[turn.message].identity;
            self.identities[identity].replays += 1;
        }
    }

    /// A log has lost an entry.
    pub(in crate::simulation) fn lost(&mut self, missing: &Missing) {
        let asked = missing.asked;
        let Some(turn) = self.turns.get_mut(&asked.turn) else { return };
        self.excused += u64::from(missing.told);
        turn.ordered &= !missing.told;
        turn.damaged |= missing.told || missing.damaged;
        let (session, identity) = (turn.session, self.messages[turn.message].identity);
        match asked.kind {
            // Its former place is there, as long as the log has not said that it has another one.
            EntryKind::Moved if !missing.told => {}
            EntryKind::Accepted | EntryKind::Moved => {
                let promise = self.identities[identity].promise;
                let promised = promise.is_some_and(|promise| promise.turn == asked.turn);
                assert!(
                    !asked.durable || missing.damaged || missing.elsewhere || turn.ended || !promised,
                    "lost: turn {:x} was accepted as durable, and is gone with the power",
                    asked.turn
                );
                if asked.kind == EntryKind::Accepted {
                    self.sessions[session].line.remove(&turn.accepted_at);
                }
                turn.attempt = 0;
                turn.words_lost_until = u32::MAX;
                turn.gone = asked.kind == EntryKind::Accepted;
                self.forget_promise(identity, asked.turn);
            }
            EntryKind::Attempt => (turn.attempt, turn.failures, turn.failures_kept) = (0, 0, 0),
            EntryKind::Done | EntryKind::Dead | EntryKind::Dropped => {
                turn.ended = false;
                if missing.told {
                    self.identities[identity].answer = None;
                    self.identities[identity].replays += usize::from(asked.kind == EntryKind::Dead);
                }
            }
            EntryKind::Block | EntryKind::Known | EntryKind::Trim | EntryKind::Routed => {}
        }
        let is_word = |kind| {
            !matches!(kind, EntryKind::Accepted | EntryKind::Moved | EntryKind::Dropped | EntryKind::Routed)
        };
        if is_word(asked.kind) {
            // Also what nobody was told: of a batch that was torn, later words may be there.
            let turn = self.turns.get_mut(&asked.turn).expect("it was there");
            turn.words_lost_until = turn.words_lost_until.max(u32::from(asked.attempt));
            if missing.told && asked.kind != EntryKind::Attempt {
                self.word_lost(session, asked.word);
            }
        }
    }

    fn forget_promise(&mut self, identity: usize, turn: u64) {
        let identity = &mut self.identities[identity];
        if identity.promise.is_some_and(|promise| promise.turn == turn) {
            identity.promise = None;
        }
        // What it was answered is not known any more, so it is worked on anew.
        identity.answer = None;
        identity.replays += 1;
    }

    /// Nobody works on anything any more.
    pub(in crate::simulation) fn hands_are_empty(&self) {
        for (agent, hands) in self.hands.iter().enumerate() {
            assert!(hands.held.is_empty(), "agent {agent} still holds {:?}", hands.held);
        }
    }

    /// Whether everything that was accepted has been at an agent, or has a reason not to have been.
    pub(in crate::simulation) fn never_given(&self) -> Vec<usize> {
        let open = |turn: &&Turn| !turn.ended && turn.ordered && !turn.gone;
        let mut names: Vec<usize> = self.turns.values().filter(open).map(|turn| turn.message).collect();
        names.sort_unstable();
        names.retain(|&message| !self.messages[message].given);
        names
    }
}
