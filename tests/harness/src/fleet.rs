//! A control plane and its agents.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    agent::{Agent, AgentOptions},
    cli::Cli,
    control_plane::{ControlPlane, ControlPlaneOptions},
    scratch::Scratch,
    wait::eventually,
};

/// What a fleet is made of.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// The control plane.
    pub control_plane: ControlPlaneOptions,
    /// The agents' names; each has a root `data`, the first may relay.
    pub agents: Vec<String>,
    /// More environment variables of every agent.
    pub agent_environment: Vec<(String, String)>,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self {
            control_plane: ControlPlaneOptions::default(),
            agents: vec!["site-a".to_owned(), "site-b".to_owned()],
            agent_environment: Vec::new(),
        }
    }
}

/// A running fleet. Agents are stopped before the control plane, and the folder goes last.
#[derive(Debug)]
pub struct Fleet {
    /// In the order of the options.
    pub agents: Vec<Agent>,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The folder of all.
    pub scratch: Scratch,
}

impl Fleet {
    /// Starts a fleet, and waits until every agent is READY.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn start(options: &FleetOptions) -> Result<Self> {
        let scratch = Scratch::new()?;
        let control_plane = ControlPlane::start(&scratch.path().join("cp"), options.control_plane.clone())?;
        let mut fleet = Self { agents: Vec::new(), control_plane, scratch };
        for (index, name) in options.agents.iter().enumerate() {
            fleet.add_agent(AgentOptions {
                name: name.clone(),
                roots: vec![("data".to_owned(), fleet.scratch.path().join(format!("{name}-data")))],
                relay: index == 0,
                environment: options.agent_environment.clone(),
                ..AgentOptions::default()
            })?;
        }
        fleet.all_ready()?;
        Ok(fleet)
    }

    /// Joins one more agent.
    ///
    /// # Errors
    /// It fails.
    pub fn add_agent(&mut self, options: AgentOptions) -> Result<&mut Agent> {
        let dir = self.scratch.path().join(&options.name);
        let agent = Agent::join(&self.control_plane, &dir, options)?;
        self.agents.push(agent);
        self.agents.last_mut().context("an agent was pushed")
    }

    /// The administrator's command line.
    ///
    /// # Errors
    /// It is not built.
    pub fn cli(&self) -> Result<Cli> {
        self.control_plane.cli()
    }

    /// The command line on the host of an agent: local paths are its.
    ///
    /// # Errors
    /// It is not built.
    pub fn cli_on(&self, agent: usize) -> Result<Cli> {
        let agent = self.agents.get(agent).context("there is such an agent")?;
        Ok(self.cli()?.with("DWCP_AGENT_SOCKET", agent.socket()))
    }

    /// Waits until every agent is READY.
    ///
    /// # Errors
    /// One is not in time.
    pub fn all_ready(&self) -> Result<()> {
        let names: Vec<_> = self.agents.iter().map(Agent::name).collect();
        self.until("every agent to be READY", |nodes| {
            let ready = |name: &&str| find(nodes, name).is_some_and(|node| node["state"] == "READY");
            names.iter().all(ready).then_some(())
        })
    }

    /// Waits until an agent is DEGRADED, while all others are READY, and gives the reason that it states.
    ///
    /// # Errors
    /// It is not in time.
    pub fn degraded(&self, agent: usize) -> Result<String> {
        let names: Vec<_> = self.agents.iter().map(Agent::name).collect();
        let reason = self.until("one agent to be DEGRADED and the others READY", |nodes| {
            let expected = |at: usize| if at == agent { "DEGRADED" } else { "READY" };
            let as_expected =
                |(at, name): (usize, &&str)| find(nodes, name).is_some_and(|node| node["state"] == expected(at));
            let reason = find(nodes, names.get(agent)?)?["stateReason"].clone();
            names.iter().enumerate().all(as_expected).then_some(reason)
        })?;
        Ok(reason.as_str().unwrap_or_default().to_owned())
    }

    fn until<T>(&self, what: &str, look: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let cli = self.cli()?;
        let mut seen = String::new();
        let waited = eventually(what, Duration::from_secs(60), || {
            let list = cli.json(&["node", "list"])?;
            seen = list.to_string();
            Ok(look(&list["nodes"]))
        });
        waited.with_context(|| seen)
    }
}

fn find<'a>(nodes: &'a Value, name: &str) -> Option<&'a Value> {
    nodes.as_array()?.iter().find(|node| node["name"] == format!("nodes/{name}"))
}
