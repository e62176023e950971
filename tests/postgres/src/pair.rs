//! Two servers, one of which follows the other: for what becomes of a fleet when its database moves to the second.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use crate::{PREFIX, binaries, initdb, make_dir, parent, run, spawn, sql, sweep, unprivileged, wait_until_ready};

/// A primary, and a standby that has whatever was committed.
#[derive(Debug)]
pub struct Pair {
    /// What is written to at first.
    pub primary: Instance,
    /// What follows it.
    pub standby: Instance,
}

/// One of the two.
#[derive(Debug)]
pub struct Instance {
    bin: PathBuf,
    dir: PathBuf,
    child: Child,
}

impl Pair {
    /// Makes both, with an empty database; returns when every commit waits for the standby. One of a test binary.
    ///
    /// # Panics
    /// There is no PostgreSQL, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        sweep();
        let dir = parent().join(format!("{PREFIX}{}-pair", std::process::id()));
        make_dir(&dir);
        let bin = binaries();
        let (first, second) = (dir.join("first"), dir.join("second"));
        make_dir(&first);
        make_dir(&second);
        initdb(&bin, &first.join("data"));
        let primary = Instance::start(&bin, &first, &[]);
        let all = primary.url_of("postgres");
        drop(sql(&all, "CREATE DATABASE fleet"));
        let mut copy = unprivileged(&bin, "pg_basebackup");
        copy.arg("-h").arg(&first).args(["-U", "dwcp", "--checkpoint=fast", "-X", "stream", "-R", "--no-sync", "-D"]);
        run(copy.arg(second.join("data")));
        let standby = Instance::start(&bin, &second, &[]);
        // From now on a commit waits for the standby.
        drop(sql(&all, "ALTER SYSTEM SET synchronous_standby_names = '*'"));
        drop(sql(&all, "SELECT pg_reload_conf()"));
        let follows = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while sql(&primary.url(), follows) != "1" {
            std::thread::yield_now();
        }
        Self { primary, standby }
    }
}

impl Instance {
    fn start(bin: &Path, dir: &Path, settings: &[&str]) -> Self {
        let mut postgres = unprivileged(bin, "postgres");
        postgres.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
        for setting in ["listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=100"] {
            postgres.args(["-c", setting]);
        }
        for setting in settings {
            postgres.args(["-c", setting]);
        }
        let mut child = spawn(postgres);
        wait_until_ready(bin, dir, &mut child);
        Self { bin: bin.to_path_buf(), dir: dir.to_path_buf(), child }
    }

    /// Where its socket lies.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.dir
    }

    /// Its database.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("fleet")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgresql://dwcp@localhost/{database}?host={}", self.dir.display())
    }

    /// `pg_ctl stop -m immediate`.
    ///
    /// # Panics
    /// It is gone already.
    pub fn stop_immediately(&mut self) {
        let pid = fs::read_to_string(self.dir.join("data/postmaster.pid")).expect("it runs");
        let pid = pid.lines().next().expect("a number").trim().to_owned();
        run(Command::new("kill").args(["-QUIT", &pid]));
        self.child.wait().expect("it is our child");
    }

    /// Starts it again as what it was, but waiting for no standby.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart_alone(&mut self) {
        *self = Self::start(&self.bin.clone(), &self.dir.clone(), &["synchronous_standby_names="]);
    }

    /// Makes a standby take writes.
    ///
    /// # Panics
    /// It is none.
    pub fn promote(&self) {
        assert_eq!(sql(&self.url(), "SELECT pg_promote()"), "t");
    }

    /// Ends the connections of everybody else.
    ///
    /// # Panics
    /// It does not answer.
    pub fn drop_connections(&self) {
        let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        drop(sql(&self.url(), all));
    }
}
