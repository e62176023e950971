//! Which keys are a host's own, and which are secrets.

/// What a host allows on itself, and where its things are, comes from the host alone (D3): sections, or single keys.
const HOST_ONLY: [&str; 4] = ["roots", "network", "http", "logging.file"];

/// Values that are never shown, reported or hashed.
pub(super) const SECRETS: [&str; 1] = ["http.tls_private_key"];

/// Whether a key is taken only from the host's own layers.
pub(super) fn is_host_only(path: &str) -> bool {
    HOST_ONLY.iter().any(|own| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// Whether a key is taken only from the document that the control plane has of one node: syncs are granted there, and to that node.
pub(super) fn is_nodes_only(path: &str) -> bool {
    path.starts_with("syncs.")
}

/// Whether a value is never shown.
pub(super) fn is_secret(path: &str) -> bool {
    SECRETS.contains(&path)
}
