//! Watches over transfers: one until it has ended, or all that match.

use std::collections::HashSet;

use control_plane_store::transfers::{self, Transfer, TransferFilter};
use proto_model::{Epoch, Revision, TransferId};
use proto_rpc::v1::{self as rpc, WatchType};
use tonic::Status;

use super::{Detail, translate};
use crate::{
    State, error,
    watch::{self, Batch, Follow},
};

/// One transfer, until it has ended.
pub(super) struct FollowOne {
    pub(super) state: State,
    pub(super) epoch: Epoch,
    pub(super) id: TransferId,
    pub(super) cursor: Revision,
    pub(super) shown: bool,
    pub(super) over: bool,
}

impl Follow for FollowOne {
    type Item = rpc::WatchTransferResponse;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let found = transfers::find(&self.state.db, self.id).await.map_err(error::store)?;
        let Some(transfer) = found.filter(|transfer| transfer.revision > self.cursor) else {
            return Ok(Batch { items: Vec::new(), more: false });
        };
        self.cursor = transfer.revision;
        self.over = transfer.standing.state.is_end();
        let kind = if std::mem::replace(&mut self.shown, true) { WatchType::Modified } else { WatchType::Added };
        let item = response(kind, Some(translate(transfer, Detail::All)), self.epoch, self.cursor);
        Ok(Batch { items: vec![item], more: false })
    }

    fn synced(&self) -> Option<Self::Item> {
        Some(response(WatchType::Synced, None, self.epoch, self.cursor))
    }

    fn bookmark(&self) -> Option<Self::Item> {
        Some(response(WatchType::Bookmark, None, self.epoch, self.cursor))
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

/// Transfers that match, as they change.
pub(super) struct FollowAll {
    pub(super) state: State,
    pub(super) filter: TransferFilter,
    pub(super) epoch: Epoch,
    pub(super) begun_at: Revision,
    pub(super) cursor: Revision,
    /// Transfers that this watch has shown: 16 bytes each.
    pub(super) shown: HashSet<TransferId>,
}

impl FollowAll {
    fn change(&mut self, transfer: Transfer) -> Option<rpc::WatchTransferResponse> {
        self.cursor = transfer.revision;
        // A resumed watch may have shown before what existed then.
        let known = self.shown.contains(&transfer.id) || transfer.create_revision <= self.begun_at;
        let kind = match (self.filter.matches(&transfer), known) {
            (true, true) => WatchType::Modified,
            (true, false) => WatchType::Added,
            (false, true) => WatchType::Deleted,
            (false, false) => return None,
        };
        if kind == WatchType::Deleted {
            self.shown.remove(&transfer.id);
        } else {
            self.shown.insert(transfer.id);
        }
        Some(response(kind, Some(translate(transfer, Detail::WithoutEntries)), self.epoch, self.cursor))
    }
}

impl Follow for FollowAll {
    type Item = rpc::WatchTransferResponse;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let changed =
            transfers::changed(&self.state.db, self.cursor, watch::READ_AT_ONCE).await.map_err(error::store)?;
        let more = u32::try_from(changed.len()) == Ok(watch::READ_AT_ONCE);
        Ok(Batch { items: changed.into_iter().filter_map(|transfer| self.change(transfer)).collect(), more })
    }

    fn synced(&self) -> Option<Self::Item> {
        Some(response(WatchType::Synced, None, self.epoch, self.cursor))
    }

    fn bookmark(&self) -> Option<Self::Item> {
        Some(response(WatchType::Bookmark, None, self.epoch, self.cursor))
    }
}

fn response(
    kind: WatchType,
    transfer: Option<rpc::Transfer>,
    epoch: Epoch,
    cursor: Revision,
) -> rpc::WatchTransferResponse {
    rpc::WatchTransferResponse { r#type: kind.into(), transfer, resume_token: watch::resume_token(epoch, cursor) }
}
