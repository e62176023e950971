//! The mark of a restore that has begun: while it lies in a data directory, no server starts there, and the same restore can begin anew.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use foundation_runtime::durable;
use uuid::Uuid;

/// The mark.
const FILE: &str = "restore.unfinished";

/// What a restore makes; all else in a data directory is somebody else's.
const MADE: [&str; 5] = ["postgres", "seal.key", "ca.pem", "admin.token", "lock"];

/// What may lie in an empty one: of a file system of its own, and of whoever has looked whether it is in use.
const HARMLESS: [&str; 2] = ["lost+found", "lock"];

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Whether a restore into this folder did not come to its end.
pub(crate) fn is_marked(dir: &Path) -> bool {
    path(dir).exists()
}

/// The number of the restore that did not come to its end.
pub(super) fn read(dir: &Path) -> io::Result<Option<Uuid>> {
    match fs::read_to_string(path(dir)) {
        // A mark that was cut is one all the same.
        Ok(text) => Ok(Some(text.trim().parse().unwrap_or(Uuid::nil()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Marks the folder.
pub(super) fn mark(dir: &Path, restore: Uuid) -> io::Result<()> {
    durable::replace(&path(dir), format!("{restore}\n").as_bytes(), 0o600)
}

/// The restore is complete.
pub(super) fn unmark(dir: &Path) -> io::Result<()> {
    durable::sync_folder(dir)?;
    durable::remove(&path(dir))
}

/// The first thing in the folder that a restore would have to respect; a folder that is not there is empty.
pub(super) fn something_in(dir: &Path) -> io::Result<Option<String>> {
    let marked = is_marked(dir);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let ours = marked && (MADE.contains(&name.as_str()) || name.starts_with(FILE) || name.ends_with(".new"));
        if !ours && !HARMLESS.contains(&name.as_str()) {
            return Ok(Some(proto_model::escape_str(&name)));
        }
    }
    Ok(None)
}

/// Removes what a restore that was broken off has made; the mark stays.
pub(super) fn clear(dir: &Path) -> io::Result<()> {
    for name in MADE.iter().filter(|name| **name != "lock") {
        let path = dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(data) if data.is_dir() => fs::remove_dir_all(&path)?,
            Ok(_) => fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    durable::sync_folder(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_unfinished_restore_made_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(something_in(&dir.path().join("none")).unwrap(), None);
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        fs::write(dir.path().join("lock"), "").unwrap();
        assert_eq!(something_in(dir.path()).unwrap(), None);
        fs::write(dir.path().join("seal.key"), "").unwrap();
        assert_eq!(something_in(dir.path()).unwrap().as_deref(), Some("seal.key"));
        let number = Uuid::new_v4();
        mark(dir.path(), number).unwrap();
        assert_eq!(something_in(dir.path()).unwrap(), None);
        assert_eq!(read(dir.path()).unwrap(), Some(number));
        fs::write(dir.path().join("theirs"), "").unwrap();
        assert_eq!(something_in(dir.path()).unwrap().as_deref(), Some("theirs"));
        clear(dir.path()).unwrap();
        unmark(dir.path()).unwrap();
        assert!(!is_marked(dir.path()) && !dir.path().join("seal.key").exists() && dir.path().join("theirs").exists());
    }
}
