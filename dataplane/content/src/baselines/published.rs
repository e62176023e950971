//! What this host published: known again by what the file system says of it.

use std::collections::HashMap;

use dataplane_local_store::Baseline;
use proto_model::Digest;

use super::Baselines;
use crate::{references::ReferencesError, stat::FileStat};

/// A file that changes twice within one tick of its file system's clock may look as if it had changed once: so long after its
/// last change a look at it is proof. The coarsest tick of Linux is 10 ms.
const SETTLED_MS: i64 = 20;
/// Files with one digest that are named at most: one that can be read is enough.
const MAX_ALIKE: u32 = 16;
/// Files of about one length that are named at most.
const MAX_ABOUT_AS_LONG: u32 = 256;

/// A file that was put in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Below its root; bytes.
    pub path: Vec<u8>,
    /// As the file system has it, after the rename.
    pub stat: FileStat,
    /// What it is.
    pub digest: Digest,
}

/// What a file is that looks as it did when it was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it was.
    pub digest: Digest,
    /// Whether it cannot have changed since. Else it was noted so soon after it was written that a change in the same tick of
    /// the file system's clock would not show: good enough for a basis, which is verified by what comes of it.
    pub is_certain: bool,
}

impl Baselines {
    /// Notes files that were put in their places below a root.
    ///
    /// # Errors
    /// The rows cannot be written.
    pub async fn published(&self, root: &str, files: Vec<Published>) -> Result<(), ReferencesError> {
        let noted_ms = self.clock.unix_ms();
        let rows = files.into_iter().map(|file| Baseline {
            root: root.to_owned(),
            path: file.path,
            digest: file.digest,
            size: file.stat.size,
            device: file.stat.device,
            inode: file.stat.inode,
            mtime_ns: file.stat.mtime_ns,
            ctime_ns: file.stat.ctime_ns,
            noted_ms,
        });
        Ok(self.references.rows.put_baselines(rows.collect()).await?)
    }

    /// What a file is, if it is the one that was noted.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn held(&self, root: &str, path: &[u8], stat: FileStat) -> Result<Option<Held>, ReferencesError> {
        Ok(self.held_of(root, &[(path.to_vec(), stat)]).await?.pop().flatten())
    }

    /// The same of many files below one root: one answer for each, in their order.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn held_of(
        &self,
        root: &str,
        files: &[(Vec<u8>, FileStat)],
    ) -> Result<Vec<Option<Held>>, ReferencesError> {
        let paths: Vec<&[u8]> = files.iter().map(|(path, _)| path.as_slice()).collect();
        let rows = self.references.rows.baselines(root, &paths).await?;
        let noted: HashMap<&[u8], &Baseline> = rows.iter().map(|row| (row.path.as_slice(), row)).collect();
        let held = |(path, stat): &(Vec<u8>, FileStat)| {
            let row = noted.get(path.as_slice()).filter(|row| stat_of(row) == *stat)?;
            let changed_ms = stat.ctime_ns.max(stat.mtime_ns) / 1_000_000;
            let is_certain = row.noted_ms.saturating_sub(changed_ms) >= SETTLED_MS;
            Some(Held { digest: row.digest, is_certain })
        };
        Ok(files.iter().map(held).collect())
    }

    /// What files are that were noted under other paths below a root: by inode, size and time, since a rename changes nothing else but the
    /// time of that. One answer for each, in their order; none is certain.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn renamed_of(
        &self,
        root: &str,
        files: &[(Vec<u8>, FileStat)],
    ) -> Result<Vec<Option<Digest>>, ReferencesError> {
        let inodes: Vec<u64> = files.iter().map(|(_, stat)| stat.inode).collect();
        let rows = self.references.rows.baselines_of_inodes(root, &inodes).await?;
        let key = |stat: &FileStat| (stat.device, stat.inode, stat.size, stat.mtime_ns);
        let mut noted: HashMap<_, Vec<&Baseline>> = HashMap::new();
        rows.iter().for_each(|row| noted.entry(key(&stat_of(row))).or_default().push(row));
        let renamed = |(path, stat): &(Vec<u8>, FileStat)| {
            noted.get(&key(stat))?.iter().find(|row| row.path != *path).map(|row| row.digest)
        };
        Ok(files.iter().map(renamed).collect())
    }

    /// Files below a root that had this digest when they were noted, and how they looked: a renamed file is among them. Who
    /// opens one looks whether it is still that file.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn by_digest(&self, root: &str, digest: Digest) -> Result<Vec<(Vec<u8>, FileStat)>, ReferencesError> {
        let rows = self.references.rows.baselines_of(root, digest, MAX_ALIKE).await?;
        Ok(rows.into_iter().map(|row| (row.path.clone(), stat_of(&row))).collect())
    }
}

impl Baselines {
    /// Files below a root that were about so long when they were noted, those first that were noted last: what a new file may be like is among
    /// them. Who opens one looks what it is by now.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn of_sizes(
        &self,
        root: &str,
        sizes: std::ops::RangeInclusive<u64>,
    ) -> Result<Vec<(Vec<u8>, u64)>, ReferencesError> {
        let rows = self.references.rows.baselines_of_sizes(root, *sizes.start(), *sizes.end(), MAX_ABOUT_AS_LONG);
        Ok(rows.await?.into_iter().map(|row| (row.path, row.size)).collect())
    }
}

fn stat_of(row: &Baseline) -> FileStat {
    FileStat { device: row.device, inode: row.inode, size: row.size, mtime_ns: row.mtime_ns, ctime_ns: row.ctime_ns }
}
