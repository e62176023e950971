//! Versions sent in turn between two real agents: what changed travels, whoever dies between them and whatever becomes of what was kept.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Cli, Fleet, FleetOptions, digest_tree, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);
const LARGE: u64 = 64 << 20;

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

/// Two agents that keep every version.
fn fleet() -> Result<Fleet> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let config = fleet.scratch.path().join("versions.yaml");
    fs::write(&config, "compression:\n  baseline_interval: 1s\ncontent:\n  copy_baselines: always\n")?;
    for agent in &mut fleet.agents {
        agent.stop()?;
        agent.options_mut().arguments = vec!["--config".to_owned(), config.display().to_string()];
        agent.restart()?;
    }
    fleet.all_ready()?;
    Ok(fleet)
}

/// The sources of this tree's own tests, as versions of something real: every version has other lines in some of the files.
fn write_version(folder: &Path, version: u64) -> Result<()> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (number, source) in fs::read_dir(sources)?.enumerate() {
        let source = source?;
        if !source.file_type()?.is_file() {
            continue;
        }
        let mut text = fs::read_to_string(source.path())?;
        if u64::try_from(number)? % 3 == version % 3 {
            let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
            text.insert_str(middle, &format!("\n// version {version}\n"));
        }
        fs::create_dir_all(folder)?;
        fs::write(folder.join(source.file_name()), text)?;
    }
    Ok(())
}

fn send(cli: &Cli) -> Result<Value> {
    let ended = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--timeout", "120s"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    Ok(ended)
}

fn sent(fleet: &Fleet) -> Result<u64> {
    let ended = send(&fleet.cli()?)?;
    ensure!(digest_tree(&set(fleet))? == digest_tree(&arrived(fleet))?);
    Ok(number(&ended["progress"]["bytesSent"]))
}

fn set(fleet: &Fleet) -> PathBuf {
    fleet.agents[0].root("data").join("set")
}

fn arrived(fleet: &Fleet) -> PathBuf {
    fleet.agents[1].root("data").join("in/set")
}

/// Waits until the sender keeps so many versions.
fn keeps(fleet: &Fleet, at_least: f64) -> Result<()> {
    eventually("versions to be kept", LIMIT, || {
        let synced = metric(&fleet.agents[0].metrics(), "dwcp_hde_baselines_synced").unwrap_or_default();
        Ok((synced >= at_least).then_some(()))
    })
}

#[test]
fn ten_versions_of_a_tree_arrive_though_either_end_is_killed_between_them() -> Result<()> {
    let mut fleet = fleet()?;
    write_version(&set(&fleet), 0)?;
    let whole = sent(&fleet)?;
    let mut least = u64::MAX;
    for version in 1..10 {
        write_version(&set(&fleet), version)?;
        let cli = fleet.cli()?;
        let created = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--detach"])?;
        let name = created["name"].as_str().context("a transfer has a name")?.to_owned();
        // Anywhere: before it begins, under way, or just after its end.
        let victim = usize::try_from(version % 2)?;
        fleet.agents[victim].kill()?;
        fleet.agents[victim].restart()?;
        let ended = cli.json(&["transfer", "watch", &name, "--timeout", "120s"])?;
        ensure!(ended["state"] == "SUCCEEDED", "version {version}: {ended:#}");
        ensure!(digest_tree(&set(&fleet))? == digest_tree(&arrived(&fleet))?, "version {version}");
        least = least.min(number(&ended["progress"]["bytesSent"]));
    }
    ensure!(least * 2 < whole, "some of them as what changed: {least} of {whole}");
    Ok(())
}

#[test]
fn a_small_change_in_a_large_file_costs_little_and_a_new_name_nothing() -> Result<()> {
    let fleet = fleet()?;
    let (old, new) = (set(&fleet).join("large"), set(&fleet).join("renamed"));
    fs::create_dir_all(set(&fleet))?;
    fill_random(&old, LARGE, 7)?;
    sent(&fleet)?;
    keeps(&fleet, 1.0)?;
    let change =
        |at: u64, bytes: &[u8]| -> Result<()> { Ok(File::options().write(true).open(&old)?.write_all_at(bytes, at)?) };
    change(30_000_000, b"a small change")?;
    let bytes = sent(&fleet)?;
    // 20 bytes a MiB and 1 KiB are promised of the encoded form; around it are headers of pieces.
    ensure!(bytes < 1024 + 20 * (LARGE >> 20) + 2048, "{bytes}");

    fs::rename(&old, &new)?;
    let bytes = sent_but_deleted(&fleet)?;
    ensure!(bytes == 0, "a new name costs no data: {bytes}");
    Ok(())
}

/// Sends, and has deleted what has another name by now.
fn sent_but_deleted(fleet: &Fleet) -> Result<u64> {
    let cli = fleet.cli()?;
    let arguments = ["send", "--from", "site-a", "data:/set/", "site-b:data:/in/set", "--delete", "--timeout", "120s"];
    let ended = cli.json(&arguments)?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    ensure!(digest_tree(&set(fleet))? == digest_tree(&arrived(fleet))?);
    Ok(number(&ended["progress"]["bytesSent"]))
}
