//! Configurations with their immutable revisions. A write makes, in one transaction: the revision, a new generation, a rollout, the
//! audit record.
//!
//! What the code that applies a configuration thinks of it is asked *before*, on what `affected` read; the write names the generation
//! that it was asked at and is refused, to be asked again, when another write came between.

use chrono::{DateTime, Utc};
use futures::FutureExt as _;
use proto_model::{ConfigName, Digest, Etag, Generation, Revision};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    Db, Error, Event, Tx,
    rollouts::{self, Begin, Rollout},
};

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name.
    pub name: ConfigName,
    /// Whether it exists; a deleted one keeps its revisions.
    pub live: bool,
    /// The newest revision.
    pub revision: Revision,
    /// That revision's document.
    pub document: String,
    /// Of the newest write, a deletion included.
    pub generation: Generation,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When the newest revision was written.
    pub update_time: DateTime<Utc>,
}

/// An immutable revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRevision {
    /// Of which configuration.
    pub config: ConfigName,
    /// Its number, from 1.
    pub revision: Revision,
    /// The document.
    pub document: String,
    /// Who wrote it.
    pub author: String,
    /// What for.
    pub message: String,
    /// When.
    pub create_time: DateTime<Utc>,
    /// How it reached the agents.
    pub rollout: Option<Rollout>,
}

/// What a write expects to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// No such configuration.
    Absent,
    /// One with this etag.
    Etag(Etag),
    /// One, whatever its revision.
    Present,
}

/// A write.
#[derive(Clone, Debug)]
pub struct Change {
    /// Of which configuration.
    pub name: ConfigName,
    /// The new document; none deletes.
    pub document: Option<String>,
    /// What for.
    pub message: String,
    /// What must be there.
    pub expected: Expected,
    /// The generation at which the document was found good.
    pub checked_at: Generation,
    /// For the audit log: `config.create`, `config.update`, `config.rollback` or `config.delete`.
    pub action: &'static str,
    /// Checks only.
    pub validate_only: bool,
}

/// A write that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What it made.
    pub config: Config,
    /// Its way to the agents; none where only a check was asked for.
    pub rollout: Option<Rollout>,
}

/// Why a write is refused.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It exists already.
    #[error("{0} exists already")]
    Exists(ConfigName),
    /// It does not exist.
    #[error("{0} does not exist")]
    NotFound(ConfigName),
    /// Somebody wrote since.
    #[error("{name} has changed: its etag is {current}")]
    Stale {
        /// Which.
        name: ConfigName,
        /// The present etag.
        current: Etag,
    },
    /// Another write came between the check and this: check again.
    #[error("another configuration was written at the same moment")]
    Overtaken,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

impl Config {
    /// Of the newest revision.
    #[must_use]
    pub fn etag(&self) -> Etag {
        Etag::of_number(self.revision.value())
    }
}

const SELECT: &str = "SELECT c.*, r.document FROM configs c JOIN config_revisions r ON r.config = c.name AND r.revision = c.revision \
                      WHERE c.name = $1";

/// Makes, changes or removes a configuration.
///
/// # Errors
/// [`WriteError`]; nothing is changed then.
pub async fn write(tx: &mut Tx, change: &Change) -> Result<Written, WriteError> {
    let generation = lock_generation(tx, change.checked_at).await?;
    let present = find_in(tx.connection(), &change.name).await?;
    expect(change, present.as_ref())?;
    if change.validate_only {
        tx.discard();
        return Ok(Written { config: unwritten(change, present, generation, tx.now()), rollout: None });
    }
    let config = match &change.document {
        Some(document) => put(tx, change, document, present, generation).await?,
        None => delete(tx, change, present, generation).await?,
    };
    let rollout = Uuid::now_v7();
    let event = Event::new(change.action, change.name.to_string())
        .with("revision", config.revision.value())
        .with("generation", generation.to_string())
        .with("rollout", rollouts::resource_name(rollout))
        .with("message", change.message.as_str());
    let digest = change.document.as_ref().map(|document| Digest::sha256(document.as_bytes()).to_string());
    tx.audit(match digest {
        Some(digest) => event.with("sha256", digest),
        None => event,
    });
    let begin =
        Begin { id: rollout, config: &config.name, revision: config.revision, deletion: !config.live, generation };
    let rollout = rollouts::begin(tx, begin).await?;
    Ok(Written { config, rollout: Some(rollout) })
}

/// Takes the next generation. Its row's lock makes all writes of configurations one chain.
async fn lock_generation(tx: &mut Tx, checked_at: Generation) -> Result<Generation, WriteError> {
    let held = read_generation(tx.connection(), Lock::Yes).await?;
    if held != checked_at {
        return Err(WriteError::Overtaken);
    }
    let next = Generation { number: held.number + 1, ..held };
    sqlx::query("UPDATE desired_state SET epoch = $1, generation = $2")
        .bind(next.epoch.value().cast_signed())
        .bind(next.number.cast_signed())
        .execute(tx.connection())
        .await
        .map_err(Error::from)?;
    Ok(next)
}

