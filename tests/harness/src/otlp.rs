//! An OTLP receiver that keeps what it is sent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span, as far as scenarios look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSpan {
    /// `service.name`.
    pub service: String,
    /// The span's name.
    pub name: String,
    /// In hexadecimal.
    pub trace_id: String,
    /// In hexadecimal.
    pub span_id: String,
    /// In hexadecimal; empty for a root.
    pub parent_id: String,
    /// What happened in it.
    pub events: Vec<SeenEvent>,
}

/// An event of a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenEvent {
    /// What.
    pub name: String,
    /// Texts, and numbers as text.
    pub attributes: BTreeMap<String, String>,
}

/// Keeps spans.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SeenSpan>>>, Arc<Mutex<Vec<u8>>>);

/// A running receiver.
#[derive(Debug)]
pub struct OtlpReceiver {
    kept: Kept,
    endpoint: String,
    server: JoinHandle<()>,
}

impl OtlpReceiver {
    /// Starts one on a port of its own.
    ///
    /// # Errors
    /// No port can be bound.
    #[allow(clippy::disallowed_methods, reason = "the handle owns the task")]
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let kept = Kept::default();
        let service = TraceServiceServer::new(kept.clone());
        let server = tokio::spawn(async move {
            let served = tonic::transport::Server::builder().add_service(service);
            if let Err(error) = served.serve_with_incoming(TcpListenerStream::new(listener)).await {
                eprintln!("the OTLP receiver ended: {error}");
            }
        });
        Ok(Self { kept, endpoint, server })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All that was received, as it travelled.
    #[must_use]
    pub fn raw(&self) -> Vec<u8> {
        self.kept.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All spans so far.
    #[must_use]
    pub fn spans(&self) -> Vec<SeenSpan> {
        self.kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = Vec::new();
        let bytes = request.get_ref().encode_to_vec();
        self.1.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        for resource in request.into_inner().resource_spans {
            let service = service_name(resource.resource.as_ref());
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(SeenSpan {
                    service: service.clone(),
                    name: span.name,
                    trace_id: hex::encode(span.trace_id),
                    span_id: hex::encode(span.span_id),
                    parent_id: hex::encode(span.parent_span_id),
                    events: span.events.into_iter().map(seen).collect(),
                });
            }
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

fn seen(event: opentelemetry_proto::tonic::trace::v1::span::Event) -> SeenEvent {
    let attribute = |attribute: KeyValue| Some((attribute.key, text(attribute.value?.value?)?));
    SeenEvent { name: event.name, attributes: event.attributes.into_iter().filter_map(attribute).collect() }
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::StringValue(text) => Some(text),
        Value::BoolValue(value) => Some(value.to_string()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn service_name(resource: Option<&opentelemetry_proto::tonic::resource::v1::Resource>) -> String {
    let attributes = resource.into_iter().flat_map(|resource| &resource.attributes);
    let mut named = attributes.filter(|attribute| attribute.key == "service.name");
    match named.next().and_then(|attribute| attribute.value.as_ref()).and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(name)) => name.clone(),
        _ => String::new(),
    }
}
