//! The rivals, as their users run them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Process, eventually};

use crate::measure::{Usage, timed};

/// Memory to memory over one TCP connection: seconds and CPU of both ends.
pub(crate) fn iperf3(megabytes: u64) -> Result<(f64, Usage)> {
    let port = free_port()?;
    let log = std::env::temp_dir().join(format!("iperf3-{port}.log"));
    let mut server = Command::new("iperf3");
    server.args(["-s", "-1", "-B", "127.0.0.1", "-p", &port.to_string()]);
    let mut server = Process::start("iperf3", &mut server, &log)?;
    eventually("iperf3 to listen", Duration::from_secs(10), || {
        server.check_alive()?;
        Ok(server.output().contains("listening").then_some(()))
    })
    .or_else(|error| if server.output().is_empty() { Ok(()) } else { Err(error) })?;
    let output = Command::new("iperf3")
        .args(["-c", "127.0.0.1", "-J", "-p", &port.to_string(), "-n", &format!("{}", megabytes * 1_000_000)])
        .output()
        .context("run iperf3")?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let end = &report["end"];
    let seconds = end["sum_received"]["seconds"].as_f64().with_context(|| report.to_string())?;
    let percent = |side: &str| end["cpu_utilization_percent"][side].as_f64().unwrap_or_default();
    let cpu_seconds = seconds * (percent("host_total") + percent("remote_total")) / 100.0;
    server.wait(Duration::from_secs(10))?;
    fs::remove_file(log)?;
    Ok((seconds, Usage { cpu_seconds }))
}

/// Memory to memory by the transport alone.
pub(crate) fn amst(program: &Path, megabytes: u64) -> Result<(f64, Usage)> {
    let before = Usage::of_children()?;
    // 1,000 pieces of 1 MiB in each unit of its first argument.
    let units = (megabytes / 1000).max(1);
    let output = Command::new(program).arg(units.to_string()).output().context("run the example of AMST")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let gbit: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).with_context(|| text.clone())?;
    let cpu_seconds = Usage::of_children()?.cpu_seconds - before.cpu_seconds;
    // As if it had moved what the others move.
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let (bytes, moved) = (megabytes as f64 * 1e6, units as f64 * 1000.0 * f64::from(1 << 20));
    Ok((bytes * 8.0 / 1e9 / gbit, Usage { cpu_seconds: cpu_seconds * bytes / moved }))
}

/// Whole files from a daemon, without ssh and without compression: seconds and CPU of both ends.
pub(crate) fn rsync(scratch: &Path, source: &Path, target: &Path) -> Result<(f64, Usage)> {
    let before = Usage::of_children()?;
    let daemon = Daemon::start(scratch, source)?;
    let seconds = daemon.fetch(target, &[])?;
    daemon.stop()?;
    Ok((seconds, Usage { cpu_seconds: Usage::of_children()?.cpu_seconds - before.cpu_seconds }))
}

/// An rsync daemon over one folder.
pub(crate) struct Daemon {
    process: Process,
    port: u16,
    pid_file: PathBuf,
}

impl Daemon {
    pub(crate) fn start(scratch: &Path, source: &Path) -> Result<Self> {
        let port = free_port()?;
        let (config, pid_file) = (scratch.join("rsyncd.conf"), scratch.join("rsyncd.pid"));
        let text = format!(
            "use chroot = no\nuid = 0\ngid = 0\npid file = {}\n[set]\npath = {}\nread only = yes\n",
            pid_file.display(),
            source.display()
        );
        fs::write(&config, text)?;
        let mut daemon = Command::new("rsync");
        daemon.args(["--daemon", "--no-detach", "--address=127.0.0.1", &format!("--port={port}")]);
        daemon.arg(format!("--config={}", config.display()));
        let mut process = Process::start("rsync", &mut daemon, &scratch.join("rsyncd.log"))?;
        eventually("rsync to listen", Duration::from_secs(10), || {
            process.check_alive()?;
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
        })?;
        Ok(Self { process, port, pid_file })
    }

    /// Seconds to fetch all of it.
    pub(crate) fn fetch(&self, target: &Path, arguments: &[&str]) -> Result<f64> {
        let mut command = Command::new("rsync");
        command.args(["-a", "--whole-file"]).args(arguments);
        command.arg(format!("rsync://127.0.0.1:{}/set/", self.port)).arg(format!("{}/", target.display()));
        let (output, seconds) = timed(|| command.output());
        let output = output.context("run rsync")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(seconds)
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.stop(Duration::from_secs(10))?;
        fs::remove_file(self.pid_file).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error.into()),
        })
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
