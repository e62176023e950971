//! The record of each write's way to the agents: one stage, whose result is what agents answered.
//!
//! Answers move a rollout's targets, unaudited, as they come. When no connected target is left without an answer, the rollout is
//! *settled*: that is a transaction of its own, audited, and harmless to repeat.

mod outcome;

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use proto_model::{ConfigName, Generation, NodeName, NodeUid, Revision};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

pub use outcome::{Answer, RolloutState, Tally};

use crate::{Context, Db, Error, Event, Tx, Unaudited};

/// One write's way to the agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Its id; `rollouts/{id}`.
    pub id: Uuid,
    /// Of which configuration.
    pub config: ConfigName,
    /// Which revision is rolled out; with `deletion`, which one is taken away.
    pub revision: Revision,
    /// Whether the configuration was removed.
    pub deletion: bool,
    /// The generation that agents answer for.
    pub generation: Generation,
    /// How far it is.
    pub state: RolloutState,
    /// When it began.
    pub create_time: DateTime<Utc>,
    /// When it ended.
    pub end_time: Option<DateTime<Utc>>,
    /// Every node that it is for, by name.
    pub targets: Vec<Target>,
}

/// One node that a rollout is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its present name.
    pub node: NodeName,
    /// What it answered.
    pub answer: Answer,
    /// Why it refused.
    pub errors: Vec<String>,
}

/// A write that has just been made.
pub(crate) struct Begin<'a> {
    pub(crate) id: Uuid,
    pub(crate) config: &'a ConfigName,
    pub(crate) revision: Revision,
    pub(crate) deletion: bool,
    pub(crate) generation: Generation,
}

/// Begins a rollout: what ran before and is covered by it is superseded, connected nodes are waited for.
pub(crate) async fn begin(tx: &mut Tx, write: Begin<'_>) -> Result<Rollout, Error> {
    let (id, now, config) = (write.id, tx.now(), write.config.id());
    supersede(tx, &config).await?;
    sqlx::query(
        "INSERT INTO rollouts (id, config, revision, deletion, epoch, generation, state, newest, create_time) \
         VALUES ($1, $2, $3, $4, $5, $6, 'running', true, $7)",
    )
    .bind(id)
    .bind(&config)
    .bind(write.revision.value().cast_signed())
    .bind(write.deletion)
    .bind(write.generation.epoch.value().cast_signed())
    .bind(write.generation.number.cast_signed())
    .bind(now)
    .execute(tx.connection())
    .await?;
    let node = match write.config {
        ConfigName::Fleet => None,
        ConfigName::Node(node) => Some(node.as_str()),
    };
    sqlx::query(
        "INSERT INTO rollout_targets (rollout, node, answer) \
         SELECT $1, n.uid, CASE WHEN s.node IS NULL THEN 'offline' ELSE 'pending' END \
         FROM nodes n LEFT JOIN node_sessions s ON s.node = n.uid \
         WHERE n.revoke_time IS NULL AND ($2::text IS NULL OR n.name = $2)",
    )
    .bind(id)
    .bind(node)
    .execute(tx.connection())
    .await?;
    settle_locked(tx, id).await?;
    let rollouts = read_all(tx.connection(), &[id]).await?;
    rollouts.into_iter().next().ok_or(Error::Damaged("rollout"))
}

/// A write of the fleet's configuration reaches every node, and so covers all that runs.
async fn supersede(tx: &mut Tx, config: &str) -> Result<(), Error> {
    let now = tx.now();
    let superseded: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE rollouts SET state = 'superseded', end_time = $2 \
         WHERE state = 'running' AND (config = $1 OR $1 = 'fleet') RETURNING id",
    )
    .bind(config)
    .bind(now)
    .fetch_all(tx.connection())
    .await?;
    sqlx::query("UPDATE rollouts SET newest = false WHERE newest AND config = $1")
        .bind(config)
        .execute(tx.connection())
        .await?;
    for id in superseded {
        tx.audit(Event::new("rollout.end", resource_name(id)).with("state", RolloutState::Superseded.as_str()));
        count(RolloutState::Superseded);
    }
    Ok(())
}

/// `rollouts/{rollout}`.
#[must_use]
pub fn resource_name(id: Uuid) -> String {
    format!("rollouts/{id}")
}

