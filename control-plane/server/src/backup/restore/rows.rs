//! The second reading of a backup: its rows, on their way into the database. What is read is verified again, and nothing is committed
//! before the file's last byte was.

use std::path::Path;

use control_plane_pki::SealKey;
use control_plane_store::{
    Options as StoreOptions,
    backup::{Restoration, Table},
    epoch::{Opened, Opening},
};
use foundation_runtime::TaskGroup;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{RestoreError, inspect};
use crate::backup::{archive::Next, manifest::Manifest, progress::Progress};

/// Frames that wait for the database.
const QUEUE: usize = 16;

/// A backup that was verified.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) passphrase: Zeroizing<Vec<u8>>,
    pub(super) manifest: &'a Manifest,
    pub(super) progress: Progress,
}

impl Source<'_> {
    /// Enters all rows, opens the epoch, commits.
    pub(super) async fn enter(
        self,
        store: &StoreOptions,
        seal: &SealKey,
        opening: Opening,
        tasks: &TaskGroup,
    ) -> Result<Opened, RestoreError> {
        let (frames, mut queue) = mpsc::channel(QUEUE);
        let (path, passphrase) = (self.path.to_path_buf(), self.passphrase.clone());
        let reading = tasks.blocking("read the backup", move || read(&path, &passphrase, &frames));
        let entering = async {
            let mut restoration = Restoration::begin(store, self.manifest.schema).await?;
            self.enter_tables(&mut restoration, &mut queue).await?;
            Ok::<_, RestoreError>(restoration)
        };
        let (read, entered) = tokio::join!(async { reading.await? }, entering);
        // Where the file failed, that is why the tables were not complete.
        if let Err(error @ (RestoreError::Sealed { .. } | RestoreError::Archive { .. } | RestoreError::Io { .. })) =
            read
        {
            return Err(error);
        }
        let restoration = entered?;
        read?;
        Ok(restoration.finish(seal, opening).await?)
    }

    async fn enter_tables(
        mut self,
        restoration: &mut Restoration,
        queue: &mut mpsc::Receiver<Next>,
    ) -> Result<(), RestoreError> {
        let (mut tables, mut entered) = (self.manifest.tables.iter(), 0);
        while let Some(frame) = queue.recv().await {
            match frame {
                Next::Part(name) => {
                    let table = tables.next().filter(|table| name.strip_prefix("table/") == Some(table.name.as_str()));
                    let table = table.ok_or_else(|| self.changed())?;
                    self.enter_table(restoration, table, queue, &mut entered).await?;
                }
                Next::Last if tables.next().is_none() => {
                    self.progress.clear();
                    return Ok(());
                }
                Next::Data(_) | Next::End { .. } | Next::Last => return Err(self.changed()),
            }
        }
        Err(RestoreError::Interrupted)
    }

    async fn enter_table(
        &mut self,
        restoration: &mut Restoration,
        table: &Table,
        queue: &mut mpsc::Receiver<Next>,
        entered: &mut u64,
    ) -> Result<(), RestoreError> {
        let mut rows = restoration.table(table).await?;
        loop {
            match queue.recv().await {
                Some(Next::Data(bytes)) => {
                    rows.send(&bytes).await?;
                    *entered += bytes.len() as u64;
                    self.progress.say(&table.name, *entered);
                }
                Some(Next::End { .. }) => {
                    rows.finish().await?;
                    return Ok(());
                }
                Some(Next::Part(_) | Next::Last) => return Err(self.changed()),
                None => return Err(RestoreError::Interrupted),
            }
        }
    }

    fn changed(&self) -> RestoreError {
        let reason = "it was changed while it was read".to_owned();
        RestoreError::Contents { path: self.path.to_path_buf(), reason }
    }
}

/// Hands on the frames of tables, and the end.
fn read(path: &Path, passphrase: &[u8], frames: &mpsc::Sender<Next>) -> Result<(), RestoreError> {
    let mut archive = inspect::open(path, passphrase)?;
    let mut of_a_table = false;
    loop {
        let frame = archive.next().map_err(|error| inspect::refused(path, error))?;
        let last = frame == Next::Last;
        if let Next::Part(name) = &frame {
            of_a_table = name.starts_with("table/");
        }
        if (of_a_table || last) && frames.blocking_send(frame).is_err() {
            // The database failed, and says why.
            return Ok(());
        }
        if last {
            return Ok(());
        }
    }
}
