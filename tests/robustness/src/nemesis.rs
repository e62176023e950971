//! Who kills and pauses, by a seed.

use std::{collections::BTreeMap, fs, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tests_harness::eventually;

use crate::{history::History, rig::Rig};

const LIMIT: Duration = Duration::from_secs(60);
/// How often an agent that sends or receives is preferred to one that does neither.
const PREFER_BUSY: f64 = 0.75;

const IDLE: &str = "idle agent";

/// How often each kind of victim was hit.
pub type Counts = BTreeMap<&'static str, u32>;

/// One way to hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillServer(usize),
    KillPostgres,
    KillBackend,
    StopPostgres,
    KillAgent(usize),
    PauseServer(usize),
    PausePostgres,
    PauseAgent(usize),
}

/// Kills by a seed, and puts right what it did.
#[derive(Debug)]
pub struct Nemesis {
    random: StdRng,
    history: Arc<History>,
    counts: Counts,
    dead_servers: Vec<usize>,
    dead_agents: Vec<usize>,
    paused: Vec<(Fault, Duration)>,
}

impl Nemesis {
    /// By this seed.
    #[must_use]
    pub fn new(seed: u64, history: Arc<History>) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            history,
            counts: Counts::new(),
            dead_servers: Vec::new(),
            dead_agents: Vec::new(),
            paused: Vec::new(),
        }
    }

    /// What was hit so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Kills so far.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.counts.iter().filter(|(name, _)| !name.starts_with("pause")).map(|(_, count)| count).sum()
    }

    /// Hurts a few times, at random moments; some of what it kills it brings back at once, some at the end.
    ///
    /// # Errors
    /// What was killed does not come back.
    pub fn phase(&mut self, rig: &mut Rig, faults: u32) -> Result<()> {
        let until = self.kills() + faults;
        while self.kills() < until {
            thread::sleep(Duration::from_millis(self.random.random_range(20..1200)));
            self.wake(rig, false);
            let fault = self.choose(rig);
            self.hurt(rig, fault).with_context(|| format!("{fault:?}"))?;
            if self.random.random_bool(0.6) {
                thread::sleep(Duration::from_millis(self.random.random_range(0..600)));
                self.raise(rig)?;
            }
        }
        thread::sleep(Duration::from_millis(self.random.random_range(0..500)));
        self.wake(rig, true);
        self.raise(rig)
    }

    fn choose(&mut self, rig: &Rig) -> Fault {
        let (server, agent) =
            (self.random.random_range(0..rig.servers.len()), self.random.random_range(0..rig.agents.len()));
        match self.random.random_range(0..100) {
            0..18 => Fault::KillServer(server),
            18..30 => Fault::KillPostgres,
            30..37 => Fault::KillBackend,
            37..43 => Fault::StopPostgres,
            43..85 => Fault::KillAgent(self.busy(rig).unwrap_or(agent)),
            85..89 => Fault::PauseServer(server),
            89..92 => Fault::PausePostgres,
            _ => Fault::PauseAgent(agent),
        }
    }

    /// An agent that sends or receives at this moment.
    fn busy(&mut self, rig: &Rig) -> Option<usize> {
        if !self.random.random_bool(PREFER_BUSY) {
            return None;
        }
        let alive = (0..rig.agents.len()).filter(|agent| !self.dead_agents.contains(agent));
        let busy: Vec<usize> = alive.filter(|agent| roles(rig, *agent) != IDLE).collect();
        busy.get(self.random.random_range(0..busy.len().max(1))).copied()
    }

    fn hurt(&mut self, rig: &mut Rig, fault: Fault) -> Result<()> {
        let name = match fault {
            Fault::KillServer(server) if self.dead_servers.contains(&server) => return Ok(()),
            Fault::KillAgent(agent) | Fault::PauseAgent(agent) if self.dead_agents.contains(&agent) => return Ok(()),
            Fault::PauseServer(server) if self.dead_servers.contains(&server) => return Ok(()),
            Fault::KillServer(server) => {
                rig.servers[server].kill()?;
                self.dead_servers.push(server);
                "server"
            }
            Fault::KillAgent(agent) => {
                let roles = roles(rig, agent);
                self.history.killed(rig.agents[agent].name());
                rig.agents[agent].kill()?;
                self.dead_agents.push(agent);
                roles
            }
            Fault::KillPostgres | Fault::KillBackend | Fault::StopPostgres => match self.hurt_postgres(rig, fault)? {
                Some(name) => name,
                None => return Ok(()),
            },
            Fault::PauseServer(_) | Fault::PauseAgent(_) | Fault::PausePostgres => {
                if self.paused.iter().any(|(paused, _)| *paused == fault) || !send(rig, fault, Signal::SIGSTOP) {
                    return Ok(());
                }
                let until = self.history.elapsed() + Duration::from_millis(self.random.random_range(500..6000));
                self.paused.push((fault, until));
                match fault {
                    Fault::PauseServer(_) => "pause of a server",
                    Fault::PausePostgres => "pause of PostgreSQL",
                    _ => "pause of an agent",
                }
            }
        };
        self.history.note("fault", json!({"fault": format!("{fault:?}"), "victim": name}));
        *self.counts.entry(name).or_default() += 1;
        Ok(())
    }

    fn hurt_postgres(&mut self, rig: &mut Rig, fault: Fault) -> Result<Option<&'static str>> {
        if let Some(postgres) = &mut rig.postgres {
            if !postgres.is_running() {
                return Ok(None);
            }
            return Ok(Some(match fault {
                Fault::KillPostgres => {
                    postgres.kill_postmaster()?;
                    "postmaster"
                }
                // While it recovers it has no children worth the name.
                Fault::KillBackend => match postgres.kill_backend(&mut self.random) {
                    Ok(()) => "backend",
                    Err(_none) => return Ok(None),
                },
                _ => {
                    postgres.stop_immediately()?;
                    "immediate stop"
                }
            }));
        }
        // The server's own PostgreSQL: it has to bring it back by itself.
        let Some(pid) = rig.servers[0].postgres_pid() else { return Ok(None) };
        let postmaster = Pid::from_raw(pid);
        let (victim, signal, name) = match fault {
            Fault::KillPostgres => (Some(postmaster), Signal::SIGKILL, "postmaster"),
            Fault::KillBackend => (self.child_of(pid), Signal::SIGKILL, "backend"),
            _ => (Some(postmaster), Signal::SIGQUIT, "immediate stop"),
        };
        Ok(victim.filter(|victim| is_postgres(*victim)).and_then(|victim| kill(victim, signal).ok()).map(|()| name))
    }

    fn child_of(&mut self, pid: i32) -> Option<Pid> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let children: Vec<i32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        let chosen = children.get(self.random.random_range(0..children.len().max(1)))?;
        Some(Pid::from_raw(*chosen))
    }

    /// Lets what is paused go on, when its time has come.
    fn wake(&mut self, rig: &mut Rig, all: bool) {
        let now = self.history.elapsed();
        let (due, later): (Vec<_>, _) =
            std::mem::take(&mut self.paused).into_iter().partition(|(_, until)| all || *until <= now);
        self.paused = later;
        for (fault, _) in due {
            send(rig, fault, Signal::SIGCONT);
            self.history.note("wake", json!(format!("{fault:?}")));
        }
    }

    /// Brings back what is dead. A database that is paused would hold a start up.
    fn raise(&mut self, rig: &mut Rig) -> Result<()> {
        self.wake(rig, true);
        if let Some(postgres) = &mut rig.postgres {
            postgres.restart().context("PostgreSQL does not come back")?;
        }
        for server in std::mem::take(&mut self.dead_servers) {
            rig.servers[server].restart()?;
            self.history.note("raised", json!(format!("server {server}")));
        }
        for agent in std::mem::take(&mut self.dead_agents) {
            rig.agents[agent].restart()?;
            self.history.note("raised", json!(rig.agents[agent].name()));
        }
        Ok(())
    }

    /// Kills all of the control plane, then every agent; these must come back by themselves, with what they had in force.
    ///
    /// # Errors
    /// They do not.
    pub fn blackout(&mut self, rig: &mut Rig) -> Result<()> {
        if let Some(postgres) = &mut rig.postgres {
            postgres.kill_postmaster()?;
            *self.counts.entry("postmaster").or_default() += 1;
        }
        for (number, server) in rig.servers.iter_mut().enumerate() {
            server.kill()?;
            self.dead_servers.push(number);
            *self.counts.entry("server").or_default() += 1;
        }
        // What was on its way when the last server died arrives at once, or never.
        thread::sleep(Duration::from_millis(300));
        for agent in 0..rig.agents.len() {
            let digest = crate::probe::agent_digest(&rig.agents[agent].http())?;
            let roles = roles(rig, agent);
            self.history.killed(rig.agents[agent].name());
            rig.agents[agent].kill()?;
            *self.counts.entry(roles).or_default() += 1;
            rig.agents[agent].restart()?;
            let after = crate::probe::agent_digest(&rig.agents[agent].http())?;
            if after != digest {
                bail!("{} came back with configuration {after}, and had {digest}", rig.agents[agent].name());
            }
        }
        self.history.note("fault", json!("all of the control plane, and every agent"));
        self.raise(rig)?;
        let postgres =
            || Ok(rig.servers[0].postgres_pid().is_some_and(|pid| is_postgres(Pid::from_raw(pid))).then_some(()));
        if rig.postgres.is_none() {
            eventually("a PostgreSQL of its own", LIMIT, postgres)?;
        }
        Ok(())
    }
}

