//! A sync keeps a destination in step, deletes and renames included, whatever is away or killed; what others changed there is left alone until
//! somebody asks for it to be replaced.

use std::{fs, path::Path, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Cli, Fleet, FleetOptions, digest_tree, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);

struct Bed {
    fleet: Fleet,
    cli: Cli,
    source: PathBuf,
    destination: PathBuf,
}

/// A fleet with a small tree at the sender.
fn bed() -> Result<Bed> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let source = fleet.agents[0].root("data").join("set");
    let destination = fleet.agents[1].root("data").join("in/set");
    fs::create_dir_all(source.join("folder"))?;
    for n in 0..5_u64 {
        fill_random(&source.join(format!("folder/file-{n}")), 20_000 + n, n)?;
    }
    fill_random(&source.join("large"), 3_000_000, 9)?;
    Ok(Bed { fleet, cli, source, destination })
}

impl Bed {
    fn create(&self, options: &[&str]) -> Result<Value> {
        let mut arguments = vec!["sync", "create", "--from", "site-a", "data:/set", "site-b:data:/in"];
        arguments.extend(["--name", "set", "--every", "1s"]);
        arguments.extend(options);
        self.cli.json(&arguments)
    }

    fn get(&self) -> Result<Value> {
        self.cli.json(&["sync", "get", "set"])
    }

    /// Waits until both trees are equal, and the control plane says so too.
    fn in_step(&self, what: &str) -> Result<Value> {
        let source = digest_tree(&self.source)?;
        eventually(what, LIMIT, || {
            let same = self.destination.exists() && digest_tree(&self.destination).is_ok_and(|there| there == source);
            Ok(same.then_some(()))
        })
        .with_context(|| format!("{:#}", self.get().unwrap_or_default()))?;
        eventually("the control plane to say so", LIMIT, || {
            let sync = self.get()?;
            Ok((sync["state"] == "IN_STEP").then_some(sync))
        })
        .with_context(|| format!("{:#}", self.get().unwrap_or_default()))
    }

    fn state(&self, wanted: &str) -> Result<Value> {
        eventually(wanted, LIMIT, || {
            let sync = self.get()?;
            Ok((sync["state"] == wanted).then_some(sync))
        })
        .with_context(|| format!("{:#}", self.get().unwrap_or_default()))
    }

