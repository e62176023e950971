//! Follows the roster for those who are out: their handshakes are refused from then on, their connections cut.

use std::collections::HashSet;

use control_plane_store::{Db, Error, roster};
use foundation_runtime::{OnEnd, TaskGroup};
use prost::Message as _;
use proto_model::RosterSequence;
use proto_rpc::agent;
use uuid::Uuid;

use crate::{connections::NodeConnections, tls::Revoked};

/// Entries that are read at once.
const PAGE: u32 = 1000;

/// Reads the roster as far as it is now, and goes on reading with every bell.
///
/// # Errors
/// The database failed.
pub(crate) async fn follow(
    db: &Db,
    revoked: Revoked,
    connections: NodeConnections,
    tasks: &TaskGroup,
) -> Result<(), Error> {
    let mut follower =
        Follower { db: db.clone(), revoked, connections, seen: RosterSequence::new(0), out: HashSet::new() };
    // Before the first handshake: nobody who is out gets in, not even for a moment.
    let mut bell = db.bell();
    follower.catch_up().await?;
    let token = tasks.token().clone();
    tasks.spawn("revocations", OnEnd::Fatal, async move {
        let following = async {
            while bell.changed().await.is_ok() {
                if let Err(error) = follower.catch_up().await {
                    tracing::debug!(component = "server", %error, "The roster could not be read; the next bell tries again");
                }
            }
        };
        token.run_until_cancelled(Box::pin(following)).await;
    });
    Ok(())
}

struct Follower {
    db: Db,
    revoked: Revoked,
    connections: NodeConnections,
    seen: RosterSequence,
    out: HashSet<Uuid>,
}

impl Follower {
    async fn catch_up(&mut self) -> Result<(), Error> {
        let mut changed = false;
        loop {
            let page = roster::entries_after(&self.db, self.seen, PAGE).await?;
            let Some(last) = page.last() else { break };
            self.seen = last.sequence;
            changed |= page.iter().map(|entry| self.enter(&entry.signed.payload)).fold(false, |any, one| any | one);
        }
        if changed {
            self.revoked.replace(self.out.clone());
            self.connections.cut_where(|uid| self.out.contains(&uid));
        }
        Ok(())
    }

    /// Whether the entry changed who is out. Our own signature on it needs no check.
    fn enter(&mut self, payload: &[u8]) -> bool {
        let parsed = agent::RosterEntry::decode(payload)
            .ok()
            .and_then(|entry| Some((Uuid::parse_str(&entry.uid).ok()?, entry.revoked)));
        match parsed {
            Some((uid, true)) => self.out.insert(uid),
            Some((uid, false)) => self.out.remove(&uid),
            None => {
                tracing::error!(component = "server", "A stored roster entry cannot be read");
                false
            }
        }
    }
}
