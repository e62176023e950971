//! The agent's HTTP side: health, status and metrics for people, probes and Prometheus.
//!
//! Everything is read only. This machine sees all, behind a check that no web page asks; others need TLS and a token for more than the liveness
//! paths in a word (D27). Requests are limited by class of path and address, those of probes and scrapes are not.

mod access;
mod guard;
mod limit;
mod pages;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use foundation_listener::{
    Gate,
    http_server::{HttpPort, Peer, Times},
    limit_hits,
};
use foundation_runtime::Clock;
use foundation_telemetry::requests::{Outcome, observe};
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

pub(crate) use access::{Access, Credentials};
pub(crate) use pages::{ConfigView, Snapshot};

use guard::{Asked, Detail};
pub(crate) use limit::Rates;
use limit::{Class, Limiter};

/// What the pages show.
pub(crate) trait View: Send + Sync + fmt::Debug + 'static {
    /// The agent as it is now.
    fn snapshot(&self) -> Snapshot;
    /// Metrics in Prometheus' text form.
    fn metrics(&self) -> BoxFuture<'_, String>;
    /// The peers that are known, one JSON object each.
    fn peers(&self) -> BoxFuture<'_, Vec<Value>>;
    /// How much is answered to one address.
    fn rates(&self) -> Rates;
    /// Where metrics are served, `/metrics` besides.
    fn metrics_path(&self) -> String;
    /// What callers from elsewhere need.
    fn access(&self) -> Access;
}

/// A port with a router.
pub(crate) fn port(name: &'static str, router: Router, gate: Gate, access: Access) -> HttpPort {
    HttpPort { name, gate, tls: Arc::new(move || access.tls()), router, times: Times::default() }
}

#[derive(Debug, Clone)]
struct Served {
    view: Arc<dyn View>,
    clock: Clock,
    limiter: Arc<Mutex<Limiter>>,
}

/// All paths.
pub(crate) fn router(view: Arc<dyn View>, clock: Clock) -> Router {
    let served = Served { view, clock, limiter: Arc::default() };
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/ping", get(async || Json(json!({"status": "ok"}))))
        .route("/health", get(health))
        .route("/status", get(async |State(served): State<Served>| Json(pages::status(&served.view.snapshot()))))
        .route("/peers", get(async |State(served): State<Served>| Json(Value::Array(served.view.peers().await))))
        .route("/metrics", get(metrics))
        .route(
            "/api/v1/dwcp/status",
            get(async |State(served): State<Served>| Json(pages::dwcp_status(&served.view.snapshot()))),
        )
        .route("/api/v1/dwcp/amst/config", get(async |State(served): State<Served>| Json(served.view.snapshot().amst)))
        .route("/api/v1/dwcp/hde/config", get(async |State(served): State<Served>| Json(served.view.snapshot().hde)))
        .route(
            "/api/v1/dwcp/hde/stats",
            get(async |State(served): State<Served>| Json(served.view.snapshot().hde_stats)),
        )
        .route(
            "/api/dht/bootstrap",
            get(async |State(served): State<Served>| Json(served.view.snapshot().dht_bootstrap)),
        )
        .route("/api/dht/topology", get(async |State(served): State<Served>| Json(served.view.snapshot().dht_topology)))
        .route("/api/dht/stats", get(async |State(served): State<Served>| Json(served.view.snapshot().dht_stats)))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .layer(middleware::from_fn_with_state(served.clone(), admit))
        .with_state(served)
}

/// The metrics port: `/metrics`, the configured path, and whether it lives.
pub(crate) fn metrics_router(view: Arc<dyn View>, clock: Clock) -> Router {
    let served = Served { view, clock, limiter: Arc::default() };
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .fallback(async |State(served): State<Served>, request: Request| {
            let path = request.uri().path();
            if !request.method().is_safe() {
                return refuse(StatusCode::METHOD_NOT_ALLOWED, "metrics are only read");
            }
            if path == "/metrics" || path == served.view.metrics_path() {
                metrics(State(served)).await
            } else {
                refuse(StatusCode::NOT_FOUND, "metrics are at /metrics")
            }
        })
        .layer(middleware::from_fn_with_state(served.clone(), admit))
        .with_state(served)
}

