//! Parameters of pages: `?limit=20&offset=40&sort=-restarts`. What a page does not know is refused by name.

/// Rows of a page unless told otherwise.
const LIMIT_DEFAULT: usize = 100;
/// The most rows of a page.
pub const LIMIT_MAX: usize = 1000;
/// Parameters of a request.
const PARAMETERS_MAX: usize = 8;

/// Why parameters cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    /// There are more than any page has.
    #[error("there are more than {PARAMETERS_MAX} parameters")]
    TooMany,
    /// No parameter of the page has this name.
    #[error("{name} is no parameter of this page; it has {known}")]
    Unknown {
        /// What was given.
        name: String,
        /// What could be.
        known: String,
    },
    /// A value is not what it should be.
    #[error("{name}={value}: must be {expected}")]
    Value {
        /// Of which parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it should be.
        expected: String,
    },
}

/// Parameters, not looked at yet.
#[derive(Debug)]
pub struct Query<'a>(Vec<(&'a str, &'a str)>);

/// Which rows are wanted, and in which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window<'a> {
    /// How many are passed over.
    pub offset: usize,
    /// How many at most.
    pub limit: usize,
    /// By what they are sorted, if not as they are.
    pub sort: Option<&'a str>,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl<'a> Query<'a> {
    /// What follows the question mark.
    pub fn parse(text: &'a str) -> Result<Self, Invalid> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<_> =
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).take(PARAMETERS_MAX + 1).collect();
        if pairs.len() > PARAMETERS_MAX { Err(Invalid::TooMany) } else { Ok(Self(pairs)) }
    }

    /// Refuses parameters that the page does not have.
    pub fn only(&self, known: &[&str]) -> Result<(), Invalid> {
        let Some((name, _)) = self.0.iter().find(|(name, _)| !known.contains(name)) else { return Ok(()) };
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Invalid::Unknown { name: (*name).to_owned(), known })
    }

    /// Which rows of a table with these columns; parameters of other names are refused.
    pub fn window(&self, columns: &[&str]) -> Result<Window<'a>, Invalid> {
        self.only(&["limit", "offset", "sort"])?;
        let offset = self.number("offset", 0, usize::MAX)?.unwrap_or(0);
        let limit = self.number("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
        let Some(sort) = self.value("sort") else {
            return Ok(Window { offset, limit, sort: None, descending: false });
        };
        let (descending, column) = sort.strip_prefix('-').map_or((false, sort), |column| (true, column));
        if !columns.contains(&column) {
            let expected = format!("one of {}, with a - before it for the largest first", columns.join(", "));
            return Err(Invalid::Value { name: "sort", value: sort.to_owned(), expected });
        }
        Ok(Window { offset, limit, sort: Some(column), descending })
    }

    /// The last one counts.
    pub fn value(&self, wanted: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(name, _)| *name == wanted).map(|&(_, value)| value)
    }

    fn number(&self, name: &'static str, min: usize, max: usize) -> Result<Option<usize>, Invalid> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let number = value.parse().ok().filter(|number| (min..=max).contains(number));
        let expected = || if max == usize::MAX { "a number".to_owned() } else { format!("{min} to {max}") };
        number.map(Some).ok_or_else(|| Invalid::Value { name, value: value.to_owned(), expected: expected() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters are read, have limits, and are refused by name. By one row per rule.
    #[test]
    fn parameters_are_checked() {
        let window = |text| Query::parse(text).and_then(|query| query.window(&["name", "restarts"]));
        let row = |offset, limit, sort, descending| Ok(Window { offset, limit, sort, descending });
        let refused = |text| window(text).map_err(|invalid| invalid.to_string()).unwrap_err();
        assert_eq!(window(""), row(0, 100, None, false));
        assert_eq!(window("limit=1&offset=7"), row(7, 1, None, false));
        assert_eq!(window("limit=1&&limit=1000"), row(0, 1000, None, false));
        assert_eq!(window("sort=name"), row(0, 100, Some("name"), false));
        assert_eq!(window("sort=-restarts"), row(0, 100, Some("restarts"), true));
        assert_eq!(refused("limit=0"), "limit=0: must be 1 to 1000");
        assert_eq!(refused("limit=1001"), "limit=1001: must be 1 to 1000");
        assert_eq!(refused("offset=-1"), "offset=-1: must be a number");
        assert_eq!(refused("offset"), "offset=: must be a number");
        assert_eq!(
            refused("sort=age"),
            "sort=age: must be one of name, restarts, with a - before it for the largest first"
        );
        assert_eq!(refused("page=1"), "page is no parameter of this page; it has limit, offset, sort");
        assert_eq!(refused("a&a&a&a&a&a&a&a&a"), "there are more than 8 parameters");
        let none = Query::parse("x=1").unwrap().only(&[]).unwrap_err().to_string();
        assert_eq!(none, "x is no parameter of this page; it has none");
    }
}
