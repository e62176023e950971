//! Rounds of one thing, with figures: what a killed receiver is sent again, and how fast a deleted node is cut off.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use foundation_runtime::Clock;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tests_harness::{AgentOptions, Cli, Fleet, FleetOptions, digest_tree, eventually};

use crate::probe::http_get;

/// Of the default configuration.
const SEGMENT: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);
/// What is under way before anything is done to it.
const BEGUN: u64 = 8 << 20;
/// In which a deleted node is cut off (R35).
const CUT: Duration = Duration::from_secs(5);
/// Nothing moved for so long: nothing moves any more.
const QUIET: Duration = Duration::from_millis(1500);

/// One kill of a receiver.
#[derive(Clone, Copy, Debug)]
pub struct Resent {
    /// Of the file, written when it was killed.
    pub arrived: u64,
    /// Of that, held by its journal.
    pub held: u64,
    /// Bytes that travelled more than once.
    pub again: u64,
}

/// Kills a receiver in so many transfers of one large file, each at a moment of the seed.
///
/// # Errors
/// A transfer does not go on by itself, or is not what was sent.
pub fn resend(rounds: u32, seed: u64, bytes: u64) -> Result<Vec<Resent>> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let mut random = StdRng::seed_from_u64(seed);
    let source = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&source)?;
    let mut resent = Vec::new();
    for round in 0..rounds {
        write_large(&source.join("file"), bytes, &mut random)?;
        let until = random.random_range(bytes / 10..bytes / 2);
        let name = begin(&cli, "site-a", &format!("site-b:data:/in-{round}"))?;
        let target = fleet.agents[1].root("data").join(format!("in-{round}"));
        eventually("some of it to arrive", LIMIT, || Ok((arrived(&target) > until).then_some(())))?;
        fleet.agents[1].kill()?;
        let arrived = arrived(&target);
        let held = segments_held(fleet.agents[1].dir());
        fleet.agents[1].restart()?;
        let ended = cli.json(&["transfer", "watch", &name, "--timeout", "120s"])?;
        ensure!(ended["state"] == "SUCCEEDED", "seed {seed}, round {round}: {ended:#}");
        ensure!(digest_tree(&source)? == digest_tree(&target.join("set"))?, "round {round}: the trees differ");
        let again = number(&ended["progress"]["bytesSent"]).saturating_sub(bytes);
        resent.push(Resent { arrived, held, again });
        fs::remove_dir_all(&target)?;
    }
    Ok(resent)
}

/// One deleted node that sent and received.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// From the answer of the deletion until its session with the control plane was gone.
    pub control: Duration,
    /// Until its peer had no QUIC session with it.
    pub peer: Duration,
    /// Until the last byte was written at either end, or nothing.
    pub moved_until: Duration,
    /// Bytes written at both ends after the answer.
    pub moved: u64,
}

/// Deletes so many nodes while each sends and receives a large file.
///
/// # Errors
/// One is not cut off within five seconds, its transfers do not end, or leave something behind at its peer.
pub fn revoke(rounds: u32, seed: u64, bytes: u64) -> Result<Vec<Cut>> {
    let mut fleet = Fleet::start(&FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() })?;
    let cli = fleet.cli()?;
    let mut random = StdRng::seed_from_u64(seed);
    let large = fleet.agents[0].root("data").join("set");
    fs::create_dir_all(&large)?;
    write_large(&large.join("file"), bytes, &mut random)?;
    (0..rounds).map(|round| revoke_one(&mut fleet, &cli, round, &mut random)).collect()
}

