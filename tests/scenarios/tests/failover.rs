//! The database moves to its standby: what was acknowledged is there, writing goes on by itself, and the old primary, should the address
//! ever lead to it again, gets nothing. R7.

use std::{
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests_harness::{Cli, ControlPlane, ControlPlaneOptions, Scratch, eventually};
use tests_postgres::{Pair, Proxy, sql};

const LIMIT: Duration = Duration::from_secs(60);
/// From the promotion to the next write (R7).
const BACK: Duration = Duration::from_secs(15);

#[allow(clippy::disallowed_methods, reason = "the promised bound is of real time")]
fn now() -> Instant {
    Instant::now()
}

fn readiness(control_plane: &ControlPlane) -> Result<String> {
    let url = format!("http://{}/readyz?verbose", control_plane.http());
    Ok(String::from_utf8(Command::new("curl").args(["-s", "-m", "5", &url]).output()?.stdout)?)
}

/// Makes tokens until it is told to stop; keeps the names of those that were acknowledged.
fn write(cli: &Cli, done: &AtomicBool, acknowledged: &Mutex<Vec<String>>) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        let made = cli.run(&["-o", "json", "token", "create"])?;
        if made.code == 0 {
            let made: serde_json::Value = serde_json::from_str(&made.stdout)?;
            let name = made["joinToken"]["name"].as_str().with_context(|| format!("a name in {made:#}"))?;
            acknowledged.lock().expect("no writer panics").push(name.to_owned());
        }
    }
    Ok(())
}

fn count(url: &str, table: &str) -> String {
    sql(url, &format!("SELECT count(*) FROM {table}"))
}

#[test]
fn a_fleet_follows_its_database_to_the_standby_and_never_back_to_an_old_primary() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut pair = Pair::start();
    let proxy = Proxy::start(pair.primary.socket(), &scratch.path().join("address"));
    let options = ControlPlaneOptions { database_url: Some(proxy.url(&pair.primary.url())), ..Default::default() };
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), options)?;
    let cli = control_plane.cli()?;
    let (done, acknowledged) = (AtomicBool::new(false), Mutex::<Vec<String>>::default());
    let many = |least: usize| {
        eventually(&format!("{least} acknowledged writes"), LIMIT, || {
            Ok((acknowledged.lock().expect("no writer panics").len() >= least).then_some(()))
        })
    };
    let without = thread::scope(|threads| {
        let writers: Vec<_> = (0..4).map(|_| threads.spawn(|| write(&cli, &done, &acknowledged))).collect();
        let moved: Result<Duration> = (|| {
            many(20)?;
            pair.primary.stop_immediately();
            proxy.lead_to(pair.standby.socket());
            eventually("the standby to be told from a primary", LIMIT, || {
                Ok(readiness(&control_plane)?.contains("it is a standby or read-only").then_some(()))
            })?;
            let before = acknowledged.lock().expect("no writer panics").len();
            pair.standby.promote();
            let promoted = now();
            many(before + 1)?;
            let without = promoted.elapsed();
            many(before + 20)?;
            Ok(without)
        })();
        done.store(true, Ordering::Relaxed);
        writers.into_iter().try_for_each(|writer| writer.join().expect("no writer panics"))?;
        moved
    })?;
    println!("{without:?} from the promotion to the next write");
    ensure!(without < BACK, "{without:?} without a write");
    let kept = sql(&pair.standby.url(), "SELECT 'joinTokens/' || id FROM join_tokens");
    let kept: std::collections::HashSet<&str> = kept.lines().collect();
    let acknowledged = acknowledged.into_inner().expect("no writer panics");
    let lost: Vec<_> = acknowledged.iter().filter(|name| !kept.contains(name.as_str())).collect();
    ensure!(lost.is_empty(), "{} of {} acknowledged writes are lost", lost.len(), acknowledged.len());
    ensure!(cli.json(&["audit", "verify"])?["ok"] == true, "the log");

    // The old primary comes back as one, and the address leads to it: its log is not what this server has seen.
    pair.primary.restart_alone();
    let before = count(&pair.primary.url(), "audit_events");
    proxy.lead_to(pair.primary.socket());
    pair.standby.drop_connections();
    eventually("the old primary to be told from the new one", LIMIT, || {
        let refused = cli.run(&["token", "create"])?;
        Ok((refused.code != 0 && refused.stderr.contains("audit")).then_some(()))
    })?;
    ensure!(count(&pair.primary.url(), "audit_events") == before, "the old primary was written to");
    ensure!(cli.run(&["check"])?.stdout.contains("audit"), "dwcp check says nothing of it");

    // Back to the new one, and all is well.
    proxy.lead_to(pair.standby.socket());
    pair.primary.drop_connections();
    eventually("a write at the new primary", LIMIT, || Ok((cli.run(&["token", "create"])?.code == 0).then_some(())))
}
