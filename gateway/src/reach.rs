//! How a command of this program reaches a gateway as a client does: where it is, and what is shown to it.

use std::net::{IpAddr, SocketAddr};

use adapters::access::AuthMode;
use adapters::client::openclaw::Secret;

use crate::ask;
use crate::config::auth::SECRET_VARIABLES;
use crate::config::{self, Config, file, variable};
use crate::options::{FilePlace, Place, Reach};
use crate::state_directory;

/// Where a gateway is looked for if nothing says where.
const URL_DEFAULT: &str = "ws://127.0.0.1:18789";

/// A gateway, and what is shown to it.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Its address.
    pub url: String,
    /// Token or password.
    pub secret: Option<Secret>,
}

/// Why nothing is sent there.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// Whatever is sent would be read on the way.
    #[error(
        "nothing is sent to {url}, which is not on this machine, in plain text; reach it through a tunnel, or give \
         --allow-plain-text if everybody on the way may read it"
    )]
    PlainText {
        /// Where to.
        url: String,
    },
    /// There is no TLS yet.
    #[error("{url} needs TLS, which this program does not speak yet; reach it through a tunnel")]
    Tls {
        /// Where to.
        url: String,
    },
}

/// Where the gateway is: as given, or that of the gateway that runs in the state directory, or that of its configuration.
pub fn url(given: Option<&str>, place: &FilePlace) -> String {
    if let Some(given) = given {
        return given.to_owned();
    }
    let configured = || configured(place).map(|address| format!("ws://{address}"));
    let running = running(place).map(|address| format!("ws://{address}"));
    running.or_else(configured).unwrap_or_else(|| URL_DEFAULT.to_owned())
}

/// As [`url`], and what is shown there. The secret of a configuration is shown only to the gateway that answers on the
/// socket of its state directory, which is its owner's: another program that listens on the port gets nothing.
pub fn reach(options: &Reach) -> Result<Reached, ReachError> {
    let reached = found(options, None);
    let Reached { url, .. } = &reached;
    if url.starts_with("wss://") || url.starts_with("https://") {
        return Err(ReachError::Tls { url: url.clone() });
    }
    // What is no address at all is refused as that later.
    if !is_here(url) && !authority(url).is_empty() && !options.allow_plain_text {
        return Err(ReachError::PlainText { url: url.clone() });
    }
    Ok(reached)
}

/// As [`reach`], to look only: without a secret, nothing that anybody may not read is sent.
pub fn look(options: &Reach) -> Result<Reached, ReachError> {
    match found(options, None) {
        reached @ Reached { secret: None, .. } => Ok(reached),
        _ => reach(options),
    }
}

/// The same gateway once more. One that has started meanwhile in the state directory may listen elsewhere and want another
/// secret; while none runs there, it is looked for where it was: another gateway must not be taken for it.
pub fn again(options: &Reach, before: &Reached) -> Reached {
    found(options, Some(before))
}

fn found(options: &Reach, before: Option<&Reached>) -> Reached {
    let running = running(&options.place);
    if let (Some(before), None) = (before, running) {
        return before.clone();
    }
    let url = match (&options.url, running) {
        (None, Some(address)) => format!("ws://{address}"),
        (given, _) => url(given.as_deref(), &options.place),
    };
    let secret = given_secret(options)
        .or_else(|| if is_at(&url, running?) { secret_of(&options.place) } else { None });
    Reached { url, secret }
}

/// What the command line says, else the environment. An empty one shows nothing.
fn given_secret(options: &Reach) -> Option<Secret> {
    let [token, password] = SECRET_VARIABLES.map(|(name, _)| name);
    let given = |secret: Option<String>| secret.filter(|secret| !secret.is_empty());
    let of_flags = given(options.token.clone()).map(Secret::Token);
    of_flags
        .or_else(|| given(options.password.clone()).map(Secret::Password))
        .or_else(|| given(variable(token)).map(Secret::Token))
        .or_else(|| given(variable(password)).map(Secret::Password))
}

/// Where the gateway of a configuration would listen. One that takes a free port says nothing.
fn configured(place: &FilePlace) -> Option<SocketAddr> {
    let directory = state_directory::chosen(place.state_dir.as_deref())?;
    if !file::path(place.config.as_deref(), &directory).exists() {
        return None;
    }
    let address = config::load_at(place).ok()?.address;
    (address.port() != 0).then_some(address)
}

/// Where the gateway of a state directory listens, if one runs.
pub fn running(place: &FilePlace) -> Option<SocketAddr> {
    let place = Place { state_dir: place.state_dir.clone() };
    // Whatever is wrong with it, the client will meet it again.
    ask::gateway_status(&place).ok()?.listener.parse().ok()
}

/// Host and port of a URL.
fn authority(url: &str) -> &str {
    let rest = url.strip_prefix("ws://").or_else(|| url.strip_prefix("http://")).unwrap_or_default();
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Whether a URL leads to this machine.
fn is_here(url: &str) -> bool {
    let authority = authority(url);
    // An address of version 6 stands in brackets, and has colons of its own.
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a URL names this address, or this machine with its port.
fn is_at(url: &str, address: SocketAddr) -> bool {
    let authority = authority(url);
    match authority.strip_prefix("localhost:") {
        Some(port) => address.ip().is_loopback() && port.parse() == Ok(address.port()),
        None => authority.parse() == Ok(address),
    }
}

fn secret_of(place: &FilePlace) -> Option<Secret> {
    // A configuration that cannot be used has no secret to show; the gateway then says that one is needed.
    let Config { auth, .. } = config::load_at(place).ok()?;
    let is_password = auth.settings.mode() == AuthMode::Password;
    let shown = if is_password { Secret::Password } else { Secret::Token };
    auth.secret.map(|secret| shown(secret.expose().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only the address itself, or this machine's name with its port, is that of the gateway.
    #[test]
    fn the_address_decides() {
        let address = SocketAddr::from(([127, 0, 0, 1], 18789));
        for same in ["ws://127.0.0.1:18789", "ws://127.0.0.1:18789/", "http://localhost:18789/x"] {
            assert!(is_at(same, address), "{same}");
        }
        for other in [
            "ws://127.0.0.1:18790",
            "ws://127.0.0.1:187890",
            "ws://127.0.0.1",
            "ws://localhost",
            "ws://localhost:18789.example.org",
            "ws://127.0.0.1:18789@example.org",
            "ws://user@127.0.0.1:18789",
            "wss://127.0.0.1:18789",
            "ws://example.org:18789",
            "",
        ] {
            assert!(!is_at(other, address), "{other}");
        }
        for here in ["ws://127.0.0.1", "ws://127.1.2.3:5", "http://localhost:1", "ws://[::1]:1", "ws://[::1]"]
        {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in
            ["ws://127.0.0.1.example.org", "ws://10.0.0.1:1", "ws://localhost@x:1", "wss://localhost", "x"]
        {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
        assert!(is_at("ws://[::1]:1", SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 1))));
    }
}
