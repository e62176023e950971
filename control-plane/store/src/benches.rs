//! Benches: accepted with their grant in one transaction, shown while they run, ended once. They are no resources: their rows go an hour after
//! their end, and their records in the audit log stay.

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use prost::Message;
use proto_model::{
    BenchDirection, BenchGrant, BenchId, BenchReport, BenchSpec, BenchState, GrantParty, NodeName, NodeUid, Revision,
    Traceparent, TransferError, TransferRole,
};
use proto_rpc::agent;
use proto_wire::{Signed, bench};
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use crate::{
    Context, Db, Error, Event, Tx, Unaudited,
    transfers::{Granter, RefuseTransfer, Reported, find_party, newest_revision},
};

/// How long a grant lets a bench begin: an agent that is connected hears of it at once.
const BEGIN_WITHIN: TimeDelta = TimeDelta::minutes(1);
/// How much longer than data flows and the grant holds a bench may last: what goes before and after, as the agents bound it.
const GRACE: TimeDelta = TimeDelta::seconds(45);
/// How long a row is kept after its end, for who asks what became of it.
const KEPT: TimeDelta = TimeDelta::hours(1);
/// Benches that are told to one node: it runs one at a time.
const MAX_JOBS: i64 = 16;

/// A bench that is asked for.
#[derive(Clone, Debug)]
pub struct CreateBench {
    /// Its id.
    pub id: BenchId,
    /// What is asked for.
    pub spec: BenchSpec,
    /// Of the request.
    pub traceparent: Option<Traceparent>,
}

/// A bench as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bench {
    /// What its source last said; also its end.
    pub report: BenchReport,
    /// The source's present name, and the other end's.
    pub names: [NodeName; 2],
    /// When it was accepted.
    pub create_time: DateTime<Utc>,
    /// When it has to have ended.
    pub end_before: DateTime<Utc>,
    /// Of its last change.
    pub revision: Revision,
}

/// One bench for the node that runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchJob {
    /// Which.
    pub bench: BenchId,
    /// The signed grant.
    pub grant: Signed,
    /// Of the request that made it.
    pub traceparent: String,
}

/// Accepts a bench. Its source has to be connected: nothing is waited for.
///
/// # Errors
/// [`RefuseTransfer`]; nothing is stored then.
pub async fn create(tx: &mut Tx, request: CreateBench, granter: &Granter) -> Result<(), RefuseTransfer> {
    let spec = &request.spec;
    let source = find_party(tx.connection(), TransferRole::Sender, &spec.source_node).await?;
    let destination = find_party(tx.connection(), TransferRole::Receiver, &spec.destination_node).await?;
    if !source.connected {
        return Err(RefuseTransfer::Away { node: source.name });
    }
    let now = tx.now();
    let begin_before = now + BEGIN_WITHIN;
    let grant = BenchGrant {
        fleet: granter.fleet,
        epoch: granter.epoch,
        bench: request.id,
        source: GrantParty { uid: source.uid, key: source.key },
        destination: GrantParty { uid: destination.uid, key: destination.key },
        plan: spec.plan,
        not_before: now,
        not_after: begin_before,
    };
    let signed = bench::sign(&granter.key, &grant);
    let trace_id = request.traceparent.as_ref().map_or("", |traceparent| traceparent.trace_id());
    let revision = tx.next_revision().await?.value().cast_signed();
    sqlx::query(
        "INSERT INTO benches (id, source, destination, grant_payload, grant_signature, traceparent, trace_id, create_time, \
         begin_before, end_before, report, revision, job_revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
    )
    .bind(request.id.uuid())
    .bind(source.uid.uuid())
    .bind(destination.uid.uuid())
    .bind(&signed.payload)
    .bind(signed.signature.as_slice())
    .bind(request.traceparent.as_ref().map_or("", Traceparent::as_str))
    .bind(trace_id)
    .bind(now)
    .bind(begin_before)
    .bind(begin_before + TimeDelta::seconds(spec.plan.seconds.into()) + GRACE)
    .bind(encode(&BenchReport::new(request.id)))
    .bind(revision)
    .execute(tx.connection())
    .await
    .map_err(Error::from)?;
    let event = Event::new("bench.create", request.id.resource_name())
        .with("source", source.name.resource_name())
        .with("destination", destination.name.resource_name())
        .with("seconds", u64::from(spec.plan.seconds))
        .with("direction", direction_word(spec.plan.direction));
    tx.audit(event);
    Ok(())
}

