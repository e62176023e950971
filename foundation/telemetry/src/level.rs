//! What is logged, and what becomes a span.

use std::str::FromStr as _;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// Libraries that say at each level what belongs to the next finer one, with the coarsest that is let through of them.
const NOISY: [(&str, LevelFilter); 15] = [
    ("h2", LevelFilter::WARN),
    ("hyper", LevelFilter::WARN),
    ("hyper_util", LevelFilter::WARN),
    ("tonic", LevelFilter::WARN),
    ("tower", LevelFilter::WARN),
    ("rustls", LevelFilter::WARN),
    ("tokio_rustls", LevelFilter::WARN),
    ("quinn", LevelFilter::WARN),
    ("quinn_proto", LevelFilter::WARN),
    ("quinn_udp", LevelFilter::ERROR),
    ("sqlx", LevelFilter::WARN),
    // It says `error` several times a second while no node of the ring answers; dataplane_dht says what matters.
    ("mainline", LevelFilter::OFF),
    ("opentelemetry", LevelFilter::WARN),
    ("opentelemetry_sdk", LevelFilter::WARN),
    ("opentelemetry-otlp", LevelFilter::WARN),
];

/// What carries the exporter's own calls: as spans they would feed themselves.
const TRANSPORT: [&str; 8] =
    ["h2", "hyper", "hyper_util", "tonic", "tower", "opentelemetry", "opentelemetry_sdk", "opentelemetry-otlp"];

/// The text is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a level (trace, debug, info, warn, error) nor levels by target (info,dataplane_amst=debug)")]
pub struct LevelError(String);

/// What is logged at a level, or by levels by target.
pub(crate) fn log_filter(text: &str) -> Result<Targets, LevelError> {
    match text.parse::<Level>() {
        Ok(level) if text.bytes().all(|b| b.is_ascii_alphabetic()) => Ok(quiet(level)),
        Ok(_) | Err(_) => {
            let directives = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            let bare = directives.clone().find_map(|part| part.parse::<Level>().ok().filter(|_| !part.contains('=')));
            let mut filter = quiet(bare.unwrap_or(Level::INFO));
            let named = Targets::from_str(text).map_err(|_refused| LevelError(text.chars().take(64).collect()))?;
            if named.default_level().is_none() && named.iter().next().is_none() {
                return Err(LevelError(text.chars().take(64).collect()));
            }
            filter.extend(named.iter().map(|(target, level)| (target.to_owned(), level)));
            Ok(filter)
        }
    }
}

fn quiet(level: Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new().with_default(level).with_targets(NOISY.map(|(target, most)| (target, most.min(level))))
}

/// What becomes a span, whatever is logged.
pub(crate) fn span_filter() -> Targets {
    Targets::new().with_default(LevelFilter::INFO).with_targets(TRANSPORT.map(|target| (target, LevelFilter::OFF)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_keeps_libraries_quiet_and_a_target_can_open_one() {
        let debug = log_filter("debug").expect("a level");
        assert!(debug.would_enable("dataplane_amst", &Level::DEBUG));
        assert!(!debug.would_enable("h2::codec", &Level::DEBUG));
        let named = log_filter("warn,h2=debug,dataplane_amst=trace").expect("levels");
        assert!(named.would_enable("h2", &Level::DEBUG));
        assert!(named.would_enable("dataplane_amst", &Level::TRACE));
        assert!(!named.would_enable("dataplane_dht", &Level::INFO));
        assert!(log_filter("loud").is_err() || !log_filter("loud").expect("a target").would_enable("x", &Level::DEBUG));
        assert!(log_filter("").is_err());
    }
}
