//! A stretch of the log, as a stream: what proves it, then its events. Read from the database as the reader takes it.

use std::collections::VecDeque;

use control_plane_store::audit_log::{self, LogReader, StoredEvent};
use foundation_merkle::Hash;
use futures::Stream;
use proto_rpc::v1 as rpc;
use tonic::Status;

use super::{bytes, head, refuse, translate, translate_head};
use crate::{State, auth::Caller, error};

/// Events that are read at once.
const READ_AT_ONCE: u32 = 500;

/// A part is sent when its events have so many bytes: far below what a reader takes.
const PART_BYTES: usize = 1 << 20;

/// So many parts are sent before the caller's right is looked at again.
const PARTS_BETWEEN_CHECKS: u32 = 64;

/// What was asked for, and what proves it.
pub(super) struct Stretch {
    head: rpc::AuditHead,
    first: u64,
    next: u64,
    left: Vec<Hash>,
    consistency: Vec<Hash>,
    leaves_only: bool,
}

impl Stretch {
    /// Finds the events and the proofs.
    pub(super) async fn find(state: &State, request: &rpc::ExportAuditEventsRequest) -> Result<Self, Status> {
        let head = head(state).await?;
        let next = match (request.next_sequence, request.until) {
            (Some(next), _) if next > head.size => {
                return Err(error::invalid("next_sequence", format!("the log has {} events", head.size)));
            }
            (Some(next), _) => next,
            (None, Some(until)) => first_at(state, "until", until, head.size).await?,
            (None, None) => head.size,
        };
        let first = match (request.first_sequence, request.since) {
            (Some(first), _) if first > head.size => {
                return Err(error::invalid("first_sequence", format!("the log has {} events", head.size)));
            }
            (Some(first), _) => first,
            (None, Some(since)) => first_at(state, "since", since, head.size).await?,
            (None, None) => 0,
        };
        // A beginning after the end is an empty stretch.
        let next = next.max(first);
        let left = audit_log::left_of(&state.db, first).await.map_err(|error| refuse("first_sequence", error))?;
        let consistency = audit_log::prove_consistency(&state.db, next, head.size).await;
        let consistency = consistency.map_err(|error| refuse("next_sequence", error))?;
        Ok(Self { head: translate_head(state, head), first, next, left, consistency, leaves_only: request.leaves_only })
    }

    /// The header, then the events.
    pub(super) fn send(
        self,
        state: State,
        caller: Caller,
    ) -> impl Stream<Item = Result<rpc::ExportAuditEventsResponse, Status>> + Send + 'static {
        let reader = LogReader::new(state.db.clone(), self.first, self.next);
        let header = rpc::AuditExportHeader {
            head: Some(self.head),
            first_sequence: self.first,
            next_sequence: self.next,
            left: bytes(self.left),
            consistency: bytes(self.consistency),
            ca_signature: state.keys.audit_key_certificate().to_vec(),
        };
        let sending = Sending {
            state,
            caller,
            header: Some(header),
            reader,
            read: VecDeque::new(),
            leaves_only: self.leaves_only,
            parts: 0,
        };
        futures::stream::try_unfold(sending, |mut sending| async move {
            let part = sending.next().await?;
            Ok(part.map(|part| (part, sending)))
        })
    }
}

/// The first event at a time, among those that the head covers.
async fn first_at(state: &State, field: &'static str, time: prost_types::Timestamp, size: u64) -> Result<u64, Status> {
    let time = proto_model::from_timestamp(time).map_err(error::at(field))?;
    let found = audit_log::first_at(&state.db, time).await.map_err(error::store)?;
    Ok(found.unwrap_or(size).min(size))
}

struct Sending {
    state: State,
    caller: Caller,
    header: Option<rpc::AuditExportHeader>,
    reader: LogReader,
    read: VecDeque<StoredEvent>,
    leaves_only: bool,
    parts: u32,
}

impl Sending {
    async fn next(&mut self) -> Result<Option<rpc::ExportAuditEventsResponse>, Status> {
        if let Some(header) = self.header.take() {
            return Ok(Some(rpc::ExportAuditEventsResponse { header: Some(header), events: Vec::new() }));
        }
        self.parts += 1;
        if self.parts.is_multiple_of(PARTS_BETWEEN_CHECKS) {
            self.caller.require_still_good(&self.state).await?;
        }
        if self.read.is_empty() {
            self.read = self.reader.read(READ_AT_ONCE).await.map_err(error::store)?.into();
        }
        let (mut events, mut size) = (Vec::new(), 0);
        while size < PART_BYTES
            && let Some(event) = self.read.pop_front()
        {
            // A leaf and the columns say the same.
            size += if self.leaves_only { event.leaf.len() } else { 2 * event.leaf.len() };
            events.push(if self.leaves_only { leaf_only(event) } else { translate(event) });
        }
        Ok((!events.is_empty()).then_some(rpc::ExportAuditEventsResponse { header: None, events }))
    }
}

fn leaf_only(event: StoredEvent) -> rpc::AuditEvent {
    rpc::AuditEvent {
        sequence: event.sequence,
        leaf: event.leaf,
        leaf_hash: hex::encode(event.leaf_hash),
        ..rpc::AuditEvent::default()
    }
}