fn direction_word(direction: BenchDirection) -> &'static str {
    match direction {
        BenchDirection::Forward => "forward",
        BenchDirection::Reverse => "reverse",
        BenchDirection::Both => "both",
    }
}

fn encode(report: &BenchReport) -> Vec<u8> {
    agent::BenchReport::from(report.clone()).encode_to_vec()
}

fn decode(bytes: &[u8]) -> Result<BenchReport, Error> {
    let report = agent::BenchReport::decode(bytes).ok().and_then(|report| BenchReport::try_from(report).ok());
    report.ok_or(Error::Damaged("bench's report"))
}

/// One bench.
///
/// # Errors
/// The database failed.
pub async fn find(db: &Db, id: BenchId) -> Result<Option<Bench>, Error> {
    let select = sqlx::query(
        "SELECT b.*, s.name AS source_name, d.name AS destination_name FROM benches b JOIN nodes s ON s.uid = b.source \
         JOIN nodes d ON d.uid = b.destination WHERE b.id = $1",
    )
    .bind(id.uuid());
    db.read(move |connection| {
        async move { select.fetch_optional(connection).await?.as_ref().map(read).transpose() }.boxed()
    })
    .await
}

fn read(row: &PgRow) -> Result<Bench, Error> {
    let name = |column| -> Result<NodeName, Error> {
        row.try_get::<String, _>(column)?.parse().map_err(|_bad| Error::Damaged("bench"))
    };
    let revision: i64 = row.try_get("revision")?;
    Ok(Bench {
        report: decode(row.try_get("report")?)?,
        names: [name("source_name")?, name("destination_name")?],
        create_time: row.try_get("create_time")?,
        end_before: row.try_get("end_before")?,
        revision: u64::try_from(revision).map(Revision::new).map_err(|_negative| Error::Damaged("revision"))?,
    })
}

/// What is known of a bench while its row is locked.
struct Standing {
    source: NodeUid,
    report: BenchReport,
    trace_id: String,
    ended: bool,
}

async fn lock(connection: &mut PgConnection, id: BenchId) -> Result<Option<Standing>, Error> {
    let row = sqlx::query(
        "SELECT source, report, trace_id, end_time IS NOT NULL AS ended FROM benches WHERE id = $1 FOR NO KEY UPDATE",
    );
    let row = row.bind(id.uuid()).fetch_optional(connection).await?;
    let standing = |row: PgRow| {
        Ok::<_, Error>(Standing {
            source: NodeUid::new(row.try_get("source")?),
            report: decode(row.try_get("report")?)?,
            trace_id: row.try_get("trace_id")?,
            ended: row.try_get("ended")?,
        })
    };
    row.map(standing).transpose()
}

