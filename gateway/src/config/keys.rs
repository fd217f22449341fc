//! What a configuration file says, key by key; and what it takes until a key that has changed counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

/// When a changed key counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counts {
    /// As soon as the file is read again.
    Now,
    /// For the next process of the agents that it is about.
    NextProcess,
    /// After the next start of the gateway.
    NextStart,
}

impl Counts {
    /// As the document says it.
    #[cfg(test)]
    fn name(self) -> &'static str {
        match self {
            Self::Now => "at once",
            Self::NextProcess => "next process",
            Self::NextStart => "next start",
        }
    }
}

/// Who may change a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Who may change the file.
    File,
    /// Clients that are admins, too.
    Clients,
}

/// What holds for a key, and all below it that has no line of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRule {
    /// The key, with `<name>` for a name.
    pub key: &'static str,
    /// When it counts.
    pub counts: Counts,
    /// Who may change it.
    pub by: By,
}

const fn rule(key: &'static str, counts: Counts, by: By) -> KeyRule {
    KeyRule { key, counts, by }
}

/// The rows of a table in `docs/config.md`; a test compares them. **What is not here is for the file only, and counts after the
/// next start**: so a key that is new is no way in for clients. What names or changes a program, its arguments, its variables,
/// its directory, its user, its sandbox or what it may take is never for clients.
pub const RULES: [KeyRule; 46] = {
    use By::{Clients, File};
    use Counts::{NextProcess, NextStart, Now};
    [
        rule("gateway.host", NextStart, File),
        rule("gateway.port", NextStart, File),
        rule("gateway.edgeThreads", NextStart, File),
        rule("gateway.drainTimeoutMs", Now, Clients),
        rule("gateway.restart", NextStart, File),
        rule("gateway.handoverTimeoutMs", NextStart, File),
        rule("gateway.user", NextStart, File),
        rule("gateway.auth.mode", Now, File),
        rule("gateway.auth.token", Now, Clients),
        rule("gateway.auth.password", Now, Clients),
        rule("gateway.controlUi.allowedOrigins", Now, Clients),
        rule("gateway.reload", Now, Clients),
        rule("gateway.http", NextStart, File),
        rule("engine", NextStart, File),
        rule("logging", Now, Clients),
        rule("agents.defaults", NextProcess, File),
        rule("agents.templates", NextProcess, File),
        rule("agents.entries.<name>.template", NextProcess, File),
        rule("agents.entries.<name>.command", NextProcess, File),
        rule("agents.entries.<name>.environment", NextProcess, File),
        rule("agents.entries.<name>.workingDirectory", NextProcess, File),
        rule("agents.entries.<name>.limits", NextProcess, File),
        rule("agents.entries.<name>.sandbox", NextProcess, File),
        rule("agents.entries.<name>.skills", Now, File),
        rule("agents.entries.<name>.startTimeoutMs", NextProcess, Clients),
        rule("agents.entries.<name>.inFlightMax", NextStart, Clients),
        rule("agents.entries.<name>.instances", NextStart, Clients),
        rule("agents.entries.<name>.instancesPer", NextStart, Clients),
        rule("agents.entries.<name>.maxInstances", NextStart, Clients),
        rule("agents.entries.<name>.minInstances", Now, Clients),
        rule("agents.entries.<name>.spares", Now, Clients),
        rule("agents.entries.<name>.idleTimeoutMs", Now, Clients),
        rule("agents.entries.<name>.drainTimeoutMs", Now, Clients),
        rule("agents.entries.<name>.restart", Now, Clients),
        rule("agents.entries.<name>.sickness", Now, Clients),
        rule("agents.entries.<name>.capabilities", Now, Clients),
        rule("agents.entries.<name>.channels", Now, Clients),
        rule("skills.entries.<name>.command", Now, File),
        rule("skills.entries.<name>.sandbox", Now, File),
        rule("skills.entries.<name>.timeoutMs", Now, Clients),
        rule("journal", NextStart, File),
        rule("journal.durability", Now, File),
        rule("delivery", Now, Clients),
        rule("routing", Now, Clients),
        rule("supervision", Now, Clients),
        rule("sessions", NextStart, File),
    ]
};

