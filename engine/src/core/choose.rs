//! Session role: which agent gets a message, as things stand.

use shm_transport::envelope::{ArchivedMessageV2, FailureCode};

use super::ShardCore;
use super::accept::Refusal;
use super::conversations::Seat;
use crate::event::AgentIndex;
use crate::routing::{Refusal as Unroutable, RouteRequest, TEXT_SEARCHED_BYTES_MAX};
use crate::session::SessionIndex;
use crate::time::Moment;

/// What keeps an agent from being chosen, beside that it is not available.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Heed {
    /// Nothing.
    Nothing,
    /// That it has failed too often lately.
    Breakers,
    /// That, and that it serves another session.
    Everything,
}

impl ShardCore {
    /// The session stays with that agent from now on.
    pub(super) fn settle(&mut self, now: Moment, session: SessionIndex, agent: AgentIndex) {
        self.rotation = self.rotation.wrapping_add(1);
        self.sessions.set_agent(session, Some(agent));
        self.engage(now, session, agent);
    }

    /// Which agent gets the messages of a session, as things stand.
    pub(super) fn route(
        &self,
        now: Moment,
        session: SessionIndex,
        archive: &ArchivedMessageV2,
    ) -> Result<AgentIndex, Refusal> {
        match self.candidate(now, session, archive, Heed::Everything) {
            Ok(agent) => Ok(agent),
            Err(Unroutable::UnknownAgent) => {
                let text = format!("no agent is named \"{}\"", archive.agent.as_str());
                Err(Refusal::new(FailureCode::UnknownAgent, text))
            }
            Err(Unroutable::NoRoute) => {
                let text = "the message names no agent, and no rule says which one it is for".into();
                Err(Refusal::new(FailureCode::NoRoute, text))
            }
            Err(Unroutable::Unavailable(_))
                if self.candidate(now, session, archive, Heed::Breakers).is_ok() =>
            {
                Err(self.busy(FailureCode::Overloaded, Self::in_use(archive.agent.as_str())))
            }
            Err(Unroutable::Unavailable(reason)) => {
                let named = archive.agent.as_str();
                let known = self.definitions.iter().zip(&self.unavailable);
                let why = known.filter(|(agent, _)| agent.name == named).find_map(|(_, why)| why.as_deref());
                let text = match (named, why) {
                    ("", _) => {
                        format!("no agent that the message is for ({}) is available now", reason.name())
                    }
                    (name, Some(why)) => format!("agent \"{name}\" is not available: {why}"),
                    (name, None) => format!("agent \"{name}\" is not available now"),
                };
                Err(self.busy(FailureCode::AgentUnavailable, text))
            }
        }
    }

    /// Who would get it.
    pub(super) fn candidate(
        &self,
        now: Moment,
        session: SessionIndex,
        archive: &ArchivedMessageV2,
        heed: Heed,
    ) -> Result<AgentIndex, Unroutable> {
        let request = self.request(archive, self.sessions.agent(session));
        let Self { routes, outstanding, unavailable, breakers, agents, setting, .. } = self;
        let load = |agent: AgentIndex| {
            if let Some(seat) = self.seat(now, agent, session) {
                return self.seat_rank(seat, agent);
            }
            let elsewhere = outstanding.get(agent.0 as usize).copied().unwrap_or(0);
            if agent.home(setting.shard_count) == setting.shard {
                agents.load(agent).max(elsewhere)
            } else {
                elsewhere
            }
        };
        let available = |agent: AgentIndex| {
            unavailable.get(agent.0 as usize) == Some(&None)
                && (heed < Heed::Breakers || breakers.would_allow(agent, now))
                && (heed < Heed::Everything || self.seat(now, agent, session) != Some(Seat::Taken))
        };
        routes.route(&request, load, available).map(|decision| decision.member)
    }

    /// What the routing table is asked about a message.
    pub(super) fn request<'a>(
        &self,
        archive: &'a ArchivedMessageV2,
        affinity: Option<AgentIndex>,
    ) -> RouteRequest<'a> {
        let text = archive.content.as_str();
        RouteRequest {
            explicit: archive.agent.as_str(),
            affinity,
            channel: archive.channel.as_str(),
            text: &text[..text.floor_char_boundary(TEXT_SEARCHED_BYTES_MAX)],
            labels: archive.labels.as_str(),
            own_shard: self.setting.shard,
            rotation: self.rotation,
        }
    }
}
