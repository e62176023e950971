//! A real PostgreSQL for tests: one private cluster for a test binary, one database for a test.
//!
//! The cluster is made of the installed binaries, listens on a unix socket only, does not care for durability, and ends with the
//! process, however that ends. As root it runs as the user `postgres` (or `nobody`), since PostgreSQL refuses root.

mod proxy;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

pub use proxy::{Proxy, Way};

/// What the folders of our clusters begin with.
const PREFIX: &str = "dwcp-test-pg-";
/// How long a cluster may take to be ready, in steps of [`STEP`].
const READY_STEPS: u32 = 1500;
/// What a cluster with its databases may need, several times over.
const ROOM_BYTES: u64 = 4 << 30;
const STEP: Duration = Duration::from_millis(20);

/// A private cluster.
#[derive(Debug)]
pub struct Cluster {
    bin: PathBuf,
    socket: PathBuf,
    next: AtomicU32,
}

/// The cluster of this process, started at the first call.
///
/// # Panics
/// There is no PostgreSQL, or it does not start.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

impl Cluster {
    /// An empty database of its own, as a URL.
    ///
    /// # Panics
    /// The database cannot be made.
    pub fn database(&self) -> String {
        let name = format!("test{}", self.next.fetch_add(1, Ordering::Relaxed));
        run(Command::new(self.bin.join("createdb")).arg("-h").arg(&self.socket).args(["-U", "dwcp", &name]));
        format!("postgresql://dwcp@localhost/{name}?host={}", self.socket.display())
    }

    /// The folder of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs SQL as the superuser in the database of this URL; see [`sql`].
    ///
    /// # Panics
    /// The statement fails.
    pub fn sql(&self, url: &str, statement: &str) -> String {
        sql(url, statement)
    }

    fn start() -> Self {
        sweep();
        let bin = binaries();
        let dir = parent().join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&dir).expect("a fresh folder can be made");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
        let (data, socket) = (dir.join("data"), dir.clone());
        let cluster = Self { bin, socket, next: AtomicU32::new(0) };
        let mut initdb = cluster.unprivileged("initdb");
        initdb.arg("-D").arg(&data).args([
            "-U",
            "dwcp",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth=trust",
            "--no-sync",
        ]);
        run(&mut initdb);
        let mut postgres = cluster.unprivileged("postgres");
        postgres.arg("-D").arg(&data).arg("-k").arg(&cluster.socket);
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "max_connections=300",
            "log_min_messages=fatal",
        ] {
            postgres.args(["-c", setting]);
        }
        postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        // The signal at the parent's death follows the thread that spawned the child: this one lives as long as the process.
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Child>(1);
        thread::spawn(move || {
            let child = postgres.spawn().expect("postgres starts");
            sender.send(child).expect("the test waits for it");
            loop {
                thread::park();
            }
        });
        let mut child = receiver.recv().expect("the thread sends it");
        cluster.wait_until_ready(&mut child);
        cluster
    }

    fn wait_until_ready(&self, child: &mut Child) {
        for _ in 0..READY_STEPS {
            let mut ready = Command::new(self.bin.join("pg_isready"));
            ready.arg("-q").arg("-h").arg(&self.socket).stdout(Stdio::null());
            if ready.status().is_ok_and(|status| status.success()) {
                return;
            }
            assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "postgres ended at its start");
            thread::sleep(STEP);
        }
        unreachable!("PostgreSQL was not ready in time");
    }

    /// A program of PostgreSQL, as a user that it accepts, that ends with us.
    fn unprivileged(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        if is_root() {
            let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
            let has = |user: &str| passwd.lines().any(|line| line.starts_with(&format!("{user}:")));
            let (user, group) = if has("postgres") { ("postgres", "postgres") } else { ("nobody", "nogroup") };
            command.args(["--reuid", user, "--regid", group, "--clear-groups"]);
        }
        command.arg("--").arg(program).env_clear().current_dir("/");
        command
    }
}

/// Runs SQL in the database of this URL, past all of our code: for what a test breaks on purpose. Gives what `psql` prints.
///
/// # Panics
/// The statement fails.
#[must_use]
pub fn sql(url: &str, statement: &str) -> String {
    let arguments = ["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement];
    run(Command::new(binaries().join("psql")).args(arguments))
}

fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the program can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Memory where there is room for it, since a busy disk makes a cluster's first second half a minute.
fn parent() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let room = Command::new("df").args(["--output=avail", "-B1"]).arg(&memory).stdin(Stdio::null()).output();
    let room = room.ok().and_then(|output| String::from_utf8_lossy(&output.stdout).lines().last()?.trim().parse().ok());
    if room.is_some_and(|bytes: u64| bytes >= ROOM_BYTES) { memory } else { std::env::temp_dir() }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The newest installed server.
fn binaries() -> PathBuf {
    let newest = fs::read_dir("/usr/lib/postgresql").ok().and_then(|versions| {
        versions
            .flatten()
            .map(|version| version.path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .max_by_key(|bin| version_of(bin))
    });
    newest.expect("PostgreSQL is installed below /usr/lib/postgresql (apt-get install postgresql)")
}

fn version_of(bin: &Path) -> u32 {
    let version = bin.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Removes what earlier test binaries left: their clusters ended with them, their folders did not.
fn sweep() {
    let folders = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another test binary may be sweeping too.
            fs::remove_dir_all(entry.path()).unwrap_or_default();
        }
    }
}
