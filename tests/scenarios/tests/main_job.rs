//! The main job from the command line: a real tree from one host to another, verified, audited, measured; and again after
//! a change.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, digest_tree, fill_random, write_sample_tree};

fn number(value: &Value) -> u64 {
    // Proto3 JSON has 64-bit integers as text.
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

#[test]
fn a_tree_arrives_whole_and_only_what_changed_is_sent_again() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let (source, target) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    write_sample_tree(&source, 1)?;
    fill_random(&source.join("big"), 40_000_000, 2)?;
    let cli = fleet.cli_on(0)?;

    // As typed on the sending host: a local path.
    let sent = cli.json(&["send", &source.display().to_string(), "site-b:data:/in"])?;
    assert_eq!(sent["state"], "SUCCEEDED", "{sent:#}");
    assert_eq!(digest_tree(&source)?, digest_tree(&target)?);
    let all = number(&sent["progress"]["bytesDone"]);
    assert!(all > 100_000_000, "a sparse file counts with its length: {sent:#}");
    assert!(number(&sent["progress"]["bytesSent"]) < 60_000_000, "holes are not sent: {sent:#}");

    // Nothing changed: nothing is sent.
    let again = cli.json(&["send", &source.display().to_string(), "site-b:data:/in"])?;
    assert_eq!(again["state"], "SUCCEEDED", "{again:#}");
    assert!(number(&again["progress"]["bytesSent"]) < 1_000, "{again:#}");

    // A few bytes of a big file changed: about a block is sent. Deletions only where asked for.
    File::options().write(true).open(source.join("big"))?.write_all_at(b"changed", 20_000_000)?;
    fs::remove_file(source.join("odd"))?;
    let changed = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    assert_eq!(changed["state"], "SUCCEEDED", "{changed:#}");
    assert!(number(&changed["progress"]["bytesSent"]) < 2_000_000, "{changed:#}");
    assert!(target.join("odd").exists());
    let plan = cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--delete", "--dry-run"])?;
    assert!(plan["plannedChanges"].to_string().contains("odd"), "{plan:#}");
    assert!(target.join("odd").exists(), "a dry run moves nothing");
    cli.ok(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--delete"])?;
    assert_eq!(digest_tree(&source)?, digest_tree(&target)?);

    // The audit log has it, and verifies.
    let verified = cli.json(&["audit", "verify"])?;
    assert_eq!(verified["ok"], true, "{verified:#}");
    let events = cli.json(&["audit", "list", "--filter", "action=transfer.*", "--limit", "1000"])?;
    let name = sent["name"].as_str().context("a transfer has a name")?;
    let about: Vec<_> =
        events["auditEvents"].as_array().into_iter().flatten().filter(|e| e["resource"] == name).collect();
    assert!(about.len() >= 2, "a transfer's beginning and end are audited: {events:#}");
    Ok(())
}

#[test]
fn names_and_places_follow_the_rules_of_the_destination() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data"), fleet.agents[1].root("data"));
    fs::create_dir_all(a.join("folder/sub"))?;
    fs::write(a.join("folder/sub/file"), "contents")?;
    fs::write(a.join("single"), "one")?;
    let cli = fleet.cli_on(0)?;
    cli.ok(&["send", "--from", "site-a", "data:/single", "site-b:data:/x"])?;
    assert_eq!(fs::read_to_string(b.join("x/single"))?, "one");
    cli.ok(&["send", "--from", "site-a", "data:/folder", "site-b:data:/x"])?;
    assert_eq!(fs::read_to_string(b.join("x/folder/sub/file"))?, "contents");
    cli.ok(&["send", "--from", "site-a", "data:/folder/", "site-b:data:/y"])?;
    assert_eq!(fs::read_to_string(b.join("y/sub/file"))?, "contents");
    cli.ok(&["send", "--from", "site-a", "data:/", "site-b:data:/all", "--exclude", "single"])?;
    assert_eq!(fs::read_to_string(b.join("all/folder/sub/file"))?, "contents");
    assert!(!b.join("all/single").exists());

    let missing = cli.run(&["send", "--from", "site-a", "data:/not-here", "site-b:data:/x"])?;
    assert_ne!(missing.code, 0, "{}{}", missing.stdout, missing.stderr);
    let unknown = cli.run(&["send", "--from", "site-a", "data:/single", "site-z:data:/x"])?;
    assert_eq!(unknown.code, 2, "{}{}", unknown.stdout, unknown.stderr);
    assert!(unknown.stderr.contains("spec.destination_node"), "{}", unknown.stderr);
    Ok(())
}
