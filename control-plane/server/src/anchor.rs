//! The last audit head that this server saw, kept in its data directory (D14): so that a log that was cut or rewritten in the database is
//! found, also when whoever did that could sign. A log that does not continue it is not written to any more: reading goes on, so that a
//! person can look at it, but nothing is signed on top of it.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use control_plane_audit::Restore;
use control_plane_store::{
    AuditKey, Db, Error as StoreError, Keys,
    audit_log::{self, EventFilter, Order},
    epoch,
};
use foundation_merkle::{Checkpoint, CheckpointError, VerifierKey, verify_consistency};
use foundation_runtime::{OnEnd, TaskGroup, durable};
use metrics::{counter, gauge};

/// How often a new head is written down at most.
const PAUSE: Duration = Duration::from_secs(1);

/// So long the newest head is looked for when the server ends.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// So many restores are looked through: an epoch each.
const MAX_RESTORES: u32 = 10_000;

/// What the comparison found. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Anchor(Arc<Mutex<Option<String>>>);

/// Compares the log with the head in the data directory, and keeps that up to date.
struct Follower {
    path: PathBuf,
    /// What is in the file.
    kept: Option<String>,
    key: VerifierKey,
    db: Db,
    tasks: TaskGroup,
    anchor: Anchor,
}

/// Why the log could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// The file cannot be read or written.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: io::Error,
    },
    /// The database failed.
    #[error("the audit log cannot be read")]
    Store(#[from] StoreError),
    /// The key is none.
    #[error("the audit key cannot be used")]
    Key(#[from] CheckpointError),
}

impl Anchor {
    /// Compares once, and goes on with every bell.
    ///
    /// # Errors
    /// See [`AnchorError`]; a log that was tampered with is no error, but [`Self::finding`].
    pub(crate) async fn follow(path: PathBuf, db: &Db, keys: &Keys, tasks: &TaskGroup) -> Result<Self, AnchorError> {
        let kept = match fs::read_to_string(&path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(AnchorError::Io { path, source }),
        };
        let anchor = Self::default();
        let key: VerifierKey = keys.audit_verifier_key().parse()?;
        let known = kept.as_deref().and_then(|kept| Some((Checkpoint::parse_and_verify(kept, &key).ok()?, kept)));
        if let (Some((head, text)), Some(signer)) = (known, db.audit_key()) {
            signer.know(head, text);
        }
        let mut follower = Follower { path, kept, key, db: db.clone(), tasks: tasks.clone(), anchor: anchor.clone() };
        let mut bell = db.bell();
        follower.compare().await?;
        let token = tasks.token().clone();
        tasks.spawn("audit-anchor", OnEnd::Fatal, async move {
            let follow = async {
                let mut is_kept = true;
                while bell.changed().await.is_ok() {
                    let compared = follower.compare().await;
                    // That the database is away is said by who watches it; a disk that is full, here, and once.
                    let kept = !matches!(compared, Err(AnchorError::Io { .. }));
                    if let Err(error) = compared {
                        let error: &dyn std::error::Error = &error;
                        if is_kept && !kept {
                            tracing::warn!(
                                component = "audit",
                                error,
                                "The newest audit head cannot be kept: make room"
                            );
                        } else {
                            tracing::debug!(
                                component = "audit",
                                error,
                                "The audit head was not compared; the next bell tries again"
                            );
                        }
                    }
                    is_kept = kept;
                    tokio::time::sleep(PAUSE).await;
                }
            };
            token.run_until_cancelled(Box::pin(follow)).await;
            // What came since the last bell; a database that is gone already keeps nobody here.
            let last = tokio::time::timeout(LAST_LOOK, follower.compare()).await;
            if !matches!(last, Ok(Ok(()))) {
                tracing::debug!(component = "audit", "The newest audit head was not kept at the end");
            }
        });
        Ok(anchor)
    }

    /// What is wrong with the log, if anything is.
    pub(crate) fn finding(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Said once, not with every bell.
    fn report(&self, finding: String) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() != Some(&finding) {
            counter!("dwcp_audit_verify_failures_total").increment(1);
            tracing::error!(
                component = "audit",
                finding,
                "The audit log is not what this server saw before: nothing is changed until it is; run `dwcp audit verify`"
            );
            *known = Some(finding);
        }
    }
}

impl Follower {
    async fn compare(&mut self) -> Result<(), AnchorError> {
        let Some(head) = audit_log::head(&self.db).await? else { return Ok(()) };
        if self.kept.as_deref() == Some(head.checkpoint.as_str()) {
            self.accept();
            return Ok(());
        }
        if let Some(finding) = self.finding(&head.checkpoint).await? {
            // The file keeps what it had: it is the evidence.
            if let Some(signer) = self.db.audit_key() {
                signer.refuse(&finding);
            }
            self.anchor.report(finding);
            return Ok(());
        }
        self.accept();
        let (path, checkpoint) = (self.path.clone(), head.checkpoint.clone());
        let written =
            self.tasks.blocking("keep-audit-head", move || durable::replace(&path, checkpoint.as_bytes(), 0o644));
        if let Ok(written) = written.await {
            written.map_err(|source| AnchorError::Io { path: self.path.clone(), source })?;
            self.kept = Some(head.checkpoint);
        }
        counter!("dwcp_audit_events_total").absolute(head.size);
        #[allow(clippy::cast_precision_loss, reason = "a metric; exact up to 2^53 events")]
        gauge!("dwcp_audit_verified_sequence").set(head.size as f64);
        Ok(())
    }

    /// The log continues what it was, perhaps again.
    fn accept(&self) {
        let mended = self.anchor.0.lock().unwrap_or_else(PoisonError::into_inner).take().is_some();
        if self.db.audit_key().is_some_and(AuditKey::accept) || mended {
            tracing::warn!(
                component = "audit",
                "The audit log is again what this server saw before: changes are taken again"
            );
        }
    }

    async fn finding(&self, checkpoint: &str) -> Result<Option<String>, AnchorError> {
        let now = match Checkpoint::parse_and_verify(checkpoint, &self.key) {
            Ok(now) => now,
            Err(error) => return Ok(Some(format!("the head is not signed as it should be: {error}"))),
        };
        let Some(kept) = self.kept.as_deref() else { return Ok(None) };
        let before = match Checkpoint::parse_and_verify(kept, &self.key) {
            Ok(before) => before,
            Err(error) if self.is_of_another_fleet(kept) => {
                let path = self.path.display();
                tracing::warn!(component = "audit", %path, %error, "The kept audit head is of another fleet, and is replaced");
                return Ok(None);
            }
            Err(error) => return Ok(Some(format!("{} cannot be believed: {error}", self.path.display()))),
        };
        if before.origin == now.origin {
            return inconsistency(&self.db, &before, &now).await;
        }
        // A restore opens a new epoch, with a log of another name; nothing leads back to an older one.
        let epoch = |head: &Checkpoint| control_plane_audit::epoch_of(&head.origin, self.key.name());
        match (epoch(&before), epoch(&now)) {
            (Some(earlier), Some(later)) if earlier < later => across_restores(&self.db, &before, earlier, &now).await,
            (_, _) => Ok(Some(format!(
                "it is `{}`, and was `{}`: an older log was put in its place",
                now.origin, before.origin
            ))),
        }
    }

    /// A database that was made anew, beside a data directory that was not.
    fn is_of_another_fleet(&self, kept: &str) -> bool {
        Checkpoint::parse_unverified(kept)
            .is_ok_and(|before| control_plane_audit::epoch_of(&before.origin, self.key.name()).is_none())
    }
}

/// How a head of a later epoch contradicts an earlier one, if it does: the log goes on from what was restored, so what was seen must
/// lead to it, but for the end that the restore lost.
async fn across_restores(
    db: &Db,
    before: &Checkpoint,
    seen: u64,
    now: &Checkpoint,
) -> Result<Option<String>, AnchorError> {
    let filter = EventFilter::action(epoch::RESTORE);
    let events = audit_log::list(db, filter, Order::Ascending, None, MAX_RESTORES).await?;
    let restores = events.iter().filter_map(|event| Restore::of(&event.record()?));
    let Some(restored) = restores.filter(|restore| restore.epoch > seen).map(|restore| restore.sequence).min() else {
        let (now, before) = (&now.origin, &before.origin);
        return Ok(Some(format!("it is `{now}`, was `{before}`, and no event tells of a restore in between")));
    };
    if before.size > restored { Ok(None) } else { inconsistency(db, before, now).await }
}

/// How the later head contradicts the earlier one, if it does.
async fn inconsistency(db: &Db, before: &Checkpoint, now: &Checkpoint) -> Result<Option<String>, AnchorError> {
    if now.size < before.size {
        return Ok(Some(format!("it has {} events, and had {}: its end was cut off", now.size, before.size)));
    }
    let proof = match audit_log::prove_consistency(db, before.size, now.size).await {
        Ok(proof) => proof,
        Err(audit_log::ProveError::Database(error)) => return Err(error.into()),
        Err(audit_log::ProveError::Proof(error)) => return Ok(Some(format!("no proof can be made: {error}"))),
    };
    let verified = verify_consistency(before.size, &before.root, now.size, &now.root, &proof);
    Ok(verified.err().map(|error| format!("its first {} events were rewritten: {error}", before.size)))
}
