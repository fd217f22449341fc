//! From agents and rules, as configured, to a table. What is wrong is reported all at once.

use std::collections::BTreeMap;
use std::fmt;

use super::{Matcher, Member, Names, PATTERN_BYTES_MAX, Pattern, RULES_MAX, RoutingTable, Target};
use crate::event::{AgentIndex, ShardIndex};

/// An agent as routing knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSpec {
    /// Names it in sessions and shards. Another agent must not get it in a later table, or sessions would follow.
    pub index: AgentIndex,
    /// How messages name it.
    pub name: String,
    /// The pool it belongs to, if any.
    pub pool: Option<String>,
    /// What it can do: one word each.
    pub capabilities: Vec<String>,
    /// Where it lives.
    pub home: ShardIndex,
}

impl AgentSpec {
    /// An agent that is alone in its pool and has no capabilities.
    pub fn alone(index: AgentIndex, name: &str, shard_count: u8) -> Self {
        let home = index.home(shard_count);
        Self { index, name: name.into(), pool: None, capabilities: Vec::new(), home }
    }
}

/// Where a rule sends messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To a pool, or to one agent, by name.
    Pool(String),
    /// To all agents that have a capability.
    Capability(String),
}

/// A rule as configured: all conditions that are there must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The message came from this channel.
    pub channel: Option<String>,
    /// It contains this, whatever the case.
    pub text: Option<String>,
    /// It begins with this, whatever the case.
    pub text_prefix: Option<String>,
    /// It has this label.
    pub label: Option<String>,
    /// Where it goes then.
    pub action: Action,
}

/// What is wrong, with numbers from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// An agent.
    Agent(usize),
    /// A rule.
    Rule(usize),
    /// All rules together.
    Rules,
    /// The default.
    Default,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing would match it.
    #[error("must not be empty")]
    Empty,
    /// Labels are words with spaces between them.
    #[error("must be one word")]
    NotAWord,
    /// Two would be one.
    #[error("must not be that of an earlier agent")]
    Taken,
    /// Messages that use the name would be for both.
    #[error("must not be the name of an agent, unless that is alone in it")]
    NameOfAgent,
    /// It would take every message.
    #[error("needs a condition; what takes every message is the default")]
    NoCondition,
    /// A named limit.
    #[error("must have at most {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// A named limit.
    #[error("must be at most {RULES_MAX}")]
    TooMany,
    /// Nobody would take its messages.
    #[error("must be the name of a pool or agent")]
    UnknownName,
    /// Nobody would take its messages.
    #[error("must be a capability of an agent")]
    UnknownCapability,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// With what.
    pub subject: Subject,
    /// Under which key; empty if it is the whole.
    pub key: &'static str,
    /// The value given.
    pub value: String,
    /// What must hold instead.
    pub problem: Problem,
}

impl std::error::Error for RuleError {}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Agent(number) => write!(f, "agent {number}")?,
            Subject::Rule(number) => write!(f, "rule {number}")?,
            Subject::Rules => f.write_str("rules")?,
            Subject::Default => f.write_str("default")?,
        }
        let dot = if self.key.is_empty() { "" } else { "." };
        write!(f, "{dot}{} = {:?}: {}", self.key, self.value, self.problem)
    }
}

/// A table that is being made.
struct Build {
    all: Vec<Member>,
    sets: Vec<Vec<Member>>,
    names: Names<Target>,
    capabilities: Names<Target>,
    errors: Vec<RuleError>,
}

impl RoutingTable {
    /// Makes a table, or says all that is wrong. Default is a pool or an agent.
    pub fn build(
        version: u64,
        agents: &[AgentSpec],
        rules: &[Rule],
        default: Option<&str>,
    ) -> Result<Self, Vec<RuleError>> {
        let mut build = Build {
            all: Vec::new(),
            sets: Vec::new(),
            names: Names::new(),
            capabilities: Names::new(),
            errors: Vec::new(),
        };
        build.agents(agents);
        if rules.len() > RULES_MAX {
            build.wrong(Subject::Rules, "", &rules.len().to_string(), Problem::TooMany);
        }
        let (mut content_rules, mut channel_rules) = (Vec::new(), Vec::new());
        for (rule, number) in rules.iter().zip(0..) {
            let Some(matcher) = build.rule(number, rule) else { continue };
            let by_channel =
                matcher.text.is_none() && matcher.text_prefix.is_none() && matcher.label.is_none();
            if by_channel { channel_rules.push(matcher) } else { content_rules.push(matcher) }
        }
        let default = default.and_then(|name| build.named(Subject::Default, "", name));
        let Build { all, sets, names, capabilities, errors } = build;
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            version,
            all: all.into(),
            sets: sets.into_iter().map(Vec::into_boxed_slice).collect(),
            names,
            capabilities,
            content_rules: content_rules.into(),
            channel_rules: channel_rules.into(),
            default,
        })
    }
}

