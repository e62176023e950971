//! Files and folders that survive a power cut whole: write beside, fsync, rename, fsync of the folder.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// What a temporary name ends with, after a dot and so many digits.
const TEMPORARY_END: &[u8] = b".new";
const TEMPORARY_DIGITS: usize = 16;

/// Puts `bytes` at `path` with the permission bits `mode`: whoever opens it sees the old contents or the new, never a part.
///
/// # Errors
/// What the file system answers; the old file is then still in place, unless it was only the folder that could not be synced.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = parent(path)?;
    // Opened before anything changes: where that fails, the old file is still in place.
    let opened = File::open(folder)?;
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = name.to_os_string();
    temporary.push(format!(".{:0TEMPORARY_DIGITS$x}.new", rand::random::<u64>()));
    let temporary = folder.join(temporary);
    let written = write_new(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is what the caller needs; a temporary file that cannot be removed does no harm.
        drop(fs::remove_file(&temporary));
        return Err(error);
    }
    opened.sync_all()
}

/// Puts `bytes` at `path` only where nothing is yet.
///
/// # Errors
/// `AlreadyExists`, or what the file system answers.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = parent(path)?;
    write_new(path, bytes, mode)?;
    sync_folder(folder)
}

/// Makes a folder, and those above it, where they are missing; an existing one keeps its mode.
///
/// # Errors
/// What the file system answers.
pub fn create_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    sync_folder(path)
}

/// Whether others than its owner may put files there, and so replace what a program keeps.
///
/// # Errors
/// What the file system answers.
pub fn is_open_to_others(folder: &Path) -> io::Result<bool> {
    Ok(fs::metadata(folder)?.permissions().mode() & 0o022 != 0)
}

/// Removes a file durably; one that is not there is fine.
///
/// # Errors
/// What the file system answers.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(parent(path)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what a death in the midst of [`replace`] left in a folder: to be called before anything in it is replaced.
///
/// # Errors
/// What the file system answers.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if is_temporary(entry.file_name().as_encoded_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Begins a file that is to stand at `out` when it is whole: a hidden one beside it, named after it and ending in `end`, locked as long as it is
/// open. What killed predecessors left of the same is removed; who still writes holds the lock.
///
/// # Errors
/// What the file system answers.
pub fn begin_part(out: &Path, end: &str, mode: u32) -> io::Result<(PathBuf, File)> {
    let name = out.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let folder = parent(out)?;
    let (first, last) = (format!(".{name}."), format!(".{end}"));
    for entry in fs::read_dir(folder)?.flatten() {
        let found = entry.file_name();
        let number = found.to_str().and_then(|found| found.strip_prefix(&first)?.strip_suffix(&last));
        let is_ours =
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // Somebody else's stays.
            let left = File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
            drop(left.then(|| fs::remove_file(entry.path())));
        }
    }
    loop {
        let path = folder.join(format!("{first}{:08x}{last}", rand::random::<u32>()));
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        // Where there are no locks nobody can take it for left.
        drop(file.try_lock());
        if file.metadata()?.nlink() > 0 {
            return Ok((path, file));
        }
    }
}

/// Whether a file has a name of those that [`replace`] writes to before it renames.
fn is_temporary(name: &[u8]) -> bool {
    let Some(rest) = name.strip_suffix(TEMPORARY_END) else { return false };
    let Some((before, number)) = rest.len().checked_sub(TEMPORARY_DIGITS).map(|at| rest.split_at(at)) else {
        return false;
    };
    before.len() > 1 && before.ends_with(b".") && number.iter().all(u8::is_ascii_hexdigit)
}

/// Makes renames in a folder durable.
///
/// # Errors
/// What the file system answers.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn parent(path: &Path) -> io::Result<&Path> {
    let folder = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The mode as asked for, whatever the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_a_file_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_death_left_of_a_replacement_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.0123456789abcdef.new", "a", "a.new", "0123456789abcdef.new", "a.0123456789abcdeg.new"] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        sweep(dir.path()).unwrap();
        assert!(!dir.path().join("a.0123456789abcdef.new").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    }

    #[test]
    fn create_refuses_to_replace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        create(&path, b"one", 0o600).unwrap();
        assert_eq!(create(&path, b"two", 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }

    #[test]
    fn what_a_killed_predecessor_left_of_a_part_goes_and_what_is_being_written_stays() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("backup");
        let (writing, _held) = begin_part(&out, "new", 0o600).unwrap();
        let left = [".backup.0123abcd.new", ".backup.4711.new"].map(|name| dir.path().join(name));
        let others = [".backup.0123abcd.part", ".backups.0123abcd.new", ".backup.mine.new", "backup"];
        let others = others.map(|name| dir.path().join(name));
        left.iter().chain(&others).for_each(|path| fs::write(path, "").unwrap());
        let (next, _also_held) = begin_part(&out, "new", 0o600).unwrap();
        assert!(left.iter().all(|path| !path.exists()));
        assert!(others.iter().chain([&writing, &next]).all(|path| path.exists()));
    }
}
