//! The folders of a store, open, and files in them by names that only a digest or a random number makes.
//!
//! ```text
//! DIR/content/objects/ab/REST    an object, named by its digest: the first two hexadecimal digits, then the other 62
//! DIR/content/objects/ab/REST.anchors    an index of it, which can be lost
//! DIR/content/incoming/NUMBER    what is being written
//! DIR/content/damaged/DIGEST     what was found not to be what its name says
//! ```
//!
//! Everything is resolved beneath the open folders without symbolic links, magic links or other mounts. A folder that is
//! removed under the process is noticed, and made anew with what counts it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use proto_model::Digest;
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, openat2},
    io::Errno,
};

use crate::shards::Shards;

/// `openat2` answers EAGAIN when a rename elsewhere in the system disturbs it; more often than this in a row is no accident.
const MAX_DISTURBED: u32 = 128;
/// What the name of an object's index ends with.
pub(crate) const INDEX_END: &str = ".anchors";

/// Where a store lies.
#[derive(Debug)]
pub(crate) struct Folders {
    content: PathBuf,
    open: Mutex<Option<Arc<Opened>>>,
}

/// The folders as they were opened, and what is in them.
#[derive(Debug)]
pub(crate) struct Opened {
    id: (u64, u64),
    objects: OwnedFd,
    incoming: OwnedFd,
    damaged: OwnedFd,
    pub(crate) shards: Shards,
}

impl Folders {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { content: dir.join("content"), open: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.content
    }

    /// The folders; made where they are missing, opened anew where others stand in their place.
    pub(crate) fn open(&self) -> io::Result<Arc<Opened>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = open.as_ref().filter(|opened| opened.stands_at(&self.content)) {
            return Ok(Arc::clone(opened));
        }
        if open.is_some() {
            tracing::warn!(
                component = "content",
                folder = %self.content.display(),
                "the folder of the content store was removed or replaced; it is made anew"
            );
        }
        let opened = Arc::new(Opened::new(&self.content)?);
        *open = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

impl Opened {
    fn new(path: &Path) -> io::Result<Self> {
        make(CWD, path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let content = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&content)?;
        if Mode::from_raw_mode(stat.st_mode) != Mode::RWXU {
            rustix::fs::fchmod(&content, Mode::RWXU)?;
        }
        let below = |name: &str| {
            make(&content, Path::new(name))?;
            folder(&content, name)
        };
        let (objects, incoming, damaged) = (below("objects")?, below("incoming")?, below("damaged")?);
        rustix::fs::fsync(&content)?;
        if let Some(above) = path.parent() {
            foundation_runtime::durable::sync_folder(above)?;
        }
        let id = (stat.st_dev, stat.st_ino);
        Ok(Self { id, objects, incoming, damaged, shards: Shards::default() })
    }

    fn stands_at(&self, path: &Path) -> bool {
        let stands = rustix::fs::lstat(path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.id);
        let is_there = |fd: &OwnedFd| rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_nlink > 0);
        stands && [&self.objects, &self.incoming, &self.damaged].into_iter().all(is_there)
    }

    /// Begins a file that is nobody's yet.
    pub(crate) fn begin(&self) -> io::Result<(String, File)> {
        let name = format!("{:016x}", rand::random::<u64>());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.incoming, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok((name, File::from(file)))
    }

    /// Takes an object's file out of its place, to be written to; none where it is not there.
    pub(crate) fn take_out(&self, shard: &OwnedFd, object: &str) -> io::Result<Option<(String, File)>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match confined(shard, object, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => File::from(file?),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let name = format!("{:016x}", rand::random::<u64>());
        rustix::fs::renameat(shard, object, &self.incoming, &name)?;
        Ok(Some((name, file)))
    }

    /// A file that was begun, again.
    pub(crate) fn begun(&self, name: &str) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.incoming, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Removes what was begun; what is not there is fine.
    pub(crate) fn abandon(&self, name: &str) -> io::Result<()> {
        unlink(&self.incoming, name)
    }

