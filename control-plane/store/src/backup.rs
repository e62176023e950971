//! What a backup holds of the database, and how a database is made of one: tables as PostgreSQL's COPY writes them, read in one
//! snapshot, entered in one transaction.
//!
//! Not `pg_dump`: an outside PostgreSQL's client programs need not be on the server's host, and a dump is bound to their version. Since
//! the schema is our own migrations', the rows are all there is to keep; text rows of COPY enter any PostgreSQL that we work with.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use control_plane_pki::SealKey;
use futures::{Stream, StreamExt as _};
use proto_model::{Epoch, FleetId};
use serde::{Deserialize, Serialize};
use sqlx::{
    Connection as _, PgConnection, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgCopyIn, PgPoolOptions},
};

use crate::{Db, Error, KeysError, MigrateError, Options, database_url, epoch, keys, migrations};

/// Every table that a backup holds, each after those that it refers to. A test compares it with the schema.
pub const TABLES: [&str; 22] = [
    "program",
    "revision_counter",
    "fleet",
    "keys",
    "audit_events",
    "audit_nodes",
    "audit_head",
    "requests",
    "operator_tokens",
    "join_tokens",
    "nodes",
    "enrolments",
    "desired_state",
    "configs",
    "config_revisions",
    "rollouts",
    "rollout_targets",
    "node_layers",
    "node_records",
    "transfers",
    "transfer_ends",
    "syncs",
];

/// Tables that only say who is connected where, and what is measured, at the moment, and the migrator's own.
pub const LEFT_OUT: [&str; 4] = ["benches", "servers", "node_sessions", "_sqlx_migrations"];

/// How long PostgreSQL may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long another's lock is waited for.
const LOCK_TIMEOUT: &str = "60s";

/// A table and its columns, in the order of the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its columns.
    pub columns: Vec<String>,
}

/// What a database is, at the moment of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The number of its newest migration.
    pub schema: i64,
    /// The trust domain.
    pub fleet: FleetId,
    /// Counts restores.
    pub epoch: Epoch,
    /// The newest revision.
    pub revision: u64,
    /// How many events its audit log has.
    pub audit_size: u64,
    /// The signed head of its audit log.
    pub audit_checkpoint: String,
    /// Nodes that are in the fleet.
    pub nodes: u64,
}

/// Why a database cannot be read for a backup.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The database failed.
    #[error("the database cannot be read")]
    Database(#[from] Error),
    /// There is nothing to keep.
    #[error("there is no fleet in this database: nothing to back up")]
    NoFleet,
    /// Its schema has what this program does not know.
    #[error(
        "the database's schema is newer than this program (migration {found}, known up to {known}): make the backup with the newer one"
    )]
    NewerSchema {
        /// The newest migration.
        found: i64,
        /// The newest that is known.
        known: i64,
    },
}

/// A database as it was at one moment, whatever is written meanwhile.
#[derive(Debug)]
pub struct Snapshot {
    connection: PgConnection,
    facts: Facts,
    tables: Vec<Table>,
}

impl Snapshot {
    /// Begins one. PostgreSQL keeps it until it is dropped; writers are not held up.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn begin(options: &Options) -> Result<Self, SnapshotError> {
        let mut connection = connect(options).await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
        sqlx::raw_sql(begin).execute(&mut connection).await.map_err(Error::from)?;
        let facts = facts(&mut connection).await?;
        let mut tables = Vec::new();
        for name in TABLES {
            let columns = columns(&mut connection, name).await?;
            // An older schema, which is to be kept before it is migrated, may not have it yet.
            if !columns.is_empty() {
                tables.push(Table { name: name.to_owned(), columns });
            }
        }
        Ok(Self { connection, facts, tables })
    }

    /// What the database is.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its tables, in the order in which they are to be entered.
    #[must_use]
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// A table's rows, in pieces as PostgreSQL sends them.
    ///
    /// # Errors
    /// The database failed.
    pub async fn rows(&mut self, table: &Table) -> Result<impl Stream<Item = Result<Bytes, Error>> + Unpin, Error> {
        let copy = format!("COPY {} TO STDOUT", target(table));
        Ok(self.connection.copy_out_raw(&copy).await?.map(|piece| piece.map_err(Error::from)))
    }
}

