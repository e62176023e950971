//! The same of a host that sends one sync and receives another: its state and its root lie on a file system each, so that nothing that is made durable
//! on the one takes the other along.

use std::{
    collections::BTreeMap, fs, os::unix::fs::symlink, path::Path, path::PathBuf, process::Command, thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tests_harness::{AgentOptions, Cli, Fleet, FleetOptions, eventually};

use super::{Disk, LIMIT, output, quiet};
use crate::files::{change_tree, file_is_whole, write_file};

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncCuts {
    /// Power was cut so many times.
    pub cuts: u32,
    /// In so many of them the sync that the host receives was running.
    pub under_way: u32,
    /// Files that others made or changed at the destination, and that were left as they were.
    pub others: usize,
}

/// Files and links below a folder, by their paths from there.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn tree(folder: &Path) -> Result<Tree> {
    let (mut found, mut folders) = (Tree::new(), vec![folder.to_owned()]);
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let bytes = match kind? {
                kind if kind.is_dir() => {
                    folders.push(path);
                    continue;
                }
                kind if kind.is_symlink() => fs::read_link(&path)?.into_os_string().into_encoded_bytes(),
                _ => fs::read(&path)?,
            };
            found.insert(path.strip_prefix(folder)?.to_owned(), bytes);
        }
    }
    Ok(found)
}

fn change(folder: &Path, large: usize, random: &mut StdRng) -> Result<()> {
    change_tree(folder, large, random)?;
    for number in 0..8 {
        let path = folder.join(format!("link-{number}"));
        drop(fs::remove_file(&path));
        symlink(format!("to-{}", random.random::<u32>()), &path)?;
    }
    Ok(())
}

/// Cuts the power of a host at random moments of the runs of two syncs, one to and one from it.
///
/// # Errors
/// Something of others was replaced or deleted, something of the sync's own is taken for others', or runs do not go on.
pub fn cut_power_of_syncs(cuts: u32, seed: u64, large: usize) -> Result<SyncCuts> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start(&FleetOptions { agents: vec!["site-a".to_owned()], ..FleetOptions::default() })?;
    let disks = ["state", "data"].map(|name| Disk::make(&fleet.scratch.path().join(format!("disk-{name}"))));
    let [state, data] = disks;
    let disks = [state?, data?];
    let [dir, root] = ["state", "data"].map(PathBuf::from);
    let (dir, root) = (disks[0].at.join(dir), disks[1].at.join(root));
    fs::create_dir_all(&dir)?;
    symlink(&dir, fleet.scratch.path().join("site-b"))?;
    let roots = vec![("data".to_owned(), root.clone())];
    fleet.add_agent(AgentOptions { name: "site-b".to_owned(), roots, ..AgentOptions::default() })?;
    fleet.all_ready()?;
    let there = fleet.agents[0].root("data");
    let cli = fleet.cli()?;
    for (folder, from, to, name) in [(&there, "site-a", "site-b", "down"), (&root, "site-b", "site-a", "up")] {
        change(&folder.join(name), large, &mut random)?;
        let (path, into) = (format!("data:/{name}/"), format!("{to}:data:/{name}"));
        cli.json(&["sync", "create", "--from", from, &path, &into, "--name", name, "--every", "1s"])?;
    }
    let mut bed = Bed { fleet, cli, disks, root, there, large, theirs: Tree::new() };
    let mut sum = SyncCuts::default();
    for name in ["down", "up"] {
        bed.in_step(name)?;
    }
    for cut in 0..cuts {
        bed.cut(&mut random, &mut sum).with_context(|| format!("seed {seed}, cut {cut}"))?;
    }
    bed.fleet.agents.pop();
    Ok(sum)
}

struct Bed {
    fleet: Fleet,
    cli: Cli,
    disks: [Disk; 2],
    root: PathBuf,
    there: PathBuf,
    large: usize,
    /// What others made or changed where the host receives.
    theirs: Tree,
}

impl Bed {
    /// Others make a file and change one.
    fn meddle(&mut self, random: &mut StdRng) -> Result<()> {
        let folder = self.root.join("down");
        let mut names = vec![PathBuf::from(format!("theirs-{:08x}", random.random::<u32>()))];
        let ours: Vec<_> = tree(&folder)?
            .into_keys()
            .filter(|path| path.starts_with("deep") && !path.to_string_lossy().contains(".dwcp-"))
            .collect();
        names.extend(ours.get(random.random_range(0..ours.len().max(1))).cloned());
        for name in names {
            let path = folder.join(&name);
            drop(fs::remove_file(&path));
            write_file(&path, random.random_range(100..3000), random)?;
            self.theirs.insert(name, fs::read(path)?);
        }
        Ok(())
    }

