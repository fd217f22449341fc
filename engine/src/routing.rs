//! Which agent a message goes to.
//!
//! A [`RoutingTable`] is made once, from the agents and rules of the configuration, and never changes. Another
//! configuration makes another table, which takes the place of the first as a whole. So what a decision reads is
//! always of one configuration.
//!
//! First a set of candidates is chosen, then one of them. The set is that of the first row that applies; `–` means
//! that it does not matter:
//!
//! | row | message names | agent of the session | a content rule | a label | a channel rule | default | set, and reason |
//! |---|---|---|---|---|---|---|---|
//! | 1 | nobody we know | – | – | – | – | – | refused, `unknown_agent` |
//! | 2 | an agent | – | – | – | – | – | it, `named` |
//! | 3 | a pool | can take it, is in the pool | – | – | – | – | it, `affinity` |
//! | 4 | a pool | else | – | – | – | – | the pool, `named` |
//! | 5 | nothing | can take it | – | – | – | – | it, `affinity` |
//! | 6 | nothing | else | matches | – | – | – | that of the first such rule, `rule` |
//! | 7 | nothing | else | none | is a capability | – | – | agents that have the first such label, `capability` |
//! | 8 | nothing | else | none | none | matches | – | that of the first such rule, `channel` |
//! | 9 | nothing | else | none | none | none | there | the default, `default` |
//! | 10 | nothing | else | none | none | none | none | refused, `no_route` |
//!
//! A *content rule* has a condition on text or labels, and perhaps on the channel; a *channel rule* on the channel
//! only. The session's agent *can take it* if the table has it and it is available. If nobody of the set is
//! available, the message is refused: it does not go to others than it was meant for.
//!
//! Of the set, the one with the least load is taken; of several, one that lives on the asking shard; of several
//! such, the first from a place that moves with every request.

mod build;
mod names;
mod pattern;

#[cfg(test)]
mod tests;

use crate::event::{AgentIndex, ShardIndex};
pub use build::{Action, AgentSpec, Problem, Rule, RuleError, Subject};
use names::Names;
use pattern::Pattern;

/// Rules of a table. Each is looked at for a message that no earlier one matches.
pub const RULES_MAX: usize = 256;
/// Bytes of a text that a rule looks for.
pub const PATTERN_BYTES_MAX: usize = 256;
/// Rules look at so many bytes of a message.
pub const TEXT_SEARCHED_BYTES_MAX: usize = 16 * 1024;
/// Rules and capabilities look at so many labels of a message.
pub const LABELS_MAX: usize = 32;

/// Why a message goes where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The message names the agent or its pool.
    Named,
    /// It is the session's agent.
    Affinity,
    /// The content rule of this number, from 0.
    Rule(u32),
    /// A label of the message is a capability.
    Capability,
    /// The channel rule of this number, from 0.
    Channel(u32),
    /// Nothing else applied.
    Default,
}

impl Reason {
    /// Its name, for people and pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Affinity => "affinity",
            Self::Rule(_) => "rule",
            Self::Capability => "capability",
            Self::Channel(_) => "channel",
            Self::Default => "default",
        }
    }
}

/// Who takes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteDecision {
    /// The agent.
    pub member: AgentIndex,
    /// Where it lives.
    pub home: ShardIndex,
    /// Why this one's set was chosen.
    pub reason: Reason,
}

/// Why nobody takes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Trying again does not help, unless the configuration changes.
    #[error("no agent or pool has this name")]
    UnknownAgent,
    /// Those it is meant for, for this reason, cannot take it now.
    #[error("no agent of the set chosen by {} is available", .0.name())]
    Unavailable(Reason),
    /// Trying again does not help, unless the configuration changes.
    #[error("no rule says which agent it is for")]
    NoRoute,
}

/// What of a message and of who asks matters.
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'a> {
    /// The agent or pool it names; empty for none.
    pub explicit: &'a str,
    /// The session's agent.
    pub affinity: Option<AgentIndex>,
    /// Where it came from.
    pub channel: &'a str,
    /// What it says.
    pub text: &'a str,
    /// What it wants: words with spaces between them.
    pub labels: &'a str,
    /// The shard that asks.
    pub own_shard: ShardIndex,
    /// Moves with every request, so that equal candidates share.
    pub rotation: u32,
}

/// An agent in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    agent: AgentIndex,
    home: ShardIndex,
}

/// Names a set of candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The agent at this place of [`RoutingTable::all`].
    Agent(u32),
    /// The set at this place of [`RoutingTable::sets`].
    Set(u32),
}

/// A rule as it is matched. What is absent matches everything.
#[derive(Debug)]
struct Matcher {
    number: u32,
    channel: Option<Box<str>>,
    text: Option<Pattern>,
    text_prefix: Option<Pattern>,
    label: Option<Box<str>>,
    target: Target,
}

