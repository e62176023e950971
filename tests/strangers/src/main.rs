//! `dwcp-strangers`: strangers on every port of a running fleet, with the main job going on; prints what that cost.

#![allow(clippy::disallowed_methods, reason = "strangers act in real time")]
#![allow(clippy::print_stdout, reason = "it prints what it found")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use tests_harness::FleetOptions;
use tests_strangers::{
    Bed, Phase, Targets, calls, datagrams,
    held::{self, Say, Tally},
    http2::{self, Flood},
    measure::usage,
    quic,
};
use tokio::task::JoinSet;

/// Strangers on every port of a running fleet, with the main job going on.
#[derive(Debug, Parser)]
struct Arguments {
    /// Connections that are held at the same time.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Addresses that they come from.
    #[arg(long, default_value_t = 1000)]
    addresses: u32,
    /// QUIC Initials.
    #[arg(long, default_value_t = 20_000)]
    initials: usize,
    /// How long a phase takes.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What one run of the main job moves.
    #[arg(long, default_value_t = 32)]
    megabytes: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    println!("open files of this program: {}", foundation_listener::raise_open_files());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bed = Bed::start(arguments.megabytes << 20, &FleetOptions::default())?;
    let time = Duration::from_secs(arguments.seconds);
    let before = bed.pids().into_iter().map(usage).collect::<Vec<_>>();
    println!("at rest (control plane, sender, receiver): {}", shown(&before));
    let ((), undisturbed) = bed.phase(|_| {
        std::thread::sleep(time);
        Ok(())
    })?;
    print("nobody", &undisturbed, &undisturbed, "");

    let (tally, phase) = bed.phase(|targets| runtime.block_on(hold(targets, &arguments, time)))?;
    print("connections held", &phase, &undisturbed, &format!("{tally:?}"));
    bed.check_alive()?;

    let (said, phase) = bed.phase(|targets| runtime.block_on(floods(targets, &bed, time)))?;
    print("HTTP/2 floods", &phase, &undisturbed, &said);
    bed.check_alive()?;

    let (said, phase) = bed.phase(|targets| runtime.block_on(oversized(targets, &bed, time)))?;
    print("messages of 5 MiB, and bombs", &phase, &undisturbed, &said);
    bed.check_alive()?;

    let initials = quic::initials(bed.targets.quic, arguments.initials)?;
    let (echo, phase) =
        bed.phase(|targets| repeated(time, || quic::send(targets.quic, &initials, arguments.addresses, 4)))?;
    let ratio = echo.iter().map(|echo| echo.bytes_in as f64).sum::<f64>()
        / echo.iter().map(|echo| echo.bytes_out as f64).sum::<f64>();
    let sent: u32 = echo.iter().map(|echo| echo.sent).sum();
    print(
        "QUIC Initials",
        &phase,
        &undisturbed,
        &format!("{sent} sent, every fourth damaged, bytes in/out {ratio:.2}"),
    );
    bed.check_alive()?;

    let (sent, phase) = bed.phase(|targets| {
        repeated(time, || {
            Ok(datagrams::garbage(targets.quic, 20_000, 200)? + datagrams::garbage(targets.dht, 20_000, 200)?)
        })
    })?;
    print("UDP garbage", &phase, &undisturbed, &format!("{} datagrams", sent.iter().sum::<u32>()));
    bed.check_alive()?;

    let (asked, phase) = bed.phase(|targets| repeated(time, || datagrams::ask(targets.dht, 5000, 1000)))?;
    let total = asked.iter().fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    let said = format!(
        "bytes asked {}, answered {}, answers {}; bytes out/in {:.2}",
        total.0,
        total.1,
        total.2,
        total.1 as f64 / total.0 as f64
    );
    print("DHT questions from 1000 addresses", &phase, &undisturbed, &said);
    bed.check_alive()?;

    let tally = want_of_files(&bed, &runtime)?;
    println!("{:<36} {tally:?}; all served after it", "a want of files (EMFILE)");
    let after = bed.pids().into_iter().map(usage).collect::<Vec<_>>();
    println!("afterwards: {}", shown(&after));
    Ok(())
}

fn shown(usages: &[tests_strangers::measure::Usage]) -> String {
    let one = |usage: &tests_strangers::measure::Usage| format!("{} MiB {} fds", usage.rss_bytes >> 20, usage.files);
    usages.iter().map(one).collect::<Vec<_>>().join(" | ")
}

