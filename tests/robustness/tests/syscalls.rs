//! What agent and server ask of the kernel: in the right order, and what they make of its errors (R15, R17). Where strace is not to be
//! had, nothing is tried, and that is said.

use std::{fs, process::Command, time::Duration};

use anyhow::Result;
use rand::{SeedableRng, rngs::StdRng};
use tests_harness::{Fleet, FleetOptions, eventually, seed};
use tests_robustness::{Strace, change_tree, check_order, fail_agents, fail_server};

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
    let mut random = StdRng::seed_from_u64(seed());
    let source = fleet.agents[0].root("data").join("set");
    let log = fleet.scratch.path().join("strace.log");
    let strace = Strace::attach(fleet.agents[1].process().pid(), &log, None)?;
    for round in 0..3 {
        // The first is large enough for the journal to be kept meanwhile.
        change_tree(&source, if round == 0 { 60_000_000 } else { 3_000_000 }, &mut random)?;
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
    assert!(order.published > 20 && order.replaced >= 6 && order.journaled > 0 && order.ended == 3, "{order:?}");
    Ok(())
}

#[test]
fn a_failing_disk_is_never_taken_for_one_that_holds_what_it_was_given() -> Result<()> {
    if has_strace() { fail_agents(seed(), Some((3, 1))) } else { Ok(()) }
}

#[test]
fn a_server_whose_own_files_fail_acknowledges_only_what_the_database_holds() -> Result<()> {
    if has_strace() { fail_server(seed(), Some(2)) } else { Ok(()) }
}
