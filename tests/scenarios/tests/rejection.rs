//! A configuration that got past the validator does no harm: agents refuse it with reasons, and keep their last good one.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tests_harness::{Agent, Cli, ControlPlane, Fleet, FleetOptions, eventually};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes `configs/fleet` as a damaged or foreign program would: straight into the tables. Gives its generation.
fn write_past_the_validator(control_plane: &ControlPlane, document: &str) -> String {
    let statement = format!(
        "BEGIN;
         UPDATE desired_state SET generation = generation + 1;
         UPDATE configs SET revision = configs.revision + 1, generation = d.generation, update_time = now()
             FROM desired_state d WHERE name = 'fleet';
         INSERT INTO config_revisions (config, revision, document, author, message, create_time)
             SELECT name, revision, '{document}', 'nobody', 'past the validator', now() FROM configs WHERE name = 'fleet';
         COMMIT;
         SELECT generation FROM desired_state;"
    );
    tests_postgres::sql(&control_plane.database_url(), &statement)
}

/// Waits until a connected node's answer to this generation of its configuration is there, and is this one.
fn answered(cli: &Cli, node: &str, generation: &str, status: &str) -> Result<Value> {
    let mut seen = Value::Null;
    let waited = eventually("the node to answer", LIMIT, || {
        seen = cli.json(&["node", "get", node])?;
        let applied = &seen["appliedConfig"];
        let answers = applied["status"] == status && applied["generation"] == generation;
        Ok((answers && seen["state"] != "OFFLINE").then(|| seen.clone()))
    });
    waited.with_context(|| format!("{node} was to be {status} in generation {generation}: {seen:#}"))
}

/// What an agent itself says is in force.
fn in_force(agent: &Agent) -> Result<Value> {
    let url = format!("http://{}/api/v1/dwcp/amst/config", agent.http());
    let answer = Command::new("curl").args(["-sf", &url]).output()?;
    serde_json::from_slice(&answer.stdout).with_context(|| format!("{url}: {answer:?}"))
}

#[test]
fn a_configuration_past_the_validator_is_rejected_and_the_last_good_one_stays() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, "transport:\n  initial_streams: 20\n")?;
    cli.ok(&["config", "set", "fleet", &file.display().to_string()])?;
    let good = in_force(&fleet.agents[1])?;
    assert_eq!(good["initial_streams"], 20, "{good:#}");
    // Each host's own layers are in its digest, so that no two are equal.
    let digest =
        |node: &str| Ok::<_, anyhow::Error>(answered(&cli, node, "1", "APPLIED")?["appliedConfig"]["digest"].clone());
    let digests = [("site-a", digest("site-a")?), ("site-b", digest("site-b")?)];

    let bad = write_past_the_validator(&fleet.control_plane, "transport:\n  initial_streams: 40\n  max_streams: 8\n");
    for (node, digest) in digests {
        let rejected = answered(&cli, node, &bad, "REJECTED")?;
        let errors = rejected["appliedConfig"]["errors"].to_string();
        assert!(errors.contains("transport.max_streams"), "the reason names the key: {rejected:#}");
        assert_eq!(rejected["appliedConfig"]["digest"], digest, "{rejected:#}");
    }
    let shown = cli.ok(&["node", "get", "site-b"])?;
    assert!(shown.contains("transport.max_streams"), "people see it too: {shown}");
    assert_eq!(in_force(&fleet.agents[1])?, good);
    let check = cli.run(&["check"])?;
    assert_eq!(check.code, 10, "{}{}", check.stdout, check.stderr);
    assert!(check.stdout.contains("transport.max_streams"), "{}{}", check.stdout, check.stderr);

    // It stays so when the agent is started anew, also by somebody who cannot ask the control plane.
    fleet.agents[1].stop()?;
    fleet.agents[1].restart()?;
    answered(&cli, "site-b", &bad, "REJECTED")?;
    assert_eq!(in_force(&fleet.agents[1])?, good);
    fleet.agents[1].kill()?;
    fleet.control_plane.stop()?;
    fleet.agents[1].restart()?;
    assert_eq!(in_force(&fleet.agents[1])?, good);
    fleet.control_plane.restart()?;

    // What does not even parse is refused alike, and a good one takes its place.
    let bad = write_past_the_validator(&fleet.control_plane, "transport: [\n");
    let unparsed = answered(&cli, "site-a", &bad, "REJECTED")?;
    assert!(!unparsed["appliedConfig"]["errors"].to_string().is_empty(), "{unparsed:#}");
    fs::write(&file, "transport:\n  initial_streams: 24\n")?;
    cli.ok(&["config", "set", "fleet", &file.display().to_string()])?;
    answered(&cli, "site-b", "4", "APPLIED")?;
    assert_eq!(in_force(&fleet.agents[1])?["initial_streams"], 24);
    Ok(())
}