    fn actions(&self, of: &str) -> Result<usize> {
        let list = self.cli.json(&["audit", "list", "--filter", &format!("action={of}"), "--limit", "1000"])?;
        Ok(list["auditEvents"].as_array().map_or(0, Vec::len))
    }
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

#[test]
fn changes_deletes_and_renames_follow_and_what_is_unchanged_moves_nothing() -> Result<()> {
    let bed = bed()?;
    let created = bed.create(&["--exclude", "*.tmp"])?;
    ensure!(created["name"] == "syncs/set" && created["spec"]["every"] == "1s", "{created:#}");
    bed.in_step("the first run")?;

    fs::write(bed.source.join("new"), b"new")?;
    fs::write(bed.source.join("folder/file-1"), b"changed")?;
    fs::remove_file(bed.source.join("folder/file-2"))?;
    fs::rename(bed.source.join("folder"), bed.source.join("renamed"))?;
    let sync = bed.in_step("changes, deletes and renames")?;
    ensure!(number(&sync["status"]["runsSucceeded"]) >= 2 && number(&sync["status"]["runsFailed"]) == 0, "{sync:#}");

    // Looks go on, and become no runs once the tree has been at rest for a while.
    let looks = |sync: &Value| number(&sync["status"]["looksUnchanged"]);
    let rest = eventually("a look that finds nothing changed", LIMIT, || {
        let now = bed.get()?;
        Ok((looks(&now) > looks(&sync)).then_some(now))
    })?;
    let later = eventually("further looks", LIMIT, || {
        let sync = bed.get()?;
        Ok((looks(&sync) >= looks(&rest) + 2).then_some(sync))
    })?;
    assert_eq!(later["status"]["run"], rest["status"]["run"], "{later:#}");
    let [sender, receiver] = [&bed.fleet.agents[0], &bed.fleet.agents[1]];
    ensure!(metric(&sender.metrics(), "dwcp_sync_looks_unchanged_total")? >= 2.0);
    ensure!(metric(&sender.metrics(), "dwcp_sync_lag_seconds")? < LIMIT.as_secs_f64());

    // What is excluded is spared, and runs that are asked for run.
    fs::write(bed.destination.join("spared.tmp"), b"spared")?;
    let run = bed.cli.json(&["sync", "run", "set"])?;
    ensure!(number(&run["status"]["lastRun"]["number"]) > number(&later["status"]["run"]), "{run:#}");
    ensure!(bed.destination.join("spared.tmp").exists());
    fs::remove_file(bed.destination.join("spared.tmp"))?;
    assert_eq!(bed.actions("sync.create")?, 1);
    ensure!(bed.actions("sync.runs")? >= 1);

    // A pause holds it, and a deletion ends it, at both ends.
    bed.cli.json(&["sync", "pause", "set", "--reason", "the line is needed"])?;
    fs::write(bed.source.join("while-paused"), b"1")?;
    let paused = bed.state("PAUSED")?;
    assert_eq!(paused["pause"]["reason"], "the line is needed");
    let refused = bed.cli.run(&["sync", "run", "set"])?;
    ensure!(refused.code != 0 && refused.stderr.contains("paused"), "{refused:?}");
    bed.cli.json(&["sync", "resume", "set"])?;
    bed.in_step("what changed during the pause")?;
    bed.cli.json(&["sync", "delete", "set"])?;
    eventually("the sender to forget the sync", LIMIT, || {
        let left = fs::read_dir(sender.dir().join("syncs"))?.flatten();
        Ok((left.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json")).count() == 0)
            .then_some(()))
    })?;
    eventually("the receiver to hear of it", LIMIT, || {
        let kept = only_state(receiver.dir())?;
        Ok((kept["deleted"] == true).then_some(()))
    })?;
    let gone = bed.cli.run(&["sync", "get", "set"])?;
    assert_eq!(gone.code, 3, "{gone:?}");
    Ok(())
}

/// What the receiver keeps of the one sync that there is.
fn only_state(dir: &Path) -> Result<Value> {
    let mut folders =
        fs::read_dir(dir.join("transfers/syncs"))?.flatten().filter(|entry| entry.path().join("state").exists());
    let folder = folders.next().context("a sync")?.path();
    Ok(serde_json::from_slice(&fs::read(folder.join("state"))?)?)
}

#[test]
fn what_others_changed_is_left_alone_and_listed_until_it_is_asked_for() -> Result<()> {
    let bed = bed()?;
    fs::create_dir_all(&bed.destination)?;
    fs::write(bed.destination.join("others"), b"was here first")?;
    bed.create(&[])?;
    let failed = bed.state("FAILED")?;
    let error = &failed["status"]["lastRun"]["error"];
    ensure!(error["reason"] == "DESTINATION_NOT_EMPTY", "{failed:#}");
    ensure!(error["message"].as_str().is_some_and(|text| text.contains("dwcp sync run set --overwrite")), "{error:#}");
    assert_eq!(fs::read(bed.destination.join("others"))?, b"was here first");
    ensure!(!bed.destination.join("large").exists());
    let health = bed.fleet.degraded(0)?;
    ensure!(health.contains("set is FAILED"), "{health}");

    // It is adopted: what was there goes.
    let run = bed.cli.json(&["sync", "run", "set", "--overwrite"])?;
    ensure!(run["status"]["lastRun"]["result"] == "SUCCEEDED", "{run:#}");
    bed.in_step("the folder to be adopted")?;

    // Others change one file, make one, and touch a third without changing it.
    fs::write(bed.destination.join("folder/file-0"), b"changed there")?;
    fs::write(bed.destination.join("made-there"), b"made there")?;
    fs::write(bed.source.join("folder/file-0"), b"changed here")?;
    fs::write(bed.source.join("folder/file-3"), b"changed here too")?;
    fs::remove_file(bed.source.join("folder/file-4"))?;
    let touched = fs::File::open(bed.destination.join("folder/file-3"))?;
    touched.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let issues = bed.state("WITH_ISSUES")?;
    let run = bed.cli.run(&["sync", "run", "set", "-o", "json"])?;
    assert_eq!(run.code, 4, "{run:?}");
    let ended: Value = serde_json::from_str(&run.stdout)?;
    let last = &ended["status"]["lastRun"];
    let listed: Vec<_> = last["issues"].as_array().into_iter().flatten().collect();
    ensure!(listed.iter().all(|issue| issue["reason"] == "DESTINATION_CHANGED"), "{issues:#}");
    let mut paths: Vec<_> = listed.iter().filter_map(|issue| issue["path"].as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["set/folder/file-0", "set/made-there"], "{last:#}");
    assert_eq!(number(&last["issueCount"]), 2);
    assert_eq!(fs::read(bed.destination.join("folder/file-0"))?, b"changed there");
    assert_eq!(fs::read(bed.destination.join("made-there"))?, b"made there");
    assert_eq!(fs::read(bed.destination.join("folder/file-3"))?, b"changed here too");
    ensure!(!bed.destination.join("folder/file-4").exists());
    ensure!(metric(&bed.fleet.agents[1].metrics(), "dwcp_sync_conflicts_total")? >= 2.0);
    let found = bed.cli.run(&["check"])?;
    ensure!(found.stdout.contains("syncs/set"), "{found:?}");

    let run = bed.cli.json(&["sync", "run", "set", "--overwrite"])?;
    ensure!(run["status"]["lastRun"]["result"] == "SUCCEEDED", "{run:#}");
    bed.in_step("what others changed to be replaced")?;
    // The order was good for one run.
    fs::write(bed.destination.join("made-there"), b"again")?;
    let run = bed.cli.run(&["sync", "run", "set"])?;
    assert_eq!(run.code, 4, "{run:?}");
    assert_eq!(fs::read(bed.destination.join("made-there"))?, b"again");
    Ok(())
}

#[test]
fn a_source_that_is_empty_as_an_unmounted_one_deletes_nothing_until_it_is_asked_for() -> Result<()> {
    let bed = bed()?;
    bed.create(&[])?;
    bed.in_step("the first run")?;
    let aside = bed.source.with_file_name("aside");
    fs::rename(&bed.source, &aside)?;
    let before = digest_tree(&bed.destination)?;
    // Not there at all, then an empty mount point.
    bed.state("FAILED")?;
    fs::create_dir(&bed.source)?;
    bed.state("WITH_ISSUES")?;
    let run = bed.cli.run(&["sync", "run", "set", "-o", "json"])?;
    assert_eq!(run.code, 4, "{run:?}");
    let ended: Value = serde_json::from_str(&run.stdout)?;
    let issue = &ended["status"]["lastRun"]["issues"][0];
    ensure!(issue["reason"] == "NOT_DELETED", "{ended:#}");
    ensure!(issue["message"].as_str().is_some_and(|text| text.contains("--overwrite")), "{issue:#}");
    let files = |of: &Path| -> Result<usize> { Ok(fs::read_dir(of.join("folder"))?.count()) };
    assert_eq!((files(&bed.destination)?, bed.destination.join("large").exists()), (5, true));

    // It is mounted again.
    fs::remove_dir(&bed.source)?;
    fs::rename(&aside, &bed.source)?;
    bed.in_step("the source to be back")?;
    assert_eq!(digest_tree(&bed.destination)?, before);

    // Emptied on purpose.
    fs::rename(&bed.source, &aside)?;
    fs::create_dir(&bed.source)?;
    bed.state("WITH_ISSUES")?;
    let run = bed.cli.json(&["sync", "run", "set", "--overwrite"])?;
    ensure!(run["status"]["lastRun"]["result"] == "SUCCEEDED", "{run:#}");
    bed.in_step("an empty folder")?;
    ensure!(!bed.destination.join("large").exists());
    Ok(())
}

#[test]
fn runs_go_on_while_the_control_plane_is_away_and_after_everything_was_restarted() -> Result<()> {
    let mut bed = bed()?;
    bed.create(&[])?;
    let before = bed.in_step("the first run")?;
    bed.fleet.control_plane.kill()?;
    for round in 0..3 {
        fs::write(bed.source.join("folder/file-0"), format!("round {round}"))?;
        let there = bed.destination.join("folder/file-0");
        eventually("a run without the control plane", LIMIT, || {
            Ok((fs::read(&there).unwrap_or_default() == format!("round {round}").as_bytes()).then_some(()))
        })?;
    }
    for agent in &mut bed.fleet.agents {
        agent.kill()?;
    }
    fs::write(bed.source.join("folder/file-1"), b"while all were away")?;
    for agent in &mut bed.fleet.agents {
        agent.restart()?;
    }
    let there = bed.destination.join("folder/file-1");
    eventually("a run of restarted agents, without the control plane", LIMIT, || {
        Ok((fs::read(&there).unwrap_or_default() == b"while all were away").then_some(()))
    })?;
    bed.fleet.control_plane.restart()?;
    let later = eventually("the control plane to hear of all runs", LIMIT, || {
        let Ok(sync) = bed.get() else { return Ok(None) };
        Ok((number(&sync["status"]["run"]) >= number(&before["status"]["run"]) + 4).then_some(sync))
    })?;
    ensure!(number(&later["status"]["runsFailed"]) == 0, "{later:#}");
    bed.cli.json(&["sync", "delete", "set"])?;
    Ok(())
}

#[test]
fn a_run_goes_on_under_its_number_when_either_end_is_killed_in_the_middle() -> Result<()> {
    let mut bed = bed()?;
    bed.create(&[])?;
    bed.in_step("the first run")?;
    let file = bed.fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, "bandwidth:\n  total: 8mbit\n")?;
    bed.cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    for (end, seed) in [(0, 100), (1, 200)] {
        for part in 0..4 {
            fill_random(&bed.source.join(format!("part-{part}")), 1_500_000, seed + part)?;
        }
        let under_way = eventually("a run under way", LIMIT, || {
            let sync = bed.get()?;
            let done = number(&sync["status"]["progress"]["bytesSent"]);
            Ok((sync["status"]["running"] == true && done > 500_000).then_some(sync))
        })?;
        bed.fleet.agents[end].kill()?;
        bed.fleet.agents[end].restart()?;
        bed.in_step("the run to go on")?;
        let number_then = number(&under_way["status"]["run"]);
        let sync = bed.get()?;
        let runs = sync["status"]["runs"].as_array().cloned().unwrap_or_default();
        let it = runs.iter().find(|run| number(&run["number"]) == number_then).context("the run itself")?;
        ensure!(it["result"] == "SUCCEEDED" && number(&it["issueCount"]) == 0, "{it:#}");
    }
    Ok(())
}

#[test]
fn a_sender_that_is_removed_from_the_fleet_in_the_middle_of_a_run_changes_nothing_any_more() -> Result<()> {
    let bed = bed()?;
    bed.create(&[])?;
    bed.in_step("the first run")?;
    let file = bed.fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, "bandwidth:\n  total: 8mbit\n")?;
    bed.cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    fs::remove_file(bed.source.join("folder/file-1"))?;
    fill_random(&bed.source.join("part"), 12_000_000, 300)?;
    eventually("a run under way", LIMIT, || {
        let sync = bed.get()?;
        let sent = number(&sync["status"]["progress"]["bytesSent"]);
        Ok((sync["status"]["running"] == true && sent > 500_000).then_some(()))
    })?;
    let before = only_state(bed.fleet.agents[1].dir())?;
    bed.cli.ok(&["node", "delete", "site-a", "--yes"])?;
    let ended = bed.state("ENDED")?;
    ensure!(ended["status"]["lastRun"]["number"] != before["run"], "{ended:#}");
    let kept = eventually("the receiver to hear of it", LIMIT, || {
        let kept = only_state(bed.fleet.agents[1].dir())?;
        Ok((kept["deleted"] == true && kept["finished"] == kept["run"]).then_some(kept))
    })?;
    assert_eq!(kept["run"], before["run"]);
    // What was begun is gone, and nothing was put in place or deleted.
    eventually("what was begun to be removed", LIMIT, || {
        let names = fs::read_dir(&bed.destination)?.flatten().map(|entry| entry.file_name());
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.sort_unstable();
        Ok((names == ["folder", "large"]).then_some(()))
    })?;
    ensure!(bed.destination.join("folder/file-1").exists());
    let run = bed.cli.run(&["sync", "run", "set"])?;
    ensure!(run.code != 0 && run.stderr.contains("removed from the fleet"), "{run:?}");
    bed.cli.json(&["sync", "delete", "set"])?;
    Ok(())
}

