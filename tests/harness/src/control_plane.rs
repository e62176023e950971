//! A control plane, as a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    api::Api,
    binaries::binary,
    cli::Cli,
    held_ports::HeldPorts,
    process::Process,
    ready::{field, ready},
};

/// How long a graceful stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a control plane is started.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// An outside database; an embedded one where absent.
    pub database_url: Option<String>,
    /// More arguments of `run`.
    pub arguments: Vec<String>,
    /// More environment variables.
    pub environment: Vec<(String, String)>,
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    process: Process,
    dir: PathBuf,
    options: ControlPlaneOptions,
    ready: Value,
    /// While it does not run.
    held: HeldPorts,
}

impl ControlPlane {
    /// Starts one in `dir`, and waits until it serves.
    ///
    /// # Errors
    /// It does not come to serve.
    pub fn start(dir: &Path, options: ControlPlaneOptions) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let mut process = Self::spawn(dir, &options)?;
        let ready = ready(&mut process, dir).context("the control plane does not come to serve")?;
        Ok(Self { process, dir: dir.to_path_buf(), options, ready, held: HeldPorts::default() })
    }

    /// Starts the process without waiting for it to serve.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(dir: &Path, options: &ControlPlaneOptions) -> Result<Process> {
        fs::create_dir_all(dir)?;
        let mut command = Command::new(binary("dwcp-control-plane")?);
        command.arg("run").arg("--data-dir").arg(dir);
        for (flag, address) in [
            ("--listen", "127.0.0.1:0"),
            ("--http-listen", "127.0.0.1:0"),
            ("--metrics-listen", "127.0.0.1:0"),
            ("--dht-listen", "127.0.0.1:0"),
        ] {
            if !options.arguments.iter().any(|argument| argument == flag) {
                command.args([flag, address]);
            }
        }
        if let Some(url) = &options.database_url {
            command.args(["--database-url", url]);
        }
        command.args(&options.arguments).envs(options.environment.iter().cloned());
        Process::start("dwcp-control-plane", &mut command, &dir.with_extension("log"))
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
        anyhow::ensure!(status.success(), "the control plane ended with {status}:\n{}", self.process.output());
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
        self.ready = ready(&mut self.process, &self.dir).context("the control plane does not come to serve again")?;
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
        self.process.check_alive().context("the control plane did not start again")?;
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
    pub fn options_mut(&mut self) -> &mut ControlPlaneOptions {
        &mut self.options
    }

    /// `HOST:PORT` of gRPC.
    #[must_use]
    pub fn grpc(&self) -> String {
        field(&self.ready, "grpc")
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

    /// Its data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The administrator's token file.
    #[must_use]
    pub fn admin_token_file(&self) -> PathBuf {
        self.dir.join("admin.token")
    }

    /// Where its database is, for what a test does past all of our code.
    #[must_use]
    pub fn database_url(&self) -> String {
        let embedded = || format!("postgresql://dwcp@localhost/postgres?host={}", self.dir.join("postgres").display());
        self.options.database_url.clone().unwrap_or_else(embedded)
    }

    /// The process id of its own PostgreSQL.
    #[must_use]
    pub fn postgres_pid(&self) -> Option<i32> {
        let text = fs::read_to_string(self.dir.join("postgres/data/postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The command line, as the administrator.
    ///
    /// # Errors
    /// It is not built.
    pub fn cli(&self) -> Result<Cli> {
        Cli::new(&self.grpc(), &self.ca(), &self.admin_token_file(), &self.dir.with_extension("home"))
    }

    /// The API, as the administrator.
    ///
    /// # Errors
    /// The token or the certificate cannot be read.
    pub fn api(&self) -> Result<Api> {
        let token = fs::read_to_string(self.admin_token_file())?;
        Api::with_token(&self.grpc(), &self.ca(), token.trim())
    }
}
