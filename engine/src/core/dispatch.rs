//! From the journal's word to the agent: turns begin, are given out, fail, and are tried again.

use std::time::Duration;

use shm_transport::envelope::{ArchivedMessageV2, Body, FailureCode, Opened, Route, StoredBody};

use super::accept::Refusal;
use super::agents::Admission;
use super::awaiting::Outcome;
use super::choose::Heed;
use super::conversations::Seat;
use super::mesh::{
    GIVEN_BACK_DIED, GIVEN_BACK_FULL, GIVEN_BACK_SHARED, GIVEN_BACK_TAKEN, GIVEN_BACK_UNAVAILABLE, pack,
};
use super::turns::{State, Turn, Urgency};
use super::{Due, Effects, ShardCore};
use crate::breaker::Allow;
use crate::dead_letters::FailedAttempt;
use crate::event::{AgentIndex, Effect};
use crate::flight::Stage;
use crate::journal::entry::{Entry, EntryKind, JournalState, Progress};
use crate::retry::{Decision, FailureCause};
use crate::session::SessionIndex;
use crate::time::Moment;

/// Attempts after which a turn is given up even if no failure was its own: the gateway has ended that often meanwhile.
pub(super) const ATTEMPTS_ABSOLUTE_MAX: u16 = 1000;
/// How long a turn waits that no agent can take now.
const NOBODY_FREE: Duration = Duration::from_millis(100);

/// The message of a turn.
pub(super) fn message_of(body: &StoredBody) -> &ArchivedMessageV2 {
    match body.as_message(Route::default()).open() {
        Opened::Message(archive) => archive,
        _ => unreachable!("the body of a turn is a message"),
    }
}

fn code_of(cause: FailureCause) -> FailureCode {
    match cause {
        FailureCause::AgentDied | FailureCause::Poison => FailureCode::AgentDied,
        FailureCause::AgentUnavailable => FailureCode::AgentUnavailable,
        FailureCause::AgentError { .. } => FailureCode::AgentError,
        FailureCause::Overloaded => FailureCode::Overloaded,
    }
}

impl ShardCore {
    /// The journal has got on: what waited for it goes on.
    pub(super) fn journaled(&mut self, now: Moment, progress: Progress, effects: &mut Effects<'_>) {
        if self.journal_state == JournalState::Failed {
            return;
        }
        self.journal_state = progress.state;
        self.progress = progress;
        while let Some((turn, outcome)) = self.awaiting.pop(progress) {
            match outcome {
                Outcome::Accepted => self.accepted(now, turn, effects),
                Outcome::Prepared => self.prepared(now, turn, effects),
                Outcome::Word(position) => self.word_kept(turn, position, effects),
                Outcome::Ended(position) => self.ended(now, turn, position, effects),
                Outcome::Withdrawn(position) => {
                    self.take_from_agent(turn, effects);
                    self.ended(now, turn, position, effects);
                }
                Outcome::Dead(position) => self.died(now, turn, position, effects),
                Outcome::Nothing => {}
            }
        }
        if progress.state == JournalState::Failed {
            self.abandon(effects);
        }
        self.release(effects);
    }

    fn accepted(&mut self, now: Moment, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get_mut(turn) else { return };
        self.recorder.stamp(open.flight, Stage::Journal, now);
        self.latencies.journal.record(now.since(open.seen));
        open.kept = true;
        if open.wants_ack {
            for listener in open.listeners.iter() {
                Self::acknowledge(turn, open.durable, false, listener, effects);
            }
        }
        let State::Accepting { begun } = open.state else { return };
        open.state = State::Waiting;
        if begun {
            self.ready.push_back(turn);
        }
    }

    /// The turn is the one its session is at now: it is given out for the first time, or as soon as the journal has it.
    pub(super) fn begin(&mut self, now: Moment, turn: u64, effects: &mut Effects<'_>) {
        if !self.adoption.is_over() && self.waits_for_claims(turn) {
            return;
        }
        let Some(open) = self.turns.get_mut(turn) else { return };
        match &mut open.state {
            State::Accepting { begun } => *begun = true,
            State::Waiting if open.attempt == 0 => {
                open.attempt = 1;
                self.dispatch(now, turn, effects);
            }
            // Found in the journal, or replayed: an attempt may have been made.
            State::Waiting => self.prepare(turn, effects),
            // Cancelled while it waited. It keeps its session until the journal has its end.
            State::Ending => {}
            state => debug_assert!(false, "a session begins a turn that waits, not one in {state:?}"),
        }
    }

    /// Another attempt: first to the journal.
    fn prepare(&mut self, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get_mut(turn) else { return };
        open.attempt = open.attempt.saturating_add(1);
        open.blocks = 0;
        open.state = State::Preparing;
        let entry = Entry {
            kind: EntryKind::Attempt,
            durable: false,
            turn,
            session: open.session_hash,
            word: 0,
            attempt: open.attempt,
            check: u32::from(open.failures),
        };
        Self::keep(&mut self.log, &mut self.awaiting, entry, Body::ACCEPTED, Outcome::Prepared, effects);
    }

