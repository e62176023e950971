//! A watch over syncs that match.

use std::collections::HashSet;

use control_plane_store::syncs::{self, Sync, SyncFilter};
use proto_model::{Epoch, Revision, SyncId};
use proto_rpc::v1::{self as rpc, WatchType};
use tonic::Status;

use super::{Detail, translate};
use crate::{
    State, error,
    watch::{self, Batch, Follow},
};

/// Syncs that match, as they change.
pub(super) struct FollowSyncs {
    state: State,
    filter: SyncFilter,
    epoch: Epoch,
    begun_at: Revision,
    cursor: Revision,
    /// Syncs that this watch has shown: 16 bytes each.
    shown: HashSet<SyncId>,
}

impl FollowSyncs {
    pub(super) fn new(state: State, filter: SyncFilter, epoch: Epoch, begun_at: Revision) -> Self {
        Self { state, filter, epoch, begun_at, cursor: begun_at, shown: HashSet::new() }
    }

    fn change(&mut self, sync: Sync) -> Option<rpc::WatchSyncsResponse> {
        self.cursor = sync.revision;
        let now = self.state.clock.utc();
        // A resumed watch may have shown before what existed then.
        let known = self.shown.contains(&sync.id) || sync.create_revision <= self.begun_at;
        let kind = match (self.filter.matches(&sync, now), known) {
            (true, true) => WatchType::Modified,
            (true, false) => WatchType::Added,
            (false, true) => WatchType::Deleted,
            (false, false) => return None,
        };
        if kind == WatchType::Deleted {
            self.shown.remove(&sync.id);
        } else {
            self.shown.insert(sync.id);
        }
        Some(self.response(kind, Some(translate(sync, now, Detail::All))))
    }

    fn response(&self, kind: WatchType, sync: Option<rpc::Sync>) -> rpc::WatchSyncsResponse {
        let resume_token = watch::resume_token(self.epoch, self.cursor);
        rpc::WatchSyncsResponse { r#type: kind.into(), sync, resume_token }
    }
}

impl Follow for FollowSyncs {
    type Item = rpc::WatchSyncsResponse;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let changed = syncs::changed(&self.state.db, self.cursor, watch::READ_AT_ONCE).await.map_err(error::store)?;
        let more = u32::try_from(changed.len()) == Ok(watch::READ_AT_ONCE);
        Ok(Batch { items: changed.into_iter().filter_map(|sync| self.change(sync)).collect(), more })
    }

    fn synced(&self) -> Option<Self::Item> {
        Some(self.response(WatchType::Synced, None))
    }

    fn bookmark(&self) -> Option<Self::Item> {
        Some(self.response(WatchType::Bookmark, None))
    }
}
