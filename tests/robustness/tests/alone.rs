//! R1, shortened: with all of the control plane dead, agents go on, also after they were killed themselves; what ended meanwhile is
//! reported when it is back.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use foundation_runtime::Clock;
use rand::{SeedableRng, rngs::StdRng};
use tests_harness::{Cli, digest_tree, eventually};
use tests_robustness::{Mode, Rig, agent_digest, change_tree};

const LIMIT: Duration = Duration::from_secs(90);
const SENDS: usize = 8;

#[test]
fn agents_move_files_and_keep_their_configuration_while_all_of_the_control_plane_is_dead() -> Result<()> {
    let clock = Clock::system();
    let mut random = StdRng::seed_from_u64(5);
    let mut rig = Rig::start(Mode::Outside)?;
    let cli = rig.cli(0)?;
    let file = rig.scratch.path().join("fleet.yaml");
    fs::write(&file, "compression:\n  level: 2\n")?;
    cli.ok(&["config", "set", "fleet", &file.display().to_string()])?;
    rig.all_ready(LIMIT)?;
    // Known peers stay known; who was never looked up before cannot be found when there is nobody to ask.
    for agent in &rig.agents {
        eventually("every agent to have found the others", LIMIT, || {
            Ok(agent.process().output().contains("Filtered 2 peers as connectable").then_some(()))
        })?;
    }
    let digests: Vec<_> = rig.agents.iter().map(|agent| agent_digest(&agent.http())).collect::<Result<_>>()?;

    // Two transfers are under way when everything central dies.
    let lanes = [(0, 1), (1, 2)];
    let mut names = Vec::new();
    for (from, to) in lanes {
        change_tree(&rig.root(from).join(format!("out-{from}")), 50_000_000, &mut random)?;
        let (sender, receiver) = (rig.agents[from].name().to_owned(), rig.agents[to].name().to_owned());
        let (path, target) = (format!("data:/out-{from}"), format!("{receiver}:data:/in"));
        let created = cli.json(&["send", "--from", &sender, &path, &target, "--detach"])?;
        names.push(created["name"].as_str().context("a name")?.to_owned());
    }
    for (to, name) in lanes.iter().map(|(_, to)| *to).zip(&names) {
        let id = name.trim_start_matches("transfers/");
        let (folder, end) = (
            rig.agents[to].dir().join(format!("transfers/{id}.receiver")),
            rig.agents[to].dir().join("transfers/ended"),
        );
        eventually("a transfer to begin", LIMIT, || {
            Ok((folder.exists() || end.join(format!("{id}.receiver")).exists()).then_some(()))
        })?;
    }
    rig.postgres.as_mut().context("an outside database")?.kill_postmaster()?;
    for server in &mut rig.servers {
        server.kill()?;
    }

    // Every agent is killed, and comes back with what it had in force.
    let mut slowest = Duration::ZERO;
    for (agent, digest) in rig.agents.iter_mut().zip(&digests) {
        agent.kill()?;
        let begun = clock.now();
        agent.restart()?;
        slowest = slowest.max(clock.now().duration_since(begun));
        ensure!(agent_digest(&agent.http())? == *digest, "{} has another configuration in force", agent.name());
    }
    // New sends begin and end, by what the hosts themselves allow.
    for number in 0..SENDS {
        let (from, to) = (number % 3, (number + 1) % 3);
        let source = rig.root(from).join(format!("direct-{number}"));
        change_tree(&source, 500_000, &mut random)?;
        let cli = offline(&rig, from)?;
        let target = format!("{}:data:/direct", rig.agents[to].name());
        let ran =
            cli.run(&["-o", "json", "send", "--direct", &source.display().to_string(), &target, "--timeout", "60s"])?;
        ensure!(ran.code == 0, "{}{}", ran.stdout, ran.stderr);
        let arrived = rig.root(to).join(format!("direct/direct-{number}"));
        ensure!(digest_tree(&source)? == digest_tree(&arrived)?, "a direct send changed the tree");
    }
    for (from, to) in lanes {
        let (source, target) =
            (rig.root(from).join(format!("out-{from}")), rig.root(to).join(format!("in/out-{from}")));
        eventually("what was under way to arrive", LIMIT, || {
            Ok((digest_tree(&source)? == digest_tree(&target).unwrap_or_default()).then_some(()))
        })?;
    }

    // It comes back, and hears of everything.
    rig.postgres.as_mut().context("an outside database")?.restart()?;
    for server in &mut rig.servers {
        server.restart()?;
    }
    let begun = clock.now();
    rig.all_ready(LIMIT)?;
    for name in &names {
        let ended = rig.cli(1)?.json(&["transfer", "watch", name, "--timeout", "60s"])?;
        assert_eq!(ended["state"], "SUCCEEDED", "{ended:#}");
    }
    let together = clock.now().duration_since(begun);
    assert_eq!(rig.cli(0)?.json(&["audit", "verify"])?["ok"], true);
    eprintln!("{SENDS} of {SENDS} direct sends; slowest start {slowest:?}; together again after {together:?}");
    assert!(together <= Duration::from_secs(30), "R1 promises 30 s: {together:?}");
    Ok(())
}

fn offline(rig: &Rig, agent: usize) -> Result<Cli> {
    Ok(rig.cli(0)?.with("DWCP_AGENT_SOCKET", rig.agents[agent].socket()))
}
