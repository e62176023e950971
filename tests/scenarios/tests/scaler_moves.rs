//! What the scaler does is seen where its effect is: in the span of each transfer, in the metrics, and in the status of the agent.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use chrono::DateTime;
use serde_json::Value;
use tests_harness::{Cli, Fleet, FleetOptions, OtlpReceiver, eventually, eventually_async, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);

fn set(fleet: &Fleet, cli: &Cli, text: &str) -> Result<()> {
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, text)?;
    let set = cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    ensure!(set["rollout"]["state"] == "SUCCEEDED", "{set:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_move_is_in_the_span_of_the_transfer_in_the_metrics_and_in_the_status() -> Result<()> {
    let otlp = OtlpReceiver::start().await?;
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), otlp.endpoint().to_owned());
    let fleet = Fleet::start(&FleetOptions { agent_environment: vec![endpoint], ..FleetOptions::default() })?;
    let cli = fleet.cli()?;
    fill_random(&fleet.agents[0].root("data").join("large"), 50_000_000, 1)?;
    // One stream carries all there is under this bound, and pieces wait for it: more are tried.
    let streams = "transport: {min_streams: 1, initial_streams: 1}";
    set(&fleet, &cli, &format!("{streams}\nbandwidth: {{total: 8mbit}}\n"))?;
    let created = cli.json(&["send", "--from", "site-a", "data:/large", "site-b:data:/", "--detach"])?;
    let name = created["name"].as_str().context("a name")?.to_owned();

    let url = format!("http://{}/api/v1/dwcp/status", fleet.agents[0].http());
    let mut moves = Vec::new();
    eventually("a move in the status", LIMIT, || {
        let answer = Command::new("curl").args(["-sf", &url]).output()?;
        let status: Value = serde_json::from_slice(&answer.stdout).with_context(|| format!("{url}: {answer:?}"))?;
        moves = status["transport"]["scaler"].as_array().cloned().unwrap_or_default();
        Ok(moves.iter().any(|moved| moved["of"] == "streams" && moved["reason"] == "waiting").then_some(()))
    })?;
    let first = moves.iter().rfind(|moved| moved["reason"] == "waiting").context("a move")?;
    ensure!(first["from"] == 1 && first["to"] == 2, "{first:#}");
    ensure!(first["bytes_per_second"].as_f64().is_some_and(|goodput| goodput > 100_000.0), "{first:#}");
    DateTime::parse_from_rfc3339(first["at"].as_str().unwrap_or_default()).context("a time")?;
    let counted =
        metric(&fleet.agents[0].metrics(), "dwcp_amst_scaler_moves_total{of=\"streams\",reason=\"waiting\"}")?;
    ensure!(counted >= 1.0, "{counted}");

    set(&fleet, &cli, &format!("{streams}\n"))?;
    let ended = cli.json(&["transfer", "watch", &name, "--timeout", "60s"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    let spans = eventually_async("the spans of both ends", LIMIT, || {
        let spans = otlp.spans();
        let of = |name: &str| spans.iter().find(|span| span.name == name).cloned();
        let both = of("transfer send").zip(of("transfer receive"));
        async move { Ok(both) }
    })
    .await?;
    let [sent, received] = [&spans.0, &spans.1].map(|span| &span.events);
    let begun = sent.iter().find(|event| event.name == "Session used").context("with how many streams it began")?;
    ensure!(begun.attributes.get("streams").is_some_and(|streams| streams == "1"), "{begun:?}");
    ensure!(received.iter().any(|event| event.name == "Session used"), "{received:?}");
    let moved = sent.iter().find(|event| event.name == "Streams scaled").with_context(|| format!("{sent:?}"))?;
    let of = |name: &str| moved.attributes.get(name).map(String::as_str).unwrap_or_default();
    ensure!((of("from"), of("to"), of("reason")) == ("1", "2", "waiting"), "{moved:?}");
    ensure!(of("goodput").parse::<f64>()? > 100_000.0, "{moved:?}");
    Ok(())
}
