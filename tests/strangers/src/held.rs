//! Connections that are held, each by a stranger who says little, nonsense, or nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use rand::RngExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::source;

/// What a stranger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Nothing.
    Nothing,
    /// Random bytes, as many as are taken.
    Noise,
    /// The beginning of a TLS handshake.
    HalfHandshake,
    /// A request's head, a byte now and then.
    SlowHead,
    /// A request's head that does not end.
    EndlessHead,
    /// Many requests at once, whose answers are not read.
    Pipeline,
}

impl Say {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Noise, Self::HalfHandshake, Self::SlowHead, Self::EndlessHead, Self::Pipeline];
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Connections that were opened.
    pub opened: usize,
    /// Held at the same time at most.
    pub held: usize,
    /// That the other end closed.
    pub closed: usize,
    /// That could not be opened.
    pub refused: usize,
    /// The longest that one was kept.
    pub longest: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    closed: AtomicUsize,
    refused: AtomicUsize,
    longest_ms: AtomicUsize,
}

/// Holds `connections` to `target` for `time`; one that is closed is opened anew. They come from `addresses` different ones.
///
/// # Errors
/// A socket cannot be made at all.
pub async fn hold(target: SocketAddr, say: Say, connections: usize, addresses: u32, time: Duration) -> Result<Tally> {
    let counts = Arc::new(Counts::default());
    let until = Instant::now() + time;
    let mut strangers = JoinSet::new();
    for number in 0..connections {
        let (counts, address) = (Arc::clone(&counts), u32::try_from(number)? % addresses.max(1));
        strangers.spawn(async move {
            while Instant::now() < until {
                one(target, say, address, &counts, until).await;
            }
        });
    }
    while strangers.join_next().await.is_some() {}
    let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    Ok(Tally {
        opened: read(&counts.opened),
        held: read(&counts.most),
        closed: read(&counts.closed),
        refused: read(&counts.refused),
        longest: Duration::from_millis(u64::try_from(read(&counts.longest_ms))?),
    })
}

async fn one(target: SocketAddr, say: Say, address: u32, counts: &Counts, until: Instant) {
    let Some(mut stream) = connect(target, address).await else {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        return;
    };
    counts.opened.fetch_add(1, Ordering::Relaxed);
    let now = counts.now.fetch_add(1, Ordering::Relaxed) + 1;
    counts.most.fetch_max(now, Ordering::Relaxed);
    let begun = Instant::now();
    let left = until.saturating_duration_since(begun);
    let ended = timeout(left, speak(&mut stream, say)).await.is_ok();
    counts.now.fetch_sub(1, Ordering::Relaxed);
    if ended {
        counts.closed.fetch_add(1, Ordering::Relaxed);
        let kept = usize::try_from(begun.elapsed().as_millis()).unwrap_or(usize::MAX);
        counts.longest_ms.fetch_max(kept, Ordering::Relaxed);
        // Whoever is refused at once comes back, but not in a loop that only measures this program.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A connection from one of the strangers' addresses.
pub async fn connect(target: SocketAddr, address: u32) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.set_reuseaddr(true).ok()?;
    socket.bind(source(address)).ok()?;
    timeout(Duration::from_secs(20), socket.connect(target)).await.ok()?.ok()
}

/// Returns when the other end has closed.
async fn speak(stream: &mut TcpStream, say: Say) {
    let mut buffer = [0; 4096];
    let said = match say {
        Say::Nothing => Ok(()),
        Say::Noise => loop {
            rand::rng().fill(&mut buffer);
            // A first byte that is not TLS's, every other time.
            if let Err(error) = stream.write_all(&buffer).await {
                break Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        },
        // A record of 512 bytes is announced, and 20 come.
        Say::HalfHandshake => stream.write_all(&[&[0x16, 3, 1, 2, 0, 1, 0][..], &[0; 13]].concat()).await,
        Say::SlowHead => loop {
            for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                let closed = stream.read(&mut buffer);
                if timeout(Duration::from_secs(1), closed).await.is_ok() {
                    return;
                }
            }
        },
        Say::EndlessHead => {
            let mut said = stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n").await;
            while said.is_ok() {
                said =
                    stream.write_all(b"x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            said
        }
        Say::Pipeline => {
            let many = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2000);
            let sent = stream.write_all(&many).await;
            // Nothing of the answers is read, until the other end has had enough: then a write fails.
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if stream.write_all(b"G").await.is_err() {
                    break sent;
                }
            }
        }
    };
    if said.is_ok() {
        while let Ok(1..) = stream.read(&mut buffer).await {}
    }
}
