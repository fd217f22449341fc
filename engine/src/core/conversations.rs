//! Session role: agents that serve one session at a time, and which of them serves which.
//!
//! A process of such an agent has served nobody, or one session, and ends with that one's need of it. Who serves whom is
//! decided where the agent lives ([`super::agents`]): it takes turns of one session and turns those of others away, until
//! its process is gone. What is known here is for choosing well, and for what two sessions of this shard might do to each
//! other:
//!
//! | holder | means | until |
//! |---|---|---|
//! | none | nobody, as far as is known here | a session of this shard is routed to it |
//! | `Ours` | that session | it moves on or is forgotten, or the agent is said to drain, rest or be unavailable |
//! | `Away` | another one, or one that is gone | the agent is said to drain, rest, be unavailable, or serve nobody; or a while |
//! | `Adopted` | whoever claims what it has in hand | as above |
//!
//! A session holds one agent of a pool at most. One that was chosen and never given anything is let go with the last turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::mesh::GIVEN_BACK_FULL;
use super::{Effects, ShardCore};
use crate::event::{AgentIndex, Effect, Tenant, Tenure};
use crate::session::SessionIndex;
use crate::time::Moment;

/// How long an agent that has turned a session away is not asked again, if nothing else is heard of it.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    Ours {
        session: SessionIndex,
        /// Whether it has been given a turn, so that it may serve the session.
        given: bool,
    },
    Away {
        until: Option<Moment>,
    },
    Adopted,
}

/// What an agent is to a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seat {
    /// It serves this one.
    Own,
    /// It serves nobody.
    Free,
    /// It serves another one.
    Taken,
}

/// Who serves whom. In order: a run must be repeatable.
#[derive(Debug, Default)]
pub(super) struct Conversations {
    holders: BTreeMap<AgentIndex, Holder>,
    /// The same the other way round, of `Ours`.
    by_session: BTreeSet<(SessionIndex, AgentIndex)>,
    /// Those without a process.
    resting: BTreeSet<AgentIndex>,
    /// Those that are not needed any more by the session with that hash, which has to be told.
    over: Vec<(AgentIndex, u64)>,
}

impl Conversations {
    fn seat(&self, now: Moment, agent: AgentIndex, session: SessionIndex) -> Seat {
        match self.holders.get(&agent) {
            None => Seat::Free,
            Some(Holder::Ours { session: holder, .. }) if *holder == session => Seat::Own,
            Some(Holder::Away { until: Some(until) }) if *until <= now => Seat::Free,
            Some(Holder::Ours { .. } | Holder::Away { .. } | Holder::Adopted) => Seat::Taken,
        }
    }

    fn of(&self, session: SessionIndex) -> impl Iterator<Item = AgentIndex> {
        let all = (session, AgentIndex(0))..=(session, AgentIndex(u32::MAX));
        self.by_session.range(all).map(|&(_, agent)| agent)
    }

    fn hold(&mut self, agent: AgentIndex, holder: Option<Holder>) {
        let before = match holder {
            Some(holder) => self.holders.insert(agent, holder),
            None => self.holders.remove(&agent),
        };
        if let Some(Holder::Ours { session, .. }) = before {
            self.by_session.remove(&(session, agent));
        }
        if let Some(Holder::Ours { session, .. }) = holder {
            self.by_session.insert((session, agent));
        }
    }

    /// A session does not need an agent any more.
    fn leave(&mut self, agent: AgentIndex, hash: u64) {
        let given = matches!(self.holders.get(&agent), Some(Holder::Ours { given: true, .. }));
        // Nobody else gets it before its process is gone: not even a session with the same hash.
        self.hold(agent, given.then_some(Holder::Away { until: None }));
        if given {
            self.over.push((agent, hash));
        }
    }

    /// The session has no turn under way.
    pub(super) fn quiet(&mut self, session: SessionIndex) {
        let not_given =
            |agent: &AgentIndex| matches!(self.holders.get(agent), Some(Holder::Ours { given: false, .. }));
        let unused: Vec<_> = self.of(session).filter(not_given).collect();
        for agent in unused {
            self.hold(agent, None);
        }
    }

    /// The session is forgotten.
    pub(super) fn forgotten(&mut self, session: SessionIndex, hash: u64) {
        let held: Vec<_> = self.of(session).collect();
        for agent in held {
            self.leave(agent, hash);
        }
    }

    /// Tells of the agents that are not needed any more.
    pub(super) fn tell_over(&mut self, effects: &mut Effects<'_>) {
        for (agent, hash) in self.over.drain(..) {
            effects(Effect::AgentTenure { agent, tenure: Tenure::Over(hash) });
        }
    }

