//! The database as the rest of the program sees it: reads, writes, the bell.
//!
//! Every call has an end: PostgreSQL's own time-outs for statements, locks and idle transactions, and a tokio time-out around each
//! call for a server that does not answer at all. A transaction runs in a task of its own, so that a request that goes away leaves
//! none half-way (sqlx #4385); connections are checked for an open transaction when they are taken and when they come back.

use std::{
    fmt,
    str::FromStr as _,
    sync::{Arc, OnceLock},
    time::Duration,
};

use foundation_runtime::{Clock, TaskGroup};
use futures::future::BoxFuture;
use sqlx::{
    Connection as _, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::watch;

use crate::{Context, Error, MigrateError, Tx, Unaudited, audit_log, audit_log::AuditKey, bell::Bell, migrations};

/// How long a statement may run: none of ours is near it, so one that reaches it is stuck.
const STATEMENT_TIMEOUT: &str = "10s";
/// How long a statement may wait for a lock: transactions here last milliseconds.
const LOCK_TIMEOUT: &str = "5s";
/// How long a transaction may lie idle: the server between two statements.
const IDLE_TIMEOUT: &str = "15s";
/// How long a caller waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read may take in all, so that a PostgreSQL that is stopped, not dead, holds nobody.
const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a transaction may take in all.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long connections that are still in use are waited for at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections of the pool, where nothing else is asked for: several servers share PostgreSQL's default of 100.
const DEFAULT_CONNECTIONS: u32 = 16;

/// Where the database is.
#[derive(Clone)]
pub struct Options {
    /// `postgresql://…`; may hold a password.
    pub url: String,
    /// At most so many connections, besides one that listens.
    pub max_connections: u32,
}

/// A database. Clones are the same one.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

struct Inner {
    pool: PgPool,
    connect: PgConnectOptions,
    bell: Bell,
    clock: Clock,
    tasks: TaskGroup,
    audit_key: OnceLock<AuditKey>,
}

impl Options {
    /// With the default number of connections.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), max_connections: DEFAULT_CONNECTIONS }
    }
}

impl Db {
    /// Connects, and begins to listen for the bell. Tasks and transactions belong to a child of `tasks`.
    ///
    /// # Errors
    /// The URL is none, or the database does not answer.
    pub async fn connect(options: Options, clock: Clock, tasks: &TaskGroup) -> Result<Self, Error> {
        let connect = PgConnectOptions::from_str(&options.url)?.application_name("dwcp-control-plane").options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", LOCK_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_TIMEOUT),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, _meta| Box::pin(is_outside_of_a_transaction(connection)))
            .after_release(|connection, _meta| Box::pin(is_outside_of_a_transaction(connection)))
            .connect_lazy_with(connect.clone());
        // One connection now, and not by the pool, so that a wrong address is an error of the start, and says what is wrong.
        let first = tokio::time::timeout(READ_TIMEOUT, PgConnection::connect_with(&connect));
        first.await.map_err(|_elapsed| Error::TimedOut)??.close().await?;
        let tasks = tasks.child("store");
        let bell = Bell::start(&pool, &tasks);
        Ok(Self(Arc::new(Inner { pool, connect, bell, clock, tasks, audit_key: OnceLock::new() })))
    }

