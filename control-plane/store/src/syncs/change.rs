//! What an operator changes of a sync, and the renewal of its grant.

use chrono::{SubsecRound as _, TimeDelta};
use futures::FutureExt as _;
use proto_model::{ConfigName, Epoch, Etag, GrantParty, NodeUid, PublicKey, Revision, SyncId, SyncName, SyncSpec};
use proto_wire::Signed;
use sqlx::Row as _;
use uuid::Uuid;

use super::{GRANT_TTL, RENEW_BEFORE, Sync, lock, lock_by_name, sign};
use crate::{
    Context, Db, Error, Event, Tx,
    transfers::{Granter, Pause},
};

/// Grants that are renewed in one transaction; the next sweep takes the rest.
const MAX_RENEWED_AT_ONCE: i64 = 200;
/// Epochs that have numbers of their own: the database's are signed.
const NUMBERS_EPOCHS: u64 = (1 << 30) - 1;

/// What an operator wants of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// No run begins until it is resumed.
    Pause {
        /// Why; may be empty.
        reason: String,
    },
    /// It goes on.
    Resume,
    /// A run now.
    Run {
        /// It may replace what others changed at the destination.
        overwrite: bool,
    },
}

/// Why a sync is not changed.
#[derive(Debug, thiserror::Error)]
pub enum CannotChange {
    /// There is none of that name.
    #[error("does not exist")]
    NotFound,
    /// It changed since it was read.
    #[error("has changed")]
    Stale(Etag),
    /// It cannot run any more.
    #[error("does not run any more: one of its nodes was removed from the fleet")]
    Ended,
    /// It is held.
    #[error("is paused")]
    Paused,
    /// A configuration asks for it.
    #[error("is asked for by {0}")]
    Configured(ConfigName),
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

async fn locked(tx: &mut Tx, name: &SyncName, etag: Option<&Etag>) -> Result<Sync, CannotChange> {
    let sync = lock_by_name(tx.connection(), name).await?.ok_or(CannotChange::NotFound)?;
    match etag {
        Some(etag) if *etag != sync.etag() => Err(CannotChange::Stale(sync.etag())),
        Some(_) | None => Ok(sync),
    }
}

/// Does what is asked; what is so already is fine, and changes nothing.
///
/// # Errors
/// [`CannotChange`]; nothing is stored then.
pub async fn change(
    tx: &mut Tx,
    name: &SyncName,
    etag: Option<&Etag>,
    order: Order,
    granter: &Granter,
) -> Result<Sync, CannotChange> {
    let mut sync = locked(tx, name, etag).await?;
    let event = |what: &'static str| Event::new(what, name.resource_name());
    match (order, sync.pause.is_some()) {
        (Order::Pause { .. }, true) | (Order::Resume, false) => {
            tx.discard();
            return Ok(sync);
        }
        (Order::Run { .. }, _) if sync.is_cut => return Err(CannotChange::Ended),
        (Order::Run { .. }, true) => return Err(CannotChange::Paused),
        (Order::Pause { reason }, false) => {
            let event = event("sync.pause");
            tx.audit(if reason.is_empty() { event } else { event.with("reason", reason.clone()) });
            sync.pause = Some(Pause { by: tx.context().actor.to_string(), reason, since: tx.now() });
        }
        (Order::Resume, true) => {
            tx.audit(event("sync.resume"));
            sync.pause = None;
        }
        (Order::Run { overwrite }, false) => {
            tx.audit(event("sync.run").with("overwrite", overwrite));
            sync.grant.run_request = next(sync.grant.run_request, granter.epoch);
            if overwrite {
                sync.grant.overwrite = next(sync.grant.overwrite, granter.epoch);
                regrant(tx, &mut sync, granter).await?;
            }
        }
    }
    sync.version += 1;
    write(tx, &mut sync).await?;
    Ok(sync)
}

/// Ends a sync: no run begins any more.
///
/// # Errors
/// [`CannotChange`]; nothing is stored then.
pub async fn delete(
    tx: &mut Tx,
    name: &SyncName,
    etag: Option<&Etag>,
    validate_only: bool,
) -> Result<Sync, CannotChange> {
    let mut sync = locked(tx, name, etag).await?;
    if let Some(config) = &sync.config {
        return Err(CannotChange::Configured(config.clone()));
    }
    if validate_only {
        tx.discard();
        return Ok(sync);
    }
    end(tx, &mut sync).await?;
    Ok(sync)
}

/// Ends a sync that is locked.
pub(super) async fn end(tx: &mut Tx, sync: &mut Sync) -> Result<(), Error> {
    let event = Event::new("sync.delete", sync.name.resource_name()).with("uid", sync.id.to_string());
    tx.audit(of_config(event, sync));
    sync.delete_time = Some(tx.now());
    sync.version += 1;
    write(tx, sync).await
}

/// Gives a sync that is locked another interval and other options. What its grant says of the options is signed anew.
pub(super) async fn amend(tx: &mut Tx, sync: &mut Sync, spec: SyncSpec, granter: &Granter) -> Result<(), Error> {
    let event = Event::new("sync.update", sync.name.resource_name())
        .with("uid", sync.id.to_string())
        .with("everySeconds", spec.every.as_secs())
        .with("exclude", spec.exclude.iter().map(ToString::to_string).collect::<Vec<_>>())
        .with("checksum", spec.checksum);
    tx.audit(of_config(event, sync));
    let is_granted = sync.spec.options() == spec.options();
    (sync.spec.every, sync.spec.exclude, sync.spec.checksum) = (spec.every, spec.exclude, spec.checksum);
    if !is_granted {
        regrant(tx, sync, granter).await?;
    }
    let stored = proto_rpc::v1::SyncSpec::from(sync.spec.clone());
    sqlx::query("UPDATE syncs SET every_ms = $2, exclude = $3, checksum = $4 WHERE id = $1")
        .bind(sync.id.uuid())
        .bind(i64::try_from(sync.spec.every.as_millis()).unwrap_or(i64::MAX))
        .bind(stored.exclude)
        .bind(stored.checksum)
        .execute(tx.connection())
        .await?;
    sync.version += 1;
    write(tx, sync).await
}

/// Which configuration asks for it, where one does.
pub(super) fn of_config(event: Event, sync: &Sync) -> Event {
    match &sync.config {
        Some(config) => event.with("config", config.to_string()),
        None => event,
    }
}

/// Writes what is desired; the ends are told.
async fn write(tx: &mut Tx, sync: &mut Sync) -> Result<(), Error> {
    sync.update_time = tx.now();
    sync.revision = tx.next_revision().await?;
    let pause = sync.pause.as_ref();
    sqlx::query(
        "UPDATE syncs SET pause_time = $2, paused_by = $3, pause_reason = $4, delete_time = $5, run_request = $6, version = $7, \
         update_time = $8, revision = $9, job_revision = $9 WHERE id = $1",
    )
    .bind(sync.id.uuid())
    .bind(pause.map(|pause| pause.since))
    .bind(pause.map_or("", |pause| pause.by.as_str()))
    .bind(pause.map_or("", |pause| pause.reason.as_str()))
    .bind(sync.delete_time)
    .bind(sync.grant.run_request.cast_signed())
    .bind(sync.version.cast_signed())
    .bind(sync.update_time)
    .bind(sync.revision.value().cast_signed())
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// The next of a sync's numbers: in each epoch above all of the epochs before, of which a restored database does not know the last ones while the
/// nodes do.
fn next(number: u64, epoch: Epoch) -> u64 {
    let restores = epoch.value().saturating_sub(1).min(NUMBERS_EPOCHS);
    (number + 1).max(restores << 32)
}

/// Signs a newer grant for the keys that the ends have now.
async fn regrant(tx: &mut Tx, sync: &mut Sync, granter: &Granter) -> Result<(), Error> {
    let now = tx.now();
    sync.grant.epoch = granter.epoch;
    sync.grant.serial = next(sync.grant.serial, granter.epoch);
    sync.grant_expire_time = (now + GRANT_TTL).trunc_subsecs(3) + TimeDelta::milliseconds(1);
    let ends = [party(tx, sync.ends[0]).await?, party(tx, sync.ends[1]).await?];
    let signed: Signed = sign(sync, ends, granter, now);
    sqlx::query(
        "UPDATE syncs SET grant_payload = $2, grant_signature = $3, grant_epoch = $4, grant_serial = $5, grant_expire_time = $6, \
         overwrite_order = $7 WHERE id = $1",
    )
    .bind(sync.id.uuid())
    .bind(&signed.payload)
    .bind(signed.signature.as_slice())
    .bind(sync.grant.epoch.value().cast_signed())
    .bind(sync.grant.serial.cast_signed())
    .bind(sync.grant_expire_time)
    .bind(sync.grant.overwrite.cast_signed())
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn party(tx: &mut Tx, uid: NodeUid) -> Result<GrantParty, Error> {
    let row = sqlx::query("SELECT public_key FROM nodes WHERE uid = $1 FOR SHARE").bind(uid.uuid());
    let row = row.fetch_one(tx.connection()).await?;
    let key: &[u8] = row.try_get("public_key")?;
    Ok(GrantParty { uid, key: PublicKey::try_from(key).map_err(|_bad| Error::Damaged("node"))? })
}

/// Renews grants well before their end, and those of an earlier epoch; forgets deleted syncs whose grants are over. Any server may do so at
/// any time. How many were renewed.
///
/// # Errors
/// The database failed.
pub async fn renew(db: &Db, granter: &Granter) -> Result<usize, Error> {
    let (now, epoch) = (db.clock().utc(), granter.epoch);
    let due: Vec<Uuid> = db
        .read(move |connection| {
            let select = sqlx::query_scalar(
                "SELECT y.id FROM syncs y JOIN nodes s ON s.uid = y.source JOIN nodes d ON d.uid = y.destination \
                 WHERE y.delete_time IS NULL AND s.revoke_time IS NULL AND d.revoke_time IS NULL \
                 AND (y.grant_expire_time < $1 OR y.grant_epoch <> $2) ORDER BY y.id LIMIT $3",
            );
            let select = select.bind(now + RENEW_BEFORE).bind(epoch.value().cast_signed()).bind(MAX_RENEWED_AT_ONCE);
            async move { Ok(select.fetch_all(connection).await?) }.boxed()
        })
        .await?;
    let mut renewed = 0;
    for id in due {
        let granter = granter.clone();
        let one = db.write("syncs.renew", Context::system(), move |tx| {
            async move { renew_one(tx, SyncId::new(id), &granter).await }.boxed()
        });
        renewed += usize::from(one.await?);
    }
    db.observe("syncs.forget", move |tx| {
        async move {
            let forget = sqlx::query("DELETE FROM syncs WHERE delete_time IS NOT NULL AND grant_expire_time < $1");
            forget.bind(now).execute(tx.connection()).await?;
            Ok::<_, Error>(())
        }
        .boxed()
    })
    .await?;
    Ok(renewed)
}

async fn renew_one(tx: &mut Tx, id: SyncId, granter: &Granter) -> Result<bool, Error> {
    let now = tx.now();
    let found = lock(tx.connection(), id).await?;
    let is_due = |sync: &Sync| sync.grant_expire_time < now + RENEW_BEFORE || sync.grant.epoch != granter.epoch;
    let Some(mut sync) = found.filter(|sync| sync.delete_time.is_none() && !sync.is_cut && is_due(sync)) else {
        // Another server was first.
        tx.discard();
        return Ok(false);
    };
    regrant(tx, &mut sync, granter).await?;
    let event = Event::new("sync.renew", sync.name.resource_name()).with("serial", sync.grant.serial);
    tx.audit(event.with("grantExpireTime", sync.grant_expire_time.to_rfc3339()));
    write(tx, &mut sync).await?;
    Ok(true)
}

/// Locks the syncs of a node that is being removed: rows come before the revision counter.
pub(crate) async fn lock_of_node(tx: &mut Tx, node: NodeUid) -> Result<(), Error> {
    let lock = "SELECT id FROM syncs WHERE delete_time IS NULL AND (source = $1 OR destination = $1) ORDER BY id FOR NO KEY UPDATE";
    sqlx::query(lock).bind(node.uuid()).execute(tx.connection()).await?;
    Ok(())
}

/// Tells the other ends of a removed node's syncs that these do not run any more.
pub(crate) async fn cut(tx: &mut Tx, node: NodeUid, revision: Revision) -> Result<(), Error> {
    let now = tx.now();
    sqlx::query(
        "UPDATE syncs SET revision = $2, job_revision = $2, update_time = $3 \
         WHERE delete_time IS NULL AND (source = $1 OR destination = $1)",
    )
    .bind(node.uuid())
    .bind(revision.value().cast_signed())
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}
