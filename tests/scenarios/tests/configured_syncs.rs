//! Syncs in the configuration of the node that sends them: made, changed and ended with the document, and run as any other.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use tests_harness::{Fleet, FleetOptions, digest_tree, eventually, fill_random};

const LIMIT: Duration = Duration::from_secs(60);

fn same(source: &Path, destination: &Path) -> bool {
    let digests = (digest_tree(source), digest_tree(destination));
    matches!(digests, (Ok(source), Ok(destination)) if source == destination)
}

#[test]
fn a_sync_of_a_configuration_runs_follows_the_document_and_ends_with_it() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let source = fleet.agents[0].root("data").join("set");
    let destination = fleet.agents[1].root("data").join("in/set");
    fs::create_dir_all(&source)?;
    fill_random(&source.join("file"), 100_000, 1)?;
    let file = fleet.scratch.path().join("site-a.yaml");
    let path = file.display().to_string();
    let set = |rest: &str| -> Result<()> {
        let sync = "{source: 'data:/set', destination: 'site-b:data:/in', every: 1s";
        fs::write(&file, format!("syncs:\n  set: {sync}{rest}}}\n"))?;
        Ok(())
    };

    // In the fleet's document, and in a form that cannot be: refused at the edge, also without a control plane.
    set("")?;
    let fleets = cli.run(&["config", "set", "fleet", &path])?;
    ensure!(fleets.code != 0 && fleets.stderr.contains("configs/node.NAME"), "{fleets:?}");
    ensure!(cli.run(&["config", "validate", &path])?.code == 0);
    set(", evrey: 5s")?;
    let wrong = cli.run(&["config", "validate", &path])?;
    ensure!(wrong.code != 0 && wrong.stdout.contains("did you mean syncs.set.every?"), "{wrong:?}");
    ensure!(wrong.stdout.contains(&format!("{path}:2:")), "{wrong:?}");

    set("")?;
    let tried = cli.run(&["config", "validate", &path, "--online", "node.site-a"])?;
    ensure!(tried.code == 0, "{tried:?}");
    // The agent takes the document as any other: it waits for APPLIED.
    cli.json(&["config", "set", "node.site-a", &path])?;
    eventually("the first run", LIMIT, || Ok(same(&source, &destination).then_some(())))
        .with_context(|| format!("{:#}", cli.json(&["sync", "get", "set"]).unwrap_or_default()))?;
    let sync = cli.json(&["sync", "get", "set"])?;
    ensure!(sync["config"] == "configs/node.site-a", "{sync:#}");
    let listed = cli.run(&["sync", "list", "-o", "table"])?;
    ensure!(listed.stdout.contains("node.site-a"), "{listed:?}");
    let refused = cli.run(&["sync", "delete", "set"])?;
    ensure!(refused.code != 0 && refused.stderr.contains("dwcp config set node.site-a"), "{refused:?}");

    // What is excluded from now on is left alone at both ends, by the same sync.
    set(", exclude: ['*.tmp']")?;
    cli.json(&["config", "set", "node.site-a", &path])?;
    fs::write(destination.join("theirs.tmp"), b"spared")?;
    fs::write(source.join("ours.tmp"), b"left out")?;
    fs::write(source.join("new"), b"new")?;
    eventually("what is new", LIMIT, || Ok(destination.join("new").exists().then_some(())))?;
    cli.json(&["sync", "run", "set"])?;
    ensure!(destination.join("theirs.tmp").exists() && !destination.join("ours.tmp").exists());
    let changed = cli.json(&["sync", "get", "set"])?;
    assert_eq!(changed["uid"], sync["uid"]);

    // It goes with the document; what was published stays.
    fs::write(&file, "{}\n")?;
    cli.json(&["config", "set", "node.site-a", &path])?;
    ensure!(cli.run(&["sync", "get", "set"])?.code == 3);
    eventually("the sender to forget the sync", LIMIT, || {
        let mut left = fs::read_dir(fleet.agents[0].dir().join("syncs"))?.flatten();
        Ok((!left.any(|entry| entry.path().extension().is_some_and(|ending| ending == "json"))).then_some(()))
    })?;
    ensure!(destination.join("new").exists());
    let log = cli.json(&["audit", "list", "--filter", "resource=syncs/set", "--limit", "100"])?.to_string();
    for action in ["sync.create", "sync.update", "sync.delete"] {
        ensure!(log.contains(action), "{action}: {log}");
    }
    Ok(())
}