async fn facts(connection: &mut PgConnection) -> Result<Facts, SnapshotError> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('fleet') IS NOT NULL AND to_regclass('audit_head') IS NOT NULL")
            .fetch_one(&mut *connection)
            .await
            .map_err(Error::from)?;
    if !exists {
        return Err(SnapshotError::NoFleet);
    }
    let row: Option<(String, i64, i64, i64, String, i64, i64)> = sqlx::query_as(
        "SELECT f.fleet_id, f.epoch, r.value, a.size, a.checkpoint, \
             (SELECT max(version) FROM _sqlx_migrations WHERE success), \
             (SELECT count(*) FROM nodes WHERE revoke_time IS NULL) \
         FROM fleet f, revision_counter r, audit_head a",
    )
    .fetch_optional(connection)
    .await
    .map_err(Error::from)?;
    let (fleet, epoch, revision, size, audit_checkpoint, schema, nodes) = row.ok_or(SnapshotError::NoFleet)?;
    let known = migrations::versions().into_iter().max().unwrap_or_default();
    if schema > known {
        return Err(SnapshotError::NewerSchema { found: schema, known });
    }
    let number = |value: i64, what| u64::try_from(value).map_err(|_negative| Error::Damaged(what));
    Ok(Facts {
        schema,
        fleet: fleet.parse().map_err(|_form| Error::Damaged("fleet id"))?,
        epoch: Epoch::new(number(epoch, "epoch")?),
        revision: number(revision, "revision")?,
        audit_size: number(size, "audit head")?,
        audit_checkpoint,
        nodes: number(nodes, "number of nodes")?,
    })
}

/// The columns that hold something of their own, in their order; none where there is no such table.
async fn columns(connection: &mut PgConnection, table: &str) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped \
         AND attgenerated = '' ORDER BY attnum",
    )
    .bind(table)
    .fetch_all(connection)
    .await?)
}

/// `"table" ("column", …)`.
fn target(table: &Table) -> String {
    let columns: Vec<_> = table.columns.iter().map(|column| quoted(column)).collect();
    format!("{} ({})", quoted(&table.name), columns.join(", "))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

// ---------------------------------------------------------------------------------------------------------------------
// Restoring

/// Why a database cannot be made of a backup. It is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] Error),
    /// The schema could not be made.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// There is something in the database.
    #[error(
        "the database is not empty: it has {count} tables, for example {example}; a backup is restored into an empty one"
    )]
    NotEmpty {
        /// How many.
        count: i64,
        /// One of them.
        example: String,
    },
    /// The backup was made by a newer program.
    #[error(
        "the backup is of schema {found}, newer than this program's {known}: restore it with the program that made it, or a newer one"
    )]
    NewerSchema {
        /// The backup's.
        found: i64,
        /// This program's.
        known: i64,
    },
    /// The backup has a table that there is none of.
    #[error("the backup has a table {0:?}, which this program does not know")]
    UnknownTable(String),
    /// The keys in the backup cannot be opened with the seal key in it.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// There is no fleet in the backup.
    #[error("there is no fleet in the backup")]
    NoFleet,
    /// The number asked for is no later one.
    #[error(transparent)]
    Epoch(#[from] epoch::EpochError),
}

/// Refuses a schema that this program cannot make.
///
/// # Errors
/// [`RestoreError::NewerSchema`].
pub fn require_schema(found: i64) -> Result<(), RestoreError> {
    let known = migrations::versions().into_iter().max().unwrap_or_default();
    if found > known { Err(RestoreError::NewerSchema { found, known }) } else { Ok(()) }
}

/// A database that is being made: one transaction, so that nothing is left of one that was broken off.
#[derive(Debug)]
pub struct Restoration {
    transaction: Transaction<'static, Postgres>,
    // Closed after the transaction.
    _pool: PgPool,
}

impl Restoration {
    /// Begins in an empty database, with the schema that the backup was made of.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub async fn begin(options: &Options, schema: i64) -> Result<Self, RestoreError> {
        require_schema(schema)?;
        let (pool, mut transaction) = begin(options).await?;
        require_empty(&mut transaction).await?;
        migrations::run_until(&mut transaction, schema).await?;
        Ok(Self { transaction, _pool: pool })
    }

    /// Enters a table's rows, which follow one another in [`Rows::send`].
    ///
    /// # Errors
    /// The database failed, or knows no such table.
    pub async fn table(&mut self, table: &Table) -> Result<Rows<'_>, RestoreError> {
        if !TABLES.contains(&table.name.as_str()) {
            return Err(RestoreError::UnknownTable(table.name.clone()));
        }
        let name = quoted(&table.name);
        // What the migrations put there; a table of the log refuses a DELETE even of nothing.
        let seeded = format!("SELECT EXISTS (SELECT FROM {name})");
        let seeded: bool = sqlx::query_scalar(sqlx::AssertSqlSafe(seeded))
            .fetch_one(&mut *self.transaction)
            .await
            .map_err(Error::from)?;
        if seeded {
            let delete = sqlx::AssertSqlSafe(format!("DELETE FROM {name}"));
            sqlx::query(delete).execute(&mut *self.transaction).await.map_err(Error::from)?;
        }
        let copy = format!("COPY {} FROM STDIN", target(table));
        Ok(Rows(self.transaction.copy_in_raw(&copy).await.map_err(Error::from)?))
    }

    /// Brings the schema up to date, opens a new epoch, and commits.
    ///
    /// # Errors
    /// See [`RestoreError`]; nothing is left in the database then.
    pub async fn finish(mut self, seal: &SealKey, opening: epoch::Opening) -> Result<epoch::Opened, RestoreError> {
        migrations::run_on(&mut self.transaction).await?;
        let opened = open_epoch(&mut self.transaction, seal, opening).await?;
        self.transaction.commit().await.map_err(Error::from)?;
        Ok(opened)
    }
}

