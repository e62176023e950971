//! A control plane that is lost, and restored from a backup on another host: the fleet goes on, and nobody goes back silently.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{
    Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, Fleet, FleetOptions, binary, eventually, fill_random,
    join_arguments,
};

const LIMIT: Duration = Duration::from_secs(90);

fn run(program: &str, arguments: &[&str]) -> Result<Output> {
    Command::new(binary(program)?).args(arguments).output().with_context(|| program.to_owned())
}

fn ok(program: &str, arguments: &[&str]) -> Result<String> {
    let ran = run(program, arguments)?;
    ensure!(ran.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(String::from_utf8(ran.stdout)?)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A passphrase and a backup, in the fleet's folder.
struct Safe {
    passphrase: PathBuf,
    file: PathBuf,
}

impl Safe {
    fn new(fleet: &Fleet) -> Result<Self> {
        let safe =
            Self { passphrase: fleet.scratch.path().join("passphrase"), file: fleet.scratch.path().join("backup") };
        fs::write(&safe.passphrase, "correct horse battery staple\n")?;
        Ok(safe)
    }

    fn arguments<'a>(&'a self, verb: &'a str, dir: &'a Path) -> [&'a str; 5] {
        [verb, "--data-dir", text(dir), "--passphrase-file", text(&self.passphrase)]
    }

    fn backup(&self, dir: &Path) -> Result<String> {
        ok("dwcp-control-plane", &[&self.arguments("backup", dir)[..], &["-O", text(&self.file)]].concat())
    }

    fn restore(&self, dir: &Path) -> Result<String> {
        ok("dwcp-control-plane", &[&self.arguments("restore", dir)[..], &[text(&self.file)]].concat())
    }
}

fn set_level(fleet: &Fleet, cli: &Cli, level: u8) -> Result<Value> {
    let file = fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, format!("compression:\n  level: {level}\n"))?;
    cli.json(&["config", "set", "fleet", text(&file)])
}

fn send(fleet: &Fleet, cli: &Cli, name: &str) -> Result<Value> {
    fs::write(fleet.agents[0].root("data").join(name), vec![7; 300_000])?;
    cli.json(&["send", "--from", "site-a", &format!("data:/{name}"), "site-b:data:/in"])
}

/// Waits until these nodes are in these states.
fn states(cli: &Cli, wanted: &[(&str, &str)]) -> Result<()> {
    let mut seen = Vec::new();
    let waited = eventually("the nodes to be as they should", LIMIT, || {
        let state = |name: &str| {
            cli.json(&["node", "get", name]).ok().and_then(|node| node["state"].as_str().map(str::to_owned))
        };
        seen = wanted.iter().map(|(name, _)| (*name, state(name))).collect();
        Ok(seen.iter().zip(wanted).all(|((_, is), (_, state))| is.as_deref() == Some(state)).then_some(()))
    });
    waited.with_context(|| format!("{seen:?}"))
}

fn agent(fleet: &Fleet, name: &str) -> AgentOptions {
    let root = ("data".to_owned(), fleet.scratch.path().join(format!("{name}-data")));
    AgentOptions { name: name.to_owned(), roots: vec![root], ..AgentOptions::default() }
}

fn delete(cli: &Cli, name: &str) -> Result<()> {
    cli.ok(&["node", "delete", name, "--yes"]).map(drop)
}

fn events(cli: &Cli, action: &str) -> Result<Vec<Value>> {
    let list = cli.json(&["audit", "list", "--filter", &format!("action={action}")])?;
    Ok(list["auditEvents"].as_array().cloned().unwrap_or_default())
}

/// An agent is told, by the same verb as a first time, where its control plane is now.
fn point_to(control_plane: &ControlPlane, agent: &Agent, fingerprint: &str) -> Result<()> {
    let said = ok(
        "dwcp-agent",
        &["join", &control_plane.grpc(), "--ca-fingerprint", fingerprint, "--data-dir", text(agent.dir())],
    )?;
    ensure!(said.contains("joined before"), "{said}");
    Ok(())
}

