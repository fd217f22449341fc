//! The keys of the configuration as a JSON Schema, and the check of a file against its types.
//!
//! Names and types come from the structs that read the file. Default, unit and limits come from the table of
//! `docs/config.md`, which a test compares with the constants; they are for people and editors: what is checked against
//! limits is checked in `config::validate`.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::FileConfig;
use super::incumbent::is_unsupported;
use super::path::{KeyPath, Step};
use super::secrets::{REDACTED, is_secret};

/// The document whose table says what each key is for.
const DOCUMENT: &str = include_str!("../../../docs/config.md");
const TABLE_HEAD: &str = "| key | default | unit | limits | flag |";
/// What a name has to be like another one to be suggested, from 0 to 1.
const LIKENESS_MIN: f64 = 0.75;

/// Types only.
static TYPES: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<FileConfig>().to_value()
});

/// A row of the table of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The path, with `<name>` for a name.
    pub key: &'static str,
    /// What holds if the file does not say.
    pub default: &'static str,
    /// Of what it is a number, or what it is.
    pub unit: &'static str,
    /// What it may be.
    pub limits: &'static str,
}

/// The rows of the table of keys.
pub fn rows() -> impl Iterator<Item = Row> {
    let lines = DOCUMENT.lines().skip_while(|line| *line != TABLE_HEAD).skip(2);
    lines.take_while(|line| line.starts_with('|')).filter_map(|line| {
        let mut cells = line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`'));
        Some(Row { key: cells.next()?, default: cells.next()?, unit: cells.next()?, limits: cells.next()? })
    })
}

/// The row of a key.
pub fn row(path: &KeyPath) -> Option<Row> {
    let mut path = path.clone();
    if let [Step::Key(agents), Step::Key(entries), Step::Key(name), _, ..] = path.0.as_mut_slice()
        && (agents.as_str(), entries.as_str()) == ("agents", "entries")
    {
        "<name>".clone_into(name);
    }
    let key = path.to_string();
    rows().find(|row| row.key == key)
}

/// The whole schema, with what the table says.
pub fn whole() -> Value {
    let mut schema = TYPES.clone();
    leave_out_null(&mut schema);
    schema["title"] = json!("openclaw.json");
    for row in rows() {
        let target = row.key.split('.').try_fold(&mut schema, |schema, name| match name {
            "<name>" => schema.get_mut("additionalProperties"),
            name => schema.get_mut("properties")?.get_mut(name),
        });
        if let Some(Value::Object(fields)) = target {
            describe(fields, row);
        }
    }
    schema
}

/// Adds what a row says to the schema of its key.
fn describe(fields: &mut Map<String, Value>, row: Row) {
    let Row { default, unit, limits, .. } = row;
    fields.insert(
        "description".into(),
        format!("{unit}: {limits}; default: {default}").replace('`', "").into(),
    );
    let number = |text: &str| text.parse::<f64>().ok().and_then(|_| serde_json::from_str::<Value>(text).ok());
    if let Some((least, most)) = limits.split_once(" to ") {
        let most = most.split([';', ' ']).next().unwrap_or_default();
        for (name, bound) in [("minimum", number(least)), ("maximum", number(most))] {
            fields.extend(bound.map(|bound| (name.to_owned(), bound)));
        }
    }
    let is_bool = types(&Value::Object(fields.clone())).contains(&"boolean");
    if unit == "word" && !is_bool {
        // Words stand in backticks, sentences between them.
        let words: Vec<_> = format!("`{limits}`").split('`').skip(1).step_by(2).map(str::to_owned).collect();
        fields.insert("enum".into(), words.into());
    }
    let preset = match default {
        "true" | "false" if is_bool => serde_json::from_str(default).ok(),
        _ if unit == "word" && !is_bool => Some(default.into()),
        _ => number(default),
    };
    fields.extend(preset.map(|preset| ("default".to_owned(), preset)));
}

/// A key without a value is one that is left out: nobody has to write `null`.
fn leave_out_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::Array(types)) = fields.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    fields.insert("type".into(), only);
                }
            }
            fields.values_mut().for_each(leave_out_null);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out_null),
        _ => {}
    }
}

/// The names of the types that a schema allows.
fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The schema of the value at a path, types only.
fn at(path: &KeyPath) -> Option<&'static Value> {
    path.0.iter().try_fold(&*TYPES, |schema, step| match step {
        Step::Key(name) => property(schema, name),
        Step::Item(_) => schema.get("items"),
    })
}