async fn write_report(tx: &mut Unaudited, report: &BenchReport) -> Result<(), Error> {
    let now = tx.now();
    let revision = tx.next_revision().await?.value().cast_signed();
    let ended = report.state.is_end();
    sqlx::query(
        "UPDATE benches SET report = $2, revision = $3, end_time = CASE WHEN $4 THEN $5 END, \
         job_revision = CASE WHEN $4 THEN $3 ELSE job_revision END WHERE id = $1",
    )
    .bind(report.bench.uuid())
    .bind(encode(report))
    .bind(revision)
    .bind(ended)
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Takes what the source of a bench says. Its end is a record in the audit log.
///
/// # Errors
/// The database failed; the report may come again.
pub async fn report(db: &Db, node: NodeUid, report: &BenchReport) -> Result<Reported, Error> {
    let report = report.clone();
    if report.state.is_end() {
        let end = db.write("benches.end", Context::system(), move |tx| take_end(tx, node, report).boxed());
        return end.await;
    }
    db.observe("benches.progress", move |tx| {
        async move {
            let Some(standing) = lock(tx.connection(), report.bench).await? else { return Ok(Reported::Unknown) };
            if standing.source != node {
                return Ok(Reported::NotItsOwn);
            }
            if !standing.ended {
                write_report(tx, &report).await?;
            }
            Ok(Reported::Taken)
        }
        .boxed()
    })
    .await
}

async fn take_end(tx: &mut Tx, node: NodeUid, report: BenchReport) -> Result<Reported, Error> {
    let reported = match lock(tx.connection(), report.bench).await? {
        None => Reported::Unknown,
        Some(standing) if standing.source != node => Reported::NotItsOwn,
        Some(standing) if standing.ended => Reported::Taken,
        Some(standing) => {
            tx.audit(end_event(&report, &standing.trace_id));
            write_report(tx.unaudited(), &report).await?;
            return Ok(Reported::Taken);
        }
    };
    tx.discard();
    Ok(reported)
}

fn end_event(report: &BenchReport, trace_id: &str) -> Event {
    let event = Event::new("bench.end", report.bench.resource_name()).with("state", report.state.as_str());
    let sum = report.results.iter().fold(0_u64, |sum, result| sum.saturating_add(result.bytes));
    let event = if report.state == BenchState::Succeeded { event.with("bytes", sum) } else { event };
    match &report.error {
        Some(error) => event.with("reason", error.reason.clone()),
        None => event,
    }
    .in_trace(trace_id)
}

/// Ends a bench without a word of its source, which is told to stop; one that has ended is left alone.
///
/// # Errors
/// The database failed.
pub async fn finish(db: &Db, id: BenchId, state: BenchState, error: Option<TransferError>) -> Result<(), Error> {
    db.write("benches.finish", Context::system(), move |tx| {
        async move {
            let standing = lock(tx.connection(), id).await?;
            let Some(standing) = standing.filter(|standing| !standing.ended) else {
                tx.discard();
                return Ok(());
            };
            let report = BenchReport { state, error, ..standing.report };
            tx.audit(end_event(&report, &standing.trace_id));
            write_report(tx.unaudited(), &report).await
        }
        .boxed()
    })
    .await
}

/// What a node is to measure now.
///
/// # Errors
/// The database failed.
pub async fn jobs(db: &Db, node: NodeUid) -> Result<Vec<BenchJob>, Error> {
    let now = db.clock().utc();
    let select = sqlx::query(
        "SELECT id, grant_payload, grant_signature, traceparent FROM benches WHERE source = $1 AND end_time IS NULL \
         AND end_before > $2 ORDER BY create_time LIMIT $3",
    )
    .bind(node.uuid())
    .bind(now)
    .bind(MAX_JOBS);
    db.read(move |connection| async move { select.fetch_all(connection).await?.iter().map(read_job).collect() }.boxed())
        .await
}

fn read_job(row: &PgRow) -> Result<BenchJob, Error> {
    let signature: Vec<u8> = row.try_get("grant_signature")?;
    let signature = signature.try_into().map_err(|_length| Error::Damaged("bench"))?;
    let grant = Signed { payload: row.try_get("grant_payload")?, signature };
    Ok(BenchJob { bench: BenchId::new(row.try_get("id")?), grant, traceparent: row.try_get("traceparent")? })
}

/// The nodes whose benches changed after a revision, and how far that goes; none at the first reading.
///
/// # Errors
/// The database failed.
pub async fn nodes_with_new_jobs(db: &Db, after: Option<Revision>) -> Result<(Vec<NodeUid>, Revision), Error> {
    db.read(move |connection| {
        async move {
            let newest = newest_revision(connection).await?;
            let Some(after) = after.filter(|after| *after < newest) else { return Ok((Vec::new(), newest)) };
            let select = sqlx::query_scalar("SELECT source FROM benches WHERE job_revision > $1");
            let nodes: Vec<uuid::Uuid> = select.bind(after.value().cast_signed()).fetch_all(connection).await?;
            Ok((nodes.into_iter().map(NodeUid::new).collect(), newest))
        }
        .boxed()
    })
    .await
}

/// Ends benches that should have ended, and forgets old ones. Any server may do so at any time.
///
/// # Errors
/// The database failed.
pub async fn sweep(db: &Db) -> Result<(), Error> {
    let now = db.clock().utc();
    let late: Vec<uuid::Uuid> = db
        .read(move |connection| {
            let select =
                sqlx::query_scalar("SELECT id FROM benches WHERE end_time IS NULL AND end_before <= $1 LIMIT 200");
            async move { Ok(select.bind(now).fetch_all(connection).await?) }.boxed()
        })
        .await?;
    for id in late {
        finish(db, BenchId::new(id), BenchState::Failed, Some(silence())).await?;
    }
    db.observe("benches.forget", move |tx| {
        async move {
            let forget = sqlx::query("DELETE FROM benches WHERE end_time <= $1");
            forget.bind(now - KEPT).execute(tx.connection()).await?;
            Ok(())
        }
        .boxed()
    })
    .await
}

/// Why a bench ends whose source says nothing more.
#[must_use]
pub fn silence() -> TransferError {
    TransferError::new("NODE_OFFLINE", "the agent that runs it was not heard of again")
}
