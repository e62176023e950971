//! Some agents stand still while configurations are written (R11).

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use foundation_runtime::Clock;
use proto_rpc::v1::{CreateConfigRequest, UpdateConfigRequest};
use tests_harness::{Api, eventually};
use tokio::sync::mpsc as orders;

use crate::{
    bed::Bed,
    figures::{Spread, memory_kib},
    member::Member,
};

/// All have the newest by then, or something is wrong.
const LIMIT: Duration = Duration::from_secs(240);
/// Of a configuration: a backlog of them would be seen.
const DOCUMENT_BYTES: usize = 32 * 1024;
/// A revision follows the one before no sooner.
const PACE: Duration = Duration::from_millis(100);

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct SilentOptions {
    /// Agents.
    pub agents: u16,
    /// How many of them stand still.
    pub silent: u16,
    /// Revisions written meanwhile.
    pub revisions: u32,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Silent {
    /// From a write until each agent that reads had it or a newer one, with nobody silent.
    pub base: Spread,
    /// The same beside those that are silent.
    pub beside: Spread,
    /// How much both servers grew meanwhile, for each silent agent, in KiB.
    pub kib_each: u64,
    /// How many configurations each silent agent was given when it went on.
    pub given: Vec<usize>,
    /// How long the writes took.
    pub took: Duration,
}

/// Agents on a thread of their own, which may stand still with all that they are: sockets, timers, answers.
#[derive(Debug)]
struct Still {
    members: Arc<Vec<Member>>,
    orders: orders::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    /// Until something, or nobody, is heard of the one; the other is told that it stands.
    Stand(mpsc::Receiver<()>, mpsc::SyncSender<()>),
}

impl Still {
    fn start(folders: Vec<PathBuf>) -> Result<Self> {
        let (orders, mut received) = orders::channel(1);
        let (begun, begins) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let entered = runtime.enter();
            let members = folders.iter().map(|folder| Member::start(folder)).collect::<Result<Vec<_>>>().map(Arc::new);
            drop(entered);
            begun.send(members).expect("the test waits for it");
            while let Some(Order::Stand(until, stands)) = runtime.block_on(received.recv()) {
                stands.send(()).expect("the test waits for it");
                // Whoever orders it goes on by dropping the other end.
                until.recv().unwrap_or_default();
            }
        });
        let members = begins.recv().context("its thread")??;
        Ok(Self { members, orders, thread: Some(thread) })
    }

    /// All stand still until what is returned is dropped.
    fn stand(&self) -> Result<mpsc::SyncSender<()>> {
        let (goes_on, until) = mpsc::sync_channel(1);
        let (stands, standing) = mpsc::sync_channel(1);
        self.orders.blocking_send(Order::Stand(until, stands)).ok().context("its thread")?;
        standing.recv()?;
        Ok(goes_on)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // Without orders it ends.
        self.orders = orders::channel(1).0;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Writes to the fleet's configuration.
struct Writer {
    api: Api,
    etag: String,
    clock: Clock,
}

impl Writer {
    async fn start(api: Api) -> Result<Self> {
        let request = CreateConfigRequest {
            config_id: "fleet".to_owned(),
            document: document("first", 0),
            ..CreateConfigRequest::default()
        };
        let etag = api.configs().create_config(request).await?.into_inner().etag;
        Ok(Self { api, etag, clock: Clock::system() })
    }

    /// When each was sent.
    async fn write(&mut self, phase: &str, revisions: u32) -> Result<Vec<Instant>> {
        let mut sent = Vec::new();
        for number in 1..=revisions {
            let at = self.clock.now();
            sent.push(at);
            let request = UpdateConfigRequest {
                name: "configs/fleet".to_owned(),
                document: document(phase, number),
                etag: self.etag.clone(),
                ..UpdateConfigRequest::default()
            };
            self.etag = self.api.configs().update_config(request).await?.into_inner().etag;
            tokio::time::sleep((at + PACE).saturating_duration_since(self.clock.now())).await;
        }
        Ok(sent)
    }
}

/// Each says something else than the one before.
fn document(phase: &str, number: u32) -> String {
    let filler = "# a line that nobody reads\n".repeat(DOCUMENT_BYTES / 27);
    format!("# {phase} {number}\n{filler}compression:\n  level: {}\n", number % 14 + 1)
}

/// The number of a configuration of this phase.
fn number_in(phase: &str, line: &str) -> Option<u32> {
    line.strip_prefix("# ")?.strip_prefix(phase)?.trim().parse().ok()
}

/// Tries it.
///
/// # Errors
/// Something does not begin, or an agent never has the newest.
pub fn silent(options: &SilentOptions) -> Result<Silent> {
    ensure!(options.silent < options.agents, "some are to read");
    let bed = Bed::start(&[])?;
    let folders = bed.join(options.agents, "agent")?;
    let (quiet, well) = folders.split_at(options.silent.into());
    let still = Still::start(quiet.to_vec())?;
    let entered = bed.runtime.enter();
    let well = well.iter().map(|folder: &PathBuf| Member::start(Path::new(folder))).collect::<Result<Vec<_>>>()?;
    drop(entered);
    let all = || well.iter().chain(still.members.iter());
    eventually("every agent to have a session", LIMIT, || Ok(all().all(Member::stands).then_some(())))?;
    let api = bed.api(0)?;
    let mut writer = bed.runtime.block_on(Writer::start(api))?;
    let has = |member: &Member, line: &str| member.came().last().is_some_and(|came| came.line == line);
    let all_have = |phase: &str, number: u32, members: &mut dyn Iterator<Item = &Member>| {
        let (line, members) = (format!("# {phase} {number}"), members.collect::<Vec<_>>());
        eventually(&line, LIMIT, || Ok(members.iter().all(|member| has(member, &line)).then_some(())))
    };

    let sent = bed.runtime.block_on(writer.write("base", options.revisions))?;
    all_have("base", options.revisions, &mut all())?;
    let base = delivery("base", &sent, &well);

    let goes_on = still.stand()?;
    let resident = || bed.servers.iter().map(|server| memory_kib(server.process().pid(), "VmRSS")).sum::<u64>();
    let (before, begun) = (resident(), Clock::system().now());
    let sent = bed.runtime.block_on(writer.write("beside", options.revisions))?;
    all_have("beside", options.revisions, &mut well.iter())?;
    let (took, grown) = (Clock::system().now() - begun, resident().saturating_sub(before));
    let beside = delivery("beside", &sent, &well);
    drop(goes_on);
    all_have("beside", options.revisions, &mut still.members.iter())?;
    let of_phase =
        |member: &Member| member.came().iter().filter(|came| number_in("beside", &came.line).is_some()).count();
    let given = still.members.iter().map(of_phase).collect();
    drop(still);
    Ok(Silent { base, beside, kib_each: grown / u64::from(options.silent.max(1)), given, took })
}

/// From each write until each member had it, or a newer one.
fn delivery(phase: &str, sent: &[Instant], members: &[Member]) -> Spread {
    let mut times = Vec::new();
    for member in members {
        let came = member.came();
        let came: BTreeMap<u32, Instant> =
            came.iter().filter_map(|came| Some((number_in(phase, &came.line)?, came.at))).collect();
        for (number, sent) in (1..).zip(sent) {
            let at = came.range(number..).next().map(|(_, at)| *at);
            times.extend(at.map(|at| at.saturating_duration_since(*sent)));
        }
    }
    Spread::new(times)
}

impl Silent {
    /// What must hold at all speeds.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.kib_each <= 1024, "{} KiB for each silent agent", self.kib_each);
        let most = self.given.iter().max().copied().unwrap_or_default();
        ensure!(most <= 5, "an agent that went on was given {most} configurations");
        Ok(())
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.given.iter().max().copied().unwrap_or_default();
        let ratio = self.beside.at(990).as_secs_f64() / self.base.at(990).as_secs_f64().max(1e-6);
        write!(
            f,
            "delivery with nobody silent: {} | beside {} silent ones: {}; 99 % are {ratio:.2} of that | {} KiB of servers for each silent \
             one | given to one that went on: {most} at most, the last one last | writes took {:.1} s",
            self.base,
            self.given.len(),
            self.beside,
            self.kib_each,
            self.took.as_secs_f64()
        )
    }
}
