//! The signed roster as this server last read it, and what an agent still misses of it.
//!
//! One entry a member, the newest; entries are kept as they were signed (D1). An update is cut into parts so that none comes near the
//! message limit of gRPC; the signed head goes with the last one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use proto_model::{Epoch, NodeUid, RosterSequence};
use proto_wire::Signed;

use crate::message::{RosterPosition, ToAgent};

/// Entries in one message: at up to 2 KiB each well below gRPC's default limit of 4 MiB.
pub(crate) const MAX_ENTRIES_A_PART: usize = 1_000;

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) sequence: RosterSequence,
    pub(crate) uid: NodeUid,
    pub(crate) revoked: bool,
    pub(crate) signed: Arc<Signed>,
}

/// What is known of the roster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    epoch: Epoch,
    by_sequence: BTreeMap<RosterSequence, Member>,
    by_uid: HashMap<NodeUid, RosterSequence>,
    head: Option<Arc<Signed>>,
}

impl Roster {
    pub(crate) fn position(&self) -> RosterPosition {
        let sequence = self.by_sequence.last_key_value().map(|(sequence, _)| *sequence).unwrap_or_default();
        RosterPosition { epoch: self.epoch, sequence }
    }

    /// Takes what is newer than [`Roster::position`]; returns whom it revokes. Another epoch begins anew: give all its entries.
    pub(crate) fn apply(&mut self, epoch: Epoch, members: Vec<Member>) -> Vec<NodeUid> {
        if epoch != self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
        let mut revoked = Vec::new();
        for member in members {
            if let Some(older) = self.by_uid.insert(member.uid, member.sequence)
                && older != member.sequence
            {
                self.by_sequence.remove(&older);
            }
            if member.revoked {
                revoked.push(member.uid);
            }
            self.by_sequence.insert(member.sequence, member);
        }
        revoked
    }

    /// The head that goes with what stands here.
    pub(crate) fn set_head(&mut self, head: Signed) {
        self.head = Some(Arc::new(head));
    }

    /// What an agent that stands at `from` misses, in parts; nothing when it has all. A gap or another epoch means "send all".
    pub(crate) fn update(&self, from: RosterPosition) -> Vec<ToAgent> {
        let position = self.position();
        if from == position || self.head.is_none() {
            return Vec::new();
        }
        let full = from.epoch != position.epoch
            || from.sequence > position.sequence
            || from.sequence == RosterSequence::default();
        let after = if full { RosterSequence::default() } else { from.sequence };
        let missing: Vec<_> =
            self.by_sequence.range(after.next()..).map(|(_, member)| Arc::clone(&member.signed)).collect();
        let mut parts: Vec<_> = missing
            .chunks(MAX_ENTRIES_A_PART)
            .enumerate()
            .map(|(index, entries)| (full && index == 0, entries.to_vec(), None))
            .collect();
        if parts.is_empty() {
            parts.push((full, Vec::new(), None));
        }
        if let Some((_, _, head)) = parts.last_mut() {
            head.clone_from(&self.head);
        }
        parts.into_iter().map(|(full, entries, head)| ToAgent::Roster { full, entries, head }).collect()
    }
}