#[test]
#[allow(clippy::too_many_lines, reason = "one story")]
fn a_fleet_goes_on_with_a_control_plane_that_was_restored_on_another_host() -> Result<()> {
    let names = ["site-a", "site-b", "site-c", "site-d"].map(str::to_owned).to_vec();
    let mut fleet = Fleet::start(&FleetOptions { agents: names, ..FleetOptions::default() })?;
    let (safe, cli) = (Safe::new(&fleet)?, fleet.cli()?);
    for level in 1..=3 {
        set_level(&fleet, &cli, level)?;
    }
    assert_eq!(send(&fleet, &cli, "before")?["state"], "SUCCEEDED");
    delete(&cli, "site-d")?;
    let operator = cli.json(&["operator", "create", "ann", "--role", "operator"])?;
    let token = cli.json(&["token", "create", "--max-uses", "5"])?;
    let made = safe.backup(fleet.control_plane.dir())?;
    assert!(made.contains("audit events"), "{made}");

    // What the backup does not know: configurations, a transfer, a revocation, a host.
    for level in 4..=8 {
        set_level(&fleet, &cli, level)?;
    }
    assert_eq!(send(&fleet, &cli, "after")?["state"], "SUCCEEDED");
    delete(&cli, "site-c")?;
    fleet.add_agent(agent(&fleet, "late"))?;
    states(&cli, &[("late", "READY"), ("site-c", "REVOKED")])?;
    let verified = cli.json(&["audit", "verify"])?;
    assert_eq!(verified["ok"], true);
    let events_seen = verified["events"].as_u64().context("a number")?;
    for agent in &fleet.agents[..2] {
        eventually("the agent to witness what the backup does not have", LIMIT, || {
            let kept: Value = serde_json::from_slice(&fs::read(agent.dir().join("audit-witness.json"))?)?;
            let size = kept["checkpoint"].as_str().and_then(|text| text.lines().nth(1)?.parse::<u64>().ok());
            Ok(size.is_some_and(|size| size >= events_seen).then_some(()))
        })?;
    }
    let info = cli.json(&["system", "info"])?;
    assert!(info["lastBackupTime"].is_string(), "{info:#}");
    let fingerprint = info["caFingerprint"].as_str().context("a fingerprint")?.to_owned();
    fleet.control_plane.kill()?;

    // Another folder, another port: another host. Agents learn of it by `join`, running or not.
    let moved = fleet.scratch.path().join("moved");
    let said = safe.restore(&moved)?;
    println!("{said}");
    let home = fleet.control_plane.dir().with_extension("home");
    fleet.control_plane = ControlPlane::start(&moved, ControlPlaneOptions::default())?;
    let new = &fleet.control_plane;
    let cli = Cli::new(&new.grpc(), &new.ca(), &new.admin_token_file(), &home)?;
    for agent in &fleet.agents[..3] {
        point_to(new, agent, &fingerprint)?;
    }
    // The revoked one stays revoked, by what the others remember; nobody else is lost.
    states(&cli, &[("site-a", "READY"), ("site-b", "READY"), ("site-c", "REVOKED"), ("site-d", "REVOKED")])?;
    assert_eq!(events(&cli, "node.revocation_replayed")?.len(), 1);
    // What an agent saw of the log is lost, and the log itself says by which restore: no alarm.
    for agent in &fleet.agents[..2] {
        eventually("the agent to go on with the restored log", LIMIT, || {
            Ok(agent.process().output().contains("the audit log that this agent saw goes on").then_some(()))
        })?;
        assert!(!agent.process().output().contains("is not a continuation"));
    }
    states(&cli, &[("site-a", "READY"), ("site-b", "READY")])?;
    assert_eq!(cli.json(&["system", "info"])?["epoch"], "2");
    assert_eq!(events(&cli, "fleet.restore")?.len(), 1);

    // A configuration that is written now reaches all, and they say so.
    let written = set_level(&fleet, &cli, 9)?;
    assert_eq!(written["rollout"]["state"], "SUCCEEDED", "{written:#}");
    assert_eq!(written["rollout"]["appliedNodes"].as_array().map(Vec::len), Some(2), "{written:#}");
    assert_eq!(send(&fleet, &cli, "again")?["state"], "SUCCEEDED");
    // The log verifies here, where a longer one was verified before, and says what was lost.
    let verified = cli.ok(&["audit", "verify"])?;
    assert!(verified.contains("restored"), "{verified}");
    // Operators' tokens stay, join tokens are void.
    let ann = fleet.scratch.path().join("ann.token");
    fs::write(&ann, operator["token"].as_str().context("a token")?)?;
    Cli::new(&fleet.control_plane.grpc(), &fleet.control_plane.ca(), &ann, &home)?.ok(&["node", "list"])?;
    let void = join_arguments(&fleet.control_plane, &token, &fleet.scratch.path().join("x"), "x")?;
    let refused = run("dwcp-agent", &void.iter().map(String::as_str).collect::<Vec<_>>())?;
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("token"), "{refused:?}");

    rejoin(&mut fleet, &cli, &fingerprint)
}

