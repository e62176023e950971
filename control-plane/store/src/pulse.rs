//! Whether the database can be used, as one connection of its own finds out every second: so that who asks need not wait for it, and the
//! log has one line for each change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use foundation_runtime::{Clock, OnEnd, TaskGroup};
use metrics::gauge;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{sync::watch, time::timeout};

use crate::Cause;

/// How often the database is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to answer, or to let us in.
const ANSWER: Duration = Duration::from_secs(3);

/// Takes about a megabyte on the disk of the database for a moment: a full one refuses it, also where small changes still fit
/// between old ones.
const TAKE_ROOM: &str = "BEGIN; CREATE TEMPORARY TABLE dwcp_room ON COMMIT DROP AS \
                         SELECT md5(i::text) FROM generate_series(1, 20000) AS i; ROLLBACK";

/// The answer to "can it be used?". Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    trouble: watch::Receiver<Option<Cause>>,
    /// A write found the disk full: to be looked at.
    suspected: Arc<AtomicBool>,
}

impl Pulse {
    pub(crate) fn start(connect: PgConnectOptions, clock: Clock, tasks: &TaskGroup) -> Self {
        let (publish, trouble) = watch::channel(None);
        let suspected = Arc::new(AtomicBool::new(false));
        let feeler = Feeler { connect, clock, held: None, since: None, suspected: Arc::clone(&suspected), publish };
        let token = tasks.token().clone();
        tasks.spawn("pulse", OnEnd::Fatal, async move {
            token.run_until_cancelled(Box::pin(feeler.run())).await;
        });
        Self { trouble, suspected }
    }

    /// Why the database cannot be used, or not be written to, if it cannot.
    pub(crate) fn trouble(&self) -> Option<Cause> {
        *self.trouble.borrow()
    }

    /// A write failed.
    pub(crate) fn on_failed_write(&self, error: &(dyn std::error::Error + 'static)) {
        if Cause::DiskFull.is_behind(error) {
            self.suspected.store(true, Ordering::Relaxed);
        }
    }
}

struct Feeler {
    connect: PgConnectOptions,
    clock: Clock,
    held: Option<PgConnection>,
    since: Option<Instant>,
    suspected: Arc<AtomicBool>,
    publish: watch::Sender<Option<Cause>>,
}

impl Feeler {
    async fn run(mut self) {
        gauge!("dwcp_db_up").set(1);
        loop {
            let felt = timeout(ANSWER, self.feel()).await.unwrap_or(Err(Cause::NoAnswer)).err();
            self.tell(felt);
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn feel(&mut self) -> Result<(), Cause> {
        let mut connection = self.answering().await?;
        let was_full = *self.publish.borrow() == Some(Cause::DiskFull);
        if self.suspected.swap(false, Ordering::Relaxed) || was_full {
            sqlx::raw_sql(TAKE_ROOM).execute(&mut connection).await.map_err(|error| Cause::of(&error))?;
        }
        self.held = Some(connection);
        Ok(())
    }

    /// A connection that answers as a primary does.
    async fn answering(&mut self) -> Result<PgConnection, Cause> {
        if let Some(mut connection) = self.held.take()
            && let Ok(takes_writes) = takes_writes(&mut connection).await
        {
            return if takes_writes { Ok(connection) } else { Err(Cause::Standby) };
        }
        // One that was closed says nothing of PostgreSQL: only a new one does.
        let mut connection = PgConnection::connect_with(&self.connect).await.map_err(|error| Cause::of(&error))?;
        match takes_writes(&mut connection).await {
            Ok(true) => Ok(connection),
            Ok(false) => Err(Cause::Standby),
            Err(error) => Err(Cause::of(&error)),
        }
    }

    fn tell(&mut self, felt: Option<Cause>) {
        let before = self.publish.send_replace(felt);
        if before == felt {
            return;
        }
        gauge!("dwcp_db_up").set(u8::from(felt.is_none()));
        match felt {
            Some(cause) if before.is_none() => {
                self.since = Some(self.clock.now());
                tracing::error!(component = "database", %cause, fix = cause.hint(), "The database cannot be used; agents work on");
            }
            Some(cause) => {
                tracing::warn!(component = "database", %cause, fix = cause.hint(), "The database still cannot be used")
            }
            None => {
                let now = self.clock.now();
                let seconds = self.since.take().map_or(0, |since| now.saturating_duration_since(since).as_secs());
                tracing::info!(component = "database", seconds, "The database can be used again");
            }
        }
    }
}

async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let ask = "SELECT NOT (pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean)";
    sqlx::query_scalar(ask).fetch_one(connection).await
}