    /// Brings the schema to this program's version. Safe when several servers start at once.
    ///
    /// # Errors
    /// The database failed, or its schema wants a newer program.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        migrations::run(&self.0.connect).await
    }

    /// How many connections are in use, and how many lie idle.
    #[must_use]
    pub fn connections(&self) -> (u32, u32) {
        let (all, idle) = (self.0.pool.size(), u32::try_from(self.0.pool.num_idle()).unwrap_or(u32::MAX));
        (all.saturating_sub(idle), idle)
    }

    /// Closes the connections, once nobody needs them any more: before the database is stopped.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_TIMEOUT, self.0.pool.close()).await.is_err() {
            tracing::debug!("connections to the database were left open");
        }
    }

    /// The clock that transactions take their time from.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Rings after every change, here or on another server, when the connection was lost, and every two seconds: read again. The
    /// number only grows and means nothing.
    #[must_use]
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.0.bell.subscribe()
    }

    /// Gives the key that signs the audit log's head. Before the first write; a second key is ignored.
    pub fn set_audit_key(&self, key: AuditKey) {
        // The keys are made once for a fleet, so a second one is the same.
        drop(self.0.audit_key.set(key));
    }

    /// The key that signs the audit log's head.
    #[must_use]
    pub fn audit_key(&self) -> Option<&AuditKey> {
        self.0.audit_key.get()
    }

    /// One audited transaction, in a task of its own: it ends even when the caller goes away. What `work` recorded by [`Tx::audit`] is
    /// appended to the log under the head's lock, the head is signed, all is committed, the bell rings.
    ///
    /// # Errors
    /// `work`'s own error, and then nothing is changed; or the database failed. A change without an event is rolled back, and
    /// [`Error::Unaudited`].
    pub async fn write<T, E, F>(&self, name: &'static str, context: Context, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    {
        let db = self.clone();
        let task = Box::pin(async move { db.write_in_this_task(name, context, work).await });
        self.0.tasks.run(name, task).await.unwrap_or_else(|_cancelled| Err(Error::Stopping.into()))
    }

    /// One transaction for what is only observed, in a task of its own.
    ///
    /// # Errors
    /// `work`'s own error, or the database failed; nothing is changed.
    pub async fn observe<T, E, F>(&self, name: &'static str, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: for<'t> FnOnce(&'t mut Unaudited) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    {
        let db = self.clone();
        let task = Box::pin(async move { db.observe_in_this_task(work).await });
        self.0.tasks.run(name, task).await.unwrap_or_else(|_cancelled| Err(Error::Stopping.into()))
    }

    /// Statements that read, each by itself, on one connection.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, Error>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Error>> + Send,
    {
        let mut connection = self.0.pool.acquire().await?;
        let done = tokio::time::timeout(READ_TIMEOUT, work(&mut connection)).await;
        done.unwrap_or_else(|_elapsed| {
            connection.close_on_drop();
            Err(Error::TimedOut)
        })
    }

    async fn begin(&self) -> Result<Unaudited, Error> {
        Unaudited::begin(self.0.pool.acquire().await?, self.0.clock.utc()).await
    }

    async fn write_in_this_task<T, E, F>(&self, name: &'static str, context: Context, work: F) -> Result<T, E>
    where
        E: From<Error>,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>>,
    {
        let mut tx = Tx::new(self.begin().await?, context);
        let done = tokio::time::timeout(WRITE_TIMEOUT, work(&mut tx)).await;
        let (mut inner, context, events, discard) = tx.into_parts();
        let value = match done {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => {
                inner.roll_back().await;
                return Err(error);
            }
            Err(_elapsed) => {
                inner.give_up();
                return Err(Error::TimedOut.into());
            }
        };
        if discard {
            inner.roll_back().await;
            return Ok(value);
        }
        let audited = async {
            if events.is_empty() {
                return audit_log::require_no_change(&mut inner, name).await;
            }
            let key = self.0.audit_key.get().ok_or(Error::NoAuditKey)?;
            audit_log::append(&mut inner, key, &context, &events).await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, audited).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                inner.roll_back().await;
                return Err(error.into());
            }
            Err(_elapsed) => {
                inner.give_up();
                return Err(Error::TimedOut.into());
            }
        }
        self.commit(inner).await?;
        Ok(value)
    }

    async fn observe_in_this_task<T, E, F>(&self, work: F) -> Result<T, E>
    where
        E: From<Error>,
        F: for<'t> FnOnce(&'t mut Unaudited) -> BoxFuture<'t, Result<T, E>>,
    {
        let mut transaction = self.begin().await?;
        match tokio::time::timeout(WRITE_TIMEOUT, work(&mut transaction)).await {
            Ok(Ok(value)) => {
                self.commit(transaction).await?;
                Ok(value)
            }
            Ok(Err(error)) => {
                transaction.roll_back().await;
                Err(error)
            }
            Err(_elapsed) => {
                transaction.give_up();
                Err(Error::TimedOut.into())
            }
        }
    }

    async fn commit(&self, transaction: Unaudited) -> Result<(), Error> {
        if transaction.commit().await? {
            self.0.bell.ring();
        }
        Ok(())
    }
}

/// Outside of a transaction every statement is its own, and begins when it begins. Also finds a connection that is dead.
async fn is_outside_of_a_transaction(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    use sqlx::Row as _;
    let check = sqlx::Executor::fetch_one(connection, sqlx::raw_sql("SELECT now() = statement_timestamp()"));
    match tokio::time::timeout(ACQUIRE_TIMEOUT, check).await {
        Ok(row) => row?.try_get(0),
        Err(_elapsed) => Ok(false),
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").finish_non_exhaustive()
    }
}
