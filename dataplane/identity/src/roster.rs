//! The roster as this host keeps it: signed entries and the newest signed head. Pure: no disk, no clock.
//!
//! An update arrives in parts; it counts once the part with the head has come, and then only whole: every signature
//! verifies, nothing lies beyond the head, and the members are as many as the head says. A host that missed something
//! therefore finds out, and asks for all.
//!
//! A control plane that was restored from a backup may not know of a revocation that this host saw (D12). Such an entry is
//! carried over into the new epoch: it stays in force here, and is given back to the control plane, until that has a newer
//! entry of the member.

use std::{collections::BTreeMap, sync::Arc};

use ed25519_dalek::VerifyingKey;
use proto_model::{Epoch, NodeUid, RosterEntry, RosterHead, RosterSequence};
use proto_rpc::agent as rpc;
use proto_wire::{Signed, grant::OpenError, roster};

/// Entries of one roster, revoked ones included: ten times the fleet that an agent keeps whole (D1), some 40 MB.
const MAX_ENTRIES: usize = 100_000;

/// How far a roster goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RosterPosition {
    /// Counts restores of the control plane.
    pub epoch: Epoch,
    /// The newest entry's.
    pub sequence: RosterSequence,
}

/// A change of the roster, as the control plane sends it: not yet believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RosterUpdate {
    /// Whether this begins all there is, and what else is held is to be forgotten.
    pub full: bool,
    /// Entries, in order of their sequence numbers.
    pub entries: Vec<Signed>,
    /// The head; with the last part of an update.
    pub head: Option<Signed>,
}

/// Why an update was refused. What was held before stays in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Not signed by the fleet's roster key, or not readable.
    #[error("an entry or the head of the roster is not signed by the fleet's roster key")]
    Signature,
    /// Something in the update is not of its form.
    #[error("the roster update is malformed")]
    Malformed,
    /// More than is kept.
    #[error("the roster has over {MAX_ENTRIES} entries")]
    TooLarge,
    /// The head is older than the one that is held.
    #[error("the roster's head is older than the one in force")]
    Older,
    /// An entry is newer than the head.
    #[error("an entry of the roster is newer than its head")]
    BeyondHead,
    /// Something is missing: the whole roster must be asked for.
    #[error("the roster is incomplete: its head counts {expected} members, {found} are known")]
    Incomplete {
        /// By the head.
        expected: u64,
        /// Here.
        found: u64,
    },
}

/// A verified entry with the bytes that were signed.
#[derive(Debug)]
struct Kept {
    entry: RosterEntry,
    signed: Signed,
}

/// What is in force, and the parts of the next update.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    entries: BTreeMap<NodeUid, Arc<Kept>>,
    head: Option<Arc<(RosterHead, Signed)>>,
    pending: Vec<Arc<Kept>>,
    pending_full: bool,
    /// Revocations of an earlier epoch that the roster in force does not have.
    carried: BTreeMap<NodeUid, Arc<Kept>>,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The head is still to come.
    Pending,
    /// It is in force.
    InForce,
}

impl Roster {
    /// Takes a part of an update; on an error the parts so far are forgotten and what is in force stays.
    pub(crate) fn apply(&mut self, key: &VerifyingKey, update: &RosterUpdate) -> Result<Applied, RosterError> {
        let result = self.take(key, update);
        if result != Ok(Applied::Pending) {
            self.forget_pending();
        }
        result
    }

    /// Drops the parts of an update whose head has not come.
    pub(crate) fn forget_pending(&mut self) {
        self.pending = Vec::new();
        self.pending_full = false;
    }

    fn take(&mut self, key: &VerifyingKey, update: &RosterUpdate) -> Result<Applied, RosterError> {
        if update.full {
            self.pending.clear();
            self.pending_full = true;
        }
        if self.pending.len() + update.entries.len() > MAX_ENTRIES {
            return Err(RosterError::TooLarge);
        }
        for signed in &update.entries {
            let entry = roster::open_entry(key, signed).map_err(refused)?;
            self.pending.push(Arc::new(Kept { entry, signed: signed.clone() }));
        }
        let Some(signed) = &update.head else { return Ok(Applied::Pending) };
        let head = roster::open_head(key, signed).map_err(refused)?;
        let merged = self.merged(&head)?;
        let before = std::mem::replace(&mut self.entries, merged);
        if self.pending_full {
            for (uid, kept) in before.into_iter().filter(|(_, kept)| kept.entry.revoked) {
                self.carried.entry(uid).or_insert(kept);
            }
        }
        self.drop_outdated();
        self.head = Some(Arc::new((head, signed.clone())));
        Ok(Applied::InForce)
    }

