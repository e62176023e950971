//! Section `monitoring`: metrics, traces, log level.

use std::time::Duration;

use super::section::{Reader, choice};

/// What is measured, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Monitoring {
    /// Whether metrics are served.
    pub prometheus_enabled: bool,
    /// On this port of the loopback address.
    pub metrics_port: u16,
    /// Under this path.
    pub metrics_path: String,
    /// What is logged.
    pub log_level: LogLevel,
    /// How often components are looked at.
    pub health_check_interval: Duration,
    /// Whether traces are exported.
    pub enable_tracing: bool,
    /// The share of traces that begin here and are kept, 0 to 1.
    pub tracing_sample_rate: f64,
    /// OTLP over gRPC.
    pub tracing_endpoint: Option<String>,
}

choice! {
    /// What is logged: this, and what is worse.
    LogLevel {
        /// Every step.
        Trace = "trace",
        /// What helps to find a fault.
        Debug = "debug",
        /// What an operator wants to know.
        Info = "info",
        /// What may become a fault.
        Warn = "warn",
        /// Faults.
        Error = "error",
    }
}

impl Monitoring {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section("monitoring");
        Self {
            prometheus_enabled: section.boolean("prometheus_enabled"),
            metrics_port: section.number("metrics_port", 0..=u16::MAX),
            metrics_path: section.parsed("metrics_path", parse_path),
            log_level: section.choice("log_level"),
            health_check_interval: section.duration("health_check_interval", 1..=3600),
            enable_tracing: section.boolean("enable_tracing"),
            tracing_sample_rate: section.real("tracing_sample_rate", 0.0..=1.0),
            tracing_endpoint: section.optional("tracing_endpoint", parse_endpoint),
        }
    }
}

fn parse_path(text: &str) -> Result<String, &'static str> {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'{' | b'}' | b'*' | b'%' | b'\\');
    if text.starts_with('/') && text.len() <= 128 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("is not a path of a URL, such as /metrics")
    }
}

fn parse_endpoint(text: &str) -> Result<String, &'static str> {
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    // A password in it would be shown with the configuration.
    let plain = text.len() <= 1024 && text.bytes().all(|b| b.is_ascii_graphic() && b != b'@');
    match host {
        Some(host) if plain && !host.is_empty() && !host.starts_with('/') => Ok(text.to_owned()),
        _ => Err("is not an address such as http://localhost:4317"),
    }
}
