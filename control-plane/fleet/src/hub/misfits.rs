//! What agents say that does not fit the database, or that is not theirs to say.

use control_plane_store::{Actor, Error, Refusal, replay};
use proto_model::{NodeName, NodeUid};
use proto_wire::Signed;

use super::Hub;
use crate::{
    message::{Hello, RefusedPeer, RosterPosition},
    strangers::{AheadOfUs, UnknownMember},
};

impl Hub {
    /// A node said something of a transfer that is not its to say.
    pub(crate) fn refuse_report(&self, node: &NodeName, transfer: &str) {
        let refusal = Refusal {
            actor: Actor::Node(node.to_string()),
            action: "transfer.report",
            resource: transfer,
            reason: "the node does not have this role in this transfer",
            from: None,
        };
        self.0.refusals.note(refusal, "");
    }

    /// A node says that it refused what another one opened. Its word alone: so the record is its, and names the other as what it is about.
    pub(crate) fn note_refused_peer(&self, node: &NodeName, refused: &RefusedPeer) {
        let peer = format!("nodes/{}", refused.peer);
        let refusal = Refusal {
            actor: Actor::Node(node.to_string()),
            action: "transfer.refuse_peer",
            resource: &peer,
            reason: refused.reason,
            from: None,
        };
        self.0.refusals.note_many(refusal, refused.count, "");
    }

    /// An agent whose roster is newer than this database: the database was put back, and nobody opened a new epoch.
    pub(super) fn is_ahead(&self, node: NodeUid, hello: &Hello) -> bool {
        let (held, here) = (hello.roster, self.view().roster.position());
        // Before the first reading nothing can be said.
        if here == RosterPosition::default() || (held.epoch, held.sequence) <= (here.epoch, here.sequence) {
            return false;
        }
        let ahead = AheadOfUs { hostname: hello.facts.hostname.clone(), held, here };
        if self.0.strangers.ahead(node, ahead) {
            tracing::error!(
                component = "fleet",
                node = %node,
                held = format!("{}.{}", held.epoch, held.sequence),
                here = format!("{}.{}", here.epoch, here.sequence),
                "An agent holds a newer roster than this database, which was put back without a new epoch: \
                 stop the servers, and run `dwcp-control-plane open-epoch`"
            );
        }
        true
    }

    pub(super) fn remember_unknown(&self, node: NodeUid, remote: &str, hello: &Hello) {
        let hostname = hello.facts.hostname.clone();
        let (heard, from) = (self.0.clock.now(), remote.to_owned());
        let member = UnknownMember { uid: node, hostname: hostname.clone(), remote: from, heard };
        if self.0.strangers.unknown(member) {
            tracing::warn!(
                component = "fleet",
                node = %node,
                hostname,
                remote,
                "A host with a certificate of this fleet is not in its database: it joined after the backup that was restored. \
                 `dwcp token create --node NAME` lets it in again"
            );
            let reason = "the certificate is this fleet's, and the node is not in its database";
            let resource = format!("nodes/{node}");
            let refusal =
                Refusal { actor: Actor::Anonymous, action: "session.open", resource: &resource, reason, from: None };
            self.0.refusals.note(refusal, "");
        }
    }

    pub(crate) fn unknown_members(&self) -> Vec<UnknownMember> {
        self.0.strangers.unknown_members(self.0.clock.now())
    }

    pub(crate) fn agents_ahead(&self) -> Vec<AheadOfUs> {
        self.0.strangers.agents_ahead()
    }

    /// Nodes that were revoked after the backup that was restored are revoked again.
    pub(crate) async fn replay_revocations(&self, reporter: &NodeName, entries: &[Signed]) -> Result<(), Error> {
        let revoked = replay::revocations(&self.0.db, &self.0.keys, entries, reporter).await?;
        if revoked > 0 {
            tracing::warn!(component = "fleet", revoked, reporter = %reporter, "Nodes were revoked again that a restore had let in");
        }
        Ok(())
    }
}
