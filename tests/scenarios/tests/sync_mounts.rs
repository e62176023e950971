//! A sync whose source lies on a file system that is not mounted any more, where the folder beneath shows other files: nothing at the destination
//! is deleted or overwritten, until the file system is back or somebody says that this is meant.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, eventually, private_mounts};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_source_that_is_not_mounted_any_more_deletes_nothing_though_other_files_show_beneath() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let set = fleet.agents[0].root("data").join("set");
    let there = fleet.agents[1].root("data").join("in/set");
    fs::create_dir_all(&set)?;
    fs::write(set.join("beneath"), b"written while nothing was mounted")?;
    fleet.agents[0].stop()?;
    let at = set.display();
    let script = format!(
        "mount -t tmpfs dwcp-sync '{at}'\necho ours > '{at}/file'\nmkdir '{at}/within'\nmount -t tmpfs dwcp-within '{at}/within'\necho other > '{at}/within/other'\n"
    );
    fleet.agents[0].options_mut().runner = private_mounts(&script);
    fleet.agents[0].restart()?;
    fleet.all_ready()?;
    let cli = fleet.cli()?;
    let pid = fleet.agents[0].process().pid();
    let unmount = |point: &Path| -> Result<()> {
        let done = Command::new("nsenter").args(["-t", &pid.to_string(), "-m", "umount"]).arg(point).status()?;
        ensure!(done.success(), "{}", point.display());
        Ok(())
    };
    cli.json(&[
        "sync",
        "create",
        "--from",
        "site-a",
        "data:/set",
        "site-b:data:/in",
        "--name",
        "set",
        "--every",
        "1s",
    ])?;
    let state = |wanted: &dyn Fn(&Value) -> bool, what: &str| {
        eventually(what, LIMIT, || {
            let sync = cli.json(&["sync", "get", "set"])?;
            Ok(wanted(&sync).then_some(sync))
        })
        .with_context(|| format!("{:#}", cli.json(&["sync", "get", "set"]).unwrap_or_default()))
    };
    // What is mounted within the source is no part of it.
    let first = state(&|sync| sync["state"] == "WITH_ISSUES" && there.join("file").exists(), "the first run")?;
    ensure!(first["status"]["lastRun"].to_string().contains("OTHER_FILE_SYSTEM"), "{first:#}");
    ensure!(!there.join("within/other").exists());

    // Without that, all is in step; what it hid is an empty folder, and deletes nothing.
    unmount(&set.join("within"))?;
    state(&|sync| sync["state"] == "IN_STEP", "all of it in step")?;

    // The source's own file system goes away.
    unmount(&set)?;
    let failed = state(&|sync| sync["state"] == "FAILED", "the run to fail")?;
    let error = &failed["status"]["lastRun"]["error"];
    ensure!(error["reason"] == "SOURCE_NOT_MOUNTED", "{failed:#}");
    ensure!(error["message"].to_string().contains("--overwrite"), "{error}");
    ensure!(fs::read(there.join("file"))? == b"ours\n" && !there.join("beneath").exists());
    // Also after a restart of the agent, which then has no mount at all; until somebody says that it is meant.
    fleet.agents[0].stop()?;
    fleet.agents[0].options_mut().runner = private_mounts("true\n");
    fleet.agents[0].restart()?;
    fleet.all_ready()?;
    let runs = |sync: &Value| sync["status"]["lastRun"]["number"].to_string();
    let again = state(&|sync| sync["state"] == "FAILED" && runs(sync) != runs(&failed), "a run after the restart")?;
    ensure!(again["status"]["lastRun"]["error"]["reason"] == "SOURCE_NOT_MOUNTED", "{again:#}");
    ensure!(there.join("file").exists());
    let meant = cli.run(&["sync", "run", "set", "--overwrite"])?;
    ensure!(meant.code == 0, "{meant:?}");
    ensure!(there.join("beneath").exists() && !there.join("file").exists());
    state(&|sync| sync["state"] == "IN_STEP", "the folder beneath to be the source")?;
    Ok(())
}
