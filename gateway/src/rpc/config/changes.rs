//! What clients want the file to say: a whole text, or a patch of it. Comments of what is not changed stay.

use adapters::refusal::RpcError;
use serde_json::{Map, Value};

use super::show::{is_in_a_list, unchanged};
use crate::config::document::Document;
use crate::config::edit::{Change, edit_all};
use crate::config::path::KeyPath;
use crate::config::secrets::REDACTED;
use crate::config::source::Text;

/// `config.set`, `config.apply`: this text, with the secrets that stay as they are.
pub fn replaced(raw: String, before: &Text) -> Result<String, RpcError> {
    let document = parsed(&raw)?;
    let restored = unchanged(&document).into_iter().map(|path| {
        let secret = kept(&path, before)?.clone();
        Ok(Change::Set(path, secret))
    });
    let restored = restored.collect::<Result<Vec<_>, RpcError>>()?;
    if restored.is_empty() { Ok(raw) } else { edited(&raw, &restored) }
}

/// `config.patch`: the text with a merge patch (RFC 7396). Lists become shorter only at the paths `shrinks`.
pub fn patched(raw: &str, shrinks: &[String], before: &Text) -> Result<String, RpcError> {
    let Value::Object(patch) = parsed(raw)? else {
        return Err(RpcError::invalid("config.patch raw must be an object"));
    };
    let Value::Object(fields) = &before.document.0 else { return Err(unreadable()) };
    let mut merge = Merge { shrinks, before, changes: Vec::new() };
    merge.object(&patch, fields, &KeyPath::default())?;
    let text = before.text.as_deref().unwrap_or("{}\n");
    edited(text, &merge.changes)
}

/// A merge patch on its way into changes of the text.
struct Merge<'a> {
    shrinks: &'a [String],
    before: &'a Text,
    changes: Vec<Change>,
}

impl Merge<'_> {
    fn object(
        &mut self,
        patch: &Map<String, Value>,
        fields: &Map<String, Value>,
        path: &KeyPath,
    ) -> Result<(), RpcError> {
        for (name, wanted) in patch {
            let path = path.key(name);
            match (wanted, fields.get(name)) {
                (Value::Null, None) => {}
                (Value::Null, Some(_)) => self.changes.push(Change::Unset(path)),
                (Value::Object(patch), Some(Value::Object(fields))) => self.object(patch, fields, &path)?,
                (Value::Array(wanted), Some(Value::Array(found))) if wanted.len() < found.len() => {
                    self.shrink(wanted, found, path)?;
                }
                (wanted, found) if found == Some(wanted) => {}
                (wanted, _) => self.set(wanted, path)?,
            }
        }
        Ok(())
    }

    fn shrink(&mut self, wanted: &[Value], found: &[Value], path: KeyPath) -> Result<(), RpcError> {
        let name = path.to_string();
        if !self.shrinks.contains(&name) {
            return Err(RpcError::invalid(format!(
                "config.patch would make the list {name} shorter: {} of {} items; name it in replacePaths to replace it",
                wanted.len(),
                found.len()
            )));
        }
        self.set(&Value::Array(wanted.to_vec()), path)
    }

    fn set(&mut self, wanted: &Value, path: KeyPath) -> Result<(), RpcError> {
        if wanted == REDACTED {
            return kept(&path, self.before).map(|_| ());
        }
        if let Some(below) = unchanged(wanted).into_iter().next() {
            let name = KeyPath(path.0.into_iter().chain(below.0).collect());
            return Err(nothing_kept(&name));
        }
        self.changes.push(Change::Set(path, without_nulls(wanted)));
        Ok(())
    }
}

/// What a patch says of something that is not there yet.
fn without_nulls(wanted: &Value) -> Value {
    match wanted {
        Value::Object(fields) => {
            let said = fields.iter().filter(|(_, value)| !value.is_null());
            said.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        other => other.clone(),
    }
}

/// What a secret stays that a client was not shown.
fn kept<'a>(path: &KeyPath, before: &'a Text) -> Result<&'a Value, RpcError> {
    let found = path.find(&before.document.0).filter(|found| found.is_string() && !is_in_a_list(path));
    found.ok_or_else(|| nothing_kept(path))
}

fn nothing_kept(path: &KeyPath) -> RpcError {
    RpcError::invalid(format!(
        "{path} is \"{REDACTED}\", which stands for a secret that stays, and the file has none there"
    ))
}

