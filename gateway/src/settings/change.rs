//! `config set` and `config unset`: a change that is checked as a whole before anything is written.

use std::io::Read;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::{Located, SettingsError, print};
use crate::config::document::Document;
use crate::config::edit::{Change, edit};
use crate::config::file::{self, Lock};
use crate::config::path::KeyPath;
use crate::config::{self, Around, BrokenRules, Effort, Standing, differences, examine, schema};
use crate::options::{ConfigSetOptions, ConfigUnsetOptions, FilePlace, RunOptions};

/// The longest value from standard input.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// What has changed.
#[derive(Serialize)]
struct Changed {
    path: String,
    /// Whether anything has.
    changed: bool,
    keys: Vec<ChangedKey>,
}

#[derive(Serialize)]
struct ChangedKey {
    key: String,
    /// The command after which it counts for a running gateway, or for each of its agents.
    after: String,
}

pub(super) fn set(options: &ConfigSetOptions) -> Result<ExitCode, SettingsError> {
    let path = KeyPath::parse(&options.key)?;
    let value = value(&path, &options.value)?;
    change(&options.place, &Change::Set(path, value), options.json)
}

pub(super) fn unset(options: &ConfigUnsetOptions) -> Result<ExitCode, SettingsError> {
    change(&options.place, &Change::Unset(KeyPath::parse(&options.key)?), options.json)
}

fn change(place: &FilePlace, change: &Change, json: bool) -> Result<ExitCode, SettingsError> {
    let located = Located::of(place)?;
    if place.config.is_none() {
        file::begin(&located.state_directory)?;
    }
    let (before, after) = apply(&located, change)?;
    let keys = differences(&before.0, &after.0).into_iter().map(|(key, effort)| {
        let after = match effort {
            Effort::None => "openclaw gateway reload".to_owned(),
            Effort::Agent(pool) => format!("openclaw agent restart {pool}"),
            Effort::EveryAgent => "openclaw agent restart NAME".to_owned(),
            Effort::Gateway => "openclaw gateway restart".to_owned(),
        };
        ChangedKey { key, after }
    });
    let changed = before != after;
    let told = Changed { path: located.file.display().to_string(), changed, keys: keys.collect() };
    print(json, &told, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Changes the file, unless that would break a rule that holds without the change. What it said before, and says now.
pub(super) fn apply(located: &Located, change: &Change) -> Result<(Document, Document), SettingsError> {
    let file = &located.file;
    let _lock = Lock::of(file)?;
    let (text, before) = config::read(file)?;
    let edited = |source| SettingsError::Edit { path: file.clone(), source };
    let changed = edit(&text, change).map_err(edited)?;
    let after = Document::parse(&changed).map_err(|error| edited(error.into()))?;
    let options = RunOptions::default();
    let standing = Standing::of(&located.state_directory);
    let around = Around::of_this_machine(&options, &located.state_directory, &standing);
    let broken_before = examine(before.clone(), &around).broken;
    let broken_after = examine(after.clone(), &around).broken;
    // A file with several faults is mended one by one.
    let (left, new): (Vec<_>, Vec<_>) =
        broken_after.into_iter().partition(|rule| broken_before.contains(rule));
    if !new.is_empty() {
        return Err(SettingsError::Rules { path: file.clone(), rules: BrokenRules(new) });
    }
    if !left.is_empty() {
        eprintln!(
            "openclaw: {} still breaks {} of the rules; see `openclaw config validate`",
            file.display(),
            left.len()
        );
    }
    if changed != text {
        file::replace(file, &changed)?;
    }
    Ok((before, after))
}

/// The value that was given: JSON5, or a text where that is no JSON5 or the key is a text.
fn value(path: &KeyPath, given: &str) -> Result<Value, SettingsError> {
    if given != "-" {
        return Ok(value_of(given, schema::is_text(path)));
    }
    let mut text = String::new();
    let most = VALUE_BYTES_MAX as u64;
    std::io::stdin().take(most + 1).read_to_string(&mut text).map_err(SettingsError::Input)?;
    if text.len() > VALUE_BYTES_MAX {
        return Err(SettingsError::InputTooLong { bytes_max: VALUE_BYTES_MAX });
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    // Nobody quotes there.
    Ok(if schema::is_text(path) { text.into() } else { value_of(text, false) })
}

fn value_of(text: &str, is_text: bool) -> Value {
    match json5::from_str::<Document>(text) {
        Ok(Document(value)) if !is_text || value.is_string() => value,
        _ => text.into(),
    }
}

fn text(told: &Changed) -> String {
    if !told.changed {
        return format!("{} says that already", told.path);
    }
    let mut lines = vec![format!("{} is changed", told.path)];
    lines.extend(
        told.keys.iter().map(|ChangedKey { key, after }| {
            format!("  {key}: counts for a running gateway after `{after}`")
        }),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is JSON5 is taken so, unless the key is a text; what is none is a text.
    #[test]
    fn values_are_taken_as_they_are_meant() {
        let check = |text: &str, is_text: bool, expected: Value| {
            assert_eq!(value_of(text, is_text), expected, "{text}")
        };
        check("18790", false, json!(18790));
        check("0x10", false, json!(16));
        check("['a', \"b\",]", false, json!(["a", "b"]));
        check("{a: true}", false, json!({"a": true}));
        check("words", false, json!("words"));
        check("'18790'", false, json!("18790"));
        check("18790", true, json!("18790"));
        check("true", true, json!("true"));
        check("\"x y\"", true, json!("x y"));
        check("it's", true, json!("it's"));
        check("", true, json!(""));
    }
}