fn property<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let known = schema.get("properties").and_then(|properties| properties.get(name));
    known.or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()))
}

/// Whether the value at a path is a text and nothing else.
pub fn is_text(path: &KeyPath) -> bool {
    at(path).is_some_and(|schema| types(schema).iter().all(|name| matches!(*name, "string" | "null")))
}

/// What does not fit the types.
#[derive(Debug, Default)]
pub struct Misfits {
    /// A line each: key, value, rule.
    pub broken: Vec<String>,
    /// Keys that others have and this gateway does not support.
    pub unsupported: Vec<String>,
}

/// Takes out of a file what does not fit the types, so that the rest can be read, and says what that was.
pub fn fit(file: &mut Value) -> Misfits {
    let mut misfits = Misfits::default();
    fit_value(&TYPES, file, &KeyPath::default(), &mut misfits);
    misfits
}

/// Whether `value` may stay.
fn fit_value(schema: &Value, value: &mut Value, path: &KeyPath, misfits: &mut Misfits) -> bool {
    let allowed = types(schema);
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = allowed.contains(&name) || (name == "integer" && allowed.contains(&"number"));
    if !allowed.is_empty() && !fits {
        misfits.broken.push(format!("{path} = {}: must be {}", shown(path, value), wanted(&allowed)));
        return false;
    }
    match value {
        Value::Object(fields) => fit_object(schema, fields, path, misfits),
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return true };
            let mut all = true;
            for (index, item) in items.iter_mut().enumerate() {
                all &= fit_value(schema, item, &path.item(index), misfits);
            }
            all
        }
        Value::String(text) if schema.get("format") == Some(&json!("ip")) => {
            let fits = text.parse::<std::net::IpAddr>().is_ok();
            if !fits {
                misfits.broken.push(format!("{path} = \"{text}\": must be an IP address"));
            }
            fits
        }
        Value::Number(number) => {
            let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
            let (least, most) = (bound("minimum"), bound("maximum"));
            let found = number.as_f64().unwrap_or_default();
            let rule = match (least, most) {
                (Some(least), Some(most)) if !(least..=most).contains(&found) => {
                    format!("must be between {least} and {most}")
                }
                (Some(least), None) if found < least => format!("must be at least {least}"),
                _ => return true,
            };
            misfits.broken.push(format!("{path} = {number}: {rule}"));
            false
        }
        _ => true,
    }
}

fn fit_object(
    schema: &Value,
    fields: &mut Map<String, Value>,
    path: &KeyPath,
    misfits: &mut Misfits,
) -> bool {
    fields.retain(|name, value| {
        let key = path.key(name);
        match property(schema, name) {
            Some(schema) => fit_value(schema, value, &key, misfits),
            None if is_unsupported(&key) => {
                misfits.unsupported.push(key.to_string());
                false
            }
            None => {
                let known = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
                let known: Vec<_> = known.map(|(known, _)| known.as_str()).collect();
                misfits.broken.push(format!("{key}: there is no such key{}", suggestion(name, &known)));
                false
            }
        }
    });
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let missing: Vec<_> =
        required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name)).collect();
    misfits.broken.extend(missing.iter().map(|name| format!("{}: is missing", path.key(name))));
    missing.is_empty()
}

fn suggestion(name: &str, known: &[&str]) -> String {
    let likeness =
        |known: &str| strsim::jaro_winkler(&name.to_ascii_lowercase(), &known.to_ascii_lowercase());
    let best = known.iter().map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, known)) if likeness >= LIKENESS_MIN => format!("; did you mean \"{known}\"?"),
        _ if known.len() <= 9 => format!("; there are: {}", known.join(", ")),
        _ => String::new(),
    }
}

/// A value as it is told with a rule: no secret, and not long.
fn shown(path: &KeyPath, value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let secret =
        path.0.iter().any(|step| matches!(step, Step::Key(name) if is_secret(name) || name == "environment"));
    let text = if secret { REDACTED.to_owned() } else { value.to_string() };
    if text.chars().count() <= CHARS_MAX {
        text
    } else {
        text.chars().take(CHARS_MAX).chain("…".chars()).collect()
    }
}