    fn prepared(&mut self, now: Moment, turn: u64, effects: &mut Effects<'_>) {
        // It may have been cancelled meanwhile.
        if self.turns.get(turn).is_some_and(|open| open.state == State::Preparing) {
            self.counters.redeliveries += 1;
            self.dispatch(now, turn, effects);
        }
    }

    /// Gives a turn to the shard on which its agent lives.
    pub(super) fn dispatch(&mut self, now: Moment, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get(turn) else { return };
        let (mut agent, session) = (open.agent, open.session);
        if !self.can_take(now, agent, session) || matches!(self.breakers.allow(agent, now), Allow::No { .. })
        {
            let Some(open) = self.turns.get(turn) else { return };
            match self.taker(now, open) {
                Ok(other) => {
                    self.settle(now, session, other);
                    // Takes the probe, if its breaker asks for one; it was asked whether it would.
                    let _ = self.breakers.allow(other, now);
                    agent = other;
                }
                // Breakers are open: nothing has been tried, so nothing has failed.
                Err(_) if self.turns.get(turn).is_some_and(|open| self.somebody_exists(now, open)) => {
                    return self.wait_and_retry(now, turn, NOBODY_FREE, false);
                }
                Err(refusal) => return self.die(now, turn, refusal.code, &refusal.text, effects),
            }
        }
        self.note_given(agent);
        let home = self.home(agent);
        let here = home == self.setting.shard;
        let Self { turns, agents, outstanding, recorder, latencies, .. } = self;
        let Some(open) = turns.get_mut(turn) else { return };
        open.state = State::Working;
        open.agent = agent;
        outstanding[agent.0 as usize] += 1;
        recorder.stamp(open.flight, Stage::Queue, now);
        let waited = now.since(open.seen);
        let (urgency, attempt, session, flight) =
            (open.urgency, u32::from(open.attempt), open.session_hash, open.flight);
        if !here {
            let route = Route { turn, session, origin: pack(agent, urgency), sequence: 0, attempt };
            effects(Effect::ToShard { shard: home, route, body: open.body.as_body() });
            latencies.dispatch.record(waited);
            recorder.dispatched(flight, agent, open.attempt, now);
            return;
        }
        let route = Route { turn, session, origin: 0, sequence: 0, attempt };
        let (body, attempts) = (open.body.as_body(), open.attempt);
        let admission = agents.submit(now, agent, route, urgency, body, true, effects);
        if admission == Admission::Given {
            latencies.dispatch.record(waited);
            recorder.dispatched(flight, agent, attempts, now);
        }
        self.turned_away(now, agent, (turn, attempt), admission, effects);
    }

    /// Whether an agent that a session has been routed to can still take its turns.
    fn can_take(&self, now: Moment, agent: AgentIndex, session: SessionIndex) -> bool {
        self.unavailable.get(agent.0 as usize) == Some(&None)
            && self.seat(now, agent, session).is_none_or(|seat| seat == Seat::Own)
    }

    /// Whether those who could take the turn exist, and their breakers are open.
    fn nobody_is_free(&self, now: Moment, turn: u64) -> bool {
        let Some(open) = self.turns.get(turn) else { return false };
        let own = self.can_take(now, open.agent, open.session) && self.breakers.would_allow(open.agent, now);
        !own && self.taker(now, open).is_err() && self.somebody_exists(now, open)
    }

    /// Who answers the message of a turn, as things stand now.
    fn taker(&self, now: Moment, open: &Turn) -> Result<AgentIndex, Refusal> {
        self.route(now, open.session, message_of(&open.body))
    }

    /// Whether there is an agent for the message that may take it some time.
    fn somebody_exists(&self, now: Moment, open: &Turn) -> bool {
        self.candidate(now, open.session, message_of(&open.body), Heed::Nothing).is_ok()
    }

    /// A turn was not taken by its agent's queue.
    pub(super) fn turned_away(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        (turn, attempt): (u64, u32),
        admission: Admission,
        effects: &mut Effects<'_>,
    ) {
        match admission {
            Admission::Given | Admission::Queued => {}
            Admission::Full { retry_after } => {
                let text = retry_after.as_millis().to_string();
                self.give_back(now, agent, (turn, attempt), GIVEN_BACK_FULL, &text, effects);
            }
            Admission::Taken => self.give_back(now, agent, (turn, attempt), GIVEN_BACK_TAKEN, "", effects),
            Admission::Unavailable(detail) => {
                self.give_back(now, agent, (turn, attempt), GIVEN_BACK_UNAVAILABLE, &detail, effects);
            }
        }
    }