fn parsed(raw: &str) -> Result<Value, RpcError> {
    let document = Document::parse(raw);
    document
        .map(|Document(value)| value)
        .map_err(|error| RpcError::invalid(format!("invalid config: {error}")))
}

fn edited(text: &str, changes: &[Change]) -> Result<String, RpcError> {
    edit_all(text, changes).map_err(|error| {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        RpcError::invalid(format!("{error}{cause}"))
    })
}

fn unreadable() -> RpcError {
    RpcError::invalid("the file is no object: {…}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "// Ours.\n{\n  gateway: {auth: {token: 'hush'}, drainTimeoutMs: 1}, // Why.\n  \
        routing: {rules: [{a: 1}, {a: 2}]},\n}\n";

    fn before() -> Text {
        Text { text: Some(FILE.into()), document: Document::parse(FILE).unwrap(), hash: "h".into() }
    }

    fn said(result: Result<String, RpcError>) -> Result<String, String> {
        result.map_err(|error| error.message.into_owned())
    }

    /// A patch changes what it names, takes out what is null there, and leaves secrets and comments as they are.
    #[test]
    fn a_patch_is_merged_into_the_text() {
        let check = |patch: Value, expected: &str| {
            assert_eq!(patched(&patch.to_string(), &[], &before()).unwrap(), expected, "{patch}");
        };
        check(json!({}), FILE);
        check(json!({"gateway": {"drainTimeoutMs": 2}}), &FILE.replace("Ms: 1", "Ms: 2"));
        check(
            json!({"gateway": {"drainTimeoutMs": null, "nothing": null}}),
            &FILE.replace(", drainTimeoutMs: 1", ""),
        );
        check(json!({"gateway": {"auth": {"token": REDACTED}}}), FILE);
        check(json!({"routing": {"rules": [{"a": 1}, {"a": 2}]}}), FILE);
        let new = json!({"delivery": {"attemptsMax": 3, "jitter": null}});
        let text = patched(&new.to_string(), &[], &before()).unwrap();
        let mut expected = before().document.0;
        expected["delivery"] = json!({"attemptsMax": 3});
        assert_eq!(Document::parse(&text).unwrap().0, expected);
        assert!(text.contains("// Why.") && text.contains("'hush'"), "{text}");
    }

    /// A list becomes shorter only if that was said, and what stands for a secret has to stand for one.
    #[test]
    fn a_patch_loses_nothing_by_accident() {
        let shorter = json!({"routing": {"rules": [{"a": 1}]}}).to_string();
        let refused = "config.patch would make the list routing.rules shorter: 1 of 2 items; name it in replacePaths to replace it";
        assert_eq!(said(patched(&shorter, &[], &before())).unwrap_err(), refused);
        let text = patched(&shorter, &["routing.rules".into()], &before()).unwrap();
        assert_eq!(Document::parse(&text).unwrap().0["routing"], json!({"rules": [{"a": 1}]}));
        let stands_for = |patch: Value| said(patched(&patch.to_string(), &[], &before())).unwrap_err();
        for (patch, path) in [
            (json!({"gateway": {"auth": {"password": REDACTED}}}), "gateway.auth.password"),
            (json!({"x": {"token": REDACTED}}), "x.token"),
        ] {
            let told = stands_for(patch);
            assert!(told.starts_with(&format!("{path} is \"{REDACTED}\"")), "{told}");
        }
        assert_eq!(
            said(patched("[]", &[], &before())).unwrap_err(),
            "invalid config: the file is no object: {…}"
        );
    }

    /// A whole text is taken as it is, but for the secrets that stay.
    #[test]
    fn a_text_is_taken_as_it_is() {
        let raw = format!("// Mine.\n{{gateway: {{auth: {{token: '{REDACTED}'}}}}}} // End.");
        let text = said(replaced(raw.clone(), &before())).unwrap();
        assert_eq!(text, raw.replace(&format!("'{REDACTED}'"), "\"hush\""));
        assert_eq!(said(replaced("{a: 1} // x".into(), &before())).unwrap(), "{a: 1} // x");
        let other = format!("{{gateway: {{auth: {{password: '{REDACTED}'}}}}}}");
        let told = said(replaced(other, &before())).unwrap_err();
        assert!(told.starts_with("gateway.auth.password is"), "{told}");
        let told = said(replaced("{a: 1,, }".into(), &before())).unwrap_err();
        assert!(told.starts_with("invalid config: "), "{told}");
    }
}