fn revoke_one(fleet: &mut Fleet, cli: &Cli, round: u32, random: &mut impl RngExt) -> Result<Cut> {
    let name = format!("guest-{round}");
    let root = fleet.scratch.folder(&format!("{name}-data"))?;
    let own = fleet.agents[0].root("data");
    fs::create_dir(root.join("set"))?;
    fs::hard_link(own.join("set/file"), root.join("set/file"))?;
    fleet.add_agent(AgentOptions {
        name: name.clone(),
        roots: vec![("data".to_owned(), root.clone())],
        ..AgentOptions::default()
    })?;
    fleet.all_ready()?;
    let targets = [own.join("in"), root.join("in")];
    let names = [begin(cli, &name, "site-a:data:/in")?, begin(cli, "site-a", &format!("{name}:data:/in"))?];
    eventually("both to be under way", LIMIT, || {
        Ok(targets.iter().all(|target| arrived(target) > BEGUN).then_some(()))
    })?;
    thread::sleep(Duration::from_millis(random.random_range(0..200)));
    cli.ok(&["node", "delete", &name, "--yes"])?;
    let cut = watch_cut(fleet, &targets)?;
    for transfer in &names {
        let ended = cli.json(&["transfer", "watch", transfer, "--timeout", "60s"]).or_else(|_failed| {
            // The exit code says that it failed, as it should.
            cli.json(&["transfer", "get", transfer])
        })?;
        ensure!(ended["state"] == "FAILED" && ended["error"]["reason"] == "NODE_REVOKED", "{ended:#}");
    }
    eventually("nothing to be left behind", LIMIT, || Ok((arrived(&targets[0]) == 0).then_some(())))?;
    fleet.agents.pop();
    fs::remove_dir_all(&root)?;
    Ok(cut)
}

/// Looks until the node that was deleted just now has no session any more, and nothing moves.
fn watch_cut(fleet: &Fleet, targets: &[std::path::PathBuf; 2]) -> Result<Cut> {
    let clock = Clock::system();
    let begun = clock.now();
    let sum = || targets.iter().map(|target| arrived(target)).collect::<Vec<_>>();
    let mut last = sum();
    let (mut moved, mut moved_until, mut control, mut peer) = (0, Duration::ZERO, None, None);
    loop {
        let elapsed = clock.now().duration_since(begun);
        let now = sum();
        let more: u64 = now.iter().zip(&last).map(|(now, last)| now.saturating_sub(*last)).sum();
        if more > 0 {
            (moved, moved_until) = (moved + more, elapsed);
        }
        last = now;
        if control.is_none() && gauge(&fleet.control_plane.metrics(), "dwcp_agents_connected")? <= 1 {
            control = Some(elapsed);
        }
        if peer.is_none() && gauge(&fleet.agents[0].metrics(), "dwcp_amst_sessions")? == 0 {
            peer = Some(elapsed);
        }
        if let (Some(control), Some(peer)) = (control, peer)
            && elapsed > control.max(peer).max(moved_until) + QUIET
        {
            ensure!(moved_until < CUT, "bytes moved for {moved_until:?} after the node was deleted");
            return Ok(Cut { control, peer, moved_until, moved });
        }
        ensure!(
            elapsed < CUT || (control.is_some() && peer.is_some()),
            "after {elapsed:?} the deleted node has sessions: control plane {control:?}, peer {peer:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

fn gauge(address: &str, name: &str) -> Result<u64> {
    let text = http_get(address, "/metrics")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    line.trim().parse::<u64>().with_context(|| format!("{name}{line}"))
}

/// A transfer of the folder `set` begins.
fn begin(cli: &Cli, from: &str, to: &str) -> Result<String> {
    let created = cli.json(&["send", "--from", from, "data:/set", to, "--detach"])?;
    Ok(created["name"].as_str().context("a transfer has a name")?.to_owned())
}

/// Bytes that lie below a folder.
fn arrived(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => arrived(&entry.path()),
        Ok(data) => data.blocks() * 512,
        Err(_gone) => 0,
    });
    bytes.sum()
}

/// What does not compress within a segment; made fast.
fn write_large(path: &Path, bytes: u64, random: &mut impl Rng) -> Result<()> {
    let mut block = vec![0; 1 << 20];
    random.fill_bytes(&mut block);
    let mut file = File::create(path)?;
    let mut left = bytes;
    for number in 0_u64.. {
        if left == 0 {
            break;
        }
        block[..8].copy_from_slice(&number.to_le_bytes());
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(&block[..part])?;
        left -= u64::try_from(part)?;
    }
    Ok(())
}

/// Bytes of whole segments that the only journal below an agent's folder holds.
fn segments_held(dir: &Path) -> u64 {
    let journals = fs::read_dir(dir.join("transfers")).into_iter().flatten().flatten();
    let bytes = journals.filter_map(|folder| fs::metadata(folder.path().join("journal")).ok()).map(|data| data.len());
    // A record of a segment: head, kind, number, segment, value.
    bytes.max().unwrap_or_default() / (10 + 1 + 8 + 8 + 32) * SEGMENT
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}
