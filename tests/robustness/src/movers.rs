//! Changed trees go from host to host all the time, in both directions.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use proto_rpc::v1::{self, transfer::State};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tests_harness::digest_tree;

use crate::{
    files::change_tree,
    operators::{Operators, WriteKind},
};

const LOOK_AGAIN: Duration = Duration::from_millis(150);
/// A transfer that does not end although everything runs again is lost.
const LIMIT: Duration = Duration::from_secs(180);

/// One direction.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    /// The sender's name, and the folder it reads.
    pub from: (String, PathBuf),
    /// The receiver's name, and the folder it writes.
    pub to: (String, PathBuf),
    /// The folder's name below each root.
    pub folder: String,
}

/// A transfer that has ended.
#[derive(Clone, Debug)]
pub struct Moved {
    /// `transfers/…`.
    pub name: String,
    /// Bytes that were new in the tree.
    pub fresh: u64,
    /// Bytes that the sender handed to its transport, in all attempts.
    pub sent: u64,
    /// How often one of its ends was killed meanwhile.
    pub kills: u32,
}

impl Moved {
    /// Bytes that travelled more than once.
    #[must_use]
    pub fn again(&self) -> u64 {
        self.sent.saturating_sub(self.fresh)
    }
}

/// Asks for transfers, and compares trees when they have ended.
#[derive(Debug)]
pub struct Movers {
    operators: Arc<Operators>,
    moved: Mutex<Vec<Moved>>,
    large: usize,
}

impl Movers {
    /// With large files of about so many bytes.
    #[must_use]
    pub fn new(operators: Arc<Operators>, large: usize) -> Self {
        Self { operators, moved: Mutex::default(), large }
    }

    /// What was moved so far.
    #[must_use]
    pub fn moved(&self) -> Vec<Moved> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves along a lane until all is over.
    pub(crate) fn move_on(&self, number: u64, lane: &Lane, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed ^ (number << 40));
        while let Some(busy) = self.operators.turn() {
            if let Err(error) = self.once(lane, &mut random) {
                self.operators.history().violation(format!("{} to {}: {error:#}", lane.from.0, lane.to.0));
            }
            drop(busy);
            thread::sleep(Duration::from_millis(random.random_range(10..200)));
        }
    }

    fn once(&self, lane: &Lane, random: &mut StdRng) -> anyhow::Result<()> {
        let fresh = change_tree(&lane.from.1, self.large, random)?;
        let end = |node: &str| (format!("nodes/{node}"), format!("data:/{}/", lane.folder));
        let kind = WriteKind::Transfer { from: end(&lane.from.0), to: end(&lane.to.0) };
        let begun = self.operators.history().elapsed();
        // One that is unknown would begin while its tree changes.
        let Some(name) = self.operators.write(kind, false, random) else { return Ok(()) };
        let ended = self.ended(&name)?;
        let history = self.operators.history();
        let progress = ended.progress.unwrap_or_default();
        let kills = history.killed_since(begun, &[&lane.from.0, &lane.to.0]);
        history.note(
            "transfer",
            json!({"name": name, "state": ended.state, "fresh": fresh, "sent": progress.bytes_sent, "kills": kills}),
        );
        anyhow::ensure!(
            ended.state == i32::from(State::Succeeded),
            "{name} ended {:?}: {:?} {:?}",
            ended.state(),
            ended.error,
            ended.issues
        );
        let (source, target) = (digest_tree(&lane.from.1)?, digest_tree(&lane.to.1)?);
        anyhow::ensure!(source == target, "{name} SUCCEEDED, and the trees differ");
        let moved = Moved { name, fresh, sent: progress.bytes_sent, kills };
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).push(moved);
        Ok(())
    }

    fn ended(&self, name: &str) -> anyhow::Result<v1::Transfer> {
        let history = self.operators.history();
        let begun = history.elapsed();
        let mut last = None;
        for server in 0.. {
            let request = v1::GetTransferRequest { name: name.to_owned() };
            let api = self.operators.api(server);
            match self.operators.ask(async { api.transfers().get_transfer(request).await }) {
                Ok(found) if found.end_time.is_some() => return Ok(found),
                Ok(found) => last = Some(found),
                Err(status) if status.code() == tonic::Code::NotFound => {
                    anyhow::bail!("{name} was acknowledged and is not there")
                }
                Err(_away) => {}
            }
            let patient = history.elapsed() < begun + LIMIT && !self.operators.stopped.load(SeqCst);
            anyhow::ensure!(patient, "{name} does not end: {last:?}");
            thread::sleep(LOOK_AGAIN);
        }
        anyhow::bail!("never")
    }
}
