//! The content store of this host: opened at the start, bounded by the configuration, cleaned and read through on a timer.
//!
//! Nothing that the agent does needs it: where it cannot be opened, or loses everything, whole versions travel.

use std::{path::Path, sync::Arc, time::Duration};

use dataplane_content::{
    Baselines, ContentStore, Limits, References, ReferencesError, Settings, Stats,
    policy::{Copying, Policy},
};
use dataplane_local_store::LocalStore;
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use proto_model::config::{AgentConfig, CopyBaselines, Effective};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    apply::{chain, count},
    health::{Component, Health, Level},
};

/// How often what is old and what nobody needs is removed: it goes through all names.
const CLEAN_INTERVAL: Duration = Duration::from_secs(600);
/// How often the objects of one of the 256 folders are read: all of them in eleven days, a few MB a minute at most.
const READ_INTERVAL: Duration = Duration::from_secs(3600);

/// What the pages show of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) stats: Stats,
    pub(crate) baselines: u64,
}

impl Shown {
    /// As it stands in `/api/v1/dwcp/hde/stats`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "baselines_synced": self.baselines,
            "content": {
                "objects": self.stats.objects,
                "bytes": self.stats.bytes,
                "damaged": self.stats.damaged,
                "open": self.stats.open,
            },
        })
    }
}

/// The store, and what shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) baselines: Option<Baselines>,
    shown: watch::Sender<Shown>,
}

impl Content {
    /// What the pages show.
    pub(crate) fn shown(&self) -> Shown {
        *self.shown.borrow()
    }
}

/// Says what the metrics mean.
pub(crate) fn describe() {
    use metrics::{counter, describe_counter, describe_gauge, gauge};
    describe_gauge!("dwcp_hde_baselines_synced", "Versions that peers are known to hold, and this host too.");
    describe_gauge!("dwcp_content_objects", "Objects in the content store.");
    describe_gauge!("dwcp_content_bytes", "Bytes that the content store takes of the disk.");
    describe_gauge!("dwcp_content_max_bytes", "Bytes that it may take (content.max_bytes).");
    describe_counter!("dwcp_content_damaged_total", "Objects that were found damaged on the disk.");
    describe_counter!("dwcp_content_collected_total", "Objects that were removed because nothing needed them.");
    for name in ["dwcp_hde_baselines_synced", "dwcp_content_objects", "dwcp_content_bytes", "dwcp_content_max_bytes"] {
        gauge!(name).set(0.0);
    }
    for name in ["dwcp_content_damaged_total", "dwcp_content_collected_total"] {
        counter!(name).increment(0);
    }
}

/// Opens the store, and cares for it until the tasks end.
pub(crate) async fn open(
    dir: &Path,
    store: Option<LocalStore>,
    effective: watch::Receiver<Arc<Effective>>,
    health: &Health,
    clock: &Clock,
    tasks: &TaskGroup,
) -> Content {
    let mut content = Content::default();
    let Some(store) = store else {
        health.degraded(Component::ContentStore, "the local store cannot be opened, and says who needs what");
        return content;
    };
    let (dir, config) = (dir.to_path_buf(), effective.borrow().config.clone());
    let opened = tasks.blocking("open the content store", move || ContentStore::open(&dir, limits(&config))).await;
    match opened {
        Ok(Ok(opened)) => {
            let settings = settings(&effective.borrow().config);
            let references = References::new(opened, store, tasks.clone());
            let baselines = Baselines::new(references, clock.clone(), settings);
            content.baselines = Some(baselines.clone());
            let keeper = Keeper { baselines, effective, health: health.clone(), tasks: tasks.clone(), next: 0 };
            tasks.spawn("content store", OnEnd::Expected, keeper.run(content.shown.clone()));
        }
        Ok(Err(error)) => {
            let why = chain(&error);
            tracing::warn!(component = "content", why, "The content store cannot be opened; whole versions travel");
            health.degraded(Component::ContentStore, why);
        }
        // The agent is stopping.
        Err(_cancelled) => {}
    }
    content
}

/// The store's bounds.
pub(crate) fn limits(config: &AgentConfig) -> Limits {
    Limits {
        max_bytes: config.content.max_bytes,
        reserve: config.storage.reserve,
        open_objects: count(config.limits.open_objects),
    }
}