async fn admit(State(served): State<Served>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the connection is not known");
    };
    let began = served.clock.now();
    let class = served.class(&request, peer);
    let answer = match served.check(&request, peer) {
        Err(refusal) => {
            let admitted = if refusal == guard::Refusal::Token { served.limit(class, peer, began) } else { Ok(()) };
            admitted.map_or_else(slow_down, |()| refuse(refusal.status(), &refusal.to_string()))
        }
        Ok(detail) => match served.limit(class, peer, began) {
            Ok(()) => {
                request.extensions_mut().insert(detail);
                next.run(request).await
            }
            Err(wait) => slow_down(wait),
        },
    };
    let took = served.clock.now().saturating_duration_since(began);
    // A health answer of 503 is what was asked for, not an error of ours.
    let fault = answer.status().is_server_error() && class != Class::Exempt;
    let outcome = if fault { Outcome::Fault } else { Outcome::Handled };
    observe("http", class.as_str(), answer.status().as_str(), outcome, took);
    answer
}

impl Served {
    /// How the request is limited: who tries tokens from elsewhere is, also where a probe is not.
    fn class(&self, request: &Request, peer: Peer) -> Class {
        let elsewhere = !peer.address.ip().is_loopback() && request.headers().contains_key(header::AUTHORIZATION);
        match Class::of(request.uri().path()) {
            Class::Exempt if elsewhere => Class::Other,
            class => class,
        }
    }

    fn check(&self, request: &Request, peer: Peer) -> Result<Detail, guard::Refusal> {
        let path = request.uri().path();
        let asked = Asked {
            peer,
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            metrics: path == "/metrics" || path == self.view.metrics_path(),
        };
        guard::check(asked, &self.view.access())
    }

    fn limit(&self, class: Class, peer: Peer, now: Instant) -> Result<(), Duration> {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.set_rates(self.view.rates());
        limiter.admit(class, peer.address.ip(), now).inspect_err(|_wait| limit_hits::hit(class.limit()))
    }
}

async fn readyz(State(served): State<Served>, request: Request) -> Response {
    let snapshot = served.view.snapshot();
    let verbose = request.uri().query().is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
    let detail = request.extensions().get::<Detail>().copied().unwrap_or(Detail::Word);
    let status = if pages::is_ready(&snapshot) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if verbose && detail == Detail::Full {
        (status, pages::readyz(&snapshot)).into_response()
    } else {
        (status, if status == StatusCode::OK { "ok\n" } else { "not ready\n" }).into_response()
    }
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct HealthQuery {
    verbose: Option<String>,
}

async fn health(State(served): State<Served>, Query(query): Query<HealthQuery>, request: Request) -> Response {
    let snapshot = served.view.snapshot();
    let detail = request.extensions().get::<Detail>().copied().unwrap_or(Detail::Word);
    let verbose = query.verbose.is_some_and(|verbose| verbose != "false" && verbose != "0");
    let body = match (detail, verbose) {
        (Detail::Word, _) => pages::health_word(&snapshot),
        (Detail::Full, false) => pages::health(&snapshot),
        (Detail::Full, true) => pages::health_verbose(&snapshot),
    };
    let unhealthy = snapshot.overall == crate::health::Level::Unhealthy;
    (if unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, Json(body)).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let kind = HeaderValue::from_static(foundation_telemetry::metrics_http::content_type());
    ([(header::CONTENT_TYPE, kind)], served.view.metrics().await).into_response()
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({"error": {"code": status.as_u16(), "message": why}}))).into_response()
}

fn slow_down(wait: Duration) -> Response {
    let seconds = wait.as_secs() + 1;
    let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, &format!("too many requests; try again in {seconds} s"));
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

#[cfg(test)]
mod tests;
