//! Crate `dataplane-dht`.