    /// Makes everything that was begun durable.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.incoming)?)
    }

    /// Removes what deaths left among what was begun.
    pub(crate) fn sweep(&self) -> io::Result<u64> {
        let mut swept = 0;
        for entry in Dir::read_from(&self.incoming)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && entry.file_type() != FileType::Directory {
                rustix::fs::unlinkat(&self.incoming, entry.file_name(), AtFlags::empty())?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// The folder that an object belongs to, made where it is missing.
    pub(crate) fn shard(&self, number: u8) -> io::Result<OwnedFd> {
        let name = format!("{number:02x}");
        match folder(&self.objects, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(&self.objects, Path::new(&name))?;
                rustix::fs::fsync(&self.objects)?;
                folder(&self.objects, &name)
            }
            opened => opened,
        }
    }

    /// The same, where it is there.
    pub(crate) fn present_shard(&self, number: u8) -> io::Result<Option<OwnedFd>> {
        match folder(&self.objects, &format!("{number:02x}")) {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts what was begun in its place.
    pub(crate) fn put(&self, begun: &str, shard: &OwnedFd, name: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.incoming, begun, shard, name)?)
    }

    /// Opens a file of an object to be read.
    pub(crate) fn read(&self, digest: Digest, end: &str) -> io::Result<File> {
        let (shard, name) = place(digest);
        let path = format!("{shard:02x}/{name}{end}");
        let file = File::from(confined(&self.objects, &path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?);
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an object of the content store is no file"));
        }
        Ok(file)
    }

    /// What the file system says of an object.
    pub(crate) fn stat(&self, digest: Digest) -> io::Result<Option<Stat>> {
        let (shard, name) = place(digest);
        match self.present_shard(shard)? {
            Some(shard) => stat_in(&shard, &name),
            None => Ok(None),
        }
    }

    /// Takes an object out of the way, for somebody to look at.
    pub(crate) fn set_aside(&self, digest: Digest, shard: &OwnedFd, name: &str) -> io::Result<()> {
        rustix::fs::renameat(shard, name, &self.damaged, digest.to_string())?;
        Ok(rustix::fs::fsync(&self.damaged)?)
    }

    /// What was set aside, by name, with what the file system says of it.
    pub(crate) fn aside(&self) -> io::Result<Vec<(String, Stat)>> {
        let mut found = Vec::new();
        for entry in Dir::read_from(&self.damaged)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.len() == 64
                && let Some(stat) = stat_in(&self.damaged, name)?
            {
                found.push((name.to_owned(), stat));
            }
        }
        Ok(found)
    }

    /// Removes what was set aside.
    pub(crate) fn remove_aside(&self, name: &str) -> io::Result<()> {
        unlink(&self.damaged, name)
    }

    /// Bytes that this process may still write on the file system, and of all.
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        let stat = rustix::fs::fstatvfs(&self.objects)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok((bytes(stat.f_bavail), bytes(stat.f_blocks)))
    }
}

/// Where an object's file lies: the number of its folder, and its name there.
pub(crate) fn place(digest: Digest) -> (u8, String) {
    let [first, rest @ ..] = digest.as_bytes();
    (*first, hex::encode(rest))
}

/// The object that a file is, if it is one.
pub(crate) fn digest_of(shard: u8, name: &[u8]) -> Option<Digest> {
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() == 62)?;
    let lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    lower.then(|| format!("{shard:02x}{name}").parse().ok()).flatten()
}

/// What the file system says of a file; nothing where it is not there.
pub(crate) fn stat_in(folder: &OwnedFd, name: &str) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes a file; one that is not there is fine.
pub(crate) fn unlink(folder: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that a file takes of its file system.
pub(crate) fn occupied(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512)
}

/// Makes a folder for this user alone; one that is there is fine.
fn make(below: impl AsFd, path: &Path) -> io::Result<()> {
    match rustix::fs::mkdirat(below, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn folder(below: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    confined(below, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn confined(below: &OwnedFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut disturbed = 0;
    loop {
        match openat2(below, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if disturbed < MAX_DISTURBED => disturbed += 1,
            opened => return Ok(opened?),
        }
    }
}
