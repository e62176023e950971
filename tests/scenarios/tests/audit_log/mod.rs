//! The log as whoever has the database can read it, write it anew, and sign it with a key of his choice.

use std::path::Path;

use anyhow::{Context, Result};
use control_plane_audit::Record;
use control_plane_pki::SealKey;
use ed25519_dalek::SigningKey;
use foundation_merkle::{Checkpoint, Frontier};
use tests_postgres::sql;

const TABLES: [&str; 3] = ["audit_events", "audit_nodes", "audit_head"];

/// All records, in their order.
pub(crate) struct Log {
    pub(crate) records: Vec<Record>,
    origin: String,
    key_name: String,
}

impl Log {
    pub(crate) fn read(url: &str) -> Result<Self> {
        let leaves = sql(url, "SELECT encode(leaf, 'hex') FROM audit_events ORDER BY sequence");
        let records = leaves.lines().map(|leaf| Ok(Record::from_leaf(&hex::decode(leaf)?)?));
        let name = sql(url, "SELECT split_part(verifier_key, '+', 1) FROM audit_head");
        Ok(Self {
            records: records.collect::<Result<_>>()?,
            origin: sql(url, "SELECT origin FROM audit_head"),
            key_name: name,
        })
    }

    /// Everything as the records are now: rows, tree, and a head that this key signs.
    pub(crate) fn write(&self, url: &str, key: &SigningKey) -> Result<()> {
        let frontier = self.write_rows(url)?;
        let head = Checkpoint { origin: self.origin.clone(), size: frontier.size(), root: frontier.root() };
        let checkpoint = head.sign(&self.key_name, key)?;
        drop(sql(url, &format!("UPDATE audit_head SET checkpoint = $x${checkpoint}$x$")));
        Ok(())
    }

    /// The same without a key: the signature stays what it was.
    pub(crate) fn write_below_the_old_head(&self, url: &str) -> Result<()> {
        self.write_rows(url).map(drop)
    }

    fn write_rows(&self, url: &str) -> Result<Frontier> {
        let (mut frontier, mut statement) = (Frontier::new(), String::from("BEGIN;\n"));
        for table in ["audit_events", "audit_nodes"] {
            statement += &format!("ALTER TABLE {table} DISABLE TRIGGER append_only; DELETE FROM {table};\n");
        }
        for record in &self.records {
            let (leaf, hash) = (hex::encode(record.leaf_bytes()), record.leaf_hash());
            statement += &format!(
                "INSERT INTO audit_events VALUES ({}, '{}', $x${}$x$, $x${}$x$, $x${}$x$, '{}', $x${}$x$, '{}', '\\x{leaf}', '\\x{hash}');\n",
                record.sequence,
                record.time.to_rfc3339(),
                record.actor,
                record.action,
                record.resource,
                record.outcome,
                serde_json::to_string(&record.detail)?,
                record.trace_id,
            );
            for (at, hash) in frontier.append(hash) {
                statement += &format!("INSERT INTO audit_nodes VALUES ({}, {}, '\\x{hash}');\n", at.level, at.index);
            }
        }
        let roots: String = frontier.roots().iter().map(ToString::to_string).collect();
        let (size, root) = (frontier.size(), frontier.root());
        statement +=
            &format!("UPDATE audit_head SET size = {size}, frontier = '\\x{roots}', root = '\\x{root}';\nCOMMIT");
        drop(sql(url, &statement));
        Ok(frontier)
    }
}

/// The fleet's real audit key, by whoever has the database and the seal key.
pub(crate) fn signing_key(url: &str, seal: &Path) -> Result<SigningKey> {
    let sealed = hex::decode(sql(url, "SELECT encode(sealed, 'hex') FROM keys WHERE name = 'audit'"))?;
    let secret = SealKey::load(seal)?.open("keys", "audit", &sealed)?;
    let secret: &[u8; 32] = secret.as_slice().try_into().context("a key of 32 bytes")?;
    Ok(SigningKey::from_bytes(secret))
}

/// Keeps the log as it is, and lets it be changed.
pub(crate) fn save(url: &str) {
    for table in TABLES {
        drop(sql(url, &format!("DROP TABLE IF EXISTS good_{table}; CREATE TABLE good_{table} AS TABLE {table}")));
    }
    for table in ["audit_events", "audit_nodes"] {
        drop(sql(url, &format!("ALTER TABLE {table} DISABLE TRIGGER append_only")));
    }
}

/// The log as it was kept.
pub(crate) fn put_back(url: &str) {
    let put = |table| format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM good_{table};");
    drop(sql(url, &format!("BEGIN; {} COMMIT", TABLES.map(put).concat())));
}
