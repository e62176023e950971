//! `dwcp.v1.AuditService`.

mod export;

use control_plane_store::{
    AuditKey,
    audit_log::{self, EventFilter, Head, Order, ProveError, StoredEvent},
};
use foundation_merkle::{Hash, ProofError};
use futures::stream::BoxStream;
use prost_types::{ListValue, Struct, Value, value::Kind};
use proto_model::Filter;
use proto_rpc::v1::{self as rpc, audit_service_server::AuditService};
use tonic::{Request, Response, Status};

use crate::{
    State,
    auth::caller,
    error,
    paging::Page,
    time::timestamp,
    watch::{self, Batch, Follow},
};

/// The service.
#[derive(Clone, Debug)]
pub struct Audit(State);

impl Audit {
    /// Over this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self(state)
    }

    async fn head(&self) -> Result<Head, Status> {
        head(&self.0).await
    }
}

#[tonic::async_trait]
impl AuditService for Audit {
    async fn get_audit_event(
        &self,
        request: Request<rpc::GetAuditEventRequest>,
    ) -> Result<Response<rpc::AuditEvent>, Status> {
        let name = request.into_inner().name;
        let sequence = name.strip_prefix("auditEvents/").and_then(|sequence| sequence.parse().ok());
        let sequence = sequence.ok_or_else(|| error::invalid("name", "auditEvents/SEQUENCE is expected"))?;
        let event = audit_log::event(&self.0.db, sequence).await.map_err(error::store)?;
        event.map(|event| Response::new(translate(event))).ok_or_else(|| error::not_found(&name))
    }

    async fn list_audit_events(
        &self,
        request: Request<rpc::ListAuditEventsRequest>,
    ) -> Result<Response<rpc::ListAuditEventsResponse>, Status> {
        let request = request.into_inner();
        let filter = event_filter(&request.filter)?;
        let order = match request.order_by.as_str() {
            "" | "sequence" | "sequence asc" => Order::Ascending,
            "sequence desc" => Order::Descending,
            _ => return Err(error::invalid("order_by", "`sequence` or `sequence desc` is expected")),
        };
        let arguments = format!("{}\0{}", request.filter, request.order_by);
        let page = Page::parse("auditEvents", &arguments, request.page_size, &request.page_token)?;
        let damaged = |_not_a_number| error::invalid("page_token", "is damaged");
        let from = page.cursor.as_deref().map(str::parse::<u64>).transpose().map_err(damaged)?;
        let from = match order {
            Order::Ascending => from.map(|last| last.saturating_add(1)),
            Order::Descending if from == Some(0) => return Ok(Response::new(rpc::ListAuditEventsResponse::default())),
            Order::Descending => from.map(|last| last.saturating_sub(1)),
        };
        let events = audit_log::list(&self.0.db, filter, order, from, page.limit()).await.map_err(error::store)?;
        let (events, next_page_token) = page.cut(events, |event| event.sequence.to_string());
        let audit_events = events.into_iter().map(translate).collect();
        Ok(Response::new(rpc::ListAuditEventsResponse { audit_events, next_page_token }))
    }

    type TailAuditEventsStream = BoxStream<'static, Result<rpc::AuditEvent, Status>>;

    async fn tail_audit_events(
        &self,
        request: Request<rpc::TailAuditEventsRequest>,
    ) -> Result<Response<Self::TailAuditEventsStream>, Status> {
        let caller = caller(&request)?.clone();
        let request = request.into_inner();
        let filter = event_filter(&request.filter)?;
        let next = match request.from_sequence {
            Some(from) => from,
            None => self.head().await?.size,
        };
        let follow = FollowLog { state: self.0.clone(), filter, next };
        Ok(Response::new(Box::pin(watch::follow(self.0.clone(), caller, follow))))
    }

    async fn get_audit_head(
        &self,
        _request: Request<rpc::GetAuditHeadRequest>,
    ) -> Result<Response<rpc::AuditHead>, Status> {
        let head = self.head().await?;
        Ok(Response::new(translate_head(&self.0, head)))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<rpc::GetInclusionProofRequest>,
    ) -> Result<Response<rpc::InclusionProof>, Status> {
        let request = request.into_inner();
        let tree_size = self.size("tree_size", request.tree_size).await?;
        let hashes = audit_log::prove_inclusion(&self.0.db, tree_size, request.sequence).await;
        let hashes = hashes.map_err(|error| refuse("sequence", error))?;
        Ok(Response::new(rpc::InclusionProof { sequence: request.sequence, tree_size, hashes: bytes(hashes) }))
    }

