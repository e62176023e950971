//! Real clusters, as the user that the tests run as; root becomes `postgres` or `nobody`.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use nix::{sys::signal::Signal, unistd::Pid};

use super::*;

/// A data directory that the cluster's user can reach.
fn data_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

async fn start(dir: &Path) -> Result<Postgres, StartError> {
    Postgres::start(Options { data_dir: dir.to_path_buf(), binaries: None }, Clock::system()).await
}

async fn ready(state: &mut watch::Receiver<State>) -> u32 {
    let ready = state.wait_for(|state| matches!(state, State::Ready { .. }));
    match *tokio::time::timeout(Duration::from_secs(60), ready).await.unwrap().unwrap() {
        State::Ready { pid } => pid,
        ref other => unreachable!("{other:?}"),
    }
}

fn kill(pid: u32) {
    leftovers::signal(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
}

#[tokio::test]
async fn comes_back_after_its_postmaster_is_killed_and_stops_cleanly() {
    let dir = data_dir();
    let postgres = start(dir.path()).await.unwrap();
    assert!(postgres.socket_folder().join(".s.PGSQL.5432").exists());
    let mut state = postgres.state();
    let first = ready(&mut state).await;
    kill(first);
    let other = state.wait_for(|state| matches!(state, State::Ready { pid } if *pid != first));
    tokio::time::timeout(Duration::from_secs(60), other).await.unwrap().unwrap();
    postgres.stop().await;
    assert_eq!(*state.borrow(), State::Stopped);
    assert!(!dir.path().join("postgres/data/postmaster.pid").exists(), "a clean stop removes the file");
}

#[test]
fn what_is_left_of_a_cluster_that_was_being_made_is_stopped() {
    let (dir, clock) = (data_dir(), Clock::system());
    let cluster = cluster::Cluster::prepare(dir.path(), None, &clock).unwrap();
    let unfinished = cluster.folder.join("data.new");
    let mut initdb = cluster.account.command(cluster.binaries.initdb(), &cluster.folder);
    let mut orphan = initdb.arg("-D").arg(&unfinished).args(["-U", "dwcp", "--auth=reject"]).spawn().unwrap();
    while !unfinished.join("base").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    leftovers::clear(&cluster.folder, &clock).unwrap();
    assert!(orphan.try_wait().unwrap().is_some(), "it goes on");
    fs::remove_dir_all(&unfinished).or_else(|error| if unfinished.exists() { Err(error) } else { Ok(()) }).unwrap();
}

#[tokio::test]
async fn takes_over_from_a_cluster_that_was_left_running() {
    let dir = data_dir();
    let postgres = start(dir.path()).await.unwrap();
    postgres.stop().await;
    // Started by nobody that we know of: as after a kill -9 of the server whose parent-death signal was lost.
    let cluster = cluster::Cluster::prepare(dir.path(), None, &Clock::system()).unwrap();
    let mut orphan = cluster.server().unwrap().spawn().unwrap();
    while cluster.ready_pid() != Some(orphan.id()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let reaper = thread::spawn(move || orphan.wait().unwrap());
    let postgres = start(dir.path()).await.unwrap();
    reaper.join().unwrap();
    ready(&mut postgres.state()).await;
    postgres.stop().await;
}

#[tokio::test]
async fn says_what_is_wrong_with_the_folder() {
    let dir = data_dir();
    let deep = dir.path().join("d".repeat(100));
    fs::create_dir(&deep).unwrap();
    assert!(matches!(start(&deep).await, Err(StartError::SocketPathTooLong { .. })));
    if nix::unistd::Uid::effective().is_root() {
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::create_dir(closed.join("data")).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let error = start(&closed.join("data")).await.unwrap_err();
        assert!(matches!(&error, StartError::Unreachable { folder, .. } if *folder == closed), "{error}");
    }
}

#[test]
fn a_path_stands_in_a_url() {
    assert_eq!(percent_encode(Path::new("/var/lib/a b")), "%2Fvar%2Flib%2Fa%20b");
}
