//! What a backup says of itself: its first part.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use control_plane_store::backup::{Facts, Table};
use serde::{Deserialize, Serialize};

/// The first part's name.
pub(super) const PART: &str = "manifest.json";

/// A manifest of a thousand tables is far below this.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// Files of the data directory, and the modes that they get.
pub(super) const FILES: [(&str, u32); 3] = [("seal.key", 0o600), ("ca.pem", 0o644), ("admin.token", 0o600)];

/// A file of these is small.
pub(super) const MAX_FILE_BYTES: usize = 64 * 1024;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The program that made it.
    pub version: String,
    /// When its snapshot was taken.
    pub time: DateTime<Utc>,
    /// The host that it was made on.
    pub host: String,
    /// The newest migration of the database.
    pub schema: i64,
    /// The trust domain.
    pub fleet_id: String,
    /// Counts restores.
    pub epoch: u64,
    /// The newest revision.
    pub revision: u64,
    /// Events of the audit log.
    pub audit_size: u64,
    /// The audit log's signed head.
    pub audit_head: String,
    /// Nodes in the fleet.
    pub nodes: u64,
    /// `sha256:` and the CA's fingerprint.
    pub ca_fingerprint: String,
    /// Files of the data directory, by name, with their SHA-256.
    pub files: BTreeMap<String, String>,
    /// Tables of the database.
    pub tables: Vec<Table>,
}

impl Manifest {
    /// Of a snapshot.
    pub(super) fn new(
        facts: &Facts,
        tables: &[Table],
        host: String,
        time: DateTime<Utc>,
        ca_fingerprint: String,
    ) -> Self {
        Self {
            version: crate::VERSION.to_owned(),
            time,
            host,
            schema: facts.schema,
            fleet_id: facts.fleet.to_string(),
            epoch: facts.epoch.value(),
            revision: facts.revision,
            audit_size: facts.audit_size,
            audit_head: facts.audit_checkpoint.clone(),
            nodes: facts.nodes,
            ca_fingerprint,
            files: BTreeMap::new(),
            tables: tables.to_vec(),
        }
    }

    /// One line for people.
    pub(super) fn summary(&self) -> String {
        format!(
            "fleet {} of epoch {}: {} nodes, {} audit events, revision {}; made by {} on {} at {}",
            self.fleet_id,
            self.epoch,
            self.nodes,
            self.audit_size,
            self.revision,
            self.version,
            proto_model::escape_str(&self.host),
            self.time.format("%Y-%m-%d %H:%M:%S UTC"),
        )
    }
}
