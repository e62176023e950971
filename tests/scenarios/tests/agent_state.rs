//! Damaged files of an agent (R19): each is healed by itself, or refused in one line that says what to do; never believed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tests_harness::{Agent, Fleet, FleetOptions, binary, eventually, join_arguments, seed};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flipped,
    Emptied,
    CutShort,
    Removed,
}

const KINDS: [Damage; 4] = [Damage::Flipped, Damage::Emptied, Damage::CutShort, Damage::Removed];
/// Files that an agent is nothing without, and what a refusal says beside the file's name.
const REFUSED: [(&str, &[Damage], &str); 5] = [
    ("node.json", &[Damage::Flipped, Damage::Emptied, Damage::CutShort], "join anew with a token made for this node"),
    ("node.crt", &KINDS, "join anew with a token made for this node"),
    ("trust.bin", &KINDS, "join anew with a token made for this node"),
    ("ed25519_private.key", &KINDS, "join anew with a token made for this node"),
    ("ports.json", &[Damage::Flipped, Damage::Emptied, Damage::CutShort], "remove it to have ports chosen anew"),
];
/// Files that the control plane, or the agent itself, makes again; and whether their damage is said.
const HEALED: [(&str, bool); 8] = [
    ("roster.bin", false),
    ("config-newest.json", true),
    ("config-good.json", true),
    ("audit-witness.json", true),
    ("dht-ring.json", true),
    ("agent.db", false),
    ("ed25519_public.key", false),
    ("lock", false),
];

fn damage(path: &Path, kind: Damage, random: &mut StdRng) -> Result<()> {
    let mut bytes = fs::read(path).with_context(|| path.display().to_string())?;
    match kind {
        Damage::Removed => return Ok(fs::remove_file(path)?),
        Damage::Emptied => bytes.clear(),
        Damage::CutShort => bytes.truncate(bytes.len() / 2),
        Damage::Flipped => {
            // In the middle, so that no bit is one that says nothing, such as the last ones of a PEM.
            let at = random.random_range(bytes.len() / 4..bytes.len() * 3 / 4);
            bytes[at] ^= 1 << random.random_range(0..8);
        }
    }
    // In place, so that the mode stays.
    Ok(fs::write(path, bytes)?)
}

