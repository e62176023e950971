//! `dwcp-control-plane backup`.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest::{Context as Hash, SHA256, digest};
use bytes::Bytes;
use control_plane_pki::{SealError, SealKey};
use control_plane_store::{
    Actor, Context, Db, Error as StoreError, Event, Keys, KeysError, Options as StoreOptions,
    backup::{self, Snapshot, SnapshotError},
};
use foundation_runtime::{Cancelled, Clock, DirLock, DirLockError, TaskGroup, durable, stop_signal};
use futures::StreamExt as _;
use nix::unistd::Uid;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{
    archive::ArchiveWriter,
    manifest::{self, FILES, MAX_FILE_BYTES, Manifest},
    options::BackupOptions,
    passphrase::{self, PassphraseError},
    progress::{Progress, size},
    sealed::{self, Cost},
    unfinished,
};
use crate::{
    advertise,
    options::Database,
    postgres::{self, Postgres},
};

/// Pieces of rows that wait to be written.
const QUEUE: usize = 16;

/// How long tasks may take at the end.
const FINISH: Duration = Duration::from_secs(5);

/// Why there is no backup. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The passphrase.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// There is no control plane.
    #[error("{dir} is not the data directory of a control plane: it has no seal.key", dir = dir.display())]
    NoDataDir {
        /// The folder.
        dir: PathBuf,
    },
    /// A restore into it did not end.
    #[error("a restore into {dir} did not come to its end: there is nothing to back up", dir = dir.display())]
    Unfinished {
        /// The folder.
        dir: PathBuf,
    },
    /// There is no database.
    #[error("there is no private PostgreSQL in {dir}; give --database-url-file where the server has it", dir = dir.display())]
    NoCluster {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder cannot be held.
    #[error(transparent)]
    Lock(#[from] DirLockError),
    /// The private PostgreSQL does not start.
    #[error(transparent)]
    Postgres(#[from] postgres::StartError),
    /// The database.
    #[error("the database cannot be used; run this as root, or as the user that the server runs as")]
    Database(#[from] StoreError),
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The seal key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The fleet's keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The output is something else.
    #[error("{path} exists and is not a backup: give another -O", path = path.display())]
    NotABackup {
        /// The file.
        path: PathBuf,
    },
    /// A file.
    #[error("cannot {doing} {path}", path = path.display())]
    Io {
        /// What was done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// It was told to stop.
    #[error("stopped; no backup was made")]
    Interrupted,
    /// It was told to stop.
    #[error("stopped; no backup was made")]
    Cancelled(#[from] Cancelled),
}

/// Makes a backup, and says on standard output what is in it.
///
/// # Errors
/// See [`BackupError`].
pub async fn create(options: BackupOptions) -> Result<(), BackupError> {
    let (clock, tasks) = (Clock::system(), TaskGroup::new("backup"));
    let made = tokio::select! {
        made = Box::pin(make(&options, &clock, &tasks)) => made,
        stop = stop_signal() => {
            drop(stop);
            Err(BackupError::Interrupted)
        }
    };
    // Each that is left only waits for the database.
    drop(tasks.shutdown(FINISH).await);
    let (manifest, output) = made?;
    let text = format!(
        "√ {path}: {size}, sha256 {sha256}\n  {summary}\n  {files}, {tables} tables\n\
         Check:   dwcp-control-plane restore --check --passphrase-file F {path}\n\
         Restore: dwcp-control-plane restore --data-dir EMPTY-DIR --passphrase-file F {path}\n",
        path = options.output.display(),
        size = size(output.length),
        sha256 = output.sha256,
        summary = manifest.summary(),
        files = manifest.files.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        tables = manifest.tables.len(),
    );
    match io::stdout().write_all(text.as_bytes()) {
        // Who closed the pipe does not want to read it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => {
            written.map_err(|source| BackupError::Io { doing: "write to", path: "standard output".into(), source })
        }
    }
}

/// The database, and what it takes to reach it.
struct Source {
    options: StoreOptions,
    /// Where no server runs: the cluster that was started for this, and the hold on the folder.
    own: Option<(Postgres, DirLock)>,
}

impl Source {
    async fn open(options: &BackupOptions, clock: &Clock) -> Result<Self, BackupError> {
        let dir = options.data_dir.clone();
        let binaries = match &options.database {
            Database::External { url } => return Ok(Self { options: store_options(url), own: None }),
            Database::Embedded { binaries } => binaries.clone(),
        };
        if !postgres::exists(&dir) {
            return Err(BackupError::NoCluster { dir });
        }
        let own = match DirLock::acquire(&dir, Duration::ZERO, clock, |_| ()) {
            // A server runs, and its PostgreSQL with it.
            Err(DirLockError::Held { .. }) => None,
            Err(error) => return Err(error.into()),
            Ok(lock) => {
                let cluster = postgres::Options { data_dir: dir.clone(), binaries };
                Some((Postgres::start(cluster, clock.clone()).await?, lock))
            }
        };
        let path = dir.canonicalize().map_err(|source| BackupError::Io { doing: "find", path: dir, source })?;
        Ok(Self { options: store_options(&postgres::url(&path)), own })
    }

    async fn close(self) {
        if let Some((postgres, _lock)) = self.own {
            postgres.stop().await;
        }
    }
}

fn store_options(url: &str) -> StoreOptions {
    StoreOptions { max_connections: 2, ..StoreOptions::new(url) }
}

async fn make(options: &BackupOptions, clock: &Clock, tasks: &TaskGroup) -> Result<(Manifest, Written), BackupError> {
    let passphrase = passphrase::read(&options.passphrase_file)?;
    let dir = options.data_dir.clone();
    if unfinished::is_marked(&dir) {
        return Err(BackupError::Unfinished { dir });
    }
    if !dir.join("seal.key").exists() {
        return Err(BackupError::NoDataDir { dir });
    }
    let seal = SealKey::load(&dir.join("seal.key"))?;
    let output = Output::create(&options.output)?;
    let source = Source::open(options, clock).await?;
    let made = write(&source, &seal, &dir, (output, passphrase), clock, tasks).await;
    source.close().await;
    made
}

async fn write(
    source: &Source,
    seal: &SealKey,
    dir: &Path,
    (output, passphrase): (Output, Zeroizing<Vec<u8>>),
    clock: &Clock,
    tasks: &TaskGroup,
) -> Result<(Manifest, Written), BackupError> {
    let db = Db::connect(source.options.clone(), clock.clone(), tasks).await?;
    // A seal key that does not open what is in the database would make a backup of no use.
    let keys = Keys::load(&db, seal).await?.ok_or(SnapshotError::NoFleet)?;
    let mut snapshot = Snapshot::begin(&source.options).await?;
    let fingerprint = keys.ca_fingerprint();
    let mut manifest =
        Manifest::new(snapshot.facts(), snapshot.tables(), advertise::hostname(), clock.utc(), fingerprint);
    let files = read_files(dir, keys.ca().certificate_pem().as_bytes(), &mut manifest)?;
    let (pieces, queue) = mpsc::channel(QUEUE);
    let writing = tasks.blocking("write the backup", move || write_pieces(output, &passphrase, queue));
    let writing = async { writing.await.map_err(BackupError::from)? };
    let sending = send(&mut snapshot, &manifest, files, pieces, Progress::new(clock));
    // Where the writer fails, its end of the queue is closed, and its error is the one that counts.
    let (written, sent) = tokio::join!(writing, sending);
    let mut written = written?;
    sent?;
    // Before the file has its name: a backup holds all keys of the fleet, so there is none that the log does not tell of.
    record(&db, &manifest, &written).await?;
    db.close().await;
    written.output.publish()?;
    Ok((manifest, written))
}

/// Files of the data directory, by name.
type Files = Vec<(&'static str, Zeroizing<Vec<u8>>)>;

/// The files of the data directory; their digests go into the manifest.
fn read_files(dir: &Path, ca: &[u8], manifest: &mut Manifest) -> Result<Files, BackupError> {
    let mut files = Vec::new();
    for (name, _mode) in FILES {
        let path = dir.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) if bytes.len() <= MAX_FILE_BYTES => bytes,
            Ok(_) => {
                let source = io::Error::from(io::ErrorKind::FileTooLarge);
                return Err(BackupError::Io { doing: "read", path, source });
            }
            // A directory that no server has served from yet has only its key.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name == "ca.pem" => ca.to_vec(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BackupError::Io { doing: "read", path, source }),
        };
        manifest.files.insert(name.to_owned(), hex::encode(digest(&SHA256, &bytes)));
        files.push((name, Zeroizing::new(bytes)));
    }
    Ok(files)
}

enum Piece {
    Part(String),
    Data(Bytes),
    /// Nothing is missing: only then the file is finished.
    Complete,
}

async fn send(
    snapshot: &mut Snapshot,
    manifest: &Manifest,
    files: Files,
    pieces: mpsc::Sender<Piece>,
    mut progress: Progress,
) -> Result<(), BackupError> {
    let send = async |piece| pieces.send(piece).await.map_err(|_closed| BackupError::Interrupted);
    let head = serde_json::to_vec_pretty(manifest).expect("texts and numbers always make JSON");
    send(Piece::Part(manifest::PART.to_owned())).await?;
    send(Piece::Data(head.into())).await?;
    for (name, bytes) in files {
        send(Piece::Part(format!("file/{name}"))).await?;
        send(Piece::Data(Bytes::from_owner(bytes))).await?;
    }
    let mut read = 0;
    for table in &manifest.tables {
        send(Piece::Part(format!("table/{}", table.name))).await?;
        let mut rows = snapshot.rows(table).await?;
        while let Some(piece) = rows.next().await {
            let piece = piece?;
            read += piece.len() as u64;
            progress.say(&table.name, read);
            send(Piece::Data(piece)).await?;
        }
    }
    progress.clear();
    send(Piece::Complete).await
}

/// A file that is written.
struct Written {
    output: Output,
    length: u64,
    sha256: String,
}

fn write_pieces(output: Output, passphrase: &[u8], mut queue: mpsc::Receiver<Piece>) -> Result<Written, BackupError> {
    let path = output.path.clone();
    let io = |source| BackupError::Io { doing: "write", path: path.clone(), source };
    let mut archive = ArchiveWriter::new(output, passphrase, Cost::RECOMMENDED).map_err(io)?;
    loop {
        match queue.blocking_recv() {
            Some(Piece::Part(name)) => archive.part(&name).map_err(io)?,
            Some(Piece::Data(bytes)) => archive.data(&bytes).map_err(io)?,
            Some(Piece::Complete) => break,
            None => return Err(BackupError::Interrupted),
        }
    }
    let output = archive.finish().map_err(io)?;
    output.file.sync_all().map_err(io)?;
    let (length, sha256) = (output.length, hex::encode(output.hash.clone().finish()));
    Ok(Written { output, length, sha256 })
}

async fn record(db: &Db, manifest: &Manifest, written: &Written) -> Result<(), BackupError> {
    let name = written.output.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let event = Event::new(backup::CREATE, "fleet")
        .with("file", name)
        .with("bytes", written.length)
        .with("sha256", written.sha256.clone())
        .with("schema", manifest.schema)
        .with("epoch", manifest.epoch)
        .with("audit_size", manifest.audit_size)
        .with("host", manifest.host.clone());
    let context = Context { actor: Actor::Socket(Uid::effective().as_raw()), ..Context::system() };
    let event = Arc::new(event);
    let write = db.write("backup", context, move |tx| {
        Box::pin(async move {
            tx.audit(Event::clone(&event));
            Ok::<_, StoreError>(())
        })
    });
    Ok(write.await?)
}

/// The file under a name of its own until it is complete; gone where it does not come to that.
struct Output {
    path: PathBuf,
    temporary: Option<PathBuf>,
    file: File,
    length: u64,
    hash: Hash,
}

impl Output {
    fn create(path: &Path) -> Result<Self, BackupError> {
        let io = |doing| move |source| BackupError::Io { doing, path: path.to_path_buf(), source };
        match File::open(path) {
            Ok(mut present) => {
                if !sealed::looks_like_a_backup(&mut present).unwrap_or(false) {
                    return Err(BackupError::NotABackup { path: path.to_path_buf() });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("read")(error)),
        }
        let (temporary, file) = durable::begin_part(path, "new", 0o600).map_err(io("write"))?;
        Ok(Self { path: path.to_path_buf(), temporary: Some(temporary), file, length: 0, hash: Hash::new(&SHA256) })
    }

    /// Gives it its name.
    fn publish(&mut self) -> Result<(), BackupError> {
        let Some(temporary) = self.temporary.take() else { return Ok(()) };
        let folder =
            self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        fs::rename(&temporary, &self.path)
            .and_then(|()| durable::sync_folder(folder))
            .map_err(|source| BackupError::Io { doing: "write", path: self.path.clone(), source })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(bytes.get(..count).unwrap_or_default());
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // What cannot be removed is sealed, and says by its name what it is.
            drop(fs::remove_file(temporary));
        }
    }
}