/// What an agent does at this moment.
fn roles(rig: &Rig, agent: usize) -> &'static str {
    let entries = fs::read_dir(rig.agents[agent].dir().join("transfers")).into_iter().flatten().flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let is = |role: &str| names.iter().any(|name| name.ends_with(role));
    match (is(".sender"), is(".receiver")) {
        (true, true) => "agent that sends and receives",
        (true, false) => "sender",
        (false, true) => "receiver",
        (false, false) => IDLE,
    }
}

fn is_postgres(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
}

/// Whether there was somebody to hear it.
fn send(rig: &mut Rig, fault: Fault, signal: Signal) -> bool {
    match fault {
        Fault::PauseServer(server) => rig.servers[server].process().signal(signal).is_ok(),
        Fault::PauseAgent(agent) => rig.agents[agent].process().signal(signal).is_ok(),
        _ => match (&mut rig.postgres, rig.servers[0].postgres_pid()) {
            (Some(postgres), _) if signal == Signal::SIGSTOP => postgres.pause().is_ok(),
            (Some(postgres), _) => {
                postgres.wake();
                true
            }
            (None, Some(pid)) if is_postgres(Pid::from_raw(pid)) => kill(Pid::from_raw(pid), signal).is_ok(),
            (None, _) => false,
        },
    }
}
