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

#[cfg(test)]
mod tests {
    use super::*;

    fn member(sequence: u64, uid: u128) -> Member {
        let signed = Signed { payload: sequence.to_be_bytes().to_vec(), signature: [0; 64] };
        Member {
            sequence: RosterSequence::new(sequence),
            uid: NodeUid::new(uuid::Uuid::from_u128(uid)),
            revoked: false,
            signed: Arc::new(signed),
        }
    }

    fn roster(count: u64) -> Roster {
        let mut roster = Roster::default();
        roster.apply(Epoch::new(1), (1..=count).map(|n| member(n, n.into())).collect());
        roster.set_head(Signed { payload: Vec::new(), signature: [1; 64] });
        roster
    }

    /// Whether it is full, how many entries, whether with a head; for each part.
    fn shape(parts: Vec<ToAgent>) -> Vec<(bool, usize, bool)> {
        let shape = parts.into_iter().map(|part| match part {
            ToAgent::Roster { full, entries, head } => (full, entries.len(), head.is_some()),
            other => panic!("{other:?}"),
        });
        shape.collect()
    }

    fn at(epoch: u64, sequence: u64) -> RosterPosition {
        RosterPosition { epoch: Epoch::new(epoch), sequence: RosterSequence::new(sequence) }
    }

    #[test]
    fn sends_what_is_missing_and_all_after_a_gap() {
        let roster = roster(5);
        assert_eq!(shape(roster.update(at(1, 3))), [(false, 2, true)]);
        assert_eq!(shape(roster.update(at(1, 5))), []);
        assert_eq!(shape(roster.update(at(0, 3))), [(true, 5, true)]);
        assert_eq!(shape(roster.update(at(1, 9))), [(true, 5, true)]);
        assert_eq!(shape(roster.update(at(1, 0))), [(true, 5, true)]);
    }

    #[test]
    fn cuts_a_large_roster_into_parts_with_the_head_at_the_end() {
        let parts = shape(roster(2_500).update(at(0, 0)));
        assert_eq!(parts, [(true, 1_000, false), (false, 1_000, false), (false, 500, true)]);
    }

    #[test]
    fn a_changed_member_has_one_entry_the_newest() {
        let mut roster = roster(3);
        let gone = Member { revoked: true, ..member(4, 2) };
        assert_eq!(roster.apply(Epoch::new(1), vec![gone.clone()]), [gone.uid]);
        assert_eq!(shape(roster.update(at(0, 0))), [(true, 3, true)]);
        assert_eq!(roster.position(), at(1, 4));
    }
}
