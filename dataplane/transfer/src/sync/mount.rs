//! On which mount a sync's source lies. Where that mount is missing, another folder shows beneath it: it is not the source.

use std::{
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

use proto_model::TransferError;
use rustix::fs::{AtFlags, CWD, Statx, StatxAttributes, StatxFlags};

use crate::{confine::Folder, reason::end, source::Top};

/// The mount that a source was seen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceMount {
    /// Its mount point.
    pub point: PathBuf,
    /// The file system's number; another one after a restart of the host.
    pub device: u64,
}

impl SourceMount {
    /// Where a source lies; nothing where that cannot be known.
    pub(super) fn of(top: &Top) -> Option<Self> {
        let (Top::File { folder, .. } | Top::Folder { folder, .. } | Top::Contents { folder }) = top;
        Self::of_folder(folder)
    }

    fn of_folder(folder: &Folder) -> Option<Self> {
        let path = folder.path().ok()?;
        let device = rustix::fs::fstat(folder).ok()?.st_dev;
        let point = path.ancestors().find(|above| is_mount_point(above).unwrap_or(false))?.to_owned();
        Some(Self { point, device })
    }

    /// Why the source is not the one that was seen here, if it is not: its mount point is none any more, and another file system shows. A mount that
    /// was only another way to the same file system is not missed.
    #[must_use]
    pub fn missing(&self, now: Option<&Self>) -> Option<TransferError> {
        let now = now?;
        let is_gone = now.device != self.device && self.point != now.point && self.point.starts_with(&now.point);
        is_gone.then(|| {
            let message = format!(
                "the source lay on what was mounted at {}, and nothing is mounted there now: mount it; where it is so meant, `dwcp sync run NAME --overwrite` \
                 syncs what is there instead, deletions included",
                proto_model::escape(self.point.as_os_str().as_bytes())
            );
            TransferError::new(end::SOURCE_NOT_MOUNTED, message)
        })
    }

    /// As it is kept.
    #[must_use]
    pub fn to_kept(&self) -> (String, u64) {
        (hex::encode(self.point.as_os_str().as_bytes()), self.device)
    }

    /// What was kept; none where it is damaged.
    #[must_use]
    pub fn from_kept((point, device): (String, u64)) -> Option<Self> {
        let point = PathBuf::from(std::ffi::OsString::from_vec(hex::decode(point).ok()?));
        Some(Self { point, device })
    }
}

/// None where the kernel does not say.
fn is_mount_point(path: &std::path::Path) -> Option<bool> {
    let stat: Statx =
        rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty()).ok()?;
    let knows = stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    knows.then(|| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_missed_where_another_file_system_shows_beneath_it() {
        let mount = |point: &str, device| SourceMount { point: point.into(), device };
        let was = mount("/srv/data", 7);
        let missing = |now: Option<SourceMount>| was.missing(now.as_ref()).map(|error| error.reason);
        assert_eq!(missing(Some(mount("/", 1))).as_deref(), Some(end::SOURCE_NOT_MOUNTED));
        // The same mount, after a restart of the host; another one further in; a mount that was another way to the same files; one that nobody knows.
        for now in [mount("/srv/data", 8), mount("/srv/data/photos", 9), mount("/", 7)] {
            assert_eq!(missing(Some(now)), None);
        }
        assert_eq!(missing(None), None);
        assert_eq!(SourceMount::from_kept(was.to_kept()), Some(was));
        assert!(is_mount_point("/".as_ref()).unwrap_or(true));
    }
}
