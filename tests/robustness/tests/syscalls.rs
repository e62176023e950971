//! What agent and server ask of the kernel: in the right order, and what they make of its errors (R15, R17). Where strace is not to be
//! had, nothing is tried, and that is said.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tests_harness::{Cli, Fleet, FleetOptions, digest_tree, eventually};
use tests_robustness::{Injection, Strace, change_tree, check_order, file_is_whole};

const LIMIT: Duration = Duration::from_secs(60);

fn has_strace() -> bool {
    let has = Command::new("strace").arg("-V").output().is_ok_and(|ran| ran.status.success());
    if !has {
        eprintln!("there is no strace here: nothing was tried");
    }
    has
}

#[test]
fn contents_are_durable_before_their_names_and_names_before_they_are_spoken_of() -> Result<()> {
    if !has_strace() {
        return Ok(());
    }
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let mut random = StdRng::seed_from_u64(rand::random());
    let source = fleet.agents[0].root("data").join("set");
    let log = fleet.scratch.path().join("strace.log");
    let strace = Strace::attach(fleet.agents[1].process().pid(), &log, None)?;
    for round in 0..3 {
        // Long enough under strace for the journal to be kept meanwhile.
        change_tree(&source, if round == 0 { 500_000_000 } else { 3_000_000 }, &mut random)?;
        let sent = cli.json(&["send", "--from", "site-a", "data:/set/", "site-b:data:/set", "--delete"])?;
        assert_eq!(sent["state"], "SUCCEEDED", "{sent:#}");
        let file = fleet.scratch.path().join("fleet.yaml");
        fs::write(&file, format!("compression:\n  level: {}\n", round + 1))?;
        cli.ok(&["config", "set", "fleet", &file.display().to_string()])?;
    }
    eventually("the end to be said", LIMIT, || {
        let waiting = fs::read_dir(fleet.agents[1].dir().join("reports"))?.count();
        Ok((waiting == 0).then_some(()))
    })?;
    let order = check_order(&strace.finish()?);
    eprintln!(
        "{} files published, {} of its own replaced, {} writes to the journal, {} ends",
        order.published, order.replaced, order.journaled, order.ended
    );
    assert!(order.wrong.is_empty(), "{:#?}", order.wrong);
    assert!(order.published > 20 && order.replaced >= 6 && order.ended == 3, "{order:?}");
    Ok(())
}

/// All combinations, in an order of the seed; a few of them where not all are asked for.
fn cases(calls: &[&str], random: &mut StdRng, few: usize) -> Vec<Injection> {
    let mut cases = Vec::new();
    for calls in calls {
        for error in ["EIO", "ENOSPC"] {
            for when in 1..=5 {
                cases.push(Injection { calls: (*calls).to_owned(), error: error.to_owned(), when });
            }
        }
    }
    let all = std::env::var_os("DWCP_TEST_ALL").is_some();
    let take = if all { cases.len() } else { few };
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

#[test]
fn a_failing_disk_is_never_taken_for_one_that_holds_what_it_was_given() -> Result<()> {
    if !has_strace() {
        return Ok(());
    }
    let seed = std::env::var("DWCP_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let mut wrong = Vec::new();
    let receiver =
        cases(&["fsync", "fdatasync", "syncfs", "rename,renameat,renameat2", "pwrite64", "openat"], &mut random, 6);
    let sender = cases(&["fsync", "rename,renameat,renameat2", "pwrite64", "openat"], &mut random, 2);
    for (end, case) in receiver.iter().map(|case| (1, case)).chain(sender.iter().map(|case| (0, case))) {
        match one(&mut fleet, &cli, end, case, &mut random) {
            Ok(outcome) => eprintln!("site {end}: {} {} {}: {outcome}", case.calls, case.error, case.when),
            Err(error) => wrong.push(format!("site {end}: {case:?}: {error:#}")),
        }
    }
    ensure!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n\n"));
    Ok(())
}

#[test]
fn a_server_whose_own_files_fail_acknowledges_only_what_the_database_holds() -> Result<()> {
    if !has_strace() {
        return Ok(());
    }
    let mut random = StdRng::seed_from_u64(rand::random());
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let file = fleet.scratch.path().join("fleet.yaml");
    for (number, case) in cases(&["fsync", "rename,renameat,renameat2", "openat"], &mut random, 3).iter().enumerate() {
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
        assert!(
            set.code != 0 || held.contains(&format!("level: {level}")),
            "{case:?}: acknowledged, and not there: {held}"
        );
        assert_eq!(cli.json(&["audit", "verify"])?["ok"], true, "{case:?}");
        assert!(!fleet.control_plane.process().output().contains("panicked"), "{case:?}");
    }
    Ok(())
}
