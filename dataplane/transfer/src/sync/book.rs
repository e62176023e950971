//! What a receiver keeps of each sync, on disk: which runs it has seen, by which grant, and what the control plane last said of it. A run's number
//! only grows, and one that has ended is refused again, whoever presents the grant.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use chrono::{DateTime, TimeDelta, Utc};
use foundation_runtime::durable;
use proto_model::{Digest, SyncGrant, SyncId, TransferId};
use serde::{Deserialize, Serialize};

use super::run::SyncRun;
use crate::{orders::paused, reason::end, stop::Stop};

/// What a sync's folder has of it.
const FILE: &str = "state";
/// For how long what is known of a sync outlives its grant: a control plane that was away for long renews it then.
const KEPT_AFTER: TimeDelta = TimeDelta::days(60);
/// No standing grant is made for longer: those of a sync that was deleted are over then.
const LONGEST_GRANT: TimeDelta = TimeDelta::days(30);

/// What the control plane says of a sync to its receiver.
#[derive(Clone, Debug)]
pub struct SyncOrder {
    /// Which.
    pub sync: SyncId,
    /// Its standing grant; not yet checked.
    pub grant: proto_wire::Signed,
    /// Whether it is held.
    pub pause: bool,
    /// Grows with every change.
    pub order: u64,
}

/// One sync, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: String,
    /// The newest grant that was seen.
    serial: u64,
    /// BLAKE3 of it, where a run was let in by it.
    grant: Option<String>,
    /// The newest run that was opened; 0 before the first.
    run: u64,
    /// The newest run that has ended.
    finished: u64,
    /// The newest order to overwrite that was carried out.
    overwritten: u64,
    /// Whether the first run was let begin.
    begun: bool,
    order: u64,
    paused: bool,
    deleted: bool,
    keep_until_ms: i64,
}

/// What to do is the operator's to decide: without it old runs are let in again.
fn damaged(folder: &Path, error: &serde_json::Error) -> String {
    format!(
        "{} is damaged ({error}); restore it, or move the folder {} away: the sync's files here are others' to it then, and `dwcp sync run NAME --overwrite` \
         takes them back",
        folder.join(FILE).display(),
        folder.display()
    )
}

/// All syncs that this host receives.
#[derive(Debug)]
pub(crate) struct Book {
    folder: PathBuf,
    kept: Mutex<HashMap<SyncId, Kept>>,
    /// How many there are at most: `limits.received_syncs`.
    most: AtomicUsize,
}

