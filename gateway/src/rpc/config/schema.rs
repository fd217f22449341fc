//! `config.schema` and `config.schema.lookup`: what each key is for, for editors.

use adapters::openclaw::backend::Outcome;
use adapters::refusal::RpcError;
use serde_json::{Map, Value, json};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use super::super::json as write;
use crate::config::schema;
use crate::config::secrets::is_secret;
use crate::config::{Counts, rule_of};

/// What stands for any name, and for any item of a list.
const ANY: &str = "*";
/// The same in the table of keys.
const ANY_NAME: &str = "<name>";

/// The whole schema, and a hint for each key.
pub fn whole() -> Value {
    let hints: Map<String, Value> =
        schema::rows().map(|row| (row.key.replace(ANY_NAME, ANY), hint(row))).collect();
    let mut generated = String::new();
    // A string takes all that is written to it.
    let _ = SystemTime.format_time(&mut Writer::new(&mut generated));
    json!({
        "schema": schema::whole(),
        "uiHints": hints,
        "version": env!("CARGO_PKG_VERSION"),
        "generatedAt": generated,
    })
}

fn hint(row: schema::Row) -> Value {
    let schema::Row { key, default, unit, limits } = row;
    let help = format!("{unit}: {limits}; default: {default}").replace('`', "");
    let mut hint = json!({ "help": help });
    let last = key.rsplit('.').next().unwrap_or_default();
    if is_secret(last) || last == "environment" {
        hint["sensitive"] = true.into();
    }
    hint
}

/// One key: what it may be, when a change counts, and what is below it.
pub fn lookup(path: &str) -> Outcome {
    let steps = steps(path);
    let whole = schema::whole();
    let found = steps.iter().try_fold(&whole, |schema, step| below(schema, step));
    let Some(found) = found else {
        return Err(RpcError::invalid(format!("config schema path not found: {path}")));
    };
    let mut answer = json!({ "path": path, "schema": shallow(found), "children": children(found, &steps) });
    if let Some(fields) = answer.as_object_mut() {
        tell(fields, &steps);
    }
    Ok(write(&answer))
}

/// `a.b`, `a/b` and `a[*].b` are all understood.
fn steps(path: &str) -> Vec<String> {
    let steps = path.split(['.', '/', '[', ']']).filter(|step| !step.is_empty());
    steps.map(str::to_owned).collect()
}

fn below<'a>(schema: &'a Value, step: &str) -> Option<&'a Value> {
    let named = schema.get("properties").and_then(|properties| properties.get(step));
    let of_any = schema.get("additionalProperties").filter(|schema| schema.is_object());
    let is_item = step == ANY || step.parse::<usize>().is_ok();
    named.or(of_any).or_else(|| schema.get("items").filter(|_| is_item))
}

/// A schema without those of what is below it: they are asked for one by one.
fn shallow(schema: &Value) -> Value {
    let mut shallow = schema.clone();
    if let Some(fields) = shallow.as_object_mut() {
        for inner in ["properties", "additionalProperties", "items"] {
            if fields.get(inner).is_some_and(Value::is_object) {
                fields.remove(inner);
            }
        }
    }
    shallow
}

fn children(schema: &Value, steps: &[String]) -> Vec<Value> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let named = schema["properties"].as_object().into_iter().flatten();
    let named = named.map(|(name, schema)| (name.as_str(), schema));
    let any = ["additionalProperties", "items"].into_iter();
    let any = any.filter_map(|inner| schema.get(inner)).filter(|schema| schema.is_object());
    let child = |(name, schema): (&str, &Value)| {
        let steps: Vec<String> = steps.iter().cloned().chain([name.to_owned()]).collect();
        let has_children = ["properties", "additionalProperties", "items"];
        let mut child = json!({
            "key": name,
            "path": steps.join("."),
            "required": required.contains(&name),
            "hasChildren": has_children.iter().any(|inner| schema.get(inner).is_some_and(Value::is_object)),
        });
        if let Some(fields) = child.as_object_mut() {
            fields.extend(schema.get("type").map(|kind| ("type".to_owned(), kind.clone())));
            tell(fields, &steps);
        }
        child
    };
    named.chain(any.map(|schema| (ANY, schema))).map(child).collect()
}

/// Adds what the tables of the document say.
fn tell(fields: &mut Map<String, Value>, steps: &[String]) {
    let kind = rule_of(steps).map(|rule| match rule.counts {
        Counts::Now | Counts::NextProcess => "hot",
        Counts::NextStart => "restart",
    });
    fields.extend(kind.map(|kind| ("reloadKind".to_owned(), kind.into())));
    let is_of = |row: &schema::Row| {
        let names: Vec<&str> = row.key.split('.').collect();
        names.len() == steps.len()
            && names.iter().zip(steps).all(|(name, step)| *name == ANY_NAME || name == step)
    };
    if let Some(row) = schema::rows().find(is_of) {
        fields.insert("hint".into(), hint(row));
        fields.insert("hintPath".into(), row.key.replace(ANY_NAME, ANY).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Value {
        serde_json::from_slice(&lookup(path).unwrap()).unwrap()
    }

    /// A key is told with what it may be, when it counts and what it is for, however its path is written.
    #[test]
    fn keys_are_looked_up() {
        let port = found("gateway.port");
        assert_eq!((&port["schema"]["maximum"], &port["reloadKind"]), (&json!(65535), &json!("restart")));
        assert_eq!((&port["hintPath"], &port["children"]), (&json!("gateway.port"), &json!([])));
        let token = found("gateway/auth/token");
        assert_eq!((&token["hint"]["sensitive"], &token["reloadKind"]), (&json!(true), &json!("hot")));
        let agent = found("agents.entries.*");
        let child = |name: &str| {
            let children = agent["children"].as_array().unwrap();
            children.iter().find(|child| child["key"] == name).unwrap().clone()
        };
        assert_eq!(child("restart")["hasChildren"], json!(true));
        assert_eq!(child("spares")["path"], "agents.entries.*.spares");
        assert_eq!(child("spares")["hintPath"], "agents.entries.*.spares");
        assert_eq!(found("agents.entries.words.inFlightMax")["reloadKind"], "restart");
        assert_eq!(found("routing.rules[0].agent")["schema"]["type"], "string");
        assert_eq!(found("agents")["schema"].get("properties"), None);
        let error = lookup("gateway.prot").unwrap_err();
        assert_eq!(error.message, "config schema path not found: gateway.prot");
        assert_eq!(whole()["uiHints"]["agents.entries.*.environment"]["sensitive"], json!(true));
    }
}
