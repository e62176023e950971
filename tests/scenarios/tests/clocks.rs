//! Clocks that are wrong: it is said, with what mends it, nothing spins, and nothing goes back. R43; a control plane that is away for
//! longer than certificates live.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use control_plane_pki::SealKey;
use tests_harness::{
    Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, Fleet, FleetOptions, Scratch, clock_off_by, eventually,
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_host_whose_clock_is_wrong_says_so_and_is_back_when_it_is_right() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli_on(1)?;
    let right = fleet.agents[1].options_mut().environment.clone();
    for offset in ["+400d", "-1d"] {
        let agent = &mut fleet.agents[1];
        agent.stop()?;
        let lines = agent.process().output().lines().count();
        agent.options_mut().environment = [right.clone(), clock_off_by(offset)?].concat();
        agent.restart()?;
        let checked = eventually("the check to say it", LIMIT, || {
            let checked = cli.run(&["check"])?;
            Ok(checked.stdout.contains("set the host's clock").then_some(checked.stdout))
        })?;
        ensure!(checked.contains("not valid at this host's time"), "{checked}");
        // It tries again, and does not fill the log with it.
        let log = fleet.agents[1].process().output();
        let said = log.lines().skip(lines).filter(|line| line.contains("No session with the control plane")).count();
        ensure!((1..=2).contains(&said), "said {said} times:\n{log}");
    }
    let agent = &mut fleet.agents[1];
    agent.stop()?;
    agent.options_mut().environment = right;
    agent.restart()?;
    fleet.all_ready()
}

#[test]
fn a_fleet_that_was_off_for_longer_than_its_certificates_live_comes_back_by_itself() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() })?;
    fleet.agents[0].stop()?;
    fleet.control_plane.stop()?;
    fleet.control_plane.options_mut().environment = clock_off_by("+100d")?;
    fleet.control_plane.restart()?;
    fleet.agents[0].options_mut().environment = clock_off_by("+100d")?;
    fleet.agents[0].restart()?;
    // Who asks has the right time, too.
    let cli = fleet.cli()?;
    let wrong = cli.run(&["node", "list"])?;
    ensure!(wrong.stderr.contains("set this host's clock"), "{}", wrong.stderr);
    let cli = clock_off_by("+100d")?.into_iter().fold(cli, |cli, (name, value)| cli.with(&name, value));
    eventually("the agent to be READY", LIMIT, || {
        Ok((cli.json(&["node", "list"])?["nodes"][0]["state"] == "READY").then_some(()))
    })?;
    ensure!(fleet.agents[0].process().output().contains("The node's certificate was renewed"), "it was not renewed");
    Ok(())
}

#[test]
fn two_servers_whose_clocks_differ_by_half_a_minute_are_one_control_plane() -> Result<()> {
    let scratch = Scratch::new()?;
    let url = tests_postgres::cluster().database();
    let dirs = [scratch.folder("cp-one")?, scratch.folder("cp-two")?];
    SealKey::load_or_create(&dirs[0].join("seal.key"))?;
    fs::copy(dirs[0].join("seal.key"), dirs[1].join("seal.key"))?;
    let options = ControlPlaneOptions { database_url: Some(url), ..ControlPlaneOptions::default() };
    let one = ControlPlane::start(&dirs[0], options.clone())?;
    let two = ControlPlane::start(&dirs[1], ControlPlaneOptions { environment: clock_off_by("+30s")?, ..options })?;
    let home = scratch.folder("home")?;
    let admin =
        dirs.iter().map(|dir| dir.join("admin.token")).find(|path| path.exists()).context("an admin's token")?;
    let clis = [&one, &two].map(|server| Cli::new(&server.grpc(), &server.ca(), &admin, &home));
    let [first, second] = clis;
    let (first, second) = (first?, second?);
    let mut agents = Vec::new();
    for (server, name) in [(&one, "site-a"), (&two, "site-b")] {
        let root = ("data".to_owned(), scratch.path().join(format!("{name}-data")));
        let options = AgentOptions { name: name.to_owned(), roots: vec![root], ..AgentOptions::default() };
        agents.push(Agent::join(server, &scratch.path().join(name), options)?);
    }
    let file = scratch.path().join("fleet.yaml");
    for (level, cli) in [(3, &first), (4, &second), (5, &first), (6, &second)] {
        fs::write(&file, format!("compression:\n  level: {level}\n"))?;
        cli.ok(&["config", "set", "fleet", &file.display().to_string()])?;
    }
    fs::write(agents[0].root("data").join("file"), vec![5; 100_000])?;
    for cli in [&first, &second] {
        let sent = cli.json(&["send", "--from", "site-a", "data:/file", "site-b:data:/in"])?;
        ensure!(sent["state"] == "SUCCEEDED", "{sent:#}");
    }
    for agent in &agents {
        let log = agent.process().output();
        ensure!(log.matches("Session with the control plane stands").count() == 1, "{log}");
    }
    ensure!(second.json(&["audit", "verify"])?["ok"] == true, "the log verifies");
    let times = tests_postgres::sql(
        &one.database_url(),
        "SELECT count(*) FROM (SELECT time < lag(time) OVER (ORDER BY sequence) AS back FROM audit_events) t WHERE back",
    );
    ensure!(times == "0", "{times} events are older than the one before");
    Ok(())
}
