//! What `backup`, `restore` and `open-epoch` are told.

use std::path::PathBuf;

use clap::Args;

use crate::options::{Database, OptionsError, Place};

/// Examples of `backup`.
pub(crate) const BACKUP_EXAMPLES: &str = "\
Examples:
  dwcp-control-plane backup --data-dir /var/lib/dwcp-control-plane --passphrase-file /etc/dwcp/backup-passphrase -O /backup/dwcp-$(date +%F).backup
      while the server runs, or while it is stopped; one file, mode 0600
  dwcp-control-plane backup --config /etc/dwcp/control-plane.yaml --passphrase-file - -O fleet.backup < passphrase
      with the data directory and the database of a file of options

Keep the passphrase elsewhere than the backup: without it nobody opens the file, with it anybody is the fleet's certificate authority.";

/// Examples of `restore`.
pub(crate) const RESTORE_EXAMPLES: &str = "\
Examples:
  dwcp-control-plane restore --check --passphrase-file /root/passphrase /backup/dwcp-2026-11-20.backup
      verifies every byte of a backup and says what is in it; changes nothing
  dwcp-control-plane restore --data-dir /var/lib/dwcp-control-plane --passphrase-file /root/passphrase /backup/dwcp-2026-11-20.backup
      into an empty data directory, with a new private PostgreSQL
  dwcp-control-plane restore --data-dir DIR --database-url-file /etc/dwcp/database-url --passphrase-file F FILE
      into an empty database that others operate

Run it as the user that the server runs as. Then start the server there; docs/backup.md says how agents find it.";

/// Examples of `open-epoch`.
pub(crate) const EPOCH_EXAMPLES: &str = "\
Examples:
  dwcp-control-plane open-epoch --data-dir /var/lib/dwcp-control-plane --database-url-file /etc/dwcp/database-url
      after the database was put back by PostgreSQL's own means, so that agents take it for restored and not for tampered with
  dwcp-control-plane open-epoch --data-dir DIR --epoch 5
      where agents have seen epoch 4 already";

/// Where the state is, as `run` has it.
#[derive(Clone, Debug, Args)]
struct PlaceArgs {
    /// The server's file of options: its data directory and database are used.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory [default: /var/lib/dwcp-control-plane].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The PostgreSQL that the server uses instead of a private one; other users of the machine can see it here.
    #[arg(long, value_name = "URL", conflicts_with = "database_url_file")]
    database_url: Option<String>,
    /// A file with that URL.
    #[arg(long, value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// The folder of `postgres` and `initdb`, where it is not found by itself.
    #[arg(long, value_name = "DIR")]
    postgres_bin: Option<PathBuf>,
}

/// The arguments of `backup`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// A file with the passphrase, one line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
    /// The backup; an older one there is replaced when the new one is complete.
    #[arg(long, short = 'O', value_name = "FILE")]
    output: PathBuf,
}

/// The arguments of `restore`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// A file with the passphrase, one line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
    /// The epoch to open, where agents have seen the next one already: this backup was restored before.
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
    /// Verifies the backup and says what is in it; nothing is changed.
    #[arg(long)]
    check: bool,
    /// The backup.
    #[arg(value_name = "FILE")]
    backup: PathBuf,
}

/// The arguments of `open-epoch`.
#[derive(Clone, Debug, Args)]
pub(crate) struct EpochArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The epoch to open [default: the next one].
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
}

/// What `backup` does.
#[derive(Clone, Debug)]
pub struct BackupOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the state is.
    pub database: Database,
    /// Where the passphrase is.
    pub passphrase_file: PathBuf,
    /// The backup.
    pub output: PathBuf,
}

/// What `restore` does.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the state is to be.
    pub database: Database,
    /// Where the passphrase is.
    pub passphrase_file: PathBuf,
    /// The epoch to open; the next one where absent.
    pub epoch: Option<u64>,
    /// Whether the backup is only looked at.
    pub check: bool,
    /// The backup.
    pub backup: PathBuf,
}

/// What `open-epoch` does.
#[derive(Clone, Debug)]
pub struct EpochOptions {
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where the state is.
    pub database: Database,
    /// The epoch to open; the next one where absent.
    pub epoch: Option<u64>,
}

impl PlaceArgs {
    fn place(self) -> Result<Place, OptionsError> {
        let Self { config, data_dir, database_url, database_url_file, postgres_bin } = self;
        Place::find(config, data_dir, (database_url, database_url_file), postgres_bin)
    }
}

impl BackupArgs {
    pub(crate) fn options(self) -> Result<BackupOptions, OptionsError> {
        let Place { data_dir, database } = self.place.place()?;
        Ok(BackupOptions { data_dir, database, passphrase_file: self.passphrase_file, output: self.output })
    }
}

impl RestoreArgs {
    pub(crate) fn options(self) -> Result<RestoreOptions, OptionsError> {
        let Self { place, passphrase_file, epoch, check, backup } = self;
        let Place { data_dir, database } = place.place()?;
        Ok(RestoreOptions { data_dir, database, passphrase_file, epoch, check, backup })
    }
}

impl EpochArgs {
    pub(crate) fn options(self) -> Result<EpochOptions, OptionsError> {
        let Place { data_dir, database } = self.place.place()?;
        Ok(EpochOptions { data_dir, database, epoch: self.epoch })
    }
}
