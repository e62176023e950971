//! An agent that has not joined runs, says so, and stops (D30).

use std::{ffi::OsString, fs, time::Duration};

use dataplane_agent::{
    command::{self, Asked},
    run,
};
use foundation_runtime::Clock;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::oneshot,
    time::{sleep, timeout},
};

#[allow(clippy::unwrap_used, reason = "a helper of a test")]
async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_agent_that_has_not_joined_runs_and_says_so() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let dir = tempfile::tempdir().unwrap();
    let line = format!(
        "dwcp-agent run --data-dir {} --http-listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0",
        dir.path().display()
    );
    let Ok(Asked::Run(args)) = command::parse(line.split(' ').map(OsString::from)) else { panic!("no run") };
    let (stop, stopped) = oneshot::channel::<()>();
    let running = Box::pin(run(*args, Clock::system(), async move { drop(stopped.await) }));
    let looking = async {
        let path = dir.path().join("ready.json");
        let bytes = loop {
            match fs::read(&path) {
                Ok(bytes) => break bytes,
                // Written by rename once all serves; there is nothing to wait on but the file.
                Err(_not_yet) => sleep(Duration::from_millis(10)).await,
            }
        };
        let ready: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&ready["name"], &ready["quic"]), (&Value::from(""), &Value::Null));
        assert_eq!(ready["node_id"].as_str().unwrap().len(), 40);
        let http = ready["http"].as_str().unwrap();
        let health = get(http, "/health").await;
        assert!(health.starts_with("HTTP/1.1 200") && health.contains(r#""status":"unjoined""#), "{health}");
        assert!(get(http, "/readyz").await.starts_with("HTTP/1.1 503"));
        let metrics = get(ready["metrics"].as_str().unwrap(), "/metrics").await;
        for name in ["dwcp_enabled 1", "dwcp_config_loaded 1", "dwcp_requests_total", "dwcp_errors_total 0"] {
            assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} in {metrics}");
        }
        assert!(get(http, "/metrics").await.contains("dwcp_build_info"));
        UnixStream::connect(dir.path().join("agent.sock")).await.unwrap();
        stop.send(()).unwrap();
    };
    let (ended, ()) = timeout(Duration::from_secs(60), async { tokio::join!(running, looking) }).await.unwrap();
    ended.unwrap();
    assert!(!dir.path().join("ready.json").exists());
}
