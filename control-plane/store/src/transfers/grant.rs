//! Accepting a transfer: its ends are looked up, the grant is made and signed, and all is stored in one transaction.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use ed25519_dalek::SigningKey;
use proto_model::{
    Epoch, FleetId, Grant, GrantParty, NodeName, NodeRef, NodeUid, PublicKey, Traceparent, TransferId, TransferRole,
    TransferSpec,
};
use proto_wire::{Signed, grant};
use sqlx::{PgConnection, Row as _};

use super::{Standing, Transfer, state_word};
use crate::{Error, Event, Tx};

/// What signs grants, and for which trust domain.
#[derive(Clone, Debug)]
pub struct Granter {
    /// The trust domain.
    pub fleet: FleetId,
    /// Counts restores.
    pub epoch: Epoch,
    /// The grant key.
    pub key: SigningKey,
}

/// A transfer that is asked for.
#[derive(Clone, Debug)]
pub struct CreateTransfer {
    /// Its id.
    pub id: TransferId,
    /// What is asked for.
    pub spec: TransferSpec,
    /// How long the grant lets it begin and go on.
    pub grant_ttl: TimeDelta,
    /// The deadline as a time from now on, where none is asked for in `spec`.
    pub time_limit: Option<TimeDelta>,
    /// Of the request.
    pub traceparent: Option<Traceparent>,
    /// Checks only.
    pub validate_only: bool,
}

/// Why a transfer is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RefuseTransfer {
    /// There is no such node.
    #[error("{node} is not in the fleet")]
    UnknownNode {
        /// At which end.
        role: TransferRole,
        /// As it was named.
        node: NodeRef,
    },
    /// The node was removed.
    #[error("{node} was removed from the fleet")]
    RevokedNode {
        /// At which end.
        role: TransferRole,
        /// As it was named.
        node: NodeRef,
    },
    /// The host has no root of that name, as far as it has said.
    #[error("{node} opens no root {root:?}: it has {known}")]
    UnknownRoot {
        /// At which end.
        role: TransferRole,
        /// Which of the source's paths.
        index: usize,
        /// The node.
        node: NodeName,
        /// The root.
        root: String,
        /// What it has.
        known: String,
    },
    /// The host does not let this root be written to.
    #[error("{node} opens the root {root:?} for reading only")]
    ReadOnlyRoot {
        /// The node.
        node: NodeName,
        /// The root.
        root: String,
    },
    /// The deadline is over.
    #[error("{deadline} is over: it is {now}")]
    DeadlinePassed {
        /// As it was asked for.
        deadline: DateTime<Utc>,
        /// By this server's clock.
        now: DateTime<Utc>,
    },
    /// The deadline is after the end of the grant.
    #[error("is after the end of the grant ({0}), after which the transfer cannot go on")]
    DeadlineAfterGrant(DateTime<Utc>),
    /// It has to be connected, and is not.
    #[error("{node} is not connected")]
    Away {
        /// The node.
        node: NodeName,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] Error),
}

/// A node at one end.
#[derive(Clone, Debug)]
pub(crate) struct Party {
    pub(crate) uid: NodeUid,
    pub(crate) name: NodeName,
    pub(crate) key: PublicKey,
    pub(crate) connected: bool,
    roots: Vec<String>,
}

/// A transfer that was accepted, or would be.
#[derive(Clone, Debug, PartialEq)]
pub struct Accepted {
    /// The transfer.
    pub transfer: Transfer,
    /// Its ends that are not connected at present, by name.
    pub away: Vec<NodeName>,
}

