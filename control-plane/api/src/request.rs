//! What all requests have in common: the context of a write, ids of resources.

use control_plane_store::{Context, RequestKey};
use foundation_telemetry::propagation;
use prost::Message;
use proto_model::{Digest, RequestId, Traceparent};
use tonic::{Request, Status};
use uuid::Uuid;

use crate::{auth, error};

/// Who writes, by which request. `method` is the full name, `request_id` the field of that name (it may be empty).
///
/// # Errors
/// The caller is not known, or the id is not a UUID.
pub fn context<M: Message>(request: &Request<M>, method: &'static str, request_id: &str) -> Result<Context, Status> {
    let request_id = match request_id {
        "" => None,
        text => Some(text.parse::<RequestId>().map_err(error::at("request_id"))?),
    };
    let fingerprint = *Digest::sha256(&request.get_ref().encode_to_vec()).as_bytes();
    Ok(Context {
        actor: auth::caller(request)?.actor(),
        trace_id: trace_id(),
        request: request_id.map(|id| RequestKey { method, id, fingerprint }),
    })
}

/// The present trace in hexadecimal, empty where there is none.
#[must_use]
pub fn trace_id() -> String {
    propagation::trace_id(&tracing::Span::current()).unwrap_or_default()
}

/// The request's trace, for those who continue it elsewhere: the present span, and where nobody records spans what the caller sent.
#[must_use]
pub fn traceparent<T>(request: &Request<T>) -> Option<Traceparent> {
    let recorded = propagation::traceparent(&tracing::Span::current());
    let sent = || request.metadata().get(propagation::TRACEPARENT)?.to_str().ok().map(str::to_owned);
    recorded.or_else(sent).and_then(|text| Traceparent::from_optional_text(&text))
}

/// The id in `COLLECTION/{id}`.
///
/// # Errors
/// The name is not of that form.
pub fn resource_id(field: &'static str, collection: &str, name: &str) -> Result<Uuid, Status> {
    name.strip_prefix(collection)
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|id| id.len() == 36)
        .and_then(|id| Uuid::try_parse(id).ok())
        .ok_or_else(|| error::invalid(field, format!("{collection}/ID is expected, ID being a UUID")))
}
