//! A standing sync: what is asked for, by what right its runs move, and how they are.

mod grant;
mod name;
mod spec;
mod status;

use uuid::Uuid;

use crate::{TransferId, newtype::uuid_id};

pub use grant::SyncGrant;
pub use name::{ParseSyncNameError, SyncName};
pub use spec::SyncSpec;
pub use status::{SyncReport, SyncResult, SyncRun, SyncState, SyncStatus};

/// A sync. A version 7 UUID, so that ids sort by the time they were made at; no later sync of the same name has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncId(Uuid);

uuid_id!(SyncId, ParseSyncIdError, "a sync's id");

impl SyncId {
    /// An id for this time, in Unix milliseconds, and these random bytes.
    #[must_use]
    pub fn from_parts(unix_ms: u64, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_ms, random).into_uuid())
    }

    /// The transfer that one run of it is: both ends make the same id of the same number.
    #[must_use]
    pub fn run(&self, number: u64) -> TransferId {
        let mut hasher = blake3::Hasher::new_derive_key("dwcp sync run v1");
        hasher.update(self.0.as_bytes());
        hasher.update(&number.to_be_bytes());
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        TransferId::new(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_of_each_sync_is_a_transfer_of_its_own() {
        let (one, other) = (SyncId::from_parts(1, &[1; 10]), SyncId::from_parts(1, &[2; 10]));
        let ids = [one.run(1), one.run(2), other.run(1), TransferId::new(one.uuid())];
        for (index, id) in ids.iter().enumerate() {
            assert!(!ids[..index].contains(id));
            assert_eq!(id.uuid().get_version_num(), if index == 3 { 7 } else { 8 });
        }
        assert_eq!(one.run(1), one.run(1));
        assert_eq!(one.run(1).to_string(), SyncId::from_parts(1, &[1; 10]).run(1).to_string());
    }
}
