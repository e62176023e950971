//! The paths, as those see them who ask from here and from elsewhere.

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use http::{Request, header};
use tower::ServiceExt as _;

use super::*;
use crate::{FleetStatus, Peer, Rate};

#[derive(Clone)]
struct Twin {
    database: bool,
}

impl Backend for Twin {
    fn version(&self) -> &'static str {
        "1.2.3"
    }
    fn uptime_seconds(&self) -> u64 {
        7
    }
    async fn components(&self) -> BTreeMap<&'static str, Component> {
        let database = if self.database { Component::healthy() } else { Component::unhealthy("it is gone") };
        [("database", database), ("grpc", Component::healthy())].into()
    }
    async fn fleet(&self) -> Result<FleetStatus, Unavailable> {
        let fleet_id = "f".to_owned();
        Ok(FleetStatus { fleet_id, epoch: 1, generation: 4, nodes: 3, connected_agents: 2, audit_size: 9 })
    }
    async fn configuration(&self) -> Result<Value, Unavailable> {
        Ok(json!({"enabled": true, "transport": {"min_streams": 16}}))
    }
    async fn encoding(&self) -> Result<Value, Unavailable> {
        Ok(json!({"transfers": 2}))
    }
    async fn topology(&self) -> Result<Value, Unavailable> {
        Ok(json!({"nodes": []}))
    }
    async fn admits(&self, token: String) -> Result<bool, Unavailable> {
        if self.database { Ok(token == "good") } else { Err(Unavailable) }
    }
    fn opens_metrics(&self, token: &str) -> bool {
        token == "scrape"
    }
    async fn metrics(&self) -> String {
        "dwcp_requests_total 1\n".to_owned()
    }
    async fn dht_ring(&self) -> Result<Vec<String>, Unavailable> {
        Ok(vec!["192.0.2.1:30610".to_owned()])
    }
    fn dht_stats(&self) -> Option<Value> {
        None
    }
}

const HERE: Peer =
    Peer { address: SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1), tls: false };

fn elsewhere(tls: bool) -> Peer {
    Peer { address: "192.0.2.9:1".parse().unwrap(), tls }
}

async fn ask(peer: Peer, path: &str, headers: &[(&str, &str)], database: bool) -> (StatusCode, String) {
    let rate = Rate { requests: 100.try_into().unwrap(), per: Duration::from_secs(60) };
    let mut request = Request::get(path).header(header::HOST, "localhost:7443");
    for (name, value) in headers {
        request.headers_mut().unwrap().insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(peer);
    let response = router(Twin { database }, Limits::new(rate, rate)).oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn answers_as_the_manuals_expect() {
    assert_eq!(ask(HERE, "/ping", &[], true).await, (StatusCode::OK, r#"{"status":"ok"}"#.to_owned()));
    let (_, health) = ask(HERE, "/health", &[], true).await;
    let health: Value = serde_json::from_str(&health).unwrap();
    assert_eq!((&health["status"], &health["version"]), (&json!("healthy"), &json!("1.2.3")));
    assert_eq!(health["components"]["database"], json!({"status": "healthy"}));
    let (_, verbose) = ask(HERE, "/health?verbose=true", &[], true).await;
    assert_eq!(serde_json::from_str::<Value>(&verbose).unwrap()["configuration"]["generation"], 4);
    let (_, ready) = ask(HERE, "/readyz?verbose", &[], true).await;
    assert_eq!(ready, "[+]database ok\n[+]grpc ok\nreadyz check passed\n");
    assert_eq!(ask(HERE, "/api/v1/dwcp/amst/config", &[], true).await.1, r#"{"min_streams":16}"#);
    assert_eq!(ask(HERE, "/api/dht/bootstrap", &[], true).await.1, r#"["192.0.2.1:30610"]"#);
    assert_eq!(ask(HERE, "/nowhere", &[], true).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn says_so_when_a_part_is_down() {
    let (code, text) = ask(HERE, "/readyz?verbose", &[], false).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.starts_with("[-]database it is gone\n"), "{text}");
    assert_eq!(ask(HERE, "/health", &[], false).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(HERE, "/livez", &[], false).await.0, StatusCode::OK);
}

#[tokio::test]
async fn no_web_page_and_no_proxy_passes_for_this_machine() {
    assert_eq!(ask(HERE, "/status", &[], true).await.0, StatusCode::OK);
    for headers in [
        ("host", "evil.example"),
        ("origin", "https://evil.example"),
        ("x-forwarded-for", "192.0.2.9"),
        ("sec-fetch-site", "cross-site"),
    ] {
        assert_eq!(ask(HERE, "/status", &[headers], true).await.0, StatusCode::FORBIDDEN, "{headers:?}");
    }
    assert_eq!(ask(HERE, "/status", &[("origin", "http://localhost:7443")], true).await.0, StatusCode::OK);
}

#[tokio::test]
async fn elsewhere_needs_tls_and_a_token_but_for_what_is_public() {
    let token = ("authorization", "Bearer good");
    assert_eq!(ask(elsewhere(false), "/status", &[token], true).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(elsewhere(true), "/status", &[], true).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(
        ask(elsewhere(true), "/status", &[("authorization", "Bearer bad")], true).await.0,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(ask(elsewhere(true), "/status", &[token], true).await.0, StatusCode::OK);
    assert_eq!(ask(elsewhere(true), "/status", &[token], false).await.0, StatusCode::SERVICE_UNAVAILABLE);

    let scrape = ("authorization", "Bearer scrape");
    assert_eq!(ask(elsewhere(true), "/metrics", &[scrape], true).await.0, StatusCode::OK);
    assert_eq!(ask(elsewhere(true), "/status", &[scrape], true).await.0, StatusCode::UNAUTHORIZED);

    for path in ["/livez", "/readyz?verbose", "/ping"] {
        assert_eq!(ask(elsewhere(false), path, &[], true).await.0, StatusCode::OK, "{path}");
    }
    let (_, health) = ask(elsewhere(false), "/health?verbose=true", &[], true).await;
    assert_eq!(health, r#"{"status":"healthy","version":"1.2.3"}"#);
}
