//! `backup` and `restore` as processes of their own: beside a running server, on a stopped one, refused, killed half-way.

#![allow(clippy::unwrap_used, reason = "a test: what fails is shown where it fails")]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use foundation_runtime::Clock;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dwcp-control-plane");
const LIMIT: Duration = Duration::from_secs(90);

/// A folder that PostgreSQL's user can reach, with a passphrase.
struct Bench(tempfile::TempDir);

/// A running server, killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let deadline = clock.now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("dwcp-bk-").permissions(fs::Permissions::from_mode(0o755)).tempdir();
        let bench = Self(dir.unwrap());
        fs::write(bench.path("passphrase"), "correct horse battery\n").unwrap();
        fs::set_permissions(bench.path("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn serve(&self, dir: &str, more: &[&str]) -> Server {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("run").arg("--data-dir").arg(self.path(dir));
        for port in ["--listen", "--http-listen", "--metrics-listen"] {
            command.args([port, "127.0.0.1:0"]);
        }
        let mut server = Server(command.args(["--dht-listen", "none"]).args(more).stderr(log).spawn().unwrap());
        let ready = self.path(dir).join("ready.json");
        eventually("the server to serve", || {
            assert_eq!(server.0.try_wait().unwrap(), None, "{}", fs::read_to_string(self.path("log")).unwrap());
            let text = fs::read_to_string(&ready).ok()?;
            text.contains(&format!("\"pid\":{}", server.0.id())).then_some(())
        });
        server
    }

    fn command(&self, verb: &str, dir: &str, more: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg(verb).arg("--data-dir").arg(self.path(dir)).arg("--passphrase-file").arg(self.path("passphrase"));
        command.args(more).stdin(Stdio::null());
        command
    }

    fn ok(&self, verb: &str, dir: &str, more: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(verb, dir, more).output().unwrap();
        assert!(status.success(), "{verb} {more:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// The one line that says why not.
    fn refused(&self, verb: &str, dir: &str, more: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(verb, dir, more).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{verb} {more:?}: {said}");
        assert_eq!((said.lines().count(), stdout.len()), (1, 0), "{said}");
        said
    }

    fn backup(&self, dir: &str, file: &str) -> String {
        self.ok("backup", dir, &["-O", self.path(file).to_str().unwrap()])
    }

    fn restore(&self, dir: &str, file: &str) -> String {
        self.ok("restore", dir, &[self.path(file).to_str().unwrap()])
    }
}

fn stop(mut server: Server) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(server.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(server.0.wait().unwrap().success());
}

/// The events of a running server's log, past all of our code.
fn events(dir: &Path, action: &str) -> u32 {
    let url = format!("postgresql://dwcp@localhost/postgres?host={}", dir.join("postgres").display());
    let statement = format!("SELECT count(*) FROM audit_events WHERE action = '{action}'");
    tests_postgres::sql(&url, &statement).parse().unwrap()
}

#[test]
fn a_backup_of_a_running_or_a_stopped_server_makes_the_same_fleet_anew() {
    let bench = Bench::new();
    let server = bench.serve("cp", &[]);
    let said = bench.backup("cp", "one");
    assert!(said.contains("sha256 ") && said.contains("seal.key, ") && !said.contains("correct horse"), "{said}");
    assert_eq!(fs::metadata(bench.path("one")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(events(&bench.path("cp"), "backup.create"), 1);
    // It may replace a backup, and nothing else.
    bench.backup("cp", "one");
    fs::write(bench.path("other"), "a letter").unwrap();
    let said = bench.refused("backup", "cp", &["-O", bench.path("other").to_str().unwrap()]);
    assert!(said.contains("exists and is not a backup"), "{said}");
    stop(server);
    bench.backup("cp", "two");
    let left = fs::read_dir(bench.0.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".new"));
    assert_eq!(left.count(), 0);

    for (file, dir) in [("one", "from-one"), ("two", "from-two")] {
        let said = bench.restore(dir, file);
        assert!(said.contains("as epoch 2"), "{said}");
        let (old, new) = (bench.path("cp"), bench.path(dir));
        for name in ["seal.key", "ca.pem", "admin.token"] {
            assert_eq!(fs::read(old.join(name)).unwrap(), fs::read(new.join(name)).unwrap(), "{name}");
        }
        assert_eq!(fs::metadata(new.join("seal.key")).unwrap().mode() & 0o777, 0o600);
        let server = bench.serve(dir, &[]);
        assert_eq!((events(&new, "fleet.create"), events(&new, "fleet.restore")), (1, 1));
        let held = bench.refused("restore", dir, &[bench.path(file).to_str().unwrap()]);
        assert!(held.contains("is in use by process"), "{held}");
        stop(server);
    }
    let full = bench.refused("restore", "cp", &[bench.path("one").to_str().unwrap()]);
    assert!(full.contains("is not empty") && full.contains("nothing was changed"), "{full}");
    let checked = bench.ok("restore", "nowhere", &["--check", bench.path("one").to_str().unwrap()]);
    assert!(checked.contains("is whole") && !bench.path("nowhere").exists(), "{checked}");
}

#[test]
fn what_is_no_whole_backup_of_this_passphrase_changes_nothing() {
    let bench = Bench::new();
    stop(bench.serve("cp", &[]));
    bench.backup("cp", "good");
    let good = fs::read(bench.path("good")).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(bench.path("bad"), bytes).unwrap();
        let said = bench.refused("restore", "new", &[bench.path("bad").to_str().unwrap()]);
        assert!(!bench.path("new").exists(), "{said}");
        said
    };
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..8 {
        let place = random.random_range(100..good.len());
        let mut changed = good.clone();
        changed[place] ^= 1 << random.random_range(0..8);
        assert!(refused(&changed).contains("damaged or cut short"), "byte {place}");
        assert!(refused(&good[..place]).contains("damaged or cut short"), "cut to {place}");
    }
    assert!(refused(b"#!/bin/sh\n").contains("not a backup"));
    assert!(refused(b"").contains("not a backup"));
    assert!(refused(b"dwcp-backup-v9\n...").contains("newer form"));
    fs::write(bench.path("passphrase"), "correct horse batterie").unwrap();
    assert!(refused(&good).contains("the passphrase is wrong"));
    fs::write(bench.path("passphrase"), "\n").unwrap();
    assert!(refused(&good).contains("does not hold a passphrase"));
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_that_a_server_starts_on_and_can_be_run_again() {
    let bench = Bench::new();
    stop(bench.serve("cp", &[]));
    bench.backup("cp", "good");
    let clock = Clock::system();
    let begun = clock.now();
    bench.restore("measured", "good");
    let whole = clock.now() - begun;
    let seed = rand::random::<u64>();
    println!("seed {seed}, a restore takes {whole:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut database = tests_postgres::cluster().database();
    let (mut killed, mut marked) = (0, 0);
    // In the private database and in an outside one, at moments all over its time.
    for round in 0..10_u32 {
        let (dir, url) = (format!("new-{}", round % 2), database.clone());
        let mut more = vec![bench.path("good").display().to_string()];
        if round % 2 == 1 {
            more.extend(["--database-url".to_owned(), url.clone()]);
        }
        let more: Vec<_> = more.iter().map(String::as_str).collect();
        let mut child =
            bench.command("restore", &dir, &more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(random.random_range(0.0..1.1)));
        child.kill().unwrap();
        let ended = child.wait().unwrap().success();
        let unfinished = bench.path(&dir).join("restore.unfinished").exists();
        if ended || bench.path(&dir).join("seal.key").exists() && !unfinished {
            // It had ended before, or had only to leave: then all is there.
            stop(bench.serve(&dir, &more[1..]));
            fs::remove_dir_all(bench.path(&dir)).unwrap();
            database = tests_postgres::cluster().database();
            continue;
        }
        killed += 1;
        if unfinished {
            marked += 1;
            let said = bench.refused_run(&dir, &more[1..]);
            assert!(said.contains("did not come to its end"), "{said}");
        }
    }
    println!("killed {killed} times, {marked} times half-way");
    bench.restore("new-0", "good");
    let url = ["--database-url", database.as_str()];
    bench.ok("restore", "new-1", &[url[0], url[1], bench.path("good").to_str().unwrap()]);
    assert_eq!(tests_postgres::cluster().sql(&database, "SELECT epoch FROM fleet"), "2");
    stop(bench.serve("new-0", &[]));
    stop(bench.serve("new-1", &url));
    let full = bench.refused("restore", "new-2", &[url[0], url[1], bench.path("good").to_str().unwrap()]);
    assert!(full.contains("the database is not empty") && !bench.path("new-2").exists(), "{full}");
}

impl Bench {
    fn refused_run(&self, dir: &str, more: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.arg("run").arg("--data-dir").arg(self.path(dir)).args(more);
        for port in ["--listen", "--http-listen", "--metrics-listen"] {
            command.args([port, "127.0.0.1:0"]);
        }
        let Output { status, stderr, .. } = command.args(["--dht-listen", "none"]).output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        said
    }
}

#[test]
fn a_new_epoch_is_opened_where_the_database_was_put_back_by_others() {
    let bench = Bench::new();
    let server = bench.serve("cp", &[]);
    let open = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("open-epoch").arg("--data-dir").arg(bench.path("cp")).args(more).output().unwrap()
    };
    assert_eq!(open(&[]).status.code(), Some(1), "a server runs there");
    stop(server);
    assert!(open(&["--epoch", "7"]).status.success());
    let said = String::from_utf8(open(&["--epoch", "7"]).stderr).unwrap();
    assert!(said.contains("epoch 7 is not later"), "{said}");
    let _server = bench.serve("cp", &[]);
    assert_eq!(events(&bench.path("cp"), "fleet.restore"), 1);
}