/// The host that joined after the backup is told what is the matter, is named by the checks, and comes back by a token for it.
fn rejoin(fleet: &mut Fleet, cli: &Cli, fingerprint: &str) -> Result<()> {
    let (grpc, dir) = (fleet.control_plane.grpc(), fleet.agents[4].dir().to_path_buf());
    let join = |more: &[&str]| {
        let arguments = ["join", &grpc, "--ca-fingerprint", fingerprint, "--data-dir", text(&dir)];
        run("dwcp-agent", &[&arguments, more].concat())
    };
    let refused = join(&[])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("dwcp token create --node"), "{refused:?}");
    let checks = cli.run(&["check"])?;
    assert!(checks.stdout.contains("joined after the backup"), "{checks:?}");
    let token = cli.json(&["token", "create", "--node", "late"])?;
    let token = token["token"].as_str().context("a token")?;
    let joined = join(&["--token", token])?;
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    fleet.agents[4].stop()?;
    fleet.agents[4].restart()?;
    states(cli, &[("late", "READY")])
}

/// Begins to send a large file, and kills its receiver when some of it is there.
fn cut_off(fleet: &mut Fleet, cli: &Cli, to: usize) -> Result<String> {
    let destination = format!("{}:data:/in", fleet.agents[to].name());
    let created = cli.json(&["send", "--from", "site-a", "data:/large", &destination, "--detach"])?;
    let name = created["name"].as_str().context("a name")?.to_owned();
    let folder = fleet.agents[to].root("data").join("in");
    eventually("the first bytes to arrive", LIMIT, || {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let blocks: u64 = entries.filter_map(|entry| Some(entry.metadata().ok()?.blocks())).sum();
        Ok((blocks * 512 > 8_000_000).then_some(()))
    })?;
    fleet.agents[to].kill()?;
    ensure!(!folder.join("large").exists(), "it was all there before its receiver was killed");
    Ok(name)
}

