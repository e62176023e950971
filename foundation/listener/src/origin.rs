//! Whether a request is this machine's own (D27).
//!
//! A web page can make a browser ask any address, also this machine's, but it can choose neither the `Host` nor the `Origin` of such a
//! request. And what a proxy forwards is not from this machine, wherever the proxy runs.

use std::net::IpAddr;

use http::{HeaderMap, Method, Uri, header};

use crate::http_server::Peer;

/// Why a request is not this machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It comes from another machine.
    Remote,
    /// A proxy brought it.
    Forwarded,
    /// It names another host: how a web page reaches loopback by rebinding DNS.
    Host,
    /// A web page of elsewhere.
    Page,
}

/// Whether the request is from this machine and by no web page.
///
/// # Errors
/// Why not.
pub fn check_local(peer: Peer, headers: &HeaderMap, uri: &Uri) -> Result<(), Foreign> {
    if !peer.address.ip().to_canonical().is_loopback() {
        return Err(Foreign::Remote);
    }
    if ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
    {
        return Err(Foreign::Forwarded);
    }
    // All that name a host have to name this one: two servers may not differ in which of two counts.
    let mut hosts = headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("\u{fffd}")).peekable();
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let named = hosts.peek().is_some() || authority.is_some();
    if !named || !hosts.chain(authority).all(is_loopback_host) {
        return Err(Foreign::Host);
    }
    let origins = headers.get_all(header::ORIGIN).iter();
    let is_own = |origin: &http::HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(is_loopback_host)
    };
    if !origins.into_iter().all(is_own) || is_cross_site(headers) {
        return Err(Foreign::Page);
    }
    Ok(())
}

/// What newer browsers say of a request that another site caused.
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site" || site == "same-site")
}

/// `localhost`, or a loopback address, each with or without a port.
#[must_use]
pub fn is_loopback_host(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) => match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let numbers = |text: &str| text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    port.is_none_or(numbers)
        && (host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback()))
}

/// A request that changes something and is not JSON: a form of a web page can send everything but that type.
#[must_use]
pub fn may_be_a_form(method: &Method, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split_once(';').map_or(kind, |(kind, _)| kind);
    !method.is_safe() && !kind.trim().eq_ignore_ascii_case("application/json")
}

/// The token of `Authorization: Bearer TOKEN`.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether two secrets are the same one, in a time that says nothing of them.
#[must_use]
pub fn is_same_secret(one: &str, other: &str) -> bool {
    let hash = |text: &str| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hash(one).as_ref() == hash(other).as_ref()
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const HOST: HeaderName = header::HOST;
    const ORIGIN: HeaderName = header::ORIGIN;

    fn check(address: &str, said: &[(HeaderName, &'static str)]) -> Result<(), Foreign> {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        let peer = Peer { address: (address.parse::<IpAddr>().unwrap(), 1).into(), tls: false };
        check_local(peer, &headers, &Uri::from_static("/status"))
    }

    #[test]
    fn only_this_machine_is_this_machine() {
        for host in
            ["localhost", "LOCALHOST:80", "127.0.0.1:7443", "127.9.9.9", "[::1]:1", "[::1]", "[::ffff:127.0.0.1]"]
        {
            assert_eq!(check("::ffff:127.0.0.1", &[(HOST, host)]), Ok(()), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
            "127.0.0.1.evil.example",
            "[::1",
            "[::1]x",
            "localhost:80@evil.example",
            "0.0.0.0",
            "localhost.",
            "127.1",
            "2130706433",
        ] {
            assert_eq!(check("127.0.0.1", &[(HOST, host)]), Err(Foreign::Host), "{host}");
        }
        assert_eq!(check("127.0.0.1", &[]), Err(Foreign::Host));
        assert_eq!(check("192.0.2.1", &[(HOST, "localhost")]), Err(Foreign::Remote));
        assert_eq!(check("127.0.0.1", &[(HOST, "localhost"), (HOST, "evil.example")]), Err(Foreign::Host));
        let forwarded = HeaderName::from_static("x-forwarded-for");
        assert_eq!(check("127.0.0.1", &[(HOST, "localhost"), (forwarded, "127.0.0.1")]), Err(Foreign::Forwarded));
    }

    #[test]
    fn a_web_page_is_not_this_machine() {
        for origin in ["null", "https://evil.example", "http://localhost.evil.example", "file://", "localhost"] {
            assert_eq!(check("127.0.0.1", &[(HOST, "localhost"), (ORIGIN, origin)]), Err(Foreign::Page), "{origin}");
        }
        for origin in ["http://localhost:8080", "https://127.0.0.1", "http://[::1]:7443"] {
            assert_eq!(check("127.0.0.1", &[(HOST, "localhost"), (ORIGIN, origin)]), Ok(()), "{origin}");
        }
        let site = HeaderName::from_static("sec-fetch-site");
        assert_eq!(check("127.0.0.1", &[(HOST, "localhost"), (site, "cross-site")]), Err(Foreign::Page));
    }

    #[test]
    fn a_form_is_told_from_an_api_call() {
        let with = |kind: &'static str| HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        assert!(!may_be_a_form(&Method::POST, &with("application/json; charset=utf-8")));
        assert!(!may_be_a_form(&Method::GET, &HeaderMap::new()));
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
            assert!(may_be_a_form(&Method::POST, &with(kind)), "{kind}");
        }
    }
}
