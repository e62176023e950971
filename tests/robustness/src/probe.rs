//! What an agent says of itself over HTTP.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(5);

/// The body of an answer to a plain GET.
///
/// # Errors
/// There is none.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    let address: SocketAddr = address.parse().with_context(|| format!("`{address}` is no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{path}: {}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

/// The digest of the configuration that an agent has in force.
///
/// # Errors
/// It does not answer.
pub fn agent_digest(http: &str) -> Result<String> {
    let body = http_get(http, "/status")?;
    let json = body.find('{').and_then(|from| body.rfind('}').map(|to| &body[from..=to])).unwrap_or_default();
    let status: Value = serde_json::from_str(json).with_context(|| body.clone())?;
    Ok(status["configuration"]["digest"].as_str().unwrap_or_default().to_owned())
}
