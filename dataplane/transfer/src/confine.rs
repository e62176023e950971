//! Folders that nothing leads out of (D21).
//!
//! A root is opened as its owner wrote it. The granted folder is resolved beneath it without symbolic links; everything below
//! that folder without symbolic links, magic links and other mounts, all by `openat2`. Where the kernel does not know that
//! call, every open fails: there is no slower way that would be as tight.
//!
//! Each open resolves from the held folder anew, so that a folder that is swapped for a link, or moved away, between two
//! pieces of a file leads nowhere.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
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
pub(crate) struct Folder(OwnedFd);

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
    pub(crate) fn root(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// The granted folder below a root; mounts may be crossed on the way to it.
    pub(crate) fn granted(&self, path: &[u8]) -> io::Result<Self> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), resolve).map(Self)
    }

    /// A folder below this one; an empty path is this one.
    pub(crate) fn folder(&self, path: &[u8]) -> io::Result<Self> {
        self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), confined()).map(Self)
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
        // What is opened for its bytes is a regular file, whatever else took its name meanwhile.
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::RegularFile {
            Ok(File::from(file))
        } else {
            Err(io::Error::from(Errno::INVAL))
        }
    }

    fn open(&self, path: &[u8], flags: OFlags, mode: Mode, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let mut disturbed = 0;
        loop {
            match openat2(&self.0, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) if disturbed < MAX_DISTURBED => disturbed += 1,
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// What is there under a single name; a symbolic link is not followed.
    pub(crate) fn stat(&self, name: &[u8]) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Where a symbolic link points to.
    pub(crate) fn link_target(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.0, name, Vec::new())?.into_bytes())
    }

    /// The names in it, in no order.
    pub(crate) fn list(&self) -> io::Result<Vec<Listed>> {
        self.names()?.collect()
    }

    /// The same, one after another: of a folder of any size.
    pub(crate) fn names(&self) -> io::Result<impl Iterator<Item = io::Result<Listed>>> {
        let names = Dir::read_from(&self.0)?.map(|entry| {
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
        Ok(rustix::fs::mkdirat(&self.0, name, Mode::RWXU)?)
    }

    /// Makes a symbolic link under a single name.
    pub(crate) fn make_link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, &self.0, name)?)
    }

    /// Sets the time of what is there under a single name, not of what a link points to.
    pub(crate) fn set_mtime(&self, name: &[u8], mtime: Mtime) -> io::Result<()> {
        Ok(rustix::fs::utimensat(&self.0, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Replaces one single name by another, in this folder.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Removes what is no folder; what is not there is fine.
    pub(crate) fn remove(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an empty folder.
    pub(crate) fn remove_folder(&self, name: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    /// This folder's own mode and time.
    pub(crate) fn set_own(&self, mode: u32, mtime: Mtime) -> io::Result<()> {
        rustix::fs::fchmod(&self.0, Mode::from_bits_truncate(mode))?;
        Ok(rustix::fs::futimens(&self.0, &times(mtime))?)
    }

    /// This folder's own mode.
    pub(crate) fn set_own_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.0, Mode::from_bits_truncate(mode))?)
    }

    /// What it is itself.
    pub(crate) fn own_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.0)?)
    }

    /// Makes what was renamed in it durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Makes everything on its file system durable.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    /// The room on its file system.
    pub(crate) fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.0)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        // Some file systems make inodes as they need them, and say 0 of 0.
        let no_inodes = stat.f_files > 0 && stat.f_favail == 0;
        Ok(Space { free: bytes(stat.f_bavail), all: bytes(stat.f_blocks), no_inodes })
    }

    /// Another handle of the same folder.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
        let root = Folder::root(&inside).unwrap();
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
}
