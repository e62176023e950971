//! What is logged, and what becomes a span.

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
    // It says each batch that does not arrive; our exporter says it once.
    ("opentelemetry-otlp", LevelFilter::OFF),
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
    let refused = || LevelError(text.chars().take(64).collect());
    let mut rest = LevelFilter::INFO;
    let mut named = Vec::new();
    for directive in text.split(',').map(str::trim) {
        match directive.split_once('=') {
            None => rest = level_of(directive).ok_or_else(refused)?,
            Some((target, level)) if is_target(target) => {
                named.push((target.to_owned(), level_of(level).ok_or_else(refused)?));
            }
            Some(_) => return Err(refused()),
        }
    }
    let quiet = NOISY.map(|(target, most)| (target.to_owned(), most.min(rest)));
    Ok(Targets::new().with_default(rest).with_targets(quiet).with_targets(named))
}

fn level_of(word: &str) -> Option<LevelFilter> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    levels.iter().find(|level| level.eq_ignore_ascii_case(word)).and_then(|level| level.parse().ok())
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b':'))
}

/// What becomes a span, whatever is logged.
pub(crate) fn span_filter() -> Targets {
    Targets::new().with_default(LevelFilter::INFO).with_targets(TRANSPORT.map(|target| (target, LevelFilter::OFF)))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

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
        for bad in ["", "loud", "info,", "info,x=loud", "=debug", "x[span]=debug"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }
}