fn print(name: &str, phase: &Phase, undisturbed: &Phase, said: &str) {
    let (asked, failed, longest) = phase.honest;
    println!(
        "{name:<36} goodput {:6.1} MB/s = {:3.0} % | honest {asked}, in vain {failed}, longest {:.2} s | most: {} | log lines {} | {said}",
        phase.goodput / 1e6,
        100.0 * phase.goodput / undisturbed.goodput.max(1.0),
        longest.as_secs_f64(),
        shown(&phase.peaks),
        phase.lines,
    );
}

fn repeated<T>(time: Duration, mut work: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    let begun = Instant::now();
    let mut done = vec![work()?];
    while begun.elapsed() < time {
        done.push(work()?);
    }
    Ok(done)
}

/// Everything that can be said, on every TCP port, all at once.
async fn hold(targets: &Targets, arguments: &Arguments, time: Duration) -> Result<Vec<(Say, Tally)>> {
    let ports: Vec<_> = std::iter::once(targets.grpc).chain(targets.http.iter().copied()).collect();
    let each = arguments.connections / ports.len() / Say::ALL.len();
    let mut running = JoinSet::new();
    for port in ports {
        for say in Say::ALL {
            let addresses = arguments.addresses;
            running.spawn(async move { anyhow::Ok((say, held::hold(port, say, each, addresses, time).await?)) });
        }
    }
    let mut sums: Vec<(Say, Tally)> = Say::ALL.map(|say| (say, Tally::default())).to_vec();
    while let Some(done) = running.join_next().await {
        let (say, tally) = done??;
        for (_, sum) in sums.iter_mut().filter(|(other, _)| *other == say) {
            sum.opened += tally.opened;
            sum.held += tally.held;
            sum.closed += tally.closed;
            sum.refused += tally.refused;
            sum.longest = sum.longest.max(tally.longest);
        }
    }
    println!("connections held at the same time: {}", sums.iter().map(|(_, tally)| tally.held).sum::<usize>());
    Ok(sums)
}

async fn floods(targets: &Targets, bed: &Bed, time: Duration) -> Result<String> {
    let begun = Instant::now();
    let mut sent = std::collections::BTreeMap::<String, (u64, u32)>::new();
    while begun.elapsed() < time {
        for flood in Flood::ALL {
            // A connection that is refused is one flood less.
            if let Ok((frames, closed)) = http2::flood(targets.grpc, bed.ca, flood, 100_000).await {
                let entry = sent.entry(format!("{flood:?}")).or_default();
                entry.0 += u64::from(frames);
                entry.1 += u32::from(closed);
            }
        }
    }
    Ok(format!("frames sent and connections closed: {sent:?}"))
}

async fn oversized(targets: &Targets, bed: &Bed, time: Duration) -> Result<String> {
    let begun = Instant::now();
    let mut answers = std::collections::BTreeMap::<String, u32>::new();
    while begun.elapsed() < time {
        for (bytes, compressed) in [(5 << 20, false), (200 << 20, true)] {
            let code = calls::oversized(&targets.grpc.to_string(), bed.ca, bytes, compressed).await?;
            *answers.entry(format!("{bytes} bytes, compressed {compressed}: {code:?}")).or_default() += 1;
        }
    }
    Ok(format!("{answers:?}"))
}

/// Both programs have no more files for some seconds.
fn want_of_files(bed: &Bed, runtime: &tokio::runtime::Runtime) -> Result<Vec<Tally>> {
    let pids = [bed.pids()[0], bed.pids()[2]];
    for pid in pids {
        Bed::bound_files(pid, usage(pid).files + 20)?;
    }
    let hold = async {
        let mut tallies = Vec::new();
        for port in std::iter::once(bed.targets.grpc).chain(bed.targets.http.iter().copied()) {
            tallies.push(held::hold(port, Say::Nothing, 200, 50, Duration::from_secs(3)).await?);
        }
        anyhow::Ok(tallies)
    };
    let tallies = runtime.block_on(hold);
    for pid in pids {
        Bed::bound_files(pid, foundation_listener::open_files())?;
    }
    bed.check_alive()?;
    tallies
}
