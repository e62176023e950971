//! Who may ask what (D27).
//!
//! From this machine everything is open, unless a web page may be behind it: a page can make a browser ask any address, but it can choose
//! neither the `Host` nor the `Origin` of such a request. From elsewhere only liveness and health without detail are open; all else needs
//! TLS and a token. A request that a proxy forwarded is not from this machine, wherever the proxy runs.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::{Backend, Unavailable, routes::error};

/// Whom a connection is with, from whoever accepted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The other end.
    pub address: SocketAddr,
    /// Whether TLS is spoken.
    pub tls: bool,
}

/// How much of an answer its asker may see: `/health` has detail only for [`Detail::Full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All.
    Full,
    /// What everybody may see.
    Public,
}

/// Paths that everybody may ask, the last without its detail.
const PUBLIC: [&str; 4] = ["/livez", "/readyz", "/ping", "/health"];

/// Checks a request, and hands it on with the [`Detail`] that its asker may see.
pub(crate) async fn check<B: Backend>(State(backend): State<B>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the connection is not known");
    };
    if changes_something(request.method()) && !is_json(request.headers()) {
        return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type: application/json is needed");
    }
    let path = request.uri().path();
    let detail = if is_local(peer, request.headers(), request.uri()) {
        Detail::Full
    } else {
        match token_admits(&backend, peer, request.headers(), path).await {
            Ok(true) => Detail::Full,
            _ if PUBLIC.contains(&path) => Detail::Public,
            Ok(false) => return refusal(peer, request.headers()),
            Err(Unavailable) => {
                return error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the token cannot be checked: the database does not answer",
                );
            }
        }
    };
    request.extensions_mut().insert(detail);
    next.run(request).await
}

/// Whether the request is from this machine and by no web page.
fn is_local(peer: Peer, headers: &HeaderMap, uri: &Uri) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| headers.contains_key(*name));
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(http::uri::Authority::as_str));
    let origin_is_local = headers.get(header::ORIGIN).is_none_or(|origin| {
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, host)| is_loopback_host(host))
    });
    peer.address.ip().to_canonical().is_loopback()
        && !forwarded
        && host.is_some_and(is_loopback_host)
        && origin_is_local
        && !is_cross_site(headers)
}

/// What newer browsers say of a request that another site caused.
fn is_cross_site(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site")
}

/// `localhost`, or a loopback address, each with or without a port.
fn is_loopback_host(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn token_admits<B: Backend>(
    backend: &B,
    peer: Peer,
    headers: &HeaderMap,
    path: &str,
) -> Result<bool, Unavailable> {
    // In the clear a token would be anybody's; from this machine nobody is in between.
    if !peer.tls && !peer.address.ip().to_canonical().is_loopback() {
        return Ok(false);
    }
    let Some(token) = bearer(headers) else { return Ok(false) };
    if path == "/metrics" && backend.opens_metrics(token) {
        return Ok(true);
    }
    backend.admits(token.to_owned()).await
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refusal(peer: Peer, headers: &HeaderMap) -> Response {
    if peer.address.ip().to_canonical().is_loopback() {
        return error(
            StatusCode::FORBIDDEN,
            "from this machine ask http://127.0.0.1 or http://localhost itself, not through a proxy or from a web page; or send a token",
        );
    }
    if !peer.tls {
        return error(StatusCode::FORBIDDEN, "from another machine this needs https and `authorization: Bearer TOKEN`");
    }
    let mut response = match bearer(headers) {
        Some(_) => error(StatusCode::UNAUTHORIZED, "the token is unknown, expired or revoked"),
        None => error(StatusCode::UNAUTHORIZED, "this needs `authorization: Bearer TOKEN`"),
    };
    response.headers_mut().insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
    response
}

fn changes_something(method: &Method) -> bool {
    !(method.is_safe())
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split_once(';').map_or(kind, |(kind, _)| kind);
    kind.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_this_machine() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:7443", "127.9.9.9", "[::1]:1", "[::1]"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "10.0.0.1", "[::2]", "127.0.0.1.evil.example"] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
