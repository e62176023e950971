//! `dwcp.v1.SyncService`: standing syncs are accepted with their grant, held, run when asked for, and ended.

mod watching;

use std::time::Duration;

use chrono::{DateTime, Utc};
use control_plane_store::syncs::{self, CannotChange, CreateSync, Order, RefuseSync, Sync, SyncFilter};
use foundation_listener::limit_hits;
use futures::{FutureExt as _, stream::BoxStream};
use proto_model::{Etag, Filter, Revision, SyncId, SyncName, SyncSpec, SyncState};
use proto_rpc::v1::{self as rpc, sync_service_server::SyncService};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    State,
    auth::caller,
    error::{self, Reason},
    paging::Page,
    request::context,
    time::timestamp,
    transfers::{granter, refusal},
    watch,
};
use watching::FollowSyncs;

/// A reason is a line in a table.
const MAX_REASON_CHARS: usize = 500;

/// The service.
#[derive(Clone, Debug)]
pub struct Syncs(State);

impl Syncs {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }

    fn answer(&self, sync: Sync) -> Response<rpc::Sync> {
        Response::new(translate(sync, self.0.clock.utc(), Detail::All))
    }

    /// What became of the first one, for a repeat of a request.
    async fn before(&self, resource: &str) -> Result<Response<rpc::Sync>, Status> {
        let id = resource.strip_prefix("syncs/").and_then(|id| id.parse().ok());
        let id = id.ok_or_else(|| error::not_found(resource))?;
        let found = syncs::get(&self.0.db, id).await.map_err(error::store)?;
        found.map(|sync| self.answer(sync)).ok_or_else(|| error::not_found(resource))
    }

    async fn change(
        &self,
        context: control_plane_store::Context,
        name: String,
        etag: &str,
        order: Order,
    ) -> Result<Response<rpc::Sync>, Status> {
        let (sync, etag) = (sync_name(&name)?, parse_etag(etag)?);
        let granter = granter(&self.0);
        let change = self.0.db.write("sync.change", context, move |tx| {
            async move {
                if tx.repeated(&sync.resource_name()).await?.is_some() {
                    return Ok(None);
                }
                syncs::change(tx, &sync, etag.as_ref(), order, &granter).await.map(Some)
            }
            .boxed()
        });
        match change.await.map_err(|cannot| refuse(cannot, &name))? {
            Some(sync) => Ok(self.answer(sync)),
            None => self.get_by_name(&name).await.map(|sync| self.answer(sync)),
        }
    }

    async fn get_by_name(&self, name: &str) -> Result<Sync, Status> {
        let found = syncs::find(&self.0.db, &sync_name(name)?).await.map_err(error::store)?;
        found.ok_or_else(|| error::not_found(name))
    }
}

#[tonic::async_trait]
impl SyncService for Syncs {
    async fn create_sync(&self, request: Request<rpc::CreateSyncRequest>) -> Result<Response<rpc::Sync>, Status> {
        let context = context(&request, "dwcp.v1.SyncService/CreateSync", &request.get_ref().request_id)?;
        let rpc::CreateSyncRequest { sync_id, spec, adopt, validate_only, .. } = request.into_inner();
        let spec = parse_spec(spec)?;
        let id = next_id(&self.0);
        let name = match sync_id.as_str() {
            "" => made_name(id),
            given => given.parse::<SyncName>().map_err(error::at("sync_id"))?,
        };
        let (resource, granter, bounds) = (format!("syncs/{id}"), granter(&self.0), self.0.server.sync_bounds);
        let create = CreateSync { id, name: name.clone(), spec, adopt, validate_only };
        let create = self.0.db.write("sync.create", context, move |tx| {
            async move {
                if let Some(first) = tx.repeated(&resource).await? {
                    return Ok(Err(first));
                }
                syncs::create(tx, create, bounds, &granter).await.map(Ok)
            }
            .boxed()
        });
        match create.await.map_err(|refused| refuse_create(refused, &name))? {
            Ok(sync) => Ok(self.answer(sync)),
            Err(first) => self.before(&first).await,
        }
    }

    async fn get_sync(&self, request: Request<rpc::GetSyncRequest>) -> Result<Response<rpc::Sync>, Status> {
        self.get_by_name(&request.get_ref().name).await.map(|sync| self.answer(sync))
    }

