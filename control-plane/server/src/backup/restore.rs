//! `dwcp-control-plane restore`.
//!
//! First everything is looked at: the passphrase, every byte of the file, the folder, the database. Then the folder is marked, the rows
//! go in by one transaction that also opens the new epoch, and the mark is taken away last. Whatever kills it, there is either nothing
//! that a server would start on, or all.

mod inspect;
mod rows;

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use control_plane_pki::{SealError, SealKey};
use control_plane_store::{
    Actor, Error as StoreError, Options as StoreOptions,
    backup::{self, RestoreError as StoreRestoreError},
    epoch::{Opened, Opening},
};
use foundation_runtime::{Cancelled, Clock, DirLock, DirLockError, TaskGroup, durable, stop_signal};
use nix::unistd::Uid;
use proto_model::Epoch;
use serde_json::Value;
use uuid::Uuid;

use self::inspect::Inspected;
use super::{
    archive::ArchiveError,
    manifest::{FILES, Manifest},
    options::RestoreOptions,
    passphrase::{self, PassphraseError},
    progress::Progress,
    sealed::SealedError,
    unfinished,
};
use crate::{
    options::Database,
    postgres::{self, Postgres},
};

/// How long tasks may take at the end.
const FINISH: Duration = Duration::from_secs(5);

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The passphrase.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The backup cannot be opened, or is not whole.
    #[error("{path} is not restored: {source}; nothing was changed", path = path.display())]
    Sealed {
        /// The backup.
        path: PathBuf,
        /// Why.
        source: SealedError,
    },
    /// Its contents are wrong.
    #[error("{path} is not restored: {source}; nothing was changed", path = path.display())]
    Archive {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        source: ArchiveError,
    },
    /// Its contents are wrong.
    #[error("{path} is not restored: {reason}; nothing was changed", path = path.display())]
    Contents {
        /// The backup.
        path: PathBuf,
        /// What is wrong.
        reason: String,
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
    /// There is something in the data directory.
    #[error("{dir} is not empty (it has {example}): a backup is restored into an empty --data-dir; nothing was changed", dir = dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
        /// Something in it.
        example: String,
    },
    /// The data directory is somebody else's.
    #[error("{dir} belongs to user id {owner}: restore as the user that the server runs as (`sudo -u '#{owner}' …`); nothing was changed", dir = dir.display())]
    OtherOwner {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A process works there.
    #[error(transparent)]
    Lock(#[from] DirLockError),
    /// The private PostgreSQL does not start.
    #[error(transparent)]
    Postgres(#[from] postgres::StartError),
    /// The seal key in the backup.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreRestoreError),
    /// The database.
    #[error("the database cannot be used")]
    Database(#[from] StoreError),
    /// It was told to stop.
    #[error("stopped; nothing is complete: run the same restore again")]
    Interrupted,
    /// It was told to stop.
    #[error("stopped; nothing is complete: run the same restore again")]
    Cancelled(#[from] Cancelled),
}

/// Restores a backup, or only looks at it, and says on standard output what came of it.
///
/// # Errors
/// See [`RestoreError`].
pub async fn restore(options: RestoreOptions) -> Result<(), RestoreError> {
    let (clock, tasks) = (Clock::system(), TaskGroup::new("restore"));
    let begun = clock.now();
    let done = tokio::select! {
        done = Box::pin(run(&options, &clock, &tasks)) => done,
        stop = stop_signal() => {
            drop(stop);
            Err(RestoreError::Interrupted)
        }
    };
    // A reader that nobody listens to ends with its queue.
    drop(tasks.shutdown(FINISH).await);
    let done = done?;
    say(&done.text(&options, (clock.now() - begun).as_secs_f64()))
}

fn say(text: &str) -> Result<(), RestoreError> {
    match io::Write::write_all(&mut io::stdout(), text.as_bytes()) {
        // Who closed the pipe does not want to read it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => {
            written.map_err(|source| RestoreError::Io { doing: "write to", path: "standard output".into(), source })
        }
    }
}

/// What came of it.
enum Done {
    Checked(Manifest),
    Restored(Manifest, Opened),
    /// An earlier run had done all but the last step.
    CompletedBefore,
}

impl Done {
    fn text(&self, options: &RestoreOptions, seconds: f64) -> String {
        let (dir, file) = (options.data_dir.display(), options.backup.display());
        match self {
            Self::Checked(manifest) => {
                format!("√ {file} is whole and can be restored ({seconds:.1} s)\n  {}\n", manifest.summary())
            }
            Self::CompletedBefore => {
                format!(
                    "√ the restore into {dir} was complete but for its last step, which is done now\nNext: dwcp-control-plane run --data-dir {dir}\n"
                )
            }
            Self::Restored(manifest, opened) => format!(
                "√ restored into {dir} in {seconds:.1} s, as epoch {epoch} (the backup: {before})\n  {summary}\n  \
                 {voided} join tokens are void; operators' tokens stay; {transfers} transfers go on; what was done after the backup is lost\n\
                 Next: dwcp-control-plane run --data-dir {dir}   (with the --advertise, --listen and --database-url-file of this host)\n\
                 Then: dwcp audit verify   dwcp check   dwcp token create --node NAME for each host that joined after the backup\n\
                 Agents that know only the old address: dwcp-agent join NEW-HOST:PORT --ca-fingerprint {fingerprint} --data-dir THEIRS\n",
                epoch = opened.epoch,
                before = opened.before,
                summary = manifest.summary(),
                voided = opened.join_tokens,
                transfers = opened.transfers,
                fingerprint = manifest.ca_fingerprint,
            ),
        }
    }
}

async fn run(options: &RestoreOptions, clock: &Clock, tasks: &TaskGroup) -> Result<Done, RestoreError> {
    let passphrase = passphrase::read(&options.passphrase_file)?;
    if !options.check {
        require_folder(&options.data_dir, clock)?;
    }
    let (path, key) = (options.backup.clone(), passphrase.clone());
    let inspected = tasks.blocking("verify the backup", move || inspect::verify(&path, &key)).await??;
    backup::require_schema(inspected.manifest.schema)?;
    if options.check {
        return Ok(Done::Checked(inspected.manifest));
    }
    let dir = &options.data_dir;
    let io = |doing| move |source| RestoreError::Io { doing, path: dir.clone(), source };
    let before = unfinished::read(dir).map_err(io("read"))?;
    let url = match &options.database {
        Database::External { url } => Some(url.clone()),
        Database::Embedded { .. } => None,
    };
    if let Some(url) = &url {
        let store = StoreOptions::new(url);
        if let Some(before) = before
            && backup::holds_restore(&store, &before.to_string()).await?
        {
            unfinished::unmark(dir).map_err(io("finish"))?;
            return Ok(Done::CompletedBefore);
        }
        backup::require_empty_database(&store).await?;
    }
    let number = Uuid::new_v4();
    durable::create_dir(dir, 0o711).map_err(io("make"))?;
    let dir = dir.canonicalize().map_err(io("find"))?;
    let _lock = DirLock::acquire(&dir, Duration::ZERO, clock, |_| ())?;
    unfinished::mark(&dir, number).map_err(io("write to"))?;
    postgres::clear_leftovers(&dir, clock)?;
    unfinished::clear(&dir).map_err(io("clear"))?;
    write_files(&dir, &inspected)?;
    let place = Place { dir: &dir, url, number };
    let opened = place.fill(options, &inspected, &passphrase, clock, tasks).await?;
    unfinished::unmark(&dir).map_err(io("finish"))?;
    Ok(Done::Restored(inspected.manifest, opened))
}

/// Refuses a folder that is in use, somebody else's, or not empty.
fn require_folder(dir: &Path, clock: &Clock) -> Result<(), RestoreError> {
    let io = |source| RestoreError::Io { doing: "read", path: dir.to_path_buf(), source };
    let Some(data) = found(dir).map_err(io)? else { return Ok(()) };
    if dir.join("lock").exists() {
        // Who works there is worth more than what lies there.
        drop(DirLock::acquire(dir, Duration::ZERO, clock, |_| ())?);
    }
    if let Some(example) = unfinished::something_in(dir).map_err(io)? {
        return Err(RestoreError::NotEmpty { dir: dir.to_path_buf(), example });
    }
    if data.uid() == Uid::effective().as_raw() {
        Ok(())
    } else {
        Err(RestoreError::OtherOwner { dir: dir.to_path_buf(), owner: data.uid() })
    }
}

fn found(dir: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(dir) {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_files(dir: &Path, inspected: &Inspected) -> Result<(), RestoreError> {
    for (name, mode) in FILES {
        if let Some(bytes) = inspected.files.get(name) {
            let path = dir.join(name);
            durable::replace(&path, bytes, mode).map_err(|source| RestoreError::Io { doing: "write", path, source })?;
        }
    }
    Ok(())
}

/// Where it is restored to.
struct Place<'a> {
    dir: &'a Path,
    /// Of an outside database.
    url: Option<String>,
    number: Uuid,
}

impl Place<'_> {
    /// Fills the database; a private one is made for it, and stopped again.
    async fn fill(
        &self,
        options: &RestoreOptions,
        inspected: &Inspected,
        passphrase: &zeroize::Zeroizing<Vec<u8>>,
        clock: &Clock,
        tasks: &TaskGroup,
    ) -> Result<Opened, RestoreError> {
        let own = match &options.database {
            Database::External { .. } => None,
            Database::Embedded { binaries } => {
                let cluster = postgres::Options { data_dir: self.dir.to_path_buf(), binaries: binaries.clone() };
                Some(Postgres::start(cluster, clock.clone()).await?)
            }
        };
        let url = self.url.clone().or_else(|| own.as_ref().map(Postgres::url)).unwrap_or_default();
        let seal = SealKey::load(&self.dir.join("seal.key"))?;
        let source = rows::Source {
            path: &options.backup,
            passphrase: passphrase.clone(),
            manifest: &inspected.manifest,
            progress: Progress::new(clock),
        };
        let opening = self.opening(options, &inspected.manifest, clock);
        let filled = source.enter(&StoreOptions::new(url), &seal, opening, tasks).await;
        if let Some(own) = own {
            own.stop().await;
        }
        filled
    }

    fn opening(&self, options: &RestoreOptions, manifest: &Manifest, clock: &Clock) -> Opening {
        let detail = [
            ("reason", Value::from("restore")),
            ("restore", self.number.to_string().into()),
            ("backup_time", manifest.time.to_rfc3339().into()),
            ("backup_host", manifest.host.clone().into()),
            ("backup_version", manifest.version.clone().into()),
        ];
        Opening {
            epoch: options.epoch.map(Epoch::new),
            now: clock.utc(),
            actor: Actor::Socket(Uid::effective().as_raw()),
            detail: detail.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        }
    }
}
