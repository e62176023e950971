//! A control plane whose PostgreSQL stands still, is killed, loses its connections or has a full disk: that is said in time, with what
//! mends it, agents keep their sessions, and all goes on by itself. R3, R5, R16.

use std::{
    fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests_harness::{
    Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, Fleet, FleetOptions, Scratch, SmallDisk, Stopped,
    eventually,
};

/// As long as a paused virtual machine takes to move.
const PAUSE: Duration = Duration::from_secs(30);
/// From the fault to the 503, and from its end to the 200 (R5).
const NOTICED: Duration = Duration::from_secs(10);
/// The longest that a caller waits for an answer, with the start of the command line and a busy machine.
const ANSWERED: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);

#[allow(clippy::disallowed_methods, reason = "the promised bounds are of real time")]
fn now() -> Instant {
    Instant::now()
}

fn http_code(control_plane: &ControlPlane, path: &str) -> Result<String> {
    let url = format!("http://{}{path}", control_plane.http());
    let answer =
        Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "5", &url]).output()?;
    Ok(String::from_utf8(answer.stdout)?)
}

fn readiness(control_plane: &ControlPlane) -> Result<String> {
    let url = format!("http://{}/readyz?verbose", control_plane.http());
    Ok(String::from_utf8(Command::new("curl").args(["-s", "-m", "5", &url]).output()?.stdout)?)
}

/// Waits for a code of `/readyz`, while the process itself is alive all the time.
fn ready_is(control_plane: &ControlPlane, code: &str, limit: Duration) -> Result<()> {
    eventually(&format!("/readyz to be {code}"), limit, || {
        ensure!(http_code(control_plane, "/livez")? == "200", "/livez");
        Ok((http_code(control_plane, "/readyz")? == code).then_some(()))
    })
}

fn set_level(fleet: &Fleet, cli: &Cli, level: u8) -> Result<i32> {
    let file = fleet.scratch.path().join(format!("fleet-{level}.yaml"));
    fs::write(&file, format!("compression:\n  level: {level}\n"))?;
    Ok(cli.run(&["config", "set", "fleet", &file.display().to_string()])?.code)
}

/// How many sessions the agents have had: one each, as long as none broke.
fn sessions(fleet: &Fleet) -> usize {
    let stands = "Session with the control plane stands";
    fleet.agents.iter().map(|agent| agent.process().output().matches(stands).count()).sum()
}

#[test]
fn agents_keep_their_sessions_while_postgresql_stands_still_dies_and_drops_everybody() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let (cli, control_plane) = (fleet.cli()?, &fleet.control_plane);
    ensure!(set_level(&fleet, &cli, 3)? == 0, "before");
    let before = sessions(&fleet);

    // It stands still, and answers nobody.
    let begun = now();
    let paused = Stopped::postgres(control_plane)?;
    ready_is(control_plane, "503", NOTICED)?;
    assert!(readiness(control_plane)?.contains("it does not answer"), "{}", readiness(control_plane)?);
    let asked = now();
    let refused = cli.run(&["node", "list"])?;
    assert!(asked.elapsed() < ANSWERED, "{:?}", asked.elapsed());
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("the database"), "{}", refused.stderr);
    let checked = cli.run(&["check"])?;
    assert!(checked.stdout.contains("look at PostgreSQL's host"), "{}{}", checked.stdout, checked.stderr);
    assert_ne!(set_level(&fleet, &cli, 4)?, 0);
    while begun.elapsed() < PAUSE {
        ensure!(http_code(control_plane, "/livez")? == "200", "/livez");
    }
    drop(paused);
    ready_is(control_plane, "200", NOTICED)?;
    ensure!(set_level(&fleet, &cli, 5)? == 0, "after the pause");
    fleet.all_ready()?;

    // pg_ctl stop -m immediate.
    let postgres = control_plane.postgres_pid().context("it has a PostgreSQL of its own")?;
    kill(Pid::from_raw(postgres), Signal::SIGQUIT)?;
    eventually("another PostgreSQL", LIMIT, || Ok(control_plane.postgres_pid().filter(|pid| *pid != postgres)))?;
    ready_is(control_plane, "200", LIMIT)?;
    ensure!(set_level(&fleet, &cli, 6)? == 0, "after the crash");

    // Everybody is dropped five times a second.
    let (done, url) = (AtomicBool::new(false), control_plane.database_url());
    let kill_all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let written = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _killed = tests_postgres::sql(&url, kill_all);
                thread::sleep(Duration::from_millis(200));
            }
        });
        let written: Result<usize> =
            (7..=16).try_fold(0, |count, level| Ok(count + usize::from(set_level(&fleet, &cli, level)? == 0)));
        done.store(true, Ordering::Relaxed);
        written
    })?;
    println!("{written} of 10 writes went through while every connection was cut five times a second");
    ensure!(set_level(&fleet, &cli, 17)? == 0, "after the cuts");
    fleet.all_ready()?;
    assert_eq!(sessions(&fleet), before, "a session broke");
    assert_eq!(cli.json(&["audit", "verify"])?["ok"], true);
    let left = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND state_change < now() - interval '2 s'";
    assert_eq!(tests_postgres::sql(&url, left), "0");
    Ok(())
}

#[test]
fn a_full_disk_under_postgresql_is_said_with_the_fix_and_over_when_there_is_room() -> Result<()> {
    let scratch = Scratch::new()?;
    let disk = SmallDisk::mount(&scratch.path().join("cp"), 192)?;
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), ControlPlaneOptions::default())?;
    let root = ("data".to_owned(), scratch.path().join("data"));
    let options = AgentOptions { name: "site-a".to_owned(), roots: vec![root], ..AgentOptions::default() };
    let agent = Agent::join(&control_plane, &scratch.path().join("site-a"), options)?;
    let fleet = Fleet { agents: vec![agent], control_plane, scratch };
    fleet.all_ready()?;
    let (cli, before) = (fleet.cli()?, sessions(&fleet));

    disk.fill()?;
    // A document that needs room of its own; random, since PostgreSQL compresses.
    let filler: String = (0..2_000).map(|_| format!("# {:032x}{:032x}\n", rand(), rand())).collect();
    let file = fleet.scratch.path().join("large.yaml");
    fs::write(&file, format!("{filler}compression:\n  level: 4\n"))?;
    let set = ["config", "set", "fleet", &file.display().to_string()];
    let refused = eventually("a write to be refused", LIMIT, || Ok(Some(cli.run(&set)?).filter(|ran| ran.code != 0)))?;
    assert_eq!(refused.code, 5, "{}", refused.stderr);
    ready_is(&fleet.control_plane, "503", NOTICED)?;
    let said = readiness(&fleet.control_plane)?;
    assert!(said.contains("its disk is full") || said.contains("No space left on device"), "{said}");
    let checked = cli.run(&["check"])?;
    assert!(checked.stdout.contains("make room") || checked.stdout.contains("its log says why"), "{}", checked.stdout);

    disk.free()?;
    ready_is(&fleet.control_plane, "200", LIMIT)?;
    cli.ok(&set)?;
    fleet.all_ready()?;
    assert_eq!(sessions(&fleet), before, "the agent's session broke");
    assert_eq!(cli.json(&["audit", "verify"])?["ok"], true);
    drop(fleet);
    drop(disk);
    Ok(())
}

fn rand() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}
