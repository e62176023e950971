//! Who may ask what (D27).
//!
//! From this machine everything is open, unless a web page may be behind it: a page can make a browser ask any address, but it can choose
//! neither the `Host` nor the `Origin` of such a request. From elsewhere only liveness and health without detail are open; all else needs
//! TLS and a token. A request that a proxy forwarded is not from this machine, wherever the proxy runs.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use foundation_listener::{
    http_server::Peer,
    origin::{bearer, check_local, may_be_a_form},
};
use http::{HeaderMap, StatusCode, header};

use crate::{Backend, Unavailable, error::error};

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
    if may_be_a_form(request.method(), request.headers()) {
        return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type: application/json is needed");
    }
    let path = request.uri().path();
    let detail = if check_local(peer, request.headers(), request.uri()).is_ok() {
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
