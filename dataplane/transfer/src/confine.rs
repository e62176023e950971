//! Folders that nothing leads out of (D21).
//!
//! A root is opened as its owner wrote it. The granted folder is resolved beneath it without symbolic links; everything below
//! that folder without symbolic links, magic links and other mounts, all by `openat2`. Where the kernel does not know that
//! call, every open fails: there is no slower way that would be as tight.
//!
//! Each open resolves from the held folder anew, so that a folder that is swapped for a link, or moved away, between two
//! pieces of a file leads nowhere.
//!
//! One folder is closed whatever root it lies below: the agent's own. Its key would open the fleet to whoever may ask for a
//! transfer.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use proto_wire::manifest::Mtime;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, openat2},
    io::Errno,
};

/// `openat2` answers EAGAIN when a rename elsewhere in the system disturbs it; more often than this in a row is no accident.
const MAX_DISTURBED: u32 = 128;

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    closed: Option<Arc<Closed>>,
    /// Whether the closed folder may lie below this one.
    near: bool,
}

/// A folder that is neither read nor written, nor anything below it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Closed {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Closed {
    /// This folder; it is there.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let stat = rustix::fs::stat(&path)?;
        Ok(Self { path, device: stat.st_dev, inode: stat.st_ino })
    }

    /// Where what is open lies, as the kernel has it; an error where that is in the closed folder.
    fn keep_out(&self, opened: &OwnedFd) -> io::Result<PathBuf> {
        let stat = rustix::fs::fstat(opened)?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
        if path.starts_with(&self.path) || (stat.st_dev, stat.st_ino) == (self.device, self.inode) {
            let message = "it is the agent's own data directory, or lies in it: that is neither sent nor written to";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(path)
    }
}

/// The room on a file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Bytes that this process may still write.
    pub(crate) free: u64,
    /// Bytes of all.
    pub(crate) all: u64,
    /// Whether no further file can be made, however small.
    pub(crate) no_inodes: bool,
}

/// A name in a folder, and what it names as far as the listing knows.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    pub(crate) is_folder: bool,
}

impl Folder {
    /// A root: its path may go through symbolic links, since its owner wrote it.
    pub(crate) fn root(path: &Path, closed: Option<&Arc<Closed>>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self::kept_out(rustix::fs::open(path, flags, Mode::empty())?, closed)
    }

    /// A folder that may be anywhere: looks whether it, or what is below it, is closed.
    fn kept_out(fd: OwnedFd, closed: Option<&Arc<Closed>>) -> io::Result<Self> {
        let near = match closed {
            // The same file system may be mounted at several places.
            Some(closed) => {
                closed.path.starts_with(closed.keep_out(&fd)?) || rustix::fs::fstat(&fd)?.st_dev == closed.device
            }
            None => false,
        };
        Ok(Self { fd, closed: closed.cloned(), near })
    }

    /// The granted folder below a root; mounts may be crossed on the way to it.
    pub(crate) fn granted(&self, path: &[u8]) -> io::Result<Self> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), resolve)?;
        Self::kept_out(opened, self.closed.as_ref())
    }

    /// Where it lies, as this process sees it.
    pub(crate) fn path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// A folder below this one; an empty path is this one.
    pub(crate) fn folder(&self, path: &[u8]) -> io::Result<Self> {
        let fd = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), confined())?;
        self.keep_out(&fd)?;
        Ok(Self { fd, closed: self.closed.clone(), near: self.near })
    }

    /// A file below this one, for reading; neither a device nor a pipe is waited for.
    pub(crate) fn read(&self, path: &[u8]) -> io::Result<File> {
        self.file(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
    }

    /// A file below this one, which is there already, for reading and writing. One that has another name, perhaps outside, is
    /// none that was made here: somebody put it in the place of ours.
    pub(crate) fn write(&self, path: &[u8]) -> io::Result<File> {
        let file = self.file(path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
        if rustix::fs::fstat(&file)?.st_nlink == 1 { Ok(file) } else { Err(io::Error::from(Errno::MLINK)) }
    }

    /// A new file below this one.
    pub(crate) fn create(&self, path: &[u8]) -> io::Result<File> {
        self.file(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
    }

    fn file(&self, path: &[u8], flags: OFlags, mode: Mode) -> io::Result<File> {
        let file = self.open(path, flags | OFlags::NOFOLLOW, mode, confined())?;
        // Of a single name the folder was looked at already.
        if path.contains(&b'/') {
            self.keep_out(&file)?;
        }
        // What is opened for its bytes is a regular file, whatever else took its name meanwhile.
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile {
            Ok(File::from(file))
        } else {
            Err(io::Error::from(Errno::INVAL))
        }
    }

    fn keep_out(&self, opened: &OwnedFd) -> io::Result<()> {
        match &self.closed {
            Some(closed) if self.near => closed.keep_out(opened).map(drop),
            Some(_) | None => Ok(()),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags, mode: Mode, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let mut disturbed = 0;
        loop {
            match openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) if disturbed < MAX_DISTURBED => disturbed += 1,
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// What is there under a single name; a symbolic link is not followed.
    pub(crate) fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a symbolic link points to.
    pub(crate) fn link_target(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, name, Vec::new())?.into_bytes())
    }

    /// The names in it, in no order.
    pub(crate) fn list(&self) -> io::Result<Vec<Listed>> {
        self.names()?.collect()
    }

    /// The same, one after another: of a folder of any size.
    pub(crate) fn names(&self) -> io::Result<impl Iterator<Item = io::Result<Listed>>> {
        let names = Dir::read_from(&self.fd)?.map(|entry| {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let is_folder = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not say.
                FileType::Unknown => self.stat(name)?.is_some_and(|stat| kind(&stat) == FileType::Directory),
                _ => false,
            };
            Ok(Listed { name: name.to_vec(), is_folder })
        });
        Ok(names.filter(|listed| !matches!(listed, Ok(Listed { name, .. }) if matches!(name.as_slice(), b"." | b".."))))
    }

    /// Makes a folder under a single name, for this process only until its mode is set.
    pub(crate) fn make_folder(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?)
    }

    /// Makes a symbolic link under a single name.
    pub(crate) fn make_link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.fd, name)?)
    }

    /// Sets the time of what is there under a single name, not of what a link points to.
    pub(crate) fn set_mtime(&self, name: &[u8], mtime: Mtime) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.fd, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Replaces one single name by another, in this folder.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    /// Removes what is no folder; what is not there is fine.
    pub(crate) fn remove(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }

    /// This folder's own mode and time, where it has others.
    pub(crate) fn set_own(&self, to: u32, at: Mtime) -> io::Result<()> {
        let stat = self.own_stat()?;
        // All bits are looked at: one that is not kept goes.
        if stat.st_mode & 0o7777 != to & 0o7777 {
            rustix::fs::fchmod(&self.fd, Mode::from_bits_truncate(to))?;
        }
        if mtime(&stat) != at {
            rustix::fs::futimens(&self.fd, &times(at))?;
        }
        Ok(())
    }

    /// This folder's own mode.
    pub(crate) fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.fd, Mode::from_bits_truncate(mode))?)
    }

    /// What it is itself.
    pub(crate) fn own_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.fd)?)
    }

    /// Makes what was renamed in it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.fd)?)
    }

    /// Makes everything on its file system durable.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.fd)?)
    }

    /// The room on its file system.
    pub(crate) fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.fd)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        // Some file systems make inodes as they need them, and say 0 of 0.
        let no_inodes = stat.f_files > 0 && stat.f_favail == 0;
        Ok(Space { free: bytes(stat.f_bavail), all: bytes(stat.f_blocks), no_inodes })
    }

    /// Another handle of the same folder.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, closed: self.closed.clone(), near: self.near })
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn confined() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

