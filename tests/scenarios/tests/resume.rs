//! Transfers go on by themselves: through the death of the receiver, the sender and the control plane.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tests_harness::{Cli, Fleet, FleetOptions, digest_tree, eventually, fill_random};

const BYTES: u64 = 400_000_000;
const LIMIT: Duration = Duration::from_secs(120);

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

/// A transfer of [`BYTES`] that has begun to arrive.
fn begun(fleet: &Fleet, cli: &Cli) -> Result<String> {
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    for part in 0..4 {
        fill_random(&source.join(format!("part-{part}")), BYTES / 4, part)?;
    }
    let created = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--detach"])?;
    let name = created["name"].as_str().context("a transfer has a name")?.to_owned();
    let target = fleet.agents[1].root("data").join("in/set");
    eventually("the first bytes to arrive", LIMIT, || {
        let arrived: u64 = fs::read_dir(&target)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.metadata().ok())
            .map(|data| std::os::unix::fs::MetadataExt::blocks(&data) * 512)
            .sum();
        Ok((arrived > 8_000_000).then_some(()))
    })?;
    Ok(name)
}

fn ended(fleet: &Fleet, cli: &Cli, name: &str) -> Result<Value> {
    let ended = cli.json(&["transfer", "watch", name, "--timeout", "120s"])?;
    assert_eq!(ended["state"], "SUCCEEDED", "{ended:#}");
    let (a, b) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    assert_eq!(digest_tree(&a)?, digest_tree(&b)?);
    Ok(ended)
}

#[test]
fn a_killed_receiver_is_sent_only_what_it_did_not_hold() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let name = begun(&fleet, &cli)?;
    fleet.agents[1].kill()?;
    let published: Vec<_> = fs::read_dir(fleet.agents[1].root("data").join("in/set"))?
        .flatten()
        .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
        .map(|entry| entry.path())
        .collect();
    for file in published {
        let source = fleet.agents[0].root("data").join("set").join(file.file_name().context("a name")?);
        assert_eq!(fs::read(&file)?, fs::read(source)?, "what stands under its final name is whole");
    }
    fleet.agents[1].restart()?;
    let ended = ended(&fleet, &cli, &name)?;
    let sent = number(&ended["progress"]["bytesSent"]);
    assert!(sent < BYTES + BYTES / 4, "{sent} bytes were sent for {BYTES}");
    Ok(())
}

#[test]
fn a_killed_sender_goes_on_when_it_is_back() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let name = begun(&fleet, &cli)?;
    fleet.agents[0].kill()?;
    fleet.agents[0].restart()?;
    ended(&fleet, &cli, &name)?;
    Ok(())
}

#[test]
fn a_transfer_ends_while_the_control_plane_is_away_and_is_reported_when_it_is_back() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let name = begun(&fleet, &cli)?;
    fleet.control_plane.kill()?;
    let (a, b) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    eventually("all files to be in place", LIMIT, || {
        let whole = (0..4).all(|part| b.join(format!("part-{part}")).exists());
        Ok(whole.then_some(()))
    })?;
    assert_eq!(digest_tree(&a)?.len(), 4);
    fleet.control_plane.restart()?;
    ended(&fleet, &fleet.cli()?, &name)?;
    assert_eq!(fleet.cli()?.json(&["audit", "verify"])?["ok"], true);
    Ok(())
}

#[test]
fn an_agent_starts_and_serves_without_the_control_plane() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    fill_random(&source.join("file"), 3_000_000, 7)?;
    // The receiver takes direct sends of site-a by its own word.
    let host = fleet.scratch.path().join("site-b.yaml");
    let root = fleet.agents[1].root("data");
    fs::write(&host, format!("roots:\n  data:\n    path: {}\n    accept: [site-a]\n", root.display()))?;
    fleet.agents[1].stop()?;
    fleet.agents[1].options_mut().roots.clear();
    fleet.agents[1].options_mut().arguments = vec!["--config".to_owned(), host.display().to_string()];
    fleet.agents[0].stop()?;
    fleet.control_plane.stop()?;
    fleet.agents[0].restart()?;
    fleet.agents[1].restart()?;
    let cli = fleet.cli_on(0)?;
    let source = source.display().to_string();
    let sent = eventually("a direct send", LIMIT, || {
        let ran = cli.run(&["-o", "json", "send", "--direct", &source, "site-b:data:/direct"])?;
        Ok((ran.code == 0).then_some(ran))
    })?;
    assert!(sent.stdout.contains("SUCCEEDED"), "{}", sent.stdout);
    assert_eq!(fs::read(root.join("direct/set/file"))?.len(), 3_000_000);
    Ok(())
}
