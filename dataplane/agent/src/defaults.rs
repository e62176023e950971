//! Ports by default (RN-8 and the seeds' manuals), and where to listen.

/// QUIC.
pub const QUIC_PORT: u16 = 30906;
/// The DHT.
pub const DHT_PORT: u16 = 30609;
/// HTTP.
pub const HTTP_PORT: u16 = 8080;
/// Metrics.
pub const METRICS_PORT: u16 = 9090;
