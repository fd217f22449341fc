//! Settings of the log.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::log::levels::{Level, Levels, subsystem_refused};

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileLogging {
    level: Option<String>,
    #[serde(default)]
    levels: BTreeMap<String, String>,
}

/// What is logged. A flag or a variable wins over the file as a whole.
pub(super) fn check(broken: &mut Vec<String>, file: &FileLogging, flag: Option<&str>) -> Levels {
    let mut levels = Levels::default();
    let mut level = |key: &str, word: &str| {
        let level = Level::named(word);
        if level.is_none() {
            broken.push(format!("{key} = \"{word}\": must be {}", Level::words()));
        }
        level
    };
    if let Some(found) = file.level.as_deref().and_then(|word| level("logging.level", word)) {
        levels.all = found;
    }
    let mut subsystems = Vec::new();
    for (name, word) in &file.levels {
        if let Some(found) = level(&format!("logging.levels.{name}"), word) {
            subsystems.push((name, found));
        }
    }
    for (name, level) in subsystems {
        match subsystem_refused(name) {
            None => levels.set(name, level),
            Some(rule) => broken.push(format!("logging.levels.{name}: {rule}")),
        }
    }
    match flag.map(Levels::parse) {
        None => levels,
        Some(Ok(levels)) => levels,
        Some(Err(error)) => {
            broken.push(error.to_string());
            levels
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use crate::options::RunOptions;

    /// Levels of the file count unless a flag or a variable says something else; what is wrong is told by its key.
    #[test]
    fn levels_are_checked() {
        let levels = |text: &str, flag: Option<&str>| {
            let options = RunOptions { log_level: flag.map(str::to_owned), ..RunOptions::default() };
            check(text, &options).map(|config| config.levels.to_string())
        };
        assert_eq!(levels("{}", None).unwrap(), "info");
        let file = "{logging: {level: 'warn', levels: {engine: 'debug', 'gateway::control': 'trace'}}}";
        assert_eq!(levels(file, None).unwrap(), "warn,engine=debug,gateway::control=trace");
        assert_eq!(levels(file, Some("error")).unwrap(), "error");
        let broken = levels("{logging: {level: 'loud', levels: {engine: 'x', enigne: 'info'}}}", None);
        let rules = [
            "logging.level = \"loud\": must be silent, fatal, error, warn, info, debug or trace",
            "logging.levels.engine = \"x\": must be silent, fatal, error, warn, info, debug or trace",
            "logging.levels.enigne: there is no such subsystem; there are: adapters, agent_sdk, engine, gateway, keeper, \
             sessions, shm_transport, and their modules such as gateway::control",
        ];
        assert_eq!(broken.unwrap_err(), rules);
    }
}