    /// An agent has outlived a gateway, which alone knew whom it serves.
    pub(super) fn adopting(&mut self, agent: AgentIndex) {
        self.hold(agent, Some(Holder::Adopted));
    }

    /// It serves nobody that is known of here.
    pub(super) fn vacate(&mut self, agent: AgentIndex) {
        self.hold(agent, None);
    }

    /// It is about to have a process.
    pub(super) fn starts(&mut self, agent: AgentIndex) {
        self.resting.remove(&agent);
    }
}

impl ShardCore {
    /// The number of the pool of an agent that serves one session at a time.
    pub(super) fn conversation_pool(&self, agent: AgentIndex) -> Option<u32> {
        self.definitions.get(agent.0 as usize)?.conversation_pool
    }

    /// What an agent is to a session; none for one that serves everybody.
    pub(super) fn seat(&self, now: Moment, agent: AgentIndex, session: SessionIndex) -> Option<Seat> {
        self.conversation_pool(agent)?;
        Some(self.conversations.seat(now, agent, session))
    }

    /// How well an agent would serve a session, as a load: its own first, then one whose process runs.
    pub(super) fn seat_rank(&self, seat: Seat, agent: AgentIndex) -> u32 {
        match seat {
            Seat::Own => 0,
            Seat::Free | Seat::Taken => 1 + u32::from(self.conversations.resting.contains(&agent)),
        }
    }

    /// The session has been routed to that agent: nobody else of this shard is. It leaves the one of its pool that it had.
    pub(super) fn engage(&mut self, now: Moment, session: SessionIndex, agent: AgentIndex) {
        let Some(pool) = self.conversation_pool(agent) else { return };
        if self.conversations.seat(now, agent, session) != Seat::Free {
            return;
        }
        let hash = self.sessions.hash(session);
        let of_pool = |other: &AgentIndex| self.conversation_pool(*other) == Some(pool);
        let before: Vec<_> = self.conversations.of(session).filter(of_pool).collect();
        for other in before {
            self.conversations.leave(other, hash);
        }
        self.conversations.hold(agent, Some(Holder::Ours { session, given: false }));
    }

    /// An agent that has outlived a gateway claims a turn of a session: it serves that one. `false`: it serves another.
    pub(super) fn engage_claimed(&mut self, now: Moment, session: SessionIndex, agent: AgentIndex) -> bool {
        let Some(seat) = self.seat(now, agent, session) else { return true };
        let adopted = self.conversations.holders.get(&agent) == Some(&Holder::Adopted);
        if adopted {
            self.conversations.hold(agent, Some(Holder::Ours { session, given: true }));
        }
        adopted || seat == Seat::Own
    }

    /// An agent is given a turn of the session that holds it.
    pub(super) fn note_given(&mut self, agent: AgentIndex) {
        if let Some(Holder::Ours { given, .. }) = self.conversations.holders.get_mut(&agent) {
            *given = true;
        }
    }

    /// An agent has turned a session away: it serves one of another shard.
    pub(super) fn turned_away_by(&mut self, now: Moment, agent: AgentIndex) {
        self.conversations.hold(agent, Some(Holder::Away { until: Some(now.plus(ASK_AGAIN)) }));
    }

    /// Both roles: an agent has no process, and is started for the next session.
    pub(super) fn agent_rests(&mut self, now: Moment, agent: AgentIndex, effects: &mut Effects<'_>) {
        let Some(unavailable) = self.unavailable.get_mut(agent.0 as usize) else { return };
        *unavailable = None;
        self.conversations.vacate(agent);
        self.conversations.resting.insert(agent);
        if self.home(agent) == self.setting.shard {
            // Whoever is started is not for the session of the one before.
            for (turn, attempt) in self.agents.rest(agent) {
                self.give_back(now, agent, (turn, attempt), GIVEN_BACK_FULL, "0", effects);
            }
        }
    }

    /// Session role: whom an agent serves.
    pub(super) fn agent_serves(&mut self, agent: AgentIndex, tenant: Tenant) {
        if self.conversation_pool(agent).is_none() {
            return;
        }
        let holder = self.conversations.holders.get(&agent);
        match (tenant, holder) {
            (Tenant::Everybody, _) | (_, Some(Holder::Ours { .. })) => {}
            (Tenant::Nobody, _) => self.conversations.vacate(agent),
            (Tenant::Unknown, Some(Holder::Adopted)) => {}
            (Tenant::Session(_) | Tenant::Unknown, _) => {
                self.conversations.hold(agent, Some(Holder::Away { until: None }));
            }
        }
    }

    /// What is said where an agent serves another session.
    pub(super) fn in_use(named: &str) -> String {
        match named {
            "" => "every process that the message is for serves another conversation".into(),
            name => format!("every process of agent \"{name}\" serves another conversation"),
        }
    }
}
