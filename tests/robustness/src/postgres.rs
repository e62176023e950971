//! An outside PostgreSQL that can be killed, stopped at once, paused, and started again where it was.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User},
};
use rand::{Rng, RngExt};
use tests_harness::eventually;

const START_LIMIT: Duration = Duration::from_secs(60);

/// A cluster of its own.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    dir: PathBuf,
    child: Child,
    paused: Vec<Pid>,
}

impl Postgres {
    /// Makes a cluster in `dir`, and starts it. A death of its processes loses nothing of the page cache, so it need not sync.
    ///
    /// # Errors
    /// There is no PostgreSQL, or it does not start.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let bin = binaries()?;
        if let Some(user) = other_user()? {
            chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
        let data = dir.join("data");
        let mut initdb = unprivileged(&bin.join("initdb"))?;
        let made = initdb
            .arg("-D")
            .arg(&data)
            .args(["-U", "dwcp", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync"])
            .output()?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let child = spawn(&bin, dir)?;
        let mut postgres = Self { bin, dir: dir.to_path_buf(), child, paused: Vec::new() };
        postgres.wait_until_ready()?;
        let made =
            Command::new(postgres.bin.join("createdb")).arg("-h").arg(dir).args(["-U", "dwcp", "fleet"]).output()?;
        ensure!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
        Ok(postgres)
    }

    /// Where a control plane finds it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgresql://dwcp@localhost/fleet?host={}", self.dir.display())
    }

    /// The folder of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.dir
    }

    fn postmaster(&self) -> Result<Pid> {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid"))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        Ok(Pid::from_raw(pid.context("postmaster.pid begins with a number")?))
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the postmaster without warning; its children see it and end.
    ///
    /// # Errors
    /// It is gone.
    pub fn kill_postmaster(&mut self) -> Result<()> {
        kill(self.postmaster()?, Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills one of the children; the postmaster ends all others, and recovers.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_backend(&mut self, random: &mut impl Rng) -> Result<()> {
        let backends = children(self.postmaster()?)?;
        ensure!(!backends.is_empty(), "PostgreSQL has no children");
        kill(backends[random.random_range(0..backends.len())], Signal::SIGKILL)?;
        Ok(())
    }

    /// `pg_ctl stop -m immediate`: an end without a checkpoint.
    ///
    /// # Errors
    /// It is gone.
    pub fn stop_immediately(&mut self) -> Result<()> {
        kill(self.postmaster()?, Signal::SIGQUIT)?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops all of it.
    ///
    /// # Errors
    /// It is gone.
    pub fn pause(&mut self) -> Result<()> {
        let postmaster = self.postmaster()?;
        self.paused = children(postmaster)?;
        self.paused.push(postmaster);
        for pid in &self.paused {
            // A child may end meanwhile.
            kill(*pid, Signal::SIGSTOP).unwrap_or_default();
        }
        Ok(())
    }

    /// Lets it go on, also what a killed postmaster left behind.
    pub fn wake(&mut self) {
        for pid in self.paused.drain(..) {
            kill(pid, Signal::SIGCONT).unwrap_or_default();
        }
    }

    /// Starts it where it was, and waits until it answers.
    ///
    /// # Errors
    /// It does not come to answer.
    pub fn restart(&mut self) -> Result<()> {
        if !self.is_running() {
            self.child = spawn(&self.bin, &self.dir)?;
        }
        self.wait_until_ready()
    }

    /// Waits until it answers; while children of a killed postmaster live, a new one refuses to start and is started again.
    ///
    /// # Errors
    /// It does not come to answer.
    pub fn wait_until_ready(&mut self) -> Result<()> {
        eventually("PostgreSQL to answer", START_LIMIT, || {
            if !self.is_running() {
                self.child = spawn(&self.bin, &self.dir)?;
            }
            let asked =
                Command::new(self.bin.join("pg_isready")).args(["-q", "-U", "dwcp", "-h"]).arg(&self.dir).status()?;
            Ok(asked.success().then_some(()))
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.wake();
        if self.is_running() {
            drop(self.postmaster().map(|pid| kill(pid, Signal::SIGQUIT)));
            drop(self.child.wait());
        }
    }
}

/// Starts it from a thread that lives as long as the process, since the signal at the parent's death follows the thread.
fn spawn(bin: &Path, dir: &Path) -> Result<Child> {
    let mut postgres = unprivileged(&bin.join("postgres"))?;
    postgres.arg("-D").arg(dir.join("data")).arg("-k").arg(dir);
    for setting in ["listen_addresses=", "fsync=off", "max_connections=100", "log_min_messages=warning"] {
        postgres.args(["-c", setting]);
    }
    let log = fs::File::options().create(true).append(true).open(dir.with_extension("log"))?;
    postgres.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        drop(sender.send(postgres.spawn()));
        loop {
            thread::park();
        }
    });
    Ok(receiver.recv()??)
}

fn children(of: Pid) -> Result<Vec<Pid>> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect())
}

/// PostgreSQL refuses root.
fn other_user() -> Result<Option<User>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let user = User::from_name("postgres")?.map_or_else(|| User::from_name("nobody"), |user| Ok(Some(user)))?;
    Ok(Some(user.context("a user that is not root")?))
}

fn unprivileged(program: &Path) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if let Some(user) = other_user()? {
        let (uid, gid) = (user.uid.to_string(), user.gid.to_string());
        command.args(["--reuid", &uid, "--regid", &gid, "--clear-groups"]);
    }
    command.arg("--").arg(program).env_clear().current_dir("/");
    Ok(command)
}

fn binaries() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")?.flatten().map(|version| version.path().join("bin"));
    let newest = versions.filter(|bin| bin.join("initdb").exists()).max();
    newest.context("PostgreSQL is installed below /usr/lib/postgresql (apt-get install postgresql)")
}
