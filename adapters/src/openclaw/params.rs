//! What the parameters of requests must be: closed objects with limits, refused in the words of the incumbent.
//!
//! The tables are in [`rules`]; a test compares them with the published schema.

pub mod rules;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::method::Method;

/// The most fields of an object; more than any method has.
pub const FIELDS_MAX: usize = 64;
/// The most faults that one error names.
const FAULTS_MAX: usize = 8;
/// How much of a name that a client made up is told back.
const NAME_CHARS_SHOWN: usize = 64;

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Any JSON.
    Any,
    /// `true` or `false`.
    Flag,
    /// `true`, `false` or this word.
    FlagOr(&'static str),
    /// A number.
    Number,
    /// An integer in this range.
    Whole {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// A string of so many characters.
    Text {
        /// The least.
        chars_min: usize,
        /// The most.
        chars_max: usize,
    },
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// An array.
    List {
        /// Of what.
        of: &'static Kind,
        /// The most.
        count_max: usize,
    },
    /// An object with any fields.
    Map,
    /// An object with these fields and no others.
    Object(&'static [Field]),
    /// Such a value, or null.
    Nullable(&'static Kind),
}

/// One field of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What its value must be.
    pub kind: Kind,
    /// How it is asked for.
    pub presence: Presence,
}

/// How a field is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// It may be absent.
    Optional,
    /// It must be there.
    Required,
    /// It may be absent, and only admins may set it.
    AdminOnly,
}

/// The fields of an object that satisfies its rules.
#[derive(Clone, Debug, Default)]
pub struct Params<'a> {
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> Params<'a> {
    /// Reads an object, or says what is wrong with it.
    pub fn read(json: &'a str, rules: &[Field]) -> Result<Self, String> {
        let mut faults = Faults::default();
        let params = Self::read_at(json, rules, "", &mut faults);
        match params {
            Some(params) if faults.sentences.is_empty() => Ok(params),
            _ => Err(faults.sentences.join("; ")),
        }
    }

    /// The parameters of a request. None at all are an empty object.
    pub fn of(method: Method, raw: Option<&'a RawValue>) -> Result<Self, String> {
        let json = raw.map_or("{}", RawValue::get);
        Self::read(json, rules::of(method))
            .map_err(|faults| format!("invalid {} params: {faults}", method.name()))
    }

    /// The fields of an object, each there once, not looked into yet.
    pub(super) fn parse(json: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// What is wrong with these fields, if anything.
    pub(super) fn check(&self, rules: &[Field]) -> Result<(), String> {
        let mut faults = Faults::default();
        self.check_at(rules, "", &mut faults);
        if faults.sentences.is_empty() { Ok(()) } else { Err(faults.sentences.join("; ")) }
    }

    fn read_at(json: &'a str, rules: &[Field], path: &str, faults: &mut Faults) -> Option<Self> {
        if !json.trim_ascii_start().starts_with('{') {
            faults.add(path, "must be object");
            return None;
        }
        match Self::parse(json) {
            Ok(params) => {
                params.check_at(rules, path, faults);
                Some(params)
            }
            Err(error) => {
                faults.add(path, &reason(&error));
                None
            }
        }
    }

    fn check_at(&self, rules: &[Field], path: &str, faults: &mut Faults) {
        for rule in rules.iter().filter(|rule| rule.presence == Presence::Required) {
            if self.raw(rule.name).is_none() {
                faults.add(path, &format!("must have required property '{}'", rule.name));
            }
        }
        for (name, value) in &self.fields {
            match rules.iter().find(|rule| rule.name == name) {
                Some(rule) => check(value, &rule.kind, &format!("{path}/{name}"), faults),
                None => faults.add_unexpected(path, name),
            }
        }
    }

    /// A field as it came.
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.iter().find(|(known, _)| known == name).map(|&(_, value)| value)
    }

    /// A field that is a string.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.raw(name).and_then(|raw| string(raw.get()))
    }

    /// A field that is a whole number from zero on.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.raw(name).and_then(|raw| raw.get().parse().ok())
    }

    /// A field that is `true`.
    pub fn is_true(&self, name: &str) -> bool {
        self.raw(name).is_some_and(|raw| raw.get() == "true")
    }

    /// A field that is an object which satisfies these rules.
    pub fn object(&self, name: &str, rules: &[Field]) -> Option<Self> {
        Params::read(self.raw(name)?.get(), rules).ok()
    }

    /// A field that is a list of strings.
    pub fn texts(&self, name: &str) -> Vec<Cow<'a, str>> {
        let raws: Option<Vec<&'a RawValue>> =
            self.raw(name).and_then(|raw| serde_json::from_str(raw.get()).ok());
        raws.unwrap_or_default().into_iter().filter_map(|raw| string(raw.get())).collect()
    }

    /// The first field that only admins may set.
    pub fn admin_only(&self, rules: &[Field]) -> Option<&'static str> {
        let mut admin_only = rules.iter().filter(|rule| rule.presence == Presence::AdminOnly);
        admin_only.find(|rule| self.raw(rule.name).is_some()).map(|rule| rule.name)
    }
}

