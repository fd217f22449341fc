//! Lines of a log: which of them somebody wants to see, and how they look.

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::options::LevelChoice;

/// Which lines are wanted: those to which all of it applies.
#[derive(Debug)]
pub struct Wanted {
    terms: Vec<Term>,
    level: Option<LevelChoice>,
}

/// One condition.
#[derive(Debug, PartialEq, Eq)]
struct Term {
    is_negated: bool,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// The message or the subsystem has this in it, in whatever case.
    Word(String),
    /// A field, the level or the subsystem is this; of a subsystem, the modules in it too.
    Field(String, String),
}

impl Term {
    fn of(text: &str) -> Self {
        let (is_negated, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let what = match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => What::Field(name.to_owned(), value.to_owned()),
            _ => What::Word(text.to_lowercase()),
        };
        Self { is_negated, what }
    }

    fn holds(&self, line: &Line<'_>) -> bool {
        let found = match &self.what {
            What::Word(word) => {
                line.text("message").to_lowercase().contains(word)
                    || line.text("subsystem").to_lowercase().contains(word)
            }
            What::Field(name, value) => match name.as_str() {
                "subsystem" => {
                    let rest = line.text("subsystem").strip_prefix(value.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                }
                "level" | "time" => line.text(name).eq_ignore_ascii_case(value),
                _ => line.field(name).is_some_and(|found| found == *value),
            },
        };
        found != self.is_negated
    }
}

impl Wanted {
    /// By expressions, which are terms with white space between them, and the least level.
    pub fn of(expressions: &[String], level: Option<LevelChoice>) -> Self {
        let terms = expressions.iter().flat_map(|expression| expression.split_whitespace()).map(Term::of);
        Self { terms: terms.collect(), level }
    }

    /// Whether a line is.
    pub fn has(&self, raw: &str) -> bool {
        let line = Line::of(raw);
        // What is not known to be harmless is shown.
        let level = LevelChoice::from_str(line.text("level"), true).unwrap_or(LevelChoice::Error);
        self.level.is_none_or(|least| level <= least) && self.terms.iter().all(|term| term.holds(&line))
    }
}

/// A line, and what it says if it is one of a gateway.
struct Line<'a> {
    raw: &'a str,
    said: Option<Map<String, Value>>,
}

impl<'a> Line<'a> {
    fn of(raw: &'a str) -> Self {
        Self { raw, said: serde_json::from_str(raw).ok() }
    }

    /// A part of it; of a line that is no object, all of it is the message.
    fn text(&self, name: &str) -> &str {
        match &self.said {
            Some(said) => said.get(name).and_then(Value::as_str).unwrap_or_default(),
            None if name == "message" => self.raw,
            None => "",
        }
    }

    fn field(&self, name: &str) -> Option<String> {
        let value = self.said.as_ref()?.get("fields")?.get(name)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }
}

/// A line for people: time, level, subsystem and message.
pub fn text(raw: &str, is_coloured: bool) -> String {
    let line = Line::of(raw);
    if line.said.is_none() {
        return raw.to_owned();
    }
    let [time, level, subsystem, message] =
        ["time", "level", "subsystem", "message"].map(|name| line.text(name));
    let name = format!("{:>5}", level.to_uppercase());
    if !is_coloured {
        return format!("{time} {name} {subsystem}: {message}");
    }
    let colour = match level {
        "error" => 31,
        "warn" => 33,
        "info" => 32,
        _ => 34,
    };
    format!("\x1b[2m{time}\x1b[0m \x1b[{colour}m{name}\x1b[0m \x1b[2m{subsystem}:\x1b[0m {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-01-02T03:04:05.000006Z","level":"warn","subsystem":"gateway::log",
        "message":"An agent ended agent=words tries=3","fields":{"agent":"words","tries":3}}"#;

    /// All terms have to hold, each by its own rule. One row each.
    #[test]
    fn lines_are_chosen() {
        let rows = [
            ("", true),
            ("ended", true),
            ("ENDED agent", true),
            ("began", false),
            ("!began ended", true),
            ("!ended", false),
            ("agent=words", true),
            ("agent=word", false),
            ("tries=3", true),
            ("tries=4", false),
            ("nothing=3", false),
            ("!nothing=3", true),
            ("subsystem=gateway", true),
            ("subsystem=gateway::log", true),
            ("subsystem=gate", false),
            ("level=WARN", true),
            ("level=error", false),
            ("=3", true),
        ];
        for (expression, expected) in rows {
            assert_eq!(Wanted::of(&[expression.to_owned()], None).has(LINE), expected, "{expression}");
        }
        for (level, expected) in
            [(LevelChoice::Error, false), (LevelChoice::Warn, true), (LevelChoice::Trace, true)]
        {
            assert_eq!(Wanted::of(&[], Some(level)).has(LINE), expected, "{level:?}");
        }
        let two = ["agent=words".to_owned(), "began".to_owned()];
        assert!(!Wanted::of(&two, None).has(LINE));
        assert!(Wanted::of(&["panic".to_owned()], Some(LevelChoice::Error)).has("thread panicked"));
    }

    /// A line for people has no colours unless they are wanted, and what is no object stays as it is.
    #[test]
    fn lines_are_shown() {
        let plain = text(LINE, false);
        assert_eq!(
            plain,
            "2026-01-02T03:04:05.000006Z  WARN gateway::log: An agent ended agent=words tries=3"
        );
        assert!(text(LINE, true).contains("\x1b[33m WARN\x1b[0m"));
        assert_eq!(text("thread panicked", true), "thread panicked");
    }
}
