//! `token`: what clients show, and how it is replaced.

use std::process::ExitCode;

use adapters::access::AuthMode;
use adapters::access::secret::Secret;
use serde::Serialize;
use serde_json::json;

use super::{Located, SettingsError, change, print};
use crate::ask::{self, AskError};
use crate::config::auth::{SECRET_VARIABLES, token_path};
use crate::config::edit::Change;
use crate::config::file::new_token;
use crate::config::{self, Config, variable};
use crate::options::{ConfigPrintOptions, FilePlace, TokenNewOptions};
use crate::state_directory::Unreached;

/// What is printed of a token.
#[derive(Serialize)]
struct Shown<'a> {
    token: &'a str,
    /// Absent where the port is any free one, and no gateway runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Whether a gateway has taken it; absent where none was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    reloaded: Option<bool>,
}

pub(super) fn new(options: TokenNewOptions) -> Result<ExitCode, SettingsError> {
    let token = new_token()?;
    print(options.json, &json!({"token": token.expose()}), |_| token.expose().to_owned())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(options: &ConfigPrintOptions) -> Result<ExitCode, SettingsError> {
    let located = Located::of(&options.place)?;
    let (config, token) = with_token(&options.place)?;
    print_shown(options.json, &shown(&located, &config, &token, None))
}

/// The settings, and the token that clients show.
fn with_token(place: &FilePlace) -> Result<(Config, Secret), SettingsError> {
    let config = config::load_at(place)?;
    let mode = config.auth.settings.mode();
    match config.auth.secret.clone() {
        Some(token) if mode == AuthMode::Token => Ok((config, token)),
        _ => Err(SettingsError::NoToken { mode: mode.name() }),
    }
}

fn shown<'a>(located: &Located, config: &Config, token: &'a Secret, reloaded: Option<bool>) -> Shown<'a> {
    // Where it really listens: flags count more than the file.
    let running = ask::gateway_status(&located.gateway()).ok();
    let address = running.and_then(|status| status.listener.parse().ok()).unwrap_or(config.address);
    let link = (address.port() != 0).then(|| config.auth.link(address));
    Shown { token: token.expose(), link, reloaded }
}

fn print_shown(as_json: bool, shown: &Shown<'_>) -> Result<ExitCode, SettingsError> {
    print(as_json, shown, |Shown { token, link, reloaded }| {
        let done = match reloaded {
            None => "",
            Some(true) => "\nthe running gateway takes it, and refuses the old one",
            Some(false) => "\nno gateway runs; the next one takes it",
        };
        let link = link.as_ref().map_or_else(String::new, |link| format!("\nlink   {link}"));
        format!("token  {token}{link}{done}")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a new token, and has a running gateway take it.
pub(super) fn rotate(options: &ConfigPrintOptions) -> Result<ExitCode, SettingsError> {
    let (name, _) = SECRET_VARIABLES[0];
    if variable(name).is_some() {
        return Err(SettingsError::FromEnvironment { variable: name });
    }
    let located = Located::of(&options.place)?;
    let token = new_token()?;
    // Not from the settings: a file that has no token yet gets one here.
    let (_, document) = config::read(&located.file)?;
    for mode in [AuthMode::Password, AuthMode::None].map(AuthMode::name) {
        if document.0.pointer("/gateway/auth/mode").is_some_and(|said| said == mode) {
            return Err(SettingsError::NoToken { mode });
        }
    }
    let path = token_path();
    change::apply(&located, &Change::Set(path.clone(), token.expose().into()))?;
    let (config, token) = with_token(&options.place)?;
    let reloaded = match ask::take_configuration(&located.gateway()) {
        Ok(reloaded) if reloaded.applied.contains(&path.to_string()) => true,
        Ok(_) => return Err(SettingsError::OtherSource { path: located.file }),
        Err(AskError::Unreached(Unreached::NoGateway { .. })) => false,
        Err(error) => return Err(error.into()),
    };
    print_shown(options.json, &shown(&located, &config, &token, Some(reloaded)))
}