    fn change_both(&self, random: &mut StdRng) -> Result<()> {
        change(&self.there.join("down"), self.large, random)?;
        change(&self.root.join("up"), self.large, random)?;
        quiet(Command::new("sync").arg("-f").arg(&self.root))
    }

    fn cut(&mut self, random: &mut StdRng, sum: &mut SyncCuts) -> Result<()> {
        self.meddle(random)?;
        for _ in 0..random.random_range(1..4) {
            self.change_both(random)?;
            thread::sleep(Duration::from_millis(random.random_range(0..900)));
        }
        let before = self.cli.json(&["sync", "get", "down"])?;
        self.fleet.agents[1].process().signal(Signal::SIGSTOP)?;
        for disk in &self.disks {
            disk.shut_down()?;
        }
        self.fleet.agents[1].kill()?;
        for disk in &self.disks {
            disk.unmount()?;
            disk.mount_anew()?;
        }
        sum.cuts += 1;
        sum.under_way += u32::from(before["status"]["running"] == true);
        let found = tree(&self.root.join("down"))?;
        for (path, bytes) in found.iter().filter(|(path, _)| !path.to_string_lossy().contains("link-")) {
            let is_part = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".dwcp-"));
            ensure!(is_part || file_is_whole(bytes), "{} is not whole after the cut", path.display());
        }
        self.are_theirs(&found)?;
        // What was put in place before the cut is not the source's any more: only what is on the disk says whose it is.
        self.change_both(random)?;
        self.fleet.agents[1].restart().context("it does not come back")?;
        self.fleet.all_ready()?;
        for name in ["down", "up"] {
            self.in_step(name)?;
        }
        sum.others = self.theirs.len();
        ensure!(!output(&self.fleet.agents[1]).contains("panicked"), "it panicked");
        Ok(())
    }

    fn are_theirs(&self, found: &Tree) -> Result<()> {
        for (path, bytes) in &self.theirs {
            ensure!(found.get(path) == Some(bytes), "{} was others', and is replaced or gone", path.display());
        }
        Ok(())
    }

    /// A run leaves out what others changed, and nothing else; all else is in step.
    fn in_step(&self, name: &str) -> Result<()> {
        let ran = self.cli.run(&["sync", "run", name, "--timeout", "90s", "-o", "json"])?;
        ensure!([0, 4].contains(&ran.code), "{name}: {ran:?}");
        let sync: Value = serde_json::from_str(&ran.stdout)?;
        let (source, destination) = match name {
            "down" => (&self.there, &self.root),
            _ => (&self.root, &self.there),
        };
        let theirs = if name == "down" { self.theirs.clone() } else { Tree::new() };
        let (mut wanted, destination) = (tree(&source.join(name))?, destination.join(name));
        wanted.extend(theirs.clone());
        let found = eventually("both to be in step", LIMIT, || {
            let found = tree(&destination).unwrap_or_default();
            Ok((found.keys().eq(wanted.keys())).then_some(found))
        });
        let found = found.with_context(|| format!("{name}: {sync:#}"))?;
        if name == "down" {
            self.are_theirs(&found)?;
        }
        let differ: Vec<_> =
            wanted.iter().filter(|(path, bytes)| found.get(*path) != Some(bytes)).map(|(path, _)| path).collect();
        ensure!(differ.is_empty(), "{name}: {differ:?} differ: {:#}", sync["status"]["lastRun"]);
        let last = &sync["status"]["lastRun"];
        let issues: Vec<_> =
            last["issues"].as_array().into_iter().flatten().filter_map(|issue| issue["path"].as_str()).collect();
        let own: Vec<_> = issues.iter().filter(|path| !theirs.contains_key(Path::new(path))).collect();
        ensure!(own.is_empty(), "{name}: {own:?} are taken for others': {last:#}");
        ensure!(sync["status"].get("runsFailed").is_none_or(|count| count == "0" || count == 0), "{name}: {sync:#}");
        Ok(())
    }
}
