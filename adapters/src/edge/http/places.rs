//! What is found at which path, who may ask, and by which methods. The same table is in `docs/http.md`.

use hyper::Method;

use crate::edge::pages::PageName;
use crate::refusal::HttpRefusal;

/// The methods of what is read.
const READ: &str = "GET, HEAD, OPTIONS";
/// The methods of what is asked.
const ASKED: &str = "POST, OPTIONS";
/// One model stands behind this.
const MODELS: &str = "/v1/models/";
/// Names of parameters in which people put secrets.
const SECRETS: [&str; 9] =
    ["token", "access_token", "api_key", "apikey", "key", "auth", "authorization", "password", "secret"];

/// What is found at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'a> {
    /// A page for people; an upgrade is served too.
    Chat,
    /// What test suites of WebSocket connect to.
    Echo,
    /// How the gateway is.
    Health,
    /// Whether the process runs.
    Live,
    /// Whether the gateway has started.
    Started,
    /// Whether it takes messages.
    Ready,
    /// What the gateway makes.
    Page(PageName),
    /// One model, by its name as it came.
    Model(&'a str),
    /// Requests that an agent answers.
    Completions,
}

impl<'a> Place<'a> {
    /// What is at this path, where completions are served or not.
    pub fn at(path: &'a str, completions: bool) -> Result<Self, HttpRefusal> {
        if path.starts_with("/v1/") && !completions {
            return Err(HttpRefusal::NotFound);
        }
        Ok(match path {
            "/" => Self::Chat,
            "/echo" => Self::Echo,
            "/health" => Self::Health,
            "/healthz" => Self::Live,
            "/startup" | "/startupz" => Self::Started,
            "/ready" | "/readyz" => Self::Ready,
            "/v1/chat/completions" => Self::Completions,
            _ => match path.strip_prefix(MODELS).filter(|model| !model.is_empty()) {
                Some(model) => Self::Model(model),
                None => PageName::at(path).map(Self::Page).ok_or(HttpRefusal::NotFound)?,
            },
        })
    }

    /// The methods that it answers.
    pub fn methods(self) -> &'static str {
        if self == Self::Completions { ASKED } else { READ }
    }

    /// Refuses a method that is not among them.
    pub fn check_method(self, method: &Method) -> Result<Self, HttpRefusal> {
        let allowed = self.methods();
        let is_allowed = allowed.split(", ").any(|name| name == method.as_str());
        if is_allowed { Ok(self) } else { Err(HttpRefusal::MethodNotAllowed { allowed }) }
    }
}

/// Refuses a query that has a parameter named as secrets are, in whatever spelling.
pub fn check_query(query: Option<&str>) -> Result<(), HttpRefusal> {
    let mut names =
        query.unwrap_or_default().split(['&', ';']).map(|pair| pair.split('=').next().unwrap_or_default());
    let is_secret = |name: &str| SECRETS.contains(&plain(name).as_str());
    if names.any(is_secret) { Err(HttpRefusal::SecretInAddress) } else { Ok(()) }
}

/// A name in lower case, with `_` for `-`, and without its percent signs.
fn plain(name: &str) -> String {
    let mut bytes = name.bytes();
    let mut plain = String::new();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or(byte)
            }
            b'-' => b'_',
            byte => byte,
        };
        plain.push(char::from(byte).to_ascii_lowercase());
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Secrets in the query are seen in whatever spelling, and other parameters are not taken for them.
    #[test]
    fn secrets_in_the_query_are_seen() {
        for query in
            ["token=x", "a=1&TOKEN=x", "token", "%74oken=x", "api-key=x", "access_token=", "a;password=x"]
        {
            assert_eq!(check_query(Some(query)), Err(HttpRefusal::SecretInAddress), "{query}");
        }
        for query in ["", "limit=1&sort=-token", "tokens=1", "x=token", "%", "%7"] {
            assert_eq!(check_query(Some(query)), Ok(()), "{query}");
        }
        assert_eq!(check_query(None), Ok(()));
    }

    /// What is off is not there, and what is there names its methods.
    #[test]
    fn places_have_methods() {
        for (path, completions, expected) in [
            ("/", false, Some(READ)),
            ("/connz", false, Some(READ)),
            ("/v1/models", true, Some(READ)),
            ("/v1/models/openclaw/main", true, Some(READ)),
            ("/v1/chat/completions", true, Some(ASKED)),
            ("/v1/models", false, None),
            ("/v1/models/x", false, None),
            ("/v1/chat/completions", false, None),
            ("/v1/models/", true, None),
            ("/healthz/", false, None),
        ] {
            assert_eq!(Place::at(path, completions).ok().map(Place::methods), expected, "{path}");
        }
        let refused = Place::Completions.check_method(&Method::GET);
        assert_eq!(refused, Err(HttpRefusal::MethodNotAllowed { allowed: ASKED }));
        assert!(Place::Live.check_method(&Method::HEAD).is_ok());
    }
}
