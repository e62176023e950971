//! `dwcp.v1.TransferService`: transfers are accepted with their grant, watched while their ends work, and stopped.

use std::collections::HashSet;

use chrono::TimeDelta;
use control_plane_store::transfers::{
    self, Accepted, CreateTransfer, Granter, HasEnded, RefuseTransfer, Transfer, TransferFilter, TransferPage,
};
use futures::{FutureExt as _, stream::BoxStream};
use proto_model::{
    Epoch, Filter, NodeRef, Revision, TimeSpent, TransferError, TransferId, TransferReport, TransferRole, TransferSpec,
    TransferState,
};
use proto_rpc::v1::{self as rpc, WatchType, transfer_service_server::TransferService};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    State,
    auth::caller,
    error::{self, Reason},
    paging::Page,
    request::{context, traceparent},
    time::{lifetime, parse_time_cursor, time_cursor, timestamp},
    watch::{self, Batch, Follow},
};

/// How long a grant lets a transfer begin and go on, where nothing is asked for (D16).
const GRANT_TTL: TimeDelta = TimeDelta::days(7);

/// The longest grant: a right that nobody takes back lies on two hosts for so long.
const MAX_GRANT_TTL: TimeDelta = TimeDelta::days(30);

/// The service.
#[derive(Clone, Debug)]
pub struct Transfers(State);

impl Transfers {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }

    async fn find(&self, name: &str) -> Result<Transfer, Status> {
        let id = transfer_id(name)?;
        let found = transfers::find(&self.0.db, id).await.map_err(error::store)?;
        found.ok_or_else(|| error::not_found(name))
    }

    fn granter(&self) -> Granter {
        let keys = &self.0.keys;
        Granter { fleet: keys.fleet(), epoch: keys.epoch(), key: keys.grant().clone() }
    }

    /// An id that sorts by time.
    fn next_id(&self) -> TransferId {
        let random = Uuid::new_v4().into_bytes();
        let now = u64::try_from(self.0.clock.unix_ms()).unwrap_or_default();
        TransferId::from_parts(now, random.first_chunk().expect("16 bytes hold 10"))
    }
}

#[tonic::async_trait]
impl TransferService for Transfers {
    async fn create_transfer(
        &self,
        request: Request<rpc::CreateTransferRequest>,
    ) -> Result<Response<rpc::Transfer>, Status> {
        let context = context(&request, "dwcp.v1.TransferService/CreateTransfer", &request.get_ref().request_id)?;
        let traceparent = traceparent(&request);
        let request = request.into_inner();
        let create = CreateTransfer {
            id: self.next_id(),
            spec: parse_spec(request.spec)?,
            grant_ttl: lifetime("grant_ttl", request.grant_ttl, MAX_GRANT_TTL)?.unwrap_or(GRANT_TTL),
            traceparent,
            validate_only: request.validate_only,
        };
        let (id, validate_only, granter) = (create.id, create.validate_only, self.granter());
        let create = self.0.db.write("transfer.create", context, move |tx| {
            async move {
                if let Some(first) = tx.repeated(&id.resource_name()).await? {
                    return Ok(Created::Before(first));
                }
                transfers::create(tx, create, &granter).await.map(Box::new).map(Created::Now)
            }
            .boxed()
        });
        match create.await.map_err(refusal)? {
            Created::Before(name) => Ok(Response::new(translate(self.find(&name).await?, Detail::All))),
            Created::Now(accepted) if validate_only => {
                require_connected(&accepted)?;
                // Nothing of that name was made.
                Ok(Response::new(rpc::Transfer { name: String::new(), ..translate(accepted.transfer, Detail::All) }))
            }
            Created::Now(accepted) => Ok(Response::new(translate(accepted.transfer, Detail::All))),
        }
    }

    async fn get_transfer(&self, request: Request<rpc::GetTransferRequest>) -> Result<Response<rpc::Transfer>, Status> {
        let transfer = self.find(&request.get_ref().name).await?;
        Ok(Response::new(translate(transfer, Detail::All)))
    }

