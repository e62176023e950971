//! Accepting a sync: its ends are looked up, the standing grant is made and signed, and all is stored in one transaction.

use chrono::{SubsecRound as _, TimeDelta};
use prost::Message;
use proto_model::{
    ConfigName, GrantParty, NodeRef, RelPath, Revision, RootPath, SyncId, SyncName, SyncSpec, SyncStatus, TransferRole,
    TransferSpec,
};
use proto_wire::Signed;

use super::{GRANT_TTL, Numbers, Sync, change::of_config, sign};
use crate::{
    Error, Event, Tx,
    transfers::{Granter, Party, RefuseTransfer, check_roots, find_party},
};

/// The advisory lock of who accepts a sync: "dwcpsync".
const CREATING: i64 = i64::from_be_bytes(*b"dwcpsync");

/// A sync that is asked for.
#[derive(Clone, Debug)]
pub struct CreateSync {
    /// Its id.
    pub id: SyncId,
    /// Its name.
    pub name: SyncName,
    /// What is asked for.
    pub spec: SyncSpec,
    /// Whether the first run may replace and delete what it finds.
    pub adopt: bool,
    /// Checks only.
    pub validate_only: bool,
}

/// How many syncs there are at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of a fleet: each report of one is a row's update, and each agent is told all of its own at once.
    pub fleet: u32,
    /// Of which one node is an end: what its agent looks through and keeps on disk.
    pub node: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { fleet: 10_000, node: 256 }
    }
}

/// Why a sync is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RefuseSync {
    /// Another has the name.
    #[error("there is a sync of this name")]
    NameTaken,
    /// It names ends or paths that cannot be.
    #[error(transparent)]
    Ends(#[from] RefuseTransfer),
    /// There are as many as a fleet has.
    #[error("limits.syncs: there are {0} syncs already")]
    TooMany(u32),
    /// A node has as many as one has.
    #[error("limits.syncs_of_a_node: {0} is an end of {1} syncs already")]
    TooManyOfNode(NodeRef, u32),
    /// The destination is that of another sync, or lies within it.
    #[error("{0} keeps this destination in step already")]
    DestinationTaken(SyncName),
}

impl From<Error> for RefuseSync {
    fn from(error: Error) -> Self {
        Self::Ends(RefuseTransfer::Database(error))
    }
}

/// Accepts a sync.
///
/// # Errors
/// [`RefuseSync`]; nothing is stored then.
pub async fn create(tx: &mut Tx, request: CreateSync, bounds: Bounds, granter: &Granter) -> Result<Sync, RefuseSync> {
    one_at_a_time(tx).await?;
    let ends = ends(tx, &request.spec).await?;
    check_room(tx, &request, &ends, bounds).await?;
    let validate_only = request.validate_only;
    let mut sync = new(tx, request, &ends, None, granter);
    if validate_only {
        tx.discard();
        return Ok(sync);
    }
    store(tx, &mut sync, &ends, granter).await?;
    Ok(sync)
}

/// Who sends and who receives: they are there, and have the roots.
pub(super) async fn ends(tx: &mut Tx, spec: &SyncSpec) -> Result<[Party; 2], RefuseSync> {
    let source = find_party(tx.connection(), TransferRole::Sender, &spec.source_node).await?;
    let destination = find_party(tx.connection(), TransferRole::Receiver, &spec.destination_node).await?;
    let as_transfer = TransferSpec {
        source_node: spec.source_node.clone(),
        source_paths: vec![spec.source_path.clone()],
        destination_node: spec.destination_node.clone(),
        destination_path: spec.destination_path.clone(),
        options: spec.options(),
    };
    check_roots(&as_transfer, &source, &destination)?;
    Ok([source, destination])
}

/// A sync that was not there before.
pub(super) fn new(
    tx: &Tx,
    request: CreateSync,
    [source, destination]: &[Party; 2],
    config: Option<ConfigName>,
    granter: &Granter,
) -> Sync {
    let now = tx.now();
    Sync {
        id: request.id,
        name: request.name,
        spec: SyncSpec {
            source_node: source.name.clone().into(),
            destination_node: destination.name.clone().into(),
            ..request.spec
        },
        ends: [source.uid, destination.uid],
        end_names: [source.name.clone(), destination.name.clone()],
        is_cut: false,
        pause: None,
        delete_time: None,
        status: SyncStatus::default(),
        version: 1,
        config,
        created_by: tx.context().actor.to_string(),
        create_time: now,
        update_time: now,
        grant_expire_time: (now + GRANT_TTL).trunc_subsecs(3) + TimeDelta::milliseconds(1),
        create_revision: Revision::default(),
        revision: Revision::default(),
        grant: Numbers {
            epoch: granter.epoch,
            serial: 1,
            overwrite: u64::from(request.adopt),
            run_request: 0,
            audited_run: 0,
        },
    }
}

