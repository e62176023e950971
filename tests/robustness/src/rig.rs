//! The fleet under test.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use tests_harness::{
    Agent, AgentOptions, Api, Cli, ControlPlane, ControlPlaneOptions, Scratch, binary, eventually, two_servers,
};

use crate::postgres::Postgres;

/// What the control plane is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Two servers over one outside PostgreSQL.
    Outside,
    /// One server with a PostgreSQL of its own.
    Embedded,
}

/// A fleet of three agents. Agents are stopped before servers, and these before PostgreSQL.
#[derive(Debug)]
pub struct Rig {
    /// `site-a`, `site-b`, `site-c`, with a root `data` each.
    pub agents: Vec<Agent>,
    /// The servers.
    pub servers: Vec<ControlPlane>,
    /// The outside PostgreSQL.
    pub postgres: Option<Postgres>,
    /// The folder of all.
    pub scratch: Scratch,
}

impl Rig {
    /// Starts all, and waits until every agent is READY.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn start(mode: Mode) -> Result<Self> {
        let scratch = Scratch::new()?;
        match mode {
            Mode::Embedded => {
                let server = ControlPlane::start(&scratch.path().join("cp-1"), ControlPlaneOptions::default())?;
                Self::with(scratch, None, vec![server])
            }
            Mode::Outside => {
                let postgres = Postgres::start(&scratch.path().join("pg"))?;
                let url = postgres.url();
                Self::start_over(scratch, postgres, &url)
            }
        }
    }

    /// Two servers over this PostgreSQL, which they find at `url`.
    pub(crate) fn start_over(scratch: Scratch, postgres: Postgres, url: &str) -> Result<Self> {
        let servers = two_servers(&scratch, url, &[])?;
        // What the harness starts, it finds beside the test; a missing program is said once.
        binary("dwcp-agent")?;
        Self::with(scratch, Some(postgres), servers)
    }

    fn with(scratch: Scratch, postgres: Option<Postgres>, servers: Vec<ControlPlane>) -> Result<Self> {
        let mut rig = Self { agents: Vec::new(), servers, postgres, scratch };
        for (index, name) in ["site-a", "site-b", "site-c"].into_iter().enumerate() {
            let host = rig.scratch.path().join(format!("{name}.yaml"));
            let root = rig.scratch.folder(&format!("{name}-data"))?;
            // Each takes direct sends of the others, by its own word; a short pause between tries, as an impatient operator has it.
            let text = format!("roots:\n  data:\n    path: {}\n    accept: [site-a, site-b, site-c]\n", root.display());
            fs::write(&host, text)?;
            let options = AgentOptions {
                name: name.to_owned(),
                roots: vec![("data".to_owned(), root)],
                arguments: vec!["--config".to_owned(), host.display().to_string()],
                ..AgentOptions::default()
            };
            let options = AgentOptions { roots: Vec::new(), ..options };
            let server = &rig.servers[index % rig.servers.len()];
            let agent = Agent::join(server, &rig.scratch.path().join(name), options)?;
            rig.agents.push(agent);
        }
        rig.all_ready(Duration::from_secs(90))?;
        Ok(rig)
    }

    /// The root of an agent.
    #[must_use]
    pub fn root(&self, agent: usize) -> PathBuf {
        self.scratch.path().join(format!("{}-data", self.agents[agent].name()))
    }

    /// The administrator's token file: one server made it, it is good at all.
    ///
    /// # Errors
    /// None has it.
    pub fn admin_token(&self) -> Result<PathBuf> {
        let files = self.servers.iter().map(ControlPlane::admin_token_file);
        files.into_iter().find(|file| file.exists()).context("an administrator's token")
    }

    /// The command line, at a server.
    ///
    /// # Errors
    /// It is not built.
    pub fn cli(&self, server: usize) -> Result<Cli> {
        let server = &self.servers[server];
        Cli::new(&server.grpc(), &server.ca(), &self.admin_token()?, &self.scratch.folder("home")?)
    }

    /// The API of each server. Within a tokio runtime.
    ///
    /// # Errors
    /// The token cannot be read.
    pub fn apis(&self) -> Result<Vec<Api>> {
        let token = fs::read_to_string(self.admin_token()?)?;
        self.servers.iter().map(|server| Api::with_token(&server.grpc(), &server.ca(), token.trim())).collect()
    }

    /// Waits until every agent is READY, with the newest configuration, in the eyes of every server.
    ///
    /// # Errors
    /// Not within the limit.
    pub fn all_ready(&self, limit: Duration) -> Result<()> {
        for server in 0..self.servers.len() {
            let cli = self.cli(server)?;
            let mut seen = String::new();
            let waited = eventually("every agent to be READY", limit, || {
                let Ok(list) = cli.json(&["node", "list"]) else { return Ok(None) };
                seen = list.to_string();
                let ready = list["nodes"].as_array().into_iter().flatten().filter(|node| {
                    node["state"] == "READY"
                        && matches!(node["appliedConfig"]["status"].as_str(), Some("APPLIED") | None)
                });
                Ok((ready.count() == self.agents.len()).then_some(()))
            });
            waited.with_context(|| seen)?;
        }
        Ok(())
    }

    /// All logs, by name.
    #[must_use]
    pub fn logs(&self) -> Vec<(String, String)> {
        let servers = self.servers.iter().map(|server| (server.dir().display().to_string(), server.process().output()));
        let agents = self.agents.iter().map(|agent| (agent.name().to_owned(), agent.process().output()));
        servers.chain(agents).collect()
    }
}
