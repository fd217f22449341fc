//! The configuration file as one value: JSON5, each key once, every number finite.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// What stands in a file. Values of JSON, since no key has any other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document(pub Value);

impl Document {
    /// That of a file that is not there.
    pub fn empty() -> Self {
        Self(Value::Object(Map::new()))
    }

    /// Reads JSON5. The top has to be an object.
    pub fn parse(text: &str) -> Result<Self, json5::Error> {
        let document: Self = json5::from_str(text)?;
        if document.0.is_object() { Ok(document) } else { Err(Error::custom("the file is no object: {…}")) }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyValue).map(Self)
    }
}

/// Takes any value.
struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    /// A whole number is one however it is written: `1e3` is 1000.
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        /// Above it not every whole number has a form of its own.
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
            return Ok((value as i64).into());
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Document(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((name, Document(value))) = entries.next_entry::<String, Document>()? {
            if fields.insert(name.clone(), value).is_some() {
                return Err(A::Error::custom(format!("the key \"{name}\" is there twice")));
            }
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// All that JSON5 may say becomes JSON; what would be lost on the way is refused by name.
    #[test]
    fn json5_becomes_json() {
        let check = |text: &str, expected: Value| assert_eq!(Document::parse(text).unwrap().0, expected);
        check(
            "{a: 'x', \"b\": [1, -2, 0x10, 1.5, .5, 1e3, +4,], // c\n}",
            json!({"a": "x", "b": [1, -2, 16, 1.5, 0.5, 1000, 4]}),
        );
        check("{a: {b: null, c: true}}", json!({"a": {"b": null, "c": true}}));
        let refused = |text: &str, told: &str| {
            let error = Document::parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        };
        refused("{a: 1, a: 2}", "the key \"a\" is there twice");
        refused("{a: {b: 1, 'b': 1}}", "the key \"b\" is there twice");
        refused("{a: NaN}", "not finite");
        refused("{a: -Infinity}", "not finite");
        refused("[1]", "no object");
        refused("", "EOF");
    }
}
