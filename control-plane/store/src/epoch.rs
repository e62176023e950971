//! A new epoch (D12): what a restore makes of a database, so that nobody takes what was put back for what went on.
//!
//! The audit log goes on under a new origin, and its next record names the head that was restored. Generations begin anew above all
//! that agents have seen. Join tokens are void: who was let in with one after the backup was made is not known here. Operators' tokens
//! stay. Transfers that had not ended get a grant of the new epoch, and go on.

use chrono::{DateTime, SubsecRound as _, Utc};
use proto_model::Epoch;
use proto_wire::{Signed, grant};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Actor, AuditKey, Context, Error, Event, Keys, audit_log};

/// The audit log's word for the first record of an epoch.
pub const RESTORE: &str = "fleet.restore";

/// How a new epoch is opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its number; the next one where absent.
    pub epoch: Option<Epoch>,
    /// Now.
    pub now: DateTime<Utc>,
    /// Who.
    pub actor: Actor,
    /// What else the first record says, for example of which backup.
    pub detail: Map<String, Value>,
}

/// An epoch that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub epoch: Epoch,
    /// The one before.
    pub before: Epoch,
    /// Events of the audit log that was restored.
    pub audit_size: u64,
    /// Join tokens that were good and are void now.
    pub join_tokens: u64,
    /// Transfers that go on.
    pub transfers: u64,
    /// Nodes in the fleet.
    pub nodes: u64,
}

/// Why no epoch was opened.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] Error),
    /// The number is no later one.
    #[error(
        "epoch {asked} is not later than the restored one, {present}: give a number above all that agents have seen"
    )]
    NotLater {
        /// What was asked for.
        asked: Epoch,
        /// What is in the database.
        present: Epoch,
    },
}

impl From<sqlx::Error> for EpochError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Opens it; all or nothing, by the caller's transaction.
pub(crate) async fn open(
    connection: &mut PgConnection,
    keys: &Keys,
    audit_key: &AuditKey,
    opening: Opening,
) -> Result<Opened, EpochError> {
    let before = keys.epoch();
    let epoch = opening.epoch.unwrap_or_else(|| Epoch::new(before.value() + 1));
    if epoch <= before {
        return Err(EpochError::NotLater { asked: epoch, present: before });
    }
    let now = opening.now.trunc_subsecs(3);
    sqlx::query("UPDATE fleet SET epoch = $1").bind(number(epoch)).execute(&mut *connection).await?;
    begin_revisions(connection).await?;
    let join_tokens = void_join_tokens(connection, now).await?;
    begin_generations(connection, epoch, now).await?;
    let nodes = forget_sessions(connection).await?;
    let transfers = grant_anew(connection, keys, epoch).await?;
    let origin = control_plane_audit::origin(&keys.fleet().to_string(), epoch.value());
    let (audit_size, restored): (i64, String) =
        sqlx::query_as("SELECT size, checkpoint FROM audit_head FOR UPDATE").fetch_one(&mut *connection).await?;
    let mut event = Event::new(RESTORE, "fleet")
        .with("epoch", epoch.value())
        .with("epoch_before", before.value())
        .with("restored_size", audit_size)
        .with("join_tokens_voided", join_tokens)
        .with("transfers_going_on", transfers);
    for (name, value) in opening.detail {
        event = event.with(&name, value);
    }
    // The head as it was signed: its line breaks are part of it.
    event.detail.insert("restored_head".to_owned(), Value::String(restored));
    let context = Context { actor: opening.actor, ..Context::system() };
    audit_log::append_on(connection, now, audit_key, Some(origin), &context, &[event]).await?;
    let audit_size = u64::try_from(audit_size).map_err(|_negative| Error::Damaged("audit head"))?;
    Ok(Opened { epoch, before, audit_size, join_tokens, transfers, nodes })
}

async fn void_join_tokens(connection: &mut PgConnection, now: DateTime<Utc>) -> Result<u64, Error> {
    let voided = "UPDATE join_tokens SET revoke_time = $1 WHERE revoke_time IS NULL AND expire_time > $1 AND used_count < max_uses";
    Ok(sqlx::query(voided).bind(now).execute(connection).await?.rows_affected())
}

/// Nodes take an order of a transfer or a sync by its revision, and know of later ones than the backup does.
async fn begin_revisions(connection: &mut PgConnection) -> Result<(), Error> {
    let above = "UPDATE revision_counter SET value = value + 4294967296";
    sqlx::query(above).execute(connection).await?;
    Ok(())
}

/// The restore is the first write of its epoch, to every configuration: above what agents hold of any epoch before.
async fn begin_generations(connection: &mut PgConnection, epoch: Epoch, now: DateTime<Utc>) -> Result<(), Error> {
    let epoch = number(epoch);
    sqlx::query("UPDATE desired_state SET epoch = $1, generation = 1").bind(epoch).execute(&mut *connection).await?;
    sqlx::query("UPDATE configs SET epoch = $1, generation = 1").bind(epoch).execute(&mut *connection).await?;
    sqlx::query("UPDATE rollouts SET state = 'superseded', end_time = $1 WHERE state = 'running'")
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

async fn forget_sessions(connection: &mut PgConnection) -> Result<u64, Error> {
    for statement in ["DELETE FROM node_sessions", "DELETE FROM servers"] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    let forget = "UPDATE nodes SET connected = false, state = 'offline', \
                  state_reason = 'has not connected since the control plane was restored' WHERE revoke_time IS NULL";
    Ok(sqlx::query(forget).execute(connection).await?.rows_affected())
}

/// Signs the grants of transfers that have not ended for the new epoch. One that cannot be read ends by its time.
async fn grant_anew(connection: &mut PgConnection, keys: &Keys, epoch: Epoch) -> Result<u64, Error> {
    let rows: Vec<(Uuid, Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT id, grant_payload, grant_signature FROM transfers WHERE end_time IS NULL")
            .fetch_all(&mut *connection)
            .await?;
    let mut count = 0;
    for (id, payload, signature) in rows {
        let Ok(signature) = signature.try_into() else { continue };
        let Ok(held) = grant::open(&keys.grant().verifying_key(), &Signed { payload, signature }) else { continue };
        let signed = grant::sign(keys.grant(), &proto_model::Grant { epoch, ..held });
        sqlx::query("UPDATE transfers SET grant_payload = $2, grant_signature = $3 WHERE id = $1")
            .bind(id)
            .bind(signed.payload)
            .bind(signed.signature.as_slice())
            .execute(&mut *connection)
            .await?;
        count += 1;
    }
    Ok(count)
}

fn number(epoch: Epoch) -> i64 {
    epoch.value().cast_signed()
}
