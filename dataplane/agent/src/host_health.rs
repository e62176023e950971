//! What of its host the agent's health depends on: room and rights below its roots and its state, and its log file.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use foundation_runtime::{OnEnd, TaskGroup};
use foundation_telemetry::Telemetry;
use nix::unistd::{User, geteuid};
use proto_model::{
    ByteCount, RootName,
    config::{Effective, Root},
};
use rustix::fs::{Access, access, statvfs};
use tokio::sync::watch;

use crate::health::{Component, Health, Level};

/// A file system is nearly full with less than this share of it left…
const SHARE_LEFT: u64 = 20;
/// … or, where that is more, with less than this.
const MOST_LEFT: ByteCount = ByteCount::gib(10);
/// A missing file system can make a look hang; the next one comes when it has ended.
const LOOK: &str = "look at roots";

/// Says that an agent runs as root where that is more than it needs.
pub(crate) fn say_root() {
    if geteuid().is_root() {
        tracing::warn!(
            "This agent runs as root, and so are files below its roots read and written; a user of its own is enough: \
             deploy/install agent"
        );
    }
}

/// Looks at the host as often as health is checked, and hears of the log file.
pub(crate) fn follow(
    state: PathBuf,
    effective: watch::Receiver<Arc<Effective>>,
    telemetry: &Telemetry,
    health: &Health,
    tasks: &TaskGroup,
) {
    let (board, group) = (health.clone(), tasks.clone());
    let mut effective = effective;
    tasks.spawn("health of storage", OnEnd::Expected, async move {
        loop {
            let config = effective.borrow_and_update().config.clone();
            let interval = config.monitoring.health_check_interval;
            let (state, reserve, roots) = (state.clone(), config.storage.reserve, config.roots);
            let looked = group.blocking(LOOK, move || look(&state, &roots, reserve));
            tokio::select! {
                looked = looked => if let Ok((level, message)) = looked { board.set(Component::Storage, level, message) },
                () = group.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                changed = effective.changed() => if changed.is_err() { return },
                () = group.cancelled() => return,
            }
        }
    });
    let (mut trouble, board, group) = (telemetry.log_file_trouble(), health.clone(), tasks.clone());
    tasks.spawn("health of the log file", OnEnd::Expected, async move {
        loop {
            match trouble.borrow_and_update().clone() {
                Some(why) => board.degraded(Component::LogFile, why),
                None => board.absent(Component::LogFile),
            }
            tokio::select! {
                changed = trouble.changed() => if changed.is_err() { return },
                () = group.cancelled() => return,
            }
        }
    });
}

/// How the state's folder and the roots are, in one sentence each that is worth saying.
fn look(state: &Path, roots: &BTreeMap<RootName, Root>, reserve: ByteCount) -> (Level, String) {
    let mut said = vec![room("the agent's state", state, ByteCount::new(0)).unwrap_or_else(|error| {
        Some((Level::Degraded, format!("the agent's state in {} cannot be looked at: {error}", shown(state))))
    })];
    for (name, root) in roots {
        let what = format!("root {name}");
        said.push(match rights(root).and_then(|()| not_own(state, root)) {
            Err(why) => Some((Level::Degraded, format!("{what}: {why}"))),
            Ok(()) if root.read_only => None,
            Ok(()) => room(&what, &root.path, reserve).unwrap_or(None),
        });
    }
    let said: Vec<_> = said.into_iter().flatten().collect();
    let level = said.iter().map(|(level, _)| *level).max().unwrap_or(Level::Healthy);
    let sentences: Vec<_> = said.into_iter().map(|(_, sentence)| sentence).collect();
    (level, sentences.join("; "))
}

