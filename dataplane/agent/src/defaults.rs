//! The port of QUIC by default (RN-8), for `join`, which tries it before there is a configuration.

/// QUIC.
pub(crate) const QUIC_PORT: u16 = 30906;
