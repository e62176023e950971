//! The paths and their answers.

use std::collections::BTreeMap;

use axum::{
    Extension, Json, Router,
    extract::{Query, State},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::{
    Backend, Component, ComponentState, Limits, Unavailable,
    access::{self, Detail},
    error::error,
    limits,
};

/// Prometheus' text format; OpenMetrics would forbid counters without `_total`.
const METRICS_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// All paths.
pub fn router<B: Backend>(backend: B, limits: Limits) -> Router {
    let routes = alive(Router::new())
        .route("/health", get(health::<B>))
        .route("/status", get(status::<B>))
        .route("/metrics", get(metrics::<B>))
        .route("/api/v1/dwcp/status", get(dwcp_status::<B>))
        .route("/api/v1/dwcp/amst/config", get(amst_config::<B>))
        .route("/api/v1/dwcp/hde/config", get(hde_config::<B>))
        .route("/api/v1/dwcp/hde/stats", get(hde_stats::<B>))
        .route("/api/dht/topology", get(dht_topology::<B>))
        .route("/api/dht/bootstrap", get(dht_bootstrap::<B>))
        .route("/api/dht/stats", get(dht_stats::<B>));
    guarded(routes, backend, limits)
}

/// The paths of the metrics port: metrics, and whether it is alive.
pub fn metrics_only<B: Backend>(backend: B, limits: Limits) -> Router {
    guarded(alive(Router::new()).route("/metrics", get(metrics::<B>)), backend, limits)
}

fn alive<B: Backend>(router: Router<B>) -> Router<B> {
    router.route("/livez", get(livez)).route("/readyz", get(readyz::<B>)).route("/ping", get(ping))
}

fn guarded<B: Backend>(router: Router<B>, backend: B, limits: Limits) -> Router {
    let set = |name: HeaderName, value| SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value));
    router
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is no such path") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        // The last layer is asked first: how often, then who.
        .layer(middleware::from_fn_with_state(backend.clone(), access::check::<B>))
        .layer(middleware::from_fn_with_state(limits, limits::check))
        .layer(set(header::CACHE_CONTROL, "no-store"))
        .layer(set(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(set(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .with_state(backend)
}

/// `?verbose`, `?verbose=`, `?verbose=true`, `?verbose=1`.
#[derive(Debug, Deserialize)]
struct Verbosity {
    verbose: Option<String>,
}

impl Verbosity {
    fn is_on(&self) -> bool {
        self.verbose.as_deref().is_some_and(|value| ["", "1", "true", "yes"].contains(&value))
    }
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn ping() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

async fn readyz<B: Backend>(
    State(backend): State<B>,
    Extension(detail): Extension<Detail>,
    Query(verbosity): Query<Verbosity>,
) -> Response {
    let components = backend.components().await;
    let ready = overall(&components) != ComponentState::Unhealthy;
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !(verbosity.is_on() && detail == Detail::Full) {
        return (code, if ready { "ok\n" } else { "not ready\n" }).into_response();
    }
    let mut text = String::new();
    for (name, component) in &components {
        let mark = if component.status == ComponentState::Unhealthy { '-' } else { '+' };
        let word = component.error.as_deref().unwrap_or("ok");
        text.push_str(&format!("[{mark}]{name} {word}\n"));
    }
    text.push_str(if ready { "readyz check passed\n" } else { "readyz check failed\n" });
    (code, text).into_response()
}

/// The server works as well as its worst part.
fn overall(components: &BTreeMap<&'static str, Component>) -> ComponentState {
    components.values().map(|component| component.status).max().unwrap_or(ComponentState::Healthy)
}

async fn health<B: Backend>(
    State(backend): State<B>,
    Extension(detail): Extension<Detail>,
    Query(verbosity): Query<Verbosity>,
) -> Response {
    let components = backend.components().await;
    let overall = overall(&components);
    let code = if overall == ComponentState::Unhealthy { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let mut body = json!({"status": overall, "version": backend.version()});
    if detail == Detail::Full {
        let parts: serde_json::Map<String, Value> = components
            .iter()
            .map(|(name, part)| {
                let shown = if verbosity.is_on() { json!(part) } else { json!({"status": part.status}) };
                ((*name).to_owned(), shown)
            })
            .collect();
        body["components"] = Value::Object(parts);
        if verbosity.is_on() {
            add_detail(&mut body, &backend, &components).await;
        }
    }
    (code, Json(body)).into_response()
}

/// What DW-6 calls a deep dive: recent errors, configuration, performance.
async fn add_detail<B: Backend>(body: &mut Value, backend: &B, components: &BTreeMap<&'static str, Component>) {
    let errors: Vec<Value> = components
        .iter()
        .filter_map(|(name, part)| part.error.as_ref().map(|error| json!({"component": name, "error": error})))
        .collect();
    body["recent_errors"] = Value::Array(errors);
    body["performance"] = json!({
        "uptime_seconds": backend.uptime_seconds(),
        "database_latency_ms": components.get("database").and_then(|part| part.latency_ms),
    });
    if let Ok(fleet) = backend.fleet().await {
        body["configuration"] = json!({"loaded": true, "epoch": fleet.epoch, "generation": fleet.generation});
        body["fleet"] = json!(fleet);
    }
}

async fn status<B: Backend>(State(backend): State<B>) -> Result<Json<Value>, Unavailable> {
    let fleet = backend.fleet().await?;
    let health = overall(&backend.components().await);
    Ok(Json(json!({
        "status": health,
        "version": backend.version(),
        "role": "control-plane",
        "uptime_seconds": backend.uptime_seconds(),
        "fleet_id": fleet.fleet_id,
        "epoch": fleet.epoch,
        "generation": fleet.generation,
        "nodes": fleet.nodes,
        "peer_count": fleet.connected_agents,
        "connected_agents": fleet.connected_agents,
        "audit_size": fleet.audit_size,
        // The control plane writes the log that others follow.
        "sync_progress": 1.0,
    })))
}

async fn metrics<B: Backend>(State(backend): State<B>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], backend.metrics().await).into_response()
}

async fn dwcp_status<B: Backend>(State(backend): State<B>) -> Result<Json<Value>, Unavailable> {
    let configuration = backend.configuration().await?;
    let fleet = backend.fleet().await?;
    Ok(Json(json!({
        "enabled": configuration.get("enabled").and_then(Value::as_bool).unwrap_or(true),
        "version": backend.version(),
        "phase": "phase1",
        "nodes": fleet.nodes,
        "connected_agents": fleet.connected_agents,
    })))
}

async fn amst_config<B: Backend>(State(backend): State<B>) -> Result<Json<Value>, Unavailable> {
    section(&backend, "transport").await
}

async fn hde_config<B: Backend>(State(backend): State<B>) -> Result<Json<Value>, Unavailable> {
    section(&backend, "compression").await
}

async fn section<B: Backend>(backend: &B, name: &str) -> Result<Json<Value>, Unavailable> {
    let mut configuration = backend.configuration().await?;
    Ok(Json(configuration.get_mut(name).map_or_else(|| json!({}), Value::take)))
}

async fn hde_stats<B: Backend>(State(backend): State<B>) -> Result<Json<Value>, Unavailable> {
    Ok(Json(backend.encoding().await?))
}

async fn dht_topology<B: Backend>(State(backend): State<B>) -> Result<Json<Value>, Unavailable> {
    Ok(Json(backend.topology().await?))
}

async fn dht_bootstrap<B: Backend>(State(backend): State<B>) -> Result<Json<Value>, Unavailable> {
    Ok(Json(json!(backend.dht_ring().await?)))
}

async fn dht_stats<B: Backend>(State(backend): State<B>) -> Response {
    match backend.dht_stats() {
        Some(stats) => Json(stats).into_response(),
        None => error(StatusCode::NOT_FOUND, "this server has no DHT node (--dht-listen none)"),
    }
}

#[cfg(test)]
mod tests;