/// What is wrong, as far as it is told.
#[derive(Default)]
struct Faults {
    sentences: Vec<String>,
}

impl Faults {
    fn add(&mut self, path: &str, what: &str) {
        if self.sentences.len() < FAULTS_MAX {
            let at = if path.is_empty() { String::new() } else { format!("at {path}: ") };
            self.sentences.push(format!("{at}{what}"));
        }
    }

    fn add_unexpected(&mut self, path: &str, name: &str) {
        if self.sentences.len() < FAULTS_MAX {
            let at = if path.is_empty() { "root" } else { path };
            let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
            self.sentences.push(format!("at {at}: unexpected property '{shown}'"));
        }
    }
}

fn check(value: &RawValue, kind: &Kind, path: &str, faults: &mut Faults) {
    let json = value.get();
    match *kind {
        Kind::Any => {}
        Kind::Nullable(kind) => {
            if json != "null" {
                check(value, kind, path, faults);
            }
        }
        Kind::Flag if json == "true" || json == "false" => {}
        Kind::Flag => faults.add(path, "must be boolean"),
        Kind::FlagOr(word) => {
            if json != "true" && json != "false" && string(json).is_none_or(|text| text != word) {
                faults.add(path, &format!("must be boolean or '{word}'"));
            }
        }
        Kind::Number if starts_number(json) => {}
        Kind::Number => faults.add(path, "must be number"),
        Kind::Whole { min, max } => check_whole(json, min, max, path, faults),
        Kind::Text { chars_min, chars_max } => check_text(json, chars_min, chars_max, path, faults),
        Kind::OneOf(words) => {
            if string(json).is_none_or(|text| !words.contains(&text.as_ref())) {
                faults.add(path, "must be equal to one of the allowed values");
            }
        }
        Kind::List { of, count_max } => check_list(json, of, count_max, path, faults),
        Kind::Map if json.starts_with('{') => {}
        Kind::Map => faults.add(path, "must be object"),
        Kind::Object(rules) => {
            Params::read_at(json, rules, path, faults);
        }
    }
}

fn check_whole(json: &str, min: i64, max: i64, path: &str, faults: &mut Faults) {
    match json.parse::<i64>() {
        Ok(number) if number < min => faults.add(path, &format!("must be >= {min}")),
        Ok(number) if number > max => faults.add(path, &format!("must be <= {max}")),
        Ok(_) => {}
        Err(_) => faults.add(path, "must be integer"),
    }
}

fn check_text(json: &str, chars_min: usize, chars_max: usize, path: &str, faults: &mut Faults) {
    let Some(text) = string(json) else { return faults.add(path, "must be string") };
    // A character has a byte at least, and four at most: most texts need no counting.
    let is_long_enough = text.len() >= chars_min.saturating_mul(4) || text.chars().count() >= chars_min;
    if !is_long_enough {
        faults.add(path, &format!("must NOT have fewer than {chars_min} characters"));
    }
    if text.len() > chars_max && text.chars().count() > chars_max {
        faults.add(path, &format!("must NOT have more than {chars_max} characters"));
    }
}

fn check_list(json: &str, of: &Kind, count_max: usize, path: &str, faults: &mut Faults) {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json) else {
        return faults.add(path, "must be array");
    };
    if items.len() > count_max {
        return faults.add(path, &format!("must NOT have more than {count_max} items"));
    }
    for (index, item) in items.iter().enumerate() {
        check(item, of, &format!("{path}/{index}"), faults);
    }
}

