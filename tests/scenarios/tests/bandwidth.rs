//! Bounds of what is sent: they hold, and a change reaches a transfer that runs.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Cli, Fleet, FleetOptions, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);

fn set(fleet: &Fleet, cli: &Cli, text: &str) -> Result<()> {
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, text)?;
    let set = cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    ensure!(set["rollout"]["state"] == "SUCCEEDED", "{set:#}");
    ensure!(!set["notInForce"].to_string().contains("bandwidth"), "{set:#}");
    Ok(())
}

fn moved(cli: &Cli, name: &str) -> Result<(Value, u64)> {
    let seen = cli.json(&["transfer", "get", name])?;
    let bytes = seen["progress"]["bytesDone"].as_str().unwrap_or("0").parse()?;
    Ok((seen, bytes))
}

#[test]
fn a_bound_holds_until_it_is_lifted_and_then_the_transfer_goes_on_at_once() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let data = fleet.agents[0].root("data").join("large");
    // 160 s at this rate.
    fill_random(&data, 20_000_000, 1)?;
    set(
        &fleet,
        &cli,
        "bandwidth:\n  total: 1mbit\n  peers: [\"site-b 1gbit\"]\n  schedule: [\"daily 00:00-24:00 1mbit\"]\n",
    )?;
    let limited =
        || Ok((metric(&fleet.agents[0].metrics(), "dwcp_amst_rate_limit_bits_per_second")? > 0.0).then_some(()));
    eventually("the bound to be in force", LIMIT, limited)?;
    let created = cli.json(&["send", "--from", "site-a", "data:/large", "site-b:data:/", "--detach"])?;
    let name = created["name"].as_str().context("a name")?.to_owned();
    let mut seen = Value::Null;
    eventually("bytes to arrive under the bound", LIMIT, || {
        let (transfer, bytes) = moved(&cli, &name)?;
        seen = transfer;
        Ok((bytes > 0).then_some(()))
    })
    .with_context(|| format!("{seen:#}"))?;
    ensure!(seen["state"] == "RUNNING", "{seen:#}");
    ensure!(metric(&fleet.agents[0].metrics(), "dwcp_amst_rate_waits_total")? > 0.0, "it waited for the bound");
    ensure!(metric(&fleet.agents[0].metrics(), "dwcp_amst_bytes_sent")? < 10_000_000.0, "what was sent is bounded");

    set(&fleet, &cli, "bandwidth:\n  total: null\n")?;
    let ended = cli.json(&["transfer", "watch", &name, "--timeout", "60s"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    // What held it up is said, with what would help.
    ensure!(ended["timeSpent"][0]["cause"] == "bandwidth_limit", "{ended:#}");
    let advice = ended["advice"].as_str().unwrap_or_default();
    ensure!(advice.contains("bandwidth and transport.pacing_rate"), "{advice}");
    ensure!(cli.ok(&["transfer", "get", &name])?.contains("bandwidth limit "), "the same for people");
    ensure!(fs::read(&data)? == fs::read(fleet.agents[1].root("data").join("large"))?, "the files differ");
    Ok(())
}