/// Signs its grant and stores it.
pub(super) async fn store(
    tx: &mut Tx,
    sync: &mut Sync,
    [source, destination]: &[Party; 2],
    granter: &Granter,
) -> Result<(), Error> {
    let parties =
        [GrantParty { uid: source.uid, key: source.key }, GrantParty { uid: destination.uid, key: destination.key }];
    let signed = sign(sync, parties, granter, tx.now());
    sync.revision = tx.next_revision().await?;
    sync.create_revision = sync.revision;
    insert(tx, sync, &signed).await?;
    let event = Event::new("sync.create", sync.name.resource_name())
        .with("uid", sync.id.to_string())
        .with("source", sync.end_names[0].resource_name())
        .with("destination", sync.end_names[1].resource_name())
        .with("sourcePath", sync.spec.source_path.to_string())
        .with("destinationPath", sync.spec.destination_path.to_string())
        .with("everySeconds", sync.spec.every.as_secs())
        .with("adopt", sync.grant.overwrite > 0)
        .with("grantExpireTime", sync.grant_expire_time.to_rfc3339());
    tx.audit(of_config(event, sync));
    Ok(())
}

/// What is looked for before a sync is accepted (its name, its place, how many there are) is seen by no other that is accepted at once, also by another
/// server.
pub(super) async fn one_at_a_time(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(CREATING).execute(tx.connection()).await?;
    Ok(())
}

/// Looks whether there is room: for its name, for one more, and at its destination.
pub(super) async fn check_room(
    tx: &mut Tx,
    request: &CreateSync,
    parties: &[Party; 2],
    bounds: Bounds,
) -> Result<(), RefuseSync> {
    let ends = [parties[0].uid.uuid(), parties[1].uid.uuid()];
    let taken: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM syncs WHERE name = $1 AND delete_time IS NULL)")
        .bind(request.name.as_str())
        .fetch_one(tx.connection())
        .await
        .map_err(Error::from)?;
    if taken {
        return Err(RefuseSync::NameTaken);
    }
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM syncs WHERE delete_time IS NULL")
        .fetch_one(tx.connection())
        .await
        .map_err(Error::from)?;
    if count >= i64::from(bounds.fleet) {
        return Err(RefuseSync::TooMany(bounds.fleet));
    }
    for (end, node) in ends.into_iter().zip([&request.spec.source_node, &request.spec.destination_node]) {
        let count = "SELECT count(*) FROM syncs WHERE delete_time IS NULL AND (source = $1 OR destination = $1)";
        let count: i64 = sqlx::query_scalar(count).bind(end).fetch_one(tx.connection()).await.map_err(Error::from)?;
        if count >= i64::from(bounds.node) {
            return Err(RefuseSync::TooManyOfNode(node.clone(), bounds.node));
        }
    }
    // Two that write to one place would delete each other's files.
    let of_node: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT name, source_path, destination_path FROM syncs WHERE delete_time IS NULL AND destination = $1",
    )
    .bind(ends[1])
    .fetch_all(tx.connection())
    .await
    .map_err(Error::from)?;
    let wanted = lands_in(&request.spec.source_path, &request.spec.destination_path);
    for (name, source, destination) in of_node {
        let (Ok(source), Ok(destination)) = (source.parse(), destination.parse()) else { continue };
        let there = lands_in(&source, &destination);
        if there.root == wanted.root && (there.path.is_within(&wanted.path) || wanted.path.is_within(&there.path)) {
            return Err(RefuseSync::DestinationTaken(name.parse().map_err(|_bad| Error::Damaged("sync"))?));
        }
    }
    Ok(())
}

/// What a sync writes to: a source with a trailing slash is its contents.
fn lands_in(source: &RootPath, destination: &RootPath) -> RootPath {
    let name = source.path.file_name().filter(|_| !source.trailing_slash);
    let below = name.and_then(|name| RelPath::from_bytes(name).ok());
    let path = below.and_then(|below| destination.path.join(&below).ok());
    RootPath { path: path.unwrap_or_else(|| destination.path.clone()), ..destination.clone() }
}

async fn insert(tx: &mut Tx, sync: &Sync, signed: &Signed) -> Result<(), Error> {
    let spec = proto_rpc::v1::SyncSpec::from(sync.spec.clone());
    let every = i64::try_from(sync.spec.every.as_millis()).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO syncs (id, name, source, destination, source_path, destination_path, every_ms, exclude, checksum, \
         grant_payload, grant_signature, grant_epoch, grant_serial, grant_expire_time, overwrite_order, run_request, status, \
         audited_run, version, created_by, create_time, update_time, create_revision, job_revision, revision, config) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 0, $16, 0, 1, $17, $18, $18, $19, $19, $19, $20)",
    )
    .bind(sync.id.uuid())
    .bind(sync.name.as_str())
    .bind(sync.ends[0].uuid())
    .bind(sync.ends[1].uuid())
    .bind(spec.source_path)
    .bind(spec.destination_path)
    .bind(every)
    .bind(spec.exclude)
    .bind(spec.checksum)
    .bind(&signed.payload)
    .bind(signed.signature.as_slice())
    .bind(sync.grant.epoch.value().cast_signed())
    .bind(sync.grant.serial.cast_signed())
    .bind(sync.grant_expire_time)
    .bind(sync.grant.overwrite.cast_signed())
    .bind(proto_rpc::v1::SyncStatus::default().encode_to_vec())
    .bind(&sync.created_by)
    .bind(sync.create_time)
    .bind(sync.revision.value().cast_signed())
    .bind(sync.config.as_ref().map(ConfigName::id))
    .execute(tx.connection())
    .await?;
    Ok(())
}