/// Whether the agent's user may do there what the root is for.
fn rights(root: &Root) -> Result<(), String> {
    let path = shown(&root.path);
    match root.path.metadata() {
        Ok(data) if data.is_dir() => {}
        Ok(_other) => return Err(format!("{path} is no folder")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(format!("{path} does not exist")),
        Err(error) => return Err(format!("{path} cannot be looked at by {}: {error}", user())),
    }
    if access(&root.path, Access::READ_OK | Access::EXEC_OK).is_err() {
        return Err(format!("{path} cannot be read by {}", user()));
    }
    if root.read_only {
        return Ok(());
    }
    access(&root.path, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| match error {
        rustix::io::Errno::ROFS => {
            format!("{path} is read-only for the agent: mounted so, or not in ReadWritePaths= of its unit")
        }
        _ => format!("{path} cannot be written by {}", user()),
    })
}

/// What lies in the agent's data directory is never sent nor written to.
fn not_own(state: &Path, root: &Root) -> Result<(), String> {
    match (root.path.canonicalize(), state.canonicalize()) {
        (Ok(path), Ok(state)) if path.starts_with(&state) => Err(format!(
            "{} is the agent's own data directory, or lies in it: nothing there is moved",
            shown(&root.path)
        )),
        _ => Ok(()),
    }
}

/// What is to be said of the room in a folder, if anything is.
fn room(what: &str, folder: &Path, reserve: ByteCount) -> rustix::io::Result<Option<(Level, String)>> {
    let stat = statvfs(folder)?;
    let free = ByteCount::new(stat.f_bavail.saturating_mul(stat.f_frsize));
    let total = ByteCount::new(stat.f_blocks.saturating_mul(stat.f_frsize));
    let path = shown(folder);
    Ok(if free < reserve {
        let free = gib(free);
        let sentence =
            format!("{what}: {path} has {free} free, and storage.reserve keeps {reserve}: nothing more is received");
        Some((Level::Degraded, sentence))
    } else if stat.f_bavail == 0 {
        Some((Level::Degraded, format!("{what}: {path} is full")))
    } else if stat.f_files > 0 && stat.f_favail == 0 {
        Some((Level::Degraded, format!("{what}: {path} has no inode left")))
    } else if free.bytes() < nearly_full(total) {
        let (free, total) = (gib(free), gib(total));
        Some((Level::Healthy, format!("{what}: {path} is nearly full: {free} of {total} are free")))
    } else {
        None
    })
}

/// In tenths: what is said must not change with every file.
fn gib(count: ByteCount) -> String {
    let tenths = u128::from(count.bytes()) * 10 / (1 << 30);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

fn nearly_full(total: ByteCount) -> u64 {
    (total.bytes() / SHARE_LEFT).min(MOST_LEFT.bytes())
}

fn shown(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    proto_model::escape(path.as_os_str().as_bytes())
}

fn user() -> String {
    let uid = geteuid();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    name.map_or_else(|| format!("user id {uid}"), |name| format!("the agent's user {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(path: &Path, read_only: bool) -> BTreeMap<RootName, Root> {
        let root = Root { path: path.to_path_buf(), read_only, accept: Vec::new() };
        BTreeMap::from([("data".parse().unwrap(), root)])
    }

    #[test]
    fn a_root_that_is_missing_or_no_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let none = ByteCount::new(0);
        let state = tempfile::tempdir().unwrap();
        let look = |root| look(state.path(), &root, none);
        let fine = look(root(dir.path(), false));
        assert_eq!(fine.0, Level::Healthy, "{}", fine.1);
        let own = look(root(state.path(), false));
        assert!(own.1.contains("is the agent's own data directory"), "{}", own.1);
        let missing = look(root(&dir.path().join("gone"), true));
        assert_eq!(missing.0, Level::Degraded);
        assert!(missing.1.starts_with("root data: ") && missing.1.contains("gone does not exist"), "{}", missing.1);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(look(root(&file, false)).1.contains("is no folder"));
    }

    #[test]
    fn room_below_the_reserve_is_named_where_something_is_received() {
        let dir = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let full = look(state.path(), &root(dir.path(), false), ByteCount::gib(1 << 30));
        assert_eq!(full.0, Level::Degraded);
        assert!(full.1.contains("storage.reserve"), "{}", full.1);
        assert_eq!(look(state.path(), &root(dir.path(), true), ByteCount::gib(1 << 30)).0, Level::Healthy);
    }
}
