//! A sender or a receiver that stands still for a minute, as a virtual machine does that is moved: the transfer waits and says for whom, and
//! goes on by itself when the host does.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests_harness::{Fleet, FleetOptions, Stopped, digest_tree, eventually, fill_random};

const BYTES: u64 = 400_000_000;
const STILL: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(120);

#[allow(clippy::disallowed_methods, reason = "another process stands still in real time")]
fn now() -> Instant {
    Instant::now()
}

/// One of the two agents stands still in the middle of a transfer. Gives how long that took to be seen.
fn stands_still(agent: usize) -> Result<Duration> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let (source, target) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    fs::create_dir_all(&source)?;
    for part in 0..4 {
        fill_random(&source.join(format!("part-{part}")), BYTES / 4, part)?;
    }
    let created = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--detach"])?;
    let name = created["name"].as_str().context("a transfer has a name")?.to_owned();
    let arrived = || -> u64 {
        let files = fs::read_dir(&target).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|data| data.blocks() * 512).sum()
    };
    eventually("the first bytes to arrive", LIMIT, || Ok((arrived() > 8_000_000).then_some(())))?;

    let begun = now();
    let stopped = Stopped::process(fleet.agents[agent].process())?;
    // The agent that goes on says what it waits for; of one that sends, the control plane hears nothing, and shows it as away.
    let away = if agent == 0 { "site-a" } else { "site-b" };
    eventually("the fleet to show who stands still", LIMIT, || {
        let nodes = cli.json(&["node", "list"])?;
        let nodes = nodes["nodes"].as_array().context("a list")?;
        Ok(nodes.iter().any(|node| node["name"] == format!("nodes/{away}") && node["state"] == "OFFLINE").then_some(()))
    })?;
    if agent == 1 {
        eventually("the transfer to wait", LIMIT, || {
            let transfer = cli.json(&["transfer", "get", &name])?;
            Ok((transfer["state"] == "WAITING" && transfer["error"]["reason"] == "PEER_UNREACHABLE").then_some(()))
        })?;
    }
    // Not for what could be seen: that nothing is given up in a minute is what is tried.
    let seen = begun.elapsed();
    thread::sleep(STILL.saturating_sub(begun.elapsed()));
    let transfer = cli.json(&["transfer", "get", &name])?;
    ensure!(["WAITING", "RUNNING"].iter().any(|state| transfer["state"] == *state), "{transfer:#}");
    drop(stopped);

    let ended = cli.json(&["transfer", "watch", &name, "--timeout", "120s"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    ensure!(digest_tree(&source)? == digest_tree(&target)?, "another tree");
    fleet.all_ready()?;
    Ok(seen)
}

#[test]
fn a_receiver_that_stands_still_for_a_minute_is_waited_for() -> Result<()> {
    println!("seen after {:?}", stands_still(1)?);
    Ok(())
}

#[test]
fn a_sender_that_stands_still_for_a_minute_goes_on_where_it_was() -> Result<()> {
    println!("seen after {:?}", stands_still(0)?);
    Ok(())
}