fn wanted(types: &[&str]) -> String {
    let names: Vec<_> = types
        .iter()
        .filter(|name| **name != "null")
        .map(|name| match *name {
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "a text",
            "array" => "a list: […]",
            _ => "an object: {…}",
        })
        .collect();
    names.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::super::document::Document;
    use super::super::incumbent::UNSUPPORTED;
    use super::*;

    fn misfits(text: &str) -> (Misfits, Value) {
        let mut file = Document::parse(text).unwrap().0;
        (fit(&mut file), file)
    }

    /// Each kind of misfit is told with key, value and rule, all at once, and only they are taken out.
    #[test]
    fn misfits_are_told_and_taken_out() {
        let (found, rest) = misfits(
            "{gatewy: {}, gateway: {port: 70000, host: 'x', edgeThreads: -1, restrat: 1, drainTimeoutMs: 1,
              auth: {token: 5}}, engine: {runtime: 1}, journal: [], delivery: {attemptsMax: 1.5}, zzz: 1,
              agents: {entries: {'a.b': {command: ['ls', 2], environment: {A: 1}, sandbox: {binds: [{target: '/x'}]}}}}}",
        );
        let expected = [
            "agents.entries[\"a.b\"].command[1] = 2: must be a text",
            "agents.entries[\"a.b\"].environment.A = __OPENCLAW_REDACTED__: must be a text",
            "agents.entries[\"a.b\"].sandbox.binds[0].source: is missing",
            "delivery.attemptsMax = 1.5: must be a whole number",
            "engine.runtime = 1: must be a text",
            "gateway.auth.token = __OPENCLAW_REDACTED__: must be a text",
            "gateway.edgeThreads = -1: must be at least 0",
            "gateway.host = \"x\": must be an IP address",
            "gateway.port = 70000: must be between 0 and 65535",
            "gateway.restrat: there is no such key; did you mean \"restart\"?",
            "gatewy: there is no such key; did you mean \"gateway\"?",
            "journal = []: must be an object: {…}",
            "zzz: there is no such key; there are: agents, delivery, engine, gateway, journal, routing, sessions, skills, supervision",
        ];
        assert_eq!(found.broken, expected);
        assert_eq!(found.unsupported, [""; 0]);
        let left = json!({"gateway": {"drainTimeoutMs": 1, "auth": {}}, "engine": {}, "delivery": {},
            "agents": {"entries": {"a.b": {"environment": {}, "sandbox": {}}}}});
        assert_eq!(rest, left);
        serde_json::from_value::<FileConfig>(rest).unwrap();
    }

    /// Keys of other gateways are passed over, but only where they have them; none of them is one of ours.
    #[test]
    fn keys_of_others_are_passed_over() {
        let (found, rest) = misfits("{cron: {x: 1}, gateway: {mode: 'local', cron: 1, port: 1}}");
        assert_eq!(found.unsupported, ["cron", "gateway.mode"]);
        assert_eq!(found.broken.len(), 1, "{found:?}");
        assert_eq!(rest, json!({"gateway": {"port": 1}}));
        for (section, names) in UNSUPPORTED {
            let section =
                if section.is_empty() { KeyPath::default() } else { KeyPath::parse(section).unwrap() };
            for name in names {
                assert_eq!(at(&section.key(name)), None, "{section}.{name}");
            }
        }
    }

    /// What the table says of a key is in the schema, and every row finds its key.
    #[test]
    fn the_schema_has_what_the_table_says() {
        let schema = whole();
        let key = |path: &str| {
            schema.pointer(&format!("/properties/{}", path.replace('.', "/properties/"))).unwrap().clone()
        };
        let port = json!({"type": "integer", "format": "uint16", "minimum": 0, "maximum": 65535, "default": 18789,
            "description": "TCP port: 0 to 65535; 0 takes a free one; default: 18789"});
        assert_eq!(key("gateway.port"), port);
        assert_eq!(key("engine.runtime")["enum"], json!(["epoll", "uring", "auto"]));
        assert_eq!(key("agents.defaults.limits.require")["default"], json!(false));
        assert_eq!(schema["additionalProperties"], json!(false));
        let found = rows().filter(|row| {
            let path = KeyPath::parse(row.key).unwrap();
            at(&path).is_none_or(|schema| schema.get("properties").is_some())
        });
        assert_eq!(found.map(|row| row.key).collect::<Vec<_>>(), [""; 0], "rows without a key");
        assert!(rows().count() > 70);
        assert_eq!(row(&KeyPath::parse("agents.entries.words.inFlightMax").unwrap()).unwrap().default, "256");
        assert!(is_text(&KeyPath::parse("gateway.auth.password").unwrap()));
        assert!(!is_text(&KeyPath::parse("gateway.port").unwrap()));
    }
}
