//! Ends of transfers, kept on disk and reported until the control plane says that it stored them.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use foundation_runtime::{checked, durable};
use prost::Message;
use proto_rpc::agent::TransferReport;

/// So many ends are kept at most. A host that ends a transfer every minute fills this in nearly three days without a
/// control plane; from then on the oldest are given up, since the newest say more.
pub(crate) const MAX_ENDS: usize = 4096;

/// Whose end of which transfer: the transfer's id and the role's number.
pub(crate) type Key = (String, i32);

/// The kept ends, each in a file of its own in `DIR/reports`.
#[derive(Debug)]
pub(crate) struct Outbox {
    dir: PathBuf,
    ends: BTreeMap<Key, TransferReport>,
}

impl Outbox {
    /// Reads what an earlier run left; a file that cannot be read is set aside, with a line in the log.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("reports");
        durable::create_dir(&dir, 0o700)?;
        durable::sweep(&dir)?;
        let mut ends = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "pb") {
                continue;
            }
            match parse(&fs::read(&path)?) {
                Ok(report) => drop(ends.insert(key(&report), report)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "A kept report is damaged and set aside");
                    fs::rename(&path, path.with_extension("damaged"))?;
                }
            }
        }
        Ok(Self { dir, ends })
    }

    /// Keeps an end, durably. A transfer ends once at each end: what is kept already stays.
    pub(crate) fn keep(&mut self, report: TransferReport) -> io::Result<TransferReport> {
        let key = key(&report);
        if let Some(kept) = self.ends.get(&key) {
            return Ok(kept.clone());
        }
        if self.ends.len() >= MAX_ENDS {
            // Ids are UUIDs of version 7, so the first is the oldest.
            if let Some((oldest, _report)) = self.ends.pop_first() {
                tracing::warn!(transfer = oldest.0, "An end was never acknowledged and is given up: too many are kept");
                durable::remove(&self.path(&oldest))?;
            }
        }
        durable::replace(&self.path(&key), &checked::seal(&report.encode_to_vec()), 0o600)?;
        self.ends.insert(key, report.clone());
        Ok(report)
    }

    /// The control plane stored it.
    pub(crate) fn acknowledged(&mut self, key: &Key) -> io::Result<()> {
        if self.ends.remove(key).is_some() { durable::remove(&self.path(key)) } else { Ok(()) }
    }

    /// Whether this end waits.
    pub(crate) fn keeps(&self, key: &Key) -> bool {
        self.ends.contains_key(key)
    }

    /// All ends that wait, the oldest first.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &TransferReport> {
        self.ends.values()
    }

    /// Ids are made of hexadecimal digits and hyphens, so that they are fit for a file's name.
    fn path(&self, (transfer, role): &Key) -> PathBuf {
        self.dir.join(format!("{transfer}.{role}.pb"))
    }
}

fn parse(file: &[u8]) -> Result<TransferReport, String> {
    let bytes = checked::open(file).map_err(|damage| damage.to_string())?;
    TransferReport::decode(bytes).map_err(|error| error.to_string())
}

/// Where a report belongs.
pub(crate) fn key(report: &TransferReport) -> Key {
    (report.transfer_id.clone(), report.role)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: &str, role: i32) -> TransferReport {
        TransferReport { transfer_id: id.to_owned(), role, issue_count: 7, ..TransferReport::default() }
    }

    #[test]
    fn an_end_survives_a_restart_until_it_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(dir.path()).unwrap();
        outbox.keep(report("a", 1)).unwrap();
        outbox.keep(report("a", 2)).unwrap();
        fs::write(dir.path().join("reports/x.1.pb"), b"\xff").unwrap();

        let mut outbox = Outbox::open(dir.path()).unwrap();
        assert_eq!(outbox.waiting().count(), 2);
        outbox.acknowledged(&("a".to_owned(), 1)).unwrap();
        let outbox = Outbox::open(dir.path()).unwrap();
        assert_eq!(outbox.waiting().collect::<Vec<_>>(), [&report("a", 2)]);
    }
}