/// Accepts a transfer.
///
/// # Errors
/// [`RefuseTransfer`]; nothing is stored then.
pub async fn create(tx: &mut Tx, mut request: CreateTransfer, granter: &Granter) -> Result<Accepted, RefuseTransfer> {
    let source = find_party(tx.connection(), TransferRole::Sender, &request.spec.source_node).await?;
    let destination = find_party(tx.connection(), TransferRole::Receiver, &request.spec.destination_node).await?;
    check_roots(&request.spec, &source, &destination)?;
    let now = tx.now();
    let not_after = now + request.grant_ttl;
    request.spec.options.deadline = deadline(&request, now, not_after)?;
    let grant = Grant {
        fleet: granter.fleet,
        epoch: granter.epoch,
        transfer: request.id,
        source: GrantParty { uid: source.uid, key: source.key },
        destination: GrantParty { uid: destination.uid, key: destination.key },
        source_paths: request.spec.source_paths.clone(),
        destination_path: request.spec.destination_path.clone(),
        options: request.spec.options.clone(),
        not_before: now,
        not_after,
    };
    let away = [&source, &destination].into_iter().filter(|party| !party.connected).map(|party| party.name.clone());
    let mut accepted =
        Accepted { transfer: accepted(&request, &source, &destination, tx, not_after), away: away.collect() };
    accepted.away.dedup();
    if request.validate_only {
        tx.discard();
        return Ok(accepted);
    }
    let signed = grant::sign(&granter.key, &grant);
    let transfer = &mut accepted.transfer;
    transfer.revision = tx.next_revision().await?;
    transfer.create_revision = transfer.revision;
    insert(tx.connection(), transfer, &signed, request.traceparent.as_ref()).await?;
    let (from, to) = (transfer.source_name.resource_name(), transfer.destination_name.resource_name());
    let paths: Vec<String> = transfer.spec.source_paths.iter().map(ToString::to_string).collect();
    let event = Event::new("transfer.create", transfer.id.resource_name()).with("source", from).with("destination", to);
    let event = event.with("sourcePaths", paths).with("destinationPath", transfer.spec.destination_path.to_string());
    let event = event.with("delete", transfer.spec.options.delete).with("dryRun", transfer.spec.options.dry_run);
    let event = event.with("grantExpireTime", not_after.to_rfc3339());
    let deadline = transfer.spec.options.deadline;
    tx.audit(match deadline {
        Some(deadline) => event.with("deadline", deadline.to_rfc3339()),
        None => event,
    });
    Ok(accepted)
}