/// A copy of a data directory, without sockets.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// What a start says that is refused: one line of the program.
fn refused(dir: &Path, because: &str) -> Result<String> {
    let mut command = Command::new("timeout");
    command.arg("60").arg(binary("dwcp-agent")?).arg("run").arg("--data-dir").arg(dir);
    for flag in ["--quic-listen", "--dht-listen", "--http-listen", "--metrics-listen"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{because}: {:?}: {said}", output.status);
    let own: Vec<_> = said.lines().filter(|line| line.starts_with("dwcp-agent: ")).collect();
    ensure!(own.len() == 1 && !said.contains("panicked"), "{because}: {said}");
    Ok(own[0].to_owned())
}

struct Rig {
    fleet: Fleet,
    whole: PathBuf,
    random: StdRng,
    seed: u64,
}

impl Rig {
    fn new() -> Result<Self> {
        let seed = seed();
        let mut fleet = Fleet::start(&FleetOptions::default())?;
        let file = fleet.scratch.path().join("fleet.yaml");
        fs::write(&file, "transport:\n  initial_streams: 20\n")?;
        let set = fleet.cli()?.json(&["config", "set", "fleet", &file.display().to_string()])?;
        ensure!(set["rollout"]["state"] == "SUCCEEDED", "{set:#}");
        let dir = fleet.agents[1].dir().to_path_buf();
        eventually("all files to be there", LIMIT, || {
            Ok(HEALED.iter().all(|(name, _)| dir.join(name).exists()).then_some(()))
        })?;
        fleet.agents[1].stop()?;
        let whole = fleet.scratch.path().join("whole");
        copy(&dir, &whole)?;
        Ok(Self { fleet, whole, random: StdRng::seed_from_u64(seed), seed })
    }

    /// The agent's directory as it was.
    fn put_back(&self) -> Result<PathBuf> {
        let dir = self.fleet.agents[1].dir().to_path_buf();
        fs::remove_dir_all(&dir)?;
        copy(&self.whole, &dir)?;
        Ok(dir)
    }

    fn node(&self) -> Result<Value> {
        self.fleet.cli()?.json(&["node", "get", "site-b"])
    }
}

/// The second agent, and what it printed since it was started.
fn output_of(agent: &Agent, before: usize) -> String {
    agent.process().output().split_off(before)
}

#[test]
fn a_damaged_file_is_healed_or_refused_in_one_line_with_the_fix() -> Result<()> {
    let mut rig = Rig::new()?;
    let digest = rig.node()?["appliedConfig"]["digest"].clone();
    for (name, kinds, fix) in REFUSED {
        for kind in kinds {
            let dir = rig.put_back()?;
            damage(&dir.join(name), *kind, &mut rig.random)?;
            let because = format!("seed {}, {name} {kind:?}", rig.seed);
            let said = refused(&dir, &because)?;
            assert!(said.contains(name) && said.contains("restore") && said.contains(fix), "{because}: {said}");
        }
    }
    for kind in KINDS {
        let dir = rig.put_back()?;
        for (name, _) in HEALED {
            damage(&dir.join(name), kind, &mut rig.random)?;
        }
        if kind == Damage::Removed {
            fs::remove_file(dir.join("ports.json"))?;
        }
        let because = format!("seed {}, {kind:?}", rig.seed);
        let before = rig.fleet.agents[1].process().output().len();
        rig.fleet.agents[1].restart().with_context(|| because.clone())?;
        let pid = rig.fleet.agents[1].process().pid();
        eventually("its witness to be made again", LIMIT, || {
            Ok(HEALED.iter().all(|(name, _)| fs::metadata(dir.join(name)).is_ok_and(|m| m.len() > 0)).then_some(()))
        })
        .with_context(|| because.clone())?;
        rig.fleet.all_ready().with_context(|| because.clone())?;
        assert_eq!(rig.node()?["appliedConfig"]["digest"], digest, "{because}");
        let said = output_of(&rig.fleet.agents[1], before);
        for (name, is_said) in HEALED {
            if is_said && kind != Damage::Removed {
                assert_eq!(said.lines().filter(|line| line.contains(name)).count(), 1, "{because}: {name}: {said}");
            }
        }
        for alarm in ["panicked", "rewritten", "shrank", "AUDIT", "not what"] {
            assert!(!said.contains(alarm), "{because}: {alarm}: {said}");
        }
        rig.fleet.agents[1].check_alive()?;
        assert_eq!(rig.fleet.agents[1].process().pid(), pid);
        rig.fleet.agents[1].stop()?;
    }
    the_fix_works(&mut rig)
}

/// What the lines say helps: with nothing left but the roots, the same node is a member again.
fn the_fix_works(rig: &mut Rig) -> Result<()> {
    let dir = rig.put_back()?;
    let uid = rig.node()?["uid"].clone();
    for name in ["ed25519_private.key", "node.crt", "node.json"] {
        fs::remove_file(dir.join(name))?;
    }
    let cli = rig.fleet.cli()?;
    let token = cli.json(&["token", "create", "--node", "site-b"])?;
    let arguments = join_arguments(&rig.fleet.control_plane, &token, &dir, "site-b")?;
    let joined = Command::new(binary("dwcp-agent")?).args(arguments).output()?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    assert_eq!(fs::metadata(dir.join("ed25519_private.key"))?.permissions().mode() & 0o777, 0o600);
    rig.fleet.agents[1].restart()?;
    rig.fleet.all_ready()?;
    assert_eq!(rig.node()?["uid"], uid, "it is the same node");
    Ok(())
}
