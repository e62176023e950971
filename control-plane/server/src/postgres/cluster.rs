//! The cluster's folders and files: made once, whole or not at all.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use foundation_runtime::{Clock, durable};

use super::{MAX_SOCKET_PATH, ROLE, StartError, account::Account, binaries::Binaries, io_error, leftovers};

/// PostgreSQL names its socket after a port, also where it listens on none.
const SOCKET: &str = ".s.PGSQL.5432";

/// The log is begun anew above this size, and the one before kept: it is read by people.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// How much of the log's end is shown in an error.
const LOG_TAIL_BYTES: u64 = 2000;

/// Where a cluster's data lies in its folder.
pub(super) fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// A cluster that can be started.
#[derive(Debug)]
pub(super) struct Cluster {
    /// `DIR/postgres`: the socket and the log lie here, the data in `data`.
    pub(super) folder: PathBuf,
    pub(super) data: PathBuf,
    pub(super) account: Account,
    pub(super) binaries: Binaries,
}

impl Cluster {
    /// Makes what is missing of the cluster.
    pub(super) fn prepare(data_dir: &Path, given: Option<&Path>, clock: &Clock) -> Result<Self, StartError> {
        let data_dir = data_dir.canonicalize().map_err(io_error("find", data_dir))?;
        let folder = data_dir.join(super::FOLDER);
        let data = data(&folder);
        let socket = folder.join(SOCKET);
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(StartError::SocketPathTooLong { path: socket });
        }
        let binaries = Binaries::find(given, &data)?;
        let account = Account::choose(&data)?;
        let cluster = Self { folder, data, account, binaries };
        cluster.make_folder(&data_dir)?;
        if !cluster.data.join("PG_VERSION").exists() {
            cluster.initialise(clock)?;
        }
        Ok(cluster)
    }

    /// The folder, owned by the account, and the way to it open for the account.
    fn make_folder(&self, data_dir: &Path) -> Result<(), StartError> {
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StartError::Io { doing: "make", path: self.folder.clone(), source }),
        }
        if !self.account.changes() {
            return Ok(());
        }
        self.give(&self.folder)?;
        if self.account.reaches(&self.folder)? {
            return Ok(());
        }
        // The data directory is ours: others may pass through it, not look into it. What is secret in it is 0600.
        let metadata = data_dir.metadata().map_err(io_error("read", data_dir))?;
        let mode = metadata.permissions().mode() | 0o011;
        fs::set_permissions(data_dir, fs::Permissions::from_mode(mode))
            .map_err(io_error("open the way through", data_dir))?;
        self.first_unreachable()?
            .map_or(Ok(()), |folder| Err(StartError::Unreachable { folder, user: self.account.name.clone() }))
    }

    fn first_unreachable(&self) -> Result<Option<PathBuf>, StartError> {
        let mut ancestors: Vec<_> = self.folder.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if !self.account.reaches(ancestor)? {
                return Ok(Some(ancestor.to_path_buf()));
            }
        }
        Ok(None)
    }

    /// `initdb` beside the final name, then a rename: a cluster that was begun and not finished is never taken for one.
    fn initialise(&self, clock: &Clock) -> Result<(), StartError> {
        // Of one that was being made when its server was killed, processes may still write.
        leftovers::clear(&self.folder, clock)?;
        tracing::info!(component = "postgres", version = self.binaries.major, "Making a PostgreSQL cluster");
        let unfinished = self.folder.join("data.new");
        match fs::remove_dir_all(&unfinished) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StartError::Io { doing: "remove", path: unfinished, source }),
        }
        let initdb = self.binaries.initdb();
        let output = self
            .account
            .command(&initdb, &self.folder)
            .arg("-D")
            .arg(&unfinished)
            .args([
                "-U",
                ROLE,
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--data-checksums",
                "--auth=reject",
                "--no-instructions",
            ])
            .output()
            .map_err(io_error("run", &initdb))?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            return Err(StartError::Initdb { output: String::from_utf8_lossy(&said).trim().to_owned() });
        }
        // Only over the socket, only these users of the machine, and only as this role.
        self.write(&unfinished.join("pg_hba.conf"), &format!("local all {ROLE} peer map={ROLE}\n"))?;
        let map: String = self.account.names().iter().map(|name| format!("{ROLE} \"{name}\" {ROLE}\n")).collect();
        self.write(&unfinished.join("pg_ident.conf"), &map)?;
        fs::rename(&unfinished, &self.data)
            .and_then(|()| durable::sync_folder(&self.folder))
            .map_err(io_error("finish", &self.data))
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), StartError> {
        durable::replace(path, text.as_bytes(), 0o600).map_err(io_error("write", path))?;
        self.give(path)
    }

    fn give(&self, path: &Path) -> Result<(), StartError> {
        let (uid, gid) = (self.account.uid.as_raw(), self.account.gid.as_raw());
        if path.metadata().is_ok_and(|metadata| metadata.uid() == uid) {
            return Ok(());
        }
        chown(path, Some(uid), Some(gid)).map_err(io_error("change the owner of", path))
    }

    /// What starts the server.
    pub(super) fn server(&self) -> Result<Command, StartError> {
        let log = self.open_log()?;
        let second = log.try_clone().map_err(io_error("open", &self.log()))?;
        let mut command = self.account.command(self.binaries.postgres(), &self.data);
        command.arg("-D").arg(&self.data);
        for setting in [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "cluster_name=dwcp-control-plane",
            // Whatever stands in a file: what was answered is on the disk.
            "fsync=on",
            "full_page_writes=on",
            "synchronous_commit=on",
            "logging_collector=off",
            "log_destination=stderr",
            "log_min_duration_statement=1s",
            "log_lock_waits=on",
            // Short statements gain nothing by it, and the hardened unit allows no code that is made at run time.
            "jit=off",
        ] {
            command.arg("-c").arg(setting);
        }
        command.arg("-c").arg(socket_setting(&self.folder));
        command.stdout(Stdio::from(log)).stderr(Stdio::from(second));
        Ok(command)
    }

    /// Where PostgreSQL's own log lies.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("postgres.log")
    }

    fn open_log(&self) -> Result<File, StartError> {
        let path = self.log();
        if path.metadata().is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
            let old = self.folder.join("postgres.log.1");
            fs::rename(&path, &old).map_err(io_error("rename", &path))?;
        }
        let file =
            OpenOptions::new().append(true).create(true).mode(0o640).open(&path).map_err(io_error("open", &path))?;
        self.give(&path)?;
        Ok(file)
    }

    /// Why it ended, from its log from a place on: the first fatal line, else the last.
    pub(super) fn reason_since(&self, start: u64) -> String {
        let log = self.log_since(start);
        let fatal = log.lines().find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
        fatal.or_else(|| log.lines().last()).unwrap_or("it said nothing").to_owned()
    }

    fn log_since(&self, start: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log())?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(start.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_default()
    }

    /// How long the log is now.
    pub(super) fn log_length(&self) -> u64 {
        self.log().metadata().map_or(0, |metadata| metadata.len())
    }

    /// The postmaster's process id, once it answers: line 8 of its file says so.
    pub(super) fn ready_pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        (lines.nth(6)?.trim() == "ready").then_some(pid)
    }
}

/// The folder as the one item of a list: in double quotes, its own doubled.
fn socket_setting(folder: &Path) -> OsString {
    let mut setting = b"unix_socket_directories=\"".to_vec();
    for byte in folder.as_os_str().as_bytes() {
        if *byte == b'"' {
            setting.push(b'"');
        }
        setting.push(*byte);
    }
    setting.push(b'"');
    OsString::from_vec(setting)
}
