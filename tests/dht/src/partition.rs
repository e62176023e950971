//! R33: two halves of a fleet that do not hear each other for a while, change on both sides, and come together again.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tests_harness::Host;

use crate::side::{agent_address, ring_address};

/// How it is done.
#[derive(Clone, Debug, clap::Args)]
pub struct Partition {
    /// Agents, half of them on each side.
    #[arg(long, default_value_t = 40)]
    pub agents: u16,
    /// Ring nodes on each side.
    #[arg(long, default_value_t = 3)]
    pub ring: u8,
    /// How long nothing passes.
    #[arg(long, default_value_t = 300)]
    pub seconds: u64,
    /// How often a record that part of the ring lacks is put again, and how long what a part of it said is kept.
    #[arg(long, default_value_t = 60_000)]
    pub patience_ms: u64,
    /// Of what is changed when.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Until all knew all at first.
    pub together: Duration,
    /// Changes while nothing passed.
    pub changes: usize,
    /// From the healing until every node of the ring had the newest record of everybody.
    pub ring_healed: Duration,
    /// And until every agent found the newest of everybody, by what it keeps as well.
    pub healed: Duration,
    /// Records whose newest is nowhere.
    pub lost: usize,
    /// Times that an agent found an older record than before.
    pub backwards: usize,
}

/// How long any step may take.
const LIMIT: Duration = Duration::from_secs(400);

