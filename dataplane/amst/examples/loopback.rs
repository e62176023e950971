//! How fast AMST moves pieces over loopback, and what that costs: Gbit/s, processor seconds a GB, peak memory.
//!
//! `cargo run --release -p dataplane-amst --example loopback -- [GB] [lanes] [sockets] [streams] [off|auto|always]`
//!
//! The last says when pieces go by TCP with TLS (`transport.tcp_lane`); with `always` the clock begins when there is such a lane.
//!
//! Both ends run in one process and share its processors, so a rate is comparable only with others of the same machine and
//! hour; processor seconds a GB, of both ends together, are the better figure.

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program that measures and prints")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use dataplane_amst::{Endpoint, Limits, Options, TransportSettings};
use dataplane_identity::{Identity, testing::TestFleet};
use foundation_runtime::{Clock, TaskGroup};
use futures::{StreamExt, stream::FuturesUnordered};
use proto_model::config::TcpLane;

const PIECE: usize = 1024 * 1024;

struct Arguments {
    pieces: u64,
    lanes: u32,
    sockets: usize,
    streams: u32,
    tcp: TcpLane,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let numbers: Vec<u32> = std::env::args().skip(1).take(4).map(|text| text.parse()).collect::<Result<_, _>>()?;
        let tcp = match std::env::args().nth(5).as_deref() {
            None | Some("off") => TcpLane::Off,
            Some("auto") => TcpLane::Auto,
            Some("always") => TcpLane::Always,
            Some(other) => anyhow::bail!("{other} is none of off, auto, always"),
        };
        let number = |index: usize, default| numbers.get(index).copied().unwrap_or(default);
        Ok(Self {
            pieces: u64::from(number(0, 2)) * 1000,
            lanes: number(1, 1),
            sockets: usize::try_from(number(2, 1))?,
            streams: number(3, 32),
            tcp,
        })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let arguments = Arguments::parse()?;
    let dir = std::env::temp_dir().join(format!("amst-loopback-{}", std::process::id()));
    let (sender, receiver) = (dir.join("sender"), dir.join("receiver"));
    for node in [&sender, &receiver] {
        std::fs::create_dir_all(node)?;
    }
    let fleet = TestFleet::new();
    let (sender, receiver) = (fleet.node(&sender, "sender"), fleet.node(&receiver, "receiver"));
    fleet.share([&sender, &receiver]);
    let tasks = TaskGroup::new("loopback");
    let result = measure(&arguments, &tasks, &sender, &receiver).await;
    std::fs::remove_dir_all(dir)?;
    result
}

async fn measure(arguments: &Arguments, tasks: &TaskGroup, sender: &Identity, receiver: &Identity) -> Result<()> {
    let here = bind(arguments, tasks, sender).await?;
    let there = bind(arguments, tasks, receiver).await?;
    let session = here.session(receiver.public_key(), &[there.local_addr()]).await?;
    let (ours, theirs) = tokio::join!(session.open_channel(), there.next_channel());
    let (ours, mut theirs) = (ours?, theirs.context("the receiver has shut down")?.channel);

    while arguments.tcp == TcpLane::Always && session.info().tcp_lane.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let payload = Bytes::from((0..PIECE).map(|index| u8::try_from(index % 251).unwrap_or(0)).collect::<Vec<_>>());
    let (begun, cpu) = (Instant::now(), cpu_seconds()?);
    let sending = async {
        let mut under_way = FuturesUnordered::new();
        for number in 0..arguments.pieces {
            if under_way.len() >= 2 * usize::try_from(arguments.streams).unwrap_or(32) {
                under_way.next().await.transpose()?;
            }
            under_way.push(ours.pieces_tx.send(number, payload.clone()));
        }
        while let Some(sent) = under_way.next().await {
            sent?;
        }
        anyhow::Ok(())
    };
    let receiving = async {
        for _ in 0..arguments.pieces {
            let piece = theirs.pieces_rx.recv().await.context("the session ended")?;
            anyhow::ensure!(piece.payload.len() == PIECE, "a piece of another length");
        }
        anyhow::Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = cpu_seconds()? - cpu;

    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let gigabytes = (arguments.pieces * PIECE as u64) as f64 / 1e9;
    let info = session.info();
    println!(
        "{:.2} Gbit/s  {:.2} cpu s/GB  lost {:.2} %  mtu {}  lanes {}  by tcp {:.0} %  streams {}  rtt {:?}  peak {} MiB",
        gigabytes * 8.0 / seconds,
        cpu / gigabytes,
        percent(info.bytes_lost, info.bytes_sent),
        info.mtu,
        info.lanes,
        percent(info.tcp_bytes_sent, info.bytes_sent),
        info.streams,
        info.rtt,
        peak_mebibytes()?,
    );
    tasks.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

async fn bind(arguments: &Arguments, tasks: &TaskGroup, identity: &Identity) -> Result<Endpoint> {
    let settings = TransportSettings {
        min_streams: arguments.streams.min(16),
        initial_streams: arguments.streams,
        lanes: arguments.lanes,
        tcp_lane: arguments.tcp,
        ..TransportSettings::default()
    };
    let options = Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        sockets: arguments.sockets,
        identity: identity.clone(),
        settings,
        limits: Limits::default(),
    };
    Ok(Endpoint::bind(options, Clock::system(), tasks.clone()).await?)
}

/// User and system time of this process (proc(5): fields 14 and 15, in hundredths of a second).
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("no fields")?.split_whitespace().collect();
    let ticks = |index: usize| anyhow::Ok(fields.get(index).context("too few fields")?.parse::<f64>()?);
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn peak_mebibytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}
