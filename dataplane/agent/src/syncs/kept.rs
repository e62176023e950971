//! What this node keeps of each sync that it sends, on disk: what is wanted, which run is under way, and how the last ones were.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use chrono::{DateTime, Utc};
use dataplane_transfer::SourceMount;
use foundation_runtime::{checked, durable};
use prost::Message;
use proto_model::{Digest, SyncId, SyncName, SyncStatus};
use proto_rpc::v1;
use proto_wire::Signed;
use serde::{Deserialize, Serialize};

/// What the control plane wants of a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: SyncName,
    pub(super) grant: Signed,
    pub(super) every: Duration,
    pub(super) pause: bool,
    pub(super) order: u64,
    pub(super) run_request: u64,
}

/// One sync.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    pub(super) wanted: Wanted,
    /// The run that is under way, and when it began.
    pub(super) under_way: Option<DateTime<Utc>>,
    /// What the source looked like before the last run that left nothing out, where an equal look means that nothing changed.
    pub(super) look: Option<Digest>,
    /// When the last run or look began.
    pub(super) began: Option<DateTime<Utc>>,
    /// The mount that the source of the last run lay on, and the newest order to overwrite then.
    pub(super) mount: Option<SourceMount>,
    pub(super) overwrite: u64,
    /// Runs that failed, one after the other.
    pub(super) failures: u32,
    pub(super) status: SyncStatus,
}

/// Its form on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: SyncName,
    grant: String,
    every_ms: u64,
    pause: bool,
    order: u64,
    run_request: u64,
    under_way_ms: Option<i64>,
    look: Option<Digest>,
    began_ms: Option<i64>,
    #[serde(default)]
    mount: Option<(String, u64)>,
    #[serde(default)]
    overwrite: u64,
    failures: u32,
    status: String,
}

impl Kept {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            under_way: None,
            look: None,
            began: None,
            mount: None,
            overwrite: 0,
            failures: 0,
            status: SyncStatus::default(),
        }
    }

    fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let wanted = &self.wanted;
        let file = File {
            name: wanted.name.clone(),
            grant: hex::encode(wanted.grant.to_bytes()),
            every_ms: u64::try_from(wanted.every.as_millis()).unwrap_or(u64::MAX),
            pause: wanted.pause,
            order: wanted.order,
            run_request: wanted.run_request,
            under_way_ms: self.under_way.map(|time| time.timestamp_millis()),
            look: self.look,
            began_ms: self.began.map(|time| time.timestamp_millis()),
            mount: self.mount.as_ref().map(SourceMount::to_kept),
            overwrite: self.overwrite,
            failures: self.failures,
            status: hex::encode(v1::SyncStatus::from(self.status.clone()).encode_to_vec()),
        };
        Ok(checked::seal(&serde_json::to_vec(&file).map_err(io::Error::from)?))
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let file: File = serde_json::from_slice(checked::open(bytes).ok()?).ok()?;
        let status = v1::SyncStatus::decode(hex::decode(file.status).ok()?.as_slice()).ok()?;
        let time = |ms: Option<i64>| ms.and_then(DateTime::from_timestamp_millis);
        Some(Self {
            wanted: Wanted {
                name: file.name,
                grant: Signed::from_bytes(&hex::decode(file.grant).ok()?).ok()?,
                every: Duration::from_millis(file.every_ms),
                pause: file.pause,
                order: file.order,
                run_request: file.run_request,
            },
            under_way: time(file.under_way_ms),
            look: file.look,
            began: time(file.began_ms),
            mount: file.mount.and_then(SourceMount::from_kept),
            overwrite: file.overwrite,
            failures: file.failures,
            status: SyncStatus::try_from(status).ok()?,
        })
    }
}

/// The folder of all of them: `DIR/syncs`.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Reads what there is; what is damaged is set aside, and made anew when the control plane says it again: its runs' numbers go on from what the
    /// receiver says of them.
    pub(super) fn open(dir: &Path) -> io::Result<(Self, Vec<(SyncId, Kept)>)> {
        let path = dir.join("syncs");
        durable::create_dir(&path, 0o700)?;
        durable::sweep(&path)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&path)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<SyncId>().ok());
            let Some(id) = id.filter(|_| path.extension().is_some_and(|extension| extension == "json")) else {
                continue;
            };
            match Kept::from_bytes(&fs::read(&path)?) {
                Some(kept) => found.push((id, kept)),
                None => {
                    tracing::warn!(component = "sync", path = %path.display(), "What is kept of a sync is damaged and set aside");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        Ok((Self(path), found))
    }

    pub(super) fn keep(&self, id: SyncId, kept: &Kept) -> io::Result<()> {
        durable::replace(&self.path(id), &kept.to_bytes()?, 0o600)
    }

    pub(super) fn forget(&self, id: SyncId) -> io::Result<()> {
        durable::remove(&self.path(id))
    }

    fn path(&self, id: SyncId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_survives_a_restart_and_damage_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, none) = Folder::open(dir.path()).unwrap();
        assert_eq!(none, []);
        let wanted = Wanted {
            name: "photos".parse().unwrap(),
            grant: Signed { payload: vec![1, 2], signature: [3; 64] },
            every: Duration::from_secs(5),
            pause: true,
            order: 7,
            run_request: 2,
        };
        let id = SyncId::from_parts(1, &[1; 10]);
        let mut kept = Kept { look: Some(Digest::blake3(b"x")), failures: 3, ..Kept::new(wanted) };
        kept.mount = Some(SourceMount { point: "/srv".into(), device: 3 });
        kept.under_way = DateTime::from_timestamp_millis(5);
        kept.status.run = 9;
        folder.keep(id, &kept).unwrap();
        let (folder, found) = Folder::open(dir.path()).unwrap();
        assert_eq!(found, [(id, kept)]);
        fs::write(folder.path(id), b"{}").unwrap();
        assert_eq!(Folder::open(dir.path()).unwrap().1, []);
        folder.forget(id).unwrap();
    }
}
