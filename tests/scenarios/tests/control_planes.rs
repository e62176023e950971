//! The control plane survives what kills it, and is as many processes as wanted: its state is in PostgreSQL only.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result};
use control_plane_pki::SealKey;
use serde_json::Value;
use tests_harness::{
    Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, Fleet, FleetOptions, Scratch, eventually,
};

const LIMIT: Duration = Duration::from_secs(60);

fn states(cli: &Cli) -> Result<Vec<(String, String)>> {
    let list = cli.json(&["node", "list"])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(list["nodes"].as_array().into_iter().flatten().map(|node| (text(&node["name"]), text(&node["state"]))).collect())
}

fn all_ready(cli: &Cli, count: usize) -> Result<()> {
    let mut seen = Vec::new();
    let waited = eventually("every node to be READY", LIMIT, || {
        // Who asks while it comes back is answered UNAVAILABLE.
        seen = states(cli).unwrap_or_default();
        Ok((seen.len() == count && seen.iter().all(|(_, state)| state == "READY")).then_some(()))
    });
    waited.with_context(|| format!("{seen:?}"))
}

fn set_level(scratch: &Scratch, cli: &Cli, level: u8) -> Result<Value> {
    let file = scratch.path().join("fleet.yaml");
    fs::write(&file, format!("compression:\n  level: {level}\n"))?;
    cli.json(&["config", "set", "fleet", &file.display().to_string()])
}

#[test]
fn the_fleet_is_steered_again_after_its_database_and_its_server_were_killed() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    set_level(&fleet.scratch, &cli, 5)?;

    let postgres = fleet.control_plane.postgres_pid().context("it has a PostgreSQL of its own")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(postgres), nix::sys::signal::Signal::SIGKILL)?;
    eventually("another PostgreSQL", LIMIT, || Ok(fleet.control_plane.postgres_pid().filter(|pid| *pid != postgres)))?;
    all_ready(&cli, 2)?;
    assert_eq!(set_level(&fleet.scratch, &cli, 6)?["rollout"]["state"], "SUCCEEDED");

    fleet.control_plane.kill()?;
    fleet.control_plane.restart()?;
    // The ports were kept, so that neither agents nor people have to learn new ones.
    all_ready(&cli, 2)?;
    let written = set_level(&fleet.scratch, &cli, 7)?;
    assert_eq!(written["rollout"]["appliedNodes"].as_array().map(Vec::len), Some(2), "{written:#}");
    assert_eq!(cli.json(&["audit", "verify"])?["ok"], true);
    Ok(())
}

#[test]
fn two_control_planes_over_one_database_begin_at_once_and_serve_the_same_fleet() -> Result<()> {
    let scratch = Scratch::new()?;
    let options = ControlPlaneOptions {
        database_url: Some(tests_postgres::cluster().database()),
        ..ControlPlaneOptions::default()
    };
    let dirs = [scratch.folder("cp-one")?, scratch.folder("cp-two")?];
    SealKey::load_or_create(&dirs[0].join("seal.key"))?;
    fs::copy(dirs[0].join("seal.key"), dirs[1].join("seal.key"))?;
    // Both find an empty database.
    let starting = dirs.each_ref().map(|dir| {
        let (dir, options) = (dir.clone(), options.clone());
        thread::spawn(move || ControlPlane::start(&dir, options))
    });
    let started = starting.map(|start| start.join().unwrap_or_else(|_panic| anyhow::bail!("a start panicked")));
    let [one, two] = started;
    let (mut one, two) = (one?, two?);
    assert_eq!(fs::read(one.ca())?, fs::read(two.ca())?, "one fleet has one CA");

    // The token of one is redeemed at the other.
    let agent = |control_plane: &ControlPlane, name: &str| {
        let root = ("data".to_owned(), scratch.path().join(format!("{name}-data")));
        let options = AgentOptions { name: name.to_owned(), roots: vec![root], ..AgentOptions::default() };
        Agent::join(control_plane, &scratch.path().join(name), options)
    };
    let (a, _b) = (agent(&one, "site-a")?, agent(&two, "site-b")?);
    // One made the admin's token; it is good at the other.
    let admin =
        dirs.iter().map(|dir| dir.join("admin.token")).find(|path| path.exists()).context("an admin's token")?;
    let home = scratch.folder("home")?;
    let cli = |control_plane: &ControlPlane| Cli::new(&control_plane.grpc(), &control_plane.ca(), &admin, &home);
    for control_plane in [&one, &two] {
        all_ready(&cli(control_plane)?, 2)?;
    }

    // What is said to one reaches the agents of the other.
    let written = set_level(&scratch, &cli(&two)?, 9)?;
    assert_eq!(written["rollout"]["appliedNodes"].as_array().map(Vec::len), Some(2), "{written:#}");
    let source = a.root("data").join("file");
    fs::write(&source, vec![3; 1_000_000])?;
    let sent = cli(&one)?.json(&["send", "--from", "site-a", "data:/file", "site-b:data:/in"])?;
    assert_eq!(sent["state"], "SUCCEEDED", "{sent:#}");
    let name = sent["name"].as_str().context("a name")?;
    assert_eq!(cli(&two)?.json(&["transfer", "get", name])?["state"], "SUCCEEDED");

    // One dies; the other goes on with what is connected to it, and its log of both verifies.
    one.kill()?;
    let survivor = cli(&two)?;
    eventually("the survivor to know who is left", LIMIT, || {
        let seen = states(&survivor)?;
        Ok(seen.iter().any(|(name, state)| name == "nodes/site-b" && state == "READY").then_some(()))
    })?;
    set_level(&scratch, &survivor, 3)?;
    assert_eq!(survivor.json(&["audit", "verify"])?["ok"], true);
    Ok(())
}
