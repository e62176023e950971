//! 256 streams to a slow reader whose process has a hard bound on its memory, by a cgroup where the machine lets us make one (v1 or v2): it lives, stays within
//! its budget, and gets every piece. `DWCP_CAPPED_PIECES` is how many (2,500).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use bed::{contents, options};
use dataplane_amst::{Endpoint, IncomingChannel};
use dataplane_identity::{Identity, testing::TestFleet};
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use proto_model::ByteCount;
use tokio::{sync::mpsc, time::timeout};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 64 * MIB;
/// Of the program itself, its threads, and what the allocator keeps.
const ITSELF: u64 = 40 * MIB;
const PIECE: usize = 32 << 10;
const STREAMS: u32 = 256;
/// Of these each gets a part of the budget, however slow.
const CHANNELS: u64 = 4;
/// Pieces that differ.
const KINDS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(120);
/// Tells this very program to be the receiver: its folder, how many pieces, and the cgroup to enter.
const RECEIVER: &str = "DWCP_TEST_RECEIVER";

/// A cgroup that takes so many bytes.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("dwcp-amst-{}", std::process::id());
        let limits = [("memory", "memory.limit_in_bytes"), ("", "memory.max"), ("unified", "memory.max")];
        limits.into_iter().find_map(|(hierarchy, limit)| {
            let group = Path::new("/sys/fs/cgroup").join(hierarchy).join(&name);
            fs::create_dir(&group).ok()?;
            // It goes with its handle, also where it has no memory to bound.
            let group = Self(group);
            fs::write(group.0.join(limit), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    /// What it had at most, the kernel's own caches for it included.
    fn most(&self) -> Option<u64> {
        let text = fs::read_to_string(self.0.join("memory.max_usage_in_bytes"));
        text.or_else(|_v2| fs::read_to_string(self.0.join("memory.peak"))).ok()?.trim().parse().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

/// Killed with its handle.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

async fn bind(identity: &Identity) -> Endpoint {
    let mut options = options(identity);
    options.limits.receive_budget = ByteCount::new(BUDGET);
    (options.settings.min_streams, options.settings.initial_streams) = (STREAMS, STREAMS);
    options.settings.max_streams = STREAMS;
    Endpoint::bind(options, Clock::system(), TaskGroup::new("node")).await.unwrap()
}

/// A figure of this process's memory, in bytes.
fn status(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_of_256_streams_stays_within_its_budget_under_a_cap() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let pieces = std::env::var("DWCP_CAPPED_PIECES").map_or(2500, |pieces| pieces.parse().unwrap());
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let fleet = TestFleet::new();
    let (sender, receiver) = (fleet.node(dirs[0].path(), "sender"), fleet.node(dirs[1].path(), "receiver"));
    fleet.share([&sender, &receiver]);
    let cgroup = Cgroup::new(BUDGET + ITSELF);
    if cgroup.is_none() {
        println!("no cgroup can be made here: the receiver only says what it used");
    }
    let group = cgroup.as_ref().map(|group| group.0.display().to_string()).unwrap_or_default();
    let told = format!("{}\n{pieces}\n{group}", dirs[1].path().display());
    let program = std::env::current_exe().unwrap();
    let mut child = Receiver(
        Command::new(program).args(["--exact", "receiver", "--nocapture"]).env(RECEIVER, told).spawn().unwrap(),
    );
    let endpoint = bind(&sender).await;
    let said = dirs[1].path().join("address");
    let address = timeout(PATIENCE, async {
        loop {
            if let Some(address) = fs::read_to_string(&said).ok().and_then(|text| text.parse().ok()) {
                return address;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let session = endpoint.session(receiver.public_key(), &[address]).await.unwrap();
    let mut channels = Vec::new();
    for _ in 0..CHANNELS {
        channels.push(session.open_channel().await.unwrap());
    }
    let tasks = TaskGroup::new("send");
    let kinds: Vec<_> = (0..KINDS).map(|kind| contents(kind, PIECE)).collect();
    for (channel, first) in channels.iter().zip(0..) {
        for number in (first..pieces).step_by(usize::try_from(CHANNELS).unwrap()) {
            let sender = channel.pieces_tx.clone();
            let payload = kinds[usize::try_from(number % KINDS).unwrap()].clone();
            tasks.spawn("piece", OnEnd::Expected, async move {
                sender.send(number, payload).await.expect("the receiver lives");
            });
        }
    }
    let mut most = 0;
    let peak = dirs[1].path().join("peak");
    timeout(PATIENCE, async {
        while !peak.exists() {
            most = most.max(session.info().streams_in_use);
            assert!(child.0.try_wait().unwrap().is_none(), "the receiver ended, by the kernel's hand?");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("all pieces");
    let peak: u64 = fs::read_to_string(&peak).unwrap().parse().unwrap();
    let in_all = cgroup.as_ref().and_then(Cgroup::most).unwrap_or_default();
    println!("{most} streams at once; the receiver had {} MiB, its cgroup {} MiB at most", peak / MIB, in_all / MIB);
    assert!(most >= 200, "{most} streams at once");
    assert!(peak <= BUDGET + ITSELF, "{} MiB with a budget of {} MiB", peak / MIB, BUDGET / MIB);
    drop(child);
}

/// Does nothing but where the test above starts it.
#[tokio::test(flavor = "multi_thread")]
async fn receiver() {
    let Ok(told) = std::env::var(RECEIVER) else { return };
    let [dir, pieces, group] = told.split('\n').collect::<Vec<_>>()[..] else { return };
    if !group.is_empty() {
        fs::write(Path::new(group).join("cgroup.procs"), "0").unwrap();
    }
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let identity = Identity::open(Path::new(dir)).unwrap().unwrap();
    let endpoint = bind(&identity).await;
    let address = Path::new(dir).join("address");
    fs::write(address.with_extension("new"), endpoint.local_addr().to_string()).unwrap();
    fs::rename(address.with_extension("new"), address).unwrap();
    let (arrived, mut count) = mpsc::channel(1);
    let tasks = TaskGroup::new("read");
    for _ in 0..CHANNELS {
        let IncomingChannel { mut channel, .. } = endpoint.next_channel().await.unwrap();
        let arrived = arrived.clone();
        tasks.spawn("reader", OnEnd::Expected, async move {
            while let Some(piece) = channel.pieces_rx.recv().await {
                assert_eq!(piece.payload, contents(piece.number % KINDS, PIECE));
                // A disk that takes some 12 MB a second.
                tokio::time::sleep(Duration::from_millis(10)).await;
                if arrived.send(()).await.is_err() {
                    return;
                }
            }
        });
    }
    for _ in 0..pieces.parse::<u64>().unwrap() {
        count.recv().await.unwrap();
    }
    let peak = Path::new(dir).join("peak");
    fs::write(peak.with_extension("new"), status("VmHWM:").to_string()).unwrap();
    fs::rename(peak.with_extension("new"), peak).unwrap();
    std::future::pending::<()>().await;
}