/// What a stat tells.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Permission bits that are kept.
pub(crate) fn mode(stat: &Stat) -> u32 {
    stat.st_mode & 0o777
}

/// Bytes of a file.
pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// Bytes of a file for which its file system holds nothing.
pub(crate) fn holes(stat: &Stat) -> u64 {
    size(stat).saturating_sub(u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512))
}

/// When it was last changed.
pub(crate) fn mtime(stat: &Stat) -> Mtime {
    let nanos = u32::try_from(stat.st_mtime_nsec).ok().filter(|nanos| *nanos < 1_000_000_000);
    Mtime { seconds: stat.st_mtime, nanos: nanos.unwrap_or_default() }
}

/// Sets mode and time of an open file.
pub(crate) fn set_file(file: &File, mode: u32, mtime: Mtime) -> io::Result<()> {
    rustix::fs::fchmod(file, Mode::from_bits_truncate(mode))?;
    Ok(rustix::fs::futimens(file, &times(mtime))?)
}

fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_path_leads_out_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        std::fs::create_dir_all(inside.join("real")).unwrap();
        std::fs::write(dir.path().join("secret"), b"secret").unwrap();
        std::fs::write(inside.join("real/file"), b"fine").unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("real", inside.join("alias")).unwrap();
        symlink("../secret", inside.join("leak")).unwrap();
        let root = Folder::root(&inside, None).unwrap();
        assert!(root.read(b"real/file").is_ok());
        for path in
            [b"up/secret".as_slice(), b"../secret", b"leak", b"alias/file", b"/etc/passwd", b"real/../../secret"]
        {
            assert!(root.read(path).is_err(), "{}", path.escape_ascii());
            assert!(root.create(path).is_err(), "{}", path.escape_ascii());
        }
        assert!(root.folder(b"alias").is_err() && root.granted(b"alias").is_err() && root.granted(b"up").is_err());
        assert!(root.folder(b"real").is_ok());
        assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"secret");
    }

    #[test]
    fn no_path_leads_into_the_closed_folder() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("state/own");
        std::fs::create_dir_all(own.join("below")).unwrap();
        std::fs::create_dir_all(dir.path().join("state/owned")).unwrap();
        std::fs::write(own.join("below/key"), b"secret").unwrap();
        std::fs::write(own.join("key"), b"secret").unwrap();
        std::fs::write(dir.path().join("state/owned/file"), b"fine").unwrap();
        symlink(&own, dir.path().join("alias")).unwrap();
        let closed = Arc::new(Closed::new(&dir.path().join("alias")).unwrap());
        for inside in [own.clone(), own.join("below"), dir.path().join("alias")] {
            assert!(Folder::root(&inside, Some(&closed)).is_err(), "{}", inside.display());
        }
        let root = Folder::root(dir.path(), Some(&closed)).unwrap();
        let state = root.granted(b"state").unwrap();
        for (folder, path) in [(&root, b"state/own".as_slice()), (&root, b"state/own/below"), (&state, b"own")] {
            assert!(folder.folder(path).is_err() && folder.granted(path).is_err(), "{}", path.escape_ascii());
        }
        for (folder, path) in [(&root, b"state/own/key".as_slice()), (&state, b"own/below/key")] {
            assert!(folder.read(path).is_err() && folder.write(path).is_err(), "{}", path.escape_ascii());
        }
        assert!(state.folder(b"owned").is_ok() && root.read(b"state/owned/file").is_ok());
    }
}
