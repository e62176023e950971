//! The HTTP port and the metrics port, on what all ports have in common; requests to the API are counted.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use foundation_listener::{
    Gate,
    http_server::{HttpPort, Times},
};
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use foundation_telemetry::requests::{self, Outcome};
use tokio::net::TcpListener;

use crate::limits::{Limits, count, seconds};

/// Serves a router on a port until the tasks are to end.
pub(crate) fn serve(
    clock: &Clock,
    tasks: &TaskGroup,
    limits: &Limits,
    (name, listener): (&'static str, TcpListener),
    tls: Arc<rustls::ServerConfig>,
    router: Router,
) {
    let port = HttpPort {
        name,
        gate: Gate::new("limits.http_connections", count(limits.http_connections)),
        tls: Arc::new(move || Some(Arc::clone(&tls))),
        router: router.layer(middleware::from_fn_with_state(clock.clone(), counted)),
        times: Times {
            handshake: seconds(limits.handshake_seconds),
            head: seconds(limits.head_seconds),
            stalled: seconds(limits.stalled_seconds),
            ..Times::default()
        },
    };
    tasks.spawn(name, OnEnd::Fatal, port.serve(listener, tasks.clone()));
}

/// Answers, and counts what asked for the API: what monitors ask all the time would hide its errors.
async fn counted(State(clock): State<Clock>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let begun = clock.now();
    let response = next.run(request).await;
    if path.starts_with("/api/") {
        let status = response.status();
        // A path is a label only where it exists: no stranger makes up series.
        let method = if status.is_success() || status.is_server_error() { path.as_str() } else { "unknown" };
        let outcome = if status.is_server_error() { Outcome::Fault } else { Outcome::Handled };
        requests::observe("http", method, status.as_str(), outcome, clock.now() - begun);
    }
    response
}
