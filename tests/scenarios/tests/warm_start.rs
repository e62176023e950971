//! What a sender learned of a peer it knows after a restart, however it ended; a damaged file of it is none.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Agent, Fleet, FleetOptions, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);

fn environment(initial: u32, max: u32) -> Vec<(String, String)> {
    // One stream carries all there is under this bound, and pieces wait for it.
    [
        ("DWCP_TRANSPORT__MIN_STREAMS", "1".to_owned()),
        ("DWCP_TRANSPORT__INITIAL_STREAMS", initial.to_string()),
        ("DWCP_TRANSPORT__MAX_STREAMS", max.to_string()),
        ("DWCP_BANDWIDTH__TOTAL", "8mbit".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// With how many streams the first session of this run of the agent began.
fn began_with(agent: &Agent) -> Result<Option<u64>> {
    let url = format!("http://{}/api/v1/dwcp/status", agent.http());
    let answer = Command::new("curl").args(["-sf", &url]).output()?;
    let status: Value = serde_json::from_slice(&answer.stdout).with_context(|| format!("{url}: {answer:?}"))?;
    Ok(status["transport"]["scaler"].as_array().and_then(|moves| moves.last()?["from"].as_u64()))
}

#[test]
fn a_session_after_a_restart_begins_with_what_was_of_use_before_it() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions { agent_environment: environment(2, 2), ..FleetOptions::default() })?;
    let cli = fleet.cli()?;
    fill_random(&fleet.agents[0].root("data").join("large"), 100_000_000, 1)?;
    cli.ok(&["send", "--from", "site-a", "data:/large", "site-b:data:/", "--detach"])?;
    let kept = fleet.agents[0].dir().join("peer-profiles.json");
    eventually("a profile on the disk", LIMIT, || {
        Ok(fs::read_to_string(&kept).ok().filter(|text| text.contains("\"streams\": 2")))
    })?;
    fleet.agents[0].kill()?;

    // Without it, it would begin with as many as are set.
    fleet.agents[0].options_mut().environment = environment(30, 64);
    fleet.agents[0].restart()?;
    let mut began = 0;
    eventually("the transfer to go on and streams to be tried", LIMIT, || {
        let found = began_with(&fleet.agents[0])?;
        began = found.unwrap_or_default();
        Ok(found)
    })?;
    ensure!(began == 2, "it began with {began} streams");
    ensure!(metric(&fleet.agents[0].metrics(), "dwcp_amst_damaged_profiles_total")? == 0.0, "it is whole");

    fleet.agents[0].stop()?;
    let mut bytes = fs::read(&kept)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&kept, bytes)?;
    fleet.agents[0].restart()?;
    ensure!(metric(&fleet.agents[0].metrics(), "dwcp_amst_damaged_profiles_total")? == 1.0, "it is damaged");
    eventually("the transfer to go on without it", LIMIT, || {
        let found = began_with(&fleet.agents[0])?;
        began = found.unwrap_or_default();
        Ok(found)
    })?;
    ensure!(began == 30, "it began with {began} streams");
    Ok(())
}
