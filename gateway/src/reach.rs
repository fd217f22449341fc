//! How a command of this program reaches a gateway as a client does: where it is, and what is shown to it.

use std::net::{IpAddr, SocketAddr};

use crate::ask;
use crate::config::auth::SECRET_VARIABLES;
use crate::config::{self, Config, variable};
use crate::options::{FilePlace, Place, Reach};

/// Where a gateway is looked for if nothing says where.
const URL_DEFAULT: &str = "ws://127.0.0.1:18789";

/// A gateway, and what is shown to it.
#[derive(Debug)]
pub struct Reached {
    /// Its address.
    pub url: String,
    /// Token or password.
    pub secret: Option<String>,
}

/// Where the gateway is: as given, or that of the gateway that runs in the state directory.
pub fn url(given: Option<&str>, place: &FilePlace) -> String {
    given.map(str::to_owned).unwrap_or_else(|| {
        running(place).map_or_else(|| URL_DEFAULT.to_owned(), |address| format!("ws://{address}"))
    })
}

/// What would be shown would be read on the way.
#[derive(Debug, thiserror::Error)]
#[error(
    "no token or password is sent to {url}, which is not on this machine, in plain text; reach it through a tunnel"
)]
pub struct PlainText {
    /// Where to.
    url: String,
}

/// As [`url`], and what is shown there. The secret of a configuration is shown only to the gateway that answers on the
/// socket of its state directory, which is its owner's: another program that listens on the port gets nothing.
pub fn reach(options: &Reach) -> Result<Reached, PlainText> {
    let url = url(options.url.as_deref(), &options.place);
    // An empty one shows nothing, as a variable that is set to nothing does.
    let given = options.token.clone().or_else(|| variable(SECRET_VARIABLES[1].0));
    let given = given.filter(|secret| !secret.is_empty());
    let secret = given.or_else(|| {
        let address = running(&options.place)?;
        if is_at(&url, address) { secret_of(&options.place) } else { None }
    });
    if secret.is_some() && !is_here(&url) {
        return Err(PlainText { url });
    }
    Ok(Reached { url, secret })
}

/// Where the gateway of a state directory listens, if one runs.
fn running(place: &FilePlace) -> Option<SocketAddr> {
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

fn secret_of(place: &FilePlace) -> Option<String> {
    // A configuration that cannot be used has no secret to show; the gateway then says that one is needed.
    let Config { auth, .. } = config::load_at(place).ok()?;
    auth.secret.map(|secret| secret.expose().to_owned())
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