fn expect(change: &Change, present: Option<&Config>) -> Result<(), WriteError> {
    let live = present.filter(|config| config.live);
    match (&change.expected, live) {
        (Expected::Absent, None) | (Expected::Present, Some(_)) => Ok(()),
        (Expected::Absent, Some(_)) => Err(WriteError::Exists(change.name.clone())),
        (Expected::Etag(_) | Expected::Present, None) => Err(WriteError::NotFound(change.name.clone())),
        (Expected::Etag(etag), Some(config)) if *etag == config.etag() => Ok(()),
        (Expected::Etag(_), Some(config)) => {
            Err(WriteError::Stale { name: change.name.clone(), current: config.etag() })
        }
    }
}

/// What a check answers: the configuration as it would be.
fn unwritten(change: &Change, present: Option<Config>, generation: Generation, now: DateTime<Utc>) -> Config {
    Config {
        name: change.name.clone(),
        live: change.document.is_some(),
        revision: present.as_ref().map_or(Revision::new(1), |config| config.revision.next()),
        document: change.document.clone().unwrap_or_default(),
        generation,
        create_time: present.filter(|config| config.live).map_or(now, |config| config.create_time),
        update_time: now,
    }
}

async fn put(
    tx: &mut Tx,
    change: &Change,
    document: &str,
    present: Option<Config>,
    generation: Generation,
) -> Result<Config, Error> {
    let config = unwritten(change, present, generation, tx.now());
    let author = tx.context().actor.to_string();
    sqlx::query(
        "INSERT INTO configs (name, live, revision, epoch, generation, create_time, update_time) \
         VALUES ($1, true, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE \
         SET live = true, revision = $2, epoch = $3, generation = $4, create_time = $5, update_time = $6",
    )
    .bind(change.name.id())
    .bind(config.revision.value().cast_signed())
    .bind(generation.epoch.value().cast_signed())
    .bind(generation.number.cast_signed())
    .bind(config.create_time)
    .bind(config.update_time)
    .execute(tx.connection())
    .await?;
    sqlx::query(
        "INSERT INTO config_revisions (config, revision, document, author, message, create_time) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(change.name.id())
    .bind(config.revision.value().cast_signed())
    .bind(document)
    .bind(author)
    .bind(&change.message)
    .bind(config.update_time)
    .execute(tx.connection())
    .await?;
    Ok(config)
}

async fn delete(
    tx: &mut Tx,
    change: &Change,
    present: Option<Config>,
    generation: Generation,
) -> Result<Config, WriteError> {
    let present = present.ok_or_else(|| WriteError::NotFound(change.name.clone()))?;
    let now = tx.now();
    sqlx::query("UPDATE configs SET live = false, epoch = $2, generation = $3, update_time = $4 WHERE name = $1")
        .bind(change.name.id())
        .bind(generation.epoch.value().cast_signed())
        .bind(generation.number.cast_signed())
        .bind(now)
        .execute(tx.connection())
        .await
        .map_err(Error::from)?;
    Ok(Config { live: false, generation, update_time: now, ..present })
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

/// One configuration, if it exists.
///
/// # Errors
/// The database failed.
pub async fn find(db: &Db, name: &ConfigName) -> Result<Option<(Config, Option<Rollout>)>, Error> {
    let name = name.clone();
    db.read(move |connection| {
        async move {
            let Some(config) = find_in(connection, &name).await?.filter(|config| config.live) else { return Ok(None) };
            let revision = config.revision.value().cast_signed();
            let rollouts = rollouts::of_revisions(connection, &name.id(), &[revision]).await?;
            Ok(Some((config, rollouts.into_iter().next())))
        }
        .boxed()
    })
    .await
}

pub(crate) async fn find_in(connection: &mut PgConnection, name: &ConfigName) -> Result<Option<Config>, Error> {
    let row = sqlx::query(SELECT).bind(name.id()).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

/// At most `limit` configurations by name, after this one.
///
/// # Errors
/// The database failed.
pub async fn list(db: &Db, after: Option<&str>, limit: u32) -> Result<Vec<(Config, Option<Rollout>)>, Error> {
    let after = after.map(str::to_owned);
    db.read(move |connection| {
        async move {
            let rows = sqlx::query(
                "SELECT c.*, r.document FROM configs c \
                 JOIN config_revisions r ON r.config = c.name AND r.revision = c.revision \
                 WHERE c.live AND ($1::text IS NULL OR c.name > $1) ORDER BY c.name LIMIT $2",
            )
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&mut *connection)
            .await?;
            let mut configs = Vec::with_capacity(rows.len());
            for config in rows.iter().map(read) {
                let config = config?;
                let revision = config.revision.value().cast_signed();
                let rollouts = rollouts::of_revisions(connection, &config.name.id(), &[revision]).await?;
                configs.push((config, rollouts.into_iter().next()));
            }
            Ok(configs)
        }
        .boxed()
    })
    .await
}

/// Every configuration that ever was, deleted ones included, and the generation that they are of.
///
/// # Errors
/// The database failed.
pub async fn all(db: &Db) -> Result<(Vec<Config>, Generation), Error> {
    db.read(|connection| {
        async move {
            // First the generation: what is read after it is at least as new, and a later bell reads again.
            let generation = read_generation(connection, Lock::No).await?;
            let rows = sqlx::query(
                "SELECT c.*, r.document FROM configs c \
                 JOIN config_revisions r ON r.config = c.name AND r.revision = c.revision ORDER BY c.name",
            )
            .fetch_all(connection)
            .await?;
            Ok((rows.iter().map(read).collect::<Result<_, _>>()?, generation))
        }
        .boxed()
    })
    .await
}

/// The newest generation of what is desired.
///
/// # Errors
/// The database failed.
pub async fn newest_generation(db: &Db) -> Result<Generation, Error> {
    db.read(|connection| read_generation(connection, Lock::No).boxed()).await
}

/// Whether a row is locked until the transaction ends.
pub(crate) enum Lock {
    Yes,
    No,
}

/// The generation; a new epoch begins at 0.
pub(crate) async fn read_generation(connection: &mut PgConnection, lock: Lock) -> Result<Generation, Error> {
    let statement = match lock {
        Lock::Yes => "SELECT d.epoch, d.generation, f.epoch FROM desired_state d, fleet f FOR UPDATE OF d",
        Lock::No => "SELECT d.epoch, d.generation, f.epoch FROM desired_state d, fleet f",
    };
    let (held, number, epoch): (i64, i64, i64) = sqlx::query_as(statement).fetch_one(connection).await?;
    let number = if held == epoch { number.cast_unsigned() } else { 0 };
    Ok(Generation { epoch: epoch.cast_unsigned().into(), number })
}

/// One revision; the newest where none is named.
///
/// # Errors
/// The database failed.
pub async fn revision(db: &Db, name: &ConfigName, number: Option<Revision>) -> Result<Option<ConfigRevision>, Error> {
    let from = number.map_or(Revision::new(i64::MAX.cast_unsigned()), |number| number.next());
    let newest = revisions(db, name, Some(from), 1).await?.into_iter().next();
    Ok(newest.filter(|revision| number.is_none_or(|number| revision.revision == number)))
}

/// At most `limit` revisions, newest first, before this one.
///
/// # Errors
/// The database failed.
pub async fn revisions(
    db: &Db,
    name: &ConfigName,
    before: Option<Revision>,
    limit: u32,
) -> Result<Vec<ConfigRevision>, Error> {
    let name = name.clone();
    db.read(move |connection| {
        async move {
            let rows = sqlx::query(
                "SELECT * FROM config_revisions WHERE config = $1 AND revision < $2 ORDER BY revision DESC LIMIT $3",
            )
            .bind(name.id())
            .bind(before.map_or(i64::MAX, |before| before.value().cast_signed()))
            .bind(i64::from(limit))
            .fetch_all(&mut *connection)
            .await?;
            let mut revisions = rows.iter().map(|row| read_revision(row, &name)).collect::<Result<Vec<_>, _>>()?;
            let numbers: Vec<i64> = revisions.iter().map(|revision| revision.revision.value().cast_signed()).collect();
            for rollout in rollouts::of_revisions(connection, &name.id(), &numbers).await? {
                if let Some(revision) = revisions.iter_mut().find(|revision| revision.revision == rollout.revision) {
                    revision.rollout = Some(rollout);
                }
            }
            Ok(revisions)
        }
        .boxed()
    })
    .await
}

fn read(row: &PgRow) -> Result<Config, Error> {
    let number = |column| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
    Ok(Config {
        name: ConfigName::from_id(row.try_get("name")?).map_err(|_bad| Error::Damaged("configuration"))?,
        live: row.try_get("live")?,
        revision: Revision::new(number("revision")?),
        document: row.try_get("document")?,
        generation: Generation { epoch: number("epoch")?.into(), number: number("generation")? },
        create_time: row.try_get("create_time")?,
        update_time: row.try_get("update_time")?,
    })
}

fn read_revision(row: &PgRow, name: &ConfigName) -> Result<ConfigRevision, Error> {
    Ok(ConfigRevision {
        config: name.clone(),
        revision: Revision::new(row.try_get::<i64, _>("revision")?.cast_unsigned()),
        document: row.try_get("document")?,
        author: row.try_get("author")?,
        message: row.try_get("message")?,
        create_time: row.try_get("create_time")?,
        rollout: None,
    })
}
