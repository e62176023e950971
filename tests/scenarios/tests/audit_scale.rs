//! A long log is verified, exported and verified again in bounded memory. `DWCP_AUDIT_ROWS` says how long; `tests/audit` has a million.

use std::{fs, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use control_plane_pki::SealKey;
use control_plane_store::{Context, Db, Error, Event, Keys, Options};
use foundation_runtime::{Clock, TaskGroup};
use tests_harness::{Cli, ControlPlane, ControlPlaneOptions, Scratch};
use tests_postgres::cluster;

/// Events of a transaction.
const AT_ONCE: u64 = 2_000;
/// What the command line may need for any log.
const MEMORY_KIB: u64 = 200 * 1024;

/// Appends events as a server does, many in a transaction.
async fn fill(control_plane: &ControlPlane, rows: u64) -> Result<()> {
    let (clock, tasks) = (Clock::system(), TaskGroup::new("fill"));
    let db = Db::connect(Options::new(control_plane.database_url()), clock, &tasks).await?;
    let seal = std::sync::Arc::new(SealKey::load(&control_plane.dir().join("seal.key"))?);
    drop(Keys::load_or_create(&db, &seal).await?);
    for start in (0..rows).step_by(usize::try_from(AT_ONCE)?) {
        let end = rows.min(start + AT_ONCE);
        let append = db.write("fill", Context::system(), move |tx| {
            Box::pin(async move {
                for number in start..end {
                    let event = Event::new("transfer.end", format!("transfers/{number}"))
                        .with("node", "nodes/site-a")
                        .with("role", "receiver")
                        .with("state", "succeeded")
                        .with("issueCount", number % 7);
                    tx.audit(event);
                }
                Ok::<_, Error>(())
            })
        });
        append.await?;
    }
    Ok(())
}

/// Runs a verb; how long it took, the most memory it had, and what it printed.
fn measured(cli: &Cli, arguments: &[&str]) -> Result<(Duration, u64, String)> {
    #[allow(clippy::disallowed_methods, reason = "how long it took is printed")]
    let begun = std::time::Instant::now();
    let mut child = cli.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let high = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(high.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok((took, peak, text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_verified_and_exported_in_bounded_memory() -> Result<()> {
    let rows = std::env::var("DWCP_AUDIT_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000_u64);
    let scratch = Scratch::new()?;
    let options = ControlPlaneOptions { database_url: Some(cluster().database()), ..ControlPlaneOptions::default() };
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), options)?;
    let cli = control_plane.cli()?;
    #[allow(clippy::disallowed_methods, reason = "how long it took is printed")]
    let begun = std::time::Instant::now();
    fill(&control_plane, rows).await?;
    let rate = |took: Duration| f64::from(u32::try_from(rows).unwrap_or(u32::MAX)) / took.as_secs_f64();
    eprintln!("{rows} events appended by {AT_ONCE}: {:.1?}, {:.0} events/s", begun.elapsed(), rate(begun.elapsed()));
    let file = scratch.path().join("log.jsonl").display().to_string();
    let ca = control_plane.ca().display().to_string();
    for arguments in [
        &["audit", "verify", "-o", "json"][..],
        &["audit", "export", "-O", &file],
        &["audit", "verify", &file, "--ca", &ca, "-o", "json"],
    ] {
        let (took, peak, text) = measured(&cli, arguments)?;
        eprintln!("dwcp {}: {took:.1?}, {:.0} events/s, {} MiB at most", arguments[1], rate(took), peak / 1024);
        ensure!(peak < MEMORY_KIB, "{arguments:?} needed {peak} KiB");
        if arguments[1] == "verify" {
            let verified: serde_json::Value = serde_json::from_str(&text).context("JSON")?;
            ensure!(verified["events"].as_u64() > Some(rows) && verified["ok"] == true, "{verified:#}");
        }
    }
    eprintln!("the file has {} MiB", fs::metadata(&file)?.len() >> 20);
    Ok(())
}
