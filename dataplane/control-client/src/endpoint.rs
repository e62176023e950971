//! Where a control plane is: `HOST:PORT`, and a list of them that is tried in turn.

use std::{collections::VecDeque, fmt, net::Ipv6Addr, str::FromStr};

/// The port of the control plane's gRPC where none is given.
pub const DEFAULT_PORT: u16 = 7442;

/// So many endpoints are kept at most: a control plane of more replicas stands behind a balancer.
pub const MAX_ENDPOINTS: usize = 16;

/// `HOST:PORT` of a control plane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// The host: a name or an address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is no endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no HOST:PORT, for example ctl.example:7442 or [2001:db8::1]:7442")]
pub struct InvalidEndpoint(String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    /// Takes `HOST`, `HOST:PORT`, `[IPv6]:PORT`, and each with `https://` before it, as people paste it.
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        let bare = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = if let Some(rest) = bare.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or_else(invalid)?;
            address.parse::<Ipv6Addr>().map_err(|_not_an_address| invalid())?;
            (address, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(invalid)?) })
        } else {
            match bare.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (bare, None),
            }
        };
        let port = match port {
            Some(port) => port.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(invalid)?,
            None => DEFAULT_PORT,
        };
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let fine = !host.is_empty() && host.len() <= 253 && (host.contains(':') || host.chars().all(named));
        if fine { Ok(Self { host: host.to_owned(), port }) } else { Err(invalid()) }
    }
}

/// Endpoints, the one to try next first.
#[derive(Debug, Default)]
pub struct Rotation {
    endpoints: VecDeque<Endpoint>,
}

impl Rotation {
    /// Begins with the first of `endpoints`; what is over [`MAX_ENDPOINTS`] is left out.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut rotation = Self::default();
        for endpoint in endpoints {
            if rotation.endpoints.len() < MAX_ENDPOINTS && !rotation.endpoints.contains(&endpoint) {
                rotation.endpoints.push_back(endpoint);
            }
        }
        rotation
    }

    /// The one to try now.
    pub fn current(&self) -> Option<&Endpoint> {
        self.endpoints.front()
    }

    /// It did not answer: the next one's turn.
    pub fn failed(&mut self) {
        if !self.endpoints.is_empty() {
            self.endpoints.rotate_left(1);
        }
    }

    /// Takes what the control plane says of itself; the one in use stays first, also where the list does not name it.
    pub fn learn(&mut self, endpoints: impl IntoIterator<Item = Endpoint>) {
        let current = self.endpoints.pop_front();
        *self = Self::new(current.into_iter().chain(endpoints));
    }

    /// All of them, the one to try now first.
    pub fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_names_addresses_and_pasted_urls() {
        for (text, shown) in [
            ("ctl.example:7000", "ctl.example:7000"),
            ("ctl", "ctl:7442"),
            ("https://ctl.example:7442/", "ctl.example:7442"),
            ("[::1]:1", "[::1]:1"),
            ("10.0.0.1", "10.0.0.1:7442"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
        for text in ["", ":7442", "a:0", "a:b", "::1:7442", "[::1", "a b:1", "a:70000"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn learning_keeps_the_endpoint_in_use_first() {
        let parse = |text: &str| text.parse::<Endpoint>().unwrap();
        let mut rotation = Rotation::new([parse("a"), parse("b")]);
        rotation.failed();
        rotation.learn([parse("a"), parse("c")]);
        let all: Vec<_> = rotation.all().map(ToString::to_string).collect();
        assert_eq!(all, ["b:7442", "a:7442", "c:7442"]);
    }
}
