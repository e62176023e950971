//! What the control plane orders of transfers besides their beginning and their end: whether one is held.
//!
//! An order is desired state: the newest word of the control plane counts, and is kept beside the transfer's job or journal, so that
//! what is held stays held over a restart while the control plane is away. Between the two ends of a transfer, which may hear of it at
//! different times, the higher number is the newer word.

use std::{
    collections::HashMap,
    fs, io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use foundation_runtime::{OnEnd, durable};
use proto_model::{TransferId, TransferRole};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{ends::TransferFolder, reason::end, service::Transfers, stop::Stop};

/// What an order is kept as, in the transfer's folder.
const FILE: &str = "order";
/// An agent is told of at most so many jobs at a time (fleet); two ends each. What is over the bound is told again after a restart.
const MAX_ORDERS: usize = 20_000;

type Key = (TransferId, TransferRole);

/// What is ordered of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Grows with every order of a transfer; 0 where there was none.
    pub number: u64,
    /// Whether it is held.
    pub pause: bool,
}

/// The orders of all transfers of a host.
#[derive(Debug)]
pub(crate) struct Orders {
    held: Mutex<HashMap<Key, Order>>,
    changed: watch::Sender<()>,
    /// One at a time, so that the newest is what is kept.
    keeping: Mutex<()>,
}

impl Orders {
    /// With those that were kept.
    pub(crate) fn kept_in(folder: &TransferFolder) -> io::Result<Self> {
        let mut held = HashMap::new();
        for role in [TransferRole::Sender, TransferRole::Receiver] {
            for (id, path) in folder.unfinished(role)? {
                let kept = fs::read(path.join(FILE)).ok();
                if let Some(order) = kept.and_then(|bytes| serde_json::from_slice::<Order>(&bytes).ok()) {
                    held.insert((id, role), order);
                }
            }
        }
        Ok(Self { held: Mutex::new(held), changed: watch::Sender::new(()), keeping: Mutex::default() })
    }

    pub(crate) fn of(&self, id: TransferId, role: TransferRole) -> Order {
        self.held().get(&(id, role)).copied().unwrap_or_default()
    }

    /// The newest word; false where it was known.
    fn set(&self, id: TransferId, role: TransferRole, order: Order) -> bool {
        let changed = {
            let mut held = self.held();
            let key = (id, role);
            if role == TransferRole::Receiver && !order.pause {
                // It sends nothing, so that nobody asks it for the number.
                held.remove(&key).is_some()
            } else {
                let has_room = held.len() < MAX_ORDERS || held.contains_key(&key);
                has_room && held.insert(key, order) != Some(order)
            }
        };
        if changed {
            self.changed.send_replace(());
        }
        changed
    }

    /// Whether a receiver holds what its sender opens by this order. A sender that was told something newer is believed: it could
    /// not be kept from sending in any case.
    pub(crate) fn holds(&self, id: TransferId, of_sender: u64) -> bool {
        let own = self.of(id, TransferRole::Receiver);
        if own.pause && of_sender > own.number {
            self.set(id, TransferRole::Receiver, Order { number: of_sender, pause: false });
            return false;
        }
        own.pause
    }

    /// The transfer has ended here, or is not this host's any more.
    pub(crate) fn forget(&self, id: TransferId, role: TransferRole) {
        self.held().remove(&(id, role));
    }

    /// Keeps the present order, where the transfer has a folder. Blocks on the disk.
    pub(crate) fn keep(&self, folder: &TransferFolder, id: TransferId, role: TransferRole) {
        let _one = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let order = self.of(id, role);
        let path = folder.of(id, role);
        let file = path.join(FILE);
        if !path.exists() || !(order.pause || file.exists()) {
            return;
        }
        let kept = serde_json::to_vec(&order).map_err(io::Error::from);
        if let Err(error) = kept.and_then(|bytes| durable::replace(&file, &bytes, 0o600)) {
            tracing::warn!(transfer = %id, %error, "an order is not kept; the control plane says it again after a restart");
        }
    }

    /// Waits until a transfer is held, or is not any more. Cancel safe.
    pub(crate) async fn until(&self, id: TransferId, role: TransferRole, pause: bool) {
        let mut changes = self.changed.subscribe();
        while self.of(id, role).pause != pause {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Waits for another order. Cancel safe.
    pub(crate) async fn another(&self, id: TransferId, role: TransferRole) {
        let mut changes = self.changed.subscribe();
        let before = self.of(id, role);
        while self.of(id, role) == before {
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Key, Order>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an end stands still.
pub(crate) fn paused() -> Stop {
    Stop::temporary(end::PAUSED, "an operator paused the transfer; it goes on when it is resumed")
}

impl Transfers {
    /// The control plane's newest word about a transfer at this end, whether it runs, has broken off or has not begun.
    pub fn order(&self, id: TransferId, role: TransferRole, order: Order) {
        if !self.0.orders.set(id, role, order) {
            return;
        }
        tracing::info!(component = "transfer", transfer = %id, pause = order.pause, "a transfer is ordered anew");
        let shared = self.0.clone();
        self.0.tasks.spawn("keep an order", OnEnd::Expected, async move {
            let tasks = shared.tasks.clone();
            let keep = move || shared.orders.keep(&shared.folder, id, role);
            // Who stops meanwhile is told again.
            let _kept = tasks.blocking("keep an order", keep).await;
        });
    }

    /// The control plane orders nothing of the transfer any more.
    pub fn forget_order(&self, id: TransferId, role: TransferRole) {
        self.0.orders.forget(id, role);
    }

    /// Waits until a transfer is held at this end. Cancel safe.
    pub async fn until_paused(&self, id: TransferId, role: TransferRole) {
        self.0.orders.until(id, role, true).await;
    }
}