#[test]
fn a_large_file_is_kept_in_step_beside_what_others_have_there() -> Result<()> {
    let bed = bed()?;
    let folder = bed.fleet.agents[1].root("data").join("images");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("others"), b"stays")?;
    let image = bed.source.join("large");
    bed.cli.json(&[
        "sync",
        "create",
        "--from",
        "site-a",
        "data:/set/large",
        "site-b:data:/images",
        "--name",
        "set",
        "--every",
        "1s",
    ])?;
    for round in 0..2 {
        let wanted = fs::read(&image)?;
        eventually("the file", LIMIT, || {
            Ok((fs::read(folder.join("large")).unwrap_or_default() == wanted).then_some(()))
        })?;
        if round == 0 {
            fill_random(&image, 2_500_000, 77)?;
        }
    }
    assert_eq!(fs::read(folder.join("others"))?, b"stays");
    Ok(())
}

#[test]
fn what_is_no_sync_is_refused_with_its_place() -> Result<()> {
    let bed = bed()?;
    let refused = |options: &[&str], place: &str| -> Result<()> {
        let mut arguments = vec!["sync", "create", "--from", "site-a"];
        arguments.extend(options);
        let ran = bed.cli.run(&arguments)?;
        ensure!(ran.code != 0 && ran.stderr.contains(place), "{place}: {ran:?}");
        Ok(())
    };
    refused(&["data:/set", "site-b:data:/in", "--every", "500ms"], "every")?;
    refused(&["data:/set", "site-a:data:/in"], "spec.destination_node")?;
    refused(&["data:/set", "site-c:data:/in"], "spec.destination_node")?;
    refused(&["none:/set", "site-b:data:/in"], "spec.source_path")?;
    refused(&["data:/set", "site-b:data:/in", "--exclude", ""], "exclude")?;
    refused(&["data:/set", "site-b:data:/in", "--name", "A_B"], "sync_id")?;
    bed.create(&[])?;
    refused(&["data:/set", "site-b:data:/in", "--name", "set"], "exists already")?;
    refused(&["data:/set/", "site-b:data:/in/set/folder", "--name", "other"], "syncs/set")?;
    let stale = bed.cli.run(&["sync", "delete", "set", "--etag", "999"])?;
    assert_eq!(stale.code, 7, "{stale:?}");
    // Syncs are no part of a configuration: each needs a grant that is signed for its two ends.
    let file = bed.fleet.scratch.path().join("node.yaml");
    fs::write(&file, "syncs:\n  set:\n    every: 5m\n")?;
    let ran = bed.cli.run(&["config", "validate", &file.display().to_string()])?;
    ensure!(ran.code != 0 && format!("{}{}", ran.stdout, ran.stderr).contains("syncs"), "{ran:?}");
    Ok(())
}