impl Book {
    /// Reads what there is; what is damaged is refused, since it would let old runs in.
    pub(crate) fn open(folder: PathBuf) -> io::Result<Self> {
        durable::create_dir(&folder, 0o700)?;
        let mut kept = HashMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<SyncId>().ok());
            let Some(id) = id else { continue };
            durable::sweep(&path)?;
            match fs::read(path.join(FILE)) {
                Ok(bytes) => {
                    let damaged = |error| io::Error::new(io::ErrorKind::InvalidData, damaged(&path, &error));
                    drop(kept.insert(id, serde_json::from_slice(&bytes).map_err(damaged)?));
                }
                // It was being made, or removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir_all(&path)?,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { folder, kept: Mutex::new(kept), most: AtomicUsize::new(usize::MAX) })
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<SyncId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Damaged records of syncs that were set aside, until somebody has looked at them and removed them.
    pub(crate) fn damaged(&self) -> Vec<PathBuf> {
        let all: Vec<SyncId> = self.kept().keys().copied().collect();
        let aside = all
            .into_iter()
            .flat_map(|sync| super::published::ASIDES.map(|name| self.folder.join(sync.to_string()).join(name)));
        aside.filter(|path| path.exists()).collect()
    }

    /// Another bound of what is kept; what there is stays.
    pub(crate) fn limit(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    fn is_full(&self, count: usize) -> bool {
        let is_full = count >= self.most.load(Relaxed);
        if is_full {
            metrics::counter!("dwcp_limit_hits_total", "limit" => "limits.received_syncs").increment(1);
        }
        is_full
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether a run was let in by this very grant before.
    pub(crate) fn was_accepted_by(&self, sync: SyncId, grant: Digest) -> bool {
        self.kept().get(&sync).is_some_and(|kept| kept.grant.as_deref() == Some(grant.to_string().as_str()))
    }

    /// Whether this run may be opened now. `order` is the newest that its sender was told.
    pub(crate) fn check(&self, grant: &SyncGrant, run: u64, order: u64) -> Result<(), Stop> {
        let kept = self.kept();
        let Some(known) = kept.get(&grant.sync()) else {
            if self.is_full(kept.len()) {
                let message = format!(
                    "limits.received_syncs: this host keeps {} syncs already, deleted ones included",
                    kept.len()
                );
                return Err(Stop::temporary(end::BUSY, message));
            }
            return Ok(());
        };
        known.check(grant, run, order)
    }

    /// The run that was opened before this one and did not end, where it is another one.
    pub(crate) fn other_run(&self, sync: SyncId, run: u64) -> Option<TransferId> {
        let kept = self.kept();
        kept.get(&sync).filter(|known| known.run != run && known.run > known.finished).map(|known| sync.run(known.run))
    }

    /// The run that may be under way.
    fn open_run(&self, sync: SyncId) -> Option<TransferId> {
        self.other_run(sync, 0)
    }

    /// Whether the first run was let begin: the destination is the sync's own since.
    pub(crate) fn has_begun(&self, sync: SyncId) -> bool {
        self.kept().get(&sync).is_some_and(|known| known.begun)
    }

    /// Whether an order to overwrite was not carried out yet.
    pub(crate) fn may_overwrite(&self, grant: &SyncGrant) -> bool {
        grant.overwrite > self.kept().get(&grant.sync()).map_or(0, |known| known.overwritten)
    }

    /// Lets a run begin, or go on: written down before anything is made.
    pub(crate) fn begin(
        &self,
        grant: &SyncGrant,
        run: u64,
        accepted_by: Digest,
        order: u64,
    ) -> Result<Arc<SyncRun>, Stop> {
        let sync = grant.sync();
        self.check(grant, run, order)?;
        let overwrite = self.may_overwrite(grant);
        let folder = self.folder.join(sync.to_string());
        let begun = self.change(sync, |kept| {
            kept.name = grant.name.to_string();
            kept.serial = kept.serial.max(grant.serial);
            kept.grant = Some(accepted_by.to_string());
            kept.run = run;
            kept.begun = true;
            kept.keep_until_ms = (grant.grant.not_after + KEPT_AFTER).timestamp_millis();
        });
        let local = |error: &io::Error| Stop::local("what is kept of a sync cannot be used", error);
        begun.map_err(|error| local(&error))?;
        let run = SyncRun::open(&folder, grant, run, overwrite).map_err(|error| local(&error))?;
        Ok(Arc::new(run))
    }

    /// A run has ended here: it is refused from now on.
    pub(crate) fn finish(&self, run: &SyncRun, succeeded: bool) -> io::Result<()> {
        run.merge()?;
        self.change(run.sync, |kept| {
            kept.finished = kept.finished.max(run.number);
            if succeeded {
                kept.overwritten = kept.overwritten.max(run.overwrite_order);
            }
        })
    }

    /// The same, of a run that does not run any more, by its transfer.
    pub(crate) fn give_up(&self, transfer: TransferId) -> io::Result<()> {
        let found = self.kept().iter().find(|(sync, known)| sync.run(known.run) == transfer).map(|(sync, _)| *sync);
        let Some(sync) = found else { return Ok(()) };
        self.change(sync, |kept| kept.finished = kept.finished.max(kept.run))
    }

    /// Whether this transfer is the newest run of a sync that is received here.
    pub(crate) fn is_run(&self, transfer: TransferId) -> bool {
        self.kept().iter().any(|(sync, known)| known.run > 0 && sync.run(known.run) == transfer)
    }

    /// What the control plane says of a sync, by a grant that was checked; gives the run that may be under way.
    pub(crate) fn order(&self, grant: &SyncGrant, order: &SyncOrder) -> io::Result<Option<TransferId>> {
        let sync = grant.sync();
        {
            let kept = self.kept();
            let known = kept.get(&sync);
            if known.is_some_and(|known| known.order >= order.order) || (known.is_none() && self.is_full(kept.len())) {
                return Ok(None);
            }
        }
        self.change(sync, |kept| {
            kept.name = grant.name.to_string();
            kept.serial = kept.serial.max(grant.serial);
            kept.order = order.order;
            kept.paused = order.pause;
            kept.deleted = false;
            kept.keep_until_ms = (grant.grant.not_after + KEPT_AFTER).timestamp_millis();
        })?;
        Ok(self.open_run(sync))
    }

    /// All syncs that there are, by the control plane's word: others were deleted. Gives the runs that may be under way.
    pub(crate) fn keep_only(&self, wanted: &[SyncId], now: DateTime<Utc>) -> io::Result<Vec<TransferId>> {
        let deleted: Vec<_> = {
            let kept = self.kept();
            let others = kept.iter().filter(|(sync, known)| !known.deleted && !wanted.contains(sync));
            others.map(|(sync, _)| *sync).collect()
        };
        let mut runs = Vec::new();
        for sync in deleted {
            runs.extend(self.open_run(sync));
            self.change(sync, |kept| {
                kept.deleted = true;
                // Its sender may hold a grant that was renewed while this host was away.
                let until = (now + LONGEST_GRANT + KEPT_AFTER).timestamp_millis();
                kept.keep_until_ms = kept.keep_until_ms.max(until);
            })?;
        }
        Ok(runs)
    }

    /// Forgets syncs whose grants are long over.
    pub(crate) fn forget(&self, now: DateTime<Utc>) -> io::Result<()> {
        let over = |known: &Kept| {
            let sooner = if known.deleted { KEPT_AFTER } else { TimeDelta::zero() };
            known.keep_until_ms < (now + sooner - TimeDelta::hours(1)).timestamp_millis()
        };
        let over: Vec<_> = self.kept().iter().filter(|(_, known)| over(known)).map(|(sync, _)| *sync).collect();
        for sync in over {
            fs::remove_dir_all(self.folder.join(sync.to_string()))?;
            self.kept().remove(&sync);
        }
        Ok(())
    }

    /// Changes what is kept of a sync: durably, and in memory only then.
    fn change(&self, sync: SyncId, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let mut all = self.kept();
        let mut kept = all.get(&sync).cloned().unwrap_or_default();
        let before = kept.clone();
        change(&mut kept);
        if kept == before {
            return Ok(());
        }
        let folder = self.folder.join(sync.to_string());
        if !all.contains_key(&sync) {
            durable::create_dir(&folder, 0o700)?;
            durable::sync_folder(&self.folder)?;
        }
        durable::replace(&folder.join(FILE), &serde_json::to_vec(&kept).map_err(io::Error::from)?, 0o600)?;
        all.insert(sync, kept);
        Ok(())
    }
}

impl Kept {
    fn check(&self, grant: &SyncGrant, run: u64, order: u64) -> Result<(), Stop> {
        let name = &grant.name;
        if self.deleted {
            return Err(Stop::final_(end::SYNC_DELETED, format!("the sync {name} was deleted")));
        }
        if grant.serial < self.serial {
            let message = format!(
                "this host knows a newer grant of the sync {name} (number {}) than this one (number {}); its sender gets it when it reaches the control plane",
                self.serial, grant.serial
            );
            return Err(Stop::temporary(end::GRANT_SUPERSEDED, message));
        }
        if run <= self.finished {
            let message = format!("run {run} of the sync {name} has ended here before");
            return Err(Stop::final_(end::ALREADY_FINISHED, message));
        }
        if run < self.run {
            let message = format!("run {run} of the sync {name} is older than run {}, which was opened here", self.run);
            return Err(Stop::final_(end::ALREADY_FINISHED, message));
        }
        // Who was told of a newer order than this host knows better.
        if self.paused && order <= self.order {
            return Err(paused());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto_model::{Grant, GrantParty, NodeUid, PublicKey, TransferOptions, from_unix_ms};
    use uuid::Uuid;

    use super::*;

    fn grant(serial: u64, overwrite: u64) -> SyncGrant {
        let party = |seed: u8| {
            let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
            GrantParty { uid: NodeUid::new(Uuid::from_u128(seed.into())), key: PublicKey::try_from(key).unwrap() }
        };
        let grant = Grant {
            fleet: "0192f0c1-7e2a-4cc3-98c4-dc0c0c07398f".parse().unwrap(),
            epoch: 1.into(),
            transfer: TransferId::from_parts(1, &[1; 10]),
            source: party(1),
            destination: party(2),
            source_paths: vec!["data:/x".parse().unwrap()],
            destination_path: "in:/".parse().unwrap(),
            options: TransferOptions { delete: true, ..TransferOptions::default() },
            not_before: from_unix_ms(1).unwrap(),
            not_after: from_unix_ms(86_400_000).unwrap(),
        };
        SyncGrant { grant, name: "photos".parse().unwrap(), serial, overwrite }
    }

    fn reason(result: Result<(), Stop>) -> String {
        result.map_or_else(|stop| stop.reason, |()| "fine".to_owned())
    }

    #[test]
    fn a_runs_number_only_grows_and_one_that_ended_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path().join("syncs")).unwrap();
        let (first, accepted_by) = (grant(1, 0), Digest::blake3(b"grant"));
        let run = book.begin(&first, 3, accepted_by, 0).unwrap();
        assert_eq!(reason(book.check(&first, 2, 0)), end::ALREADY_FINISHED);
        assert_eq!(reason(book.check(&first, 3, 0)), "fine");
        assert_eq!(book.other_run(first.sync(), 4), Some(first.sync().run(3)));
        book.finish(&run, true).unwrap();
        let book = Book::open(dir.path().join("syncs")).unwrap();
        assert_eq!(reason(book.check(&first, 3, 0)), end::ALREADY_FINISHED);
        assert_eq!(reason(book.check(&first, 4, 0)), "fine");
        assert_eq!(book.other_run(first.sync(), 4), None);
        assert!(book.was_accepted_by(first.sync(), accepted_by));
        book.begin(&grant(2, 0), 4, accepted_by, 0).unwrap();
        assert_eq!(reason(book.check(&first, 4, 0)), end::GRANT_SUPERSEDED);
        // What is damaged would let old runs in: it is named, with what to do.
        let kept = dir.path().join("syncs").join(first.sync().to_string()).join(FILE);
        fs::write(&kept, b"{").unwrap();
        let damaged = Book::open(dir.path().join("syncs")).unwrap_err().to_string();
        assert!(damaged.contains(&kept.display().to_string()) && damaged.contains("--overwrite"), "{damaged}");
    }

    #[test]
    fn no_more_syncs_are_kept_than_may_be_and_known_ones_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path().join("syncs")).unwrap();
        let (known, accepted_by) = (grant(1, 0), Digest::blake3(b"grant"));
        book.begin(&known, 1, accepted_by, 0).unwrap();
        book.limit(1);
        let mut other = grant(1, 0);
        other.grant.transfer = TransferId::from_parts(2, &[2; 10]);
        let refused = book.check(&other, 1, 0).unwrap_err();
        assert!(refused.temporary && refused.message.contains("limits.received_syncs"), "{refused}");
        assert_eq!(reason(book.check(&known, 2, 0)), "fine");
        book.limit(2);
        assert_eq!(reason(book.check(&other, 1, 0)), "fine");
    }

    #[test]
    fn an_order_to_overwrite_is_good_for_one_run_that_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path().join("syncs")).unwrap();
        let (asked, accepted_by) = (grant(1, 1), Digest::blake3(b"grant"));
        let run = book.begin(&asked, 1, accepted_by, 0).unwrap();
        book.finish(&run, false).unwrap();
        assert!(book.may_overwrite(&asked));
        let run = book.begin(&asked, 2, accepted_by, 0).unwrap();
        book.finish(&run, true).unwrap();
        assert!(!book.may_overwrite(&asked));
        assert!(book.may_overwrite(&grant(2, 2)));
    }

    #[test]
    fn what_the_control_plane_says_stands_until_it_says_something_newer() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(dir.path().join("syncs")).unwrap();
        let standing = grant(1, 0);
        let signed = proto_wire::Signed { payload: Vec::new(), signature: [0; 64] };
        let say = |pause, order| {
            let order = SyncOrder { sync: standing.sync(), grant: signed.clone(), pause, order };
            book.order(&standing, &order).unwrap()
        };
        say(true, 5);
        assert_eq!(reason(book.check(&standing, 1, 5)), end::PAUSED);
        // Its sender heard first that it goes on.
        assert_eq!(reason(book.check(&standing, 1, 6)), "fine");
        say(false, 4);
        assert_eq!(reason(book.check(&standing, 1, 5)), end::PAUSED);
        say(false, 7);
        assert_eq!(reason(book.check(&standing, 1, 5)), "fine");
        let deleted = standing.grant.not_after - TimeDelta::hours(1);
        book.keep_only(&[], deleted).unwrap();
        assert_eq!(reason(book.check(&standing, 1, 9)), end::SYNC_DELETED);
        // One that was renewed before it was deleted, and that this host never heard of, is over after that too.
        book.forget(deleted + LONGEST_GRANT).unwrap();
        assert_eq!(reason(book.check(&standing, 1, 9)), end::SYNC_DELETED);
        book.forget(deleted + LONGEST_GRANT + TimeDelta::hours(2)).unwrap();
        assert!(book.kept().is_empty());
    }
}
