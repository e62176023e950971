//! A transfer that is paused stands still, whatever is restarted, and goes on where it was; one that has a deadline ends by it, whoever
//! is away.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use foundation_runtime::Clock;
use serde_json::Value;
use tests_harness::{Cli, Fleet, FleetOptions, digest_tree, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);
const BYTES: u64 = 24_000_000;
const PARTS: u64 = 4;
/// What is sent while the other one stands still.
const SMALL: u64 = 2_000_000;

/// A fleet whose sender is slow, with a tree at the sender.
fn slow_fleet(rate: &str, bytes: u64) -> Result<(Fleet, Cli)> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, format!("bandwidth:\n  total: {rate}\n"))?;
    let set = cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    ensure!(set["rollout"]["state"] == "SUCCEEDED", "{set:#}");
    let limited =
        || Ok((metric(&fleet.agents[0].metrics(), "dwcp_amst_rate_limit_bits_per_second")? > 0.0).then_some(()));
    eventually("the bound to be in force", LIMIT, limited)?;
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    for part in 0..PARTS {
        fill_random(&source.join(format!("part-{part}")), bytes / PARTS, part)?;
    }
    Ok((fleet, cli))
}

/// A `dwcp send` that waits, and the transfer that it made.
fn sending(cli: &Cli, options: &[&str]) -> Result<(Child, String)> {
    let mut arguments = vec!["send", "--from", "site-a", "data:/set", "site-b:data:/in"];
    arguments.extend(options);
    let child = cli.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let name = eventually("the transfer to be accepted", LIMIT, || {
        let list = cli.json(&["transfer", "list"])?;
        Ok(list["transfers"][0]["name"].as_str().map(str::to_owned))
    })?;
    Ok((child, name))
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn get(cli: &Cli, name: &str) -> Result<Value> {
    cli.json(&["transfer", "get", name])
}

/// Waits until so much of it has been verified at the receiver.
fn arrived(cli: &Cli, name: &str, bytes: u64) -> Result<()> {
    let mut seen = Value::Null;
    let waited = eventually("a part of it to arrive", LIMIT, || {
        seen = get(cli, name)?;
        Ok((number(&seen["progress"]["bytesDone"]) >= bytes).then_some(()))
    });
    waited.with_context(|| format!("{seen:#}"))
}

fn received(fleet: &Fleet) -> Result<f64> {
    metric(&fleet.agents[1].metrics(), "dwcp_amst_bytes_received")
}

/// Watches the receiver's counter until it has stood still for three seconds; of what it counts, keeping a session alive is the rest.
fn stands_still(fleet: &Fleet) -> Result<()> {
    let clock = Clock::system();
    let (mut last, mut since) = (received(fleet)?, clock.now());
    eventually("the receiver's counter to stand still", LIMIT, || {
        let now = received(fleet)?;
        if now - last > 50_000.0 {
            (last, since) = (now, clock.now());
        }
        Ok((clock.now() - since > Duration::from_secs(3)).then_some(()))
    })
}

/// Sends something else meanwhile.
fn path_is_free(fleet: &Fleet, cli: &Cli, round: u64) -> Result<()> {
    stands_still(fleet)?;
    let file = format!("small-{round}");
    fill_random(&fleet.agents[0].root("data").join(&file), SMALL, 100 + round)?;
    let source = format!("data:/{file}");
    let sent = cli.json(&["send", "--from", "site-a", &source, "site-b:data:/small", "--timeout", "60s"])?;
    ensure!(sent["state"] == "SUCCEEDED", "{sent:#}");
    Ok(())
}

fn at_rest(cli: &Cli, name: &str) -> Result<Value> {
    let mut seen = Value::Null;
    let waited = eventually("the sender to stand still", LIMIT, || {
        seen = get(cli, name)?;
        ensure!(seen["state"] == "PAUSED", "{seen:#}");
        Ok((seen["pause"]["atRest"] == true).then(|| seen.clone()))
    });
    waited.with_context(|| format!("{seen:#}"))
}

/// How many transfers an agent holds.
fn held(fleet: &Fleet, agent: usize) -> Result<Option<()>> {
    let held = metric(&fleet.agents[agent].metrics(), "dwcp_transfers_active{state=\"paused\"}")?;
    Ok((held > 0.0).then_some(()))
}

fn hidden(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count()
}

fn output(child: Child) -> Result<(Option<i32>, String)> {
    let output = child.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn a_paused_transfer_stands_still_whatever_is_restarted_and_goes_on_where_it_was() -> Result<()> {
    let (mut fleet, cli) = slow_fleet("16mbit", BYTES)?;
    let (child, name) = sending(&cli, &[])?;
    arrived(&cli, &name, BYTES / 6)?;
    let paused = cli.json(&["transfer", "pause", &name, "--reason", "the line is needed"])?;
    ensure!(paused["state"] == "PAUSED" && paused["pause"]["reason"] == "the line is needed", "{paused:#}");
    let before = at_rest(&cli, &name)?;
    ensure!(before["pause"]["pausedBy"].as_str().is_some_and(|by| !by.is_empty()), "{before:#}");
    ensure!(cli.ok(&["transfer", "list"])?.contains(": the line is needed"), "who holds it is in the list");
    path_is_free(&fleet, &cli, 1)?;

    // The sender dies, and does not begin.
    fleet.agents[0].kill()?;
    fleet.agents[0].restart()?;
    fleet.all_ready()?;
    path_is_free(&fleet, &cli, 2)?;
    // The same while nobody tells it.
    fleet.control_plane.stop()?;
    fleet.agents[0].kill()?;
    fleet.agents[0].restart()?;
    eventually("the sender to hold it by itself", LIMIT, || held(&fleet, 0))?;
    stands_still(&fleet)?;
    fleet.control_plane.restart()?;
    let cli = fleet.cli()?;
    fleet.all_ready()?;
    let after = at_rest(&cli, &name)?;
    for of in ["progress", "receiverProgress"] {
        let done = [&before, &after].map(|seen| number(&seen[of]["bytesDone"]));
        ensure!(done[0] == done[1] || of == "receiverProgress" && done[1] > done[0], "{of}: {done:?}");
    }
    ensure!(number(&after["progress"]["bytesDone"]) < BYTES, "{after:#}");

    let resumed = cli.json(&["transfer", "resume", &name])?;
    ensure!(resumed["state"] != "PAUSED" && resumed["pause"].is_null(), "{resumed:#}");
    let ended = cli.json(&["transfer", "watch", &name, "--timeout", "60s"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    let sent = number(&ended["progress"]["bytesSent"]);
    ensure!(sent <= BYTES + BYTES / 20, "{sent} bytes were sent for {BYTES}");
    let (a, b) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    ensure!(digest_tree(&a)? == digest_tree(&b)?, "the trees differ");
    // Who waited was told, and waited on.
    let (code, said) = output(child)?;
    ensure!(code == Some(0), "{code:?}: {said}");
    ensure!(said.contains("paused by ") && said.contains("the line is needed") && said.contains("resumed"), "{said}");
    for verb in ["pause", "resume"] {
        let late = cli.run(&["transfer", verb, &name])?;
        ensure!(late.code == 7 && late.stderr.contains("has ended already: SUCCEEDED"), "{late:?}");
    }
    for action in ["transfer.pause", "transfer.resume"] {
        let events = cli.json(&["audit", "list", "--filter", &format!("action={action}")])?;
        ensure!(events["auditEvents"].as_array().is_some_and(|events| events.len() == 1), "{action}: {events:#}");
    }
    ensure!(cli.json(&["audit", "verify"])?["ok"] == true, "the chain is whole");
    Ok(())
}

#[test]
fn a_deadline_ends_a_transfer_while_the_control_plane_is_away() -> Result<()> {
    let (mut fleet, cli) = slow_fleet("8mbit", BYTES)?;
    let folder = fleet.agents[1].root("data").join("in/set");
    let (child, name) = sending(&cli, &["--deadline", "8s"])?;
    let seen = get(&cli, &name)?;
    ensure!(seen["spec"]["deadline"].is_string(), "{seen:#}");
    ensure!(cli.ok(&["transfer", "get", &name])?.contains("deadline in "), "how long is left is said");
    arrived(&cli, &name, 1_000_000)?;
    ensure!(hidden(&folder) > 0, "it is under way");
    fleet.control_plane.stop()?;
    let gone = || Ok((hidden(&folder) == 0).then_some(()));
    eventually("what was under way to be removed by the deadline", LIMIT, gone)?;
    fleet.control_plane.restart()?;
    let (code, said) = output(child)?;
    ensure!(code == Some(8), "{code:?}: {said}");
    let ended = get(&fleet.cli()?, &name)?;
    ensure!(ended["state"] == "FAILED" && ended["error"]["reason"] == "DEADLINE_EXCEEDED", "{ended:#}");
    let message = ended["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains(" of 24000000 bytes were verified"), "{message}");
    ensure!(fleet.cli()?.json(&["audit", "verify"])?["ok"] == true, "the chain is whole");
    Ok(())
}

#[test]
fn a_deadline_ends_a_paused_transfer_whose_sender_is_away() -> Result<()> {
    let (mut fleet, cli) = slow_fleet("8mbit", BYTES)?;
    let folder = fleet.agents[1].root("data").join("in/set");
    let (child, name) = sending(&cli, &["--deadline", "20s"])?;
    arrived(&cli, &name, 500_000)?;
    cli.json(&["transfer", "pause", &name])?;
    // One that had not said so could have ended by itself, and would be waited for.
    at_rest(&cli, &name)?;
    fleet.agents[0].kill()?;
    ensure!(hidden(&folder) > 0, "the receiver keeps what came");
    let (code, said) = output(child)?;
    ensure!(code == Some(8) && said.contains("DEADLINE_EXCEEDED"), "{code:?}: {said}");
    let gone = || Ok((hidden(&folder) == 0).then_some(()));
    eventually("the receiver to be told", LIMIT, gone)?;
    let late =
        cli.run(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--deadline", "2020-01-01T00:00:00Z"])?;
    ensure!(late.code == 2 && late.stderr.contains("spec.deadline"), "{late:?}");
    Ok(())
}