    async fn get_consistency_proof(
        &self,
        request: Request<rpc::GetConsistencyProofRequest>,
    ) -> Result<Response<rpc::ConsistencyProof>, Status> {
        let request = request.into_inner();
        let second_size = self.size("second_size", request.second_size).await?;
        let hashes = audit_log::prove_consistency(&self.0.db, request.first_size, second_size).await;
        let hashes = hashes.map_err(|error| refuse("first_size", error))?;
        Ok(Response::new(rpc::ConsistencyProof { first_size: request.first_size, second_size, hashes: bytes(hashes) }))
    }

    type ExportAuditEventsStream = BoxStream<'static, Result<rpc::ExportAuditEventsResponse, Status>>;

    async fn export_audit_events(
        &self,
        request: Request<rpc::ExportAuditEventsRequest>,
    ) -> Result<Response<Self::ExportAuditEventsStream>, Status> {
        let caller = caller(&request)?.clone();
        let stretch = export::Stretch::find(&self.0, &request.into_inner()).await?;
        Ok(Response::new(Box::pin(stretch.send(self.0.clone(), caller))))
    }
}

fn event_filter(text: &str) -> Result<EventFilter, Status> {
    let filter: Filter = text.parse().map_err(error::at("filter"))?;
    EventFilter::try_from(&filter).map_err(error::at("filter"))
}

impl Audit {
    /// A size that the log has or had; the present one for 0.
    async fn size(&self, field: &'static str, asked: u64) -> Result<u64, Status> {
        let present = self.head().await?.size;
        match asked {
            0 => Ok(present),
            size if size <= present => Ok(size),
            _ => Err(error::invalid(field, format!("the log has {present} events"))),
        }
    }
}

async fn head(state: &State) -> Result<Head, Status> {
    let head = audit_log::head(&state.db).await.map_err(error::store)?;
    // The fleet's first record made it, before this server served.
    head.ok_or_else(|| error::store(control_plane_store::Error::AuditTampered("its head is gone".to_owned())))
}

fn translate_head(state: &State, head: Head) -> rpc::AuditHead {
    rpc::AuditHead {
        tree_size: head.size,
        root_hash: head.root.to_string(),
        checkpoint: head.checkpoint,
        verifier_key: state.keys.audit_verifier_key().to_owned(),
        finding: state.db.audit_key().and_then(AuditKey::alarm).unwrap_or_default(),
    }
}

/// Events from one on.
struct FollowLog {
    state: State,
    filter: EventFilter,
    next: u64,
}

impl Follow for FollowLog {
    type Item = rpc::AuditEvent;

    async fn changes(&mut self) -> Result<Batch<Self::Item>, Status> {
        let events = audit_log::list(
            &self.state.db,
            self.filter.clone(),
            Order::Ascending,
            Some(self.next),
            watch::READ_AT_ONCE,
        );
        let events = events.await.map_err(error::store)?;
        if let Some(last) = events.last() {
            self.next = last.sequence.saturating_add(1);
        }
        let more = u32::try_from(events.len()) == Ok(watch::READ_AT_ONCE);
        Ok(Batch { items: events.into_iter().map(translate).collect(), more })
    }

    fn synced(&self) -> Option<Self::Item> {
        None
    }

    fn bookmark(&self) -> Option<Self::Item> {
        None
    }
}

fn refuse(field: &'static str, error: ProveError) -> Status {
    match error {
        ProveError::Database(error) => error::store(error),
        ProveError::Proof(outside @ ProofError::OutOfRange { .. }) => error::invalid(field, outside.to_string()),
        ProveError::Proof(missing @ ProofError::Missing { .. }) => {
            error::internal("the audit tree is damaged", &missing)
        }
    }
}

fn bytes(hashes: Vec<Hash>) -> Vec<Vec<u8>> {
    hashes.into_iter().map(|hash| hash.0.to_vec()).collect()
}

fn translate(event: StoredEvent) -> rpc::AuditEvent {
    rpc::AuditEvent {
        name: format!("auditEvents/{}", event.sequence),
        sequence: event.sequence,
        time: timestamp(event.time),
        actor: event.actor,
        action: event.action,
        resource: event.resource,
        outcome: event.outcome,
        detail: Some(structure(event.detail)),
        trace_id: event.trace_id,
        leaf: event.leaf,
        leaf_hash: hex::encode(event.leaf_hash),
    }
}

fn structure(members: serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: members.into_iter().map(|(name, value)| (name, self::value(value))).collect() }
}

fn value(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(values) => {
            Kind::ListValue(ListValue { values: values.into_iter().map(self::value).collect() })
        }
        serde_json::Value::Object(members) => Kind::StructValue(structure(members)),
    };
    Value { kind: Some(kind) }
}
