//! What the log's signed heads are called.

/// The origin line of a fleet's checkpoints. A restore opens a new epoch, and with it a log of another name, so that nobody takes the
/// restored head for a rewritten one.
#[must_use]
pub fn origin(fleet_id: &str, epoch: u64) -> String {
    format!("dwcp.dev/audit/{fleet_id}/{epoch}")
}

/// The name of the key that signs a fleet's checkpoints, the same in every epoch.
#[must_use]
pub fn key_name(fleet_id: &str) -> String {
    format!("dwcp.dev/audit/{fleet_id}")
}

/// The epoch of a log, from its origin, where it is one of this fleet's key.
#[must_use]
pub fn epoch_of(origin: &str, key_name: &str) -> Option<u64> {
    origin.strip_prefix(key_name)?.strip_prefix('/')?.parse().ok()
}
