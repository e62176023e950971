//! One transaction, and what it must have before it may be committed.
//!
//! [`Tx`] is for what is audited (D13): it collects events, and a commit without any is refused. [`Unaudited`] is for what is only
//! observed (heartbeats, progress). Functions of this crate ask for the one that fits, and no other crate speaks SQL.
//!
//! Locks are taken in one order, so that nobody waits in a circle: rows of the aggregates, the revision counter, the audit head. So
//! [`Unaudited::next_revision`] comes after all rows have been locked, and the head's lock is taken by the commit.

use std::{fmt, time::Duration};

use chrono::{DateTime, SubsecRound as _, Utc};
use proto_model::Revision;
use sqlx::PgConnection;

use crate::{Context, Error, Event, pool::Lease};

/// How long PostgreSQL may take for COMMIT or ROLLBACK before the connection is given up: a disk that syncs slowly, not a queue.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// A transaction for what is observed, not decided: no audit record is written.
pub struct Unaudited {
    connection: Lease,
    now: DateTime<Utc>,
    ring: bool,
}

/// A transaction whose changes are audited.
pub struct Tx {
    inner: Unaudited,
    context: Context,
    events: Vec<Event>,
    after: Vec<AfterCommit>,
    discard: bool,
}

/// What is done once a transaction was committed: counting.
pub(crate) type AfterCommit = Box<dyn FnOnce() + Send>;

impl Unaudited {
    pub(crate) async fn begin(mut connection: Lease, now: DateTime<Utc>) -> Result<Self, Error> {
        // Until it is over: who drops this in between closes the connection, and PostgreSQL rolls back.
        connection.soil();
        let mut begun = Self { connection, now: now.trunc_subsecs(3), ring: false };
        begun.control("BEGIN").await.map_err(|error| error.map_or(Error::TimedOut, Error::from))?;
        Ok(begun)
    }

    /// Where statements go.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The time of this transaction, in whole milliseconds: the one time of all that it writes.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// The next revision, for one changed row that is watched. Locks the counter until the commit: call it after all other locks.
    ///
    /// # Errors
    /// The database failed.
    pub async fn next_revision(&mut self) -> Result<Revision, Error> {
        self.ring = true;
        let value: i64 = sqlx::query_scalar("UPDATE revision_counter SET value = value + 1 RETURNING value")
            .fetch_one(self.connection())
            .await?;
        u64::try_from(value).map(Revision::new).map_err(|_negative| Error::Damaged("revision"))
    }

    /// Rings the bell after the commit, for a change that has no revision.
    pub fn ring(&mut self) {
        self.ring = true;
    }

    /// Whether the bell is to be rung.
    pub(crate) fn rings(&self) -> bool {
        self.ring
    }

    /// Commits.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where PostgreSQL did not say what became of it.
    pub(crate) async fn commit(mut self) -> Result<(), Error> {
        let done = self.control("COMMIT").await;
        done.map_err(|error| error.map_or(Error::OutcomeUnknown { source: None }, Error::of_commit))
    }

    pub(crate) async fn roll_back(mut self) {
        if let Err(error) = self.control("ROLLBACK").await {
            let error = error.map_or(Error::TimedOut, Error::from);
            tracing::debug!(error = error.chain(), "a rollback failed; its connection is closed");
        }
    }

    /// The connection stays soiled unless the statement succeeds; an error without a source is a time-out.
    async fn control(&mut self, statement: &'static str) -> Result<(), Option<sqlx::Error>> {
        let done = tokio::time::timeout(CONTROL_TIMEOUT, sqlx::raw_sql(statement).execute(&mut *self.connection)).await;
        match done {
            Ok(Ok(_done)) if statement == "BEGIN" => Ok(()),
            Ok(Ok(_done)) => {
                self.connection.clean();
                Ok(())
            }
            Ok(Err(error)) => Err(Some(error)),
            Err(_elapsed) => Err(None),
        }
    }
}

impl Tx {
    pub(crate) fn new(inner: Unaudited, context: Context) -> Self {
        Self { inner, context, events: Vec::new(), after: Vec::new(), discard: false }
    }

    /// The same transaction, for functions that only observe.
    pub fn unaudited(&mut self) -> &mut Unaudited {
        &mut self.inner
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.inner.connection()
    }

    /// As [`Unaudited::now`].
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.inner.now()
    }

    /// As [`Unaudited::next_revision`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn next_revision(&mut self) -> Result<Revision, Error> {
        self.inner.next_revision().await
    }

    /// Who changes something.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// From here on the changes are this actor's: for hosts, which are known only once they are in.
    pub(crate) fn act_as(&mut self, actor: crate::Actor) {
        self.context.actor = actor;
    }

    /// Records what is changed; appended to the log, in order, by the commit.
    pub fn audit(&mut self, event: Event) {
        self.inner.ring = true;
        self.events.push(event);
    }

    /// Nothing of this transaction shall be kept: a check only, or a repeat of a request that was done.
    pub fn discard(&mut self) {
        self.discard = true;
    }

    /// Does this once the transaction was committed, and not before.
    pub(crate) fn after_commit(&mut self, what: impl FnOnce() + Send + 'static) {
        self.after.push(Box::new(what));
    }

    pub(crate) fn into_parts(self) -> Parts {
        let Self { inner, context, events, after, discard } = self;
        Parts { inner, context, events, after, discard }
    }
}

/// A transaction whose work is done.
pub(crate) struct Parts {
    pub(crate) inner: Unaudited,
    pub(crate) context: Context,
    pub(crate) events: Vec<Event>,
    pub(crate) after: Vec<AfterCommit>,
    pub(crate) discard: bool,
}

impl fmt::Debug for Unaudited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unaudited").field("now", &self.now).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("context", &self.context).field("events", &self.events).finish_non_exhaustive()
    }
}
