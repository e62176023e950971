//! Refusals that matter, in the audit log: coalesced, so that nobody can fill the log by being refused.
//!
//! Of one actor, action, resource and reason at most one record a minute is written, with a count. Counting is per server and in memory;
//! what is not written yet at a stop is written then. A record has only what this program says and what it has checked: names of resources
//! that exist, reasons out of a fixed list, addresses. What a stranger sent does not get into it.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use foundation_runtime::{OnEnd, TaskGroup};
use tokio::{sync::Notify, time::timeout};

use crate::{Actor, Context, Db, Error, Event};

/// The shortest time between two records of one kind.
const GAP: Duration = Duration::from_mins(1);
/// How often counts that became due are written.
const TICK: Duration = Duration::from_secs(5);
/// Kinds that are counted apart; further ones are counted together, so that inventing names costs nothing here.
const MAX_KINDS: usize = 1000;
/// Kinds of one actor that are counted apart; strangers are one.
const MAX_KINDS_OF_ACTOR: usize = 64;
/// Addresses that a record names.
const MAX_ADDRESSES: usize = 8;
/// The longest name of a resource; ours are shorter.
const MAX_RESOURCE_BYTES: usize = 200;

/// Somebody was not let do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// Who, as far as that was proven.
    pub actor: Actor,
    /// What.
    pub action: &'static str,
    /// With what: a name that this program knows, never one that a stranger made up.
    pub resource: &'a str,
    /// Why.
    pub reason: &'static str,
    /// From where.
    pub from: Option<IpAddr>,
}

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
    reason: &'static str,
}

impl Kind {
    /// What is over the bounds, together.
    fn various(actor: Actor) -> Self {
        Self { actor, action: "request", resource: "various".to_owned(), reason: "too many kinds to be told apart" }
    }
}

#[derive(Clone, Debug, Default)]
struct Count {
    unwritten: u64,
    /// Of those that are not written yet.
    from: BTreeSet<IpAddr>,
    /// Of the first of them.
    trace_id: String,
    written: Option<Instant>,
}

impl Refusals {
    /// Begins to count.
    #[must_use]
    pub fn start(db: Db, tasks: &TaskGroup) -> Self {
        metrics::describe_counter!("dwcp_refusals_total", "Refusals that count for the audit log.");
        metrics::counter!("dwcp_refusals_total", "action" => "call").increment(0);
        let refusals = Self(Arc::new(Inner { kinds: Mutex::default(), news: Notify::new(), db }));
        let (counted, group) = (refusals.clone(), tasks.clone());
        tasks.spawn("refusals", OnEnd::Fatal, async move {
            counted.write_until(&group).await;
            counted.write_due(Due::All).await;
        });
        refusals
    }

    /// Counts a refusal. Never waits.
    pub fn note(&self, refusal: Refusal<'_>, trace_id: &str) {
        self.note_many(refusal, 1, trace_id);
    }

    /// Counts several of one kind, as somebody else counted them.
    pub fn note_many(&self, refusal: Refusal<'_>, count: u64, trace_id: &str) {
        let Refusal { actor, action, resource, reason, from } = refusal;
        metrics::counter!("dwcp_refusals_total", "action" => action).increment(count);
        let resource = if resource.len() <= MAX_RESOURCE_BYTES { resource } else { "too long a name" };
        let mut kind = Kind { actor, action, resource: resource.to_owned(), reason };
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if !kinds.contains_key(&kind) {
            let of_actor = kinds.keys().filter(|known| known.actor == kind.actor).count();
            if kinds.len() >= MAX_KINDS {
                kind = Kind::various(Actor::Anonymous);
            } else if of_actor >= MAX_KINDS_OF_ACTOR {
                kind = Kind::various(kind.actor);
            }
        }
        let entry = kinds.entry(kind).or_default();
        if entry.unwritten == 0 {
            trace_id.clone_into(&mut entry.trace_id);
        }
        entry.unwritten = entry.unwritten.saturating_add(count);
        if entry.from.len() < MAX_ADDRESSES {
            entry.from.extend(from);
        }
        let is_new = entry.written.is_none();
        drop(kinds);
        if is_new {
            self.0.news.notify_one();
        }
    }

    /// Never stops in the middle of writing: what was taken out of the counts would be lost.
    async fn write_until(&self, end: &TaskGroup) {
        loop {
            // Either is a reason to look: something new, or time passed.
            tokio::select! {
                () = end.cancelled() => return,
                _either = timeout(TICK, self.0.news.notified()) => {}
            }
            self.write_due(Due::ByTime).await;
        }
    }

    async fn write_due(&self, due: Due) {
        let mut failed = false;
        for (kind, count) in self.take_due(due) {
            // The next ones would fare no better: one try, and one line of the log, at a time.
            if failed {
                self.put_back(kind, count);
            } else if let Err(error) = self.write(&kind, &count).await {
                error.log("audit", "Refusals could not be recorded yet");
                self.put_back(kind, count);
                failed = true;
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
                taken.push((kind.clone(), std::mem::take(count)));
                count.written = Some(now);
            }
        }
        taken
    }

    fn put_back(&self, kind: Kind, count: Count) {
        let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = kinds.entry(kind).or_default();
        entry.unwritten = entry.unwritten.saturating_add(count.unwritten);
        entry.from.extend(count.from);
        entry.trace_id = count.trace_id;
        entry.written = count.written;
        while entry.from.len() > MAX_ADDRESSES {
            entry.from.pop_last();
        }
    }

    async fn write(&self, kind: &Kind, count: &Count) -> Result<(), Error> {
        let context = Context { actor: kind.actor.clone(), trace_id: count.trace_id.clone(), request: None };
        let event = Event::refused(kind.action, kind.resource.as_str())
            .with("reason", kind.reason)
            .with("count", count.unwritten)
            .with("from", count.from.iter().map(ToString::to_string).collect::<Vec<_>>());
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
