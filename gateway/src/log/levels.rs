//! What is logged: a level for all, and other ones for parts of the program.

use std::collections::BTreeMap;
use std::fmt;

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The parts of the program that say something, as people name them, with the target of their lines.
const SUBSYSTEMS: [(&str, &str); 7] = [
    ("adapters", "adapters"),
    ("agent_sdk", "agent_sdk"),
    ("engine", "engine"),
    ("gateway", "openclaw"),
    ("keeper", "keeper"),
    ("sessions", "sessions"),
    ("shm_transport", "shm_transport"),
];
/// Between a part and its modules.
const INNER: &str = "::";

/// How much is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Level {
    /// Nothing.
    Silent,
    /// What ends the gateway: told as errors here.
    Fatal,
    /// What needs somebody.
    Error,
    /// What may need somebody.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// Why.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    const ALL: [Self; 7] =
        [Self::Silent, Self::Fatal, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Fatal => "fatal",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The level of this name; `off` is another name of the first.
    pub fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let silent = (name == "off").then_some(Self::Silent);
        silent.or_else(|| Self::ALL.into_iter().find(|level| level.name() == name))
    }

    /// All of them, for people.
    pub fn words() -> String {
        let names = Self::ALL.map(Self::name);
        let [most @ .., last] = &names;
        format!("{} or {last}", most.join(", "))
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Silent => LevelFilter::OFF,
            Self::Fatal | Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// What is wrong with a filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--log-level (OPENCLAW_LOG_LEVEL) \"{filter}\": \"{part}\" {rule}")]
pub struct LevelsError {
    filter: String,
    part: String,
    rule: String,
}

/// A level for all, and those of parts that have another one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Levels {
    /// That of whatever has none of its own.
    pub all: Level,
    of: BTreeMap<String, Level>,
}

impl Levels {
    /// Reads `info` or `warn,engine=debug,gateway::control=trace`.
    pub fn parse(filter: &str) -> Result<Self, LevelsError> {
        let mut levels = Self::default();
        for part in filter.split(',').map(str::trim) {
            let refused =
                |rule: String| LevelsError { filter: filter.to_owned(), part: part.to_owned(), rule };
            let (subsystem, word) = match part.split_once('=') {
                Some((subsystem, word)) => (Some(subsystem.trim()), word.trim()),
                None => (None, part),
            };
            let no_level = || {
                refused(format!(
                    "is no level: it is {}, or SUBSYSTEM=LEVEL such as engine=debug",
                    Level::words()
                ))
            };
            let level = Level::named(word).ok_or_else(no_level)?;
            match subsystem {
                None => levels.all = level,
                Some(name) => match subsystem_refused(name) {
                    None => levels.set(name, level),
                    Some(rule) => return Err(refused(rule)),
                },
            }
        }
        Ok(levels)
    }

    /// Gives a part of the program, or a module of it, a level of its own.
    pub fn set(&mut self, subsystem: &str, level: Level) {
        self.of.insert(subsystem.to_owned(), level);
    }

    /// For whoever decides on each line.
    pub fn targets(&self) -> Targets {
        let own = self.of.iter().map(|(name, level)| (target(name), level.filter()));
        Targets::new().with_default(self.all.filter()).with_targets(own)
    }
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.all.name())?;
        self.of.iter().try_for_each(|(name, level)| write!(f, ",{name}={}", level.name()))
    }
}

/// Why there is no part of the program of this name, if there is none.
pub fn subsystem_refused(name: &str) -> Option<String> {
    let (first, rest) = name.split_once(INNER).map_or((name, None), |(first, rest)| (first, Some(rest)));
    let is_known = SUBSYSTEMS.iter().any(|(known, target)| first == *known || first == *target);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    if is_known && rest.is_none_or(|rest| !rest.is_empty() && rest.chars().all(plain)) {
        return None;
    }
    let known = SUBSYSTEMS.map(|(name, _)| name).join(", ");
    Some(format!(
        "there is no such subsystem; there are: {known}, and their modules such as gateway::control"
    ))
    .map(|rule| if name.is_empty() { format!("a subsystem has a name: {rule}") } else { rule })
}

/// As the lines of a part name it.
fn target(name: &str) -> String {
    let (first, rest) = name.split_at(name.find(INNER).unwrap_or(name.len()));
    let found = SUBSYSTEMS.iter().find(|(known, _)| *known == first).map_or(first, |(_, target)| target);
    format!("{found}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each form of a filter, and what it lets through; the most exact name counts.
    #[test]
    fn filters_are_read() {
        let rows = [
            ("info", "info"),
            ("WARN", "warn"),
            ("off", "silent"),
            ("warn, engine=debug", "warn,engine=debug"),
            ("engine=debug", "info,engine=debug"),
            ("openclaw::control=trace,error", "error,openclaw::control=trace"),
        ];
        for (filter, read) in rows {
            assert_eq!(Levels::parse(filter).unwrap().to_string(), read, "{filter}");
        }
        let targets = Levels::parse("warn,gateway::control=debug").unwrap().targets();
        let rows = [
            ("openclaw::control::reload", tracing::Level::DEBUG, true),
            ("openclaw::rpc", tracing::Level::INFO, false),
            ("openclaw::rpc", tracing::Level::WARN, true),
            ("engine", tracing::Level::INFO, false),
        ];
        for (target, level, is_said) in rows {
            assert_eq!(targets.would_enable(target, &level), is_said, "{target} {level}");
        }
    }

    /// What is no level and no part of the program is told, with what there is.
    #[test]
    fn what_is_no_filter_is_told() {
        let refused = |filter: &str, rule: &str| {
            let told = Levels::parse(filter).unwrap_err().to_string();
            let start = format!("--log-level (OPENCLAW_LOG_LEVEL) \"{filter}\": {rule}");
            assert!(told.starts_with(&start), "{told}");
        };
        refused("loud", "\"loud\" is no level: it is silent, fatal, error, warn, info, debug or trace");
        refused("", "\"\" is no level");
        refused("info,", "\"\" is no level");
        refused("engine=loud", "\"engine=loud\" is no level");
        refused("enigne=debug", "\"enigne=debug\" there is no such subsystem; there are: adapters");
        refused("engine::=debug", "\"engine::=debug\" there is no such subsystem");
        refused("=debug", "\"=debug\" a subsystem has a name");
    }
}
