//! Who may ask what over HTTP (D27): this machine anything that is no web page's doing, others with TLS and a token; without them the liveness
//! paths in a word.

use foundation_listener::{
    http_server::Peer,
    origin::{Foreign, bearer, check_local, may_be_a_form},
};
use http::{HeaderMap, Method, StatusCode, Uri};

use super::access::Access;

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
    /// From another host, without TLS or through a proxy.
    #[error(
        "only /livez, /readyz, /ping and /health are answered to other hosts; all else needs https and `authorization: Bearer TOKEN`"
    )]
    Remote,
    /// From another host, by TLS, without the token.
    #[error("this needs `authorization: Bearer TOKEN` with the token of http.token_file")]
    Token,
}

impl Refusal {
    /// The status it is answered with.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::Remote => StatusCode::FORBIDDEN,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Token => StatusCode::UNAUTHORIZED,
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

/// What is asked, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) peer: Peer,
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    /// Whether the path is that of the metrics.
    pub(crate) metrics: bool,
}

/// Checks one request.
pub(crate) fn check(asked: Asked<'_>, access: &Access) -> Result<Detail, Refusal> {
    let Asked { peer, method, uri, headers, metrics } = asked;
    if may_be_a_form(method, headers) {
        return Err(Refusal::ContentType);
    }
    let Err(foreign) = check_local(peer, headers, uri) else { return Ok(Detail::Full) };
    // In the clear a token would be anybody's; from this machine nobody is in between.
    let may_show = peer.tls || peer.address.ip().to_canonical().is_loopback();
    if may_show && bearer(headers).is_some_and(|token| access.opens(token, metrics)) {
        return Ok(Detail::Full);
    }
    match foreign {
        Foreign::Host => Err(Refusal::Host),
        Foreign::Page => Err(Refusal::Origin),
        Foreign::Remote | Foreign::Forwarded => match uri.path() {
            "/livez" | "/readyz" | "/ping" | "/health" => Ok(Detail::Word),
            _ if peer.tls => Err(Refusal::Token),
            _ => Err(Refusal::Remote),
        },
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn answer(
        peer: &str,
        tls: bool,
        path: &'static str,
        said: &[(header::HeaderName, &'static str)],
    ) -> Result<Detail, Refusal> {
        let headers = said.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
        let peer = Peer { address: (peer.parse::<std::net::IpAddr>().unwrap(), 1).into(), tls };
        let uri = Uri::from_static(path);
        let asked = Asked { peer, method: &Method::GET, uri: &uri, headers: &headers, metrics: path == "/metrics" };
        let access = Access::default();
        let token = |text: &str| Some(text.to_owned());
        access.replace(Credentials {
            tls: None,
            token: token("the-token-of-all"),
            metrics_token: token("of-metrics-alone"),
        });
        check(asked, &access)
    }

    use super::super::access::Credentials;

    #[test]
    fn a_web_page_does_not_reach_it() {
        assert_eq!(answer("127.0.0.1", false, "/status", &[(header::HOST, "evil.example")]), Err(Refusal::Host));
        let origin = [(header::HOST, "localhost:8080"), (header::ORIGIN, "https://evil.example")];
        assert_eq!(answer("::1", false, "/health", &origin), Err(Refusal::Origin));
        let headers = HeaderMap::new();
        let peer = Peer { address: "[::1]:1".parse().unwrap(), tls: false };
        let uri = Uri::from_static("/discover");
        let asked = Asked { peer, method: &Method::POST, uri: &uri, headers: &headers, metrics: false };
        assert_eq!(check(asked, &Access::default()), Err(Refusal::ContentType));
    }

    #[test]
    fn the_host_itself_sees_all() {
        for host in ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"] {
            let said = [(header::HOST, host)];
            assert_eq!(answer("::ffff:127.0.0.1", false, "/status", &said), Ok(Detail::Full), "{host}");
        }
    }

    #[test]
    fn other_hosts_see_liveness_only_unless_they_have_tls_and_the_token() {
        let good = [(header::AUTHORIZATION, "Bearer the-token-of-all")];
        let scrape = [(header::AUTHORIZATION, "bearer of-metrics-alone")];
        assert_eq!(answer("10.0.0.9", false, "/health", &[(header::HOST, "agent.example")]), Ok(Detail::Word));
        assert_eq!(answer("10.0.0.9", false, "/status", &[]), Err(Refusal::Remote));
        assert_eq!(answer("10.0.0.9", false, "/status", &good), Err(Refusal::Remote), "in the clear");
        assert_eq!(answer("10.0.0.9", true, "/status", &[]), Err(Refusal::Token));
        assert_eq!(answer("10.0.0.9", true, "/status", &good), Ok(Detail::Full));
        assert_eq!(answer("10.0.0.9", true, "/status", &scrape), Err(Refusal::Token));
        assert_eq!(answer("10.0.0.9", true, "/metrics", &scrape), Ok(Detail::Full));
    }
}
