//! Power cuts: an agent's state and its root lie on a file system that is shut down without its journal, so that what was not synced
//! is gone, as it is with the machine (R15).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tests_harness::{Agent, AgentOptions, Fleet, FleetOptions, digest_tree, eventually};

mod syncs;

pub use syncs::{SyncCuts, cut_power_of_syncs};

use crate::files::{change_tree, file_is_whole};

const LIMIT: Duration = Duration::from_secs(90);
/// `FS_IOC_SHUTDOWN` without flushing the journal; the workspace has no unsafe code, and every Debian has Perl.
const SHUT_DOWN: &str =
    r#"open(F, "<", $ARGV[0]) or die $!; my $how = pack("L", 2); ioctl(F, 0x8004587d, $how) or die $!"#;

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cuts {
    /// Power was cut so many times.
    pub cuts: u32,
    /// In so many of them a transfer was under way to, or from, the host that lost it.
    pub under_way: u32,
    /// Transfers whose end was known before the cut, and whose trees were there after it.
    pub kept: u32,
    /// Files that were whole after a cut.
    pub files: u64,
}

/// A file system in a file.
#[derive(Debug)]
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn make(folder: &Path) -> Result<Self> {
        let disk = Self { image: folder.join("disk.img"), at: folder.join("disk") };
        fs::create_dir_all(&disk.at)?;
        fs::File::create(&disk.image)?.set_len(2500 << 20)?;
        quiet(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        // What ext4 does for programs that forget to sync before they rename is off.
        quiet(Command::new("mount").args(["-o", "loop,noauto_da_alloc"]).arg(&self.image).arg(&self.at))
    }

    /// After its end. Whoever made namespaces of mounts meanwhile holds it, dead as it is, until he goes.
    fn mount_anew(&self) -> Result<()> {
        eventually("the file system to live again", LIMIT, || {
            self.mount()?;
            if fs::write(self.at.join(".alive"), "").is_ok() && fs::remove_file(self.at.join(".alive")).is_ok() {
                return Ok(Some(()));
            }
            self.unmount()?;
            Ok(None)
        })
    }

    fn shut_down(&self) -> Result<()> {
        quiet(Command::new("perl").args(["-e", SHUT_DOWN]).arg(&self.at))
    }

    fn unmount(&self) -> Result<()> {
        eventually("the file system to be let go", LIMIT, || Ok(quiet(Command::new("umount").arg(&self.at)).ok()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(quiet(Command::new("umount").arg("-l").arg(&self.at)));
    }
}

fn quiet(command: &mut Command) -> Result<()> {
    let ran = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// Whether this machine lets us mount and shut down a file system of our own.
///
/// # Errors
/// No temporary folder can be made.
pub fn can_cut_power() -> Result<bool> {
    let scratch = tests_harness::Scratch::new()?;
    Ok(Disk::make(scratch.path()).is_ok_and(|disk| disk.shut_down().is_ok()))
}

/// Cuts the power of `site-b` at random moments of transfers to and from it, and of changes of its configuration.
///
/// # Errors
/// Something that was said to be there is not, or it does not come back.
pub fn cut_power(cuts: u32, seed: u64, large: usize) -> Result<Cuts> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start(&FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() })?;
    let disk = Disk::make(fleet.scratch.path())?;
    let host = Host::join(&mut fleet, &disk)?;
    let mut sum = Cuts::default();
    for cut in 0..cuts {
        host.cut(&mut fleet, &disk, large, &mut random, &mut sum).with_context(|| format!("seed {seed}, cut {cut}"))?;
    }
    fleet.agents.pop();
    drop(disk);
    Ok(sum)
}

/// `site-b`.
struct Host {
    root: PathBuf,
    dir: PathBuf,
}

impl Host {
    fn join(fleet: &mut Fleet, disk: &Disk) -> Result<Self> {
        // Its log lies outside: the harness writes it beside this link.
        let (dir, root) = (disk.at.join("state"), disk.at.join("data"));
        fs::create_dir_all(&dir)?;
        std::os::unix::fs::symlink(&dir, fleet.scratch.path().join("site-b"))?;
        let roots = vec![("data".to_owned(), root.clone())];
        fleet.add_agent(AgentOptions { name: "site-b".to_owned(), roots, ..AgentOptions::default() })?;
        fleet.all_ready()?;
        Ok(Self { root, dir })
    }

    fn cut(&self, fleet: &mut Fleet, disk: &Disk, large: usize, random: &mut StdRng, sum: &mut Cuts) -> Result<()> {
        let cli = fleet.cli()?;
        let (here, there) = (self.root.clone(), fleet.agents[0].root("data"));
        change_tree(&there.join("to-b"), large, random)?;
        change_tree(&here.join("to-a"), large, random)?;
        // What is to be read after the cut must be there after it.
        quiet(Command::new("sync").arg("-f").arg(&here))?;
        let file = fleet.scratch.path().join("fleet.yaml");
        fs::write(&file, format!("compression:\n  level: {}\n", random.random_range(1..5)))?;
        let mut names = Vec::new();
        for (from, path, to) in
            [("site-a", "data:/to-b/", "site-b:data:/to-b"), ("site-b", "data:/to-a/", "site-a:data:/to-a")]
        {
            let created = cli.json(&["send", "--from", from, path, to, "--delete", "--detach"])?;
            names.push(created["name"].as_str().context("a name")?.to_owned());
        }
        let writing =
            cli.command(&["config", "set", "fleet", &file.display().to_string()]).stdout(Stdio::null()).spawn();
        thread::sleep(Duration::from_millis(random.random_range(0..600)));
        let ended =
            |name: &String| -> Result<bool> { Ok(cli.json(&["transfer", "get", name])?["state"] == "SUCCEEDED") };
        let before = (ended(&names[0])?, ended(&names[1])?);

        // It sees nothing of its disk's end, as it sees nothing of the machine's.
        fleet.agents[1].process().signal(Signal::SIGSTOP)?;
        disk.shut_down()?;
        fleet.agents[1].kill()?;
        disk.unmount()?;
        disk.mount_anew()?;

        sum.cuts += 1;
        sum.under_way += u32::from(!before.0 || !before.1);
        self.check(sum)?;
        if before.0 {
            let equal = digest_tree(&there.join("to-b"))? == digest_tree(&here.join("to-b"))?;
            ensure!(equal, "a transfer was reported as SUCCEEDED, and is not there after the cut");
            sum.kept += 1;
        }
        fleet.agents[1].restart().context("it does not come back")?;
        drop(writing?.wait());
        fleet.all_ready()?;
        for name in &names {
            let ended: Value = cli.json(&["transfer", "watch", name, "--timeout", "90s"])?;
            ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
        }
        ensure!(digest_tree(&there.join("to-b"))? == digest_tree(&here.join("to-b"))?, "the trees differ at site-b");
        ensure!(digest_tree(&here.join("to-a"))? == digest_tree(&there.join("to-a"))?, "the trees differ at site-a");
        ensure!(!output(&fleet.agents[1]).contains("panicked"), "it panicked");
        Ok(())
    }

    /// Nothing in part, and nothing of its state damaged.
    fn check(&self, sum: &mut Cuts) -> Result<()> {
        let mut folders = vec![self.root.join("to-b")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else if !entry.file_name().to_string_lossy().starts_with(".dwcp-") {
                    ensure!(file_is_whole(&fs::read(&path)?), "{} is not whole after the cut", path.display());
                    sum.files += 1;
                }
            }
        }
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_json = path.extension().is_some_and(|extension| extension == "json");
            if is_json {
                let read: Result<Value, _> = serde_json::from_slice(&fs::read(&path)?);
                read.with_context(|| format!("{name} is damaged after the cut"))?;
            }
        }
        for name in ["ed25519_private.key", "node.crt", "node.json", "trust.bin"] {
            let bytes = fs::read(self.dir.join(name)).with_context(|| format!("{name} after the cut"))?;
            ensure!(!bytes.is_empty(), "{name} is empty after the cut");
        }
        Ok(())
    }
}

fn output(agent: &Agent) -> String {
    agent.process().output()
}
