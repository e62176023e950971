//! What an HTTP server says of rendered metrics.

/// The content type: the text format. Never OpenMetrics, which has no counter without `_total`.
#[must_use]
pub const fn content_type() -> &'static str {
    "text/plain; version=0.0.4"
}
