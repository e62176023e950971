//! All servers are killed and come back, and with them all agents (R2).

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use foundation_runtime::Clock;
use proto_rpc::v1::CreateConfigRequest;
use tests_harness::{eventually, limit_hits};

use crate::{
    bed::Bed,
    figures::{Spread, memory_kib},
    look::{Looker, Sent},
    member::Member,
};

/// All are back by then, or something is wrong.
const LIMIT: Duration = Duration::from_secs(240);
/// In which statements are counted that nobody's coming back makes.
const IDLE: Duration = Duration::from_secs(6);
/// Agents that count what they are sent.
const LOOKERS: u16 = 5;
/// Of the fleet's configuration.
const DOCUMENT_BYTES: usize = 32 * 1024;
/// By which a new session is refused.
const LIMIT_NAME: &str = "limits.new_sessions_per_second";

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct HerdOptions {
    /// Agents.
    pub agents: u16,
    /// Times that all servers are killed.
    pub restarts: u32,
    /// For how long they are away.
    pub away: Duration,
    /// New sessions that a server may begin in a second.
    pub rate: u32,
}

/// One restart.
#[derive(Clone, Debug)]
pub struct Storm {
    /// From the servers' start until each agent had a session.
    pub back: Spread,
    /// The most sessions that any server began in any second.
    pub peak: usize,
    /// Agents that were sent away.
    pub sent_away: f64,
    /// The most memory that a server used, in KiB.
    pub memory_kib: u64,
    /// What an agent was sent that had missed nothing.
    pub bytes: usize,
    /// The same by kind.
    pub parts: String,
    /// Statements of PostgreSQL for each agent, where they can be counted.
    pub statements: Option<f64>,
}

/// A fleet that is left alone again and again.
#[derive(Debug)]
pub struct Herd {
    members: Vec<Member>,
    lookers: Vec<Looker>,
    bed: Bed,
    options: HerdOptions,
    counted: bool,
}

impl Herd {
    /// Lets all join and waits until each has a session.
    ///
    /// # Errors
    /// One has none in time.
    pub fn start(options: HerdOptions) -> Result<Self> {
        let rate = format!("new_sessions_per_second={}", options.rate);
        let bed = Bed::start(&["--limit", &rate])?;
        let folders = bed.join(options.agents, "agent")?;
        let lookers = bed.join(LOOKERS, "looker")?.iter().map(|folder| Looker::open(folder)).collect::<Result<_>>()?;
        let api = bed.api(0)?;
        let document = "# a line that nobody reads\n".repeat(DOCUMENT_BYTES / 27) + "compression:\n  level: 5\n";
        let request = CreateConfigRequest { config_id: "fleet".to_owned(), document, ..CreateConfigRequest::default() };
        bed.runtime.block_on(async { api.configs().create_config(request).await })?;
        let entered = bed.runtime.enter();
        let members = folders.iter().map(|folder| Member::start(folder)).collect::<Result<Vec<_>>>()?;
        drop(entered);
        let mut herd = Self { members, lookers, bed, options, counted: false };
        herd.all_stand()?;
        herd.look()?;
        herd.counted = herd.bed.sql("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_stat_statements'")
            == "1"
            && herd.bed.sql("SHOW shared_preload_libraries") == "pg_stat_statements";
        if herd.counted {
            drop(herd.bed.sql("CREATE EXTENSION pg_stat_statements"));
        }
        Ok(herd)
    }

    /// Kills all servers, and starts them again after a while.
    ///
    /// # Errors
    /// Not all agents come back.
    #[allow(clippy::disallowed_methods, reason = "servers are away in real time")]
    pub fn storm(&mut self) -> Result<Storm> {
        let clock = Clock::system();
        let gone = clock.now();
        self.bed.kill()?;
        let nobody = || Ok((!self.members.iter().any(Member::stands)).then_some(()));
        eventually("every agent to notice", LIMIT, nobody)?;
        std::thread::sleep((gone + self.options.away).saturating_duration_since(clock.now()));

        self.count_from_now();
        let begun = clock.now();
        self.bed.restart()?;
        self.all_stand()?;
        let back = self.back(begun)?;
        let peak = self.peak();
        // What sessions begin with is through when the rollout has all answers again.
        self.all_answered()?;
        let statements = self.statements(begun);
        let memory_kib = self.bed.servers.iter().map(|server| memory_kib(server.process().pid(), "VmHWM")).max();
        let hits = self.bed.servers.iter().map(|server| limit_hits(&server.metrics(), LIMIT_NAME));
        let sent_away = hits.collect::<Result<Vec<_>>>()?.iter().sum();
        let sent = self.look()?.into_iter().max_by_key(|sent| sent.bytes).context("somebody looks")?;
        Ok(Storm {
            back,
            peak,
            sent_away,
            memory_kib: memory_kib.unwrap_or_default(),
            bytes: sent.bytes,
            parts: sent.parts.iter().map(|(kind, bytes)| format!("{kind} {bytes}")).collect::<Vec<_>>().join(", "),
            statements,
        })
    }

