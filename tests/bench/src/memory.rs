//! Many transfers at once over many streams, each agent in a cgroup with a cap on its memory: what they need at most, and that they
//! live with it.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, ensure};
use tests_harness::{AgentOptions, Fleet, FleetOptions, fill_random};

use crate::{
    measure::{self, timed},
    print_line,
};

/// A cgroup of its own, removed when dropped.
struct Cap {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Cap {
    /// Whichever version has the controller of memory on this machine.
    fn new(name: &str, megabytes: u64) -> Result<Self> {
        let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let version = if one.join("memory.limit_in_bytes").exists() { Version::One } else { Version::Two };
        let root = if version == Version::One { one } else { two };
        let folder = root.join(format!("dwcp-bench-memory-{}-{name}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("{}: this needs root", folder.display()))?;
        let cap = Self { folder, version };
        if version == Version::Two {
            fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        }
        let limit = if version == Version::One { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(cap.folder.join(limit), (megabytes * 1_000_000).to_string())?;
        Ok(cap)
    }

    /// Puts what it runs there.
    fn runner(&self) -> Vec<String> {
        let script = format!("echo $$ >{}\nexec \"$@\"", self.folder.join("cgroup.procs").display());
        ["sh", "-euc", &script, "sh"].map(str::to_owned).to_vec()
    }

    /// How many processes the kernel ended here for want of memory.
    fn kills(&self) -> Result<u64> {
        let file = if self.version == Version::One { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.folder.join(file))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.context("oom_kill in a cgroup's file")?.trim().parse()?)
    }
}

impl Drop for Cap {
    fn drop(&mut self) {
        // One that still has a process stays behind, empty of anything else.
        drop(fs::remove_dir(&self.folder));
    }
}

/// Sends `transfers` files of so many megabytes at once.
pub(crate) fn concurrent(transfers: u64, streams: u32, cap_megabytes: u64, megabytes: u64) -> Result<()> {
    let caps = [Cap::new("site-a", cap_megabytes)?, Cap::new("site-b", cap_megabytes)?];
    let mut fleet = Fleet::start(&FleetOptions { agents: Vec::new(), ..FleetOptions::default() })?;
    for (name, cap) in ["site-a", "site-b"].into_iter().zip(&caps) {
        fleet.add_agent(AgentOptions {
            name: name.to_owned(),
            roots: vec![("data".to_owned(), fleet.scratch.path().join(format!("{name}-data")))],
            relay: name == "site-a",
            runner: cap.runner(),
            ..AgentOptions::default()
        })?;
    }
    fleet.all_ready()?;
    let config = fleet.scratch.path().join("streams.yaml");
    fs::write(&config, format!("transport:\n  min_streams: {streams}\n  max_streams: {streams}\n"))?;
    fleet.cli()?.ok(&["config", "set", "fleet", &config.display().to_string()])?;
    for number in 0..transfers {
        fill_random(&fleet.agents[0].root("data").join(format!("file-{number}")), megabytes * 1_000_000, number)?;
    }
    let idle: Vec<_> = fleet.agents.iter().map(|agent| measure::resident_megabytes(agent.process().pid())).collect();
    let (sent, seconds) = timed(|| send_all(&fleet, transfers));
    sent?;
    print_line(&format!(
        "{transfers} transfers of {megabytes} MB at once, {streams} streams, cap {cap_megabytes} MB (cgroup {:?}): {seconds:.1} s",
        caps[0].version
    ));
    for (((name, agent), cap), idle) in ["sender", "receiver"].iter().zip(&fleet.agents).zip(&caps).zip(idle) {
        let peak = measure::peak_megabytes(agent.process().pid())?;
        let kills = cap.kills()?;
        print_line(&format!(
            "{name}: peak resident {peak:.0} MB, {:.0} MB before; ended by the kernel: {kills}",
            idle?
        ));
        ensure!(kills == 0, "{name} needs more than its cap");
    }
    drop(fleet);
    Ok(())
}

fn send_all(fleet: &Fleet, transfers: u64) -> Result<()> {
    thread::scope(|scope| {
        let send = |number: u64| {
            let (from, to) = (format!("data:/file-{number}"), format!("site-b:data:/in-{number}/"));
            let sent = fleet.cli()?.json(&["send", "--from", "site-a", &from, &to])?;
            ensure!(sent["state"] == "SUCCEEDED", "{sent:#}");
            Ok(())
        };
        let all: Vec<_> = (0..transfers).map(|number| scope.spawn(move || send(number))).collect();
        all.into_iter().try_for_each(|one| one.join().unwrap_or_else(|_panicked| anyhow::bail!("a send panicked")))
    })
}