struct Half {
    host: Host,
    network: u8,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Half {
    fn ask(&mut self, line: &str) -> Result<Value> {
        writeln!(self.input, "{line}")?;
        self.input.flush()?;
        self.answer().with_context(|| line.to_owned())
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the process of {} ended", self.host.name());
        Ok(serde_json::from_str(&line)?)
    }

    fn cut(&self) -> Result<()> {
        let other = 3 - self.network;
        self.host.ok(&format!(
            "nft 'add table ip cut; add chain ip cut input {{ type filter hook input priority 0; }}; \
             add rule ip cut input ip saddr 10.78.{other}.0/24 drop'"
        ))?;
        Ok(())
    }

    fn heal(&self) -> Result<()> {
        self.host.ok("nft delete table ip cut")?;
        Ok(())
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Both halves, and what should be known of each agent.
struct World {
    halves: [Half; 2],
    newest: Vec<(i64, u16)>,
    /// By viewer and agent.
    seen: Vec<Vec<i64>>,
    backwards: usize,
}

impl World {
    fn new(program: &Path, options: &Partition) -> Result<Self> {
        let hosts = [Host::new("dht-a")?, Host::new("dht-b")?];
        let address = |network| format!("{}/16", ring_address(network, 1).ip());
        hosts[0].link(&address(1), &hosts[1], &address(2))?;
        let [a, b] = hosts;
        let halves = [half(program, options, a, 1, "dht-b")?, half(program, options, b, 2, "dht-a")?];
        let all = usize::from(options.agents);
        let mut world = Self { halves, newest: vec![(0, 0); all], seen: vec![vec![i64::MIN; all]; all], backwards: 0 };
        for half in &mut world.halves {
            half.answer()?;
        }
        Ok(world)
    }

    /// One of the agents says something new.
    fn change(&mut self, number: usize, port: u16) -> Result<()> {
        let per_side = self.newest.len() / 2;
        let answer = self.halves[number / per_side].ask(&format!("announce {} {port}", number % per_side))?;
        self.newest[number] = (answer.as_i64().context("a seq")?, port);
        Ok(())
    }

    /// How many of what is found are not the newest; only what lies on the viewer's own side, or all.
    fn look(&mut self, how: &str, own_side_only: bool) -> Result<usize> {
        let per_side = self.newest.len() / 2;
        let mut behind = 0;
        for side in 0..2 {
            let views = self.halves[side].ask(&format!("look {how}"))?;
            for (place, view) in views.as_array().into_iter().flatten().enumerate() {
                for (number, found) in view.as_array().into_iter().flatten().enumerate() {
                    let seen = &mut self.seen[side * per_side + place][number];
                    let (seq, port) = (found[1].as_i64(), found[2].as_u64());
                    if let Some(seq) = seq {
                        self.backwards += usize::from(seq < *seen);
                        *seen = seq.max(*seen);
                    }
                    let (newest, newest_port) = self.newest[number];
                    let right = seq == Some(newest) && port == Some(u64::from(newest_port));
                    behind += usize::from(!right && (!own_side_only || number / per_side == side));
                }
            }
        }
        Ok(behind)
    }

    /// Whether each node of the ring has the newest of everybody.
    fn ring_is_whole(&mut self, ring: usize) -> Result<bool> {
        let copies = self.halves[0].ask("copies")?;
        let whole = |(number, seqs): (usize, &Value)| {
            let seqs = seqs.as_array().map_or(&[][..], Vec::as_slice);
            seqs.len() == ring && seqs.iter().all(|seq| seq.as_i64() == Some(self.newest[number].0))
        };
        Ok(copies.as_array().context("a list")?.iter().enumerate().all(whole))
    }
}

fn half(program: &Path, options: &Partition, host: Host, network: u8, other: &str) -> Result<Half> {
    let per_side = options.agents / 2;
    let ring = (2..=options.ring).map(|number| *ring_address(network, number).ip());
    let addresses = ring.chain((0..per_side).map(|place| agent_address(network, place)));
    let batch: String = addresses.map(|address| format!("address add {address}/16 dev to-{other}\\n")).collect();
    host.ok(&format!("printf '{batch}' | ip -batch -"))?;
    let program = program.to_str().context("the program's path")?;
    let mut command = host.command(&["setpriv", "--pdeathsig", "KILL", program, "side"]);
    command.args(["--network", &network.to_string(), "--agents", &per_side.to_string()]);
    command.args(["--all", &(per_side * 2).to_string(), "--first", &(u16::from(network - 1) * per_side).to_string()]);
    command.args(["--ring", &options.ring.to_string(), "--patience-ms", &options.patience_ms.to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("nsenter (util-linux)")?;
    let input = child.stdin.take().context("its input is piped")?;
    let output = BufReader::new(child.stdout.take().context("its output is piped")?);
    Ok(Half { host, network, child, input, output })
}

/// Does it, with this program for the halves.
///
/// # Errors
/// This is not root; or it does not come to what it should in time.
pub fn run(program: &Path, options: &Partition) -> Result<Report> {
    ensure!(options.agents.is_multiple_of(2) && options.agents <= 400, "an even number of agents, 400 at most");
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut world = World::new(program, options)?;
    let ring = usize::from(options.ring) * 2;
    let agents = usize::from(options.agents);

    let begun = Instant::now();
    for number in 0..agents {
        world.change(number, 1)?;
    }
    until("all to know all", || Ok(world.look("anew", false)? == 0))?;
    let together = begun.elapsed();
    // What is kept from now on is what was known before the cut.
    world.look("kept", false)?;

    for half in &world.halves {
        half.cut()?;
    }
    let cut = Instant::now();
    let time = Duration::from_secs(options.seconds);
    let mut changes: Vec<_> = (0..agents).map(|number| (time.mul_f64(random.random_range(0.0..0.8)), number)).collect();
    changes
        .extend((0..agents / 2).map(|_| (time.mul_f64(random.random_range(0.0..0.8)), random.random_range(0..agents))));
    changes.sort_unstable();
    for (count, (when, number)) in changes.iter().enumerate() {
        std::thread::sleep(when.saturating_sub(cut.elapsed()));
        world.change(*number, u16::try_from(count + 100)?)?;
        // As its agents go on to do; a look at those who do not answer takes seconds.
        if options.seconds >= 60 && count.is_multiple_of(10) {
            world.look("kept", false)?;
        }
    }
    // Either half goes on.
    until("each side to know its own changes", || Ok(world.look("anew", true)? == 0))?;
    ensure!(world.look("kept", false)? > 0, "nothing passed, but the other side is up to date");
    std::thread::sleep(time.saturating_sub(cut.elapsed()));

    for half in &world.halves {
        half.heal()?;
    }
    let healing = Instant::now();
    let (mut ring_healed, mut healed) = (None, None);
    let waited = until("both sides to come together", || {
        if ring_healed.is_none() && world.ring_is_whole(ring)? {
            ring_healed = Some(healing.elapsed());
        }
        if healed.is_none() && world.look("kept", false)? == 0 {
            healed = Some(healing.elapsed());
        }
        Ok(ring_healed.is_some() && healed.is_some())
    });
    let lost = if waited.is_ok() { 0 } else { world.look("anew", false)? };
    Ok(Report {
        together,
        changes: changes.len(),
        ring_healed: ring_healed.unwrap_or(LIMIT),
        healed: healed.unwrap_or(LIMIT),
        lost,
        backwards: world.backwards,
    })
}

fn until(what: &str, mut happened: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !happened()? {
        ensure!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
