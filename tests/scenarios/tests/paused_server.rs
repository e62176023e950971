//! A server that stands still while another goes on: its agents are shown as away, and when it goes on there is one history, with its
//! agents in their places again. R10.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use control_plane_pki::SealKey;
use tests_harness::{Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, Scratch, Stopped, eventually};

const LIMIT: Duration = Duration::from_secs(90);

fn state(cli: &Cli, node: &str) -> Result<String> {
    let node = cli.json(&["node", "get", node])?;
    Ok(node["state"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn what_another_server_did_meanwhile_stands_when_a_server_that_stood_still_goes_on() -> Result<()> {
    let scratch = Scratch::new()?;
    let url = tests_postgres::cluster().database();
    let dirs = [scratch.folder("cp-one")?, scratch.folder("cp-two")?];
    SealKey::load_or_create(&dirs[0].join("seal.key"))?;
    fs::copy(dirs[0].join("seal.key"), dirs[1].join("seal.key"))?;
    let options = ControlPlaneOptions { database_url: Some(url.clone()), ..ControlPlaneOptions::default() };
    let one = ControlPlane::start(&dirs[0], options.clone())?;
    let two = ControlPlane::start(&dirs[1], options)?;
    let admin =
        dirs.iter().map(|dir| dir.join("admin.token")).find(|path| path.exists()).context("an admin's token")?;
    let home = scratch.folder("home")?;
    let cli = Cli::new(&two.grpc(), &two.ca(), &admin, &home)?;
    let mut agents = Vec::new();
    for (server, name) in [(&one, "site-a"), (&two, "site-b")] {
        let options = AgentOptions { name: name.to_owned(), ..AgentOptions::default() };
        agents.push(Agent::join(server, &scratch.path().join(name), options)?);
    }
    for name in ["site-a", "site-b"] {
        eventually("both to be READY", LIMIT, || Ok((state(&cli, name)? == "READY").then_some(())))?;
    }

    let stopped = Stopped::process(one.process())?;
    eventually("the other server to find it gone", LIMIT, || Ok((state(&cli, "site-a")? == "OFFLINE").then_some(())))?;
    let file = scratch.path().join("fleet.yaml");
    fs::write(&file, "compression:\n  level: 9\n")?;
    let written = cli.json(&["config", "set", "fleet", &file.display().to_string()])?;
    ensure!(written["rollout"]["state"] == "SUCCEEDED", "{written:#}");
    drop(stopped);

    eventually("its agent to be READY with the newest", LIMIT, || {
        let config = cli.json(&["config", "get", "fleet"])?;
        let applied = config["rollout"]["appliedNodes"].as_array().map_or(0, Vec::len);
        Ok((applied == 2 && state(&cli, "site-a")? == "READY").then_some(()))
    })?;
    let ends = "SELECT count(*), count(DISTINCT resource) FROM audit_events WHERE action = 'rollout.end'";
    assert_eq!(tests_postgres::sql(&url, ends), "1|1", "a rollout ends once");
    ensure!(cli.json(&["audit", "verify"])?["ok"] == true, "the log verifies");
    Ok(())
}
