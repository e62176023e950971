//! Two control planes over one outside database.

use std::{
    fs,
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

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

/// Ports of each test process, and processes that may run at once without sharing any.
const PORTS: u32 = 64;
const PROCESSES: u32 = 270;

/// Below the range of outgoing connections, so that none of these holds it while a server is down; and among ports that are this process's alone, so
/// that no other test is given it before the server listens.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = 15_000 + process::id() % PROCESSES * PORTS;
    let found = (0..PORTS)
        .filter_map(|_| u16::try_from(own + NEXT.fetch_add(1, Relaxed) % PORTS).ok())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    found.context("a free port")
}