    async fn list_transfers(
        &self,
        request: Request<rpc::ListTransfersRequest>,
    ) -> Result<Response<rpc::ListTransfersResponse>, Status> {
        let request = request.into_inner();
        let filter = parse_filter(&request.filter)?;
        let page = Page::parse("transfers", &request.filter, request.page_size, &request.page_token)?;
        let after = page.cursor.as_deref().map(parse_time_cursor).transpose()?;
        let after = after.map(|(create_time, id)| TransferPage { create_time, id: TransferId::new(id) });
        let found = transfers::page(&self.0.db, &filter, after, page.limit()).await.map_err(error::store)?;
        let (found, next_page_token) = page.cut(found, |last| time_cursor(last.create_time, last.id.uuid()));
        let transfers = found.into_iter().map(|transfer| translate(transfer, Detail::WithoutEntries)).collect();
        Ok(Response::new(rpc::ListTransfersResponse { transfers, next_page_token }))
    }

    type WatchTransferStream = BoxStream<'static, Result<rpc::WatchTransferResponse, Status>>;

    async fn watch_transfer(
        &self,
        request: Request<rpc::WatchTransferRequest>,
    ) -> Result<Response<Self::WatchTransferStream>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let epoch = self.0.keys.epoch();
        let resumed = watch::parse_resume_token(epoch, &request.resume_token)?.is_some();
        // An unknown transfer is an answer to the call, not an empty stream.
        let id = self.find(&request.name).await?.id;
        let follow =
            FollowOne { state: self.0.clone(), epoch, id, cursor: Revision::default(), shown: resumed, over: false };
        Ok(Response::new(Box::pin(watch::follow(self.0.clone(), caller, follow))))
    }

    type WatchTransfersStream = BoxStream<'static, Result<rpc::WatchTransferResponse, Status>>;

    async fn watch_transfers(
        &self,
        request: Request<rpc::WatchTransfersRequest>,
    ) -> Result<Response<Self::WatchTransfersStream>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let filter = parse_filter(&request.filter)?;
        let epoch = self.0.keys.epoch();
        let resumed = watch::parse_resume_token(epoch, &request.resume_token)?;
        let follow = FollowAll {
            state: self.0.clone(),
            filter,
            epoch,
            begun_at: resumed.unwrap_or_default(),
            cursor: resumed.unwrap_or_default(),
            shown: HashSet::new(),
        };
        Ok(Response::new(Box::pin(watch::follow(self.0.clone(), caller, follow))))
    }

    async fn cancel_transfer(
        &self,
        request: Request<rpc::CancelTransferRequest>,
    ) -> Result<Response<rpc::Transfer>, Status> {
        let context = context(&request, "dwcp.v1.TransferService/CancelTransfer", &request.get_ref().request_id)?;
        let name = request.into_inner().name;
        let id = transfer_id(&name)?;
        let cancel = self.0.db.write("transfer.cancel", context, move |tx| {
            async move {
                if tx.repeated(&id.resource_name()).await?.is_some() {
                    return Ok(None);
                }
                transfers::cancel(tx, id).await.map(Some)
            }
            .boxed()
        });
        let transfer = match cancel.await.map_err(error::store)? {
            // The answer to a repeat is what became of the first.
            None => self.find(&name).await?,
            Some(None) => return Err(error::not_found(&name)),
            Some(Some(Ok(transfer))) => transfer,
            Some(Some(Err(HasEnded(state)))) => {
                let text = format!("{name} has ended already: {state}");
                return Err(error::failed_precondition(Reason::WrongState, &name, text));
            }
        };
        Ok(Response::new(translate(transfer, Detail::All)))
    }
}

/// What a request made, or what its first one did.
enum Created {
    Now(Box<Accepted>),
    Before(String),
}

// ---------------------------------------------------------------------------------------------------------------------
// Watching

/// One transfer, until it has ended.
struct FollowOne {
    state: State,
    epoch: Epoch,
    id: TransferId,
    cursor: Revision,
    shown: bool,
    over: bool,
}

