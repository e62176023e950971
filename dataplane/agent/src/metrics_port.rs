//! The metrics port: moves with the configuration, and gives way to a Prometheus that has the default one (D28).

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use foundation_listener::Gate;
use foundation_runtime::{Clock, OnEnd, RememberedPorts, TaskGroup};
use proto_model::config::Effective;
use tokio::sync::{Mutex, watch};

use crate::{
    apply::count,
    health::{Component, Health},
    http::{View, metrics_router, port},
    listen::{ListenError, listen},
};

/// Where metrics should be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    enabled: bool,
    address: SocketAddr,
    /// Somebody chose it: that it is taken is then an error.
    chosen: bool,
}

impl Wanted {
    fn of(effective: &Effective) -> Self {
        let config = &effective.config;
        Self {
            enabled: config.monitoring.prometheus_enabled,
            address: config.metrics_listen(),
            chosen: !(effective.is_default("network.metrics_listen")
                && effective.is_default("monitoring.metrics_port")),
        }
    }
}

/// The listener that serves, if one does.
#[derive(Debug)]
pub(crate) struct MetricsPort {
    dir: PathBuf,
    /// Where metrics are in any case.
    http: SocketAddr,
    health: Health,
    clock: Clock,
    tasks: TaskGroup,
    serving: Mutex<Option<(Wanted, TaskGroup)>>,
    gate: Gate,
    bound: watch::Sender<SocketAddr>,
}

impl MetricsPort {
    pub(crate) fn new(dir: PathBuf, http: SocketAddr, health: Health, clock: Clock, tasks: TaskGroup) -> Self {
        let gate = Gate::new("limits.http_connections", 1);
        Self { dir, http, health, clock, tasks, serving: Mutex::default(), gate, bound: watch::Sender::new(http) }
    }

    /// Where metrics are served, as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<SocketAddr> {
        self.bound.subscribe()
    }

    /// Serves where this configuration says. The old listener goes only when the new one stands.
    ///
    /// # Errors
    /// A port that somebody chose cannot be used; what served before goes on.
    pub(crate) async fn follow(&self, effective: &Effective, view: Arc<dyn View>) -> Result<(), ListenError> {
        let wanted = Wanted::of(effective);
        self.gate.set_strangers(count(effective.config.limits.http_connections));
        let mut serving = self.serving.lock().await;
        if serving.as_ref().is_some_and(|(present, _)| *present == wanted) {
            return Ok(());
        }
        let group = self.tasks.child("metrics");
        let message = if !wanted.enabled {
            self.bound.send_replace(self.http);
            "switched off by monitoring.prometheus_enabled".to_owned()
        } else if wanted.address.port() != 0 && wanted.address.port() == self.http.port() {
            self.bound.send_replace(self.http);
            String::new()
        } else {
            let mut ports = RememberedPorts::load(&self.dir)?;
            match listen("metrics", "--metrics-listen", wanted.address, &mut ports).await {
                Ok((listener, bound)) => {
                    self.bound.send_replace(bound);
                    let access = view.access();
                    let router = metrics_router(view, self.clock.clone());
                    let port = port("metrics", router, self.gate.clone(), access);
                    group.spawn("metrics port", OnEnd::Expected, port.serve(listener, group.clone()));
                    String::new()
                }
                Err(error) if wanted.chosen => return Err(error),
                Err(error) => {
                    self.bound.send_replace(self.http);
                    let message = format!("{error}; metrics are at http://{}/metrics", self.http);
                    tracing::warn!(component = "metrics", "The default metrics port cannot be used: {message}");
                    message
                }
            }
        };
        if let Some((_, before)) = serving.replace((wanted, group)) {
            before.cancel();
        }
        self.health.set(Component::Metrics, crate::health::Level::Healthy, message);
        Ok(())
    }
}
