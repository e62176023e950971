//! One run of a sync at its receiver: what it may replace and delete.

use std::{
    io::{self, Read},
    path::Path,
    sync::{Mutex, PoisonError},
};

use proto_model::{SyncGrant, SyncId};
use rustix::fs::{FileType, Stat};

use super::published::{PathKey, Published, SetAside, Stamp, Standing};
use crate::confine::{Folder, kind};

/// Bytes that are read at once where the contents have to tell whose a file is.
const READ_BYTES: usize = 1 << 20;

/// What others did to an entry.
pub(crate) const CHANGED: &str = "others made or changed it at the destination since the sync wrote it; it is left as it is (`dwcp sync run NAME --overwrite` replaces it)";

/// A run that was let in.
#[derive(Debug)]
pub(crate) struct SyncRun {
    pub(crate) sync: SyncId,
    pub(crate) name: String,
    pub(crate) number: u64,
    /// Whether it may replace what others changed.
    pub(crate) overwrite: bool,
    /// The order by which it may.
    pub(crate) overwrite_order: u64,
    published: Mutex<Published>,
}

impl SyncRun {
    pub(super) fn open(folder: &Path, grant: &SyncGrant, number: u64, overwrite: bool) -> io::Result<Self> {
        let mut published = Published::open(folder)?;
        let name = grant.name.to_string();
        if let Some(aside) = published.take_set_aside() {
            say_damaged(&name, &aside);
        }
        Ok(Self {
            sync: grant.sync(),
            name,
            number,
            overwrite,
            overwrite_order: grant.overwrite,
            published: Mutex::new(published),
        })
    }

    /// Asks what was published; where its record is damaged, once more without what is.
    fn ask<T>(&self, ask: impl Fn(&mut Published) -> io::Result<T>) -> io::Result<T> {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        match ask(&mut published) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            answer => return answer,
        }
        say_damaged(&self.name, &published.mend()?);
        ask(&mut published)
    }

    /// Whether what stands there may be replaced or deleted: it is as this sync published it, or an operator said so.
    pub(crate) fn may_replace(&self, path: &[u8], parent: &Folder, name: &[u8], there: &Stat) -> io::Result<bool> {
        if self.overwrite {
            return Ok(true);
        }
        let standing = self.ask(|published| published.standing(PathKey::of(path), &Stamp::of(there)))?;
        let ours = match standing {
            Standing::Ours => true,
            Standing::Others => false,
            Standing::OursIf(digest) => {
                kind(there) == FileType::RegularFile && read_digest(parent, name).is_ok_and(|read| read == digest)
            }
        };
        if !ours {
            metrics::counter!("dwcp_sync_conflicts_total", "sync" => self.name.clone()).increment(1);
        }
        Ok(ours)
    }

    /// An entry was found equal: it is the sync's from now on.
    pub(crate) fn found_equal(&self, path: &[u8], there: &Stat) -> io::Result<()> {
        let (key, stamp) = (PathKey::of(path), Stamp::of(there));
        self.ask(|published| {
            if published.standing(key, &stamp)? == Standing::Ours { Ok(()) } else { published.note(key, stamp, None) }
        })
    }

    /// Writes down what is about to be put in place.
    pub(crate) fn intend(&self, coming: &[(Vec<u8>, Stat)]) -> io::Result<()> {
        let coming: Vec<_> = coming.iter().map(|(path, stat)| (PathKey::of(path), Stamp::of(stat))).collect();
        self.ask(|published| published.intend(&coming))
    }

    /// What was about to be put in place is not, and will not be.
    pub(crate) fn withdraw(&self, path: &[u8]) -> io::Result<()> {
        self.ask(|published| published.withdraw(PathKey::of(path)))
    }

    /// Whether the sync has nothing at its destination.
    pub(crate) fn has_nothing(&self) -> bool {
        self.published.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Notes what is in place.
    pub(crate) fn placed(&self, path: &[u8], there: &Stat, digest: Option<[u8; 32]>) -> io::Result<()> {
        self.ask(|published| published.note(PathKey::of(path), Stamp::of(there), digest))
    }

    /// Notes what is deleted.
    pub(crate) fn deleted(&self, path: &[u8]) -> io::Result<()> {
        self.ask(|published| published.gone(PathKey::of(path)))
    }

    pub(super) fn merge(&self) -> io::Result<()> {
        self.ask(Published::merge)
    }
}

fn say_damaged(sync: &str, aside: &SetAside) {
    metrics::counter!("dwcp_sync_records_damaged_total").increment(1);
    tracing::error!(
        component = "sync",
        sync,
        path = %aside.path.display(),
        saved = aside.saved,
        "What is known of a sync's files was damaged on the disk and is set aside: look at the disk, then remove it. Files that it knew and that are \
         not as the source has them are left alone, and listed; `dwcp sync run NAME --overwrite` replaces them"
    );
}

fn read_digest(parent: &Folder, name: &[u8]) -> io::Result<[u8; 32]> {
    let mut file = parent.read(name)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(*hasher.finalize().as_bytes()),
            read => drop(hasher.update(&buffer[..read])),
        }
    }
}
