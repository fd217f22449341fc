//! `config validate` and `gateway validate`: what is wrong with a file, and what would change.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::{Located, SettingsError, print};
use crate::admin::answer::Reloaded;
use crate::ask::{self, AskError};
use crate::config::{Around, ConfigError, Standing, examine, read};
use crate::options::{ConfigPrintOptions, RunOptions};
use crate::state_directory::Unreached;

/// What was found out about a file.
#[derive(Serialize)]
struct Findings {
    path: PathBuf,
    valid: bool,
    /// All broken rules: key, value, rule.
    broken: Vec<String>,
    /// Keys that have no effect.
    unsupported: Vec<String>,
    /// What would change for the gateway that runs; absent where none was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Reloaded>,
}

pub(super) fn file(options: &ConfigPrintOptions) -> Result<ExitCode, SettingsError> {
    let located = Located::of(&options.place)?;
    told(options.json, &look(&located)?)
}

/// The gateway itself says whether it could use the file, since its flags and its environment count as well. Where none
/// runs, the file is checked here.
pub(super) fn for_gateway(options: &ConfigPrintOptions) -> Result<ExitCode, SettingsError> {
    let located = Located::of(&options.place)?;
    let mut findings = look(&located)?;
    // A path counts where the gateway was started, not here.
    let named = options.place.config.as_ref().map(|path| std::path::absolute(path).unwrap_or(path.clone()));
    match ask::try_configuration(&located.gateway(), named.as_deref()) {
        Ok(changes) => {
            findings.valid = true;
            findings.broken.clear();
            findings.changes = Some(changes);
        }
        Err(AskError::Refused { message, .. }) => {
            findings.valid = false;
            findings.broken = message.lines().map(|line| line.trim().to_owned()).collect();
        }
        Err(AskError::Unreached(Unreached::NoGateway { .. })) => {}
        Err(error) => return Err(error.into()),
    }
    told(options.json, &findings)
}

fn look(located: &Located) -> Result<Findings, SettingsError> {
    let path = located.file.clone();
    let document = match read(&path) {
        Ok((_, document)) => document,
        Err(ConfigError::Parse { source, .. }) => {
            let broken = vec![source.to_string()];
            return Ok(Findings { path, valid: false, broken, unsupported: Vec::new(), changes: None });
        }
        Err(error) => return Err(error.into()),
    };
    let options = RunOptions::default();
    let standing = Standing::of(&located.state_directory);
    let around = Around::of_this_machine(&options, &located.state_directory, &standing);
    let examined = examine(document, &around);
    let valid = examined.config.is_some();
    Ok(Findings { path, valid, broken: examined.broken, unsupported: examined.unsupported, changes: None })
}

fn told(as_json: bool, findings: &Findings) -> Result<ExitCode, SettingsError> {
    print(as_json, findings, text)?;
    Ok(if findings.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(findings: &Findings) -> String {
    let path = findings.path.display();
    let mut lines = vec![match findings.broken.len() {
        0 => format!("{path} can be used"),
        _ => format!("{path} cannot be used"),
    }];
    lines.extend(findings.broken.iter().map(|rule| format!("  {rule}")));
    lines.extend(
        findings.unsupported.iter().map(|key| format!("  {key}: is not supported, and has no effect")),
    );
    lines.extend(findings.changes.as_ref().map(ask::reloaded_text));
    lines.join("\n")
}
