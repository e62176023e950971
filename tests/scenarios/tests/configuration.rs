//! A configuration reaches the agents; a bad one does not.

use std::fs;

use anyhow::Result;
use tests_harness::{Fleet, FleetOptions, eventually};

#[test]
fn a_written_configuration_is_applied_by_every_agent_and_rolled_back_by_one_command() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(
        &file,
        "dwcp:\n  transport:\n    initial_streams: 20\n    congestion_algorithm: bbr\n  dht:\n    encrypt_records: true\n",
    )?;
    let path = file.display().to_string();
    let written = cli.json(&["config", "set", "fleet", &path, "-m", "first"])?;
    assert_eq!(written["rollout"]["state"], "SUCCEEDED", "{written:#}");
    assert_eq!(written["rollout"]["appliedNodes"].as_array().map(Vec::len), Some(2), "{written:#}");
    assert!(written["notInForce"].to_string().contains("encrypt_records"), "{written:#}");

    let effective = cli.json(&["config", "effective", "site-a"])?;
    let value = effective["values"].as_array().into_iter().flatten().find(|v| v["path"] == "transport.initial_streams");
    assert_eq!(value.map(|v| (v["value"].as_str(), v["origin"].as_str())), Some((Some("20"), Some("configs/fleet"))));
    assert_eq!(effective["digest"], effective["appliedDigest"], "{effective:#}");

    fs::write(&file, "transport:\n  initial_streams: 40\n")?;
    cli.ok(&["config", "set", "fleet", &path])?;
    let rolled = cli.json(&["config", "rollback", "fleet"])?;
    assert_eq!(rolled["revision"], "3");
    assert_eq!(cli.json(&["config", "effective", "site-b"])?["values"].to_string().matches("\"40\"").count(), 0);
    let history = cli.json(&["config", "history", "fleet"])?;
    assert_eq!(history["revisions"].as_array().map(Vec::len), Some(3));
    Ok(())
}

#[test]
fn a_bad_configuration_is_refused_with_its_path_line_and_column() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let file = fleet.scratch.path().join("bad.yaml");
    fs::write(&file, "transport:\n  max_streams: 8\n")?;
    let path = file.display().to_string();
    let refused = cli.run(&["config", "set", "fleet", &path])?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("transport.max_streams"), "{}", refused.stderr);
    let offline = cli.run(&["config", "validate", &path])?;
    assert_eq!(offline.code, 1, "{}{}", offline.stdout, offline.stderr);
    assert!(
        format!("{}{}", offline.stdout, offline.stderr).contains("bad.yaml:2:"),
        "{}{}",
        offline.stdout,
        offline.stderr
    );

    // A stale etag is a conflict, and changes nothing.
    fs::write(&file, "transport:\n  max_streams: 128\n")?;
    cli.ok(&["config", "set", "fleet", &path])?;
    assert_eq!(cli.run(&["config", "set", "fleet", &path, "--etag", "stale"])?.code, 7);
    Ok(())
}

#[test]
fn an_agent_that_was_away_gets_the_newest_configuration_when_it_returns() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    fleet.agents[1].stop()?;
    eventually("site-b to be OFFLINE", std::time::Duration::from_secs(60), || {
        Ok((cli.json(&["node", "get", "site-b"])?["state"] == "OFFLINE").then_some(()))
    })?;
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, "compression:\n  level: 7\n")?;
    let written = cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    assert_eq!(written["rollout"]["offlineNodes"].to_string(), "[\"nodes/site-b\"]", "{written:#}");
    fleet.agents[1].restart()?;
    eventually("site-b to apply it", std::time::Duration::from_secs(60), || {
        let effective = cli.json(&["config", "effective", "site-b"])?;
        let node = cli.json(&["node", "get", "site-b"])?;
        let same = effective["digest"] == effective["appliedDigest"];
        Ok((same && node["appliedConfig"]["status"] == "APPLIED").then_some(()))
    })
}
