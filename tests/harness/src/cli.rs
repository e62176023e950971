//! The command line `dwcp`, as a process of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::binaries::binary;

/// Runs verbs against one control plane.
#[derive(Clone, Debug)]
pub struct Cli {
    program: PathBuf,
    environment: Vec<(String, PathBuf)>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit code; 255 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    /// With everything by environment, and a home of its own.
    ///
    /// # Errors
    /// It is not built.
    pub fn new(endpoint: &str, ca: &Path, token_file: &Path, home: &Path) -> Result<Self> {
        let environment = vec![
            ("DWCP_ENDPOINT".to_owned(), PathBuf::from(endpoint)),
            ("DWCP_CA".to_owned(), ca.to_path_buf()),
            ("DWCP_TOKEN_FILE".to_owned(), token_file.to_path_buf()),
            ("HOME".to_owned(), home.to_path_buf()),
        ];
        Ok(Self { program: binary("dwcp")?, environment })
    }

    /// With one more environment variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<PathBuf>) -> Self {
        self.environment.retain(|(present, _)| present != name);
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The command, not yet run.
    #[must_use]
    pub fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).args(arguments);
        command
    }

    /// Runs a verb to its end, whatever that is.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Ran> {
        Ok(self.command(arguments).output().context("run dwcp")?.into())
    }

    /// Runs a verb that must succeed; its standard output.
    ///
    /// # Errors
    /// It failed.
    pub fn ok(&self, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
        let ran = self.run(arguments)?;
        let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
        ensure!(ran.code == 0, "dwcp {} ended with {}:\n{}{}", shown.join(" "), ran.code, ran.stdout, ran.stderr);
        Ok(ran.stdout)
    }

    /// Runs a verb that must succeed, with `-o json`; what it printed, parsed.
    ///
    /// # Errors
    /// It failed, or printed something else than JSON.
    pub fn json(&self, arguments: &[impl AsRef<OsStr>]) -> Result<Value> {
        let mut all: Vec<&OsStr> = vec![OsStr::new("-o"), OsStr::new("json")];
        all.extend(arguments.iter().map(AsRef::as_ref));
        let text = self.ok(&all)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(255),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
