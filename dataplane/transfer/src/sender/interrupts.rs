//! What keeps an attempt to send from going on: this program stops, somebody cancels or holds the transfer, its grant or its
//! deadline is over.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use proto_model::{TransferError, TransferRole};
use proto_wire::frames::Authority;

use super::Trying;
use crate::{
    orders,
    reason::end,
    receiver::{SKEW, check_grant, check_sync_grant, stopping},
    stop::Stop,
    tally::Tally,
};

/// How often it is looked whether the grant still holds, and how the clock stands.
const LOOK: Duration = Duration::from_secs(30);

impl Trying<'_> {
    /// Waits until the transfer cannot go on, or not here. Cancel safe.
    pub(super) async fn stopped(&self, tally: &Tally) -> Stop {
        tokio::select! {
            () = self.turn.cancel.cancelled() => Stop::final_(end::CANCELLED, "the transfer was cancelled"),
            () = self.shared.tasks.cancelled() => stopping(),
            over = self.until_over(tally) => over,
        }
    }

    /// Waits until the transfer is held. Cancel safe.
    pub(super) async fn held(&self) -> Stop {
        self.shared.orders.until(self.checked.id, TransferRole::Sender, true).await;
        orders::paused()
    }

    pub(super) fn is_held(&self) -> bool {
        self.order().pause
    }

    pub(super) fn order(&self) -> orders::Order {
        self.shared.orders.of(self.checked.id, TransferRole::Sender)
    }

    /// Waits until another attempt is due: a held transfer until it is not held any more, another one for a pause, or for an order.
    /// True where it was an order: a receiver that alone knows of a pause is asked with growing pauses.
    pub(super) async fn rested(&self, pause: Duration) -> bool {
        let orders = &self.shared.orders;
        let (id, role) = (self.checked.id, TransferRole::Sender);
        if self.is_held() {
            orders.until(id, role, false).await;
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            () = orders.another(id, role) => true,
        }
    }

    /// Waits until the grant or the deadline is over: an attempt may be drawn out by the other end.
    async fn until_over(&self, tally: &Tally) -> Stop {
        loop {
            if let Some(over) = self.grant_over().or_else(|| self.deadline_over(tally)) {
                return over;
            }
            let left = self.deadline().map(|(_, own)| own - self.shared.clock.utc());
            let left = left.and_then(|left| left.to_std().ok()).map_or(LOOK, |left| left.min(LOOK));
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = self.shared.offset.said() => {}
            }
        }
    }

    pub(super) fn grant_over(&self) -> Option<Stop> {
        let now = self.shared.clock.utc();
        let checked = match &self.checked.authority {
            Authority::Grant(signed) => check_grant(self.shared, signed, now, |_| true).err(),
            Authority::Sync(open) => check_sync_grant(self.shared, &open.grant, now, |_| true).err(),
            Authority::Direct(_) => None,
        };
        checked.filter(|stop| !stop.temporary)
    }

    /// The deadline as it was given, and by this host's clock. Who gave it to the control plane meant that one's clock: where this
    /// host does not know how far it is from that, its own may be ahead by what clocks may differ.
    fn deadline(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let given = self.checked.options.deadline?;
        let ahead = match &self.checked.authority {
            Authority::Grant(_) | Authority::Sync(_) => self.shared.offset.ahead(&self.shared.clock).unwrap_or(SKEW),
            Authority::Direct(_) => TimeDelta::zero(),
        };
        Some((given, given.checked_add_signed(ahead).unwrap_or(given)))
    }

    fn deadline_over(&self, tally: &Tally) -> Option<Stop> {
        let (passed, _) = self.deadline().filter(|(_, own)| *own <= self.shared.clock.utc())?;
        let TransferError { reason, message } = TransferError::deadline_exceeded(passed, &tally.progress(0.0));
        // Where nothing was under way these figures say nothing.
        let nothing = tally.files_total.load(Relaxed) == 0;
        let message =
            if nothing { format!("the deadline ({passed}) passed; nothing was under way then") } else { message };
        Some(Stop::final_(&reason, message))
    }
}
