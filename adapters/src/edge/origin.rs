//! Which requests come from this machine: rules on the Host and Origin headers.
//!
//! A browser sends what any web page asks for. A page from elsewhere is known by its Origin; a page whose
//! name was re-bound to a loopback address is known by its Host. Both are parsed and compared as a whole.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;

use crate::refusal::HttpRefusal;

/// Refuses a request whose Host does not name this machine, or whose Origin neither does nor is one of `allowed`.
pub fn check(headers: &HeaderMap, target: Option<&Authority>, allowed: &[String]) -> Result<(), HttpRefusal> {
    let host = only(headers, &HOST).ok_or(HttpRefusal::ForeignHost)?;
    if !is_loopback_authority(host) || target.is_some_and(|target| !is_loopback_authority(target.as_str())) {
        return Err(HttpRefusal::ForeignHost);
    }
    if headers.contains_key(ORIGIN) {
        let origin = only(headers, &ORIGIN).ok_or(HttpRefusal::ForeignOrigin)?;
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        // As a whole: what only begins like one of them is another page.
        let is_allowed = allowed.iter().any(|allowed| allowed == origin);
        if !is_allowed && !authority.is_some_and(is_loopback_authority) {
            return Err(HttpRefusal::ForeignOrigin);
        }
    }
    Ok(())
}

/// The value of a header that is there exactly once, as text.
fn only<'a>(headers: &'a HeaderMap<HeaderValue>, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

/// Whether `host[:port]` is localhost or a loopback address, and nothing else stands there.
fn is_loopback_authority(text: &str) -> bool {
    let Ok(authority) = text.parse::<Authority>() else { return false };
    let host = authority.host();
    // What follows is nothing or a port; whatever stands before the host makes this fail.
    let port_is_valid = match text.strip_prefix(host) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok()),
        None => false,
    };
    if !port_is_valid {
        return false;
    }
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only names of this machine pass. By one row per form, with the tricks that prefix checks miss.
    #[test]
    fn only_loopback_passes() {
        let ok = Ok(());
        let host = Err(HttpRefusal::ForeignHost);
        let origin = Err(HttpRefusal::ForeignOrigin);
        for (host_header, origin_header, expected) in [
            ("localhost", None, ok),
            ("LOCALHOST:18789", None, ok),
            ("127.0.0.1:18789", None, ok),
            ("127.8.8.8", None, ok),
            ("[::1]:18789", Some("http://[::1]:3000"), ok),
            ("localhost", Some("https://localhost"), ok),
            ("localhost", Some("http://127.0.0.1:1"), ok),
            ("", None, host),
            ("example.org", None, host),
            ("localhost.example.org", None, host),
            ("127.0.0.1.example.org", None, host),
            ("192.168.0.1", None, host),
            ("0.0.0.0", None, host),
            ("user@localhost", None, host),
            ("localhost:99999", None, host),
            ("localhost/x", None, host),
            ("localhost", Some("null"), origin),
            ("localhost", Some("http://localhost.example.org"), origin),
            ("localhost", Some("http://localhost@example.org"), origin),
            ("localhost", Some("http://example.org"), origin),
            ("localhost", Some("http://localhost/x"), origin),
            ("localhost", Some("file://localhost"), origin),
            ("localhost", Some("http://"), origin),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host_header));
            if let Some(value) = origin_header {
                headers.insert(ORIGIN, HeaderValue::from_static(value));
            }
            assert_eq!(check(&headers, None, &[]), expected, "{host_header} {origin_header:?}");
        }
    }

    /// A header that is missing or comes twice is refused, and so is a foreign target. By three requests.
    #[test]
    fn headers_are_there_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(check(&headers, None, &[]), Err(HttpRefusal::ForeignHost));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        let foreign = Authority::from_static("example.org");
        assert_eq!(check(&headers, Some(&foreign), &[]), Err(HttpRefusal::ForeignHost));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert_eq!(check(&headers, None, &[]), Err(HttpRefusal::ForeignHost));
    }

    /// Pages of an origin that is allowed pass, and none that only looks like it. By one row per trick.
    #[test]
    fn allowed_origins_are_compared_as_a_whole() {
        let allowed = ["https://gateway.example.org".to_owned()];
        for (origin, passes) in [
            ("https://gateway.example.org", true),
            ("https://gateway.example.org.evil.example", false),
            ("https://gateway.example.org:8443", false),
            ("http://gateway.example.org", false),
            ("https://gateway.example.org/", false),
            ("https://evil.example", false),
            ("http://localhost:5173", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("localhost"));
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            let expected = if passes { Ok(()) } else { Err(HttpRefusal::ForeignOrigin) };
            assert_eq!(check(&headers, None, &allowed), expected, "{origin}");
        }
    }
}
