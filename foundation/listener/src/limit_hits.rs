//! `dwcp_limit_hits_total`: what was refused or given up since a bound was reached, by the bound's name.

use metrics::counter;

/// A bound was reached. `limit` is its name in the configuration: one of a fixed set.
pub fn hit(limit: &'static str) {
    counter!("dwcp_limit_hits_total", "limit" => limit).increment(1);
}
