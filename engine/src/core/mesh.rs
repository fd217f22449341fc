//! What shards say to each other, about turns whose session and agent live on different ones.
//!
//! | kind | from, to | `turn` | `session` | `origin` | `sequence` | `attempt` |
//! |---|---|---|---|---|---|---|
//! | Message | session, agent role | the turn | its session | agent and urgency | 0 | which |
//! | Cancel | session, agent role | the turn | 0 | agent | 0; 1: its claim is refused; 2: only if it waits | which, of a claim |
//! | Block, End, Failure | agent, session role | the turn | agent | 0; why it is given back | number of the word | which |
//! | Working | agent, session role | the turn; 0: those were all | 0 | agent | 0 | which |
//! | Kept | session, agent role | how many words are in the journal | 0 | 0 | 0 | 0 |
//!
//! Words may be those of an agent whose claim of the turn is being refused: so they name the agent.

use shm_transport::envelope::{Body, FailureCode, FailureV1, Message, Opened, Priority, Route};

use super::turns::{self, Urgency};
use super::{Effects, ShardCore};
use crate::classes::AddressRank;
use crate::event::{AgentIndex, Effect, ShardIndex};
use crate::time::Moment;

/// Why the agent role gives a turn back, as the `origin` word of a failure between shards; 0: the agent said so.
pub(super) const GIVEN_BACK_DIED: u64 = 1;
pub(super) const GIVEN_BACK_UNAVAILABLE: u64 = 2;
pub(super) const GIVEN_BACK_FULL: u64 = 3;
/// Another one may take it.
pub(super) const GIVEN_BACK_SHARED: u64 = 4;
/// Its agent serves another session.
pub(super) const GIVEN_BACK_TAKEN: u64 = 5;
/// The `sequence` word of a cancellation that refuses a claim.
const CLAIM_REFUSED: u32 = 1;
/// That of one that an agent which has the turn is not told of.
const IF_IT_WAITS: u32 = 2;

/// What a message between shards carries in `origin`: whom it is for, and how urgent it is.
pub(super) fn pack(agent: AgentIndex, urgency: Urgency) -> u64 {
    u64::from(agent.0) | (urgency.class as u64) << 32 | (urgency.rank as u64) << 40
}

fn unpack(word: u64) -> (AgentIndex, Urgency) {
    let [.., class, rank, _, _] = word.to_le_bytes();
    let urgency = Urgency { class: Priority::from_number(class), rank: AddressRank::from_number(rank) };
    (AgentIndex((word & u64::from(u32::MAX)) as u32), urgency)
}

impl ShardCore {
    /// Either role: something from another shard.
    pub(super) fn heard_from_shard(
        &mut self,
        now: Moment,
        shard: ShardIndex,
        message: &Message<'_>,
        effects: &mut Effects<'_>,
    ) {
        let Route { turn, session, origin, sequence, attempt } = message.route;
        match message.open() {
            Opened::Message(_) => self.submit_for(now, shard, message, effects),
            Opened::Cancel if sequence == CLAIM_REFUSED => {
                self.agents.refuse(unpack(origin).0, turn, attempt, effects);
            }
            Opened::Cancel if sequence == IF_IT_WAITS => self.agents.withdraw(unpack(origin).0, turn),
            Opened::Cancel => self.agents.cancel(unpack(origin).0, turn, effects),
            Opened::Failure(failure) if origin != 0 => {
                self.given_back(
                    now,
                    unpack(session).0,
                    (turn, attempt),
                    origin,
                    failure.text.as_str(),
                    effects,
                );
            }
            Opened::Block(_) | Opened::End(_) | Opened::Failure(_) => {
                self.said(now, unpack(session).0, (turn, attempt, sequence), message.body(), effects);
                self.word_received(shard, effects);
            }
            Opened::Working if turn == 0 => self.heard_all(unpack(origin).0),
            Opened::Working => {
                if !self.claim(now, unpack(origin).0, turn, attempt) {
                    let route = Route { turn, origin, sequence: CLAIM_REFUSED, attempt, session: 0 };
                    effects(Effect::ToShard { shard, route, body: Body::CANCEL });
                }
            }
            Opened::Kept => self.words_kept(shard, turn, effects),
            Opened::Accepted
            | Opened::Hello(_)
            | Opened::Stop
            | Opened::Journaled
            | Opened::RollCall
            | Opened::Skill(_)
            | Opened::SkillResult(_)
            | Opened::Resume(_)
            | Opened::Resumed(_) => {
                self.counters.invalid_internal += 1;
            }
        }
    }

    /// Session role: a turn is not to be given out any more. If its agent has it, it keeps it.
    pub(super) fn withdraw(&mut self, agent: AgentIndex, turn: u64, effects: &mut Effects<'_>) {
        let home = self.home(agent);
        if home == self.setting.shard {
            return self.agents.withdraw(agent, turn);
        }
        let origin = pack(agent, Urgency::default());
        let route = Route { turn, origin, sequence: IF_IT_WAITS, ..Route::default() };
        effects(Effect::ToShard { shard: home, route, body: Body::CANCEL });
    }

    /// Agent role: takes a turn of another shard for an agent of this one.
    fn submit_for(
        &mut self,
        now: Moment,
        shard: ShardIndex,
        message: &Message<'_>,
        effects: &mut Effects<'_>,
    ) {
        let Route { turn, session, origin, attempt, .. } = message.route;
        let (agent, urgency) = unpack(origin);
        let route = Route { turn, session, origin: 0, sequence: 0, attempt };
        debug_assert_eq!(turns::owner(turn), shard);
        let admission = self.agents.submit(now, agent, route, urgency, message.body(), false, effects);
        self.turned_away(now, agent, (turn, attempt), admission, effects);
    }

    /// Agent role: a turn goes back to the shard of its session, without an answer.
    pub(super) fn give_back(
        &mut self,
        now: Moment,
        agent: AgentIndex,
        (turn, attempt): (u64, u32),
        why: u64,
        text: &str,
        effects: &mut Effects<'_>,
    ) {
        let owner = turns::owner(turn);
        if owner == self.setting.shard {
            return self.given_back(now, agent, (turn, attempt), why, text, effects);
        }
        let code =
            if why == GIVEN_BACK_DIED { FailureCode::AgentDied } else { FailureCode::AgentUnavailable };
        let failure = FailureV1 { code: code as u16, retry_after_ms: 0, text: text.to_owned() };
        let route = Route { turn, session: u64::from(agent.0), origin: why, sequence: 0, attempt };
        let body = self.encoder.encode(&failure);
        effects(Effect::ToShard { shard: owner, route, body });
    }
}
