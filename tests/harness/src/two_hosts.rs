//! The README's page for two hosts, as it is typed: two hosts, and what runs on them.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    binaries::binary,
    host::{Host, repository},
    process::Process,
    scratch::Scratch,
    wait::eventually,
};

const LIMIT: Duration = Duration::from_secs(90);

/// The commands of the README's page, block by block.
///
/// # Errors
/// It has no such page.
pub fn page() -> Result<Vec<Vec<String>>> {
    let text = fs::read_to_string(repository().join("README.md"))?;
    let (_, page) = text.split_once("## Two hosts").context("the page")?;
    let (page, _) = page.split_once("\n## ").context("its end")?;
    let blocks = page.split("```").skip(1).step_by(2);
    Ok(blocks.map(|block| block.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()).collect())
}

/// A line as it is typed there, with the programs of this build.
///
/// # Errors
/// It fails.
pub fn typed(host: &Host, line: &str) -> Result<String> {
    let bin = binary("dwcp")?;
    host.ok(&format!("export DWCP_BIN={}; {line}", bin.parent().context("a folder")?.display()))
}

/// Types an installation's line; what it says to start by hand, since there is no systemd, is started.
fn installed(host: &Host, line: &str, scratch: &Scratch) -> Result<Process> {
    started(host, &start_line(&typed(host, line)?)?, scratch)
}

/// What an installation says to type where there is no systemd.
fn start_line(said: &str) -> Result<String> {
    let start = said.lines().find_map(|line| line.strip_prefix("    ").filter(|line| line.starts_with("runuser ")));
    Ok(start.with_context(|| format!("how to start it by hand: {said}"))?.to_owned())
}

fn started(host: &Host, start: &str, scratch: &Scratch) -> Result<Process> {
    let name =
        start.split(['/', ' ']).find(|word| word.starts_with("dwcp-") && !word.contains(".")).unwrap_or("program");
    host.start(name, start, scratch)
}

/// Waits until a file is there.
fn waits_for(host: &Host, file: &str, process: &mut Process) -> Result<()> {
    eventually(file, LIMIT, || {
        process.check_alive()?;
        Ok((host.run(&format!("test -s {file}"))?.code == 0).then_some(()))
    })
    .with_context(|| process.output())
}

/// Two hosts and what runs on them: the control plane and site-a on one, site-b on the other.
#[derive(Debug)]
pub struct TwoHosts {
    /// With the control plane and site-a.
    pub one: Host,
    /// With site-b.
    pub two: Host,
    /// Where what the programs print is kept.
    pub scratch: Scratch,
    /// What the page says to type then.
    pub rest: Vec<String>,
    programs: Vec<Process>,
}

/// One of the two agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// site-a, on the first host.
    Sender,
    /// site-b, on the second.
    Receiver,
}

const AGENT_READY: &str = "/var/lib/dwcp-agent/ready.json";

impl TwoHosts {
    /// The page, to the end of its second block on each host; `link` joins them as 10.77.0.1 and 10.77.0.2.
    ///
    /// # Errors
    /// A line of it does not do what it says.
    pub fn typed_in(one: Host, two: Host, link: impl FnOnce(&Host, &Host) -> Result<()>) -> Result<Self> {
        let scratch = Scratch::new()?;
        link(&one, &two)?;
        for host in [&one, &two] {
            host.ok("echo '10.77.0.1 ctl.example' >>/etc/hosts")?;
        }
        let blocks = page()?;
        let [server, agent, rest] = blocks.as_slice() else { anyhow::bail!("the page has three blocks: {blocks:?}") };
        let [install, check, token] = server.as_slice() else { anyhow::bail!("{server:?}") };
        let mut programs = vec![installed(&one, install, &scratch)?];
        waits_for(&one, "/var/lib/dwcp-control-plane/ready.json", &mut programs[0])?;
        assert!(typed(&one, check)?.contains("Status check results are √"));
        let printed = typed(&one, token)?;
        let join = printed.lines().find_map(|line| line.trim().strip_prefix("dwcp-agent join "));
        let join = join.with_context(|| format!("what to type on a host: {printed}"))?.to_owned();
        for (host, name) in [(&one, "site-a"), (&two, "site-b")] {
            programs.push(joined(host, name, agent, &join, &scratch)?);
        }
        let world = Self { one, two, scratch, rest: rest.clone(), programs };
        world.ready(2)?;
        Ok(world)
    }

