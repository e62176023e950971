//! Two control planes over one outside database.

use std::{fs, net::TcpListener};

use anyhow::{Context, Result};

use crate::{ControlPlane, ControlPlaneOptions, Scratch};

/// Starts both. Each advertises both, so that an agent finds the other where one is gone.
///
/// # Errors
/// One does not come to serve.
pub fn two_servers(scratch: &Scratch, url: &str, more: &[&str]) -> Result<Vec<ControlPlane>> {
    let ports = [free_port()?, free_port()?];
    let mut servers: Vec<ControlPlane> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let dir = scratch.folder(&format!("cp-{}", index + 1))?;
        if let Some(first) = servers.first() {
            fs::copy(first.dir().join("seal.key"), dir.join("seal.key"))?;
        }
        let mut arguments = vec!["--listen".to_owned(), format!("127.0.0.1:{port}")];
        arguments.extend(["--advertise".to_owned(), format!("127.0.0.1:{port}")]);
        arguments.extend(["--advertise".to_owned(), format!("127.0.0.1:{}", ports[1 - index])]);
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let options =
            ControlPlaneOptions { database_url: Some(url.to_owned()), arguments, ..ControlPlaneOptions::default() };
        servers.push(ControlPlane::start(&dir, options)?);
    }
    Ok(servers)
}

/// Below the range of outgoing connections, so that none of these holds it while a server is down.
fn free_port() -> Result<u16> {
    let found = (0..100)
        .map(|_| rand::random_range(15_000..32_768_u16))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    found.context("a free port")
}
