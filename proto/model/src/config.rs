//! Configuration (being laid).
