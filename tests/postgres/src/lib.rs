//! A real PostgreSQL for tests: one private cluster for a test binary, one database for a test.
//!
//! The cluster is made of the installed binaries, listens on a unix socket only, does not care for durability, and ends with the
//! process, however that ends. As root it runs as the user `postgres` (or `nobody`), since PostgreSQL refuses root.

mod pair;
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

pub use pair::{Instance, Pair};
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
        make_dir(&dir);
        let (data, socket) = (dir.join("data"), dir);
        let cluster = Self { bin, socket, next: AtomicU32::new(0) };
        initdb(&cluster.bin, &data);
        let mut postgres = unprivileged(&cluster.bin, "postgres");
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
        // Some tests count statements.
        if cluster.bin.join("../lib/pg_stat_statements.so").exists() {
            postgres.args(["-c", "shared_preload_libraries=pg_stat_statements"]);
        }
        let mut child = spawn(postgres);
        wait_until_ready(&cluster.bin, &cluster.socket, &mut child);
        cluster
    }
}

/// A program of PostgreSQL, as a user that it accepts, that ends with us.
fn unprivileged(bin: &Path, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if is_root() {
        let (user, group) = user();
        command.args(["--reuid", user, "--regid", group, "--clear-groups"]);
    }
    command.arg("--").arg(bin.join(program)).env_clear().current_dir("/");
    command
}

/// Whom PostgreSQL runs as where we are root.
fn user() -> (&'static str, &'static str) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let has = |user: &str| passwd.lines().any(|line| line.starts_with(&format!("{user}:")));
    if has("postgres") { ("postgres", "postgres") } else { ("nobody", "nogroup") }
}

/// Starts a server that ends with this process: the signal at the parent's death follows the thread that spawned the child, so that one lives
/// as long as the process.
fn spawn(mut postgres: Command) -> Child {
    postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    let (sender, receiver) = std::sync::mpsc::sync_channel::<Child>(1);
    thread::spawn(move || {
        let child = postgres.spawn().expect("postgres starts");
        sender.send(child).expect("the test waits for it");
        loop {
            thread::park();
        }
    });
    receiver.recv().expect("the thread sends it")
}

fn wait_until_ready(bin: &Path, socket: &Path, child: &mut Child) {
    for _ in 0..READY_STEPS {
        let mut ready = Command::new(bin.join("pg_isready"));
        ready.arg("-q").arg("-h").arg(socket).stdout(Stdio::null());
        if ready.status().is_ok_and(|status| status.success()) {
            return;
        }
        assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "postgres ended at its start");
        thread::sleep(STEP);
    }
    unreachable!("PostgreSQL was not ready in time");
}

fn initdb(bin: &Path, data: &Path) {
    let mut initdb = unprivileged(bin, "initdb");
    initdb.arg("-D").arg(data).args(["-U", "dwcp", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync"]);
    run(&mut initdb);
}

/// A folder that PostgreSQL may write to.
fn make_dir(dir: &Path) {
    fs::create_dir(dir).expect("a fresh folder can be made");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).expect("the folder is ours");
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
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another test binary may be sweeping too.
            fs::remove_dir_all(entry.path()).unwrap_or_default();
        }
    }
}
