//! What a sync's sender says of its runs.

use futures::FutureExt as _;
use prost::Message;
use proto_model::{NodeUid, SyncReport, SyncResult, SyncRun};

use super::{Sync, lock};
use crate::{Context, Db, Error, Event, Tx, Unaudited, transfers::Reported};

/// Takes what a node says of the runs of a sync that it sends; the newest says all. Ends of runs that are heard of for the first time are one
/// record in the audit log, however many they are: a sync whose control plane was away may have had hundreds.
///
/// # Errors
/// The database failed; the report may come again.
pub async fn report(db: &Db, node: NodeUid, report: &SyncReport) -> Result<Reported, Error> {
    let quiet = report.clone();
    let quiet =
        db.observe("syncs.progress", move |tx| async move { take_quietly(tx, node, &quiet).await }.boxed()).await?;
    if let Some(reported) = quiet {
        return Ok(reported);
    }
    let report = report.clone();
    db.write("syncs.runs", Context::system(), move |tx| async move { take_runs(tx, node, &report).await }.boxed()).await
}

/// Runs that ended since the newest one that the audit log knows.
fn new_runs<'a>(sync: &Sync, report: &'a SyncReport) -> Vec<&'a SyncRun> {
    report.status.runs.iter().filter(|run| run.number > sync.grant.audited_run).collect()
}

async fn open(tx: &mut Unaudited, node: NodeUid, report: &SyncReport) -> Result<Result<Sync, Reported>, Error> {
    let Some(sync) = lock(tx.connection(), report.sync).await? else { return Ok(Err(Reported::Unknown)) };
    Ok(if sync.ends[0] == node { Ok(sync) } else { Err(Reported::NotItsOwn) })
}

async fn take_quietly(tx: &mut Unaudited, node: NodeUid, report: &SyncReport) -> Result<Option<Reported>, Error> {
    let sync = match open(tx, node, report).await? {
        Ok(sync) => sync,
        Err(reported) => return Ok(Some(reported)),
    };
    if !new_runs(&sync, report).is_empty() {
        return Ok(None);
    }
    write(tx, &sync, report).await?;
    Ok(Some(Reported::Taken))
}

async fn take_runs(tx: &mut Tx, node: NodeUid, report: &SyncReport) -> Result<Reported, Error> {
    let sync = match open(tx.unaudited(), node, report).await? {
        Ok(sync) => sync,
        Err(reported) => {
            tx.discard();
            return Ok(reported);
        }
    };
    let runs = new_runs(&sync, report);
    let (Some(newest), Some(oldest)) = (runs.first(), runs.last()) else {
        // The same report came before.
        tx.discard();
        return Ok(Reported::Taken);
    };
    let count = |result: SyncResult| u64::try_from(runs.iter().filter(|run| run.result == result).count()).unwrap_or(0);
    let mut event = Event::new("sync.runs", sync.name.resource_name())
        .with("node", sync.end_names[0].resource_name())
        .with("firstRun", oldest.number)
        .with("lastRun", newest.number)
        .with("issueCount", newest.issue_count);
    for result in SyncResult::ALL {
        event = event.with(result.word(), count(result));
    }
    if let Some(error) = &newest.error {
        event = event.with("reason", error.reason.clone());
    }
    tx.audit(event);
    write(tx.unaudited(), &sync, report).await?;
    Ok(Reported::Taken)
}

async fn write(tx: &mut Unaudited, sync: &Sync, report: &SyncReport) -> Result<(), Error> {
    let now = tx.now();
    let revision = tx.next_revision().await?.value().cast_signed();
    let newest = report.status.runs.first().map_or(0, |run| run.number).max(sync.grant.audited_run);
    sqlx::query(
        "UPDATE syncs SET status = $2, status_time = $3, audited_run = $4, update_time = $3, revision = $5 WHERE id = $1",
    )
    .bind(sync.id.uuid())
    .bind(proto_rpc::v1::SyncStatus::from(report.status.clone()).encode_to_vec())
    .bind(now)
    .bind(newest.cast_signed())
    .bind(revision)
    .execute(tx.connection())
    .await?;
    Ok(())
}
