//! Paths of keys: how `agents.entries.words.command[0]` is written, and what stands there.

use std::fmt;

use serde_json::Value;

/// One step down.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Step {
    /// To a key of an object.
    Key(String),
    /// To an item of a list.
    Item(usize),
}

/// The way from the top of a file to a value. Keys with other characters than letters, digits, `-`, `_` and `$` stand in
/// brackets: `agents.entries["a.b"]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct KeyPath(pub Vec<Step>);

/// A path that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "\"{text}\" is no path of a key; it looks like gateway.port, routing.rules[0] or agents.entries[\"a.b\"]"
)]
pub struct PathError {
    /// As given.
    text: String,
}

impl KeyPath {
    /// Reads a path.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        Self::steps(text)
            .filter(|steps| !steps.is_empty())
            .map(Self)
            .ok_or(PathError { text: text.to_owned() })
    }

    fn steps(text: &str) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(bracket) = rest.strip_prefix('[') {
                let step;
                (step, rest) = if bracket.starts_with('"') {
                    let mut strings = serde_json::Deserializer::from_str(bracket).into_iter::<String>();
                    let name = strings.next()?.ok()?;
                    (Step::Key(name), &bracket[strings.byte_offset()..])
                } else {
                    let end = bracket.find(']')?;
                    (Step::Item(bracket[..end].parse().ok()?), &bracket[end..])
                };
                steps.push(step);
                rest = rest.strip_prefix(']')?;
                continue;
            }
            if !steps.is_empty() {
                rest = rest.strip_prefix('.')?;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let name = &rest[..end];
            if name.is_empty() {
                return None;
            }
            steps.push(Step::Key(name.to_owned()));
            rest = &rest[end..];
        }
        Some(steps)
    }

    /// This path and one key more.
    pub fn key(&self, name: &str) -> Self {
        self.with(Step::Key(name.to_owned()))
    }

    /// This path and one item more.
    pub fn item(&self, index: usize) -> Self {
        self.with(Step::Item(index))
    }

    fn with(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// What stands there.
    pub fn find<'a>(&self, top: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(top, |value, step| match step {
            Step::Key(name) => value.as_object()?.get(name),
            Step::Item(index) => value.as_array()?.get(*index),
        })
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_$~<>".contains(c))
        };
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if plain(name) && index == 0 => write!(formatter, "{name}")?,
                Step::Key(name) if plain(name) => write!(formatter, ".{name}")?,
                Step::Key(name) => write!(formatter, "[{}]", Value::from(name.as_str()))?,
                Step::Item(index) => write!(formatter, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is written is read back the same; what is no path is refused.
    #[test]
    fn paths_are_read_as_they_are_written() {
        let key = |name: &str| Step::Key(name.to_owned());
        let check = |text: &str, steps: &[Step]| {
            let path = KeyPath::parse(text).unwrap();
            assert_eq!((path.0.as_slice(), path.to_string().as_str()), (steps, text));
        };
        check("gateway.port", &[key("gateway"), key("port")]);
        check("routing.rules[10].agent", &[key("routing"), key("rules"), Step::Item(10), key("agent")]);
        check(
            "agents.entries[\"a.b\"].command",
            &[key("agents"), key("entries"), key("a.b"), key("command")],
        );
        check("[\"a]\\\"b\"].c", &[key("a]\"b"), key("c")]);
        for text in ["", ".", "a.", ".a", "a..b", "a[", "a[x]", "a[-1]", "a[\"b]", "a[0", "a[\"b\"c"] {
            assert_eq!(KeyPath::parse(text), Err(PathError { text: text.to_owned() }), "{text}");
        }
    }

    /// A path finds what is there, and nothing where a step is missing or of another kind.
    #[test]
    fn paths_find_values() {
        let top = json!({"a": {"b": [1, {"c": 2}]}});
        let check = |text: &str, found: Option<Value>| {
            assert_eq!(KeyPath::parse(text).unwrap().find(&top).cloned(), found, "{text}");
        };
        check("a.b[1].c", Some(json!(2)));
        check("a.b[2]", None);
        check("a[0]", None);
        check("a.b.c", None);
    }
}