fn deadline(
    request: &CreateTransfer,
    now: DateTime<Utc>,
    not_after: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, RefuseTransfer> {
    let limit = request.time_limit.map(|limit| (now + limit).trunc_subsecs(3));
    let Some(deadline) = limit.or(request.spec.options.deadline) else { return Ok(None) };
    match deadline {
        passed if passed <= now => Err(RefuseTransfer::DeadlinePassed { deadline, now }),
        late if late > not_after => Err(RefuseTransfer::DeadlineAfterGrant(not_after)),
        _ => Ok(Some(deadline)),
    }
}

fn accepted(
    request: &CreateTransfer,
    source: &Party,
    destination: &Party,
    tx: &Tx,
    grant_expire_time: DateTime<Utc>,
) -> Transfer {
    let now = tx.now();
    Transfer {
        id: request.id,
        spec: TransferSpec {
            source_node: source.name.clone().into(),
            destination_node: destination.name.clone().into(),
            ..request.spec.clone()
        },
        source: source.uid,
        destination: destination.uid,
        source_name: source.name.clone(),
        destination_name: destination.name.clone(),
        standing: Standing::accepted(),
        sender: None,
        receiver: None,
        created_by: tx.context().actor.to_string(),
        trace_id: request
            .traceparent
            .as_ref()
            .map_or_else(String::new, |traceparent| traceparent.trace_id().to_owned()),
        grant_expire_time,
        create_time: now,
        update_time: now,
        revision: proto_model::Revision::default(),
        create_revision: proto_model::Revision::default(),
    }
}

async fn insert(
    connection: &mut PgConnection,
    transfer: &Transfer,
    grant: &Signed,
    traceparent: Option<&Traceparent>,
) -> Result<(), Error> {
    let spec = proto_rpc::v1::TransferSpec::from(transfer.spec.clone());
    sqlx::query(
        "INSERT INTO transfers (id, source, destination, source_paths, destination_path, delete_extraneous, exclude, \
         checksum, dry_run, max_bytes, state, created_by, trace_id, traceparent, grant_payload, grant_signature, \
         grant_expire_time, create_time, update_time, create_revision, job_revision, revision, deadline) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $18, $19, $19, $19, $20)",
    )
    .bind(transfer.id.uuid())
    .bind(transfer.source.uuid())
    .bind(transfer.destination.uuid())
    .bind(spec.source_paths)
    .bind(spec.destination_path)
    .bind(spec.delete)
    .bind(spec.exclude)
    .bind(spec.checksum)
    .bind(spec.dry_run)
    .bind(spec.max_bytes.cast_signed())
    .bind(state_word(transfer.standing.state))
    .bind(&transfer.created_by)
    .bind(&transfer.trace_id)
    .bind(traceparent.map_or("", Traceparent::as_str))
    .bind(&grant.payload)
    .bind(grant.signature.as_slice())
    .bind(transfer.grant_expire_time)
    .bind(transfer.create_time)
    .bind(transfer.revision.value().cast_signed())
    .bind(transfer.spec.options.deadline)
    .execute(connection)
    .await?;
    Ok(())
}

/// Finds an end; its row may not be revoked until the transaction is over.
pub(crate) async fn find_party(
    connection: &mut PgConnection,
    role: TransferRole,
    node: &NodeRef,
) -> Result<Party, RefuseTransfer> {
    let (uid, id, name) = match node {
        NodeRef::Uid(uid) => (Some(uid.uuid()), None, None),
        NodeRef::Id(id) => (None, Some(id.as_bytes().to_vec()), None),
        NodeRef::Name(name) => (None, None, Some(name.as_str())),
    };
    // A name may have been given to another node: the one that holds it first.
    let row = sqlx::query(
        "SELECT uid, name, public_key, connected, facts, revoke_time FROM nodes \
         WHERE uid = $1 OR node_id = $2 OR name = $3 ORDER BY revoke_time IS NOT NULL, create_time DESC LIMIT 1 FOR SHARE",
    )
    .bind(uid)
    .bind(id)
    .bind(name)
    .fetch_optional(connection)
    .await
    .map_err(Error::from)?;
    let Some(row) = row else { return Err(RefuseTransfer::UnknownNode { role, node: node.clone() }) };
    let (party, revoked) = read_party(&row)?;
    if revoked { Err(RefuseTransfer::RevokedNode { role, node: node.clone() }) } else { Ok(party) }
}

fn read_party(row: &sqlx::postgres::PgRow) -> Result<(Party, bool), Error> {
    let damaged = || Error::Damaged("node");
    let key: &[u8] = row.try_get("public_key")?;
    let facts: &[u8] = row.try_get("facts")?;
    let facts = <proto_rpc::agent::HostFacts as prost::Message>::decode(facts).map_err(|_bytes| damaged())?;
    let party = Party {
        uid: NodeUid::new(row.try_get("uid")?),
        name: row.try_get::<String, _>("name")?.parse().map_err(|_bad| damaged())?,
        key: PublicKey::try_from(key).map_err(|_bad| damaged())?,
        connected: row.try_get("connected")?,
        roots: facts.roots,
    };
    Ok((party, row.try_get::<Option<DateTime<Utc>>, _>("revoke_time")?.is_some()))
}

/// The roots that a host has said it opens. Of a host that is away this may be old: it is asked only while it is connected, and in any
/// case the host decides.
pub(crate) fn check_roots(spec: &TransferSpec, source: &Party, destination: &Party) -> Result<(), RefuseTransfer> {
    for (index, path) in spec.source_paths.iter().enumerate() {
        source.check_root(TransferRole::Sender, index, path.root.as_str())?;
    }
    let root = spec.destination_path.root.as_str();
    destination.check_root(TransferRole::Receiver, 0, root)?;
    if destination.connected && destination.roots.iter().any(|known| known.strip_suffix(":ro") == Some(root)) {
        return Err(RefuseTransfer::ReadOnlyRoot { node: destination.name.clone(), root: root.to_owned() });
    }
    Ok(())
}

impl Party {
    fn check_root(&self, role: TransferRole, index: usize, root: &str) -> Result<(), RefuseTransfer> {
        let opens = self.roots.iter().any(|known| known.strip_suffix(":ro").unwrap_or(known) == root);
        if opens || !self.connected {
            return Ok(());
        }
        let known = if self.roots.is_empty() { "none".to_owned() } else { self.roots.join(", ") };
        Err(RefuseTransfer::UnknownRoot { role, index, node: self.name.clone(), root: root.to_owned(), known })
    }
}
