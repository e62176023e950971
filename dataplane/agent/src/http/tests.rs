use std::net::IpAddr;

use axum::body::Body;
use tower::ServiceExt as _;

use super::*;
use crate::health::{Component, Health};

#[derive(Debug)]
struct Fixed(Health, bool);

impl View for Fixed {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            joined: self.1,
            name: "edge-a".to_owned(),
            node_id: "00".repeat(20),
            version: "0.1.0",
            uptime_seconds: 1,
            enabled: true,
            overall: self.0.overall(),
            board: self.0.board(),
            recent_errors: Vec::new(),
            config: ConfigView { status: "applied", ..ConfigView::default() },
            control_plane: Value::Null,
            transport: Value::Null,
            transfers: Value::Null,
            amst: json!({"min_streams": 16}),
            hde: json!({}),
            hde_stats: json!({}),
            dht_bootstrap: json!({}),
            dht_topology: json!({}),
            dht_stats: json!({}),
            peer_count: 0,
            sync_progress: 1.0,
        }
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async { "dwcp_enabled 1\n".to_owned() })
    }

    fn peers(&self) -> BoxFuture<'_, Vec<Value>> {
        Box::pin(async { Vec::new() })
    }

    fn rates(&self) -> Rates {
        Rates::default()
    }

    fn metrics_path(&self) -> String {
        "/metrics".to_owned()
    }

    fn access(&self) -> Access {
        Access::default()
    }
}

fn agent(joined: bool) -> Router {
    let health = Health::default();
    health.healthy(Component::AmstTransport);
    health.healthy(Component::HdeCompression);
    router(Arc::new(Fixed(health, joined)), Clock::system())
}

async fn ask(router: &Router, peer: &str, path: &str) -> (StatusCode, String) {
    let peer = Peer { address: (peer.parse::<IpAddr>().unwrap(), 1).into(), tls: false };
    let request = Request::builder().uri(path).header(header::HOST, "localhost");
    let request = request.extension(peer).body(Body::empty()).unwrap();
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn health_has_the_shape_of_both_manuals() {
    let (status, body) = ask(&agent(true), "127.0.0.1", "/health").await;
    let value: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(value["status"], "healthy");
    assert_eq!(value["version"], "0.1.0");
    assert_eq!(value["components"]["amst_transport"], json!({"status": "healthy"}));
    let (_, body) = ask(&agent(true), "127.0.0.1", "/health?verbose=true").await;
    let value: Value = serde_json::from_str(&body).unwrap();
    for part in ["recent_errors", "configuration", "performance", "components"] {
        assert!(value.get(part).is_some(), "{part}");
    }
}

#[tokio::test]
async fn an_agent_that_has_not_joined_says_so_and_is_not_ready() {
    let agent = agent(false);
    assert_eq!(serde_json::from_str::<Value>(&ask(&agent, "::1", "/health").await.1).unwrap()["status"], "unjoined");
    let (status, body) = ask(&agent, "::1", "/readyz?verbose").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.starts_with("[-]joined failed") && body.ends_with("readyz check failed\n"), "{body}");
    assert_eq!(ask(&agent, "::1", "/livez").await.0, StatusCode::OK);
}

#[tokio::test]
async fn another_host_gets_one_word_and_nothing_else() {
    let agent = agent(true);
    assert_eq!(ask(&agent, "192.0.2.1", "/health?verbose=true").await.1, r#"{"status":"healthy"}"#);
    for path in ["/status", "/metrics", "/peers", "/api/v1/dwcp/status"] {
        assert_eq!(ask(&agent, "192.0.2.1", path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn lists_are_arrays_and_a_flood_is_slowed() {
    let agent = agent(true);
    assert_eq!(ask(&agent, "127.0.0.1", "/peers").await, (StatusCode::OK, "[]".to_owned()));
    for _ in 0..99 {
        ask(&agent, "127.0.0.1", "/peers").await;
    }
    assert_eq!(ask(&agent, "127.0.0.1", "/peers").await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask(&agent, "127.0.0.1", "/status").await.0, StatusCode::OK);
}
