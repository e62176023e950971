//! Errors of the kernel, in an agent and in a server: nothing that could not be kept is said to be (R15, R17).

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tests_harness::{Cli, Fleet, FleetOptions, digest_tree, eventually};

use crate::{
    files::{change_tree, file_is_whole},
    strace::{Injection, Strace, check_order},
};

const LIMIT: Duration = Duration::from_secs(60);

/// All combinations, or so many of them, in an order of the seed.
fn cases(calls: &[&str], random: &mut StdRng, few: Option<usize>) -> Vec<Injection> {
    let mut cases = Vec::new();
    for calls in calls {
        for error in ["EIO", "ENOSPC"] {
            for when in 1..=5 {
                cases.push(Injection { calls: (*calls).to_owned(), error: error.to_owned(), when });
            }
        }
    }
    let take = few.unwrap_or(cases.len());
    (0..take).map(|_| cases.swap_remove(random.random_range(0..cases.len()))).collect()
}

fn every_file_is_whole(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            every_file_is_whole(&entry.path())?;
        } else {
            ensure!(!entry.file_name().to_string_lossy().starts_with(".dwcp-"), "{:?} is left behind", entry.path());
            ensure!(file_is_whole(&fs::read(entry.path())?), "{:?} is not whole", entry.path());
        }
    }
    Ok(())
}

/// One transfer in which a call fails at one end, then one in which none does.
fn one(fleet: &mut Fleet, cli: &Cli, end: usize, case: &Injection, random: &mut StdRng) -> Result<String> {
    let (source, target) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("set"));
    change_tree(&source, 2_000_000, random)?;
    let log = fleet.scratch.path().join("strace.log");
    let strace = Strace::attach(fleet.agents[end].process().pid(), &log, Some(case))?;
    let arguments =
        ["-o", "json", "send", "--from", "site-a", "data:/set/", "site-b:data:/set", "--delete", "--timeout", "40s"];
    let ran = cli.run(&arguments)?;
    let calls = strace.finish()?;
    let injected = fs::read_to_string(&log)?.matches("(INJECTED)").count();
    let order = check_order(&calls);
    ensure!(order.wrong.is_empty(), "{:#?}", order.wrong);
    let ended: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
    let state = ended["state"].as_str().unwrap_or("none").to_owned();
    ensure!(order.in_vain == 0 || state == "FAILED", "{state}, and a folder could not be synced");
    let why = ended["error"]["message"].as_str().unwrap_or_default();
    match state.as_str() {
        "SUCCEEDED" => ensure!(digest_tree(&source)? == digest_tree(&target)?, "SUCCEEDED, and the trees differ"),
        "SUCCEEDED_IN_PART" => {
            ensure!(ended["issues"].as_array().is_some_and(|issues| !issues.is_empty()), "{ended:#}")
        }
        "FAILED" => ensure!(why.contains("os error") || why.contains("space"), "no cause in: {why}"),
        // It waits for another attempt, or the agent has ended.
        _ => {}
    }
    let output = fleet.agents[end].process().output();
    ensure!(
        !output.contains("panicked"),
        "it panicked: {}",
        output.lines().rev().take(5).collect::<Vec<_>>().join("\n")
    );
    if fleet.agents[end].check_alive().is_err() {
        fleet.agents[end].restart().context("it does not come back")?;
    }
    if let (Some(name), "none" | "RUNNING" | "WAITING" | "PENDING") = (ended["name"].as_str(), state.as_str()) {
        cli.run(&["transfer", "watch", name, "--timeout", "60s"])?;
    }
    fleet.all_ready()?;
    let again = cli.json(&["send", "--from", "site-a", "data:/set/", "site-b:data:/set", "--delete"])?;
    ensure!(again["state"] == "SUCCEEDED", "the next one: {again:#}");
    ensure!(digest_tree(&source)? == digest_tree(&target)?, "the trees differ after the next one");
    eventually("nothing to be left behind", LIMIT, || Ok(every_file_is_whole(&target).ok()))
        .or_else(|_| every_file_is_whole(&target))?;
    Ok(format!("{state} after {injected} errors {why}"))
}

/// A failing disk is never taken for one that holds what it was given: so many cases at a receiver and at a sender, or all.
///
/// # Errors
/// It is, in one of the cases.
pub fn fail_agents(seed: u64, few: Option<(usize, usize)>) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let mut wrong = Vec::new();
    let receiver = cases(
        &["fsync", "fdatasync", "syncfs", "rename,renameat,renameat2", "pwrite64", "openat"],
        &mut random,
        few.map(|few| few.0),
    );
    let sender =
        cases(&["fsync", "rename,renameat,renameat2", "pwrite64", "openat"], &mut random, few.map(|few| few.1));
    for (end, case) in receiver.iter().map(|case| (1, case)).chain(sender.iter().map(|case| (0, case))) {
        match one(&mut fleet, &cli, end, case, &mut random) {
            Ok(outcome) => eprintln!("site {end}: {} {} {}: {outcome}", case.calls, case.error, case.when),
            Err(error) => {
                eprintln!("site {end}: {} {} {}: WRONG", case.calls, case.error, case.when);
                wrong.push(format!("site {end}: {case:?}: {error:#}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n\n"));
    Ok(())
}

/// A server whose own files fail acknowledges only what the database holds: so many cases, or all.
///
/// # Errors
/// It does not, in one of them.
pub fn fail_server(seed: u64, few: Option<usize>) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let file = fleet.scratch.path().join("fleet.yaml");
    for (number, case) in cases(&["fsync", "rename,renameat,renameat2", "openat"], &mut random, few).iter().enumerate()
    {
        let log = fleet.scratch.path().join("strace.log");
        let strace = Strace::attach(fleet.control_plane.process().pid(), &log, Some(case))?;
        let level = number % 4 + 1;
        fs::write(&file, format!("compression:\n  level: {level}\n"))?;
        let set = cli.run(&["config", "set", "fleet", &file.display().to_string()])?;
        drop(strace);
        if fleet.control_plane.check_alive().is_ok() {
            fleet.control_plane.kill()?;
        }
        fleet.control_plane.restart().with_context(|| format!("{case:?}"))?;
        fleet.all_ready()?;
        let held = cli.ok(&["config", "get", "fleet"])?;
        ensure!(
            set.code != 0 || held.contains(&format!("level: {level}")),
            "{case:?}: acknowledged, and not there: {held}"
        );
        ensure!(cli.json(&["audit", "verify"])?["ok"] == true, "{case:?}");
        ensure!(!fleet.control_plane.process().output().contains("panicked"), "{case:?}");
    }
    Ok(())
}
