//! What a program says when it sets its telemetry up.

use std::path::PathBuf;

/// What a program says when it sets its telemetry up.
#[derive(Clone, Debug)]
pub struct Options {
    /// `service.name`: `dwcp-agent`, `dwcp-control-plane`, `dwcp`.
    pub service: String,
    /// `service.version`.
    pub version: String,
    /// `service.instance.id`: the node's uid, or what else tells two of them apart; may be empty.
    pub instance: String,
    /// How lines on standard error look.
    pub format: Format,
    /// A level (`info`), or levels by target in the form of `RUST_LOG` (`info,dataplane_amst=debug`).
    pub level: String,
    /// Lines also go there.
    pub file: Option<PathBuf>,
    /// OTLP over gRPC, for example `http://localhost:4317`; nothing is exported without.
    pub otlp_endpoint: Option<String>,
    /// The share of traces that begin here and are kept, 0 to 1; of others their beginner's decision holds.
    pub sample_rate: f64,
    /// Lines of one kind in a second, over ten seconds; more are counted and left out.
    pub log_lines_per_second: u32,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people where standard error is a terminal, JSON else.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Options {
    /// Level info, on standard error, every trace kept, none exported.
    #[must_use]
    pub fn new(service: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            version: version.into(),
            instance: String::new(),
            format: Format::Auto,
            level: "info".to_owned(),
            file: None,
            otlp_endpoint: None,
            sample_rate: 1.0,
            log_lines_per_second: crate::restraint::LINES_PER_SECOND,
        }
    }
}
