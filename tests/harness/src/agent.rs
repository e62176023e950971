//! An agent, as a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    binaries::binary,
    control_plane::ControlPlane,
    held_ports::HeldPorts,
    process::Process,
    ready::{field, ready},
};

/// How long a graceful stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// How an agent is started.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// Its name.
    pub name: String,
    /// Roots, by name; folders are made where they are missing.
    pub roots: Vec<(String, PathBuf)>,
    /// Whether an operator lets it relay, and it offers to.
    pub relay: bool,
    /// Labels of its join token.
    pub labels: Vec<(String, String)>,
    /// More arguments of `run`.
    pub arguments: Vec<String>,
    /// More environment variables.
    pub environment: Vec<(String, String)>,
    /// What runs it, if not the test itself: a program that replaces itself by the arguments that follow its own.
    pub runner: Vec<String>,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    dir: PathBuf,
    options: AgentOptions,
    ready: Value,
    /// While it does not run.
    held: HeldPorts,
}

impl Agent {
    /// Makes a token, joins, runs, and waits until it serves.
    ///
    /// # Errors
    /// Any of it fails.
    pub fn join(control_plane: &ControlPlane, dir: &Path, options: AgentOptions) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut arguments = vec!["token".to_owned(), "create".to_owned()];
        if options.relay {
            arguments.push("--relay".to_owned());
        }
        for (key, value) in &options.labels {
            arguments.extend(["--label".to_owned(), format!("{key}={value}")]);
        }
        let token = control_plane.cli()?.json(&arguments)?;
        let joined = Command::new(binary("dwcp-agent")?)
            .args(join_arguments(control_plane, &token, dir, &options.name)?)
            .output()
            .context("run dwcp-agent join")?;
        ensure!(
            joined.status.success(),
            "join failed:\n{}{}",
            String::from_utf8_lossy(&joined.stdout),
            String::from_utf8_lossy(&joined.stderr)
        );
        Self::start(dir, options)
    }

    /// Runs one in `dir`, and waits until it serves.
    ///
    /// # Errors
    /// It does not come to serve.
    pub fn start(dir: &Path, options: AgentOptions) -> Result<Self> {
        let mut process = Self::spawn(dir, &options)?;
        let ready = ready(&mut process, dir).context("the agent does not come to serve")?;
        Ok(Self { process, dir: dir.to_path_buf(), options, ready, held: HeldPorts::default() })
    }

    fn spawn(dir: &Path, options: &AgentOptions) -> Result<Process> {
        let mut command = match options.runner.split_first() {
            Some((runner, arguments)) => {
                let mut command = Command::new(runner);
                command.args(arguments).arg(binary("dwcp-agent")?);
                command
            }
            None => Command::new(binary("dwcp-agent")?),
        };
        command.arg("run").arg("--data-dir").arg(dir);
        for (flag, address) in [
            ("--quic-listen", "127.0.0.1:0"),
            ("--dht-listen", "127.0.0.1:0"),
            ("--http-listen", "127.0.0.1:0"),
            ("--metrics-listen", "127.0.0.1:0"),
        ] {
            if !options.arguments.iter().any(|argument| argument == flag) {
                command.args([flag, address]);
            }
        }
        if options.relay {
            command.arg("--relay");
        }
        for (name, folder) in &options.roots {
            fs::create_dir_all(folder)?;
            command.arg("--root").arg(format!("{name}={}", folder.display()));
        }
        command.args(&options.arguments).envs(options.environment.iter().cloned());
        Process::start("dwcp-agent", &mut command, &dir.with_extension("log"))
    }

    /// Kills it without warning.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        self.held = HeldPorts::of(&self.ready);
        Ok(())
    }

    /// Stops it gracefully.
    ///
    /// # Errors
    /// It does not stop in time.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.stop(STOP_LIMIT)?;
        ensure!(status.success(), "the agent ended with {status}:\n{}", self.process.output());
        self.held = HeldPorts::of(&self.ready);
        Ok(())
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// It does not come to serve.
    pub fn restart(&mut self) -> Result<()> {
        self.held = HeldPorts::default();
        self.process = Self::spawn(&self.dir, &self.options)?;
        self.ready = ready(&mut self.process, &self.dir).context("the agent does not come to serve again")?;
        Ok(())
    }

    /// Starts it again where it was, and kills it after so long, whether it serves by then or not.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn restart_briefly(&mut self, life: Duration) -> Result<()> {
        self.held = HeldPorts::default();
        self.process = Self::spawn(&self.dir, &self.options)?;
        thread::sleep(life);
        self.process.check_alive().context("the agent did not start again")?;
        self.kill()
    }

    /// Fails when it has ended by itself.
    ///
    /// # Errors
    /// With its output, where it ended.
    pub fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }

    /// The options, to be changed before a restart.
    pub fn options_mut(&mut self) -> &mut AgentOptions {
        &mut self.options
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Its node id.
    #[must_use]
    pub fn node_id(&self) -> String {
        field(&self.ready, "node_id")
    }

    /// `HOST:PORT` of HTTP.
    #[must_use]
    pub fn http(&self) -> String {
        field(&self.ready, "http")
    }

    /// `HOST:PORT` of the metrics.
    #[must_use]
    pub fn metrics(&self) -> String {
        field(&self.ready, "metrics")
    }

    /// `HOST:PORT` of QUIC.
    #[must_use]
    pub fn quic(&self) -> String {
        field(&self.ready, "quic")
    }

    /// Its data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its local socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// A root's folder.
    #[must_use]
    pub fn root(&self, name: &str) -> PathBuf {
        let found = self.options.roots.iter().find(|(present, _)| present == name);
        found.map(|(_, folder)| folder.clone()).unwrap_or_default()
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// The arguments of `dwcp-agent join` for an answer of `token create -o json`.
///
/// # Errors
/// The answer lacks something.
pub fn join_arguments(control_plane: &ControlPlane, token: &Value, dir: &Path, name: &str) -> Result<Vec<String>> {
    let text = |field: &str| token[field].as_str().map(str::to_owned).with_context(|| format!("{field} in {token}"));
    Ok(vec![
        "join".to_owned(),
        control_plane.grpc(),
        "--token".to_owned(),
        text("token")?,
        "--ca-fingerprint".to_owned(),
        text("caFingerprint")?,
        "--data-dir".to_owned(),
        dir.display().to_string(),
        "--name".to_owned(),
        name.to_owned(),
    ])
}
