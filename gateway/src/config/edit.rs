//! One change to the text of a configuration file: comments and layout stay, or nothing is changed.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstObjectProp, CstRootNode};
use jsonc_parser::errors::ParseError;
use serde_json::Value;

use super::document::Document;
use super::path::{KeyPath, Step};

/// What is to be changed.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// This value there, with all objects on the way.
    Set(KeyPath, Value),
    /// Nothing there any more.
    Unset(KeyPath),
}

/// Why a text is not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The text is no JSON5.
    #[error("the file cannot be read")]
    Read(#[from] json5::Error),
    /// Read, but not in a form that can be changed in its place.
    #[error("the file has a form that cannot be changed in its place; change it with an editor")]
    Form(#[source] ParseError),
    /// Nothing is there to be taken out.
    #[error("{path} is not set")]
    NotThere {
        /// Where.
        path: KeyPath,
    },
    /// The path goes through a value that is neither object nor list, or past the end of a list.
    #[error("{path} cannot be set: {at} has no such place")]
    NoPlace {
        /// Where.
        path: KeyPath,
        /// Up to where the path leads.
        at: KeyPath,
    },
    /// The changed text would say something else than what was wanted.
    #[error("{path} cannot be changed without changing something else; change it with an editor")]
    SideEffect {
        /// Where.
        path: KeyPath,
    },
}

/// The text with one change. What it says afterwards is compared with what it should say.
pub fn edit(text: &str, change: &Change) -> Result<String, EditError> {
    edit_all(text, std::slice::from_ref(change))
}

/// The text with these changes, one after the other. What it says afterwards is compared with what it should say.
pub fn edit_all(text: &str, changes: &[Change]) -> Result<String, EditError> {
    let Some(Change::Set(first, _) | Change::Unset(first)) = changes.first() else {
        return Ok(text.to_owned());
    };
    let Document(mut expected) = Document::parse(text)?;
    // Whatever of JSON5 the grammar has; nothing beyond it.
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    let parse = |text: &str| CstRootNode::parse(text, &options).map_err(EditError::Form);
    let mut root = parse(text)?;
    for change in changes {
        let done = match change {
            Change::Set(path, value) => {
                set_value(&mut expected, path, value)?;
                set(&root, path, value)
            }
            Change::Unset(path) => {
                unset_value(&mut expected, path)?;
                unset(&root, path)
            }
        };
        let (Change::Set(path, _) | Change::Unset(path)) = change;
        if done.ok_or_else(|| EditError::SideEffect { path: path.clone() })? == Done::Bare {
            // The tree takes a name without quotes for a text with them, and would fail to read it.
            root = parse(&root.to_string())?;
        }
    }
    let changed = root.to_string();
    if Document::parse(&changed).ok() != Some(Document(expected)) {
        return Err(EditError::SideEffect { path: first.clone() });
    }
    Ok(changed)
}

fn set_value(top: &mut Value, path: &KeyPath, value: &Value) -> Result<(), EditError> {
    let mut place = top;
    for (index, step) in path.0.iter().enumerate() {
        let at = || KeyPath(path.0[..index].to_vec());
        let no_place = || EditError::NoPlace { path: path.clone(), at: at() };
        place = match (step, place) {
            (Step::Key(name), Value::Object(fields)) => {
                // Lists are not made on the way.
                let next_is_key = matches!(path.0.get(index + 1), Some(Step::Key(_)));
                let new = || if next_is_key { Value::Object(serde_json::Map::new()) } else { Value::Null };
                fields.entry(name.clone()).or_insert_with(new)
            }
            (Step::Item(item), Value::Array(items)) if *item <= items.len() => {
                if *item == items.len() {
                    items.push(Value::Null);
                }
                &mut items[*item]
            }
            _ => return Err(no_place()),
        };
    }
    place.clone_from(value);
    Ok(())
}

fn unset_value(top: &mut Value, path: &KeyPath) -> Result<(), EditError> {
    let not_there = || EditError::NotThere { path: path.clone() };
    let (last, way) = path.0.split_last().ok_or_else(not_there)?;
    let place = way.iter().try_fold(top, |value, step| match step {
        Step::Key(name) => value.as_object_mut()?.get_mut(name),
        Step::Item(index) => value.as_array_mut()?.get_mut(*index),
    });
    let removed = match (last, place.ok_or_else(not_there)?) {
        (Step::Key(name), Value::Object(fields)) => fields.remove(name),
        (Step::Item(index), Value::Array(items)) if *index < items.len() => Some(items.remove(*index)),
        _ => None,
    };
    removed.map(|_| ()).ok_or_else(not_there)
}

/// What a change has left in the syntax tree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    /// Nothing but what the parser makes.
    Plain,
    /// Names without quotes that the parser has not seen.
    Bare,
}

