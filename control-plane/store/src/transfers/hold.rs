//! Holding a transfer, and letting it go on: desired state, which both ends are told until they do it.

use chrono::{DateTime, Utc};
use proto_model::{TransferId, TransferState};

use super::{Moved, Transfer, lock, standing::Pause, write_standing};
use crate::{Error, Event, Tx};

/// A transfer that cannot be paused any more, or not be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotHold {
    /// It has ended.
    Ended(TransferState),
    /// Its grant was over while it was paused.
    GrantOver(DateTime<Utc>),
    /// Its deadline passed while it was paused.
    DeadlinePassed(DateTime<Utc>),
}

/// Holds a transfer. Paused already is fine, and changes nothing; `None` when there is no such transfer.
///
/// # Errors
/// The database failed.
pub async fn pause(tx: &mut Tx, id: TransferId, reason: String) -> Result<Option<Result<Transfer, CannotHold>>, Error> {
    let Some(transfer) = lock(tx.connection(), id).await? else {
        tx.discard();
        return Ok(None);
    };
    let state = transfer.standing.present();
    if state.is_end() || state == TransferState::Paused {
        tx.discard();
        return Ok(Some(if state.is_end() { Err(CannotHold::Ended(state)) } else { Ok(transfer) }));
    }
    let event = Event::new("transfer.pause", id.resource_name());
    tx.audit(if reason.is_empty() { event } else { event.with("reason", reason.clone()) });
    let pause = Pause { by: tx.context().actor.to_string(), reason, since: tx.now() };
    Ok(Some(Ok(held(tx, transfer, Some(pause)).await?)))
}

/// Lets a paused transfer go on. One that is not paused is fine, and is not changed; `None` when there is no such transfer.
///
/// # Errors
/// The database failed.
pub async fn resume(tx: &mut Tx, id: TransferId) -> Result<Option<Result<Transfer, CannotHold>>, Error> {
    let Some(transfer) = lock(tx.connection(), id).await? else {
        tx.discard();
        return Ok(None);
    };
    let state = transfer.standing.present();
    let now = tx.now();
    let deadline = transfer.spec.options.deadline.filter(|deadline| *deadline <= now);
    let refused = match (state, deadline) {
        (ended, _) if ended.is_end() => Some(CannotHold::Ended(ended)),
        // Whoever ends it has not come by yet.
        (TransferState::Paused, Some(deadline)) => Some(CannotHold::DeadlinePassed(deadline)),
        (TransferState::Paused, None) if transfer.grant_expire_time <= now => {
            Some(CannotHold::GrantOver(transfer.grant_expire_time))
        }
        _ => None,
    };
    if refused.is_some() || state != TransferState::Paused {
        tx.discard();
        return Ok(Some(refused.map_or(Ok(transfer), Err)));
    }
    tx.audit(Event::new("transfer.resume", id.resource_name()));
    Ok(Some(Ok(held(tx, transfer, None).await?)))
}

async fn held(tx: &mut Tx, mut transfer: Transfer, pause: Option<Pause>) -> Result<Transfer, Error> {
    if pause.is_none() && transfer.standing.is_at_rest() {
        // It waits for nothing but its sender.
        transfer.standing.error = None;
    }
    transfer.standing.pause = pause;
    write_standing(tx.unaudited(), transfer.id, &transfer.standing, Moved { jobs: true }).await?;
    transfer.update_time = tx.now();
    Ok(transfer)
}