    async fn list_syncs(
        &self,
        request: Request<rpc::ListSyncsRequest>,
    ) -> Result<Response<rpc::ListSyncsResponse>, Status> {
        let request = request.into_inner();
        let filter = parse_filter(&request.filter)?;
        let page = Page::parse("syncs", &request.filter, request.page_size, &request.page_token)?;
        let mut after = page.cursor.as_deref().map(str::parse::<SyncName>).transpose();
        let mut found = Vec::new();
        let wanted = usize::try_from(page.limit()).unwrap_or(usize::MAX);
        // States are not columns: what does not match is left out here, and the list is short.
        loop {
            let from = after.map_err(|_damaged| error::invalid("page_token", "is damaged"))?;
            let read = syncs::page(&self.0.db, from, page.limit()).await.map_err(error::store)?;
            let more = u32::try_from(read.len()) == Ok(page.limit());
            after = Ok(read.last().map(|last| last.name.clone()));
            let now = self.0.clock.utc();
            found.extend(read.into_iter().filter(|sync| filter.matches(sync, now)));
            if !more || found.len() >= wanted {
                break;
            }
        }
        let (found, next_page_token) = page.cut(found, |last| last.name.to_string());
        let now = self.0.clock.utc();
        let syncs = found.into_iter().map(|sync| translate(sync, now, Detail::WithoutRuns)).collect();
        Ok(Response::new(rpc::ListSyncsResponse { syncs, next_page_token }))
    }

    type WatchSyncsStream = BoxStream<'static, Result<rpc::WatchSyncsResponse, Status>>;

    async fn watch_syncs(
        &self,
        request: Request<rpc::WatchSyncsRequest>,
    ) -> Result<Response<Self::WatchSyncsStream>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let filter = parse_filter(&request.filter)?;
        let epoch = self.0.keys.epoch();
        let resumed = watch::parse_resume_token(epoch, &request.resume_token)?;
        let follow = FollowSyncs::new(self.0.clone(), filter, epoch, resumed.unwrap_or_else(Revision::default));
        Ok(Response::new(Box::pin(watch::follow(self.0.clone(), caller, follow))))
    }

    async fn delete_sync(&self, request: Request<rpc::DeleteSyncRequest>) -> Result<Response<rpc::Sync>, Status> {
        let context = context(&request, "dwcp.v1.SyncService/DeleteSync", &request.get_ref().request_id)?;
        let rpc::DeleteSyncRequest { name, etag, validate_only, .. } = request.into_inner();
        let (sync, etag) = (sync_name(&name)?, parse_etag(&etag)?);
        // A repeat finds the one that was deleted, and not a later one of its name.
        let present = syncs::find(&self.0.db, &sync).await.map_err(error::store)?;
        let resource = present.map_or_else(|| sync.resource_name(), |present| format!("syncs/{}", present.id));
        let delete = self.0.db.write("sync.delete", context, move |tx| {
            async move {
                if let Some(first) = tx.repeated(&resource).await? {
                    return Ok(Err(first));
                }
                syncs::delete(tx, &sync, etag.as_ref(), validate_only).await.map(Ok)
            }
            .boxed()
        });
        match delete.await.map_err(|cannot| refuse(cannot, &name))? {
            Ok(sync) => Ok(self.answer(sync)),
            Err(first) => self.before(&first).await,
        }
    }

    async fn pause_sync(&self, request: Request<rpc::PauseSyncRequest>) -> Result<Response<rpc::Sync>, Status> {
        let context = context(&request, "dwcp.v1.SyncService/PauseSync", &request.get_ref().request_id)?;
        let rpc::PauseSyncRequest { name, reason, etag, .. } = request.into_inner();
        if reason.chars().count() > MAX_REASON_CHARS {
            return Err(error::invalid("reason", format!("has more than {MAX_REASON_CHARS} characters")));
        }
        let reason = proto_model::escape_str(reason.trim());
        self.change(context, name, &etag, Order::Pause { reason }).await
    }

    async fn resume_sync(&self, request: Request<rpc::ResumeSyncRequest>) -> Result<Response<rpc::Sync>, Status> {
        let context = context(&request, "dwcp.v1.SyncService/ResumeSync", &request.get_ref().request_id)?;
        let rpc::ResumeSyncRequest { name, etag, .. } = request.into_inner();
        self.change(context, name, &etag, Order::Resume).await
    }

    async fn run_sync(&self, request: Request<rpc::RunSyncRequest>) -> Result<Response<rpc::Sync>, Status> {
        let context = context(&request, "dwcp.v1.SyncService/RunSync", &request.get_ref().request_id)?;
        let rpc::RunSyncRequest { name, overwrite, etag, .. } = request.into_inner();
        self.change(context, name, &etag, Order::Run { overwrite }).await
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Parsing and translating

/// An id for a sync that is made now.
pub(crate) fn next_id(state: &State) -> SyncId {
    let random = Uuid::new_v4().into_bytes();
    let now = u64::try_from(state.clock.unix_ms()).unwrap_or_default();
    SyncId::from_parts(now, random.first_chunk().expect("16 bytes hold 10"))
}

/// A name for who gave none: of the id's random end, since its beginning is the time.
fn made_name(id: SyncId) -> SyncName {
    let text = id.to_string();
    let tail = &text[text.len() - 8..];
    format!("sync-{tail}").parse().expect("hexadecimal digits and a hyphen are a name")
}

fn sync_name(name: &str) -> Result<SyncName, Status> {
    SyncName::from_resource_name(name).map_err(error::at("name"))
}

fn parse_etag(text: &str) -> Result<Option<Etag>, Status> {
    Etag::from_optional_text(text).map_err(error::at("etag"))
}

fn parse_spec(spec: Option<rpc::SyncSpec>) -> Result<SyncSpec, Status> {
    let spec = spec.ok_or_else(|| error::invalid("spec", "is required"))?;
    let spec = SyncSpec::try_from(spec).map_err(|field| error::invalid_field(field.within("spec")))?;
    if spec.source_node == spec.destination_node {
        return Err(error::invalid("spec.destination_node", "is the sender itself: a sync has two hosts"));
    }
    Ok(spec)
}

fn parse_filter(text: &str) -> Result<SyncFilter, Status> {
    let filter: Filter = text.parse().map_err(error::at("filter"))?;
    let mut parsed = SyncFilter::default();
    for term in filter.terms() {
        if term.prefix {
            return Err(error::invalid("filter", "a trailing * is not understood here"));
        }
        let after = |prefix: &str| term.value.strip_prefix(prefix).unwrap_or(&term.value).to_owned();
        match term.key.as_str() {
            "state" => parsed.state = Some(term.value.parse::<SyncState>().map_err(error::at("filter"))?),
            "node" => parsed.node = Some(after("nodes/")),
            "name" => parsed.name = Some(after("syncs/").parse().map_err(error::at("filter"))?),
            _ => return Err(error::invalid("filter", "state=…, node=… or name=… is expected")),
        }
    }
    Ok(parsed)
}

pub(crate) fn refuse_create(refused: RefuseSync, name: &SyncName) -> Status {
    let text = refused.to_string();
    match refused {
        RefuseSync::NameTaken => error::already_exists(&name.resource_name()),
        RefuseSync::Ends(refused) => refusal(refused, "spec"),
        RefuseSync::TooMany(_) => {
            limit_hits::hit("limits.syncs");
            error::exhausted(Reason::WrongState, format!("{text}; delete one of them"), Duration::ZERO)
        }
        RefuseSync::TooManyOfNode(..) => {
            limit_hits::hit("limits.syncs_of_a_node");
            error::exhausted(Reason::WrongState, format!("{text}; delete one of them"), Duration::ZERO)
        }
        RefuseSync::DestinationTaken(other) => error::failed_precondition(
            Reason::WrongState,
            &other.resource_name(),
            format!(
                "{} keeps this destination, or one within or around it, in step already: two would delete each other's files",
                other.resource_name()
            ),
        ),
    }
}

fn refuse(cannot: CannotChange, name: &str) -> Status {
    let text = format!("{} {cannot}", proto_model::escape_str(name));
    match cannot {
        CannotChange::NotFound => error::not_found(name),
        CannotChange::Stale(current) => error::stale(name, &current),
        CannotChange::Ended => error::failed_precondition(Reason::WrongState, name, text),
        CannotChange::Paused => {
            let text = format!("{text}; `dwcp sync resume` lets it go on");
            error::failed_precondition(Reason::WrongState, name, text)
        }
        CannotChange::Configured(config) => {
            let text = format!(
                "{text}: take it out of that document (`dwcp config get {0}`, `dwcp config set {0}`)",
                config.id()
            );
            error::failed_precondition(Reason::WrongState, name, text)
        }
        CannotChange::Database(error) => error::store(error),
    }
}

/// Whether former runs go with a sync, and the issues of the last one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    All,
    WithoutRuns,
}

