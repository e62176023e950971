//! The rivals, as their users run them.

use std::{fs, path::Path, process::Command, time::Duration};

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

/// Whole files from a daemon, without ssh and without compression: seconds and CPU of both ends.
pub(crate) fn rsync(scratch: &Path, source: &Path, target: &Path) -> Result<(f64, Usage)> {
    let port = free_port()?;
    let config = scratch.join("rsyncd.conf");
    let text = format!(
        "use chroot = no\nuid = 0\ngid = 0\npid file = {}\n[set]\npath = {}\nread only = yes\n",
        scratch.join("rsyncd.pid").display(),
        source.display()
    );
    fs::write(&config, text)?;
    let mut daemon = Command::new("rsync");
    daemon.args(["--daemon", "--no-detach", "--address=127.0.0.1", &format!("--port={port}")]);
    daemon.arg(format!("--config={}", config.display()));
    let before = Usage::of_children()?;
    let mut daemon = Process::start("rsync", &mut daemon, &scratch.join("rsyncd.log"))?;
    eventually("rsync to listen", Duration::from_secs(10), || {
        daemon.check_alive()?;
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
    })?;
    let (output, seconds) = timed(|| {
        Command::new("rsync")
            .args(["-a", "--whole-file", &format!("rsync://127.0.0.1:{port}/set/"), &format!("{}/", target.display())])
            .output()
    });
    let output = output.context("run rsync")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    daemon.stop(Duration::from_secs(10))?;
    let usage = Usage { cpu_seconds: Usage::of_children()?.cpu_seconds - before.cpu_seconds };
    fs::remove_file(scratch.join("rsyncd.pid")).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    Ok((seconds, usage))
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
