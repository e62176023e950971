//! Opens the folder of transfers, stops transfers for good, and removes what is left of those that nobody may go on with.

use std::{io, sync::Arc, time::Duration};

use foundation_runtime::{Clock, OnEnd, TaskGroup};
use proto_model::{TransferId, TransferReport, TransferRole, TransferState};

use crate::{
    ends::TransferFolder,
    orders::Order,
    receiver, report,
    service::{Options, Shared, Transfers},
    sync::SyncOrder,
};

/// How often what nobody may go on with is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What is over is looked for once a second at most, where it is known when that will be.
const LEAST_NAP: Duration = Duration::from_secs(1);

impl Transfers {
    /// Opens the folder of transfers; from then on what is left of transfers whose grants are over is removed, now and every
    /// hour. Within a tokio runtime.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(options: Options, clock: Clock, tasks: TaskGroup) -> io::Result<Self> {
        let folder = TransferFolder::open(options.folder.clone())?;
        report::describe();
        let shared = Arc::new(Shared::new(options, folder, clock, tasks)?);
        let sweeping = Arc::clone(&shared);
        shared.tasks.spawn("transfer sweep", OnEnd::Expected, sweep(sweeping));
        Ok(Self(shared))
    }

    /// How a transfer ended at this end, as far as it is kept; none where it did not. Blocks on the disk.
    ///
    /// # Errors
    /// What is kept cannot be read.
    pub fn ended(&self, id: TransferId, role: TransferRole) -> io::Result<Option<TransferReport>> {
        let Some(end) = self.0.folder.end(id, role)? else { return Ok(None) };
        let mut report = TransferReport::new(id, role);
        report.state = end.state.parse().unwrap_or(TransferState::Failed);
        report.tree_digest = end.tree_digest.and_then(|digest| digest.parse().ok());
        report.end_time = Some(self.0.clock.utc());
        Ok(Some(report))
    }

    /// Takes what the control plane says of all syncs that are received here: those that are missing were deleted. A run under way of one that is held
    /// stands still, and of one that was deleted is stopped. Blocks on the disk.
    ///
    /// # Errors
    /// What is kept of them cannot be written.
    pub fn receive_syncs(&self, syncs: &[SyncOrder]) -> io::Result<()> {
        let shared = &self.0;
        let wanted: Vec<_> = syncs.iter().map(|order| order.sync).collect();
        for run in shared.syncs.keep_only(&wanted, shared.clock.utc())? {
            self.cancel(run, TransferRole::Receiver);
            self.forget_order(run, TransferRole::Receiver);
        }
        for order in syncs {
            // One that does not open yet (its epoch is not known here) says nothing.
            let grant = match receiver::check_sync_grant(shared, &order.grant, shared.clock.utc(), |_| true) {
                Ok(grant) if grant.sync() == order.sync && grant.grant.destination.key == shared.key => grant,
                Ok(_) => continue,
                Err(stop) => {
                    tracing::warn!(component = "sync", sync = %order.sync, %stop, "a standing grant is not good");
                    continue;
                }
            };
            if let Some(run) = shared.syncs.order(&grant, order)? {
                self.order(run, TransferRole::Receiver, Order { number: order.order, pause: order.pause });
            }
        }
        Ok(())
    }

    /// Stops a transfer for good at this end, whether it runs or has broken off. Files that are in place stay. False where
    /// there is no such transfer.
    pub fn cancel(&self, id: TransferId, role: TransferRole) -> bool {
        if self.0.cancel_running(id, role) {
            return true;
        }
        let known = self.0.folder.of(id, role).exists();
        if known {
            let shared = Arc::clone(&self.0);
            self.0.tasks.spawn("transfer discard", OnEnd::Expected, async move {
                discard(&shared, id, role, TransferState::Cancelled).await;
            });
        }
        known
    }
}

/// Removes what nobody may go on with, until this program stops.
async fn sweep(shared: Arc<Shared>) {
    loop {
        let sweeping = Arc::clone(&shared);
        let over = shared.tasks.blocking("transfer sweep", move || {
            sweeping.folder.forget(sweeping.clock.utc())?;
            sweeping.syncs.forget(sweeping.clock.utc())?;
            io::Result::Ok((receiver::over(&sweeping)?, receiver::next_over(&sweeping)?))
        });
        let mut nap = SWEEP_EVERY;
        match over.await {
            Ok(Ok((over, next))) => {
                for id in over {
                    tracing::info!(transfer = %id, "a transfer that broke off is given up: its grant or its deadline is over");
                    discard(&shared, id, TransferRole::Receiver, TransferState::Failed).await;
                }
                let left = next.and_then(|next| (next - shared.clock.utc()).to_std().ok());
                nap = left.map_or(nap, |left| nap.min(left.max(LEAST_NAP)));
            }
            Ok(Err(error)) => tracing::warn!(%error, "the folder of transfers cannot be swept"),
            Err(_stopping) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            () = shared.left_with_deadline.notified() => {}
            () = shared.tasks.cancelled() => return,
        }
    }
}

/// Ends a transfer that does not run.
async fn discard(shared: &Arc<Shared>, id: TransferId, role: TransferRole, state: TransferState) {
    // Whoever runs it meanwhile ends it by itself.
    let Some(turn) = shared.turn_if_free(id, role) else { return };
    let discarding = Arc::clone(shared);
    let discarded =
        shared.tasks.blocking("transfer discard", move || receiver::discard(&discarding, id, role, state)).await;
    if let Ok(Err(error)) = discarded {
        tracing::warn!(transfer = %id, %error, "what is left of a transfer cannot be removed");
    }
    drop(turn);
}