/// What holds for a key: the longest line that begins it.
pub fn rule_of(key: &[String]) -> Option<&'static KeyRule> {
    let begins = |rule: &&KeyRule| {
        let mut steps = rule.key.split('.').zip(key);
        rule.key.split('.').count() <= key.len() && steps.all(|(step, own)| step == "<name>" || step == own)
    };
    RULES.iter().filter(begins).max_by_key(|rule| rule.key.len())
}

/// What it takes until a changed key counts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effort {
    /// Nothing more.
    None,
    /// The agents of this pool have to be started anew.
    Agent(String),
    /// All agents have to be.
    EveryAgent,
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

    /// The first key that says something else in `next` and is not for clients, unless `allowed` says that this one is.
    pub fn not_for_clients(&self, next: &Self, allowed: impl Fn(&[String]) -> bool) -> Option<String> {
        let all: BTreeSet<_> = self.0.keys().chain(next.0.keys()).collect();
        // A section without keys says what none says.
        let said = |keys: &Self, key: &[String]| {
            keys.0.get(key).filter(|value| value.as_object().is_none_or(|fields| !fields.is_empty())).cloned()
        };
        let is_refused = |key: &&Vec<String>| {
            let rule = rule_of(key);
            said(self, key) != said(next, key) && rule.is_none_or(|rule| rule.by == By::File) && !allowed(key)
        };
        all.into_iter().find(is_refused).map(|key| key.join("."))
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
    let counts = rule_of(key).map_or(Counts::NextStart, |rule| rule.counts);
    if let [agents, entries, pool, rest @ ..] = key
        && (agents.as_str(), entries.as_str()) == ("agents", "entries")
    {
        if rest.is_empty() || !pools.contains(pool) {
            return (key[..3].join("."), Effort::Gateway);
        }
        let effort = match counts {
            Counts::Now => Effort::None,
            Counts::NextProcess => Effort::Agent(pool.clone()),
            Counts::NextStart => Effort::Gateway,
        };
        return (name, effort);
    }
    let effort = match counts {
        Counts::Now => Effort::None,
        Counts::NextProcess => Effort::EveryAgent,
        Counts::NextStart => Effort::Gateway,
    };
    (name, effort)
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
        let before = Keys::of(&json!({"gateway": {"port": 1, "drainTimeoutMs": 1}, "unheard": {"of": 1},
            "agents": {"entries": {"a": {"command": ["x"], "restart": {"max": 1}, "inFlightMax": 1}, "old": {}}}}));
        let after = Keys::of(
            &json!({"gateway": {"port": 2, "drainTimeoutMs": 2}, "routing": {"default": "a"}, "unheard": {"of": 2},
            "agents": {"defaults": {"sandbox": {"network": "none"}}, "entries": {"a": {"command": ["y"], "restart": {"max": 2}, "inFlightMax": 2},
                "new": {"command": ["z"], "restart": {"max": 1}}}}}),
        );
        let pools = BTreeSet::from(["a".to_owned()]);
        let rows = [
            ("agents.defaults.sandbox.network", Effort::EveryAgent),
            ("agents.entries.a.command", Effort::Agent("a".into())),
            ("agents.entries.a.inFlightMax", Effort::Gateway),
            ("agents.entries.a.restart.max", Effort::None),
            ("agents.entries.new", Effort::Gateway),
            ("agents.entries.old", Effort::Gateway),
            ("gateway.drainTimeoutMs", Effort::None),
            ("gateway.port", Effort::Gateway),
            ("routing.default", Effort::None),
            ("unheard.of", Effort::Gateway),
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

    /// A change that is not for clients is found wherever it stands, and one that is for them is not; nor is a section that has
    /// become empty.
    #[test]
    fn changes_by_clients_are_told_apart() {
        let agent = |value: Value| json!({"agents": {"entries": {"a": value}}});
        let found =
            |before: &Value, after: &Value| Keys::of(before).not_for_clients(&Keys::of(after), |_| false);
        let words = agent(json!({"command": ["x"], "spares": 1}));
        let rows = [
            (agent(json!({"command": ["x"], "spares": 2})), None),
            (agent(json!({"command": ["x", "y"], "spares": 1})), Some("agents.entries.a.command")),
            (agent(json!({"spares": 1})), Some("agents.entries.a.command")),
            (json!({"agents": {"entries": {}}}), Some("agents.entries.a.command")),
            (json!({}), Some("agents.entries.a.command")),
            (agent(json!({"command": ["x"], "spares": 1, "sandbox": {}})), None),
            (agent(json!({"command": ["x"], "spares": 1, "x": null})), Some("agents.entries.a.x")),
        ];
        for (after, expected) in rows {
            assert_eq!(found(&words, &after).as_deref(), expected, "{after}");
        }
        assert_eq!(
            found(
                &json!({"gateway": {"controlUi": {"allowedOrigins": []}}}),
                &json!({"gateway": {"controlUi": {}}})
            ),
            None
        );
        let allowed = Keys::of(&words).not_for_clients(&Keys::of(&json!({})), |key| key.len() > 3);
        assert_eq!(allowed, None);
    }

    /// The keys of the schema, as the table of keys has them.
    fn keys_of_the_schema() -> Vec<Vec<String>> {
        let rows = super::super::schema::rows();
        rows.map(|row| row.key.split('.').map(str::to_owned).collect()).collect()
    }

    /// Every key has a line, every line is about a key, and the document has the same lines.
    #[test]
    fn every_key_has_its_rule() {
        let keys = keys_of_the_schema();
        let without: Vec<_> = keys.iter().filter(|key| rule_of(key).is_none()).collect();
        assert!(without.is_empty(), "these need a line in RULES and in docs/config.md: {without:?}");
        for rule in &RULES {
            let is_used = keys.iter().any(|key| rule_of(key) == Some(rule));
            assert!(is_used, "{} is about no key", rule.key);
        }
        let document = include_str!("../../../docs/config.md");
        let rows = document.lines().skip_while(|line| *line != "| key | counts | by clients |").skip(2);
        let documented: Vec<String> =
            rows.take_while(|line| line.starts_with('|')).map(str::to_owned).collect();
        let row = |rule: &KeyRule| {
            let by = if rule.by == By::Clients { "yes" } else { "no" };
            format!("| `{}` | {} | {by} |", rule.key, rule.counts.name())
        };
        assert_eq!(documented, RULES.iter().map(row).collect::<Vec<_>>());
    }

    /// What says which program runs, how, as whom and with what is for the file only, whatever else is allowed. By all keys of
    /// the schema that have such a word in them: one that is new is among them.
    #[test]
    fn programs_are_for_the_file_only() {
        const WORDS: [&str; 14] = [
            "command",
            "environment",
            "directory",
            "user",
            "sandbox",
            "binds",
            "template",
            "limits",
            "skills",
            "seccomp",
            "network",
            "workspace",
            "engine",
            "mode",
        ];
        // These count how long or how often, in a section with such a name; and whether the file is watched.
        const HARMLESS: [&str; 2] = ["skills.entries.<name>.timeoutMs", "gateway.reload.mode"];
        let mut refused = 0;
        for key in keys_of_the_schema() {
            let name = key.join(".");
            let lower = name.to_lowercase();
            if WORDS.iter().any(|word| lower.contains(word)) && !HARMLESS.contains(&name.as_str()) {
                assert_eq!(rule_of(&key).map(|rule| rule.by), Some(By::File), "{name}");
                refused += 1;
            }
        }
        assert!(refused > 30, "{refused}");
        let unknown = ["agents", "entries", "a", "newKey"].map(str::to_owned);
        assert_eq!(rule_of(&unknown), None, "what nobody has thought of is refused");
    }
}