impl Build {
    fn wrong(&mut self, subject: Subject, key: &'static str, value: &str, problem: Problem) {
        self.errors.push(RuleError { subject, key, value: value.to_owned(), problem });
    }

    fn agents(&mut self, agents: &[AgentSpec]) {
        // In the order of indices, so that all sets are.
        let mut sorted: Vec<(usize, &AgentSpec)> = agents.iter().enumerate().collect();
        sorted.sort_by_key(|(_, agent)| agent.index);
        let mut pools: BTreeMap<&str, (usize, Vec<u32>)> = BTreeMap::new();
        for (&(number, agent), place) in sorted.iter().zip(0u32..) {
            let subject = Subject::Agent(number);
            let member = Member { agent: agent.index, home: agent.home };
            if self.all.last().is_some_and(|last| last.agent == agent.index) {
                self.wrong(subject, "index", &agent.index.0.to_string(), Problem::Taken);
            }
            self.all.push(member);
            if agent.name.is_empty() {
                self.wrong(subject, "name", "", Problem::Empty);
            } else if !self.names.insert(&agent.name, Target::Agent(place)) {
                self.wrong(subject, "name", &agent.name, Problem::Taken);
            }
            match agent.pool.as_deref() {
                Some("") => self.wrong(subject, "pool", "", Problem::Empty),
                Some(pool) => pools.entry(pool).or_insert((number, Vec::new())).1.push(place),
                None => {}
            }
            for capability in &agent.capabilities {
                self.capability(subject, member, capability);
            }
        }
        for (pool, (first, places)) in pools {
            let members = places.iter().map(|&place| self.all[place as usize]).collect();
            match self.names.get(pool) {
                None => {
                    let set = self.add_set(members);
                    self.names.insert(pool, set);
                }
                // An agent alone in a pool of its own name: both names mean the same.
                Some(Target::Agent(place)) if places == [place] => {}
                Some(_) => self.wrong(Subject::Agent(first), "pool", pool, Problem::NameOfAgent),
            }
        }
    }

    fn capability(&mut self, subject: Subject, member: Member, capability: &str) {
        if !is_word(capability) {
            return self.wrong(subject, "capabilities", capability, Problem::NotAWord);
        }
        match self.capabilities.get(capability) {
            Some(Target::Set(set)) => {
                let set = &mut self.sets[set as usize];
                // The same word twice is no harm.
                if set.last() != Some(&member) {
                    set.push(member);
                }
            }
            _ => {
                let set = self.add_set(vec![member]);
                self.capabilities.insert(capability, set);
            }
        }
    }

    fn add_set(&mut self, members: Vec<Member>) -> Target {
        self.sets.push(members);
        Target::Set((self.sets.len() - 1) as u32)
    }

    fn rule(&mut self, number: u32, rule: &Rule) -> Option<Matcher> {
        let subject = Subject::Rule(number as usize);
        let Rule { channel, text, text_prefix, label, action } = rule;
        let conditions =
            [("channel", channel), ("text", text), ("textPrefix", text_prefix), ("label", label)];
        if conditions.iter().all(|(_, condition)| condition.is_none()) {
            self.wrong(subject, "", "", Problem::NoCondition);
        }
        for (key, condition) in conditions {
            let Some(value) = condition else { continue };
            if value.is_empty() {
                self.wrong(subject, key, value, Problem::Empty);
            } else if value.len() > PATTERN_BYTES_MAX {
                self.wrong(subject, key, value, Problem::TooLong);
            } else if key == "label" && !is_word(value) {
                self.wrong(subject, key, value, Problem::NotAWord);
            }
        }
        let target = match action {
            Action::Pool(name) => self.named(subject, "pool", name)?,
            Action::Capability(name) => match self.capabilities.get(name) {
                Some(target) => target,
                None => {
                    self.wrong(subject, "capability", name, Problem::UnknownCapability);
                    return None;
                }
            },
        };
        Some(Matcher {
            number,
            channel: channel.as_deref().map(Into::into),
            text: text.as_deref().map(Pattern::new),
            text_prefix: text_prefix.as_deref().map(Pattern::new),
            label: label.as_deref().map(Into::into),
            target,
        })
    }

    fn named(&mut self, subject: Subject, key: &'static str, name: &str) -> Option<Target> {
        let target = self.names.get(name);
        if target.is_none() {
            self.wrong(subject, key, name, Problem::UnknownName);
        }
        target
    }
}

/// Whether a text can be one of several labels.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|letter: char| letter.is_ascii_whitespace())
}
