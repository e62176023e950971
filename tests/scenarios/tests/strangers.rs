//! Strangers on every port: those who belong here are served, memory, files and log lines are bounded, what a stranger holds is taken back in the
//! times that `docs/limits.md` names, and nothing of it ends a program. `tests/strangers/run` does the same for longer and with more of them.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use tests_harness::{ControlPlaneOptions, FleetOptions, eventually, limit_hits, metric};
use tests_strangers::{
    Bed, calls, datagrams,
    held::{self, Say},
    http2::{self, Flood},
    measure::{honest_http, usage},
    peer, quic,
};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(60);
/// What a phase of strangers may add to a program's memory: its budget, the allocator's part and a debug build's.
const MEMORY: u64 = 300 << 20;
/// `limits.receive_budget`, by default.
const RECEIVE_BUDGET: u64 = 256 << 20;

fn options(limits: &[&str]) -> FleetOptions {
    let arguments = limits.iter().flat_map(|limit| ["--limit".to_owned(), (*limit).to_owned()]).collect();
    FleetOptions {
        control_plane: ControlPlaneOptions { arguments, ..ControlPlaneOptions::default() },
        ..FleetOptions::default()
    }
}

fn bed(limits: &[&str]) -> Result<Bed> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    foundation_listener::raise_open_files();
    Bed::start(1 << 20, &options(limits))
}