    /// Ends all.
    pub fn stop(self) {
        let Self { members, bed, .. } = self;
        bed.runtime.block_on(async {
            for member in members {
                member.stop().await;
            }
        });
    }

    fn all_stand(&self) -> Result<()> {
        let mut standing = 0;
        let waited = eventually("every agent to have a session", LIMIT, || {
            standing = self.members.iter().filter(|member| member.stands()).count();
            Ok((standing == self.members.len()).then_some(()))
        });
        waited.with_context(|| format!("{standing} of {} have one", self.members.len()))
    }

    fn back(&self, begun: Instant) -> Result<Spread> {
        let firsts = self.members.iter().map(|member| member.stood_after(begun).0);
        let times: Option<Vec<_>> = firsts.map(|at| Some(at?.saturating_duration_since(begun))).collect();
        times.map(Spread::new).context("each has a session")
    }

    /// By the time in each session's id: when it was let in.
    fn peak(&self) -> usize {
        let rows = self.bed.sql("SELECT server, session FROM node_sessions");
        let of_row = |row: &'_ str| {
            let (server, session) = row.split_once('|')?;
            let digits: String = session.chars().filter(char::is_ascii_hexdigit).take(12).collect();
            Some((server.to_owned(), u64::from_str_radix(&digits, 16).ok()?))
        };
        let rows: Vec<_> = rows.lines().filter_map(of_row).collect();
        let within = |(server, from): &(String, u64)| {
            rows.iter().filter(|(other, at)| other == server && (*from..from + 1000).contains(at)).count()
        };
        rows.iter().map(within).max().unwrap_or_default()
    }

    fn all_answered(&self) -> Result<()> {
        let pending = "SELECT count(*) FROM rollout_targets t JOIN rollouts r ON r.id = t.rollout \
                       WHERE r.newest AND t.answer NOT IN ('applied') AND t.node IN (SELECT node FROM node_sessions)";
        eventually("every agent to answer", LIMIT, || Ok((self.bed.sql(pending) == "0").then_some(())))
    }

    fn count_from_now(&self) {
        if self.counted {
            drop(self.bed.sql("SELECT pg_stat_statements_reset()"));
        }
    }

    /// Without those of a fleet at rest.
    #[allow(clippy::disallowed_methods, reason = "it is counted in real time")]
    fn statements(&self, begun: Instant) -> Option<f64> {
        let calls = || self.bed.sql("SELECT sum(calls) FROM pg_stat_statements").parse::<f64>().ok();
        if !self.counted {
            return None;
        }
        let (clock, busy) = (Clock::system(), calls()?);
        let took = clock.now() - begun;
        std::thread::sleep(IDLE);
        let idle = calls()? - busy;
        Some((busy - idle * took.as_secs_f64() / IDLE.as_secs_f64()) / self.members.len() as f64)
    }

    fn look(&mut self) -> Result<Vec<Sent>> {
        let endpoint = self.bed.servers[0].grpc().parse()?;
        let (runtime, lookers) = (&self.bed.runtime, &mut self.lookers);
        lookers.iter_mut().map(|looker| runtime.block_on(looker.look(&endpoint))).collect()
    }
}

impl Storm {
    /// What must hold at all speeds.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self) -> Result<()> {
        ensure!(self.bytes <= 1024, "{} bytes for an agent that has missed nothing: {}", self.bytes, self.parts);
        Ok(())
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statements = self.statements.map_or_else(|| "not counted".to_owned(), |count| format!("{count:.0}"));
        write!(
            f,
            "back after {} | peak {} new sessions/s of a server, {} sent away | RSS at most {} MiB | {} bytes to one that missed nothing \
             ({}) | statements per agent: {statements}",
            self.back,
            self.peak,
            self.sent_away,
            self.memory_kib >> 10,
            self.bytes,
            self.parts
        )
    }
}
