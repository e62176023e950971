//! What a host trusts, on disk: `trust.bin` (the bundle), `roster.bin` (signed entries and head), and `revocations.bin`
//! (signed revocations that a restored control plane does not know of).
//!
//! The roster is verified by the roster key when it is read as when it arrives, and written before anybody sees it. One
//! that does not verify on disk is set aside with a warning: the host then knows nobody until the control plane has sent
//! all again, which is safe, while refusing to start would not help anybody.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use foundation_runtime::{checked, durable};
use prost::Message;
use proto_model::{Epoch, TrustBundle};
use proto_rpc::agent as rpc;
use proto_wire::Signed;

use crate::{
    Membership, RosterError, RosterUpdate,
    roster::{Applied, Roster},
};

/// The bundle's file.
const TRUST_FILE: &str = "trust.bin";

/// The roster's file.
const ROSTER_FILE: &str = "roster.bin";

/// The revocations' file; there only while there are any.
const REVOCATIONS_FILE: &str = "revocations.bin";

/// The bundle and the roster of a data directory. Clones are the same store.
#[derive(Clone, Debug)]
pub struct TrustStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    bundle: ArcSwap<TrustBundle>,
    /// Held over the write, so that what is on disk and what is in force never differ in order.
    roster: Mutex<Roster>,
    membership: Membership,
}

/// Why what a host trusts cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustStoreError {
    /// A file cannot be read or written.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// The bundle cannot be read.
    #[error("{path} is damaged ({reason}); restore it from a backup, or remove node.json and join anew with a token made for this node", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A bundle of another fleet.
    #[error("the trust bundle is another fleet's")]
    OtherFleet,
    /// A bundle of an epoch that this host has left behind.
    #[error(
        "the control plane is in epoch {offered}, and this host has seen epoch {seen}: an older database runs there; restore it with \
         `dwcp-control-plane restore --epoch {next}`, or open that epoch in it with `open-epoch`", next = seen.value() + 1
    )]
    OlderEpoch {
        /// What is offered.
        offered: Epoch,
        /// What was seen.
        seen: Epoch,
    },
    /// The roster update was refused.
    #[error("the roster update was refused")]
    Roster(#[from] RosterError),
}

impl TrustStore {
    /// The store of a data directory; none where the host has not joined.
    ///
    /// # Errors
    /// See [`TrustStoreError`].
    pub fn load(dir: &Path) -> Result<Option<Self>, TrustStoreError> {
        let path = dir.join(TRUST_FILE);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let bundle = parse_bundle(&bytes).map_err(|reason| TrustStoreError::Damaged { path, reason })?;
        let mut roster = load_roster(&dir.join(ROSTER_FILE), &bundle)?;
        if let Some(bytes) = read(&dir.join(REVOCATIONS_FILE))? {
            roster.carry(&roster_key(&bundle), &parse_carried(&bytes, &dir.join(REVOCATIONS_FILE)));
        }
        Ok(Some(Self::new(dir, bundle, roster)))
    }