/// What every kind of stranger leaves as it was.
fn check(bed: &Bed, phase: &tests_strangers::Phase, before: &[tests_strangers::measure::Usage]) -> Result<()> {
    bed.check_alive()?;
    let (asked, failed, longest) = phase.honest;
    ensure!(asked > 0 && failed == 0, "{failed} of {asked} honest callers in vain, the longest waited {longest:?}");
    let to = format!("site-b:data:/after-{}/", phase.lines);
    bed.fleet.cli()?.ok(&["send", "--from", "site-a", "data:/set", &to])?;
    for (peak, before) in phase.peaks.iter().zip(before) {
        ensure!(peak.rss_bytes < before.rss_bytes + MEMORY, "memory: {peak:?}, before {before:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_little_are_taken_back_and_keep_nobody_out() -> Result<()> {
    // Few places, so that few strangers fill them.
    let bed = bed(&[
        "grpc_strangers=40",
        "http_connections=64",
        "handshake_seconds=2",
        "head_seconds=2",
        "stalled_seconds=3",
    ])?;
    let before: Vec<_> = bed.pids().into_iter().map(usage).collect();
    let ports: Vec<_> = std::iter::once(bed.targets.grpc).chain(bed.targets.http.iter().copied()).collect();
    let handle = tokio::runtime::Handle::current();
    let (tallies, phase) = tokio::task::block_in_place(|| {
        bed.phase(|_| {
            handle.block_on(async {
                let mut running = tokio::task::JoinSet::new();
                for port in ports {
                    for say in Say::ALL {
                        running.spawn(async move {
                            (port, say, held::hold(port, say, 15, 60, Duration::from_secs(14)).await)
                        });
                    }
                }
                let mut tallies = Vec::new();
                while let Some(done) = running.join_next().await {
                    let (port, say, tally) = done?;
                    tallies.push((port, say, tally?));
                }
                anyhow::Ok(tallies)
            })
        })
    })?;
    check(&bed, &phase, &before)?;
    // 90 strangers a port, and places for 40 or 64; the agent's are 256, and no more than these and what is just being closed.
    for (peak, most) in
        phase.peaks.iter().zip([before[0].files + 3 * 64 + 200, u64::MAX, before[2].files + 2 * 256 + 200])
    {
        ensure!(peak.files < most, "open files: {peak:?}, at most {most}");
    }
    for (port, say, tally) in &tallies {
        // An agent waits 20 s for who reads nothing; its other times are shorter than this test.
        let waits = *say == Say::Pipeline && bed.targets.http[2..].contains(port);
        ensure!(tally.opened > 0 && (tally.closed > 0 || waits), "{say:?} at {port}: {tally:?}");
        ensure!(tally.longest < Duration::from_secs(14), "{say:?} at {port} was kept: {tally:?}");
    }
    let metrics = bed.fleet.control_plane.metrics();
    let (grpc, http) =
        (limit_hits(&metrics, "limits.grpc_strangers")?, limit_hits(&metrics, "limits.http_connections")?);
    let tls = metric(&metrics, "dwcp_tls_handshake_failures_total")?;
    ensure!(grpc > 0.0 && http > 0.0 && tls > 100.0, "counted: {grpc} {http} {tls}; {tallies:?}");
    // Thousands of refusals, some lines: of one kind a hundred in ten seconds.
    ensure!(phase.lines < 2000, "{} log lines", phase.lines);
    eventually("the strangers' places to be free again", LIMIT, || {
        let now = usage(bed.pids()[0]);
        Ok((now.files < before[0].files + 60).then_some(()))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_within_a_connection_end_it_and_nothing_else() -> Result<()> {
    let bed = bed(&["grpc_stranger_seconds=4", "head_seconds=2"])?;
    let before: Vec<_> = bed.pids().into_iter().map(usage).collect();
    let handle = tokio::runtime::Handle::current();
    let ((), phase) = tokio::task::block_in_place(|| {
        bed.phase(|targets| {
            handle.block_on(async {
                for flood in Flood::ALL {
                    let (sent, closed) = http2::flood(targets.grpc, bed.ca, flood, 20_000).await?;
                    println!("{flood:?}: {sent} frames, closed {closed}");
                    ensure!(closed, "{flood:?}: {sent} frames, and the connection stands");
                }
                for preface in [false, true] {
                    let kept = http2::idle(targets.grpc, bed.ca, preface, Duration::from_secs(20)).await?;
                    let kept = kept.with_context(|| format!("a stranger (preface: {preface}) stands for 20 s"))?;
                    ensure!(kept < Duration::from_secs(7), "kept for {kept:?}");
                }
                let endpoint = targets.grpc.to_string();
                let large = calls::oversized(&endpoint, bed.ca, 5 << 20, false).await?;
                ensure!(large == Code::OutOfRange, "{large:?}");
                let bomb = calls::oversized(&endpoint, bed.ca, 100 << 20, true).await?;
                ensure!([Code::Unimplemented, Code::OutOfRange, Code::ResourceExhausted].contains(&bomb), "{bomb:?}");
                Ok(())
            })
        })
    })?;
    check(&bed, &phase, &before)
}

#[test]
fn datagrams_of_strangers_cost_little_and_make_little() -> Result<()> {
    let bed = bed(&[])?;
    let before: Vec<_> = bed.pids().into_iter().map(usage).collect();
    let initials = quic::initials(bed.targets.quic, 1000)?;
    let (echo, phase) = bed.phase(|targets| {
        datagrams::garbage(targets.quic, 5000, 100)?;
        datagrams::garbage(targets.dht, 5000, 100)?;
        quic::send(targets.quic, &initials, 500, 4)
    })?;
    check(&bed, &phase, &before)?;
    // RFC 9000 8.1: three times as much before an address is validated.
    ensure!(echo.bytes_in <= 3 * echo.bytes_out, "{echo:?}");
    ensure!(limit_hits(&bed.fleet.agents[1].metrics(), "limits.quic_retry_from")? > 0.0, "no Retry under load");
    // More than that is not even looked at, and the main job goes on after it.
    let (_, phase) =
        bed.phase(|targets| (0..6).map(|_| quic::send(targets.quic, &initials, 4, 0)).collect::<Result<Vec<_>>>())?;
    check(&bed, &phase, &before)?;
    let hits = limit_hits(&bed.fleet.agents[1].metrics(), "limits.quic_first_packets_per_second")?;
    ensure!(hits > 0.0, "6,000 first packets of 4 addresses were all looked at");

    // A flood of questions from one network is answered in bounds, and the fleet's own look-ups go on.
    let ((asked, answered, answers), phase) = bed.phase(|targets| datagrams::ask(targets.dht, 20_000, 200))?;
    println!("asked {asked} bytes, answered {answered} ({answers} answers)");
    check(&bed, &phase, &before)?;
    ensure!(answers < 12_000, "{answers} of 20000 questions of strangers were answered");
    // Where the machine is busy, the system drops most of them before the node sees them.
    let metrics = bed.fleet.control_plane.metrics();
    eventually("a question too many to be counted", LIMIT, || {
        datagrams::ask(bed.targets.dht, 2000, 20)?;
        Ok((limit_hits(&metrics, "limits.dht_requests_per_second")? > 0.0).then_some(()))
    })?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_want_of_files_ends_no_program_and_is_over_when_it_is_over() -> Result<()> {
    let bed = bed(&[])?;
    let pids = [bed.pids()[0], bed.pids()[2]];
    for pid in pids {
        Bed::bound_files(pid, usage(pid).files + 10)?;
    }
    for port in std::iter::once(bed.targets.grpc).chain(bed.targets.http.iter().copied()) {
        held::hold(port, Say::Nothing, 100, 20, Duration::from_secs(2)).await?;
    }
    // While there is a want, newcomers are served in place of strangers.
    eventually("an honest caller to be served", LIMIT, || {
        Ok(honest_http(&bed.fleet.control_plane.http(), "/livez").is_ok().then_some(()))
    })?;
    for pid in pids {
        Bed::bound_files(pid, 4096)?;
    }
    eventually("both programs to serve again", LIMIT, || Ok(bed.check_alive().is_ok().then_some(())))?;
    ensure!(limit_hits(&bed.fleet.control_plane.metrics(), "open_files")? > 0.0, "there was no want");
    bed.fleet.cli()?.ok(&["send", "--from", "site-a", "data:/set", "site-b:data:/after"])?;
    Ok(())
}

#[test]
fn limits_that_are_lowered_hold() -> Result<()> {
    let bed = bed(&["watches_per_caller=2"])?;
    let cli = bed.fleet.cli()?;
    let info = cli.json(&["config", "effective", "--control-plane"])?;
    let bounds = info["bounds"].as_array().context("bounds")?;
    let bound = bounds.iter().find(|bound| bound["name"] == "limits.watches_per_caller").context("the limit")?;
    assert_eq!((bound["value"].as_str(), bound["default"].as_str()), (Some("2"), Some("64")));
    // Two watches that stand, and one too many.
    let quiet = || std::process::Stdio::null();
    let watch = || cli.command(&["node", "watch"]).stdout(quiet()).stderr(quiet()).spawn();
    let mut watches = vec![watch()?, watch()?];
    let metrics = bed.fleet.control_plane.metrics();
    let counted = eventually("a watch to be refused", LIMIT, || {
        watches.push(watch()?);
        Ok((limit_hits(&metrics, "limits.watches_per_caller")? > 0.0).then_some(()))
    });
    for watch in &mut watches {
        watch.kill()?;
        watch.wait()?;
    }
    counted?;

    // An agent's, live.
    let file = bed.fleet.scratch.path().join("fleet.yaml");
    fs::write(&file, "limits:\n  http_requests_per_second: 1\n  http_connections: 4\n  receiving_transfers: 1\n")?;
    cli.ok(&["config", "set", "fleet", &file.display().to_string()])?;
    let agent = &bed.fleet.agents[1];
    let url = format!("http://{}/api/dht/stats", agent.http());
    let statuses: Vec<String> = (0..5)
        .map(|_| {
            let curl = std::process::Command::new("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
                .output()?;
            anyhow::Ok(String::from_utf8_lossy(&curl.stdout).into_owned())
        })
        .collect::<Result<_>>()?;
    ensure!(statuses.iter().any(|status| status == "429"), "{statuses:?}");
    ensure!(limit_hits(&agent.metrics(), "limits.http_requests_per_second")? > 0.0, "not counted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_turned_gets_its_share_of_memory_and_the_main_job_goes_on() -> Result<()> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let agents = ["site-a", "site-b", "turned"].map(str::to_owned).to_vec();
    let mut bed = Bed::start(4 << 20, &FleetOptions { agents, ..options(&[]) })?;
    // It dials by itself from now on.
    bed.fleet.agents[2].stop()?;
    let dir = bed.fleet.agents[2].dir().to_path_buf();
    bed.fleet.agents.truncate(2);
    let before: Vec<_> = bed.pids().into_iter().map(usage).collect();
    let handle = tokio::runtime::Handle::current();
    // What the main job takes by itself.
    let ((), alone) = bed.phase(|_| {
        std::thread::sleep(Duration::from_secs(6));
        Ok(())
    })?;
    for rules in [peer::Rules::Broken, peer::Rules::Kept] {
        let (taken, phase) = tokio::task::block_in_place(|| {
            bed.phase(|targets| {
                let hostile = peer::hostile(&dir, "site-b", targets.quic, 100, rules, Duration::from_secs(8));
                handle.block_on(hostile)
            })
        })?;
        check(&bed, &phase, &before)?;
        let more = phase.peaks[2].rss_bytes.saturating_sub(alone.peaks[2].rss_bytes);
        let share = 100.0 * phase.goodput / alone.goodput;
        eprintln!("{rules:?}: {taken:?}; {} MiB more, goodput {share:.0} %", more >> 20);
        ensure!(taken.connections > 8 && phase.goodput > 0.0, "{taken:?} {phase:?}");
        // R21: the budget, and a fifth.
        ensure!(more < RECEIVE_BUDGET / 5 * 6, "{rules:?}: {more} bytes more; {taken:?}");
    }
    Ok(())
}
