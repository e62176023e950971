//! The real grpcurl, in the versions that users have.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{cli::Ran, control_plane::ControlPlane};

/// One grpcurl.
#[derive(Clone, Debug)]
pub struct Grpcurl {
    program: PathBuf,
}

/// Every grpcurl that `tests/run` installed: the newest (reflection v1), and 1.8.6 (v1alpha only). Empty where neither is
/// here, which is said on standard error.
#[must_use]
pub fn grpcurls() -> Vec<Grpcurl> {
    let folder = std::env::var_os("DWCP_TEST_TOOLS").map(PathBuf::from).unwrap_or_default();
    let found: Vec<_> = ["grpcurl", "grpcurl-1.8.6"]
        .into_iter()
        .map(|name| folder.join(name))
        .filter(|path| path.is_absolute() && path.exists())
        .map(|program| Grpcurl { program })
        .collect();
    if found.is_empty() {
        eprintln!("no grpcurl in DWCP_TEST_TOOLS: what it would show is skipped");
    }
    found
}

impl Grpcurl {
    /// Calls over TLS as the administrator; `arguments` go before the address, `rest` after it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, control_plane: &ControlPlane, arguments: &[&str], rest: &[&str]) -> Result<Ran> {
        let token = std::fs::read_to_string(control_plane.admin_token_file())?;
        let output = Command::new(&self.program)
            .arg("-cacert")
            .arg(control_plane.ca())
            .args(["-H", &format!("authorization: Bearer {}", token.trim())])
            .args(arguments)
            .arg(control_plane.grpc())
            .args(rest)
            .output()
            .context("run grpcurl")?;
        Ok(output.into())
    }

    /// Calls over `admin.sock`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run_local(&self, control_plane: &ControlPlane, arguments: &[&str], rest: &[&str]) -> Result<Ran> {
        let output = Command::new(&self.program)
            .args(["-plaintext", "-authority", "localhost", "-unix"])
            .args(arguments)
            .arg(control_plane.dir().join("admin.sock"))
            .args(rest)
            .output()
            .context("run grpcurl")?;
        Ok(output.into())
    }

    /// Its path, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.program.display().to_string()
    }
}
