//! A span around each gRPC call, at either end; at the server also the metrics of [`crate::requests`].
//!
//! The span of a call that streams ends when the stream begins: a watch may last for days, and a span is exported at its end.

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use foundation_runtime::Clock;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{
    propagation,
    requests::{self, Outcome},
};

/// Which end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Takes the parent from the caller and counts.
    Server(&'static str),
    /// Gives the parent to the server.
    Client,
}

/// Wraps a service of gRPC.
#[derive(Clone, Debug)]
pub struct TraceLayer {
    end: End,
    clock: Clock,
    methods: Option<Arc<HashSet<String>>>,
}

/// A wrapped service.
#[derive(Clone, Debug)]
pub struct TraceService<S> {
    inner: S,
    layer: TraceLayer,
}

/// The answer of a wrapped service.
pub type TraceFuture<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl TraceLayer {
    /// For a server; `component` is who counts the requests.
    #[must_use]
    pub fn server(component: &'static str) -> Self {
        requests::register();
        Self { end: End::Server(component), clock: Clock::system(), methods: None }
    }

    /// For a client's channel.
    #[must_use]
    pub fn client() -> Self {
        Self { end: End::Client, clock: Clock::system(), methods: None }
    }

    /// The methods that there are, `dwcp.v1.NodeService/ListNodes` each: any other is called `unknown`, so that a stranger, whose calls are
    /// refused before they find no method, makes no series and no span names.
    #[must_use]
    pub fn with_methods(mut self, methods: impl IntoIterator<Item = String>) -> Self {
        self.methods = Some(Arc::new(methods.into_iter().collect()));
        self
    }

    fn method_name(&self, path: &str) -> String {
        let name = method_name(path);
        let known = self.methods.as_ref().is_none_or(|methods| methods.contains(&name));
        if known { name } else { "unknown".to_owned() }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TraceService { inner, layer: self.clone() }
    }
}

impl<S, B, R> Service<http::Request<B>> for TraceService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = TraceFuture<S::Response, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let method = self.layer.method_name(request.uri().path());
        let span = self.layer.span(&method);
        match self.layer.end {
            // Without a caller that traces, the span begins a trace.
            End::Server(_) => drop(propagation::adopt_headers(&span, request.headers())),
            End::Client => propagation::inject_headers(&span.context(), request.headers_mut()),
        }
        let calling = span.in_scope(|| self.inner.call(request));
        let layer = self.layer.clone();
        let work = async move {
            let started = layer.clock.now();
            let answer = calling.await;
            let code = match &answer {
                Ok(response) => response.headers().get("grpc-status").map_or(0, code_number),
                Err(_) => UNAVAILABLE,
            };
            layer.finish(&method, code, layer.clock.now().duration_since(started));
            answer
        };
        Box::pin(work.instrument(span))
    }
}

impl TraceLayer {
    fn span(&self, method: &str) -> Span {
        // The kind is part of the span's creation, hence two.
        match self.end {
            End::Server(_) => tracing::info_span!(
                "rpc",
                otel.name = method,
                otel.kind = "server",
                rpc.system.name = "grpc",
                rpc.method = method,
                rpc.response.status_code = Empty,
                "error.type" = Empty,
                otel.status_code = Empty,
            ),
            End::Client => tracing::info_span!(
                "rpc",
                otel.name = method,
                otel.kind = "client",
                rpc.system.name = "grpc",
                rpc.method = method,
                rpc.response.status_code = Empty,
                "error.type" = Empty,
                otel.status_code = Empty,
            ),
        }
    }

    fn finish(&self, method: &str, code: usize, took: std::time::Duration) {
        let name = CODES.get(code).copied().unwrap_or("UNKNOWN");
        let span = Span::current();
        span.record("rpc.response.status_code", name);
        let fault = is_fault(code);
        let failed = match self.end {
            End::Server(_) => fault,
            End::Client => code != 0,
        };
        if failed {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", name);
        }
        if let End::Server(component) = self.end {
            // A method that nobody serves must not make a series of its own.
            let method = if name == "UNIMPLEMENTED" { "unknown" } else { method };
            let outcome = if fault { Outcome::Fault } else { Outcome::Handled };
            requests::observe(component, method, name, outcome, took);
        }
    }
}

/// `dwcp.v1.NodeService/ListNodes`, of a path that is at most so long.
fn method_name(path: &str) -> String {
    const MAX: usize = 128;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/');
    let name = path.strip_prefix('/').unwrap_or(path);
    if name.len() <= MAX && name.chars().all(plain) { name.to_owned() } else { "unknown".to_owned() }
}

fn code_number(value: &http::HeaderValue) -> usize {
    value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(UNKNOWN)
}

const UNKNOWN: usize = 2;
const UNAVAILABLE: usize = 14;

/// gRPC's status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Whether it is the server's fault (the semantic conventions' list, without what a client alone can cause).
fn is_fault(code: usize) -> bool {
    matches!(
        CODES.get(code).copied(),
        None | Some("UNKNOWN" | "DEADLINE_EXCEEDED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS")
    )
}