/// The rows of one table, on their way in.
pub struct Rows<'a>(PgCopyIn<&'a mut PgConnection>);

impl Rows<'_> {
    /// The next piece; pieces need not end where rows do.
    ///
    /// # Errors
    /// The database failed.
    pub async fn send(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.0.send(piece).await?;
        Ok(())
    }

    /// The table is complete; how many rows it has.
    ///
    /// # Errors
    /// The database failed, or refuses a row.
    pub async fn finish(self) -> Result<u64, Error> {
        Ok(self.0.finish().await?)
    }
}

impl std::fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rows")
    }
}

/// Opens a new epoch in a database that others put back (a dump, a point in time): what [`Restoration::finish`] does for a backup.
///
/// # Errors
/// See [`RestoreError`]; nothing is changed then.
pub async fn reopen(options: &Options, seal: &SealKey, opening: epoch::Opening) -> Result<epoch::Opened, RestoreError> {
    let (_pool, mut transaction) = begin(options).await?;
    migrations::run_on(&mut transaction).await?;
    let opened = open_epoch(&mut transaction, seal, opening).await?;
    transaction.commit().await.map_err(Error::from)?;
    Ok(opened)
}

async fn open_epoch(
    connection: &mut PgConnection,
    seal: &SealKey,
    opening: epoch::Opening,
) -> Result<epoch::Opened, RestoreError> {
    let stored = keys::Stored::read(connection).await?.ok_or(RestoreError::NoFleet)?;
    let (keys, audit_key) = stored.open(seal)?;
    Ok(epoch::open(connection, &keys, &audit_key, opening).await?)
}

async fn begin(options: &Options) -> Result<(PgPool, Transaction<'static, Postgres>), Error> {
    let pool =
        PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT).connect_lazy_with(patient(options)?);
    let transaction = pool.begin().await?;
    Ok((pool, transaction))
}

/// Refuses a database that has something in it.
///
/// # Errors
/// [`RestoreError::NotEmpty`], or the database failed.
pub async fn require_empty_database(options: &Options) -> Result<(), RestoreError> {
    require_empty(&mut connect(options).await?).await
}

/// Whether this database is what the restore of this number made of it.
///
/// # Errors
/// The database failed.
pub async fn holds_restore(options: &Options, restore: &str) -> Result<bool, Error> {
    let mut connection = connect(options).await?;
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('audit_events') IS NOT NULL").fetch_one(&mut connection).await?;
    if !exists {
        return Ok(false);
    }
    let select = "SELECT EXISTS (SELECT FROM audit_events WHERE action = $1 AND detail ->> 'restore' = $2)";
    Ok(sqlx::query_scalar(select).bind(epoch::RESTORE).bind(restore).fetch_one(&mut connection).await?)
}

async fn require_empty(connection: &mut PgConnection) -> Result<(), RestoreError> {
    let (count, example): (i64, Option<String>) = sqlx::query_as(
        "SELECT count(*), min(relname::text) FROM pg_class \
         WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')",
    )
    .fetch_one(connection)
    .await
    .map_err(Error::from)?;
    example.map_or(Ok(()), |example| Err(RestoreError::NotEmpty { count, example }))
}

/// When the newest backup was recorded in the audit log.
///
/// # Errors
/// The database failed.
pub async fn last_success(db: &Db) -> Result<Option<DateTime<Utc>>, Error> {
    db.read(|connection| {
        Box::pin(async move {
            let select =
                "SELECT time FROM audit_events WHERE action = $1 AND outcome = 'ok' ORDER BY sequence DESC LIMIT 1";
            Ok(sqlx::query_scalar(select).bind(CREATE).fetch_optional(connection).await?)
        })
    })
    .await
}

/// The audit log's word for a backup that was made.
pub const CREATE: &str = "backup.create";

async fn connect(options: &Options) -> Result<PgConnection, Error> {
    let options = patient(options)?;
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options));
    Ok(connect.await.map_err(|_elapsed| Error::TimedOut)??)
}

/// Without the time-outs of the pool: a large table takes as long as it takes.
fn patient(options: &Options) -> Result<PgConnectOptions, Error> {
    let connect = database_url::parse(&options.url)?;
    Ok(connect.application_name("dwcp-control-plane backup").options([
        ("statement_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("lock_timeout", LOCK_TIMEOUT),
    ]))
}
