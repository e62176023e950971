//! Who is in the fleet, entry by entry signed with the roster key, in the transaction that changes the member (D1).
//!
//! An entry's sequence is the revision at which it changed: unique, growing, and visible in that order.

use chrono::{DateTime, SubsecRound as _, Utc};
use proto_model::{Epoch, RosterEntry, RosterHead, RosterSequence};
use proto_wire::{Signed, roster as wire};

use crate::{Db, Error, Keys, node::Node};

/// One entry as it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEntry {
    /// Its sequence.
    pub sequence: RosterSequence,
    /// What is handed on as it is.
    pub signed: Signed,
}

pub(crate) fn sign(keys: &Keys, node: &Node) -> Signed {
    let entry = RosterEntry {
        epoch: keys.epoch(),
        sequence: RosterSequence::new(node.revision.value()),
        uid: node.uid,
        name: node.name.clone(),
        public_key: node.public_key,
        labels: node.labels.clone(),
        relay: node.relay,
        revoked: node.revoke_time.is_some(),
    };
    wire::sign_entry(keys.roster(), &entry)
}

/// At most `limit` entries after `after`, in order; revoked ones too.
///
/// # Errors
/// The database failed.
pub async fn entries_after(db: &Db, after: RosterSequence, limit: u32) -> Result<Vec<SignedEntry>, Error> {
    let after = i64::try_from(after.value()).unwrap_or(i64::MAX);
    let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = db
        .read(move |connection| {
            Box::pin(async move {
                Ok(sqlx::query_as(
                    "SELECT roster_sequence, roster_payload, roster_signature FROM nodes
                     WHERE roster_sequence > $1 ORDER BY roster_sequence LIMIT $2",
                )
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(connection)
                .await?)
            })
        })
        .await?;
    let damaged = || Error::Damaged("roster entry");
    rows.into_iter()
        .map(|(sequence, payload, signature)| {
            let sequence = u64::try_from(sequence).map_err(|_negative| damaged())?;
            let signature = signature.try_into().map_err(|_length| damaged())?;
            Ok(SignedEntry { sequence: RosterSequence::new(sequence), signed: Signed { payload, signature } })
        })
        .collect()
}

/// The head as of now. Read it before the entries: then these reach it.
///
/// # Errors
/// The database failed.
pub async fn head(db: &Db, epoch: Epoch, now: DateTime<Utc>) -> Result<RosterHead, Error> {
    let (sequence, members): (i64, i64) = db
        .read(|connection| {
            Box::pin(async move {
                Ok(sqlx::query_as(
                    "SELECT coalesce(max(roster_sequence), 0), count(*) FILTER (WHERE revoke_time IS NULL) FROM nodes",
                )
                .fetch_one(connection)
                .await?)
            })
        })
        .await?;
    let number = |value: i64| u64::try_from(value).map_err(|_negative| Error::Damaged("roster"));
    Ok(RosterHead {
        epoch,
        sequence: RosterSequence::new(number(sequence)?),
        members: number(members)?,
        time: now.trunc_subsecs(3),
    })
}

/// Signs a head.
#[must_use]
pub fn sign_head(keys: &Keys, head: RosterHead) -> Signed {
    wire::sign_head(keys.roster(), &head)
}