    /// Session role: the agent role has given a turn back.
    pub(super) fn given_back(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        (turn, attempt): (u64, u32),
        why: u64,
        text: &str,
        effects: &mut Effects<'_>,
    ) {
        if self.at_agent(agent, turn, attempt).is_none() {
            self.counters.agent_strays += 1;
            return;
        }
        if self.stopping && why == GIVEN_BACK_DIED {
            return;
        }
        self.leave_agent(agent);
        match why {
            GIVEN_BACK_DIED => {
                self.breakers.on_failure(agent, now);
                self.failed(now, turn, FailureCause::AgentDied, text, effects);
            }
            GIVEN_BACK_FULL => {
                let wait = text.parse().map_or(self.limits.retry_after, Duration::from_millis);
                self.wait_and_retry(now, turn, wait, false);
            }
            GIVEN_BACK_TAKEN => {
                self.turned_away_by(now, agent);
                self.wait_and_retry(now, turn, Duration::ZERO, false);
            }
            GIVEN_BACK_SHARED => self.shared(now, turn, effects),
            _ => self.failed(now, turn, FailureCause::AgentUnavailable, text, effects),
        }
    }

    /// The turn, if it is with that agent for the time of that number.
    pub(super) fn at_agent(&mut self, agent: AgentIndex, turn: u64, attempt: u32) -> Option<&mut Turn> {
        let open = self.turns.get_mut(turn)?;
        let there = matches!(open.state, State::Working | State::Spoiled) && open.agent == agent;
        (there && u32::from(open.attempt) == attempt).then_some(open)
    }

    /// A turn of this shard's sessions is not with that agent any more.
    pub(super) fn leave_agent(&mut self, agent: AgentIndex) {
        if let Some(count) = self.outstanding.get_mut(agent.0 as usize) {
            debug_assert!(*count > 0, "it was counted when it was given out");
            *count = count.saturating_sub(1);
        }
    }

    /// An attempt has failed: another one, or the dead letter queue.
    pub(super) fn failed(
        &mut self,
        now: Moment,
        turn: u64,
        cause: FailureCause,
        text: &str,
        effects: &mut Effects<'_>,
    ) {
        let at_ms = self.unix_ms(now);
        let random = self.next_random();
        let Some(open) = self.turns.get_mut(turn) else { return };
        let code = code_of(cause);
        open.failures = open.failures.saturating_add(1);
        let text_owned = text.to_owned();
        open.history.push(FailedAttempt { attempt: open.attempt, at_ms, code, text: text_owned });
        self.counters.attempts_failed += 1;
        let decision = if open.attempt >= ATTEMPTS_ABSOLUTE_MAX {
            Decision::GiveUp
        } else {
            self.limits.retry.decide(cause, open.failures)
        };
        // An agent that is gone for a while can be replaced by another one of its pool, at once.
        if cause == FailureCause::AgentUnavailable {
            let replaced = self.turns.get(turn).is_some_and(|open| self.taker(now, open).is_ok());
            if replaced {
                return self.prepare(turn, effects);
            }
            return self.die(now, turn, code, text, effects);
        }
        match decision {
            Decision::RetryNow => self.prepare(turn, effects),
            Decision::RetryAfter(index) => {
                let wait = self.limits.retry.delay(index, random);
                self.wait_and_retry(now, turn, wait, true);
            }
            Decision::GiveUp => self.die(now, turn, code, text, effects),
        }
    }

    fn wait_and_retry(&mut self, now: Moment, turn: u64, wait: Duration, tried: bool) {
        let Some(open) = self.turns.get_mut(turn) else { return };
        open.state = State::BackingOff { tried };
        open.retry = Some(self.timers.insert(now.plus(wait), Due::Retry(turn)));
        self.counters.back_offs += 1;
    }

    pub(super) fn retry_due(&mut self, now: Moment, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get_mut(turn) else { return };
        let State::BackingOff { tried } = open.state else { return };
        open.retry = None;
        if self.nobody_is_free(now, turn) {
            // To wait is no attempt, and nothing to keep.
            return self.wait_and_retry(now, turn, NOBODY_FREE, tried);
        }
        if tried {
            self.prepare(turn, effects);
        } else {
            self.dispatch(now, turn, effects);
        }
    }

    /// Takes a turn from its agent: nobody waits for it.
    pub(super) fn take_from_agent(&mut self, turn: u64, effects: &mut Effects<'_>) {
        let Some(open) = self.turns.get(turn) else { return };
        let agent = open.agent;
        let home = self.home(agent);
        self.leave_agent(agent);
        if home == self.setting.shard {
            self.agents.cancel(agent, turn, effects);
        } else {
            let route = Route { turn, origin: pack(agent, Urgency::default()), ..Route::default() };
            effects(Effect::ToShard { shard: home, route, body: Body::CANCEL });
        }
    }
}