    /// Puts the bundle of a fleet that this host has just joined into a data directory; an old roster there is removed.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn create(dir: &Path, bundle: TrustBundle) -> Result<Self, TrustStoreError> {
        for file in [ROSTER_FILE, REVOCATIONS_FILE] {
            let path = dir.join(file);
            durable::remove(&path).map_err(|source| TrustStoreError::Io { path, source })?;
        }
        write(&dir.join(TRUST_FILE), &seal(&bundle))?;
        Ok(Self::new(dir, bundle, Roster::default()))
    }

    fn new(dir: &Path, bundle: TrustBundle, roster: Roster) -> Self {
        let membership = Membership::of_roster(&roster);
        let bundle = ArcSwap::from_pointee(bundle);
        Self(Arc::new(Inner { dir: dir.to_path_buf(), bundle, roster: Mutex::new(roster), membership }))
    }

    /// What is trusted now.
    #[must_use]
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.0.bundle.load_full()
    }

    /// Who is in the fleet, as it changes.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.0.membership
    }

    /// Revocations that the control plane does not know of since it was restored, as they were signed: to be given back to it.
    #[must_use]
    pub fn revocations_to_replay(&self) -> Vec<Signed> {
        self.0.roster.lock().unwrap_or_else(PoisonError::into_inner).carried()
    }

    /// Takes a newer bundle of the same fleet, from an authenticated session. Blocks on the disk.
    ///
    /// # Errors
    /// Another fleet's and one of an earlier epoch are refused; or what the file system answers.
    pub fn replace_bundle(&self, bundle: TrustBundle) -> Result<(), TrustStoreError> {
        let present = self.bundle();
        if bundle.fleet != present.fleet {
            return Err(TrustStoreError::OtherFleet);
        }
        if bundle.epoch < present.epoch {
            return Err(TrustStoreError::OlderEpoch { offered: bundle.epoch, seen: present.epoch });
        }
        if bundle == *present {
            return Ok(());
        }
        write(&self.0.dir.join(TRUST_FILE), &seal(&bundle))?;
        self.0.bundle.store(Arc::new(bundle));
        Ok(())
    }

    /// Takes a part of a roster update; with the part that has the head it is written and then in force, and
    /// [`Membership::changes`] moves on. Blocks on the disk.
    ///
    /// # Errors
    /// [`TrustStoreError::Roster`]: the old roster stays in force, and all of the new should be asked for.
    pub fn apply(&self, update: &RosterUpdate) -> Result<(), TrustStoreError> {
        let mut roster = self.0.roster.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = roster.clone();
        let applied =
            next.apply(&roster_key(&self.bundle()), update).inspect_err(|_refused| roster.forget_pending())?;
        if applied == Applied::InForce {
            // First, so that a revocation is never on neither list.
            keep_carried(&self.0.dir.join(REVOCATIONS_FILE), next.carried())?;
            write(&self.0.dir.join(ROSTER_FILE), &rpc::RosterUpdate::from(next.to_update()).encode_to_vec())?;
            self.0.membership.publish(&next);
        }
        *roster = next;
        Ok(())
    }
}

fn keep_carried(path: &Path, entries: Vec<Signed>) -> Result<(), TrustStoreError> {
    if entries.is_empty() {
        return durable::remove(path).map_err(|source| TrustStoreError::Io { path: path.to_path_buf(), source });
    }
    let kept = RosterUpdate { full: false, entries, head: None };
    write(path, &checked::seal(&rpc::RosterUpdate::from(kept).encode_to_vec()))
}

fn seal(bundle: &TrustBundle) -> Vec<u8> {
    checked::seal(&rpc::TrustBundle::from(bundle.clone()).encode_to_vec())
}

fn parse_bundle(file: &[u8]) -> Result<TrustBundle, String> {
    let bytes = checked::open(file).map_err(|damage| damage.to_string())?;
    let bundle = rpc::TrustBundle::decode(bytes).map_err(|error| error.to_string())?;
    TrustBundle::try_from(bundle).map_err(|error| error.to_string())
}

/// The revocations that are whole: each is signed by itself. Of a damaged file it is said that some may be missing.
fn parse_carried(file: &[u8], path: &Path) -> Vec<Signed> {
    let bytes = checked::open(file).unwrap_or_else(|damage| {
        tracing::error!(path = %path.display(), %damage, "The kept revocations are damaged; revoke again whoever was revoked since the backup that the control plane was restored from");
        file.get(..file.len().saturating_sub(32)).unwrap_or_default()
    });
    let kept = rpc::RosterUpdate::decode(bytes).map_err(|_malformed| RosterError::Malformed);
    kept.and_then(RosterUpdate::try_from).unwrap_or_default().entries
}

fn load_roster(path: &Path, bundle: &TrustBundle) -> Result<Roster, TrustStoreError> {
    let Some(bytes) = read(path)? else { return Ok(Roster::default()) };
    let update = rpc::RosterUpdate::decode(bytes.as_slice()).map_err(|_malformed| RosterError::Malformed);
    let update = update.and_then(RosterUpdate::try_from);
    let mut roster = Roster::default();
    match update.and_then(|update| roster.apply(&roster_key(bundle), &update)) {
        Ok(Applied::InForce | Applied::Pending) => Ok(roster),
        Err(reason) => {
            tracing::warn!(path = %path.display(), %reason, "The roster on disk is set aside; the control plane sends it again");
            Ok(Roster::default())
        }
    }
}

fn roster_key(bundle: &TrustBundle) -> ed25519_dalek::VerifyingKey {
    *bundle.roster_key.verifying_key()
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, TrustStoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TrustStoreError::Io { path: path.to_path_buf(), source }),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrustStoreError> {
    durable::replace(path, bytes, 0o600).map_err(|source| TrustStoreError::Io { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests;