/// The same in the syntax tree. `None`: it has no place for it.
fn set(root: &CstRootNode, path: &KeyPath, value: &Value) -> Option<Done> {
    let mut node = root.value()?;
    for (index, step) in path.0.iter().enumerate() {
        let rest = &path.0[index + 1..];
        match step {
            Step::Key(name) => {
                let object = node.as_object()?;
                let Some(property) = object.get(name) else {
                    let property = object.append(name, input(&nested(rest, value)?));
                    return if is_bare(root) {
                        bare(&property).map(|()| Done::Bare)
                    } else {
                        Some(Done::Plain)
                    };
                };
                if rest.is_empty() {
                    property.set_value(input(value));
                    return Some(Done::Plain);
                }
                node = property.value()?;
            }
            Step::Item(item) => {
                let list = node.as_array()?;
                let elements = list.elements();
                let Some(element) = elements.get(*item) else {
                    list.append(input(&nested(rest, value)?));
                    return Some(Done::Plain);
                };
                if rest.is_empty() {
                    return replace(element, input(value)).map(|()| Done::Plain);
                }
                node = element.clone();
            }
        }
    }
    None
}

/// A value below keys that are not there yet.
fn nested(keys: &[Step], value: &Value) -> Option<Value> {
    keys.iter().rev().try_fold(value.clone(), |value, step| match step {
        Step::Key(name) => Some(Value::Object(serde_json::Map::from_iter([(name.clone(), value)]))),
        Step::Item(_) => None,
    })
}

/// Puts a value in the place of an item of a list.
fn replace(element: &CstNode, value: CstInputValue) -> Option<()> {
    if let Some(object) = element.as_object() {
        object.replace_with(value);
    } else if let Some(list) = element.as_array() {
        list.replace_with(value);
    } else if let Some(text) = element.as_string_lit() {
        text.replace_with(value);
    } else if let Some(number) = element.as_number_lit() {
        number.replace_with(value);
    } else if let Some(truth) = element.as_boolean_lit() {
        truth.replace_with(value);
    } else {
        element.as_null_keyword()?.replace_with(value);
    }
    Some(())
}

fn unset(root: &CstRootNode, path: &KeyPath) -> Option<Done> {
    let mut node = root.value()?;
    let (last, way) = path.0.split_last()?;
    for step in way {
        node = match step {
            Step::Key(name) => node.as_object()?.get(name)?.value()?,
            Step::Item(item) => node.as_array()?.elements().get(*item)?.clone(),
        };
    }
    match last {
        Step::Key(name) => node.as_object()?.get(name)?.remove(),
        Step::Item(item) => node.as_array()?.elements().get(*item)?.clone().remove(),
    }
    Some(Done::Plain)
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(truth) => CstInputValue::Bool(*truth),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(fields) => {
            CstInputValue::Object(fields.iter().map(|(name, value)| (name.clone(), input(value))).collect())
        }
    }
}

/// Whether the file writes its keys without quotes.
fn is_bare(root: &CstRootNode) -> bool {
    let first = root.object_value().and_then(|object| object.properties().into_iter().next());
    first.is_some_and(|property| property.name().is_some_and(|name| name.as_word_lit().is_some()))
}

