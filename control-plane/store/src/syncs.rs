//! Standing syncs: desired state with a standing grant (D16), and what their senders say of their runs.
//!
//! What an operator decides, and each renewal of a grant, is one audit record in the same transaction; ends of runs are one for each report that
//! brings any. A deleted sync stays as a row until its grant is over, so that watches see it go.

mod change;
mod configured;
mod create;
mod list;
mod report;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use prost::Message;
use proto_model::{
    ConfigName, Epoch, Etag, Glob, Grant, GrantParty, NodeName, NodeUid, Revision, RootPath, SyncGrant, SyncId,
    SyncName, SyncSpec, SyncState, SyncStatus, TransferId,
};
use proto_wire::{Signed, sync};
use sqlx::{PgConnection, Row, postgres::PgRow};

pub use change::{CannotChange, Order, change, delete, renew};
pub(crate) use change::{cut, lock_of_node};
pub use configured::{Configured, RefuseConfigured, configure, has_configured};
pub use create::{Bounds, CreateSync, RefuseSync, create};
pub use list::{SyncFilter, SyncJob, changed, jobs, nodes_with_new_jobs, page, states};
pub use report::report;

use crate::{
    Db, Error,
    transfers::{Granter, Pause},
};

/// How long a standing grant holds: syncs go on for so long without a control plane.
pub const GRANT_TTL: TimeDelta = TimeDelta::days(30);
/// A grant that holds for less than this is renewed: ten days before, a control plane that is away for a week and a half costs no run.
pub const RENEW_BEFORE: TimeDelta = TimeDelta::days(20);

/// A sync as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sync {
    /// Its id.
    pub id: SyncId,
    /// Its name.
    pub name: SyncName,
    /// What is asked for.
    pub spec: SyncSpec,
    /// Who sends, and who receives.
    pub ends: [NodeUid; 2],
    /// Their present names.
    pub end_names: [NodeName; 2],
    /// Whether one of them was removed from the fleet.
    pub is_cut: bool,
    /// Who holds it.
    pub pause: Option<Pause>,
    /// When it was deleted.
    pub delete_time: Option<DateTime<Utc>>,
    /// What its sender last said.
    pub status: SyncStatus,
    /// Grows with each change of what is desired.
    pub version: u64,
    /// The configuration that asks for it, and alone changes and deletes it; none where somebody made it by hand.
    pub config: Option<ConfigName>,
    /// Who asked for it.
    pub created_by: String,
    /// When it was accepted.
    pub create_time: DateTime<Utc>,
    /// When it last changed.
    pub update_time: DateTime<Utc>,
    /// Until when its grant holds.
    pub grant_expire_time: DateTime<Utc>,
    /// At which it appeared.
    pub create_revision: Revision,
    /// Of its last change.
    pub revision: Revision,
    /// Of its grant.
    grant: Numbers,
}

/// The numbers of a sync's standing grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    epoch: Epoch,
    serial: u64,
    overwrite: u64,
    run_request: u64,
    audited_run: u64,
}

impl Sync {
    /// Which state of it a caller saw: grows with what is desired, not with reports.
    #[must_use]
    pub fn etag(&self) -> Etag {
        Etag::of_number(self.version)
    }

    /// How many runs were asked for.
    #[must_use]
    pub fn run_request(&self) -> u64 {
        self.grant.run_request
    }

    /// How it is, as it is shown.
    #[must_use]
    pub fn state(&self, now: DateTime<Utc>) -> SyncState {
        match &self.pause {
            _ if self.is_cut || self.grant_expire_time <= now => SyncState::Ended,
            Some(_) => SyncState::Paused,
            None => self.status.state(),
        }
    }

    /// For how long the destination may have been behind.
    #[must_use]
    pub fn lag(&self, now: DateTime<Utc>) -> Duration {
        (now - self.status.last_success_time.unwrap_or(self.create_time)).to_std().unwrap_or_default()
    }
}

/// All that a [`Sync`] is read from.
macro_rules! select_syncs {
    ($rest:literal) => {
        concat!(
            "SELECT y.*, s.name AS source_name, d.name AS destination_name, \
             s.revoke_time IS NOT NULL OR d.revoke_time IS NOT NULL AS cut \
             FROM syncs y JOIN nodes s ON s.uid = y.source JOIN nodes d ON d.uid = y.destination ",
            $rest
        )
    };
}
use select_syncs;

/// The sync that has this name now.
///
/// # Errors
/// The database failed.
pub async fn find(db: &Db, name: &SyncName) -> Result<Option<Sync>, Error> {
    let select =
        sqlx::query(select_syncs!("WHERE y.name = $1 AND y.delete_time IS NULL")).bind(name.as_str().to_owned());
    db.read(move |connection| {
        async move { select.fetch_optional(connection).await?.as_ref().map(read).transpose() }.boxed()
    })
    .await
}

