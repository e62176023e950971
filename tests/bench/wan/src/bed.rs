//! Two hosts with everything on them, and the path between them.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use foundation_runtime::Clock;
use tests_harness::{Host, TwoHosts};
use tests_wan::{Link, Wan};

use crate::Common;

/// Of the second host.
pub(crate) const TARGET: &str = "10.77.0.2";
/// What a long, fast path needs; no memory of what earlier connections met.
const SETTINGS: [&str; 3] = [
    "net.ipv4.tcp_rmem='4096 131072 134217728'",
    "net.ipv4.tcp_wmem='4096 65536 134217728'",
    "net.ipv4.tcp_no_metrics_save=1",
];
/// The file that is sent.
pub(crate) const FILE: &str = "/srv/dwcp/data/file";

/// Two hosts.
pub(crate) struct Bed {
    pub(crate) hosts: TwoHosts,
    pub(crate) wan: Wan,
    clock: Clock,
    since: Instant,
    file_bytes: u64,
    /// What the agents write to their logs, as `RUST_LOG` has it.
    log_levels: Option<String>,
}

impl Bed {
    pub(crate) fn new(options: &Common) -> Result<Self> {
        let mut wan = None;
        let hosts = TwoHosts::typed_in(Host::new("one")?, Host::new("two")?, |one, two| {
            wan = Some(Wan::between((one, "10.77.0.1/24"), (two, &format!("{TARGET}/24")), Link::default())?);
            for host in [one, two] {
                for setting in SETTINGS {
                    host.ok(&format!("sysctl -qw {setting}"))?;
                }
            }
            Ok(())
        })?;
        let log_levels = options.agent_log.clone();
        let clock = Clock::system();
        let bed = Self { hosts, wan: wan.context("a path")?, since: clock.now(), clock, file_bytes: 0, log_levels };
        if let Some(file) = &options.config {
            bed.configure(&std::fs::read_to_string(file).with_context(|| file.display().to_string())?)?;
        }
        Ok(bed)
    }

    /// Gives the fleet this configuration.
    pub(crate) fn configure(&self, configuration: &str) -> Result<()> {
        let file = self.hosts.scratch.path().join("fleet.yaml");
        std::fs::write(&file, configuration)?;
        self.hosts.one.ok(&format!("dwcp config set fleet {}", file.display())).map(drop)
    }

    /// From now on nothing waits on the path, and nothing counts.
    pub(crate) fn free_path(&self) {
        self.wan.change(|link| *link = Link::default());
    }

    /// Agents that know nothing of any earlier path, in real time.
    pub(crate) fn fresh_agents(&mut self) -> Result<()> {
        self.free_path();
        let levels = self.log_levels.clone();
        self.hosts.restart_agents(|line| match &levels {
            Some(levels) => format!("env RUST_LOG={levels} {line}"),
            None => line.to_owned(),
        })?;
        for host in [&self.hosts.one, &self.hosts.two] {
            // The control plane and its database stand between an order and its agents.
            host.ok("for pid in $(pgrep '^(dwcp-|postgres)'); do chrt --rr --all-tasks --pid 1 $pid || test ! -d /proc/$pid; done")?;
        }
        Ok(())
    }

    /// The file of so many bytes that nothing makes smaller, at the first host; nothing of it is at the second.
    pub(crate) fn file_of(&mut self, bytes: u64) -> Result<()> {
        if self.file_bytes != bytes {
            let make = format!("head -c {bytes} /dev/urandom >{FILE}");
            self.hosts.one.ok(&format!("runuser -u dwcp-agent -- bash -c '{make}'"))?;
            self.file_bytes = bytes;
        }
        self.hosts.two.ok("rm -rf /srv/dwcp/data/in /srv/rsync /srv/sendme").map(drop)
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Ends what an earlier run left, and waits until it is gone.
    pub(crate) fn clear(&self) -> Result<()> {
        for host in [&self.hosts.one, &self.hosts.two] {
            host.ok("pkill -KILL '^(iperf3|rsync|sendme|dwcp-bench-wan)$'; \
                 while pgrep --runstates R,S,D '^(iperf3|rsync|sendme|dwcp-bench-wan)$' >/dev/null; do sleep 0.02; done")?;
        }
        Ok(())
    }

    /// From now on this is the path, and all counts begin.
    pub(crate) fn begin(&mut self, link: &Link) -> Result<()> {
        self.wan.count_anew(link)?;
        self.since = self.clock.now();
        Ok(())
    }

    /// Since [`Self::begin`].
    pub(crate) fn passed(&self) -> Duration {
        self.clock.now().duration_since(self.since)
    }

    /// Keeps what the first host's agent wrote since it was started.
    pub(crate) fn keep_log(&self, name: &str) -> Result<()> {
        if self.log_levels.is_some() {
            std::fs::copy(self.shared("one-dwcp-agent.log"), name).with_context(|| name.to_owned())?;
        }
        Ok(())
    }

    /// Keeps what both agents wrote since they were started, in NAME-sender.log and NAME-receiver.log.
    pub(crate) fn keep_logs(&self, name: &str) -> Result<()> {
        if self.log_levels.is_none() {
            return Ok(());
        }
        for (host, end) in [("one", "sender"), ("two", "receiver")] {
            let kept = format!("{name}-{end}.log");
            std::fs::copy(self.shared(&format!("{host}-dwcp-agent.log")), &kept).context(kept)?;
        }
        Ok(())
    }

    /// A file name that both hosts see.
    pub(crate) fn shared(&self, name: &str) -> PathBuf {
        self.hosts.scratch.path().join(name)
    }
}