fn starts_number(json: &str) -> bool {
    json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

/// The string that a JSON value is. Borrowed where it holds no escape: the parser has checked the rest.
pub(super) fn string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        // Fails for an escape that names half a surrogate pair.
        return serde_json::from_str(json).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// Without the position: it would count from where the object begins, not the frame.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let sentence = error.to_string();
    sentence.split(" at line ").next().unwrap_or_default().to_owned()
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Params<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Params<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                use serde::de::Error;
                let mut fields: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(8);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    if fields.len() == FIELDS_MAX {
                        return Err(M::Error::custom(format_args!("more than {FIELDS_MAX} properties")));
                    }
                    if fields.iter().any(|(known, _)| *known == name) {
                        let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
                        return Err(M::Error::custom(format_args!("duplicate property '{shown}'")));
                    }
                    fields.push((name, value));
                }
                Ok(Params { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::rules::{COUNT, NAME, TEXT};
    use super::*;

    const fn field(name: &'static str, kind: Kind, presence: Presence) -> Field {
        Field { name, kind, presence }
    }

    const RULES: &[Field] = &[
        field("message", TEXT, Presence::Required),
        field("key", Kind::Text { chars_min: 1, chars_max: 3 }, Presence::Optional),
        field("limit", Kind::Whole { min: 1, max: 10 }, Presence::Optional),
        field("count", COUNT, Presence::Optional),
        field("width", Kind::Number, Presence::Optional),
        field("deliver", Kind::Flag, Presence::Optional),
        field("fast", Kind::FlagOr("auto"), Presence::Optional),
        field("mode", Kind::OneOf(&["a", "b"]), Presence::Optional),
        field("names", Kind::List { of: &NAME, count_max: 2 }, Presence::Optional),
        field("map", Kind::Map, Presence::Optional),
        field("label", Kind::Nullable(&NAME), Presence::Optional),
        field("cwd", NAME, Presence::AdminOnly),
        field("inner", Kind::Object(&[field("id", NAME, Presence::Required)]), Presence::Optional),
    ];

    /// Each rule refuses what breaks it, in the words of the incumbent, and takes what just does not. One row each: a
    /// field next to the required one, and the fault.
    #[test]
    fn each_rule_refuses_what_breaks_it() {
        let rows = [
            (r#""key":"abc""#, ""),
            (r#""key":"äöü""#, ""),
            (r#""key":"""#, "at /key: must NOT have fewer than 1 characters"),
            (r#""key":"abcd""#, "at /key: must NOT have more than 3 characters"),
            (r#""key":7"#, "at /key: must be string"),
            (r#""key":null"#, "at /key: must be string"),
            (r#""key":"\ud800""#, "at /key: must be string"),
            (r#""limit":1"#, ""),
            (r#""limit":10"#, ""),
            (r#""limit":0"#, "at /limit: must be >= 1"),
            (r#""limit":11"#, "at /limit: must be <= 10"),
            (r#""limit":1.5"#, "at /limit: must be integer"),
            (r#""limit":"1""#, "at /limit: must be integer"),
            (r#""count":9007199254740992"#, "at /count: must be <= 9007199254740991"),
            (r#""width":-1.5e3"#, ""),
            (r#""width":"1""#, "at /width: must be number"),
            (r#""deliver":true"#, ""),
            (r#""deliver":1"#, "at /deliver: must be boolean"),
            (r#""fast":"auto""#, ""),
            (r#""fast":"no""#, "at /fast: must be boolean or 'auto'"),
            (r#""mode":"b""#, ""),
            (r#""mode":"c""#, "at /mode: must be equal to one of the allowed values"),
            (r#""names":["a","b"]"#, ""),
            (r#""names":["a",""]"#, "at /names/1: must NOT have fewer than 1 characters"),
            (r#""names":["a","b","c"]"#, "at /names: must NOT have more than 2 items"),
            (r#""names":{}"#, "at /names: must be array"),
            (r#""map":{"x":[]}"#, ""),
            (r#""map":[]"#, "at /map: must be object"),
            (r#""label":null"#, ""),
            (r#""label":1"#, "at /label: must be string"),
            (r#""inner":{"id":"x"}"#, ""),
            (r#""inner":{}"#, "at /inner: must have required property 'id'"),
            (r#""inner":{"id":"x","y":1}"#, "at /inner: unexpected property 'y'"),
            (r#""inner":[]"#, "at /inner: must be object"),
            (r#""extra":1"#, "at root: unexpected property 'extra'"),
            (r#""key":"a","key":"b""#, "duplicate property 'key'"),
            (r#""key":"a","k\u0065y":"b""#, "duplicate property 'key'"),
            (r#""limit":0,"deliver":0"#, "at /limit: must be >= 1; at /deliver: must be boolean"),
        ];
        for (fields, expected) in rows {
            let json = format!(r#"{{"message":"hi",{fields}}}"#);
            let found = Params::read(&json, RULES).err().unwrap_or_default();
            assert_eq!(found, expected, "{json}");
        }
        assert_eq!(Params::read("{}", RULES).err().as_deref(), Some("must have required property 'message'"));
        for other in ["[]", "null", "7", "\"x\""] {
            assert_eq!(Params::read(other, RULES).err().as_deref(), Some("must be object"), "{other}");
        }
    }

    /// An object with more fields than any method has is refused before they are all held. By making one.
    #[test]
    fn objects_are_bounded() {
        let fields: Vec<String> = (0..=FIELDS_MAX).map(|number| format!(r#""f{number}":0"#)).collect();
        let found = Params::read(&format!("{{{}}}", fields.join(",")), RULES).err();
        assert_eq!(found.as_deref(), Some("more than 64 properties"));
        for &method in Method::ALL {
            assert!(rules::of(method).len() <= FIELDS_MAX, "{method:?}");
        }
    }

    /// Values come out as they went in, escapes resolved. By reading one of each kind.
    #[test]
    fn values_come_out() {
        let json = r#"{"message":"a\nb","limit":7,"deliver":true,"names":["x","\u0079"],"cwd":"/","inner":{"id":"i"}}"#;
        let params = Params::read(json, RULES).expect("valid");
        assert_eq!(params.text("message").as_deref(), Some("a\nb"));
        assert_eq!((params.count("limit"), params.count("absent")), (Some(7), None));
        assert!(params.is_true("deliver") && !params.is_true("fast"));
        assert_eq!(params.texts("names"), ["x", "y"]);
        assert_eq!(params.admin_only(RULES), Some("cwd"));
        let inner = params.object("inner", &[field("id", NAME, Presence::Required)]).expect("valid");
        assert_eq!(inner.text("id").as_deref(), Some("i"));
    }
}
