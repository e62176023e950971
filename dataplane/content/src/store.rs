//! [`ContentStore`].

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto_model::{ByteCount, Digest};

use crate::{
    batch::Batch,
    folders::{Folders, Opened, occupied},
    object::Object,
    open_objects::OpenObjects,
    room::Room,
    shards::Pins,
    stat::FileStat,
    verify::Verdict,
};

/// What was verified is remembered of so many objects; when there are more, from the beginning.
const MAX_VERIFIED: usize = 4096;

/// What bounds a store; may be changed while it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on the disk, of all objects.
    pub max_bytes: ByteCount,
    /// What is left free on the file system.
    pub reserve: ByteCount,
    /// Objects that are open at once.
    pub open_objects: usize,
}

impl Default for Limits {
    /// 16 GiB, and a GiB left free; 256 open.
    fn default() -> Self {
        Self { max_bytes: ByteCount::gib(16), reserve: ByteCount::gib(1), open_objects: 256 }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The file system refuses.
    #[error("the content store cannot be used")]
    Io(#[from] io::Error),
    /// The store's own bound.
    #[error("the content store may hold {max} (content.max_bytes), and {missing} more are needed")]
    Full {
        /// The bound.
        max: ByteCount,
        /// What would have to go.
        missing: ByteCount,
    },
    /// The file system has no room above what is to be left free.
    #[error(
        "{missing} are missing on the content store's file system, of which {reserve} are to be left free (storage.reserve)"
    )]
    NoSpace {
        /// What is left free.
        reserve: ByteCount,
        /// What would have to be free besides.
        missing: ByteCount,
    },
    /// What was read is not what was said.
    #[error("what was to be kept as {expected} is {found} by now")]
    Changed {
        /// As it was said.
        expected: Digest,
        /// As it is.
        found: Digest,
    },
    /// There is no such object.
    #[error("the content store has no object {0}")]
    Absent(Digest),
    /// The object was damaged, and is set aside.
    #[error("object {0} was damaged on the disk, and is set aside")]
    Damaged(Digest),
    /// So many are open already.
    #[error("{0} objects of the content store are open, which is the bound (limits.open_objects)")]
    TooManyOpen(usize),
}

impl ContentError {
    /// What would have to be free for this to go, where it is room that is missing.
    #[must_use]
    pub fn missing_room(&self) -> Option<ByteCount> {
        match self {
            Self::Full { missing, .. } | Self::NoSpace { missing, .. } => Some(*missing),
            // Others took it meanwhile.
            Self::Io(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Some(ByteCount::new(0))
            }
            Self::Io(_) | Self::Changed { .. } | Self::Absent(_) | Self::Damaged(_) | Self::TooManyOpen(_) => None,
        }
    }
}

/// What a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Objects.
    pub objects: u64,
    /// Bytes that they take of the disk, with their indexes and what is set aside.
    pub bytes: u64,
    /// Damaged objects that are set aside.
    pub damaged: u64,
    /// Objects that are open.
    pub open: usize,
}

/// Objects by the BLAKE3 of their bytes. Everything here may block on a disk. Clones are the same store.
#[derive(Clone, Debug)]
pub struct ContentStore(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) folders: Folders,
    limits: Mutex<Limits>,
    pub(crate) room: Room,
    pub(crate) pins: Pins,
    pub(crate) open: Arc<OpenObjects>,
    /// Objects that were read and found whole, as the file system had them then.
    verified: Mutex<HashMap<Digest, FileStat>>,
}

impl ContentStore {
    /// Opens the store in `DIR/content`, which is made where it is missing; what a death left half-written is removed. One
    /// process at a time may do so: who holds the lock of DIR.
    ///
    /// # Errors
    /// The folder cannot be made or used.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, ContentError> {
        let this = Self::beside(dir, limits)?;
        let swept = this.opened()?.sweep()?;
        if swept > 0 {
            tracing::info!(component = "content", swept, "removed what was half-written in the content store");
        }
        Ok(this)
    }

    /// The same store for a process that only looks at it while another one may use it.
    ///
    /// # Errors
    /// The folder cannot be made or used.
    pub fn beside(dir: &Path, limits: Limits) -> Result<Self, ContentError> {
        let this = Self(Arc::new(Inner {
            folders: Folders::new(dir),
            limits: Mutex::new(limits),
            room: Room::default(),
            pins: Pins::default(),
            open: Arc::default(),
            verified: Mutex::default(),
        }));
        this.opened()?;
        Ok(this)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.folders.path()
    }

    /// Its bounds.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other bounds, for what comes after this.
    pub fn set_limits(&self, limits: Limits) {
        *self.0.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Begins to add objects.
    ///
    /// # Errors
    /// The folder cannot be made or used.
    pub fn batch(&self) -> Result<Batch, ContentError> {
        Ok(Batch::new(self.clone(), self.opened()?))
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// The folder cannot be looked at.
    pub fn contains(&self, digest: Digest) -> Result<bool, ContentError> {
        Ok(self.opened()?.stat(digest)?.is_some())
    }

    /// Opens an object, as it lies on the disk: who must not be deceived by a damaged one verifies what he reads, or asks for
    /// [`Self::open_verified`].
    ///
    /// # Errors
    /// There is none, or too many are open.
    pub fn open_object(&self, digest: Digest) -> Result<Object, ContentError> {
        let place = self.0.open.enter(digest, self.limits().open_objects).map_err(|most| {
            metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.open_objects").increment(1);
            ContentError::TooManyOpen(most)
        })?;
        let file = match self.opened()?.read(digest, "") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ContentError::Absent(digest)),
            file => file?,
        };
        Ok(Object::new(digest, file, place)?)
    }

    /// Opens an object that is what its name says: it is read once, and again when the file system says that it was touched.
    ///
    /// # Errors
    /// There is none, too many are open, or it is damaged: then it is set aside.
    pub fn open_verified(&self, digest: Digest) -> Result<Object, ContentError> {
        let object = self.open_object(digest)?;
        let stat = object.stat()?;
        if self.verified().get(&digest) == Some(&stat) {
            return Ok(object);
        }
        match self.verify_open(&object)? {
            Verdict::Whole => {
                let mut verified = self.verified();
                if verified.len() >= MAX_VERIFIED {
                    verified.clear();
                }
                verified.insert(digest, stat);
                drop(verified);
                Ok(object)
            }
            Verdict::Damaged => Err(ContentError::Damaged(digest)),
            Verdict::Absent => Err(ContentError::Absent(digest)),
        }
    }

    /// What it holds. The first time it goes through all folders, a name at a time.
    ///
    /// # Errors
    /// The folders cannot be looked at.
    pub fn stats(&self) -> Result<Stats, ContentError> {
        let opened = self.opened()?;
        opened.shards.count(&opened)?;
        let (objects, bytes) = opened.shards.held();
        let aside = opened.aside()?;
        let damaged = u64::try_from(aside.len()).unwrap_or(u64::MAX);
        let bytes = bytes + aside.iter().map(|(_, stat)| occupied(stat)).sum::<u64>();
        Ok(Stats { objects, bytes, damaged, open: self.0.open.count() })
    }

    pub(crate) fn opened(&self) -> io::Result<Arc<Opened>> {
        self.0.folders.open()
    }

    pub(crate) fn verified(&self) -> MutexGuard<'_, HashMap<Digest, FileStat>> {
        self.0.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
