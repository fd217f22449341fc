//! `config.get`: the file as it is, without secrets.

use serde_json::{Value, json};

use crate::config::document::Document;
use crate::config::edit::{Change, edit_all};
use crate::config::path::{KeyPath, Step};
use crate::config::secrets::{REDACTED, redact};
use crate::config::source::{Source, Text};
use crate::config::{ConfigError, Examined};

/// Secrets that are shorter are not looked for in comments: they would be found in every second word.
const SECRET_BYTES_MIN: usize = 8;

/// The answer. A file that cannot be read is one, too.
pub fn get(source: &Source) -> Value {
    let path = source.path().display().to_string();
    let applied = source.applied();
    match source.read() {
        Ok(Text { text, document, hash }) => {
            let Examined { broken, unsupported, .. } = source.examine(document.clone());
            let shown = redacted(&document.0);
            let raw = text.as_deref().map(|text| redacted_text(text, &document.0, &shown));
            let warning =
                |key: &String| json!({"path": key, "message": "is not supported, and has no effect"});
            json!({
                "path": path,
                "exists": text.is_some(),
                "raw": raw,
                "parsed": shown,
                "sourceConfig": shown,
                "resolved": shown,
                "runtimeConfig": shown,
                "config": shown,
                "valid": broken.is_empty(),
                "hash": hash,
                "configRevisionHash": hash,
                "appliedConfigHash": applied,
                "issues": broken.iter().map(|rule| issue(rule)).collect::<Vec<_>>(),
                "warnings": unsupported.iter().map(warning).collect::<Vec<_>>(),
                "legacyIssues": [],
            })
        }
        // Its text may have secrets at places that nobody knows.
        Err(error) => json!({
            "path": path,
            "exists": true,
            "raw": null,
            "parsed": {},
            "config": {},
            "valid": false,
            "appliedConfigHash": applied,
            "issues": [{"path": "", "message": told(&error)}],
            "warnings": [],
            "legacyIssues": [],
        }),
    }
}

/// An error with its cause.
pub fn told(error: &ConfigError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A broken rule, as key and rest.
pub fn issue(rule: &str) -> Value {
    let end = rule.find([' ', ':']).unwrap_or(rule.len());
    let message = rule[end..].trim_start_matches([':', ' ']);
    json!({"path": rule[..end], "message": message})
}

/// What a file says, without secrets.
pub fn redacted(document: &Value) -> Value {
    let mut shown = document.clone();
    redact("", &mut shown);
    shown
}

/// The text of a file, comments and all, with the same secrets left out.
fn redacted_text(text: &str, document: &Value, shown: &Value) -> String {
    let mut hidden = Vec::new();
    find_hidden(document, shown, &KeyPath::default(), &mut hidden);
    let changes: Vec<_> = hidden.iter().map(|(path, _)| Change::Set(path.clone(), REDACTED.into())).collect();
    let Ok(mut raw) = edit_all(text, &changes) else {
        // A form that cannot be edited: what it says is told without its comments.
        return format!("{shown:#}");
    };
    for (_, secret) in hidden {
        if secret.len() < SECRET_BYTES_MIN || !raw.contains(secret) {
            continue;
        }
        // Somebody has kept it in a comment. Where it is also the value of a key that is shown, that stays.
        let without = raw.replace(secret, REDACTED);
        if Document::parse(&without).is_ok_and(|said| said.0 == *shown) {
            raw = without;
        }
    }
    raw
}

/// The texts that are not shown, by their places.
fn find_hidden<'a>(document: &'a Value, shown: &Value, path: &KeyPath, hidden: &mut Vec<(KeyPath, &'a str)>) {
    match (document, shown) {
        (Value::Object(fields), Value::Object(shown)) => {
            for (name, value) in fields {
                if let Some(shown) = shown.get(name) {
                    find_hidden(value, shown, &path.key(name), hidden);
                }
            }
        }
        (Value::Array(items), Value::Array(shown)) => {
            for (index, (value, shown)) in items.iter().zip(shown).enumerate() {
                find_hidden(value, shown, &path.item(index), hidden);
            }
        }
        (Value::String(secret), Value::String(shown)) if secret != shown => {
            hidden.push((path.clone(), secret));
        }
        _ => {}
    }
}

/// The places in a text from a client that say that a secret is as it was.
pub fn unchanged(document: &Value) -> Vec<KeyPath> {
    fn find(value: &Value, path: &KeyPath, found: &mut Vec<KeyPath>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| find(value, &path.key(name), found));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, value)| find(value, &path.item(index), found));
            }
            Value::String(text) if text == REDACTED => found.push(path.clone()),
            _ => {}
        }
    }
    let mut found = Vec::new();
    find(document, &KeyPath::default(), &mut found);
    found
}

/// Whether a path leads through an item of a list: which one that is may have changed.
pub fn is_in_a_list(path: &KeyPath) -> bool {
    path.0.iter().any(|step| matches!(step, Step::Item(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Secrets are left out of the text wherever they stand, and every other character stays.
    #[test]
    fn the_text_has_no_secrets() {
        let text = "// Old: s3cr3t-s3cr3t.\n{gateway: {auth: {token: 's3cr3t-s3cr3t', mode: 'token'}}, /* x */\n  \
            agents: {entries: {a: {environment: {A: 'hush'}}}}}\n";
        let document = Document::parse(text).unwrap().0;
        let raw = redacted_text(text, &document, &redacted(&document));
        let expected = text
            .replace("'s3cr3t-s3cr3t'", &format!("\"{REDACTED}\""))
            .replace("s3cr3t-s3cr3t", REDACTED)
            .replace("'hush'", &format!("\"{REDACTED}\""));
        assert_eq!(raw, expected);
        let note = "{a: {token: 's3cr3t-s3cr3t'}, note: 's3cr3t-s3cr3t'}";
        let document = Document::parse(note).unwrap().0;
        let raw = redacted_text(note, &document, &redacted(&document));
        assert_eq!(raw, format!("{{a: {{token: \"{REDACTED}\"}}, note: 's3cr3t-s3cr3t'}}"));
        assert_eq!(unchanged(&json!({"a": [1, {"b": REDACTED}]}))[0].to_string(), "a[1].b");
    }

    /// A rule is a key and what is wrong with it.
    #[test]
    fn rules_become_issues() {
        assert_eq!(
            issue("engine.shards = 0: must be x"),
            json!({"path": "engine.shards", "message": "= 0: must be x"})
        );
        assert_eq!(issue("zzz: there is none"), json!({"path": "zzz", "message": "there is none"}));
    }
}
