//! Rate limits of the HTTP side, per class of path and address (DX-7, DC-6).

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// So many addresses are told apart at most; beyond, those whose buckets are full again are forgotten first, and where
/// there are none, newcomers share one bucket. 10,000 is far above what a host's own HTTP side sees in a minute, and is 1 MB.
const MAX_ADDRESSES: usize = 10_000;

/// How many requests in how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    /// Requests that a full bucket holds.
    requests: u32,
    /// How long an empty bucket takes to fill.
    per: Duration,
}

/// Paths that are limited together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Liveness, health, status and metrics: the manuals load them with `ab -n 1000`.
    Exempt,
    /// Peers and content: DX-7.
    Content,
    /// Everything else: DC-6.
    Other,
}

impl Class {
    /// The class of a path.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            "/livez" | "/readyz" | "/ping" | "/health" | "/status" | "/metrics" => Self::Exempt,
            "/peers" | "/tracks" | "/stats" | "/discover" => Self::Content,
            _ => Self::Other,
        }
    }

    /// Its name in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Exempt => "health",
            Self::Content => "content",
            Self::Other => "other",
        }
    }

    /// The bound's name.
    pub(crate) const fn limit(self) -> &'static str {
        match self {
            Self::Content => "limits.http_requests_per_minute",
            Self::Exempt | Self::Other => "limits.http_requests_per_second",
        }
    }

    const fn rate(self, rates: Rates) -> Option<Rate> {
        match self {
            Self::Exempt => None,
            Self::Content => Some(Rate { requests: rates.per_minute, per: Duration::from_secs(60) }),
            Self::Other => Some(Rate { requests: rates.per_second, per: Duration::from_secs(1) }),
        }
    }
}

/// What is allowed of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Content and messages.
    pub per_minute: u32,
    /// All else.
    pub per_second: u32,
}

impl Default for Rates {
    /// The seeds' numbers.
    fn default() -> Self {
        Self { per_minute: 100, per_second: 100 }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() / rate.per.as_secs_f64();
        self.tokens = (self.tokens + gained * f64::from(rate.requests)).min(f64::from(rate.requests));
        self.at = now;
    }
}

/// Token buckets.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    buckets: HashMap<(Class, Option<IpAddr>), Bucket>,
    rates: Rates,
}

impl Limiter {
    /// Other rates, from now on.
    pub(crate) fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    /// Takes one request in; `Err` says how long to wait.
    pub(crate) fn admit(&mut self, class: Class, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let Some(rate) = class.rate(self.rates) else { return Ok(()) };
        let mut key = (class, Some(address));
        if !self.buckets.contains_key(&key) && self.buckets.len() >= MAX_ADDRESSES {
            self.forget_full(now);
            if self.buckets.len() >= MAX_ADDRESSES {
                key = (class, None);
            }
        }
        let bucket = self.buckets.entry(key).or_insert(Bucket { tokens: f64::from(rate.requests), at: now });
        bucket.fill(rate, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) * rate.per.as_secs_f64() / f64::from(rate.requests)))
    }

    fn forget_full(&mut self, now: Instant) {
        let rates = self.rates;
        self.buckets.retain(|(class, _address), bucket| {
            class.rate(rates).is_some_and(|rate| {
                bucket.fill(rate, now);
                bucket.tokens < f64::from(rate.requests)
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foundation_runtime::Clock;

    const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_hundred_and_first_request_of_a_minute_waits() {
        let start = Clock::system().now();
        let mut limiter = Limiter::default();
        for _ in 0..100 {
            limiter.admit(Class::Content, HOST, start).unwrap();
        }
        let wait = limiter.admit(Class::Content, HOST, start).unwrap_err();
        assert!(wait <= Duration::from_millis(601), "{wait:?}");
        limiter.admit(Class::Content, HOST, start + wait + Duration::from_millis(1)).unwrap();
    }

    #[test]
    fn health_is_never_limited_and_memory_is_bounded() {
        let start = Clock::system().now();
        let mut limiter = Limiter::default();
        for _ in 0..5000 {
            limiter.admit(Class::of("/health"), HOST, start).unwrap();
        }
        for number in 0..20_000_u32 {
            let _answer = limiter.admit(Class::Other, IpAddr::from(number.to_be_bytes()), start);
        }
        assert!(limiter.buckets.len() <= MAX_ADDRESSES + 3);
    }
}
