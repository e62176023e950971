//! R18: programs that are killed at any moment, also while they start, always start again.

use std::{collections::BTreeMap, fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tests_harness::{Cli, Fleet, FleetOptions, digest_tree, eventually};

use crate::files::{change_tree, file_is_whole};

const LIMIT: Duration = Duration::from_secs(60);

/// What a loop of starts came to.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// Starts that were let come to serve, by program.
    pub served: BTreeMap<&'static str, u32>,
    /// Starts that were killed after a moment.
    pub cut_short: u32,
    /// Transfers that ended, all SUCCEEDED with equal trees.
    pub transfers: u32,
    /// Bytes that were new in their trees.
    pub fresh: u64,
    /// Bytes that were sent.
    pub sent: u64,
}

/// A transfer that is under way.
struct Moving {
    name: String,
    fresh: u64,
}

/// Kills programs of a fleet, while it moves files and its configuration changes, until there were so many starts.
///
/// # Errors
/// A program does not start, a part of a file is seen under its name, a transfer does not succeed, or something stays behind.
pub fn start_often(starts: u32, seed: u64, large: usize) -> Result<Started> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let mut random = StdRng::seed_from_u64(seed);
    let (source, target) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    let (mut started, mut moving) = (Started::default(), None::<Moving>);
    for round in 1.. {
        let done = started.cut_short + started.served.values().sum::<u32>() >= starts;
        let cli = fleet.cli()?;
        if let Some(under_way) = &moving {
            let transfer = if done {
                cli.json(&["transfer", "watch", &under_way.name, "--timeout", "120s"])
            } else {
                cli.json(&["transfer", "get", &under_way.name])
            };
            let transfer = transfer.with_context(|| format!("seed {seed}, round {round}"))?;
            if transfer["endTime"].is_string() {
                ensure!(transfer["state"] == "SUCCEEDED", "seed {seed}, round {round}: {transfer:#}");
                ensure!(digest_tree(&source)? == digest_tree(&target)?, "seed {seed}, round {round}: the trees differ");
                started.transfers += 1;
                started.fresh += under_way.fresh;
                started.sent += number(&transfer["progress"]["bytesSent"]);
                moving = None;
            }
        }
        if done {
            break;
        }
        if moving.is_none() {
            moving = Some(begin(&cli, &source, large, &mut random)?);
        }
        let file = fleet.scratch.path().join("fleet.yaml");
        fs::write(&file, format!("compression:\n  level: {}\n", round % 4 + 1))?;
        cli.ok(&["config", "set", "fleet", &file.display().to_string()])?;
        thread::sleep(Duration::from_millis(random.random_range(0..600)));
        kill_one(&mut fleet, &mut started, &mut random).with_context(|| format!("seed {seed}, round {round}"))?;
        all_whole(&target)?;
    }
    fleet.all_ready()?;
    eventually("nothing to be left behind", LIMIT, || {
        let left = fleet.agents.iter().flat_map(|agent| fs::read_dir(agent.dir().join("transfers")));
        let left = left
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name() != "ended" && entry.file_name() != "syncs")
            .count();
        Ok((left == 0 && !has_temporary(&target)).then_some(()))
    })?;
    Ok(started)
}

fn begin(cli: &Cli, source: &Path, large: usize, random: &mut StdRng) -> Result<Moving> {
    let fresh = change_tree(source, large, random)?;
    let created = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--delete", "--detach"])?;
    Ok(Moving { name: created["name"].as_str().context("a transfer has a name")?.to_owned(), fresh })
}

fn kill_one(fleet: &mut Fleet, started: &mut Started, random: &mut StdRng) -> Result<()> {
    let victim = random.random_range(0..3_usize);
    let short = random.random_range(0..3_u32);
    match fleet.agents.get_mut(victim) {
        Some(agent) => agent.kill()?,
        None => fleet.control_plane.kill()?,
    }
    for _ in 0..short {
        let life = Duration::from_millis(random.random_range(0..900));
        match fleet.agents.get_mut(victim) {
            Some(agent) => agent.restart_briefly(life)?,
            None => fleet.control_plane.restart_briefly(life)?,
        }
        started.cut_short += 1;
    }
    let name = match fleet.agents.get_mut(victim) {
        Some(agent) => agent.restart().map(|()| ["sender", "receiver"][victim])?,
        None => fleet.control_plane.restart().map(|()| "server")?,
    };
    *started.served.entry(name).or_default() += 1;
    Ok(())
}

fn all_whole(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            all_whole(&entry.path())?;
        } else if !is_temporary(&entry)
            && let Ok(contents) = fs::read(entry.path())
        {
            ensure!(file_is_whole(&contents), "{:?} stands under its name and is not whole", entry.path());
        }
    }
    Ok(())
}

fn is_temporary(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(".dwcp-")
}

fn has_temporary(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| is_temporary(&entry) || has_temporary(&entry.path()))
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}
