//! Which agents there are, what they can do, and where each stands: for those who look for one, and those who watch.
//!
//! An entry is found by what it says of itself ([`Field`]) without a walk over all of them. Routing does not ask here:
//! its tables are made of the same descriptions, and shards are told by themselves who is available.

mod near;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::event::AgentIndex;
use crate::time::Moment;

/// The most names that are suggested for one that nobody has.
pub const NEAR_MAX: usize = 3;

/// What is configured of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Description {
    /// Its own name.
    pub name: String,
    /// The pool it belongs to; its own name if it is alone.
    pub pool: String,
    /// What it knows, one word each.
    pub skills: Vec<String>,
    /// Which channels it serves.
    pub channels: Vec<String>,
    /// What messages may ask of it, as routing names it.
    pub capabilities: Vec<String>,
}

/// Where an agent stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The name of its state, one of [`crate::supervision::State::NAMES`].
    pub state: &'static str,
    /// Why, if there is a reason.
    pub cause: Option<String>,
    /// Its process, while it has one.
    pub process_id: Option<u32>,
    /// How often it has been started again.
    pub restarts: u64,
}

/// What an agent has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Load {
    /// Turns in its hands.
    pub open: usize,
    /// Turns that wait for it.
    pub queued: usize,
}

/// All that is known of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is configured.
    pub description: Description,
    /// What it said of its software; empty if nothing.
    pub version: String,
    /// Where it stands.
    pub status: Status,
    /// Since when it is in that state.
    pub since: Moment,
    /// What it had to do when that was looked at last.
    pub load: Load,
    /// Why it is thought to be sick, if it is.
    pub sick: Option<String>,
}

/// What entries are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// An agent by its own name, or all of a pool.
    Name,
    /// [`Description::skills`].
    Skill,
    /// [`Description::channels`].
    Channel,
    /// [`Description::capabilities`].
    Capability,
    /// [`Entry::version`].
    Version,
    /// [`Status::state`].
    State,
}

/// An agent has another state than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which agent.
    pub agent: AgentIndex,
    /// The state it had.
    pub before: &'static str,
    /// The one it has.
    pub now: &'static str,
}

/// All agents of a gateway, by their number.
#[derive(Clone, Debug)]
pub struct Registry {
    entries: Vec<Entry>,
    // Ordered, so that answers are.
    found_by: BTreeMap<(Field, String), BTreeSet<AgentIndex>>,
}

impl Registry {
    /// Of agents that have not been started, in the order of their numbers.
    pub fn new(now: Moment, descriptions: Vec<Description>) -> Self {
        let mut registry = Self { entries: Vec::new(), found_by: BTreeMap::new() };
        for (description, index) in descriptions.into_iter().zip(0u32..) {
            let status = Status { state: "created", cause: None, process_id: None, restarts: 0 };
            let (version, load) = (String::new(), Load::default());
            registry.entries.push(Entry { description, version, status, since: now, load, sick: None });
            registry.file(AgentIndex(index));
        }
        registry
    }

    /// One of them.
    pub fn get(&self, agent: AgentIndex) -> Option<&Entry> {
        self.entries.get(agent.0 as usize)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (AgentIndex, &Entry)> {
        (0u32..).map(AgentIndex).zip(&self.entries)
    }

    /// Those of which that is true, in order.
    pub fn find(&self, field: Field, word: &str) -> Vec<AgentIndex> {
        let found = self.found_by.get(&(field, word.to_owned()));
        found.into_iter().flatten().copied().collect()
    }

    /// Names of agents and pools that are most like one that nobody has.
    pub fn near(&self, name: &str) -> Vec<&str> {
        let known: BTreeSet<&str> = self
            .found_by
            .keys()
            .filter(|(field, _)| *field == Field::Name)
            .map(|(_, name)| &**name)
            .collect();
        near::nearest(name, known, NEAR_MAX)
    }

    /// Another configuration says this of an agent. Its name and pool stay.
    pub fn describe(&mut self, agent: AgentIndex, description: &Description) {
        self.changing(agent, |entry| {
            let Description { skills, channels, capabilities, .. } = description.clone();
            let Description { name, pool, .. } = std::mem::take(&mut entry.description);
            entry.description = Description { name, pool, skills, channels, capabilities };
        });
    }

    /// An agent has said what software it is.
    pub fn said_hello(&mut self, agent: AgentIndex, version: &str) {
        self.changing(agent, |entry| entry.version = version.to_owned());
    }

    /// An agent stands somewhere else. Returns the change of its state, if it is one.
    pub fn moved(&mut self, now: Moment, agent: AgentIndex, status: Status) -> Option<Change> {
        let before = self.get(agent)?.status.state;
        let change = (before != status.state).then_some(Change { agent, before, now: status.state });
        self.changing(agent, |entry| {
            if change.is_some() {
                entry.since = now;
            }
            entry.status = status;
        });
        change
    }

    /// What an agent has to do now.
    pub fn loaded(&mut self, agent: AgentIndex, load: Load) {
        if let Some(entry) = self.entries.get_mut(agent.0 as usize) {
            entry.load = load;
        }
    }

    /// Why an agent is thought to be sick; none if it is not.
    pub fn sick(&mut self, agent: AgentIndex, reason: Option<&str>) {
        if let Some(entry) = self.entries.get_mut(agent.0 as usize) {
            entry.sick = reason.map(str::to_owned);
        }
    }

    fn changing(&mut self, agent: AgentIndex, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get(agent.0 as usize) else { return };
        for key in keys(entry) {
            if let Some(agents) = self.found_by.get_mut(&key) {
                agents.remove(&agent);
                if agents.is_empty() {
                    self.found_by.remove(&key);
                }
            }
        }
        change(&mut self.entries[agent.0 as usize]);
        self.file(agent);
    }

    fn file(&mut self, agent: AgentIndex) {
        for key in keys(&self.entries[agent.0 as usize]) {
            self.found_by.entry(key).or_default().insert(agent);
        }
    }
}

/// All that an entry is found by.
fn keys(entry: &Entry) -> Vec<(Field, String)> {
    let Entry { description, version, status, .. } = entry;
    let Description { name, pool, skills, channels, capabilities } = description;
    let named = [(Field::Name, name.clone()), (Field::Name, pool.clone())];
    let words =
        |field, words: &[String]| words.iter().map(move |word| (field, word.clone())).collect::<Vec<_>>();
    let mut keys = named.to_vec();
    keys.extend(words(Field::Skill, skills));
    keys.extend(words(Field::Channel, channels));
    keys.extend(words(Field::Capability, capabilities));
    if !version.is_empty() {
        keys.push((Field::Version, version.clone()));
    }
    keys.push((Field::State, status.state.to_owned()));
    keys
}