impl Follow for FollowOne {
    type Item = rpc::WatchTransferResponse;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let found = transfers::find(&self.state.db, self.id).await.map_err(error::store)?;
        let Some(transfer) = found.filter(|transfer| transfer.revision > self.cursor) else {
            return Ok(Batch { items: Vec::new(), more: false });
        };
        self.cursor = transfer.revision;
        self.over = transfer.standing.state.is_end();
        let kind = if std::mem::replace(&mut self.shown, true) { WatchType::Modified } else { WatchType::Added };
        let item = response(kind, Some(translate(transfer, Detail::All)), self.epoch, self.cursor);
        Ok(Batch { items: vec![item], more: false })
    }

    fn synced(&self) -> Option<Self::Item> {
        Some(response(WatchType::Synced, None, self.epoch, self.cursor))
    }

    fn bookmark(&self) -> Option<Self::Item> {
        Some(response(WatchType::Bookmark, None, self.epoch, self.cursor))
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

/// Transfers that match, as they change.
struct FollowAll {
    state: State,
    filter: TransferFilter,
    epoch: Epoch,
    begun_at: Revision,
    cursor: Revision,
    /// Transfers that this watch has shown: 16 bytes each.
    shown: HashSet<TransferId>,
}

impl FollowAll {
    fn change(&mut self, transfer: Transfer) -> Option<rpc::WatchTransferResponse> {
        self.cursor = transfer.revision;
        // A resumed watch may have shown before what existed then.
        let known = self.shown.contains(&transfer.id) || transfer.create_revision <= self.begun_at;
        let kind = match (self.filter.matches(&transfer), known) {
            (true, true) => WatchType::Modified,
            (true, false) => WatchType::Added,
            (false, true) => WatchType::Deleted,
            (false, false) => return None,
        };
        if kind == WatchType::Deleted {
            self.shown.remove(&transfer.id);
        } else {
            self.shown.insert(transfer.id);
        }
        Some(response(kind, Some(translate(transfer, Detail::WithoutEntries)), self.epoch, self.cursor))
    }
}

impl Follow for FollowAll {
    type Item = rpc::WatchTransferResponse;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let changed =
            transfers::changed(&self.state.db, self.cursor, watch::READ_AT_ONCE).await.map_err(error::store)?;
        let more = u32::try_from(changed.len()) == Ok(watch::READ_AT_ONCE);
        Ok(Batch { items: changed.into_iter().filter_map(|transfer| self.change(transfer)).collect(), more })
    }

    fn synced(&self) -> Option<Self::Item> {
        Some(response(WatchType::Synced, None, self.epoch, self.cursor))
    }

    fn bookmark(&self) -> Option<Self::Item> {
        Some(response(WatchType::Bookmark, None, self.epoch, self.cursor))
    }
}

