//! What the hub reads from the tables, from the marks that it keeps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane_store::{Error, audit_log, benches, configs, roster as entries, servers, syncs, transfers};
use proto_model::{Revision, RosterSequence};
use proto_wire::roster::open_entry;

use super::{Head, Hub, View};
use crate::{
    message::{RosterPosition, SessionEnd},
    outbox::Kind,
    roster::{Member, Roster},
    snapshot::{SnapshotLayer, Snapshots, Stored},
};

/// The newest audit head is sent to agents at most so often: an agent that is a witness every ten seconds leaves no gap that matters,
/// and a busy log costs each agent six messages a minute.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Roster entries that are read at a time.
const ROSTER_PAGE: u32 = 5_000;

/// What [`Hub::refresh`] reads.
#[derive(Clone, Copy, Debug)]
enum Part {
    Roster,
    Configs,
    Jobs,
    Benches,
    Syncs,
    Ring,
    Checkpoint,
}

/// How far [`Hub::refresh`] has read.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    configs: Option<proto_model::Generation>,
    jobs: Option<Revision>,
    benches: Option<Revision>,
    syncs: Option<Revision>,
    checkpoint_at: Option<Instant>,
}

impl Hub {
    /// Reads what stands after the marks and tells whom it concerns. A row that cannot be read keeps nothing else back.
    pub(crate) async fn refresh(&self, marks: &mut Marks) -> Result<(), Error> {
        let mut first = Ok(());
        for part in [Part::Roster, Part::Configs, Part::Jobs, Part::Benches, Part::Syncs, Part::Ring, Part::Checkpoint]
        {
            let read = match part {
                Part::Roster => self.refresh_roster().await,
                Part::Configs => self.refresh_configs(marks).await,
                Part::Jobs => self.refresh_jobs(marks).await,
                Part::Benches => self.refresh_benches(marks).await,
                Part::Syncs => self.refresh_syncs(marks).await,
                Part::Ring => self.refresh_ring().await,
                Part::Checkpoint => self.refresh_checkpoint(marks).await,
            };
            match read {
                Err(error) if error.is_temporary() => return Err(error),
                read => first = first.and(read),
            }
        }
        first
    }

    pub(super) async fn refresh_roster(&self) -> Result<(), Error> {
        let _reading = self.0.reading_roster.lock().await;
        let held = self.view().roster;
        let position = held.position();
        let epoch = self.0.keys.epoch();
        let mut head = entries::head(&self.0.db, epoch, self.0.clock.utc()).await?;
        if (head.epoch, head.sequence) == (position.epoch, position.sequence) {
            return Ok(());
        }
        let mut roster = Roster::clone(&held);
        let mut revoked = Vec::new();
        // A head is signed for just what stands in the roster: when more came while it was read, again.
        while roster.position() != (RosterPosition { epoch, sequence: head.sequence }) {
            let held = roster.position();
            let after = if held.epoch == epoch { held.sequence } else { RosterSequence::default() };
            let page = entries::entries_after(&self.0.db, after, ROSTER_PAGE).await?;
            if page.is_empty() {
                break;
            }
            revoked.extend(roster.apply(epoch, page.into_iter().filter_map(|entry| self.member(entry)).collect()));
            head = entries::head(&self.0.db, epoch, self.0.clock.utc()).await?;
        }
        roster.set_head(entries::sign_head(&self.0.keys, head));
        let roster = Arc::new(roster);
        self.replace(|view| view.roster = Arc::clone(&roster));
        for node in revoked {
            self.cut(node, SessionEnd::Revoked);
        }
        self.mark_all(Kind::Roster);
        Ok(())
    }

    /// An entry as agents will read it; one that this fleet's key did not sign is left out.
    fn member(&self, entry: entries::SignedEntry) -> Option<Member> {
        match open_entry(&self.0.keys.roster().verifying_key(), &entry.signed) {
            Ok(opened) => Some(Member {
                sequence: entry.sequence,
                uid: opened.uid,
                revoked: opened.revoked,
                signed: Arc::new(entry.signed),
            }),
            Err(error) => {
                tracing::error!(sequence = %entry.sequence, error = %error, "A stored roster entry is not what was signed");
                None
            }
        }
    }

    async fn refresh_configs(&self, marks: &mut Marks) -> Result<(), Error> {
        if marks.configs == Some(configs::newest_generation(&self.0.db).await?) {
            return Ok(());
        }
        let (stored, generation) = configs::all(&self.0.db).await?;
        let stored = stored.into_iter().map(|config| Stored {
            generation: config.generation,
            layer: config.live.then(|| SnapshotLayer {
                name: config.name.clone(),
                revision: config.revision,
                document: config.document.into(),
            }),
            name: config.name,
        });
        let snapshots = Arc::new(Snapshots::build(stored.collect()));
        self.replace(|view| view.snapshots = Arc::clone(&snapshots));
        marks.configs = Some(generation);
        self.mark_all(Kind::Desired);
        Ok(())
    }

    async fn refresh_jobs(&self, marks: &mut Marks) -> Result<(), Error> {
        let (nodes, revision) = transfers::nodes_with_new_jobs(&self.0.db, marks.jobs).await?;
        marks.jobs = Some(revision);
        let sessions = self.sessions();
        for session in nodes.iter().filter_map(|node| sessions.get(node)) {
            session.outbox.mark(Kind::Jobs);
        }
        Ok(())
    }

    async fn refresh_benches(&self, marks: &mut Marks) -> Result<(), Error> {
        let (nodes, revision) = benches::nodes_with_new_jobs(&self.0.db, marks.benches).await?;
        marks.benches = Some(revision);
        let sessions = self.sessions();
        for session in nodes.iter().filter_map(|node| sessions.get(node)) {
            session.outbox.mark(Kind::Benches);
        }
        Ok(())
    }

    async fn refresh_syncs(&self, marks: &mut Marks) -> Result<(), Error> {
        let (nodes, revision) = syncs::nodes_with_new_jobs(&self.0.db, marks.syncs).await?;
        marks.syncs = Some(revision);
        let sessions = self.sessions();
        for session in nodes.iter().filter_map(|node| sessions.get(node)) {
            session.outbox.mark(Kind::Syncs);
        }
        Ok(())
    }

    async fn refresh_ring(&self) -> Result<(), Error> {
        let ring: Arc<[String]> = servers::ring(&self.0.db).await?.into();
        if ring != self.view().ring {
            self.replace(|view| view.ring = Arc::clone(&ring));
            self.mark_all(Kind::Ring);
        }
        Ok(())
    }

    async fn refresh_checkpoint(&self, marks: &mut Marks) -> Result<(), Error> {
        let now = self.0.clock.now();
        if marks.checkpoint_at.is_some_and(|at| now.saturating_duration_since(at) < CHECKPOINT_INTERVAL) {
            return Ok(());
        }
        let Some(head) = audit_log::head(&self.0.db).await? else { return Ok(()) };
        // Not the size alone: a log that was rewritten may be as long as it was.
        if self.view().checkpoint.is_none_or(|held| *held.text != *head.checkpoint) {
            let head = Head { size: head.size, text: head.checkpoint.into() };
            self.replace(|view| view.checkpoint = Some(head.clone()));
            marks.checkpoint_at = Some(now);
            self.mark_all(Kind::Checkpoint);
        }
        Ok(())
    }

    fn replace(&self, change: impl Fn(&mut View)) {
        self.0.view.rcu(|view| {
            let mut view = View::clone(view);
            change(&mut view);
            view
        });
    }
}
