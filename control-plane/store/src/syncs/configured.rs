//! Syncs that a node's configuration asks for: made, changed and ended in the transaction that stores the document, by whoever stores it.
//!
//! Another source or destination is another sync: the one that was is ended. Another interval and other options are the same sync's.

use proto_model::{ConfigName, SyncName};

use super::{
    Bounds, CreateSync, RefuseSync, Sync,
    change::{amend, end},
    create::{check_room, ends, new, one_at_a_time, store},
    read, select_syncs,
};
use crate::{Db, Error, Tx, transfers::Granter};

/// What a configuration asks for.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Which configuration.
    pub config: ConfigName,
    /// All of its syncs. `validate_only` is not heeded: the transaction is discarded, or not.
    pub syncs: Vec<CreateSync>,
}

/// Why a configuration's syncs are not as it asks.
#[derive(Debug, thiserror::Error)]
pub enum RefuseConfigured {
    /// One of them cannot be.
    #[error("{name}: {why}")]
    Sync {
        /// Which.
        name: SyncName,
        /// Why.
        why: RefuseSync,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

/// Whether a configuration asks for syncs at present.
///
/// # Errors
/// The database failed.
pub async fn has_configured(db: &Db, config: &ConfigName) -> Result<bool, Error> {
    let select = sqlx::query_scalar("SELECT EXISTS (SELECT FROM syncs WHERE config = $1 AND delete_time IS NULL)");
    let select = select.bind(config.id());
    db.read(move |connection| Box::pin(async move { Ok(select.fetch_one(connection).await?) })).await
}

/// Makes a configuration's syncs what it asks for. Called by who holds the lock of configurations.
///
/// # Errors
/// The first that is refused, or the database failed; the transaction is to be given up then.
pub async fn configure(
    tx: &mut Tx,
    wanted: Configured,
    bounds: Bounds,
    granter: &Granter,
) -> Result<(), RefuseConfigured> {
    if wanted.syncs.is_empty() && owned(tx, &wanted.config, Lock::No).await?.is_empty() {
        return Ok(());
    }
    // All locks come before the first revision: of nodes, then of syncs.
    one_at_a_time(tx).await?;
    let present = owned(tx, &wanted.config, Lock::No).await?;
    let mut parties = Vec::with_capacity(wanted.syncs.len());
    for one in &wanted.syncs {
        let stays = present.iter().any(|sync| sync.name == one.name && sync.spec == one.spec && !sync.is_cut);
        let found = if stays { None } else { Some(ends(tx, &one.spec).await.map_err(|why| refused(one, why))?) };
        parties.push(found);
    }
    let mut present = owned(tx, &wanted.config, Lock::Yes).await?;
    for sync in &mut present {
        if !wanted.syncs.iter().any(|one| is_same(sync, one)) {
            end(tx, sync).await?;
        }
    }
    for (one, ends) in wanted.syncs.into_iter().zip(parties) {
        let Some(ends) = ends else { continue };
        let name = one.name.clone();
        let done = match present.iter_mut().find(|sync| is_same(sync, &one)) {
            Some(sync) => amend(tx, sync, one.spec, granter).await.map_err(RefuseSync::from),
            None => {
                async {
                    check_room(tx, &one, &ends, bounds).await?;
                    let mut sync = new(tx, one, &ends, Some(wanted.config.clone()), granter);
                    Ok(store(tx, &mut sync, &ends, granter).await?)
                }
                .await
            }
        };
        done.map_err(|why| RefuseConfigured::Sync { name, why })?;
    }
    Ok(())
}

fn refused(one: &CreateSync, why: RefuseSync) -> RefuseConfigured {
    RefuseConfigured::Sync { name: one.name.clone(), why }
}

/// Whether a sync that there is goes on as the one that is asked for.
fn is_same(sync: &Sync, one: &CreateSync) -> bool {
    let path = |spec: &proto_model::SyncSpec| (spec.source_path.clone(), spec.destination_path.clone());
    let ends = |spec: &proto_model::SyncSpec| (spec.source_node.clone(), spec.destination_node.clone());
    sync.name == one.name && !sync.is_cut && path(&sync.spec) == path(&one.spec) && ends(&sync.spec) == ends(&one.spec)
}

enum Lock {
    Yes,
    No,
}

async fn owned(tx: &mut Tx, config: &ConfigName, lock: Lock) -> Result<Vec<Sync>, Error> {
    let select = match lock {
        Lock::Yes => {
            select_syncs!("WHERE y.config = $1 AND y.delete_time IS NULL ORDER BY y.id FOR NO KEY UPDATE OF y")
        }
        Lock::No => select_syncs!("WHERE y.config = $1 AND y.delete_time IS NULL ORDER BY y.id"),
    };
    let rows = sqlx::query(select).bind(config.id()).fetch_all(tx.connection()).await?;
    rows.iter().map(read).collect()
}