/// Agents, pools and rules of one configuration.
#[derive(Debug)]
pub struct RoutingTable {
    version: u64,
    /// In the order of their indices, as all sets are.
    all: Box<[Member]>,
    sets: Box<[Box<[Member]>]>,
    /// Agents and pools.
    names: Names<Target>,
    capabilities: Names<Target>,
    content_rules: Box<[Matcher]>,
    channel_rules: Box<[Matcher]>,
    default: Option<Target>,
}

impl RoutingTable {
    /// Which configuration it was made of.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it has an agent.
    pub fn has(&self, agent: AgentIndex) -> bool {
        find(&self.all, agent).is_some()
    }

    /// Says who takes a message. `load` and `available` are asked about candidates only.
    ///
    /// HOT: no allocation. One look at each candidate, after a search of [`TEXT_SEARCHED_BYTES_MAX`] bytes at most
    /// for each content rule, if the message names nobody and its session has no agent.
    pub fn route(
        &self,
        request: &RouteRequest<'_>,
        load: impl Fn(AgentIndex) -> u32,
        available: impl Fn(AgentIndex) -> bool,
    ) -> Result<RouteDecision, Refusal> {
        let named = match request.explicit {
            "" => None,
            name => Some(self.names.get(name).ok_or(Refusal::UnknownAgent)?),
        };
        let affinity = match named {
            None => find(&self.all, request.affinity),
            Some(Target::Set(_)) => named.and_then(|pool| find(self.members(pool), request.affinity)),
            Some(Target::Agent(_)) => None,
        };
        if let Some(Member { agent, home }) = affinity.filter(|member| available(member.agent)) {
            return Ok(RouteDecision { member: agent, home, reason: Reason::Affinity });
        }
        let (target, reason) = match named {
            Some(target) => (target, Reason::Named),
            None => self.by_rules(request).ok_or(Refusal::NoRoute)?,
        };
        let chosen = least_loaded(self.members(target), request, load, available);
        let Member { agent, home } = chosen.ok_or(Refusal::Unavailable(reason))?;
        Ok(RouteDecision { member: agent, home, reason })
    }

    /// Rows 6 to 10.
    fn by_rules(&self, request: &RouteRequest<'_>) -> Option<(Target, Reason)> {
        let text = &request.text[..request.text.floor_char_boundary(TEXT_SEARCHED_BYTES_MAX)];
        let request = RouteRequest { text, ..*request };
        let matching = |rules: &[Matcher]| {
            let rule = rules.iter().find(|rule| rule.matches(&request));
            rule.map(|rule| (rule.target, rule.number))
        };
        if let Some((target, number)) = matching(&self.content_rules) {
            return Some((target, Reason::Rule(number)));
        }
        if let Some(target) = words(request.labels).find_map(|label| self.capabilities.get(label)) {
            return Some((target, Reason::Capability));
        }
        if let Some((target, number)) = matching(&self.channel_rules) {
            return Some((target, Reason::Channel(number)));
        }
        self.default.map(|target| (target, Reason::Default))
    }

    fn members(&self, target: Target) -> &[Member] {
        match target {
            Target::Agent(place) => std::slice::from_ref(&self.all[place as usize]),
            Target::Set(place) => &self.sets[place as usize],
        }
    }
}

impl Matcher {
    fn matches(&self, request: &RouteRequest<'_>) -> bool {
        self.channel.as_deref().is_none_or(|channel| channel == request.channel)
            && self.label.as_deref().is_none_or(|label| words(request.labels).any(|word| word == label))
            && self.text_prefix.as_ref().is_none_or(|prefix| prefix.begins(request.text))
            && self.text.as_ref().is_none_or(|text| text.is_in(request.text))
    }
}

fn words(labels: &str) -> impl Iterator<Item = &str> {
    labels.split_ascii_whitespace().take(LABELS_MAX)
}

/// The member of a set that is this agent.
fn find(members: &[Member], agent: impl Into<Option<AgentIndex>>) -> Option<Member> {
    let agent = agent.into()?;
    members.binary_search_by_key(&agent, |member| member.agent).ok().map(|at| members[at])
}

fn least_loaded(
    members: &[Member],
    request: &RouteRequest<'_>,
    load: impl Fn(AgentIndex) -> u32,
    available: impl Fn(AgentIndex) -> bool,
) -> Option<Member> {
    // A set is never empty; if it were, this would not divide.
    let start = (request.rotation as usize).checked_rem(members.len())?;
    let (before, after) = members.split_at(start);
    let candidates = after.iter().chain(before).filter(|member| available(member.agent));
    // Of equal ones the first.
    candidates.min_by_key(|member| (load(member.agent), member.home != request.own_shard)).copied()
}
