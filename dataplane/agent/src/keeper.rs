//! The loop that keeps what is in force at what should be: takes the control plane's word and the host's own, applies, answers.

use std::sync::Arc;

use dataplane_control_client::{Desired, Handle, Introduction};
use foundation_runtime::{TaskGroup, service_manager};
use foundation_telemetry::Telemetry;
use proto_model::config::Effective;
use tokio::sync::{mpsc, watch};

use crate::{
    apply::Applier,
    command::RunArgs,
    configuration::{Configuration, InForce, Verdict},
    health::{Component, Health},
    layers,
    member::Member,
    service_status,
};

/// The loop's hands.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) configuration: Configuration,
    pub(crate) applier: Applier,
    pub(crate) args: RunArgs,
    pub(crate) effective: watch::Sender<Arc<Effective>>,
    pub(crate) in_force: watch::Sender<InForce>,
    pub(crate) introduction: watch::Sender<Introduction>,
    pub(crate) member: watch::Receiver<Option<Arc<Member>>>,
    pub(crate) reload: mpsc::Receiver<()>,
    pub(crate) telemetry: Telemetry,
    pub(crate) health: Health,
    pub(crate) tasks: TaskGroup,
}

impl Keeper {
    /// Runs until the agent stops.
    pub(crate) async fn run(mut self) {
        let mut wishes: Option<(Handle, watch::Receiver<Option<Arc<Desired>>>)> = None;
        let tasks = self.tasks.clone();
        loop {
            let member = self.member.borrow_and_update().clone();
            if wishes.is_none()
                && let Some(member) = member
            {
                // The parts began with what was in force before they were there.
                self.again().await;
                self.answer(&member.control, 0);
                wishes = Some((member.control.clone(), member.control.desired()));
            }
            if let Some((control, desired)) = &mut wishes {
                let newest = desired.borrow_and_update().clone();
                let control = control.clone();
                if let Some(newest) = newest {
                    self.take(&control, &newest).await;
                }
            }
            tokio::select! {
                () = tasks.cancelled() => return,
                changed = self.member.changed(), if wishes.is_none() => if changed.is_err() { return },
                changed = next(&mut wishes) => if changed.is_err() { return },
                bell = self.reload.recv() => match bell {
                    Some(()) => {
                        service_manager::reloading();
                        self.reload(wishes.as_ref().map(|(control, _)| control)).await;
                        let joined = self.member.borrow().is_some();
                        service_manager::ready(&service_status::sentence(&self.health.board(), joined));
                    }
                    None => return,
                },
            }
        }
    }

    /// The control plane's word. A repeat of it is answered and changes nothing.
    async fn take(&mut self, control: &Handle, desired: &Desired) {
        match self.configuration.desired(desired) {
            Verdict::Unchanged | Verdict::Rejected => {}
            Verdict::Apply(effective) => match self.applier.apply(&effective).await {
                Ok(()) => {
                    tracing::info!(
                        component = "configuration",
                        generation = %desired.generation,
                        digest = %effective.digest,
                        "A configuration of the control plane is in force"
                    );
                    self.configuration.applied(desired, effective);
                }
                Err(errors) => {
                    self.configuration.refused(desired, errors);
                    self.again().await;
                }
            },
        }
        self.keep().await;
        self.publish();
        self.answer(control, desired.nonce);
    }

    /// Puts back what is in force.
    async fn again(&self) {
        let effective = Arc::clone(&self.configuration.in_force().effective);
        if let Err(errors) = self.applier.apply(&effective).await {
            tracing::error!(
                component = "configuration",
                errors = errors.join("; "),
                "What was in force cannot be put back whole"
            );
            self.health.degraded(Component::Configuration, errors.join("; "));
        }
    }

    /// The host's own layers, read again (SIGHUP).
    async fn reload(&mut self, control: Option<&Handle>) {
        if let Err(error) = self.telemetry.reopen() {
            tracing::warn!(component = "telemetry", %error, "The log file cannot be opened again");
        }
        let host = match layers::read(&self.args) {
            Ok(host) => host,
            Err(error) => return self.keeps_old(&error.to_string()),
        };
        let (report, origin) = (host.report.clone(), host.origin.clone());
        let effective = match self.configuration.host_changed(host) {
            Ok(effective) => effective,
            Err(errors) => return self.keeps_old(&errors.join("; ")),
        };
        match self.applier.apply(&effective).await {
            Ok(()) => {
                tracing::info!(component = "configuration", digest = %effective.digest, "The host's own configuration was read again")
            }
            Err(errors) => self.keeps_old(&errors.join("; ")),
        }
        self.introduction.send_modify(|said| {
            said.host_layer = report;
            said.host_layer_origin = origin;
        });
        self.keep().await;
        self.publish();
        if let Some(control) = control {
            self.answer(control, 0);
        }
    }

    fn keeps_old(&self, why: &str) {
        tracing::warn!(
            component = "configuration",
            why,
            "The host's own configuration is not taken; what was in force stays"
        );
        self.health.degraded(Component::Configuration, why);
    }

    async fn keep(&self) {
        let kept = self.tasks.blocking("keep the configuration", self.configuration.keep()).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(component = "configuration", %error, "The configuration cannot be kept on disk");
        }
    }

    /// Tells the rest of the agent.
    fn publish(&self) {
        let in_force = self.configuration.in_force().clone();
        match &in_force.rejected {
            Some((generation, errors)) => {
                let why = format!("generation {generation} was rejected: {}", errors.join("; "));
                tracing::warn!(component = "configuration", %generation, errors = errors.join("; "), "The newest configuration is rejected; the last good one stays");
                self.health.degraded(Component::Configuration, why);
            }
            None => self.health.healthy(Component::Configuration),
        }
        self.effective.send_if_modified(|present| {
            let changed = present.digest != in_force.effective.digest;
            *present = Arc::clone(&in_force.effective);
            changed
        });
        self.in_force.send_replace(in_force);
    }

    fn answer(&self, control: &Handle, nonce: u64) {
        let not_in_force = self.configuration.in_force().effective.not_in_force.clone();
        control.answer(nonce, self.configuration.answer(), not_in_force);
    }
}

/// Waits for the next wish; for ever where there is nobody to wish. Cancel safe.
async fn next(
    wishes: &mut Option<(Handle, watch::Receiver<Option<Arc<Desired>>>)>,
) -> Result<(), watch::error::RecvError> {
    match wishes {
        Some((_, desired)) => desired.changed().await,
        None => std::future::pending().await,
    }
}