    /// Stops both agents, and starts them again by `start`, which gets the line that an installation says to type.
    ///
    /// # Errors
    /// One does not come back.
    pub fn restart_agents(&mut self, start: impl Fn(&str) -> String) -> Result<()> {
        let block = page()?;
        let install = block.get(1).and_then(|block| block.first()).context("how an agent is installed")?.clone();
        self.programs.truncate(1);
        for host in [&self.one, &self.two] {
            // Nobody there waits for a process whose parent is gone: what is only left to be waited for does not count.
            host.ok(
                "pkill -TERM dwcp-agent; while pgrep --runstates R,S,D dwcp-agent >/dev/null; do sleep 0.05; done",
            )?;
            host.ok(&format!("rm -f {AGENT_READY}"))?;
            let line = start(&start_line(&typed(host, &install)?)?);
            let mut process = started(host, &line, &self.scratch)?;
            waits_for(host, AGENT_READY, &mut process)?;
            self.programs.push(process);
        }
        self.ready(2)
    }

    /// Kills the agent of a host without warning.
    ///
    /// # Errors
    /// There is none.
    pub fn kill_agent(&self, which: End) -> Result<()> {
        // Nobody there waits for a process whose parent is gone: what is only left to be waited for does not count.
        let line = "pkill -KILL dwcp-agent && while pgrep --runstates R,S,D dwcp-agent >/dev/null; do sleep 0.01; done";
        self.host(which).ok(line).map(drop)
    }

    /// Starts it again, as an installation says, and waits until it serves.
    ///
    /// # Errors
    /// It does not come back.
    pub fn start_agent(&mut self, which: End) -> Result<()> {
        let block = page()?;
        let install = block.get(1).and_then(|block| block.first()).context("how an agent is installed")?;
        let host = self.host(which);
        host.ok(&format!("rm -f {AGENT_READY}"))?;
        let mut process = started(host, &start_line(&typed(host, install)?)?, &self.scratch)?;
        waits_for(host, AGENT_READY, &mut process)?;
        // After the server's.
        let place = if which == End::Sender { 1 } else { 2 };
        *self.programs.get_mut(place).context("a server and two agents")? = process;
        Ok(())
    }

    fn host(&self, which: End) -> &Host {
        if which == End::Sender { &self.one } else { &self.two }
    }

    /// Waits until so many nodes are ready.
    ///
    /// # Errors
    /// They do not become so.
    pub fn ready(&self, count: usize) -> Result<()> {
        eventually("the nodes to be READY", LIMIT, || {
            let listed = self.one.ok("dwcp -o jsonl node list --filter state=READY")?;
            Ok((listed.lines().count() == count).then_some(()))
        })
        .with_context(|| self.one.ok("dwcp node list").unwrap_or_default())
    }

    /// A tree of four incompressible files at site-a, and what [`digest`] says of it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn data_set(&self, name: &str, megabytes: u32) -> Result<String> {
        let make = format!(
            "mkdir -p /srv/dwcp/data/{name} && cd /srv/dwcp/data/{name} && for n in 1 2 3 4; do head -c {} /dev/urandom >part-$n; done",
            megabytes * 250_000
        );
        self.one.ok(&format!("runuser -u dwcp-agent -- bash -c '{make}'"))?;
        digest(&self.one, &format!("/srv/dwcp/data/{name}"))
    }
}

/// The names and digests of all files in a folder.
///
/// # Errors
/// It cannot be read.
pub fn digest(host: &Host, folder: &str) -> Result<String> {
    host.ok(&format!("cd {folder} && find . -type f | sort | xargs sha256sum"))
}

/// The second block of the page on one host.
///
/// # Errors
/// A line of it does not do what it says.
pub fn joined(host: &Host, name: &str, block: &[String], join: &str, scratch: &Scratch) -> Result<Process> {
    let [install, join_line] = block else { anyhow::bail!("{block:?}") };
    let mut process = installed(host, install, scratch)?;
    waits_for(host, AGENT_READY, &mut process)?;
    // What was printed on the control plane's host goes where the page says so.
    let (before, _) = join_line.split_once("ctl.example:7442").context("the endpoint in the line")?;
    ensure!(before == "sudo dwcp-agent join " && join_line.ends_with("--name site-a"), "{join_line}");
    typed(host, &format!("{before}{join} --name {name}"))?;
    Ok(process)
}