/// How versions are kept.
fn settings(config: &AgentConfig) -> Settings {
    let (content, compression) = (&config.content, &config.compression);
    Settings {
        policy: Policy {
            copying: match content.copy_baselines {
                CopyBaselines::Auto => Copying::Auto,
                CopyBaselines::Always => Copying::Always,
                CopyBaselines::Never => Copying::Never,
            },
            interval: compression.baseline_interval,
            max_chain: compression.max_delta_chain,
            threshold: compression.adaptive_threshold,
        },
        versions: content.versions,
        max_age: content.max_age,
    }
}

/// Cares for the store.
struct Keeper {
    baselines: Baselines,
    effective: watch::Receiver<Arc<Effective>>,
    health: Health,
    tasks: TaskGroup,
    /// The folder whose objects are read next.
    next: u8,
}

impl Keeper {
    async fn run(mut self, shown: watch::Sender<Shown>) {
        let mut clean = tokio::time::interval(CLEAN_INTERVAL);
        let mut read = tokio::time::interval(READ_INTERVAL);
        // The first is at once: most agents are stopped more often than that.
        read.reset();
        self.next = rand::random();
        let tasks = self.tasks.clone();
        loop {
            let look = self.effective.borrow().config.monitoring.health_check_interval;
            let done = tokio::select! {
                () = tasks.cancelled() => return,
                changed = self.effective.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.follow();
                    Ok(())
                }
                _tick = clean.tick() => self.clean().await,
                _tick = read.tick() => self.read().await,
                () = tokio::time::sleep(look) => Ok(()),
            };
            match done {
                Ok(()) => self.look(&shown).await,
                Err(error) => self.say(&error),
            }
        }
    }

    fn follow(&mut self) {
        let config = &self.effective.borrow_and_update().config;
        self.baselines.references().content().set_limits(limits(config));
        self.baselines.set_settings(settings(config));
    }

    async fn clean(&self) -> Result<(), ReferencesError> {
        let collected = self.baselines.clean().await?;
        if collected.objects > 0 {
            tracing::info!(
                component = "content",
                objects = collected.objects,
                bytes = collected.bytes,
                "Removed what nobody needs of the content store"
            );
        }
        Ok(())
    }

    /// Reads the objects of a folder: a disk that damages them is found before they are needed.
    async fn read(&mut self) -> Result<(), ReferencesError> {
        let (content, number) = (self.baselines.references().content().clone(), self.next);
        self.next = self.next.wrapping_add(1);
        let token = self.tasks.token().clone();
        let read =
            self.tasks.blocking("read content", move || content.verify_shard(number, || !token.is_cancelled())).await?;
        read.map(drop).map_err(Into::into)
    }

    async fn look(&self, shown: &watch::Sender<Shown>) {
        let content = self.baselines.references().content().clone();
        let max = content.limits().max_bytes;
        let folder = content.path().join("damaged");
        let looked = async {
            let stats = self.tasks.blocking("look at content", move || content.stats()).await??;
            Ok::<_, ReferencesError>(Shown { stats, baselines: self.baselines.count().await? })
        };
        match looked.await {
            Ok(now) => {
                gauge("dwcp_hde_baselines_synced", now.baselines);
                gauge("dwcp_content_objects", now.stats.objects);
                gauge("dwcp_content_bytes", now.stats.bytes);
                gauge("dwcp_content_max_bytes", max.bytes());
                shown.send_replace(now);
                let (level, message) = match now.stats.damaged {
                    0 => (Level::Healthy, String::new()),
                    damaged => (
                        Level::Degraded,
                        format!(
                            "{damaged} damaged objects were set aside in {}: look at the disk, then remove them",
                            folder.display()
                        ),
                    ),
                };
                self.health.set(Component::ContentStore, level, message);
            }
            Err(error) => self.say(&error),
        }
    }

    fn say(&self, error: &ReferencesError) {
        if !self.tasks.is_cancelled() {
            self.health.degraded(Component::ContentStore, chain(error));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; 2^53 bytes are eight million GB")]
fn gauge(name: &'static str, value: u64) {
    metrics::gauge!(name).set(value as f64);
}