#[test]
fn transfers_in_flight_go_on_across_a_restore_by_themselves() -> Result<()> {
    let names = ["site-a", "site-b", "site-c"].map(str::to_owned).to_vec();
    let mut fleet = Fleet::start(&FleetOptions { agents: names, ..FleetOptions::default() })?;
    let (safe, cli) = (Safe::new(&fleet)?, fleet.cli()?);
    let source = fleet.agents[0].root("data").join("large");
    fill_random(&source, 300_000_000, 5)?;
    // One that the backup knows, and one that it does not.
    let known = cut_off(&mut fleet, &cli, 1)?;
    safe.backup(fleet.control_plane.dir())?;
    cut_off(&mut fleet, &cli, 2)?;
    let fingerprint = cli.json(&["system", "info"])?["caFingerprint"].as_str().context("a fingerprint")?.to_owned();
    fleet.control_plane.kill()?;
    let moved = fleet.scratch.path().join("moved");
    safe.restore(&moved)?;
    let home = fleet.control_plane.dir().with_extension("home");
    fleet.control_plane = ControlPlane::start(&moved, ControlPlaneOptions::default())?;
    let new = &fleet.control_plane;
    let cli = Cli::new(&new.grpc(), &new.ca(), &new.admin_token_file(), &home)?;
    fleet.agents.iter().try_for_each(|agent| point_to(new, agent, &fingerprint))?;
    states(&cli, &[("site-a", "READY")])?;
    fleet.agents[1].restart()?;
    fleet.agents[2].restart()?;
    let ended = cli.json(&["transfer", "watch", &known, "--timeout", "90s"])?;
    assert_eq!(ended["state"], "SUCCEEDED", "{ended:#}");
    let whole = fs::read(&source)?;
    for agent in &fleet.agents[1..] {
        let target = agent.root("data").join("in/large");
        eventually("the file at both", LIMIT, || Ok(target.exists().then_some(())))?;
        assert!(fs::read(&target)? == whole, "{} differs", target.display());
    }
    assert_eq!(cli.json(&["audit", "verify"])?["ok"], true);
    Ok(())
}

#[test]
fn a_database_that_was_put_back_without_a_new_epoch_is_refused_by_agents_and_alarmed() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    set_level(&fleet, &cli, 1)?;
    fleet.control_plane.stop()?;
    let (cluster, kept) = (fleet.control_plane.dir().join("postgres"), fleet.scratch.path().join("kept"));
    ok_copy(&cluster, &kept)?;
    fleet.control_plane.restart()?;
    states(&cli, &[("site-a", "READY"), ("site-b", "READY")])?;
    for level in 2..=20 {
        set_level(&fleet, &cli, level)?;
    }
    let in_force = |fleet: &Fleet| -> Result<Value> {
        let kept = fs::read_to_string(fleet.agents[0].dir().join("config-good.json"))?;
        Ok(serde_json::from_str::<Value>(&kept)?["layers"][0]["document"].clone())
    };
    assert_eq!(in_force(&fleet)?, "compression:\n  level: 20\n");

    // R12: the folder of an older day takes the place of the present one.
    fleet.control_plane.stop()?;
    fs::remove_dir_all(&cluster)?;
    ok_copy(&kept, &cluster)?;
    fleet.control_plane.restart()?;
    let rejected = |name: &str| {
        let node = cli.json(&["node", "get", name])?;
        Ok::<_, anyhow::Error>(node["appliedConfig"]["errors"].to_string().contains("without a new epoch"))
    };
    eventually("both agents to refuse", LIMIT, || {
        Ok((rejected("site-a").unwrap_or(false) && rejected("site-b").unwrap_or(false)).then_some(()))
    })?;
    assert_eq!(in_force(&fleet)?, "compression:\n  level: 20\n", "nobody went back");
    let verified = cli.run(&["audit", "verify"])?;
    assert_eq!(verified.code, 12, "{}", verified.stdout);
    assert!(verified.stdout.contains("its end was cut off"), "the server remembers: {}", verified.stdout);

    // The way out: an explicit epoch.
    fleet.control_plane.stop()?;
    ok("dwcp-control-plane", &["open-epoch", "--data-dir", text(fleet.control_plane.dir())])?;
    fleet.control_plane.restart()?;
    states(&cli, &[("site-a", "READY"), ("site-b", "READY")])?;
    eventually("the restored configuration", LIMIT, || {
        Ok((in_force(&fleet)? == "compression:\n  level: 1\n").then_some(()))
    })?;
    let written = set_level(&fleet, &cli, 7)?;
    assert_eq!(written["rollout"]["appliedNodes"].as_array().map(Vec::len), Some(2), "{written:#}");
    Ok(())
}

fn ok_copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp");
    Ok(())
}
