//! Settings of access: how clients prove who they are, and whose pages may connect.

use std::net::SocketAddr;

use adapters::access::secret::{SECRET_BYTES_MAX, Secret, TOKEN_CHARS_MIN};
use adapters::access::{AccessSettings, AuthMode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::path::KeyPath;

/// The most origins of pages.
const ORIGINS_MAX: usize = 64;
/// Variables that win over keys of the file, for who must not write secrets into files.
pub const SECRET_VARIABLES: [(&str, &str); 2] = [
    ("OPENCLAW_GATEWAY_TOKEN", "gateway.auth.token"),
    ("OPENCLAW_GATEWAY_PASSWORD", "gateway.auth.password"),
];

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileAuth {
    mode: Option<String>,
    token: Option<String>,
    password: Option<String>,
}

/// Secrets are not printed.
impl std::fmt::Debug for FileAuth {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileAuth").field("mode", &self.mode).finish_non_exhaustive()
    }
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FileControlUi {
    #[serde(default)]
    allowed_origins: Vec<String>,
}

/// A variable of the environment, if it is set.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Puts secrets of the environment in the place of those of the file.
pub(super) fn overlay(file: &mut Value, environment: Environment<'_>) {
    for (variable, key) in SECRET_VARIABLES {
        let Some(secret) = environment(variable) else { continue };
        let gateway = file.as_object_mut().map(|file| file.entry("gateway").or_insert_with(|| json!({})));
        let auth = gateway.and_then(Value::as_object_mut).map(|gateway| gateway.entry("auth"));
        let auth = auth.map(|auth| auth.or_insert_with(|| json!({})));
        let name = key.rsplit('.').next().unwrap_or_default();
        // Where a section is no object, that is told as what it is.
        if let Some(fields) = auth.and_then(Value::as_object_mut) {
            fields.insert(name.to_owned(), secret.into());
        }
    }
}

/// How clients prove who they are, checked.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// What they have to show.
    pub settings: AccessSettings,
    /// The same in plain text, for whoever has to show it.
    pub secret: Option<Secret>,
}

impl AuthConfig {
    /// The page of a gateway at this address, with the token in the fragment, which browsers keep to themselves.
    pub fn link(&self, address: SocketAddr) -> String {
        match &self.secret {
            Some(token) if self.settings.mode() == AuthMode::Token => {
                format!("http://{address}/#token={}", token.expose())
            }
            _ => format!("http://{address}/"),
        }
    }
}

/// How clients prove who they are. `None`, with lines in `broken`, if that would protect nothing.
pub(super) fn check(
    broken: &mut Vec<String>,
    file: FileAuth,
    environment: Environment<'_>,
) -> Option<AuthConfig> {
    let FileAuth { mode, token, password } = file;
    let before = broken.len();
    let token = token.and_then(|token| secret(broken, 0, token, environment));
    let password = password.and_then(|password| secret(broken, 1, password, environment));
    let missing = |key: &str, variable: &str, otherwise: &str| {
        format!("{key}: is missing; {otherwise}, or set {variable}")
    };
    let (mode, secret) = match mode.as_deref() {
        None | Some("token") => {
            if token.is_none() && broken.len() == before {
                broken.push(missing(
                    "gateway.auth.token",
                    SECRET_VARIABLES[0].0,
                    "write a new one into the file with `openclaw token rotate`",
                ));
            }
            (AuthMode::Token, token)
        }
        Some("password") => {
            if password.is_none() && broken.len() == before {
                broken.push(missing(
                    "gateway.auth.password",
                    SECRET_VARIABLES[1].0,
                    "write one with `openclaw config set gateway.auth.password -`",
                ));
            }
            (AuthMode::Password, password)
        }
        Some("none") => {
            if token.is_some() || password.is_some() {
                broken.push(
                    "gateway.auth.mode = \"none\": a token or password is set, in the file or in the environment, \
                     and would not be asked for; take it out, or choose another mode"
                        .into(),
                );
            }
            (AuthMode::None, None)
        }
        Some(other) => {
            broken.push(format!(
                "gateway.auth.mode = \"{other}\": must be \"token\", \"password\" or \"none\""
            ));
            return None;
        }
    };
    if broken.len() > before {
        return None;
    }
    // What it refuses is among the rules above.
    let settings = AccessSettings::new(mode, secret.clone()).ok()?;
    Some(AuthConfig { settings, secret })
}

/// A secret, checked. It is never told, only what is wrong with it.
fn secret(
    broken: &mut Vec<String>,
    index: usize,
    text: String,
    environment: Environment<'_>,
) -> Option<Secret> {
    let (variable, key) = SECRET_VARIABLES[index];
    let key = if environment(variable).is_some() { variable } else { key };
    let count = text.chars().count();
    let rule = if text.trim().is_empty() {
        "is blank".to_owned()
    } else if text.len() > SECRET_BYTES_MAX {
        format!("has {} bytes, at most {SECRET_BYTES_MAX} are possible", text.len())
    } else if index == 0 && !text.chars().all(is_bearer) {
        "has other characters than letters, digits, '-', '.', '_', '~', '+', '/' and '='".to_owned()
    } else if index == 0 && count < TOKEN_CHARS_MIN {
        format!(
            "has {count} characters, at least {TOKEN_CHARS_MIN} are needed; `openclaw token new` makes one"
        )
    } else {
        return Secret::new(text).ok();
    };
    broken.push(format!("{key}: {rule}"));
    None
}

/// What a bearer token consists of (RFC 6750, section 2.1): it has to go through headers.
fn is_bearer(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-._~+/=".contains(character)
}