    /// A member's newer entry, or the same one, takes the place of what was carried over.
    fn drop_outdated(&mut self) {
        let entries = &self.entries;
        self.carried.retain(|uid, kept| {
            entries.get(uid).is_none_or(|present| position_of(&present.entry) < position_of(&kept.entry))
        });
    }

    /// Takes back what was carried over before a restart; what is not a signed revocation is left out.
    pub(crate) fn carry(&mut self, key: &VerifyingKey, entries: &[Signed]) {
        for signed in entries.iter().take(MAX_ENTRIES) {
            match roster::open_entry(key, signed) {
                Ok(entry) if entry.revoked => {
                    self.carried.insert(entry.uid, Arc::new(Kept { entry, signed: signed.clone() }));
                }
                Ok(_) | Err(_) => tracing::warn!("A kept revocation cannot be read and is left out"),
            }
        }
        self.drop_outdated();
    }

    /// The revocations that the control plane does not know of, as they were signed.
    pub(crate) fn carried(&self) -> Vec<Signed> {
        self.carried.values().map(|kept| kept.signed.clone()).collect()
    }

    fn merged(&self, head: &RosterHead) -> Result<BTreeMap<NodeUid, Arc<Kept>>, RosterError> {
        let limit = RosterPosition { epoch: head.epoch, sequence: head.sequence };
        if limit < self.position() {
            return Err(RosterError::Older);
        }
        let mut entries = if self.pending_full { BTreeMap::new() } else { self.entries.clone() };
        for kept in &self.pending {
            let position = position_of(&kept.entry);
            if position > limit {
                return Err(RosterError::BeyondHead);
            }
            let newer = entries.get(&kept.entry.uid).is_none_or(|held| position_of(&held.entry) < position);
            if newer {
                entries.insert(kept.entry.uid, Arc::clone(kept));
            }
        }
        if entries.len() > MAX_ENTRIES {
            return Err(RosterError::TooLarge);
        }
        let found = entries.values().filter(|kept| !kept.entry.revoked).count();
        let found = u64::try_from(found).unwrap_or(u64::MAX);
        if found == head.members { Ok(entries) } else { Err(RosterError::Incomplete { expected: head.members, found }) }
    }

    /// How far what is in force goes.
    pub(crate) fn position(&self) -> RosterPosition {
        self.head.as_ref().map_or_else(RosterPosition::default, |head| RosterPosition {
            epoch: head.0.epoch,
            sequence: head.0.sequence,
        })
    }

    /// When the head in force was signed.
    pub(crate) fn head_time_ms(&self) -> Option<i64> {
        self.head.as_ref().map(|head| head.0.time.timestamp_millis())
    }

    /// The members that are not revoked.
    pub(crate) fn active(&self) -> impl Iterator<Item = &RosterEntry> {
        let entries = self.entries.values().map(|kept| &kept.entry);
        entries.filter(|entry| !entry.revoked && !self.carried.contains_key(&entry.uid))
    }

    /// All of what is in force, as an update.
    pub(crate) fn to_update(&self) -> RosterUpdate {
        RosterUpdate {
            full: true,
            entries: self.entries.values().map(|kept| kept.signed.clone()).collect(),
            head: self.head.as_ref().map(|head| head.1.clone()),
        }
    }
}

fn refused(error: OpenError) -> RosterError {
    match error {
        OpenError::Signature(_) => RosterError::Signature,
        OpenError::TooLarge | OpenError::Encoding | OpenError::Field(_) => RosterError::Malformed,
    }
}

fn position_of(entry: &RosterEntry) -> RosterPosition {
    RosterPosition { epoch: entry.epoch, sequence: entry.sequence }
}

impl TryFrom<rpc::RosterUpdate> for RosterUpdate {
    type Error = RosterError;

    fn try_from(update: rpc::RosterUpdate) -> Result<Self, Self::Error> {
        let signed = |bytes| Signed::try_from(bytes).map_err(|_length| RosterError::Malformed);
        Ok(Self {
            full: update.full,
            entries: update.entries.into_iter().map(signed).collect::<Result<_, _>>()?,
            head: update.head.map(signed).transpose()?,
        })
    }
}

impl From<RosterUpdate> for rpc::RosterUpdate {
    fn from(update: RosterUpdate) -> Self {
        Self {
            full: update.full,
            entries: update.entries.into_iter().map(Into::into).collect(),
            head: update.head.map(Into::into),
        }
    }
}