/// Writes the keys of something new without quotes, as those around it are, where JSON5 allows that.
fn bare(property: &CstObjectProp) -> Option<()> {
    let name = property.name()?;
    if let Some(literal) = name.as_string_lit() {
        let text = name.decoded_value().ok()?;
        let starts = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '$';
        if text.starts_with(starts) && text.chars().all(|c| starts(c) || c.is_ascii_digit()) {
            literal.set_raw_value(text);
        }
    }
    let below = |object: CstObject| object.properties().iter().try_for_each(bare);
    property.object_value().map_or(Some(()), below)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = "// Ours.\n{\n  gateway: {\n    port: 0x10, // Why: free.\n    /* twice */ 'host': '127.0.0.1',\n  },\n\
        \x20 \"agents\": {entries: {\n    // The one.\n    words: {command: ['a', 'b'],},\n  }},\n}\n// End.\n";

    fn set(path: &str, value: Value) -> Result<String, String> {
        let change = Change::Set(KeyPath::parse(path).unwrap(), value);
        edit(FILE, &change).map_err(|error| error.to_string())
    }

    fn unset(path: &str) -> Result<String, String> {
        edit(FILE, &Change::Unset(KeyPath::parse(path).unwrap())).map_err(|error| error.to_string())
    }

    /// A value is changed in its place; every other character stays.
    #[test]
    fn all_else_stays() {
        let check = |path: &str, value: Value, from: &str, to: &str| {
            assert_eq!(FILE.matches(from).count(), 1, "{from}");
            assert_eq!(set(path, value).unwrap(), FILE.replace(from, to), "{path}");
        };
        check("gateway.port", json!(17), "0x10", "17");
        check("gateway.host", json!("::1"), "'127.0.0.1'", "\"::1\"");
        check("agents.entries.words.command[1]", json!("c"), "'b'", "\"c\"");
        check("agents.entries.words.command[2]", json!("c"), "'b'", "'b', \"c\"");
        check("gateway.edgeThreads", json!(1), "'127.0.0.1',\n", "'127.0.0.1',\n    edgeThreads: 1,\n");
        check("engine.shards", json!(2), "  }},\n}", "  }},\n  engine: {\n    shards: 2,\n  },\n}");
    }

    /// What is taken out is gone, and its neighbours with their comments are not.
    #[test]
    fn what_is_taken_out_is_gone() {
        let without = unset("gateway.host").unwrap();
        assert!(without.contains("port: 0x10, // Why: free.\n") && !without.contains("host"), "{without}");
        let without = unset("agents.entries.words.command[0]").unwrap();
        assert_eq!(without, FILE.replace("'a', 'b'", " 'b'"));
        assert_eq!(unset("gateway.nothing").unwrap_err(), "gateway.nothing is not set");
        assert_eq!(unset("gateway[0]").unwrap_err(), "gateway[0] is not set");
    }

    /// No text that is JSON5 makes an edit panic, which would end the gateway: clients send such texts. By odd names and values, of
    /// which each is set, taken out, and has something new beside it.
    #[test]
    fn no_text_makes_an_edit_panic() {
        let names = [
            "a",
            "'a\\x62'",
            "\"\\u0061\"",
            "a\\u0062",
            "''",
            "'\"'",
            "\"'\"",
            "$_",
            "'\\\n'",
            "'\\0'",
            "ä",
            "'\\ud800'",
            "'//'",
        ];
        let values = [
            "1",
            "+.5",
            "0x1F",
            "-0",
            "'\\\r\n'",
            "'\\''",
            "[,]",
            "[1,/*x*/]",
            "{}",
            "{a:{b:[{}]}}",
            "null",
            "'\\u{1}'",
            "1e400",
        ];
        let mut edited = 0;
        for name in names {
            for value in values {
                for text in
                    [format!("{{{name}:{value}}}"), format!("//x\n{{ {name} : {value} , z: 1, }}/**/")]
                {
                    let Ok(Document(said)) = Document::parse(&text) else { continue };
                    let first = KeyPath::default().key(said.as_object().unwrap().keys().next().unwrap());
                    let new = Change::Set(KeyPath::default().key("new").key("x y"), json!({"a": [1]}));
                    let set = Change::Set(first.clone(), json!("'\"\\\n\u{0}"));
                    for changes in [
                        vec![set.clone()],
                        vec![new.clone(), set, new.clone()],
                        vec![new, Change::Unset(first)],
                    ] {
                        edited += usize::from(edit_all(&text, &changes).is_ok());
                    }
                }
            }
        }
        assert!(edited > 300, "{edited}");
    }

    /// Several changes are made one after the other, or none of them.
    #[test]
    fn changes_are_made_together() {
        let path = |text: &str| KeyPath::parse(text).unwrap();
        let (port, shards) = (path("gateway.port"), path("engine.shards"));
        let both = [Change::Set(port.clone(), json!(1)), Change::Set(shards.clone(), json!(2))];
        let one_by_one = edit(&edit(FILE, &both[0]).unwrap(), &both[1]).unwrap();
        assert_eq!(edit_all(FILE, &both).unwrap(), one_by_one);
        assert_eq!(edit_all(FILE, &[]).unwrap(), FILE);
        let undone = [Change::Set(shards.clone(), json!(2)), Change::Unset(path("engine"))];
        assert_eq!(Document::parse(&edit_all(FILE, &undone).unwrap()), Document::parse(FILE));
        let wrong = [Change::Set(port, json!(1)), Change::Unset(shards)];
        assert_eq!(edit_all(FILE, &wrong).unwrap_err().to_string(), "engine.shards is not set");
    }

    /// A path that leads nowhere is refused, and so is a text that is no JSON5, with the place.
    #[test]
    fn what_has_no_place_is_refused() {
        let no_place = |path: &str, at: &str| {
            let told = set(path, json!(1)).unwrap_err();
            assert_eq!(told, format!("{path} cannot be set: {at} has no such place"));
        };
        no_place("gateway.port.x", "gateway.port");
        no_place("agents.entries.words.command[3]", "agents.entries.words.command");
        no_place("gateway[0]", "gateway");
        no_place("routing.rules[0]", "routing.rules");
        let change = Change::Set(KeyPath::parse("a").unwrap(), json!(1));
        let error = edit("{\n  a: 1\n  b: 2\n}", &change).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("line 3 column 3"), "{error}: {cause}");
    }

    /// Every form of JSON5 survives an edit beside it.
    #[test]
    fn forms_of_json5_survive() {
        let odd = "\u{feff}{a: +1, 'b': .5, c: 5., d: 0xFF, e: 'x\\\ny', f: '\\x41\\v', $g: [,].length}";
        assert!(Document::parse(odd).is_err(), "no JSON5");
        let odd = "{a: +1, 'b': .5, c: 5., d: 0xFF, e: 'x\\\ny\\'', f: '\\x41\\v', $g: null, \"h\\u0041\": -1e3,\r\n\t_i: [1,]}";
        let change = Change::Set(KeyPath::parse("b").unwrap(), json!(0.25));
        assert_eq!(edit(odd, &change).unwrap(), odd.replace(".5", "0.25"));
        let quoted = "{\"a\": 1}";
        let change = Change::Set(KeyPath::parse("b").unwrap(), json!({"c": [1]}));
        let said = edit(quoted, &change).unwrap();
        assert!(said.contains("\"b\": ") && said.contains("\"c\": "), "{said}");
        let change = Change::Set(KeyPath::parse("b").unwrap(), json!(1));
        assert_eq!(Document::parse(&edit("{} // x", &change).unwrap()).unwrap().0, json!({"b": 1}));
    }
}
