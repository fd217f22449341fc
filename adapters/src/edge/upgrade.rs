//! Who comes in by an upgrade request: what RFC 6455 asks for, and what the client shows of itself.
//!
//! Credentials are `Authorization: Bearer SECRET` or, for pages in a browser that cannot set headers, the
//! sub-protocols `openclaw.v1, bearer.SECRET`, of which only the first is echoed. They are never looked for in
//! the address, which ends up in logs.

use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, FORWARDED, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, VIA,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Phase;
use super::admission::{Limits, Places};
use super::client::Entrance;
use super::state::{Edge, unix_ms};
use crate::access::{AuthRefusal, Identity, Peer};
use crate::refusal::HttpRefusal;

/// The sub-protocol of all dialects.
const PROTOCOL: &str = "openclaw.v1";
/// What stands before a secret among the sub-protocols.
const BEARER_PROTOCOL: &str = "bearer.";
/// What stands before a secret in `Authorization`.
const BEARER: &str = "bearer ";
/// Headers by which proxies tell of themselves.
const PROXY_HEADERS: [HeaderName; 7] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// A request that is granted.
#[derive(Debug)]
pub struct Upgrade {
    /// What the client is answered.
    pub response: Response<Full<Bytes>>,
    /// How it comes in.
    pub entrance: Entrance,
}

/// Grants or refuses an upgrade.
pub fn check(edge: &Edge, request: &Request<Incoming>, source: IpAddr) -> Result<Upgrade, HttpRefusal> {
    let accept = check_form(request)?;
    check_room(edge)?;
    let headers = request.headers();
    let offers_protocol = has_token(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    let shown = shown(headers);
    let peer = peer_of(headers, source);
    let identity = identify(edge, shown, &peer)?;
    let wants_greeting = identity.is_some() && (shown.is_some() || offers_protocol);
    let place = match identity {
        Some(_) => None,
        None => {
            let limits = Limits {
                per_source: edge.options.unauthenticated_per_source_max,
                total: edge.options.unauthenticated_max,
            };
            let place = Places::take(&edge.shared.places, source, limits);
            Some(place.ok_or(HttpRefusal::TooManyUnauthenticated)?)
        }
    };
    let entrance = Entrance { peer, identity, place, wants_greeting, is_request: false };
    Ok(Upgrade { response: switching(accept, offers_protocol), entrance })
}

/// Lets in a request that is answered by an agent, or refuses it.
pub fn admit(edge: &Edge, headers: &HeaderMap, source: IpAddr) -> Result<Entrance, HttpRefusal> {
    let peer = peer_of(headers, source);
    let identity = identify(edge, shown(headers), &peer)?.ok_or(HttpRefusal::Unauthorized)?;
    check_room(edge)?;
    let (identity, place, wants_greeting) = (Some(identity), None, false);
    Ok(Entrance { peer, identity, place, wants_greeting, is_request: true })
}

/// Whether one connection more is served.
fn check_room(edge: &Edge) -> Result<(), HttpRefusal> {
    if edge.phase() != Phase::Running {
        return Err(HttpRefusal::ShuttingDown);
    }
    if edge.shared.sum(|stats| &stats.connections) >= edge.options.connections_max {
        return Err(HttpRefusal::TooManyConnections);
    }
    Ok(())
}

/// Grants or refuses an upgrade to who wants back what it sends.
pub fn check_echo(
    edge: &Edge,
    request: &Request<Incoming>,
    source: IpAddr,
) -> Result<Response<Full<Bytes>>, HttpRefusal> {
    if !edge.options.echoes {
        return Err(HttpRefusal::NotFound);
    }
    let accept = check_form(request)?;
    if edge.phase() != Phase::Running {
        return Err(HttpRefusal::ShuttingDown);
    }
    authenticate(edge, request.headers(), source)?;
    Ok(switching(accept, false))
}

/// Where a request comes from. What its headers say of that is believed only where it takes something away.
fn peer_of(headers: &HeaderMap, source: IpAddr) -> Peer {
    Peer {
        source,
        is_proxied: PROXY_HEADERS.iter().any(|name| headers.contains_key(name)),
        is_browser: headers.contains_key(ORIGIN),
    }
}

/// Who the client is, if it shows that or nobody is asked; nobody if it shows nothing.
fn identify(edge: &Edge, shown: Option<&str>, peer: &Peer) -> Result<Option<Identity>, HttpRefusal> {
    match edge.shared.access.check_secret(shown, peer, unix_ms()) {
        Ok(identity) => Ok(Some(identity)),
        Err(AuthRefusal::Missing(_)) if shown.is_none() => Ok(None),
        Err(refusal) => {
            tracing::warn!(source = %peer.source, %refusal, "refused a client at the upgrade");
            Err(refusal.into())
        }
    }
}

/// Refuses a request that does not show who it is from, where anybody is asked.
pub fn authenticate(edge: &Edge, headers: &HeaderMap, source: IpAddr) -> Result<(), HttpRefusal> {
    identify(edge, shown(headers), &peer_of(headers, source))?.map(|_| ()).ok_or(HttpRefusal::Unauthorized)
}

/// The secret that a request shows. An `Authorization` of another kind shows an empty one.
fn shown(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let value = value.to_str().unwrap_or_default();
        let (kind, secret) = value.split_at_checked(BEARER.len()).unwrap_or_default();
        return Some(if kind.eq_ignore_ascii_case(BEARER) { secret.trim() } else { "" });
    }
    tokens(headers, &SEC_WEBSOCKET_PROTOCOL).find_map(|token| token.strip_prefix(BEARER_PROTOCOL))
}

/// The value of `Sec-WebSocket-Accept`, if the request is an upgrade of RFC 6455.
fn check_form(request: &Request<Incoming>) -> Result<HeaderValue, HttpRefusal> {
    let headers = request.headers();
    if !has_token(headers, &UPGRADE, "websocket") {
        return Err(HttpRefusal::UpgradeRequired);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HttpRefusal::UpgradeRequired);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes()));
    let key = key.ok_or(HttpRefusal::BadUpgrade)?;
    if request.method() != Method::GET
        || request.version() != Version::HTTP_11
        || !has_token(headers, &CONNECTION, "upgrade")
    {
        return Err(HttpRefusal::BadUpgrade);
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| HttpRefusal::BadUpgrade)
}

/// The parts of a comma-separated header.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Whether a comma-separated header holds a token.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|part| part.eq_ignore_ascii_case(token))
}

/// Whether this is 16 bytes in base 64.
fn is_key(key: &[u8]) -> bool {
    let alphabet = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(alphabet)
}

fn switching(accept: HeaderValue, echoes_protocol: bool) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if echoes_protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    response
}
