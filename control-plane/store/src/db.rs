//! The database as the rest of the program sees it: reads, writes, the bell.
//!
//! Every call has an end: PostgreSQL's own time-outs for statements, locks and idle transactions, and a tokio time-out around each
//! call for a server that does not answer at all. A transaction runs in a task of its own, so that a request that goes away leaves
//! none half-way (sqlx #4385), and a connection that was left in the middle of something is closed.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use foundation_runtime::{Clock, TaskGroup};
use futures::future::BoxFuture;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::watch, time::timeout};

use crate::{
    Cause, Context, Error, MigrateError, Tx, Unaudited, audit_log,
    audit_log::AuditKey,
    bell::Bell,
    database_url, migrations,
    pool::{Lease, Pool},
    pulse::Pulse,
    tx::Parts,
};

/// How long a statement may run: none of ours is near it, so one that reaches it is stuck.
const STATEMENT_TIMEOUT: &str = "6s";
/// How long a statement may wait for a lock: transactions here last milliseconds.
const LOCK_TIMEOUT: &str = "4s";
/// How long a transaction may lie idle: the server between two statements. One that was stopped for longer finds its own undone.
const IDLE_TIMEOUT: &str = "10s";
/// How long a read may take in all, so that a PostgreSQL that is stopped, not dead, holds nobody. With the token's own read before it,
/// a request that reads is answered within twice this.
const READ_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a transaction may take until its commit; that has a time-out of its own.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the first connection may take: a PostgreSQL that is being started is waited for.
const FIRST_TIMEOUT: Duration = Duration::from_secs(15);
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
    pool: Pool,
    pulse: Pulse,
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
        let connect = database_url::parse(&options.url)?.application_name("dwcp-control-plane").options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", LOCK_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_TIMEOUT),
        ]);
        // One connection now, so that a wrong address is an error of the start, and says what is wrong.
        let first = timeout(FIRST_TIMEOUT, PgConnection::connect_with(&connect));
        first.await.map_err(|_elapsed| Error::TimedOut)??.close().await?;
        let tasks = tasks.child("store");
        let pool = Pool::new(connect.clone(), options.max_connections, clock.clone());
        let pulse = Pulse::start(connect.clone(), clock.clone(), &tasks);
        let bell = Bell::start(&pool, &connect, &tasks);
        Ok(Self(Arc::new(Inner { pool, pulse, connect, bell, clock, tasks, audit_key: OnceLock::new() })))
    }

    /// Why the database cannot be used at present, or not be written to; known at once.
    #[must_use]
    pub fn trouble(&self) -> Option<Cause> {
        self.0.pulse.trouble()
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
        self.0.pool.connections()
    }

    /// Closes the connections, once nobody needs them any more: before the database is stopped.
    pub async fn close(&self) {
        if timeout(CLOSE_TIMEOUT, self.0.pool.close()).await.is_err() {
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
        E: std::error::Error + From<Error> + Send + 'static,
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
        E: std::error::Error + From<Error> + Send + 'static,
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
        let read = async {
            let mut connection = self.lease().await?;
            connection.soil();
            let done = work(&mut connection).await;
            // What PostgreSQL answered in full, a refusal too, leaves nothing behind.
            if matches!(done, Ok(_) | Err(Error::Statement { .. } | Error::Contended { .. } | Error::Damaged(_))) {
                connection.clean();
            }
            done
        };
        timeout(READ_TIMEOUT, read).await.unwrap_or(Err(Error::TimedOut))
    }

    /// A connection; while the database is in trouble, that is why there is none.
    async fn lease(&self) -> Result<Lease, Error> {
        self.0.pool.lease().await.map_err(|error| match (error, self.trouble()) {
            (Error::Busy { .. } | Error::TimedOut, Some(cause)) => {
                Error::Unavailable { cause, source: sqlx::Error::PoolTimedOut }
            }
            (error, _) => error,
        })
    }

    async fn begin(&self) -> Result<Unaudited, Error> {
        Unaudited::begin(self.lease().await?, self.0.clock.utc()).await
    }

    async fn write_in_this_task<T, E, F>(&self, name: &'static str, context: Context, work: F) -> Result<T, E>
    where
        E: std::error::Error + From<Error> + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>>,
    {
        let prepare = async {
            let mut tx = Tx::new(self.begin().await?, context);
            let done = work(&mut tx).await;
            let Parts { mut inner, context, events, after, discard } = tx.into_parts();
            let value = match done {
                Ok(value) => value,
                Err(error) => {
                    inner.roll_back().await;
                    return Err(error);
                }
            };
            if discard {
                inner.roll_back().await;
                return Ok((None, value));
            }
            let audited = async {
                if events.is_empty() {
                    audit_log::require_no_change(&mut inner, name).await?;
                    return Ok::<_, Error>(None);
                }
                let key = self.0.audit_key.get().ok_or(Error::NoAuditKey)?;
                let head = audit_log::append(&mut inner, key, &context, &events).await?;
                Ok(Some((key, head)))
            };
            let appended = match audited.await {
                Ok(appended) => appended,
                Err(error) => {
                    inner.roll_back().await;
                    return Err(error.into());
                }
            };
            Ok((Some((inner, appended, after)), value))
        };
        // What is dropped by the time-out is rolled back by PostgreSQL, once it notices.
        let prepared = timeout(WRITE_TIMEOUT, prepare).await.unwrap_or_else(|_elapsed| Err(Error::TimedOut.into()));
        let (prepared, value) = prepared.inspect_err(|error| self.0.pulse.on_failed_write(error))?;
        if let Some((transaction, appended, after)) = prepared {
            self.commit(transaction).await?;
            if let Some((key, (head, text))) = appended {
                key.know(head, &text);
            }
            after.into_iter().for_each(|what| what());
        }
        Ok(value)
    }

    async fn observe_in_this_task<T, E, F>(&self, work: F) -> Result<T, E>
    where
        E: std::error::Error + From<Error> + 'static,
        F: for<'t> FnOnce(&'t mut Unaudited) -> BoxFuture<'t, Result<T, E>>,
    {
        let prepare = async {
            let mut transaction = self.begin().await?;
            match work(&mut transaction).await {
                Ok(value) => Ok((transaction, value)),
                Err(error) => {
                    transaction.roll_back().await;
                    Err(error)
                }
            }
        };
        let prepared = timeout(WRITE_TIMEOUT, prepare).await.unwrap_or_else(|_elapsed| Err(Error::TimedOut.into()));
        let (transaction, value) = prepared.inspect_err(|error| self.0.pulse.on_failed_write(error))?;
        self.commit(transaction).await?;
        Ok(value)
    }

    async fn commit(&self, transaction: Unaudited) -> Result<(), Error> {
        let rings = transaction.rings();
        let done = transaction.commit().await;
        if let Err(error) = &done {
            self.0.pulse.on_failed_write(error);
        }
        // Also where it is not known: who reads again finds out.
        if rings && matches!(done, Ok(()) | Err(Error::OutcomeUnknown { .. })) {
            self.0.bell.ring();
        }
        done
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