/// One sync, also a deleted one.
///
/// # Errors
/// The database failed.
pub async fn get(db: &Db, id: SyncId) -> Result<Option<Sync>, Error> {
    let select = sqlx::query(select_syncs!("WHERE y.id = $1")).bind(id.uuid());
    db.read(move |connection| {
        async move { select.fetch_optional(connection).await?.as_ref().map(read).transpose() }.boxed()
    })
    .await
}

async fn lock_by_name(connection: &mut PgConnection, name: &SyncName) -> Result<Option<Sync>, Error> {
    let row = sqlx::query(select_syncs!("WHERE y.name = $1 AND y.delete_time IS NULL FOR NO KEY UPDATE OF y"));
    row.bind(name.as_str()).fetch_optional(connection).await?.as_ref().map(read).transpose()
}

async fn lock(connection: &mut PgConnection, id: SyncId) -> Result<Option<Sync>, Error> {
    let row = sqlx::query(select_syncs!("WHERE y.id = $1 FOR NO KEY UPDATE OF y"));
    row.bind(id.uuid()).fetch_optional(connection).await?.as_ref().map(read).transpose()
}

fn number(value: i64) -> Result<u64, Error> {
    u64::try_from(value).map_err(|_negative| Error::Damaged("sync"))
}

fn read(row: &PgRow) -> Result<Sync, Error> {
    let damaged = || Error::Damaged("sync");
    let name = |column| -> Result<NodeName, Error> {
        row.try_get::<String, _>(column)?.parse().map_err(|_bad| Error::Damaged("sync"))
    };
    let count = |column| -> Result<u64, Error> { number(row.try_get(column)?) };
    let (source_name, destination_name) = (name("source_name")?, name("destination_name")?);
    let status: Vec<u8> = row.try_get("status")?;
    let status = proto_rpc::v1::SyncStatus::decode(status.as_slice()).map_err(|_bytes| damaged())?;
    let since: Option<DateTime<Utc>> = row.try_get("pause_time")?;
    let pause = since
        .map(|since| {
            let (by, reason) = (row.try_get("paused_by")?, row.try_get("pause_reason")?);
            Ok::<_, sqlx::Error>(Pause { by, reason, since })
        })
        .transpose()?;
    let path = |column| -> Result<RootPath, Error> {
        row.try_get::<String, _>(column)?.parse().map_err(|_bad| Error::Damaged("sync"))
    };
    let config: Option<String> = row.try_get("config")?;
    let exclude: Vec<String> = row.try_get("exclude")?;
    let exclude = exclude.iter().map(|glob| glob.parse::<Glob>().map_err(|_bad| damaged()));
    let spec = SyncSpec {
        source_node: source_name.clone().into(),
        source_path: path("source_path")?,
        destination_node: destination_name.clone().into(),
        destination_path: path("destination_path")?,
        every: Duration::from_millis(count("every_ms")?),
        exclude: exclude.collect::<Result<_, _>>()?,
        checksum: row.try_get("checksum")?,
    };
    Ok(Sync {
        id: SyncId::new(row.try_get("id")?),
        name: row.try_get::<String, _>("name")?.parse().map_err(|_bad| damaged())?,
        spec,
        ends: [NodeUid::new(row.try_get("source")?), NodeUid::new(row.try_get("destination")?)],
        end_names: [source_name, destination_name],
        is_cut: row.try_get("cut")?,
        pause,
        delete_time: row.try_get("delete_time")?,
        status: SyncStatus::try_from(status).map_err(|_bad| damaged())?,
        version: count("version")?,
        config: config.map(|config| ConfigName::from_id(&config)).transpose().map_err(|_bad| damaged())?,
        created_by: row.try_get("created_by")?,
        create_time: row.try_get("create_time")?,
        update_time: row.try_get("update_time")?,
        grant_expire_time: row.try_get("grant_expire_time")?,
        create_revision: Revision::new(count("create_revision")?),
        revision: Revision::new(count("revision")?),
        grant: Numbers {
            epoch: count("grant_epoch")?.into(),
            serial: count("grant_serial")?,
            overwrite: count("overwrite_order")?,
            run_request: count("run_request")?,
            audited_run: count("audited_run")?,
        },
    })
}

/// A standing grant for what is desired, from now on.
fn sign(sync: &Sync, ends: [GrantParty; 2], granter: &Granter, now: DateTime<Utc>) -> Signed {
    let [source, destination] = ends;
    let grant = Grant {
        fleet: granter.fleet,
        epoch: granter.epoch,
        transfer: TransferId::new(sync.id.uuid()),
        source,
        destination,
        source_paths: vec![sync.spec.source_path.clone()],
        destination_path: sync.spec.destination_path.clone(),
        options: sync.spec.options(),
        not_before: now,
        not_after: sync.grant_expire_time,
    };
    let grant =
        SyncGrant { grant, name: sync.name.clone(), serial: sync.grant.serial, overwrite: sync.grant.overwrite };
    sync::sign(&granter.key, &grant)
}
