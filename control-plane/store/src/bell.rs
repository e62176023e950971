//! The bell: somebody changed something, read again. Never the truth itself (facts: NOTIFY can be lost; the counter cannot).
//!
//! A commit here rings at once, and tells other servers by a NOTIFY outside of the writing transaction, at most [`NOTIFY_GAP`] apart:
//! inside of it NOTIFY takes a lock over the whole database. A reconnect rings, and so does a timer, so that a lost bell costs
//! [`TICK`] at most.

use std::{sync::Arc, time::Duration};

use foundation_runtime::{Backoff, OnEnd, TaskGroup};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::{Notify, watch};

use crate::{Error, pool::Pool};

const CHANNEL: &str = "dwcp_bell";
/// Rings without a cause.
const TICK: Duration = Duration::from_secs(2);
/// The shortest time between two NOTIFYs of one server.
const NOTIFY_GAP: Duration = Duration::from_millis(20);
/// How often a server notifies without a cause, so that listeners hear that they still listen.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A listener that hears nothing for so long is deaf, and connects again: three heartbeats.
const DEAF_AFTER: Duration = Duration::from_secs(30);
/// How long one NOTIFY, or one attempt to listen, may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Bell {
    rings: Arc<watch::Sender<u64>>,
    to_notify: Arc<Notify>,
}

impl Bell {
    pub(crate) fn start(pool: &Pool, connect: &PgConnectOptions, tasks: &TaskGroup) -> Self {
        let rings = Arc::new(watch::Sender::new(0));
        let to_notify = Arc::new(Notify::new());
        let token = tasks.token().clone();
        let notifier = notify_others(pool.clone(), Arc::clone(&to_notify));
        tasks.spawn("notifier", OnEnd::Fatal, {
            let token = token.clone();
            async move {
                token.run_until_cancelled(notifier).await;
            }
        });
        let ticker = tick(Arc::clone(&rings));
        tasks.spawn("bell-timer", OnEnd::Fatal, {
            let token = token.clone();
            async move {
                token.run_until_cancelled(ticker).await;
            }
        });
        // A connection of its own, so that a busy pool does not make it deaf.
        let own =
            PgPoolOptions::new().max_connections(1).acquire_timeout(CALL_TIMEOUT).max_lifetime(None).idle_timeout(None);
        let listener = listen(own.connect_lazy_with(connect.clone()), Arc::clone(&rings));
        tasks.spawn("listener", OnEnd::Fatal, async move {
            token.run_until_cancelled(Box::pin(listener)).await;
        });
        Self { rings, to_notify }
    }

    /// Rings here at once, and on the other servers soon.
    pub(crate) fn ring(&self) {
        ring(&self.rings);
        self.to_notify.notify_one();
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.rings.subscribe()
    }
}

fn ring(rings: &watch::Sender<u64>) {
    rings.send_modify(|count| *count = count.wrapping_add(1));
}

async fn tick(rings: Arc<watch::Sender<u64>>) {
    loop {
        tokio::time::sleep(TICK).await;
        ring(&rings);
    }
}

async fn notify_others(pool: Pool, wanted: Arc<Notify>) {
    loop {
        // Either is a reason to notify: a change, or the heartbeat.
        let _either = tokio::time::timeout(HEARTBEAT, wanted.notified()).await;
        match tokio::time::timeout(CALL_TIMEOUT, notify(&pool)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(error = error.chain(), "other servers were not notified"),
            Err(_elapsed) => tracing::debug!("other servers were not notified in time"),
        }
        tokio::time::sleep(NOTIFY_GAP).await;
    }
}

async fn notify(pool: &Pool) -> Result<(), Error> {
    let mut connection = pool.lease().await?;
    connection.soil();
    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&mut *connection).await?;
    connection.clean();
    Ok(())
}

async fn listen(pool: PgPool, rings: Arc<watch::Sender<u64>>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), TICK);
    loop {
        match tokio::time::timeout(CALL_TIMEOUT, subscribed(&pool)).await {
            Ok(Ok(mut listener)) => {
                backoff.reset();
                // What changed while nobody listened.
                ring(&rings);
                hear(&mut listener, &rings).await;
            }
            Ok(Err(error)) => tracing::debug!(error = Error::from(error).chain(), "the database cannot be listened to"),
            Err(_elapsed) => tracing::debug!("the database did not answer a listener in time"),
        }
        ring(&rings);
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

async fn subscribed(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Rings for whatever is heard, until the listener is deaf or broken.
async fn hear(listener: &mut PgListener, rings: &watch::Sender<u64>) {
    loop {
        match tokio::time::timeout(DEAF_AFTER, listener.try_recv()).await {
            // `None`: the connection was lost, and is made anew by the next call; bells may have been lost with it.
            Ok(Ok(Some(_) | None)) => ring(rings),
            Ok(Err(error)) => {
                tracing::debug!(error = Error::from(error).chain(), "the listener broke off");
                return;
            }
            Err(_deaf) => return,
        }
    }
}
