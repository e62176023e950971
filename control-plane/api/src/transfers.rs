//! `dwcp.v1.TransferService`: transfers are accepted with their grant, watched while their ends work, held, and stopped.

mod watching;

use std::collections::HashSet;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use control_plane_store::transfers::{
    self, Accepted, CannotHold, CreateTransfer, Granter, HasEnded, RefuseTransfer, Transfer, TransferFilter,
    TransferPage,
};
use futures::{FutureExt as _, stream::BoxStream};
use proto_model::{
    Filter, NodeRef, Revision, TimeSpent, TransferError, TransferId, TransferReport, TransferRole, TransferSpec,
    TransferState,
};
use proto_rpc::v1::{self as rpc, transfer_service_server::TransferService};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    State,
    auth::caller,
    error::{self, Reason},
    paging::Page,
    request::{context, traceparent},
    time::{lifetime, parse_time_cursor, time_cursor, timestamp},
    watch,
};
use watching::{FollowAll, FollowOne};

/// How long a grant lets a transfer begin and go on, where nothing is asked for (D16).
const GRANT_TTL: TimeDelta = TimeDelta::days(7);

/// The longest grant: a right that nobody takes back lies on two hosts for so long.
const MAX_GRANT_TTL: TimeDelta = TimeDelta::days(30);

/// A reason is a line in a table.
const MAX_REASON_CHARS: usize = 500;

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
        let spec = parse_spec(request.spec)?;
        let time_limit = lifetime("time_limit", request.time_limit, MAX_GRANT_TTL)?;
        if time_limit.is_some() && spec.options.deadline.is_some() {
            return Err(error::invalid("time_limit", "is given beside spec.deadline, which says the same"));
        }
        let create = CreateTransfer {
            id: self.next_id(),
            spec,
            time_limit,
            grant_ttl: lifetime("grant_ttl", request.grant_ttl, MAX_GRANT_TTL)?.unwrap_or(GRANT_TTL),
            traceparent,
            validate_only: request.validate_only,
        };
        let (id, validate_only, granter) = (create.id, create.validate_only, granter(&self.0));
        let deadline_field = if time_limit.is_some() { "time_limit" } else { "spec.deadline" };
        let create = self.0.db.write("transfer.create", context, move |tx| {
            async move {
                if let Some(first) = tx.repeated(&id.resource_name()).await? {
                    return Ok(Created::Before(first));
                }
                transfers::create(tx, create, &granter).await.map(Box::new).map(Created::Now)
            }
            .boxed()
        });
        match create.await.map_err(|refused| refusal(refused, deadline_field))? {
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

    async fn pause_transfer(
        &self,
        request: Request<rpc::PauseTransferRequest>,
    ) -> Result<Response<rpc::Transfer>, Status> {
        let context = context(&request, "dwcp.v1.TransferService/PauseTransfer", &request.get_ref().request_id)?;
        let rpc::PauseTransferRequest { name, reason, .. } = request.into_inner();
        let id = transfer_id(&name)?;
        if reason.chars().count() > MAX_REASON_CHARS {
            return Err(error::invalid("reason", format!("has more than {MAX_REASON_CHARS} characters")));
        }
        let reason = proto_model::escape_str(reason.trim());
        let pause = self.0.db.write("transfer.pause", context, move |tx| {
            async move {
                if tx.repeated(&id.resource_name()).await?.is_some() {
                    return Ok(None);
                }
                transfers::pause(tx, id, reason).await.map(Some)
            }
            .boxed()
        });
        let paused = pause.await.map_err(error::store)?;
        self.held(&name, paused).await
    }

    async fn resume_transfer(
        &self,
        request: Request<rpc::ResumeTransferRequest>,
    ) -> Result<Response<rpc::Transfer>, Status> {
        let context = context(&request, "dwcp.v1.TransferService/ResumeTransfer", &request.get_ref().request_id)?;
        let name = request.into_inner().name;
        let id = transfer_id(&name)?;
        let resume = self.0.db.write("transfer.resume", context, move |tx| {
            async move {
                if tx.repeated(&id.resource_name()).await?.is_some() {
                    return Ok(None);
                }
                transfers::resume(tx, id).await.map(Some)
            }
            .boxed()
        });
        let resumed = resume.await.map_err(error::store)?;
        self.held(&name, resumed).await
    }
}

/// What holding a transfer, or letting it go on, came to; none for a repeat, whose answer is what became of the first.
type Held = Option<Option<Result<Transfer, CannotHold>>>;

impl Transfers {
    async fn held(&self, name: &str, held: Held) -> Result<Response<rpc::Transfer>, Status> {
        let transfer = match held {
            None => self.find(name).await?,
            Some(None) => return Err(error::not_found(name)),
            Some(Some(Ok(transfer))) => transfer,
            Some(Some(Err(cannot))) => {
                let text = match cannot {
                    CannotHold::Ended(state) => format!("{name} has ended already: {state}"),
                    CannotHold::GrantOver(at) => format!(
                        "the grant of {name} ended while it was paused ({}); create the transfer again: what is in place is not sent again",
                        shown(at)
                    ),
                    CannotHold::DeadlinePassed(at) => {
                        format!("the deadline of {name} passed while it was paused ({})", shown(at))
                    }
                };
                return Err(error::failed_precondition(Reason::WrongState, name, text));
            }
        };
        Ok(Response::new(translate(transfer, Detail::All)))
    }
}

pub(crate) fn granter(state: &State) -> Granter {
    let keys = &state.keys;
    Granter { fleet: keys.fleet(), epoch: keys.epoch(), key: keys.grant().clone() }
}

/// What a request made, or what its first one did.
enum Created {
    Now(Box<Accepted>),
    Before(String),
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

pub(crate) fn refusal(refused: RefuseTransfer, deadline_field: &'static str) -> Status {
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
        RefuseTransfer::DeadlinePassed { deadline, now } => {
            error::invalid(deadline_field, format!("{} is over: it is {} here", shown(*deadline), shown(*now)))
        }
        RefuseTransfer::DeadlineAfterGrant(end) => error::invalid(
            deadline_field,
            format!("is after the end of the grant ({}): nothing goes on without one; see grant_ttl", shown(*end)),
        ),
        RefuseTransfer::Away { node } => error::node_offline(&node.resource_name(), format!("{refused}")),
        RefuseTransfer::Database(_) => match refused {
            RefuseTransfer::Database(error) => error::store(error),
            other => error::internal("the transfer could not be accepted", &other),
        },
    }
}

/// To the second.
fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
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
    let at_rest = standing.is_at_rest();
    let pause = standing.pause.as_ref().map(|pause| rpc::TransferPause {
        paused_by: pause.by.clone(),
        reason: pause.reason.clone(),
        pause_time: timestamp(pause.since),
        at_rest,
    });
    let listed = entries.filter(|_| detail == Detail::All);
    rpc::Transfer {
        name: transfer.id.resource_name(),
        spec: Some(transfer.spec.into()),
        state: rpc::transfer::State::from(standing.present()).into(),
        // Why a paused one waits is no secret: it is paused.
        error: standing
            .error
            .filter(|_| pause.is_none())
            .map(|TransferError { reason, message }| rpc::TransferError { reason, message }),
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
        pause,
    }
}

fn progress(report: &TransferReport) -> rpc::TransferProgress {
    report.progress.into()
}