/// A connected node answered for a generation: every newest rollout that this generation covers hears of it.
pub(crate) async fn on_answer(
    tx: &mut Unaudited,
    node: NodeUid,
    generation: Generation,
    answer: Answer,
    errors: &[String],
) -> Result<(), Error> {
    let now = tx.now();
    sqlx::query(
        "UPDATE rollout_targets t SET answer = $4, errors = $5, answer_time = $6 FROM rollouts r \
         WHERE r.id = t.rollout AND r.newest AND t.node = $1 AND r.epoch = $2 AND r.generation <= $3 \
         AND (t.answer, t.errors) IS DISTINCT FROM ($4, $5)",
    )
    .bind(node.uuid())
    .bind(generation.epoch.value().cast_signed())
    .bind(generation.number.cast_signed())
    .bind(answer.as_str())
    .bind(errors)
    .bind(now)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// A node came or went: while a rollout runs, a connected node is waited for and one that is away is not.
pub(crate) async fn on_presence(tx: &mut Unaudited, node: NodeUid, from: Answer, to: Answer) -> Result<(), Error> {
    sqlx::query(
        "UPDATE rollout_targets t SET answer = $3 FROM rollouts r \
         WHERE r.id = t.rollout AND r.newest AND r.state = 'running' AND t.node = $1 AND t.answer = $2",
    )
    .bind(node.uuid())
    .bind(from.as_str())
    .bind(to.as_str())
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Ends every running rollout for which nobody is left to wait for. Any server may do so at any time.
///
/// # Errors
/// The database failed.
pub async fn settle(db: &Db) -> Result<(), Error> {
    let settled = sqlx::query_scalar(
        "SELECT id FROM rollouts r WHERE state = 'running' AND NOT EXISTS \
         (SELECT FROM rollout_targets t WHERE t.rollout = r.id AND t.answer = 'pending') ORDER BY id",
    );
    let ids: Vec<Uuid> =
        db.read(move |connection| async move { Ok(settled.fetch_all(connection).await?) }.boxed()).await?;
    for id in ids {
        db.write("rollouts.settle", Context::system(), move |tx| {
            async move {
                if !settle_locked(tx, id).await? {
                    tx.discard();
                }
                Ok::<_, Error>(())
            }
            .boxed()
        })
        .await?;
    }
    Ok(())
}

/// Whether it ended by this.
async fn settle_locked(tx: &mut Tx, id: Uuid) -> Result<bool, Error> {
    let state: String = sqlx::query_scalar("SELECT state FROM rollouts WHERE id = $1 FOR NO KEY UPDATE")
        .bind(id)
        .fetch_one(tx.connection())
        .await?;
    let state = RolloutState::from_word(&state).ok_or(Error::Damaged("rollout"))?;
    let (pending, rejected, applied): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE answer = 'pending'), count(*) FILTER (WHERE answer = 'rejected'), \
         count(*) FILTER (WHERE answer = 'applied') FROM rollout_targets WHERE rollout = $1",
    )
    .bind(id)
    .fetch_one(tx.connection())
    .await?;
    let next = state.on_tally(Tally { pending: pending.unsigned_abs(), rejected: rejected.unsigned_abs() });
    if next == state {
        return Ok(false);
    }
    let now = tx.now();
    sqlx::query("UPDATE rollouts SET state = $2, end_time = $3 WHERE id = $1")
        .bind(id)
        .bind(next.as_str())
        .bind(now)
        .execute(tx.connection())
        .await?;
    let event = Event::new("rollout.end", resource_name(id)).with("state", next.as_str());
    tx.audit(event.with("applied", applied).with("rejected", rejected));
    count(next);
    Ok(true)
}

/// Makes the counters appear before the first end, so that a rate has something to begin with.
pub fn show_counters() {
    for outcome in [RolloutState::Succeeded, RolloutState::Failed, RolloutState::Superseded] {
        metrics::counter!("dwcp_rollouts_total", "outcome" => outcome.as_str()).increment(0);
    }
}

fn count(outcome: RolloutState) {
    metrics::counter!("dwcp_rollouts_total", "outcome" => outcome.as_str()).increment(1);
}

/// How many targets of running rollouts, and of each configuration's newest one, gave which answer.
///
/// # Errors
/// The database failed.
pub async fn target_counts(db: &Db) -> Result<Vec<(String, i64)>, Error> {
    let select = sqlx::query_as(
        "SELECT t.answer, count(*) FROM rollout_targets t JOIN rollouts r ON r.id = t.rollout WHERE r.newest GROUP BY t.answer",
    );
    db.read(move |connection| async move { Ok(select.fetch_all(connection).await?) }.boxed()).await
}

/// The rollouts of these revisions of a configuration: each revision's newest.
pub(crate) async fn of_revisions(
    connection: &mut PgConnection,
    config: &str,
    revisions: &[i64],
) -> Result<Vec<Rollout>, Error> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT ON (revision) id FROM rollouts WHERE config = $1 AND revision = ANY($2) AND NOT deletion \
         ORDER BY revision, generation DESC",
    )
    .bind(config)
    .bind(revisions)
    .fetch_all(&mut *connection)
    .await?;
    read_all(connection, &ids).await
}

async fn read_all(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Rollout>, Error> {
    let rows = sqlx::query("SELECT * FROM rollouts WHERE id = ANY($1)").bind(ids).fetch_all(&mut *connection).await?;
    let mut rollouts = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let targets: Vec<(Uuid, String, String, Vec<String>)> = sqlx::query_as(
        "SELECT t.rollout, n.name, t.answer, t.errors FROM rollout_targets t JOIN nodes n ON n.uid = t.node \
         WHERE t.rollout = ANY($1) ORDER BY n.name, n.uid",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    for (id, node, answer, errors) in targets {
        let damaged = || Error::Damaged("rollout's target");
        let node = node.parse().map_err(|_bad| damaged())?;
        let answer = Answer::from_word(&answer).ok_or_else(damaged)?;
        if let Some(rollout) = rollouts.iter_mut().find(|rollout| rollout.id == id) {
            rollout.targets.push(Target { node, answer, errors });
        }
    }
    Ok(rollouts)
}

fn read(row: &PgRow) -> Result<Rollout, Error> {
    let damaged = || Error::Damaged("rollout");
    let number = |column| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
    Ok(Rollout {
        id: row.try_get("id")?,
        config: ConfigName::from_id(row.try_get("config")?).map_err(|_bad| damaged())?,
        revision: Revision::new(number("revision")?),
        deletion: row.try_get("deletion")?,
        generation: Generation { epoch: number("epoch")?.into(), number: number("generation")? },
        state: RolloutState::from_word(row.try_get("state")?).ok_or_else(damaged)?,
        create_time: row.try_get("create_time")?,
        end_time: row.try_get("end_time")?,
        targets: Vec::new(),
    })
}