fn response(
    kind: WatchType,
    transfer: Option<rpc::Transfer>,
    epoch: Epoch,
    cursor: Revision,
) -> rpc::WatchTransferResponse {
    rpc::WatchTransferResponse { r#type: kind.into(), transfer, resume_token: watch::resume_token(epoch, cursor) }
}

// ---------------------------------------------------------------------------------------------------------------------
// Parsing and translating

fn transfer_id(name: &str) -> Result<TransferId, Status> {
    TransferId::from_resource_name(name).map_err(error::at("name"))
}

fn parse_spec(spec: Option<rpc::TransferSpec>) -> Result<TransferSpec, Status> {
    let spec = spec.ok_or_else(|| error::invalid("spec", "is required"))?;
    let spec = TransferSpec::try_from(spec).map_err(|field| error::invalid_field(field.within("spec")))?;
    if spec.source_node == spec.destination_node {
        return Err(error::invalid("spec.destination_node", "is the sender itself: copy on the host instead"));
    }
    Ok(spec)
}

fn parse_filter(text: &str) -> Result<TransferFilter, Status> {
    let filter: Filter = text.parse().map_err(error::at("filter"))?;
    let mut parsed = TransferFilter::default();
    for term in filter.terms() {
        if term.prefix {
            return Err(error::invalid("filter", "a trailing * is not understood here"));
        }
        match term.key.as_str() {
            "state" => parsed.state = Some(term.value.parse::<TransferState>().map_err(error::at("filter"))?),
            "node" => parsed.node = Some(term.value.strip_prefix("nodes/").unwrap_or(&term.value).to_owned()),
            _ => return Err(error::invalid("filter", "state=… or node=… is expected")),
        }
    }
    Ok(parsed)
}

fn refusal(refused: RefuseTransfer) -> Status {
    let node_field = |role| match role {
        TransferRole::Sender => "spec.source_node",
        TransferRole::Receiver => "spec.destination_node",
    };
    let named = |node: &NodeRef| node.resource_name();
    match &refused {
        RefuseTransfer::UnknownNode { role, node } => error::invalid(
            node_field(*role),
            format!("{} is not in the fleet; `dwcp node list` shows who is", named(node)),
        ),
        RefuseTransfer::RevokedNode { role, node } => {
            error::invalid(node_field(*role), format!("{} was removed from the fleet", named(node)))
        }
        RefuseTransfer::UnknownRoot { role: TransferRole::Sender, index, .. } => {
            error::invalid(format!("spec.source_paths[{index}]"), root_help(&refused))
        }
        RefuseTransfer::UnknownRoot { .. } | RefuseTransfer::ReadOnlyRoot { .. } => {
            error::invalid("spec.destination_path", root_help(&refused))
        }
        RefuseTransfer::Database(_) => match refused {
            RefuseTransfer::Database(error) => error::store(error),
            other => error::internal("the transfer could not be accepted", &other),
        },
    }
}

fn root_help(refused: &RefuseTransfer) -> String {
    format!("{refused}; a root is opened on its host, by `dwcp-agent run --root NAME=DIR`")
}

fn require_connected(accepted: &Accepted) -> Result<(), Status> {
    let Some(first) = accepted.away.first() else { return Ok(()) };
    let away: Vec<String> = accepted.away.iter().map(proto_model::NodeName::resource_name).collect();
    let verb = if away.len() == 1 { "is" } else { "are" };
    let text = format!("{} {verb} not connected; a transfer would wait for it", away.join(" and "));
    Err(error::node_offline(&first.resource_name(), text))
}

/// Whether lists of single entries go with a transfer: up to 1000 each, too much for lists of transfers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    All,
    WithoutEntries,
}

fn translate(transfer: Transfer, detail: Detail) -> rpc::Transfer {
    let Transfer { standing, sender, receiver, .. } = transfer;
    let reports = [sender.as_deref(), receiver.as_deref()];
    // What the sender says of entries includes what the receiver told it; while it says nothing, the receiver's word counts.
    let entries =
        reports.into_iter().flatten().find(|report| report.issue_count > 0 || !report.planned_changes.is_empty());
    let entries = entries.or(reports[0]).or(reports[1]);
    let tree_digest = reports.into_iter().flatten().find_map(|report| report.tree_digest);
    let spent = |report: Option<&TransferReport>| report.map(|report| report.time_spent.clone()).unwrap_or_default();
    let time_spent = TimeSpent::of_both(&spent(reports[0]), &spent(reports[1]));
    let listed = entries.filter(|_| detail == Detail::All);
    rpc::Transfer {
        name: transfer.id.resource_name(),
        spec: Some(transfer.spec.into()),
        state: rpc::transfer::State::from(standing.state).into(),
        error: standing.error.map(|TransferError { reason, message }| rpc::TransferError { reason, message }),
        issues: listed.map(|report| report.issues.iter().cloned().map(Into::into).collect()).unwrap_or_default(),
        issue_count: entries.map_or(0, |report| report.issue_count),
        tree_digest: tree_digest.map(String::from).unwrap_or_default(),
        created_by: transfer.created_by,
        create_time: timestamp(transfer.create_time),
        start_time: standing.start_time.and_then(timestamp),
        end_time: standing.end_time.and_then(timestamp),
        update_time: timestamp(transfer.update_time),
        trace_id: transfer.trace_id,
        grant_expire_time: timestamp(transfer.grant_expire_time),
        path: sender.as_ref().and_then(|report| report.path.clone()).map(Into::into),
        planned_changes: listed
            .map(|report| report.planned_changes.iter().cloned().map(Into::into).collect())
            .unwrap_or_default(),
        advice: time_spent.advice().unwrap_or_default(),
        time_spent: (&time_spent).into(),
        progress: sender.map(|report| progress(&report)),
        receiver_progress: receiver.map(|report| progress(&report)),
    }
}

fn progress(report: &TransferReport) -> rpc::TransferProgress {
    report.progress.into()
}
