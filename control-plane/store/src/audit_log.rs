//! The audit log in the database: appended to under the lock of its head, read in order, proven from the stored full subtrees.

mod append;
mod filter;
mod read;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use foundation_merkle::{Checkpoint, Frontier, Hash, VerifierKey};

pub(crate) use self::append::{append, append_on, require_no_change};
pub use self::{
    filter::{EventFilter, FilterError},
    read::{
        Head, LogReader, Order, ProveError, StoredEvent, event, first_at, head, left_of, list, newest_sequence,
        prove_consistency, prove_inclusion,
    },
};
use crate::Error;

/// The key that signs the log's head, and what this server knows of the log it signs: a head that does not continue that is never signed,
/// whoever wrote it into the database.
pub struct AuditKey {
    key: SigningKey,
    verifier: VerifierKey,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The newest head that this server committed, or found in its data directory.
    head: Option<(Checkpoint, String)>,
    /// Why nothing is to be signed.
    alarm: Option<String>,
}

impl AuditKey {
    /// A key under its name.
    ///
    /// # Errors
    /// The name cannot stand in a signed note.
    pub fn new(name: &str, key: SigningKey) -> Result<Self, foundation_merkle::CheckpointError> {
        let verifier = VerifierKey::new(name, key.verifying_key())?;
        Ok(Self { key, verifier, known: Mutex::default() })
    }

    /// What verifies its signatures.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }

    /// From here on the log must continue this head, which was signed by this key.
    pub fn know(&self, head: Checkpoint, text: &str) {
        let mut known = self.known();
        // Commits are heard of in any order.
        let is_newer =
            known.head.as_ref().is_none_or(|(before, _)| before.origin != head.origin || before.size <= head.size);
        if is_newer {
            known.head = Some((head, text.to_owned()));
        }
    }

    /// The log is not what it was: nothing is signed until it is.
    pub fn refuse(&self, finding: &str) {
        self.known().alarm = Some(finding.to_owned());
    }

    /// The log continues what it was. Whether it had not.
    pub fn accept(&self) -> bool {
        self.known().alarm.take().is_some()
    }

    /// Why nothing is signed.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        self.known().alarm.clone()
    }

    pub(crate) fn sign(&self, origin: &str, size: u64, root: Hash) -> Result<String, Error> {
        Checkpoint { origin: origin.to_owned(), size, root }
            .sign(self.verifier.name(), &self.key)
            .map_err(|_unfit_name| Error::Damaged("name of the audit log"))
    }

    /// Whether the stored head may be built upon: it is signed by this key, it is that of this very tree, and no older than one that is
    /// known. Else whoever has the database would have this server sign what he likes.
    fn require_signed(&self, origin: &str, text: &str, tree: &Frontier) -> Result<(), Error> {
        let known = self.known();
        let found = if let Some(alarm) = &known.alarm {
            Some(alarm.clone())
        } else {
            self.contradiction(known.head.as_ref(), origin, text, tree)
        };
        found.map_or(Ok(()), |finding| Err(Error::AuditTampered(finding)))
    }

    fn contradiction(
        &self,
        known: Option<&(Checkpoint, String)>,
        origin: &str,
        text: &str,
        tree: &Frontier,
    ) -> Option<String> {
        let signed = match known {
            Some((head, same)) if same == text => head.clone(),
            Some(_) | None => match Checkpoint::parse_and_verify(text, &self.verifier) {
                Ok(head) => head,
                Err(error) => return Some(format!("its head is not signed as it should be: {error}")),
            },
        };
        if signed.origin != origin || signed.size != tree.size() || signed.root != tree.root() {
            return Some("its head is not the one that was signed".to_owned());
        }
        let (before, _) = known.filter(|(before, _)| before.origin == signed.origin)?;
        if signed.size < before.size {
            return Some(format!("it has {} events, and had {}: it was rolled back", signed.size, before.size));
        }
        (signed.size == before.size && signed.root != before.root)
            .then(|| format!("its {} events are others than before: it was rewritten", signed.size))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every holder only replaces whole fields.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditKey({})", self.verifier)
    }
}

fn signed(number: u64) -> Result<i64, Error> {
    i64::try_from(number).map_err(|_too_large| Error::Damaged("size of the audit log"))
}