fn translate(sync: Sync, now: DateTime<Utc>, detail: Detail) -> rpc::Sync {
    let (state, etag, lag, run_request) = (sync.state(now), sync.etag(), sync.lag(now), sync.run_request());
    let mut status = rpc::SyncStatus::from(sync.status);
    if detail == Detail::WithoutRuns {
        status.runs.clear();
        if let Some(last) = &mut status.last_run {
            last.issues.clear();
        }
    }
    // What a run that is held waits for is no secret: it is held.
    if state == SyncState::Paused {
        status.error = None;
    }
    rpc::Sync {
        name: sync.name.resource_name(),
        uid: sync.id.to_string(),
        spec: Some(sync.spec.into()),
        state: rpc::sync::State::from(state).into(),
        etag: etag.into(),
        status: Some(status),
        pause: sync.pause.map(|pause| rpc::TransferPause {
            paused_by: pause.by,
            reason: pause.reason,
            pause_time: timestamp(pause.since),
            at_rest: false,
        }),
        lag: prost_types::Duration::try_from(lag).ok(),
        created_by: sync.created_by,
        create_time: timestamp(sync.create_time),
        update_time: timestamp(sync.update_time),
        grant_expire_time: timestamp(sync.grant_expire_time),
        run_request,
        config: sync.config.map(|config| config.to_string()).unwrap_or_default(),
    }
}
