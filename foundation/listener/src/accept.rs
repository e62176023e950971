//! Accepting: a want of files or memory ends no loop.

use std::{io, net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use crate::{Gate, limit_hits};

/// Pause after an accept that failed for want of something, so that the loop does not spin; who was put out is gone by then.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// How many are accepted before those that were put out for them get their turn to go: then no flood runs far ahead of its own ends, and
/// neither does a queue of newcomers wait behind all else that there is to do.
pub const AT_ONCE: usize = 16;

/// The next connection. What is missing is sought with strangers, who are put out for it. Cancel safe.
pub async fn next(listener: &TcpListener, gate: &Gate, port: &'static str) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, SocketAddr::new(address.ip().to_canonical(), address.port())),
            Err(error) => failed(&error, gate, port).await,
        }
    }
}

/// What to do after an accept that failed: there will be others.
pub async fn failed(error: &io::Error, gate: &Gate, port: &'static str) {
    // EMFILE, ENFILE; anything else is the end of one connection that was not even begun.
    if matches!(error.raw_os_error(), Some(23 | 24)) {
        limit_hits::hit("open_files");
        gate.shed();
    }
    tracing::warn!(port, %error, "A connection could not be accepted");
    tokio::time::sleep(AFTER_ERROR).await;
}
