//! The agent as a witness of the audit log: it accepts a signed head only where that continues the one it saw before, and
//! remembers it on disk, so that a log that was rewritten or cut is found out.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use foundation_merkle::{
    Checkpoint, CheckpointError, Hash, HashError, MAX_PROOF_HASHES, VerifierKey, VerifyError, verify_consistency,
    verify_inclusion,
};
use foundation_runtime::{checked, durable};
use proto_rpc::agent::AuditCheckpoint;
use serde::{Deserialize, Serialize};

/// The file's name in the data directory.
const FILE: &str = "audit-witness.json";

/// A checkpoint is a few lines; what is longer is none.
const MAX_CHECKPOINT_BYTES: usize = 64 * 1024;

/// The record of a restore names a head and a backup; what is longer is none.
const MAX_LEAF_BYTES: usize = 64 * 1024;

/// The audit log's word for the record that opens an epoch.
const RESTORE_ACTION: &str = "fleet.restore";

/// The head that was accepted last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    epoch: u64,
    checkpoint: String,
}

/// Remembers the head that was accepted last.
#[derive(Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    seen: Option<Seen>,
}

/// Why a head is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// It is not signed as it should be.
    #[error("the audit log's head is not acceptable: {0}")]
    Unsigned(#[from] CheckpointError),
    /// It is larger than any head.
    #[error("the audit log's head has {0} bytes")]
    TooLong(usize),
    /// Its proof is not a list of hashes.
    #[error("the audit log's proof is malformed: {0}")]
    Proof(#[from] HashError),
    /// The log was cut.
    #[error("the audit log shrank from {seen} to {offered} records")]
    Shrank {
        /// Records that were seen.
        seen: u64,
        /// Records that are offered.
        offered: u64,
    },
    /// The log was rewritten.
    #[error("the audit log is not a continuation of what this agent saw: {0}")]
    Rewritten(#[from] VerifyError),
    /// Another log, and no restore that would explain it.
    #[error("the audit log is another one (`{offered}` in place of `{seen}`)")]
    OtherLog {
        /// The origin that was seen.
        seen: String,
        /// The origin that is offered.
        offered: String,
    },
    /// An epoch that no restore opened.
    #[error("the control plane says that it is in epoch {said}, and its audit log is of epoch {of_log}")]
    OtherEpoch {
        /// What the control plane says.
        said: u64,
        /// What the signed head says.
        of_log: u64,
    },
    /// Another log, and what explains it does not hold.
    #[error("the control plane says that it was restored, and its audit log does not show that: {0}")]
    NoRestore(&'static str),
    /// The proof begins elsewhere: to be asked for again, by a new session.
    #[error("the audit log's proof starts from {from} records, not from {seen}")]
    OtherStart {
        /// Where the proof starts.
        from: u64,
        /// Where it should.
        seen: u64,
    },
    /// The disk.
    #[error("cannot remember the audit log's head: {0}")]
    Io(#[from] io::Error),
}

impl WitnessError {
    /// Whether somebody tampered with the log, as far as can be told.
    pub const fn is_tampering(&self) -> bool {
        match self {
            Self::Unsigned(_)
            | Self::Shrank { .. }
            | Self::Rewritten(_)
            | Self::OtherLog { .. }
            | Self::OtherEpoch { .. }
            | Self::NoRestore(_) => true,
            Self::TooLong(_) | Self::Proof(_) | Self::OtherStart { .. } | Self::Io(_) => false,
        }
    }
}

impl Witness {
    /// Reads what was seen; a damaged file counts as none, with a line in the log.
    pub(crate) fn load(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let seen = match fs::read(&path) {
            Ok(bytes) => parse(&bytes)
                .inspect_err(|cause| tracing::warn!(path = %path.display(), cause, "The remembered audit head is damaged: the next one is taken as the first"))
                .ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path, seen })
    }

    /// The checkpoint that was accepted last.
    pub(crate) fn checkpoint(&self) -> Option<&str> {
        self.seen.as_ref().map(|seen| seen.checkpoint.as_str())
    }

    /// How many records the head that was accepted last covers.
    pub(crate) fn size(&self) -> u64 {
        let seen = self.seen.as_ref().and_then(|seen| Checkpoint::parse_unverified(&seen.checkpoint).ok());
        seen.map_or(0, |head| head.size)
    }

    /// Takes a head, or says why not. The first one is taken on its signature alone.
    pub(crate) fn offer(
        &mut self,
        offered: &AuditCheckpoint,
        key: &VerifierKey,
        epoch: u64,
    ) -> Result<(), WitnessError> {
        if offered.checkpoint.len() > MAX_CHECKPOINT_BYTES {
            return Err(WitnessError::TooLong(offered.checkpoint.len()));
        }
        let head = Checkpoint::parse_and_verify(&offered.checkpoint, key)?;
        // A restore names the log after its epoch, with the key: who has only the database cannot.
        let of_log = head.origin.rsplit('/').next().and_then(|number| number.parse::<u64>().ok());
        if let Some(of_log) = of_log.filter(|of_log| *of_log != epoch) {
            return Err(WitnessError::OtherEpoch { said: epoch, of_log });
        }
        if let Some(seen) = &self.seen {
            let before = Checkpoint::parse_unverified(&seen.checkpoint)?;
            if before == head {
                return Ok(());
            }
            if before.origin == head.origin {
                continues(&before, &head, offered)?;
            } else if epoch <= seen.epoch {
                // D12: only a restore, which opens a new epoch, begins another log.
                return Err(WitnessError::OtherLog { seen: before.origin, offered: head.origin });
            } else if offered.restore_leaf.is_empty() {
                // All that was seen was restored: the same tree goes on under the new name.
                continues(&before, &head, offered)?;
            } else {
                // Of what is lost no proof is possible; that it was lost by a restore stands in the log, for everybody to see.
                let restore = Restore::of(offered, &head, key)?;
                restore.explains(&before, seen.epoch, epoch)?;
                tracing::warn!(
                    component = "audit",
                    lost = before.size - restore.sequence,
                    "The control plane was restored: the audit log that this agent saw goes on from event {}",
                    restore.sequence
                );
            }
        }
        let seen = Seen { epoch, checkpoint: offered.checkpoint.clone() };
        let bytes = checked::seal_json(serde_json::to_value(&seen).expect("a number and a text always make JSON"));
        // Also where it cannot be kept: the next proof starts from this one.
        self.seen = Some(seen);
        durable::replace(&self.path, &bytes, 0o600)?;
        Ok(())
    }
}

/// The record that opens an epoch, and what it says.
struct Restore {
    sequence: u64,
    epoch: u64,
    epoch_before: u64,
}

impl Restore {
    /// The one that is offered, if it stands in the head.
    fn of(offered: &AuditCheckpoint, head: &Checkpoint, key: &VerifierKey) -> Result<Self, WitnessError> {
        let refused = WitnessError::NoRestore;
        if offered.restore_leaf.len() > MAX_LEAF_BYTES || offered.restore_inclusion.len() > MAX_PROOF_HASHES {
            return Err(refused("its record is too long"));
        }
        let record: serde_json::Value = serde_json::from_slice(&offered.restore_leaf)
            .map_err(|_malformed| refused("the record of the restore is none"))?;
        let number =
            |value: &serde_json::Value| value.as_u64().ok_or(refused("the record of the restore is not whole"));
        let (sequence, detail) = (number(&record["sequence"])?, &record["detail"]);
        if record["action"] != RESTORE_ACTION {
            return Err(refused("another record stands where the restore should"));
        }
        let proof = hashes(&offered.restore_inclusion)?;
        verify_inclusion(&head.root, head.size, sequence, &offered.restore_leaf, &proof)?;
        let restored = detail["restored_head"].as_str().unwrap_or_default();
        let restored = Checkpoint::parse_and_verify(restored, key)?;
        if restored.size != sequence || number(&detail["restored_size"])? != sequence {
            return Err(refused("the head that was restored is not of the events before it"));
        }
        Ok(Self { sequence, epoch: number(&detail["epoch"])?, epoch_before: number(&detail["epoch_before"])? })
    }

    /// Whether it lost the end of what was seen, and leads to the present epoch.
    fn explains(&self, before: &Checkpoint, seen: u64, present: u64) -> Result<(), WitnessError> {
        if self.sequence >= before.size {
            return Err(WitnessError::NoRestore("all that was seen was restored, and it is not continued"));
        }
        if self.epoch_before > seen || self.epoch <= seen || self.epoch > present {
            return Err(WitnessError::NoRestore("it is of another epoch"));
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<Seen, String> {
    let value = checked::open_json(bytes).map_err(|damage| damage.to_string())?;
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn continues(before: &Checkpoint, head: &Checkpoint, offered: &AuditCheckpoint) -> Result<(), WitnessError> {
    if head.size < before.size {
        return Err(WitnessError::Shrank { seen: before.size, offered: head.size });
    }
    if head.size > before.size && before.size > 0 && offered.from_size != before.size {
        return Err(WitnessError::OtherStart { from: offered.from_size, seen: before.size });
    }
    let proof = if head.size == before.size { &[][..] } else { offered.consistency.as_slice() };
    verify_consistency(before.size, &before.root, head.size, &head.root, &hashes(proof)?)?;
    Ok(())
}

fn hashes(proof: &[Vec<u8>]) -> Result<Vec<Hash>, HashError> {
    let hash = |bytes: &Vec<u8>| bytes.as_slice().try_into().map(Hash).map_err(|_length| HashError);
    proof.iter().take(MAX_PROOF_HASHES + 1).map(hash).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ed25519_dalek::SigningKey;
    use foundation_merkle::{Frontier, NodeAddress, consistency_proof, inclusion_proof, leaf_hash, root_at};

    use super::*;

    struct Log {
        key: SigningKey,
        nodes: HashMap<NodeAddress, Hash>,
        frontier: Frontier,
    }

    impl Log {
        fn of(records: &[&str]) -> Self {
            let mut log =
                Self { key: SigningKey::from_bytes(&[7; 32]), nodes: HashMap::new(), frontier: Frontier::default() };
            for record in records {
                log.nodes.extend(log.frontier.append(leaf_hash(record.as_bytes())));
            }
            log
        }

        fn verifier(&self) -> VerifierKey {
            VerifierKey::new("audit", self.key.verifying_key()).unwrap()
        }

        fn head(&self, origin: &str, from_size: u64, size: u64) -> AuditCheckpoint {
            let node = |address: NodeAddress| self.nodes.get(&address).copied();
            let root = root_at(size, node).unwrap();
            let proof = consistency_proof(from_size.min(size), size, node).unwrap();
            AuditCheckpoint {
                checkpoint: Checkpoint { origin: origin.to_owned(), size, root }.sign("audit", &self.key).unwrap(),
                consistency: proof.iter().map(|hash| hash.0.to_vec()).collect(),
                from_size,
                ..AuditCheckpoint::default()
            }
        }
    }

    #[test]
    fn follows_a_log_that_grows_and_remembers_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::of(&["a", "b", "c", "d", "e"]);
        let mut witness = Witness::load(dir.path()).unwrap();
        witness.offer(&log.head("fleet", 0, 3), &log.verifier(), 1).unwrap();
        witness.offer(&log.head("fleet", 3, 5), &log.verifier(), 1).unwrap();
        let mut witness = Witness::load(dir.path()).unwrap();
        assert_eq!(witness.checkpoint(), Some(log.head("fleet", 0, 5).checkpoint.as_str()));
        let shrank = witness.offer(&log.head("fleet", 0, 4), &log.verifier(), 1).unwrap_err();
        assert!(matches!(shrank, WitnessError::Shrank { seen: 5, offered: 4 }) && shrank.is_tampering());
    }

    #[test]
    fn a_head_that_cannot_be_kept_is_followed_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::of(&["a", "b", "c", "d", "e"]);
        let mut witness = Witness::load(dir.path()).unwrap();
        fs::remove_dir(dir.path()).unwrap();
        let unkept = witness.offer(&log.head("fleet", 0, 3), &log.verifier(), 1).unwrap_err();
        assert!(matches!(unkept, WitnessError::Io(_)));
        fs::create_dir(dir.path()).unwrap();
        witness.offer(&log.head("fleet", 3, 5), &log.verifier(), 1).unwrap();
        assert_eq!(Witness::load(dir.path()).unwrap().size(), 5);
    }

    #[test]
    fn a_rewritten_log_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut witness = Witness::load(dir.path()).unwrap();
        let log = Log::of(&["a", "b", "c"]);
        witness.offer(&log.head("fleet", 0, 3), &log.verifier(), 1).unwrap();
        let rewritten = Log::of(&["a", "X", "c", "d"]);
        let refused = witness.offer(&rewritten.head("fleet", 3, 4), &log.verifier(), 1).unwrap_err();
        assert!(matches!(refused, WitnessError::Rewritten(_)), "{refused}");
        let equal_size = witness.offer(&rewritten.head("fleet", 0, 3), &log.verifier(), 1).unwrap_err();
        assert!(equal_size.is_tampering(), "{equal_size}");
    }

    const BACKUP: [&str; 3] = ["a", "b", "c"];

    /// The log of a backup, restored as this epoch, with an offer for an agent that holds `held` records of before.
    fn restored(epoch: u64, held: u64, record: impl FnOnce(&mut serde_json::Value)) -> (Log, AuditCheckpoint) {
        let restored_head = Log::of(&BACKUP).head("fleet/1", 0, 3).checkpoint;
        let mut leaf = serde_json::json!({
            "sequence": 3, "action": "fleet.restore",
            "detail": {"epoch": epoch, "epoch_before": 1, "restored_size": 3, "restored_head": restored_head},
        });
        record(&mut leaf);
        let leaf = leaf.to_string();
        let log = Log::of(&[&BACKUP[..], &[&leaf, "e", "f"]].concat());
        let mut offered = log.head("fleet/2", held.min(6), 6);
        if held > 3 {
            let node = |address: NodeAddress| log.nodes.get(&address).copied();
            let proof = inclusion_proof(6, 3, node).unwrap();
            offered.restore_leaf = leaf.into_bytes();
            offered.restore_inclusion = proof.iter().map(|hash| hash.0.to_vec()).collect();
        }
        (log, offered)
    }

    fn holding(dir: &Path, records: &[&str]) -> Witness {
        let (log, mut witness) = (Log::of(records), Witness::load(dir).unwrap());
        witness.offer(&log.head("fleet/1", 0, log.frontier.size()), &log.verifier(), 1).unwrap();
        witness
    }

    #[test]
    fn a_restored_log_continues_what_was_seen_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (log, offered) = restored(2, 2, |_| ());
        let mut witness = holding(dir.path(), &["a", "b"]);
        assert!(matches!(witness.offer(&offered, &log.verifier(), 1), Err(WitnessError::OtherEpoch { .. })));
        witness.offer(&offered, &log.verifier(), 2).unwrap();
        // Whoever has the key and writes another history cannot show that it continues what was seen.
        let dir = tempfile::tempdir().unwrap();
        let mut witness = holding(dir.path(), &["a", "X"]);
        let refused = witness.offer(&offered, &log.verifier(), 2).unwrap_err();
        assert!(refused.is_tampering(), "{refused}");
    }

    #[test]
    fn a_lost_end_is_taken_only_where_the_log_tells_of_the_restore() {
        let dir = tempfile::tempdir().unwrap();
        let seen = ["a", "b", "c", "lost", "lost too"];
        let refused = |(log, offered): (Log, AuditCheckpoint)| {
            let refused = holding(dir.path(), &seen).offer(&offered, &log.verifier(), 2).unwrap_err();
            assert!(refused.is_tampering(), "{refused}");
        };
        let (log, offered) = restored(2, 5, |_| ());
        let no_record = AuditCheckpoint { restore_leaf: Vec::new(), from_size: 5, ..offered.clone() };
        refused((Log::of(&[]), no_record));
        refused(restored(2, 5, |leaf| leaf["action"] = "config.set".into()));
        refused(restored(2, 5, |leaf| leaf["detail"]["restored_size"] = 2.into()));
        refused(restored(2, 5, |leaf| leaf["detail"]["epoch"] = 1.into()));
        refused(restored(3, 5, |_| ()));
        // Not signed by the key, which stands in no database.
        refused(restored(2, 5, |leaf| {
            let forged = Checkpoint { origin: "fleet/1".to_owned(), size: 3, root: Hash([0; 32]) };
            let key = SigningKey::from_bytes(&[8; 32]);
            leaf["detail"]["restored_head"] = forged.sign("audit", &key).unwrap().into();
        }));
        let mut elsewhere = offered.clone();
        elsewhere.restore_inclusion.swap(0, 1);
        refused((Log::of(&[]), elsewhere));
        let mut witness = holding(dir.path(), &seen);
        witness.offer(&offered, &log.verifier(), 2).unwrap();
        assert_eq!(witness.size(), 6);
    }
}
