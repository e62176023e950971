//! A fleet with its main job going on, and what a phase of strangers did to it.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dataplane_identity::CaFingerprint;
use tests_harness::{Cli, Fleet, FleetOptions, fill_random};

use crate::measure::{Peaks, Usage, honest_http};

/// Ports of a fleet.
#[derive(Clone, Debug)]
pub struct Targets {
    /// gRPC.
    pub grpc: SocketAddr,
    /// HTTP and metrics of both programs.
    pub http: Vec<SocketAddr>,
    /// QUIC of the agent that receives.
    pub quic: SocketAddr,
    /// DHT of the control plane.
    pub dht: SocketAddr,
}

/// A fleet of two.
#[derive(Debug)]
pub struct Bed {
    /// The fleet.
    pub fleet: Fleet,
    /// The fleet's CA.
    pub ca: CaFingerprint,
    /// The ports.
    pub targets: Targets,
    bytes: u64,
}

/// What a phase came to.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Bytes a second that the main job moved.
    pub goodput: f64,
    /// The most that control plane, sender and receiver used.
    pub peaks: Vec<Usage>,
    /// Those who belong here: asked, in vain, and the longest that one waited.
    pub honest: (u32, u32, Duration),
    /// Lines that the programs logged in it.
    pub lines: usize,
}

impl Bed {
    /// Starts it; one run of the main job moves so many bytes.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(bytes: u64, options: &FleetOptions) -> Result<Self> {
        let fleet = Fleet::start(options)?;
        let folder = fleet.agents[0].root("data").join("set");
        fs::create_dir_all(&folder)?;
        fill_random(&folder.join("file"), bytes, 7)?;
        let info = fleet.cli()?.json(&["system", "info"])?;
        let ca = info["caFingerprint"].as_str().context("a fingerprint")?.parse()?;
        let ready = fs::read(fleet.control_plane.dir().join("ready.json"))?;
        let ready: serde_json::Value = serde_json::from_slice(&ready)?;
        let agent = &fleet.agents[1];
        let http = [fleet.control_plane.http(), fleet.control_plane.metrics(), agent.http(), agent.metrics()];
        let targets = Targets {
            grpc: fleet.control_plane.grpc().parse()?,
            http: http.iter().map(|address| address.parse()).collect::<Result<_, _>>()?,
            quic: agent.quic().parse()?,
            dht: ready["dht"].as_str().context("a DHT node")?.parse()?,
        };
        Ok(Self { fleet, ca, targets, bytes })
    }

    /// Control plane, sender, receiver.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let agents = self.fleet.agents.iter().map(|agent| agent.process().pid());
        std::iter::once(self.fleet.control_plane.process().pid()).chain(agents).collect()
    }

    /// All that the programs printed.
    #[must_use]
    pub fn output(&self) -> String {
        let agents = self.fleet.agents.iter().map(|agent| agent.process().output());
        std::iter::once(self.fleet.control_plane.process().output()).chain(agents).collect()
    }

    /// Runs the main job, over and over, and those who belong here ask; meanwhile `strangers` do what they do.
    ///
    /// # Errors
    /// What the strangers were to do could not be done.
    pub fn phase<T>(&self, strangers: impl FnOnce(&Targets) -> Result<T>) -> Result<(T, Phase)> {
        let lines = self.output().lines().count();
        let peaks = Peaks::of(&self.pids());
        let job = Job::start(self.fleet.cli()?, self.bytes);
        let honest = Honest::start(self.fleet.cli()?, &self.targets);
        let begun = Instant::now();
        let done = strangers(&self.targets);
        let took = begun.elapsed();
        let goodput = job.stop() as f64 / took.as_secs_f64();
        let phase = Phase {
            goodput,
            honest: honest.stop(),
            peaks: peaks.most().into_iter().map(|(_, usage)| usage).collect(),
            lines: self.output().lines().count() - lines,
        };
        Ok((done?, phase))
    }

    /// Whether all of the fleet lives and said nothing of a panic.
    ///
    /// # Errors
    /// One does not, or did.
    pub fn check_alive(&self) -> Result<()> {
        for pid in self.pids() {
            ensure!(fs::metadata(format!("/proc/{pid}")).is_ok(), "process {pid} is gone:\n{}", self.output());
        }
        let output = self.output();
        ensure!(!output.contains("panicked at"), "{output}");
        self.fleet.cli()?.ok(&["node", "list"])?;
        for address in &self.targets.http {
            honest_http(&address.to_string(), "/livez")?;
        }
        Ok(())
    }

    /// Bounds the open files of a process that runs.
    ///
    /// # Errors
    /// `prlimit` refuses.
    pub fn bound_files(pid: u32, files: u64) -> Result<()> {
        let done = Command::new("prlimit").args([format!("--pid={pid}"), format!("--nofile={files}:")]).status()?;
        ensure!(done.success(), "prlimit of {pid} to {files}");
        Ok(())
    }
}

struct Job {
    moved: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Job {
    fn start(cli: Cli, bytes: u64) -> Self {
        let (moved, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stop) = (Arc::clone(&moved), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut number = rand::random::<u32>();
            while !stop.load(Ordering::Relaxed) {
                number = number.wrapping_add(1);
                let to = format!("site-b:data:/run-{number}/");
                let sent = cli.run(&["send", "--from", "site-a", "data:/set", &to]);
                if sent.is_ok_and(|ran| ran.code == 0) && !stop.load(Ordering::Relaxed) {
                    count.fetch_add(bytes, Ordering::Relaxed);
                }
            }
        });
        Self { moved, over, thread }
    }

    fn stop(self) -> u64 {
        let moved = self.moved.load(Ordering::Relaxed);
        self.over.store(true, Ordering::Relaxed);
        drop(self.thread.join());
        moved
    }
}

struct Honest {
    over: Arc<AtomicBool>,
    thread: JoinHandle<(u32, u32, Duration)>,
}

impl Honest {
    fn start(cli: Cli, targets: &Targets) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (stop, http) = (Arc::clone(&over), targets.http.clone());
        let thread = std::thread::spawn(move || {
            let (mut asked, mut failed, mut longest) = (0, 0, Duration::ZERO);
            let mut count = |begun: Instant, good: bool| {
                asked += 1;
                failed += u32::from(!good);
                longest = longest.max(begun.elapsed());
            };
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                count(begun, cli.run(&["node", "list"]).is_ok_and(|ran| ran.code == 0));
                for address in &http {
                    let begun = Instant::now();
                    count(begun, honest_http(&address.to_string(), "/livez").is_ok());
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            (asked, failed, longest)
        });
        Self { over, thread }
    }

    fn stop(self) -> (u32, u32, Duration) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
