//! Where effects go: the sending ends of all rings of a shard.

use std::collections::HashMap;

use shm_transport::envelope::Kind;
use shm_transport::link::{MESSAGE_BYTES_MAX, SendError, Sender};
use shm_transport::record::Poison;
use tokio::sync::mpsc::UnboundedSender as Notices;

use super::{BACKLOG_HIGH_BYTES, Listener, ListenerId, Listening, Notice};
use crate::event::{Effect, InstanceId};
use crate::events::{Event, EventMask};

/// What may wait for an agent when it is answered about a skill: more than its credit and the largest message.
pub const SKILL_BACKLOG_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 16 * 1024 * 1024;

/// The sending sides, apart from the receiving ones: while a record is read, its effects are written.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) journal: Sender,
    /// Who listens to events.
    pub(super) listeners: Vec<(ListenerId, EventMask, Listener)>,
    pub(super) edges: Vec<Sender>,
    pub(super) shards: Vec<Option<Sender>>,
    pub(super) agents: HashMap<InstanceId, Sender>,
    /// Agents with unpublished records.
    pub(super) touched: Vec<InstanceId>,
    /// Up to where what was read from the rings of agents may be given back.
    pub(super) releases: Vec<(InstanceId, u64)>,
    pub(super) fenced: Vec<(InstanceId, Poison)>,
    pub(super) notices: Notices<Notice>,
}

impl Outputs {
    pub(super) fn apply(&mut self, effect: Effect<'_>) {
        match effect {
            Effect::Journal { entry, body } => {
                taken(self.journal.forward(&entry.to_route(), body), "the journal");
            }
            Effect::Event(event) => self.tell(&event),
            Effect::ToEdge { edge, route, body } => {
                taken(self.edges[edge.0 as usize].forward(&route, body), "an edge");
            }
            Effect::ToShard { shard, route, body } => {
                if let Some(Some(sender)) = self.shards.get_mut(shard.0 as usize) {
                    taken(sender.forward(&route, body), "a shard");
                }
            }
            Effect::ToAgent { instance, route, body } => {
                // An agent that is gone meanwhile has been or will be reported down.
                let Some(sender) = self.agents.get_mut(&instance) else { return };
                // Nothing but reading bounds how many answers of skills wait.
                if body.kind() == Kind::SkillResult && sender.backlog_bytes() > SKILL_BACKLOG_BYTES_MAX {
                    self.fenced.push((instance, Poison::Kind { kind: Kind::Skill.number() }));
                    return;
                }
                match sender.forward(&route, body) {
                    Err(SendError::Poisoned(poison)) => self.fenced.push((instance, poison)),
                    // Which sizes can reach an agent is up to what it says of itself, so it is not a bug of ours.
                    Err(SendError::TooLarge { max, .. }) => {
                        self.fenced.push((instance, Poison::MessageTooLarge { max }));
                    }
                    sent => {
                        // Its credit bounds what can wait for it.
                        taken(sent, "an agent");
                        self.touch(instance);
                    }
                }
            }
            Effect::AgentReady { instance, software } => {
                self.notify(Notice::AgentReady { instance, software: software.to_owned() });
            }
            Effect::Skill { instance, call, skill, input } => {
                let (skill, input) = (skill.to_owned(), input.to_owned());
                self.notify(Notice::Skill { instance, call, skill, input });
            }
            Effect::AgentTenure { agent, tenure } => self.notify(Notice::AgentTenure { agent, tenure }),
            Effect::AgentAdopted { instance } => self.notify(Notice::AgentAdopted { instance }),
            Effect::Release { instance, until } => self.releases.push((instance, until)),
            Effect::Fence { instance, poison } => self.fenced.push((instance, poison)),
        }
    }

    pub(super) fn touch(&mut self, instance: InstanceId) {
        if self.touched.last() != Some(&instance) {
            self.touched.push(instance);
        }
    }

    pub(super) fn notify(&self, notice: Notice) {
        // The control thread is gone only when the process ends.
        let _ = self.notices.send(notice);
    }

    /// All senders to threads of this process.
    pub(super) fn internal(&mut self) -> impl Iterator<Item = &mut Sender> {
        let Self { journal, edges, shards, .. } = self;
        std::iter::once(journal).chain(edges).chain(shards.iter_mut().flatten())
    }

    #[cold]
    fn tell(&mut self, event: &Event<'_>) {
        self.listeners.retain_mut(|(_, mask, Listener(listener))| {
            !mask.contains(event.event_type()) || listener(event) == Listening::Goes
        });
    }

    /// What somebody listens to.
    pub(super) fn wanted(&self) -> EventMask {
        self.listeners.iter().fold(EventMask::NONE, |all, (_, mask, _)| all.union(*mask))
    }

    pub(super) fn journal_behind(&self) -> bool {
        self.journal.backlog_bytes() > BACKLOG_HIGH_BYTES
    }

    pub(super) fn edges_behind(&self) -> bool {
        self.edges.iter().any(|sender| sender.backlog_bytes() > BACKLOG_HIGH_BYTES)
    }

    pub(super) fn shards_behind(&self) -> bool {
        self.shards.iter().flatten().any(|sender| sender.backlog_bytes() > BACKLOG_HIGH_BYTES)
    }
}

/// What may wait is bounded before it is sent: a refusal is a bug, and going on would lose a message.
pub(super) fn taken(sent: Result<(), SendError>, peer: &str) {
    if let Err(error) = sent {
        panic!("a message to {peer} was not taken: {error}");
    }
}
