//! How the agent's parts are, in words for people and programs.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use proto_model::{ComponentHealth, HealthStatus};

use tokio::sync::watch;

/// A part of the agent, by the name it has in health answers and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Component {
    /// QUIC between agents.
    AmstTransport,
    /// The codec.
    HdeCompression,
    /// What is in force against what should be.
    Configuration,
    /// The session with the control plane.
    ControlPlane,
    /// The DHT.
    Dht,
    /// What the DHT says, where it is not what is known otherwise.
    DhtRecords,
    /// Key, certificate, roster.
    Identity,
    /// `agent.db`.
    LocalStore,
    /// The metrics port.
    Metrics,
    /// `agent.sock`.
    LocalApi,
    /// Transfers.
    Transfers,
    /// Standing syncs that this node sends.
    Syncs,
    /// The audit log, as this agent witnessed it.
    AuditLog,
    /// Room and rights below the roots and in the data directory.
    Storage,
    /// `logging.file`.
    LogFile,
    /// `content`: versions that deltas refer to.
    ContentStore,
}

impl Component {
    /// Its name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::AmstTransport => "amst_transport",
            Self::HdeCompression => "hde_compression",
            Self::Configuration => "configuration",
            Self::ControlPlane => "control_plane",
            Self::Dht => "dht",
            Self::DhtRecords => "dht_records",
            Self::Identity => "identity",
            Self::LocalStore => "local_store",
            Self::Metrics => "metrics",
            Self::LocalApi => "local_api",
            Self::Transfers => "transfers",
            Self::Syncs => "syncs",
            Self::AuditLog => "audit_log",
            Self::Storage => "storage",
            Self::LogFile => "log_file",
            Self::ContentStore => "content_store",
        }
    }

    /// Whether the agent can do its work without it: then it is degraded at most.
    const fn is_vital(self) -> bool {
        match self {
            Self::AmstTransport | Self::HdeCompression | Self::Configuration | Self::Transfers | Self::Identity => true,
            Self::ControlPlane
            | Self::Dht
            | Self::DhtRecords
            | Self::LocalStore
            | Self::Metrics
            | Self::LocalApi
            | Self::AuditLog
            | Self::Storage
            | Self::LogFile
            | Self::ContentStore
            | Self::Syncs => false,
        }
    }
}

/// How well a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// As it should be.
    Healthy,
    /// Of use, but not as it should be.
    Degraded,
    /// Of no use at present.
    Unhealthy,
}

impl Level {
    /// The word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A part's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// How well.
    pub(crate) level: Level,
    /// Why, where it is not healthy; what else is worth saying, where it is.
    pub(crate) message: String,
}

/// All parts' states. Clones are the same board.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<Inner>);

/// So many recent troubles are kept for `/health?verbose=true`.
const MAX_RECENT: usize = 20;

#[derive(Debug, Default)]
struct Inner {
    board: watch::Sender<BTreeMap<Component, State>>,
    recent: Mutex<VecDeque<String>>,
}

impl Health {
    /// The part is as it should be.
    pub(crate) fn healthy(&self, component: Component) {
        self.set(component, Level::Healthy, String::new());
    }

    /// The part is of use, but.
    pub(crate) fn degraded(&self, component: Component, why: impl Into<String>) {
        self.set(component, Level::Degraded, why.into());
    }

    /// The part is of no use at present.
    pub(crate) fn unhealthy(&self, component: Component, why: impl Into<String>) {
        self.set(component, Level::Unhealthy, why.into());
    }

    /// The part is switched off.
    pub(crate) fn absent(&self, component: Component) {
        self.0.board.send_if_modified(|board| board.remove(&component).is_some());
    }

    /// Sets a part's state; only a change wakes those who watch.
    pub(crate) fn set(&self, component: Component, level: Level, message: String) {
        let state = State { level, message };
        let changed = self.0.board.send_if_modified(|board| {
            let before = board.insert(component, state.clone());
            before.as_ref() != Some(&state)
        });
        if changed && level != Level::Healthy {
            let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.truncate(MAX_RECENT - 1);
            recent.push_front(format!("{}: {}", component.as_str(), state.message));
        }
    }

    /// What was not healthy, the newest first.
    pub(crate) fn recent(&self) -> Vec<String> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The whole board.
    pub(crate) fn board(&self) -> BTreeMap<Component, State> {
        self.0.board.borrow().clone()
    }

    /// Every change of it.
    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<Component, State>> {
        self.0.board.subscribe()
    }

    /// What the control plane is told. That there is a session needs no telling: what reaches it proves it, also when it was noted down
    /// before.
    pub(crate) fn report(&self) -> Vec<ComponentHealth> {
        let health = |(component, state): (&Component, &State)| ComponentHealth {
            component: component.as_str().to_owned(),
            status: match state.level {
                _ if *component == Component::ControlPlane => HealthStatus::Healthy,
                Level::Healthy => HealthStatus::Healthy,
                Level::Degraded => HealthStatus::Degraded,
                Level::Unhealthy if component.is_vital() => HealthStatus::Unhealthy,
                Level::Unhealthy => HealthStatus::Degraded,
            },
            message: if *component == Component::ControlPlane { String::new() } else { state.message.clone() },
        };
        self.0.board.borrow().iter().map(health).collect()
    }

    /// One word for all: what the agent can work without only degrades it.
    pub(crate) fn overall(&self) -> Level {
        overall(&self.0.board.borrow())
    }
}

/// One word for a board.
pub(crate) fn overall(board: &BTreeMap<Component, State>) -> Level {
    let weight = |(component, state): (&Component, &State)| {
        if component.is_vital() { state.level } else { state.level.min(Level::Degraded) }
    };
    board.iter().map(weight).max().unwrap_or(Level::Healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_control_plane_never_makes_the_agent_unhealthy() {
        let health = Health::default();
        health.healthy(Component::AmstTransport);
        health.unhealthy(Component::ControlPlane, "away");
        assert_eq!(health.overall(), Level::Degraded);
        health.unhealthy(Component::AmstTransport, "the port is taken");
        assert_eq!(health.overall(), Level::Unhealthy);
    }

    #[test]
    fn a_report_that_was_noted_down_before_the_session_stood_does_not_say_that_none_does() {
        let health = Health::default();
        health.degraded(Component::ControlPlane, "no session yet");
        health.degraded(Component::Dht, "two nodes");
        let report = health.report();
        let ill: Vec<_> = report.iter().filter(|part| part.status != HealthStatus::Healthy).collect();
        assert_eq!((report.len(), ill.len(), ill[0].message.as_str()), (2, 1, "two nodes"));
    }

    #[test]
    fn only_a_change_wakes_the_watchers() {
        let health = Health::default();
        health.healthy(Component::Dht);
        let mut watch = health.watch();
        watch.mark_unchanged();
        health.healthy(Component::Dht);
        assert!(!watch.has_changed().unwrap());
        health.degraded(Component::Dht, "two nodes");
        assert!(watch.has_changed().unwrap());
    }
}
