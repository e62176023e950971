//! How often an address may ask, by class of path.
//!
//! Liveness, health, status and metrics are free: load tests of the manuals hit them, and a monitor must never be refused.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use foundation_listener::{http_server::Peer, limit_hits};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use http::{HeaderValue, StatusCode, header};

use crate::error::error;

/// How many addresses are remembered; beyond it those that have been quiet are forgotten. Some 100 bytes each.
const MAX_ADDRESSES: usize = 50_000;

/// So many requests in so long a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub requests: NonZeroU32,
    /// In which time.
    pub per: Duration,
}

/// This text is no rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseRateError(String);

impl fmt::Display for ParseRateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither N/s nor N/min", self.0)
    }
}

impl std::error::Error for ParseRateError {}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = if self.per == Duration::from_secs(1) { "s" } else { "min" };
        write!(f, "{}/{unit}", self.requests)
    }
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let wrong = || ParseRateError(text.to_owned());
        let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
        let per = match unit {
            "s" => Duration::from_secs(1),
            "min" => Duration::from_mins(1),
            _ => return Err(wrong()),
        };
        Ok(Self { requests: count.parse().map_err(|_number| wrong())?, per })
    }
}

/// The rates in force. Clones share their counts.
#[derive(Clone, Debug)]
pub struct Limits {
    api: Arc<DefaultKeyedRateLimiter<IpAddr>>,
    other: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

/// What a path costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Free,
    Api,
    Other,
}

impl Limits {
    /// Rates by address: for `/api/`, and for all that is not free.
    #[must_use]
    pub fn new(api: Rate, other: Rate) -> Self {
        Self { api: limiter(api), other: limiter(other) }
    }

    /// How long the address has to wait, where it asked too often.
    fn check(&self, path: &str, address: IpAddr) -> Result<(), Duration> {
        let limiter = match class(path) {
            Class::Free => return Ok(()),
            Class::Api => &self.api,
            Class::Other => &self.other,
        };
        if limiter.len() > MAX_ADDRESSES {
            limiter.retain_recent();
        }
        limiter.check_key(&who(address)).map_err(|until| {
            limit_hits::hit(if class(path) == Class::Api { "http_api_limit" } else { "http_limit" });
            until.wait_time_from(DefaultClock::default().now())
        })
    }
}

fn limiter(rate: Rate) -> Arc<DefaultKeyedRateLimiter<IpAddr>> {
    let period = (rate.per / rate.requests.get()).max(Duration::from_nanos(1));
    let quota =
        Quota::with_period(period).map_or(Quota::per_second(rate.requests), |quota| quota.allow_burst(rate.requests));
    Arc::new(RateLimiter::keyed(quota))
}

fn class(path: &str) -> Class {
    match path {
        "/livez" | "/readyz" | "/ping" | "/health" | "/status" | "/metrics" => Class::Free,
        _ if path.starts_with("/api/") => Class::Api,
        _ => Class::Other,
    }
}

/// An IPv6 host has a whole /64 to itself.
fn who(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            Ipv6Addr::from(octets).into()
        }
        IpAddr::V4(address) => address.into(),
    }
}

pub(crate) async fn check(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>() else { return next.run(request).await };
    match limits.check(request.uri().path(), peer.address.ip()) {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            let mut response =
                error(StatusCode::TOO_MANY_REQUESTS, "too many requests from this address; come back later");
            // Rounded up: a client that obeys is not refused again.
            let seconds = HeaderValue::from(wait.as_secs() + 1);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, seconds: u64) -> Rate {
        Rate { requests: requests.try_into().unwrap(), per: Duration::from_secs(seconds) }
    }

    #[test]
    fn an_address_gets_its_share_and_what_is_free_is_free() {
        let limits = Limits::new(rate(3, 60), rate(1, 60));
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..3 {
            limits.check("/api/v1/dwcp/status", one).unwrap();
        }
        assert!(limits.check("/api/v1/dwcp/status", one).unwrap_err() > Duration::from_secs(10));
        limits.check("/api/v1/dwcp/status", two).unwrap();
        limits.check("/else", one).unwrap();
        limits.check("/else", one).unwrap_err();
        for _ in 0..1000 {
            limits.check("/health", one).unwrap();
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_asker() {
        assert_eq!(who("2001:db8::1".parse().unwrap()), who("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(who("2001:db8::1".parse().unwrap()), who("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(who("::ffff:192.0.2.1".parse().unwrap()), IpAddr::from([192, 0, 2, 1]));
    }
}
