//! Connections to PostgreSQL: a bounded number of them, a bounded queue before them, a bounded wait for each.
//!
//! A [`Lease`] that is dropped in the middle of something (a caller that went away, a time-out) is closed with its connection, never
//! handed on: so nobody inherits a transaction or an answer that was meant for another. sqlx's own pool hands them on (#4385), waits
//! without a bound when it takes a connection back, and does not say why it could not connect.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use foundation_runtime::{Backoff, Clock};
use metrics::counter;
use sqlx::{Connection as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::Error;

/// How long a caller waits for its turn: transactions here last milliseconds, so who waits longer waits in vain.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection that lay idle may take to say that it is alive.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take in all until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// The delays between attempts while PostgreSQL is being started: that takes about 100 ms.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LONGEST_RETRY: Duration = Duration::from_millis(500);
/// For how long PostgreSQL that refuses is asked again for one caller.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Older connections are not kept: what PostgreSQL caches for one only grows.
const LIFETIME: Duration = Duration::from_mins(30);
/// Callers that wait, for each connection: these have their turn well within [`QUEUE_TIMEOUT`].
const WAITING_PER_CONNECTION: usize = 32;

/// A pool. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    connect: PgConnectOptions,
    permits: Arc<Semaphore>,
    connections: u32,
    waiting: AtomicUsize,
    idle: Mutex<Vec<Idle>>,
    clock: Clock,
}

struct Idle {
    connection: PgConnection,
    made: Instant,
}

/// A connection that one caller has; it goes back when dropped, unless it is soiled.
pub(crate) struct Lease {
    connection: Option<PgConnection>,
    made: Instant,
    soiled: bool,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(connect: PgConnectOptions, connections: u32, clock: Clock) -> Self {
        let permits = Arc::new(Semaphore::new(usize::try_from(connections).unwrap_or(Semaphore::MAX_PERMITS)));
        let (waiting, idle) = (AtomicUsize::new(0), Mutex::default());
        Self(Arc::new(Inner { connect, permits, connections, waiting, idle, clock }))
    }

    /// Takes a connection that is alive and outside of a transaction.
    pub(crate) async fn lease(&self) -> Result<Lease, Error> {
        let permit = self.permit().await?;
        let mut last = None;
        let live = timeout(CONNECT_TIMEOUT, self.live(&mut last)).await;
        let Idle { connection, made } = live.unwrap_or_else(|_elapsed| Err(last.unwrap_or(Error::TimedOut)))?;
        Ok(Lease { connection: Some(connection), made, soiled: false, pool: self.clone(), _permit: permit })
    }

    /// How many connections are in use, and how many lie idle.
    pub(crate) fn connections(&self) -> (u32, u32) {
        let free = u32::try_from(self.0.permits.available_permits()).unwrap_or(u32::MAX);
        let idle = u32::try_from(self.idle().len()).unwrap_or(u32::MAX);
        (self.0.connections.saturating_sub(free), idle)
    }

    /// Refuses new callers, waits for those that have a connection, and closes all.
    pub(crate) async fn close(&self) {
        let all = Arc::clone(&self.0.permits).acquire_many_owned(self.0.connections).await;
        self.0.permits.close();
        drop(all);
        let idle = std::mem::take(&mut *self.idle());
        for Idle { connection, .. } in idle {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "a connection to the database was gone already");
            }
        }
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permits = Arc::clone(&self.0.permits);
        if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
            return Ok(permit);
        }
        let place = Waiting::enter(self);
        let in_time = match place {
            Some(_) => timeout(QUEUE_TIMEOUT, permits.acquire_owned()).await,
            None => return Err(self.busy()),
        };
        match in_time {
            Ok(permit) => permit.map_err(|_closed| Error::Stopping),
            Err(_elapsed) => Err(self.busy()),
        }
    }

    fn busy(&self) -> Error {
        counter!("dwcp_limit_hits_total", "limit" => "limits.database_connections").increment(1);
        Error::Busy { connections: self.0.connections }
    }

    /// An idle connection that is alive, or a new one; what went wrong last stays in `last` when time runs out.
    async fn live(&self, last: &mut Option<Error>) -> Result<Idle, Error> {
        while let Some(mut idle) = self.pop() {
            match timeout(CHECK_TIMEOUT, is_outside_of_a_transaction(&mut idle.connection)).await {
                Ok(Ok(true)) => return Ok(idle),
                Ok(Ok(false) | Err(_)) => {}
                // Deaf, and so are probably the others.
                Err(_elapsed) => self.idle().clear(),
            }
        }
        let made = self.0.clock.now();
        let connection = self.connect(made, last).await?;
        Ok(Idle { connection, made })
    }

    async fn connect(&self, begun: Instant, last: &mut Option<Error>) -> Result<PgConnection, Error> {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            let error = match PgConnection::connect_with(&self.0.connect).await {
                Ok(connection) => return Ok(connection),
                Err(error) => Error::from(error),
            };
            let waited = self.0.clock.now().saturating_duration_since(begun);
            if !error.is_temporary() || waited >= REFUSED_FOR {
                return Err(error);
            }
            *last = Some(error);
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// The one that was used last; those that are too old are closed on the way.
    fn pop(&self) -> Option<Idle> {
        let now = self.0.clock.now();
        let mut idle = self.idle();
        idle.retain(|idle| now.saturating_duration_since(idle.made) < LIFETIME);
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // The list is changed by single calls only, so a poisoned lock holds a whole list.
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's place in the queue, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// Absent where too many wait.
    fn enter(pool: &'a Pool) -> Option<Self> {
        let bound = usize::try_from(pool.0.connections).unwrap_or(1).saturating_mul(WAITING_PER_CONNECTION);
        let before = pool.0.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(&pool.0.waiting);
        (before < bound).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// From here on it is in the middle of something: until [`Self::clean`] it will not be handed on.
    pub(crate) fn soil(&mut self) {
        self.soiled = true;
    }

    /// What was begun is over, and its answer was read.
    pub(crate) fn clean(&mut self) {
        self.soiled = false;
    }
}

impl Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("the connection is taken out by the drop alone")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("the connection is taken out by the drop alone")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A connection that is dropped is closed: PostgreSQL rolls back what it was in.
        if let Some(connection) = self.connection.take().filter(|_| !self.soiled) {
            self.pool.idle().push(Idle { connection, made: self.made });
        }
    }
}

/// Outside of a transaction every statement is its own, and begins when it begins. Also finds a connection that is dead.
async fn is_outside_of_a_transaction(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::Executor::fetch_one(connection, sqlx::raw_sql("SELECT now() = statement_timestamp()")).await?.try_get(0)
}
