//! One trace runs through command line, control plane, sender and receiver; also when a transfer is begun with grpcurl; and
//! a real Jaeger shows it.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tests_harness::{
    ControlPlaneOptions, Fleet, FleetOptions, OtlpReceiver, Process, Scratch, SeenSpan, eventually, eventually_async,
    grpcurls,
};

const LIMIT: Duration = Duration::from_secs(60);

fn traced(endpoint: &str) -> FleetOptions {
    let environment = vec![("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint.to_owned())];
    FleetOptions {
        control_plane: ControlPlaneOptions { environment: environment.clone(), ..ControlPlaneOptions::default() },
        agent_environment: environment,
        ..FleetOptions::default()
    }
}

fn prepared(fleet: &Fleet) -> Result<()> {
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    fs::write(source.join("file"), vec![9; 5_000_000])?;
    Ok(())
}

/// The spans of a trace, once it has a span of each name; every parent of them must be among them.
fn whole(spans: &[SeenSpan], trace: &str, names: &[&str]) -> Option<Vec<SeenSpan>> {
    let ours: Vec<_> = spans.iter().filter(|span| span.trace_id == trace).cloned().collect();
    let ids: BTreeSet<_> = ours.iter().map(|span| span.span_id.as_str()).collect();
    let named = names.iter().all(|name| ours.iter().any(|span| span.name == *name));
    let connected = ours.iter().all(|span| span.parent_id.is_empty() || ids.contains(span.parent_id.as_str()));
    (named && connected).then_some(ours)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_send_is_whole_from_the_command_line_to_the_receiver() -> Result<()> {
    let otlp = OtlpReceiver::start().await?;
    let fleet = Fleet::start(&traced(otlp.endpoint()))?;
    prepared(&fleet)?;
    let cli = fleet.cli()?.with("OTEL_EXPORTER_OTLP_ENDPOINT", PathBuf::from(otlp.endpoint()));
    let sent = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    let trace = sent["traceId"].as_str().context("a transfer has a trace")?.to_owned();
    let names = ["dwcp send", "dwcp.v1.TransferService/CreateTransfer", "transfer send", "transfer receive"];
    let spans = eventually_async("the whole trace", LIMIT, || {
        let found = whole(&otlp.spans(), &trace, &names);
        async move { Ok(found) }
    })
    .await
    .with_context(|| format!("{:#?}", otlp.spans().into_iter().filter(|s| s.trace_id == trace).collect::<Vec<_>>()))?;
    let services: BTreeSet<_> = spans.iter().map(|span| span.service.as_str()).collect();
    assert_eq!(services, BTreeSet::from(["dwcp", "dwcp-agent", "dwcp-control-plane"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_begun_with_grpcurl_has_a_trace_too() -> Result<()> {
    let otlp = OtlpReceiver::start().await?;
    let fleet = Fleet::start(&traced(otlp.endpoint()))?;
    prepared(&fleet)?;
    let Some(grpcurl) = grpcurls().into_iter().next() else { return Ok(()) };
    let request = r#"{"spec":{"sourceNode":"nodes/site-a","sourcePaths":["data:/set"],
                      "destinationNode":"nodes/site-b","destinationPath":"data:/in"}}"#;
    let created = grpcurl.run(&fleet.control_plane, &["-d", request], &["dwcp.v1.TransferService/CreateTransfer"])?;
    let created: Value = serde_json::from_str(&created.stdout).with_context(|| created.stderr.clone())?;
    let trace = created["traceId"].as_str().context("a transfer has a trace")?.to_owned();
    let names = ["dwcp.v1.TransferService/CreateTransfer", "transfer send", "transfer receive"];
    eventually_async("the whole trace", LIMIT, || {
        let found = whole(&otlp.spans(), &trace, &names);
        async move { Ok(found) }
    })
    .await?;
    Ok(())
}

#[test]
fn a_real_jaeger_shows_the_trace() -> Result<()> {
    let program = std::env::var_os("DWCP_TEST_TOOLS").map(|tools| PathBuf::from(tools).join("jaeger"));
    let Some(program) = program.filter(|program| program.exists()) else {
        eprintln!("no Jaeger in DWCP_TEST_TOOLS (it needs Go to be built): skipped");
        return Ok(());
    };
    let scratch = Scratch::new()?;
    let [otlp, query] = free_ports()?;
    let mut command = Command::new(program);
    command.args([
        "--collector.otlp.enabled=true".to_owned(),
        format!("--collector.otlp.grpc.host-port=127.0.0.1:{otlp}"),
        "--collector.otlp.http.host-port=127.0.0.1:0".to_owned(),
        format!("--query.http-server.host-port=127.0.0.1:{query}"),
        "--query.grpc-server.host-port=127.0.0.1:0".to_owned(),
        "--admin.http.host-port=127.0.0.1:0".to_owned(),
        "--collector.http-server.host-port=127.0.0.1:0".to_owned(),
        "--collector.grpc-server.host-port=127.0.0.1:0".to_owned(),
    ]);
    let mut jaeger = Process::start("jaeger", &mut command, &scratch.path().join("jaeger.log"))?;
    eventually("Jaeger to listen", LIMIT, || {
        jaeger.check_alive()?;
        Ok(std::net::TcpStream::connect(("127.0.0.1", otlp)).is_ok().then_some(()))
    })?;

    let endpoint = format!("http://127.0.0.1:{otlp}");
    let fleet = Fleet::start(&traced(&endpoint))?;
    prepared(&fleet)?;
    let cli = fleet.cli()?.with("OTEL_EXPORTER_OTLP_ENDPOINT", PathBuf::from(endpoint));
    let sent = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    let trace = sent["traceId"].as_str().context("a transfer has a trace")?.to_owned();
    eventually("Jaeger to show the trace", LIMIT, || {
        let url = format!("http://127.0.0.1:{query}/api/traces/{trace}");
        let answer = Command::new("curl").args(["-s", &url]).output()?;
        let text = String::from_utf8_lossy(&answer.stdout);
        let all = ["transfer send", "transfer receive", "CreateTransfer"].iter().all(|name| text.contains(name));
        Ok(all.then_some(()))
    })
}

/// Ports that nobody had a moment ago, for a program that cannot be given 0.
fn free_ports() -> Result<[u16; 2]> {
    let first = std::net::TcpListener::bind("127.0.0.1:0")?;
    let second = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok([first.local_addr()?.port(), second.local_addr()?.port()])
}