/// The origins of pages, as browsers name them: `https://host` or `http://host:port`, in lower case.
pub(super) fn check_origins(broken: &mut Vec<String>, file: FileControlUi) -> Vec<String> {
    let key = "gateway.controlUi.allowedOrigins";
    let origins = file.allowed_origins;
    if origins.len() > ORIGINS_MAX {
        broken.push(format!("{key} has {} origins: at most {ORIGINS_MAX} are possible", origins.len()));
    }
    for (index, origin) in origins.iter().enumerate() {
        if !is_origin(origin) {
            broken.push(format!(
                "{key}[{index}] = \"{origin}\": must be an origin such as https://example.org or http://localhost:8080"
            ));
        }
    }
    origins
}

fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    // An IPv6 address has colons of its own.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let name = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.')
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    (name(host) || address.is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok()))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Whether a changed key is about access.
pub fn is_of_access(key: &str) -> bool {
    key.starts_with("gateway.auth.") || key == "gateway.auth"
}

/// The path of the token in a file.
pub fn token_path() -> KeyPath {
    KeyPath::parse(SECRET_VARIABLES[0].1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::document::Document;
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn checked(text: &str, variables: &[(&str, &str)]) -> Result<AuthConfig, Vec<String>> {
        let environment = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
        };
        let mut file = Document::parse(text).unwrap().0;
        overlay(&mut file, &environment);
        let auth = file.pointer("/gateway/auth").cloned().unwrap_or_else(|| json!({}));
        let mut broken = Vec::new();
        let settings = check(&mut broken, serde_json::from_value(auth).unwrap(), &environment);
        settings.filter(|_| broken.is_empty()).ok_or(broken)
    }

    /// A mode without its secret, a secret that nobody asks for, a blank and a short one are refused; none is told.
    #[test]
    fn access_fails_closed() {
        let refused = |text: &str, variables: &[(&str, &str)], rule: &str| {
            let broken = checked(text, variables).unwrap_err();
            assert_eq!(broken.len(), 1, "{broken:?}");
            assert!(broken[0].starts_with(rule), "{broken:?}");
            assert!(!broken[0].contains("0123"), "{broken:?}");
        };
        let short = "{gateway: {auth: {token: '0123456789abcdef0123456789abcde'}}}";
        refused("{}", &[], "gateway.auth.token: is missing");
        refused(short, &[], "gateway.auth.token: has 31 characters");
        refused("{gateway: {auth: {token: ' '}}}", &[], "gateway.auth.token: is blank");
        refused("{gateway: {auth: {token: '${TOKEN}'}}}", &[], "gateway.auth.token: has other characters");
        refused("{gateway: {auth: {mode: 'password'}}}", &[], "gateway.auth.password: is missing");
        refused(
            "{gateway: {auth: {mode: 'password', password: ''}}}",
            &[],
            "gateway.auth.password: is blank",
        );
        refused("{gateway: {auth: {mode: 'off'}}}", &[], "gateway.auth.mode = \"off\"");
        let none = "{gateway: {auth: {mode: 'none'}}}";
        refused(none, &[("OPENCLAW_GATEWAY_TOKEN", TOKEN)], "gateway.auth.mode = \"none\": a token");
        refused("{}", &[("OPENCLAW_GATEWAY_TOKEN", "")], "OPENCLAW_GATEWAY_TOKEN: is blank");
        refused("{}", &[("OPENCLAW_GATEWAY_PASSWORD", "p")], "gateway.auth.token: is missing");
        let long = format!("{{gateway: {{auth: {{token: '{}'}}}}}}", "a".repeat(SECRET_BYTES_MAX + 1));
        refused(&long, &[], "gateway.auth.token: has 1025 bytes");
    }

    /// Each mode with its secret, from the file or from the environment, which wins.
    #[test]
    fn each_mode_is_accepted() {
        let check = |text: &str, variables: &[(&str, &str)], mode: AuthMode| {
            let auth = checked(text, variables).unwrap();
            assert_eq!(
                (auth.settings.mode(), auth.secret.is_none()),
                (mode, mode == AuthMode::None),
                "{text}"
            );
            let link = auth.link(SocketAddr::from(([127, 0, 0, 1], 1)));
            let fragment = if mode == AuthMode::Token { format!("#token={TOKEN}") } else { String::new() };
            assert_eq!(link, format!("http://127.0.0.1:1/{fragment}"));
        };
        check(&format!("{{gateway: {{auth: {{token: '{TOKEN}'}}}}}}"), &[], AuthMode::Token);
        check("{}", &[("OPENCLAW_GATEWAY_TOKEN", TOKEN)], AuthMode::Token);
        check("{gateway: {auth: {token: 'short'}}}", &[("OPENCLAW_GATEWAY_TOKEN", TOKEN)], AuthMode::Token);
        check("{gateway: {auth: {mode: 'password', password: 'x'}}}", &[], AuthMode::Password);
        let variables = [("OPENCLAW_GATEWAY_PASSWORD", "x")];
        check("{gateway: {auth: {mode: 'password'}}}", &variables, AuthMode::Password);
        check("{gateway: {auth: {mode: 'none'}}}", &[], AuthMode::None);
    }

    /// An origin is scheme, host and perhaps port, and nothing more.
    #[test]
    fn origins_are_whole() {
        for fine in ["https://example.org", "http://localhost:8080", "http://[::1]:1", "http://127.0.0.1"] {
            assert!(is_origin(fine), "{fine}");
        }
        for wrong in [
            "*",
            "example.org",
            "https://",
            "https://x/",
            "https://X.org",
            "http://x:99999",
            "null",
            "https://*.org",
            "http://[x]",
            "https://a@b",
            "ws://x",
        ] {
            assert!(!is_origin(wrong), "{wrong}");
        }
    }
}
