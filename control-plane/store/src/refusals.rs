//! Refusals that matter, in the audit log: coalesced, so that nobody can fill the log by being refused.
//!
//! Of one actor, action and resource at most one record a minute is written, with a count. Counting is per server and in memory;
//! what is not written yet at a stop is written then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use foundation_runtime::{OnEnd, TaskGroup};
use tokio::sync::Notify;

use crate::{Actor, Context, Db, Error, Event};

/// The shortest time between two records of one kind.
const GAP: Duration = Duration::from_mins(1);
/// How often counts that became due are written.
const TICK: Duration = Duration::from_secs(5);
/// Kinds that are counted apart; further ones are counted together, so that inventing names costs nothing here.
const MAX_KINDS: usize = 1000;

/// Counts refusals, and records them. Clones are the same.
#[derive(Clone, Debug)]
pub struct Refusals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kinds: Mutex<HashMap<Kind, Count>>,
    news: Notify,
    db: Db,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    actor: Actor,
    action: &'static str,
    resource: String,
}

#[derive(Clone, Debug)]
struct Count {
    unwritten: u64,
    reason: String,
    trace_id: String,
    written: Option<Instant>,
}

impl Refusals {
    /// Begins to count.
    #[must_use]
    pub fn start(db: Db, tasks: &TaskGroup) -> Self {
        let refusals = Self(Arc::new(Inner { kinds: Mutex::default(), news: Notify::new(), db }));
        let (counted, token) = (refusals.clone(), tasks.token().clone());
        tasks.spawn("refusals", OnEnd::Fatal, async move {
            token.run_until_cancelled(counted.write_when_due()).await;
            counted.write_due(Due::All).await;
        });
        refusals
    }

    /// Counts a refusal: `actor` was not let do `action` with `resource`. Never waits.
    pub fn note(&self, actor: Actor, action: &'static str, resource: &str, reason: &str, trace_id: &str) {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = Kind { actor, action, resource: resource.to_owned() };
        if kinds.len() >= MAX_KINDS && !kinds.contains_key(&kind) {
            kind = Kind { actor: Actor::Anonymous, action: "request", resource: "various".to_owned() };
        }
        let first = kinds.entry(kind).or_insert_with(|| Count {
            unwritten: 0,
            reason: reason.to_owned(),
            trace_id: trace_id.to_owned(),
            written: None,
        });
        first.unwritten = first.unwritten.saturating_add(1);
        let is_new = first.written.is_none();
        drop(kinds);
        if is_new {
            self.0.news.notify_one();
        }
    }

    async fn write_when_due(&self) {
        loop {
            // Either is a reason to look: something new, or time passed.
            let _either = tokio::time::timeout(TICK, self.0.news.notified()).await;
            self.write_due(Due::ByTime).await;
        }
    }

    async fn write_due(&self, due: Due) {
        for (kind, count) in self.take_due(due) {
            if let Err(error) = self.write(&kind, &count).await {
                error.log("audit", "A refusal could not be recorded yet");
                self.put_back(kind, count);
            }
        }
    }

    fn take_due(&self, due: Due) -> Vec<(Kind, Count)> {
        let now = self.0.db.clock().now();
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |count: &Count| count.written.is_none_or(|written| now.duration_since(written) >= GAP);
        kinds.retain(|_, count| count.unwritten > 0 || !is_over(count));
        let mut taken = Vec::new();
        for (kind, count) in kinds.iter_mut() {
            if count.unwritten > 0 && (due == Due::All || is_over(count)) {
                taken.push((kind.clone(), count.clone()));
                count.unwritten = 0;
                count.written = Some(now);
            }
        }
        taken
    }

    fn put_back(&self, kind: Kind, count: Count) {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kinds.entry(kind).or_insert(Count { unwritten: 0, ..count.clone() });
        entry.unwritten = entry.unwritten.saturating_add(count.unwritten);
        entry.written = count.written;
    }

    async fn write(&self, kind: &Kind, count: &Count) -> Result<(), Error> {
        let context = Context { actor: kind.actor.clone(), trace_id: count.trace_id.clone(), request: None };
        let event = Event::refused(kind.action, kind.resource.as_str())
            .with("reason", count.reason.as_str())
            .with("count", count.unwritten);
        self.0
            .db
            .write("record-refusals", context, move |tx| {
                Box::pin(async move {
                    tx.audit(event);
                    Ok(())
                })
            })
            .await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    ByTime,
    All,
}
