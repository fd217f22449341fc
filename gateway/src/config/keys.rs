//! What a configuration file says, key by key; and what it takes until a key that has changed counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

/// Keys of an agent that count as soon as the file is read again.
const LIVE_OF_AGENT: [&str; 9] = [
    "restart",
    "sickness",
    "minInstances",
    "spares",
    "idleTimeoutMs",
    "drainTimeoutMs",
    "capabilities",
    "skills",
    "channels",
];
/// Keys of an agent that say how many members its pool has, and what shards know of them.
const FIXED_OF_AGENT: [&str; 4] = ["instances", "instancesPer", "maxInstances", "inFlightMax"];
/// Other keys, and sections, that count as soon as the file is read again.
const LIVE: [&str; 5] = ["routing", "skills", "supervision.fleet", "gateway.drainTimeoutMs", "gateway.auth"];

/// What it takes until a changed key counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effort {
    /// Nothing more.
    None,
    /// The agents of this pool have to be started anew.
    Agent(String),
    /// The gateway has to be.
    Gateway,
}

/// The values of a file by their keys, such as `agents.entries.words.inFlightMax`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<Vec<String>, Value>);

/// Among the values are secrets.
impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.keys().map(|key| key.join("."))).finish()
    }
}

impl Keys {
    /// Those of a file.
    pub fn of(file: &Value) -> Self {
        let mut keys = BTreeMap::new();
        flatten(&mut Vec::new(), file, &mut keys);
        Self(keys)
    }

    /// The keys that say something else in `next`, each with what it takes. `pools` are the agents that this gateway has
    /// and that `next` has too, with as many members.
    pub fn changed(&self, next: &Self, pools: &BTreeSet<String>) -> BTreeMap<String, Effort> {
        let all: BTreeSet<_> = self.0.keys().chain(next.0.keys()).collect();
        let changed = all.into_iter().filter(|&key| self.0.get(key) != next.0.get(key));
        changed.map(|key| effort(key, pools)).collect()
    }

    /// Takes over what counts now; the rest is told again next time.
    pub fn take_over(&mut self, next: &Self, pools: &BTreeSet<String>) {
        let counts = |key: &[String]| effort(key, pools).1 != Effort::Gateway;
        self.0.retain(|key, _| !counts(key));
        self.0.extend(
            next.0.iter().filter(|(key, _)| counts(key)).map(|(key, value)| (key.clone(), value.clone())),
        );
    }
}

/// The name of a key, and what it takes until it counts. All of an agent that is new or gone is one key.
fn effort(key: &[String], pools: &BTreeSet<String>) -> (String, Effort) {
    let name = key.join(".");
    if let [agents, entries, pool, rest @ ..] = key
        && (agents.as_str(), entries.as_str()) == ("agents", "entries")
    {
        let Some(first) = rest.first().filter(|_| pools.contains(pool)) else {
            return (key[..3].join("."), Effort::Gateway);
        };
        let effort = if FIXED_OF_AGENT.contains(&first.as_str()) {
            Effort::Gateway
        } else if LIVE_OF_AGENT.contains(&first.as_str()) {
            Effort::None
        } else {
            Effort::Agent(pool.clone())
        };
        return (name, effort);
    }
    let live = LIVE.iter().any(|live| name == *live || name.starts_with(&format!("{live}.")));
    (name, if live { Effort::None } else { Effort::Gateway })
}

fn flatten(path: &mut Vec<String>, value: &Value, keys: &mut BTreeMap<Vec<String>, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() || path.is_empty() => {
            for (name, value) in fields {
                path.push(name.clone());
                flatten(path, value, keys);
                path.pop();
            }
        }
        value => {
            keys.insert(path.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each kind of key, and what it takes; what counts is not told again, what does not is.
    #[test]
    fn changes_are_told_with_what_they_take() {
        let before = Keys::of(&json!({"gateway": {"port": 1, "drainTimeoutMs": 1},
            "agents": {"entries": {"a": {"command": ["x"], "restart": {"max": 1}, "inFlightMax": 1}, "old": {}}}}));
        let after =
            Keys::of(&json!({"gateway": {"port": 2, "drainTimeoutMs": 2}, "routing": {"default": "a"},
            "agents": {"entries": {"a": {"command": ["y"], "restart": {"max": 2}, "inFlightMax": 2},
                "new": {"command": ["z"], "restart": {"max": 1}}}}}));
        let pools = BTreeSet::from(["a".to_owned()]);
        let rows = [
            ("agents.entries.a.command", Effort::Agent("a".into())),
            ("agents.entries.a.inFlightMax", Effort::Gateway),
            ("agents.entries.a.restart.max", Effort::None),
            ("agents.entries.new", Effort::Gateway),
            ("agents.entries.old", Effort::Gateway),
            ("gateway.drainTimeoutMs", Effort::None),
            ("gateway.port", Effort::Gateway),
            ("routing.default", Effort::None),
        ];
        let told = |rows: &[(&str, Effort)]| -> BTreeMap<String, Effort> {
            rows.iter().map(|(key, effort)| ((*key).to_owned(), effort.clone())).collect()
        };
        assert_eq!(before.changed(&after, &pools), told(&rows));
        assert_eq!(before.changed(&before, &pools), told(&[]));
        let mut taken = before.clone();
        taken.take_over(&after, &pools);
        let again: Vec<_> = rows.into_iter().filter(|(_, effort)| *effort == Effort::Gateway).collect();
        assert_eq!(taken.changed(&after, &pools), told(&again));
    }
}
