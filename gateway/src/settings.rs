//! The commands that look at the configuration file and change it: `config`, `token`, `gateway validate`.

mod change;
mod token;
mod validate;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Value, json};

use crate::ask::AskError;
use crate::config::edit::EditError;
use crate::config::file::{self, FileError};
use crate::config::path::{KeyPath, PathError, Step};
use crate::config::{self, BrokenRules, ConfigError, schema, secrets};
use crate::options::{
    AgentConfigCommand, ConfigCommand, ConfigGetOptions, ConfigPrintOptions, ConfigSetOptions, FilePlace,
    Place, TokenCommand,
};
use crate::state_directory;
use crate::table::print_json;

/// Why one of these commands failed.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was given is no path of a key.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The text cannot be changed.
    #[error("configuration file {} is not changed", path.display())]
    Edit {
        /// Which file.
        path: PathBuf,
        /// What is in the way.
        #[source]
        source: EditError,
    },
    /// The change would break rules; all of them are listed.
    #[error("configuration file {} is not changed: {rules}", path.display())]
    Rules {
        /// Which file.
        path: PathBuf,
        /// Those that hold without the change.
        rules: BrokenRules,
    },
    /// The file does not say.
    #[error("{key} is not set{}", preset.map_or_else(String::new, |preset| format!("; its default: {preset}")))]
    NotSet {
        /// Which key.
        key: KeyPath,
        /// What holds then, if that is known.
        preset: Option<&'static str>,
    },
    /// Standard input has no value.
    #[error("standard input cannot be read")]
    Input(#[source] std::io::Error),
    /// Standard input has more than a value.
    #[error("standard input has more than {bytes_max} bytes")]
    InputTooLong {
        /// The most.
        bytes_max: usize,
    },
    /// Clients show something else, or nothing.
    #[error("gateway.auth.mode is \"{mode}\", so no token is asked for")]
    NoToken {
        /// How clients prove who they are.
        mode: &'static str,
    },
    /// The file does not count.
    #[error("the token comes from {variable}, not from the file: change it there, and restart the gateway")]
    FromEnvironment {
        /// Which variable.
        variable: &'static str,
    },
    /// The gateway goes on with another token.
    #[error(
        "{} has a new token, but the gateway that runs does not take its token from there: it was started with another \
         file, or with OPENCLAW_GATEWAY_TOKEN",
        path.display()
    )]
    OtherSource {
        /// Which file.
        path: PathBuf,
    },
    /// The gateway cannot be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer could not be printed.
    #[error("the answer cannot be printed")]
    Print(#[source] std::io::Error),
}

/// A configuration file, and the gateway it is for.
struct Located {
    file: PathBuf,
    state_directory: PathBuf,
}

impl Located {
    fn of(place: &FilePlace) -> Result<Self, SettingsError> {
        let state_directory =
            state_directory::chosen(place.state_dir.as_deref()).ok_or(ConfigError::NoHome)?;
        let file = file::path(place.config.as_deref(), &state_directory);
        Ok(Self { file, state_directory })
    }

    /// The gateway that would use it.
    fn gateway(&self) -> Place {
        Place { state_dir: Some(self.state_directory.clone()) }
    }
}

/// Does what one of the `config` commands says.
pub fn config(command: &ConfigCommand) -> Result<ExitCode, SettingsError> {
    ended(match command {
        ConfigCommand::Get(options) => get(options),
        ConfigCommand::Set(options) => change::set(options),
        ConfigCommand::Unset(options) => change::unset(options),
        ConfigCommand::Validate(options) => validate::file(options),
        ConfigCommand::Schema(options) => {
            print(options.json, &schema::whole(), |schema| format!("{schema:#}")).map(|()| ExitCode::SUCCESS)
        }
        ConfigCommand::File(options) => path(options),
    })
}

/// Does what one of the `agent config` commands says: the same as `config`, below the entry of an agent.
pub fn agent(command: AgentConfigCommand) -> Result<ExitCode, SettingsError> {
    // In quotes, since a name may have dots.
    let entry = |name: &str| format!("agents.entries[{}]", Value::from(name));
    config(&match command {
        AgentConfigCommand::Get { name, key, json, place } => {
            let key = key.map_or_else(|| entry(&name), |key| format!("{}.{key}", entry(&name)));
            ConfigCommand::Get(ConfigGetOptions { key: Some(key), show_secrets: false, json, place })
        }
        AgentConfigCommand::Set { name, key, value, json, place } => {
            let key = format!("{}.{key}", entry(&name));
            ConfigCommand::Set(ConfigSetOptions { key, value, json, place })
        }
    })
}

/// Does what one of the `token` commands says.
pub fn token(command: &TokenCommand) -> Result<ExitCode, SettingsError> {
    ended(match command {
        TokenCommand::New(options) => token::new(*options),
        TokenCommand::Show(options) => token::show(options),
        TokenCommand::Rotate(options) => token::rotate(options),
    })
}

/// Checks the configuration, and says what would change for a running gateway.
pub fn validate(options: &ConfigPrintOptions) -> Result<ExitCode, SettingsError> {
    ended(validate::for_gateway(options))
}

/// Whoever read along has seen enough: `config get | head`.
fn ended(done: Result<ExitCode, SettingsError>) -> Result<ExitCode, SettingsError> {
    match done {
        Err(SettingsError::Print(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// Prints a line of JSON, or text.
fn print<T: Serialize>(
    as_json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), SettingsError> {
    let printed = if as_json { print_json(value) } else { writeln!(std::io::stdout(), "{}", text(value)) };
    printed.map_err(SettingsError::Print)
}

fn get(options: &ConfigGetOptions) -> Result<ExitCode, SettingsError> {
    let located = Located::of(&options.place)?;
    let (_, document) = config::read(&located.file)?;
    let mut found = document.0;
    let mut name = String::new();
    if let Some(key) = &options.key {
        let key = KeyPath::parse(key)?;
        let Some(value) = key.find(&found).cloned() else {
            return Err(SettingsError::NotSet { preset: schema::row(&key).map(|row| row.default), key });
        };
        found = value;
        // An item of a list is as secret as the list.
        name = key
            .0
            .iter()
            .rev()
            .find_map(|step| match step {
                Step::Key(name) => Some(name.clone()),
                Step::Item(_) => None,
            })
            .unwrap_or_default();
        if !options.show_secrets && key.0.iter().any(|step| *step == Step::Key("environment".into())) {
            name = "environment".into();
        }
    }
    if !options.show_secrets {
        secrets::redact(&name, &mut found);
    }
    print(options.json, &found, shown)?;
    Ok(ExitCode::SUCCESS)
}

/// A value as people and scripts read it: a text without quotes.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => format!("{value:#}"),
    }
}

fn path(options: &ConfigPrintOptions) -> Result<ExitCode, SettingsError> {
    let Located { file, .. } = Located::of(&options.place)?;
    let found = json!({"path": file, "exists": file.exists()});
    print(options.json, &found, |_| file.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}
