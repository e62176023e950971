//! A file that stands under its name when it is whole, and not before.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use foundation_runtime::durable;

use crate::failure::Failure;

/// The file until it is whole; removed where it does not become so.
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    kept: bool,
}

impl Part {
    /// Begins a file that is to stand at `out`, in place of an older file at most: whoever names a device, which root could
    /// rename away, means to write to it.
    pub(crate) fn create(out: &Path, mode: u32) -> Result<Self, Failure> {
        if out.file_name().is_none() {
            return Err(Failure::usage(format!("{} names no file", out.display())));
        }
        if fs::metadata(out).is_ok_and(|there| !there.is_file()) {
            let message = format!("{} is there, and is no regular file: nothing is put in its place", out.display());
            return Err(Failure::usage(message));
        }
        let made = durable::begin_part(out, "part", mode);
        let (path, file) = made.map_err(|error| Failure::chain(format!("cannot write {}", out.display()), &error))?;
        Ok(Self { path, file, kept: false })
    }

    /// Gives it its name.
    pub(crate) fn keep(mut self, out: &Path) -> Result<(), Failure> {
        let fail = |error: io::Error| Failure::chain(format!("cannot write {}", out.display()), &error);
        self.file.sync_all().map_err(fail)?;
        fs::rename(&self.path, out).map_err(fail)?;
        self.kept = true;
        let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        durable::sync_folder(folder).map_err(fail)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is a hidden file that nobody takes for a whole one.
            drop(fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, symlink};

    use super::*;

    #[test]
    fn only_a_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, alias, file) = (dir.path().join("socket"), dir.path().join("alias"), dir.path().join("file"));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        symlink(&socket, &alias).unwrap();
        for there in [&socket, &alias, &dir.path().to_path_buf()] {
            assert!(Part::create(there, 0o600).is_err(), "{}", there.display());
        }
        assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
        fs::write(&file, b"old").unwrap();
        drop(Part::create(&file, 0o600).unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"old");
        Part::create(&file, 0o600).unwrap().keep(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
