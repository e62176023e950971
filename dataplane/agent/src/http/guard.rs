//! Who may ask what over HTTP (D27): a loopback peer anything that is no web page's doing, others the liveness paths.

use std::net::IpAddr;

use http::{HeaderMap, Method, StatusCode, header};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A name that is not this host's: how a web page reaches loopback by rebinding DNS.
    #[error("the Host header names neither localhost nor a loopback address")]
    Host,
    /// A web page of somewhere else.
    #[error("requests from web pages of another origin are not answered")]
    Origin,
    /// A form of a web page can send everything but this.
    #[error("a request with a body must be application/json")]
    ContentType,
    /// From another host, without TLS.
    #[error("only /livez, /readyz, /ping and /health are answered to other hosts")]
    Remote,
}

impl Refusal {
    /// The status it is answered with.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::Remote => StatusCode::FORBIDDEN,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

/// What a peer may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// All.
    Full,
    /// That it lives, and how it is in one word.
    Word,
}

/// Checks one request.
pub(crate) fn check(peer: IpAddr, method: &Method, path: &str, headers: &HeaderMap) -> Result<Detail, Refusal> {
    if !peer.to_canonical().is_loopback() {
        let alive = matches!(path, "/livez" | "/readyz" | "/ping" | "/health");
        return if alive { Ok(Detail::Word) } else { Err(Refusal::Remote) };
    }
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"));
    if text(header::HOST).is_some_and(|host| !names_loopback(host)) {
        return Err(Refusal::Host);
    }
    if text(header::ORIGIN).is_some_and(|origin| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        !host.is_some_and(names_loopback)
    }) {
        return Err(Refusal::Origin);
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let json = |value: &str| value.split(';').next().is_some_and(|kind| kind.trim() == "application/json");
    if changes && !text(header::CONTENT_TYPE).is_some_and(json) {
        return Err(Refusal::ContentType);
    }
    Ok(Detail::Full)
}

/// `localhost`, `127.0.0.1:8080`, `[::1]:8080`.
fn names_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _port)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn answer(peer: &str, path: &str, headers: &[(header::HeaderName, &'static str)]) -> Result<Detail, Refusal> {
        let map = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        check(peer.parse().unwrap(), &Method::GET, path, &map)
    }

    #[test]
    fn a_web_page_does_not_reach_it() {
        assert_eq!(answer("127.0.0.1", "/status", &[(header::HOST, "evil.example")]), Err(Refusal::Host));
        let origin = [(header::HOST, "localhost:8080"), (header::ORIGIN, "https://evil.example")];
        assert_eq!(answer("::1", "/status", &origin), Err(Refusal::Origin));
        assert_eq!(answer("::1", "/status", &[(header::ORIGIN, "null")]), Err(Refusal::Origin));
        let post = check("::1".parse().unwrap(), &Method::POST, "/discover", &HeaderMap::new());
        assert_eq!(post, Err(Refusal::ContentType));
    }

    #[test]
    fn the_host_itself_sees_all() {
        for host in ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"] {
            assert_eq!(answer("::ffff:127.0.0.1", "/status", &[(header::HOST, host)]), Ok(Detail::Full), "{host}");
        }
    }

    #[test]
    fn other_hosts_see_liveness_only() {
        assert_eq!(answer("10.0.0.9", "/health", &[(header::HOST, "agent.example")]), Ok(Detail::Word));
        assert_eq!(answer("10.0.0.9", "/status", &[]), Err(Refusal::Remote));
    }
}
