//! `enabled: false` (DW-7): data goes by a plain path, one stream and no delta, and status and metrics say so. Switched off and on again while
//! a transfer runs, nothing is lost.

use std::{fs, io::Write as _, os::unix::fs::FileExt as _, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Agent, Cli, Fleet, FleetOptions, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);
const BYTES: u64 = 6_000_000;

fn set(fleet: &Fleet, cli: &Cli, text: &str) -> Result<()> {
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, text)?;
    let set = cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    ensure!(set["rollout"]["state"] == "SUCCEEDED", "{set:#}");
    Ok(())
}

fn page(agent: &Agent, path: &str) -> Result<Value> {
    let got = Command::new("curl").args(["-fsS", &format!("http://{}{path}", agent.http())]).output()?;
    ensure!(got.status.success(), "{path}: {}", String::from_utf8_lossy(&got.stderr));
    Ok(serde_json::from_slice(&got.stdout)?)
}

/// Status, configuration and metrics of an agent all say the same.
fn says(agent: &Agent, enabled: bool) -> Result<()> {
    let status = page(agent, "/status")?;
    let mode = if enabled { "adaptive" } else { "plain" };
    ensure!(status.to_string().contains(&format!("\"mode\":\"{mode}\"")), "{status:#}");
    let amst = page(agent, "/api/v1/dwcp/amst/config")?;
    let most = if enabled { 256 } else { 1 };
    ensure!(amst["in_force"]["max_streams"] == most, "{amst:#}");
    let hde = page(agent, "/api/v1/dwcp/hde/config")?;
    ensure!(hde["enabled"] == enabled && hde["delta_encoding_in_force"] == enabled, "{hde:#}");
    let metrics = agent.metrics();
    ensure!((metric(&metrics, "dwcp_enabled")? > 0.5) == enabled, "dwcp_enabled");
    ensure!((metric(&metrics, "dwcp_amst_target_streams")? > 1.5) == enabled, "dwcp_amst_target_streams");
    Ok(())
}

/// Sends the file, waits, and gives what the transfer says.
fn send(fleet: &Fleet, cli: &Cli) -> Result<Value> {
    let ended = cli.json(&["send", "--from", "site-a", "data:/file", "site-b:data:/"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    ensure!(
        fs::read(fleet.agents[0].root("data").join("file"))? == fs::read(fleet.agents[1].root("data").join("file"))?
    );
    Ok(ended)
}

fn sent(transfer: &Value) -> Result<u64> {
    Ok(transfer["progress"]["bytesSent"].as_str().context("bytesSent")?.parse()?)
}

#[test]
fn switched_off_data_goes_by_one_stream_without_delta_and_status_says_so() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let file = fleet.agents[0].root("data").join("file");
    fill_random(&file, BYTES, 1)?;
    send(&fleet, &cli)?;
    says(&fleet.agents[0], true)?;

    set(&fleet, &cli, "enabled: false\n")?;
    says(&fleet.agents[0], false)?;
    says(&fleet.agents[1], false)?;
    fs::File::options().write(true).open(&file)?.write_all_at(b"changed", 3_000_000)?;
    let plain = send(&fleet, &cli)?;
    ensure!(plain["path"]["streams"] == 1, "{plain:#}");
    ensure!(sent(&plain)? >= BYTES, "all of it went: {plain:#}");

    set(&fleet, &cli, "enabled: true\n")?;
    says(&fleet.agents[0], true)?;
    fs::File::options().write(true).open(&file)?.write_all_at(b"again", 1_000_000)?;
    let delta = send(&fleet, &cli)?;
    ensure!(sent(&delta)? < BYTES / 2, "most of it was there: {delta:#}");
    Ok(())
}

#[test]
fn switched_while_a_transfer_runs_nothing_is_lost() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let folder = fleet.agents[0].root("data").join("set");
    fs::create_dir(&folder)?;
    for number in 0..8 {
        fill_random(&folder.join(format!("part-{number}")), 3_000_000, number)?;
        writeln!(fs::File::options().append(true).open(folder.join(format!("part-{number}")))?, "{number}")?;
    }
    // Half a minute at this rate.
    set(&fleet, &cli, "bandwidth:\n  total: 6mbit\n")?;
    let created = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/", "--detach"])?;
    let name = created["name"].as_str().context("a name")?.to_owned();
    let mut seen = Value::Null;
    let mut moves_on = |from: u64| {
        eventually("more to arrive", LIMIT, || {
            seen = cli.json(&["transfer", "get", &name])?;
            let done = sent(&seen).unwrap_or(0);
            Ok((done > from).then_some(done))
        })
        .with_context(|| format!("{seen:#}"))
    };
    let before = moves_on(0)?;
    set(&fleet, &cli, "enabled: false\nbandwidth:\n  total: 6mbit\n")?;
    says(&fleet.agents[0], false)?;
    let plain = moves_on(before)?;
    set(&fleet, &cli, "enabled: true\nbandwidth:\n  total: 6mbit\n")?;
    says(&fleet.agents[0], true)?;
    moves_on(plain)?;
    set(&fleet, &cli, "bandwidth:\n  total: null\n")?;
    let ended = cli.json(&["transfer", "watch", &name, "--timeout", "60s"])?;
    ensure!(ended["state"] == "SUCCEEDED" && ended["issueCount"] == "0", "{ended:#}");
    for number in 0..8 {
        let part = format!("set/part-{number}");
        let (here, there) = (fleet.agents[0].root("data").join(&part), fleet.agents[1].root("data").join(&part));
        ensure!(fs::read(here)? == fs::read(there)?, "{part}");
    }
    Ok(())
}
