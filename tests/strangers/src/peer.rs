//! A member of the fleet that turned: it dials another with its own good certificate, opens all that it may, and sends what nobody reads.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use dataplane_identity::{Identity, tls};
use quinn::{Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use tokio::{task::JoinSet, time::timeout};

/// Sessions that it opens, and connections of each.
const SESSIONS: u8 = 4;
/// How long one step may take before it is given up: whoever is not given room waits for ever.
const STEP: Duration = Duration::from_secs(2);
/// What is written to a stream at a time.
const CHUNK: usize = 256 * 1024;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// What is allowed, as much as is allowed.
    Kept,
    /// Also what is not: streams where none belong.
    Broken,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Connections that stood and were greeted.
    pub connections: usize,
    /// That were refused or closed.
    pub closed: usize,
    /// Channels that were opened.
    pub channels: usize,
    /// Bytes that the other end let it send.
    pub bytes: u64,
}

impl Taken {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.closed += other.closed;
        self.channels += other.channels;
        self.bytes += other.bytes;
    }
}

/// Dials `target`, where the member `name` is, so many times with the identity kept in `dir`, and holds all that for `time`.
///
/// # Errors
/// It is no member, or the first connection does not stand.
pub async fn hostile(
    dir: &Path,
    name: &str,
    target: SocketAddr,
    connections: u8,
    rules: Rules,
    time: Duration,
) -> Result<Taken> {
    let identity = Identity::open(dir)?.context("it has joined")?;
    let member = identity.membership().by_name(&name.parse()?).context("the target is a member")?;
    let config = tls::quic_client_config(&identity, member.public_key)?;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?));
    let endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
    let mut running = JoinSet::new();
    let until = Instant::now() + time;
    for number in 0..connections {
        let (endpoint, config) = (endpoint.clone(), config.clone());
        running.spawn(async move {
            let mut sum = Taken::default();
            while Instant::now() < until {
                let Ok(dialled) = endpoint.connect_with(config.clone(), target, "node.dwcp") else { break };
                if let Ok(Ok(connection)) = timeout(STEP, dialled).await {
                    let left = until.saturating_duration_since(Instant::now());
                    sum.add(one(connection, number, rules, left).await);
                }
                // Whoever is refused at once comes back, but not in a loop that only measures this program.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            sum
        });
    }
    let mut sum = Taken::default();
    while let Some(done) = running.join_next().await {
        sum.add(done?);
    }
    Ok(sum)
}

async fn one(connection: Connection, number: u8, rules: Rules, time: Duration) -> Taken {
    let mut taken = Taken::default();
    let lane = number / SESSIONS;
    let hold = async {
        // Streams that are dropped are finished or reset; these are to stand.
        let (mut held, mut streams) = (Vec::new(), Vec::new());
        let Some(greeting) = greet(&connection, number % SESSIONS, lane).await else { return };
        taken.connections = 1;
        held.push(greeting);
        if lane == 0 {
            for channel in 0..64 {
                let Some((credit, stream)) = open_channel(&connection, 2 * channel).await else { break };
                taken.channels += 1;
                held.push(stream);
                taken.bytes += pieces(&connection, 2 * channel, credit, &mut streams).await;
            }
        }
        // Whatever streams are left, each as full as it goes.
        while (lane == 0 || rules == Rules::Broken)
            && let Ok(Ok((mut send, receive))) = timeout(STEP, connection.open_bi()).await
        {
            taken.bytes += fill(&mut send, u64::MAX).await;
            held.push((send, receive));
        }
        while let Ok(Ok(mut send)) = timeout(STEP, connection.open_uni()).await {
            // Half a head.
            taken.bytes += fill(&mut send, 10).await;
            streams.push(send);
        }
        connection.closed().await;
    };
    drop(timeout(time, hold).await);
    taken.closed = usize::from(connection.close_reason().is_some());
    taken
}

async fn greet(connection: &Connection, session: u8, lane: u8) -> Option<(SendStream, RecvStream)> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    let hello = [&[session + 1; 16][..], &[2; 16], &[lane], &[0; 8]].concat();
    send.write_all(&frame(&hello)).await.ok()?;
    timeout(STEP, read_frame(&mut receive)).await.ok()??;
    Some((send, receive))
}

async fn open_channel(connection: &Connection, id: u64) -> Option<(u64, (SendStream, RecvStream))> {
    let (mut send, mut receive) = timeout(STEP, connection.open_bi()).await.ok()?.ok()?;
    send.write_all(&frame(&[id.to_le_bytes(), 0_u64.to_le_bytes()].concat())).await.ok()?;
    let answer = timeout(STEP, read_frame(&mut receive)).await.ok()??;
    let credit = (*answer.first()? == 0).then(|| answer.get(1..9)?.try_into().ok().map(u64::from_le_bytes))??;
    // A control frame of a mebibyte, of which the last byte never comes.
    send.write_all(&(1_u32 << 20).to_le_bytes()).await.ok()?;
    fill(&mut send, (1 << 20) - 1).await;
    Some((credit, (send, receive)))
}

/// Pieces of a mebibyte as far as the credit goes, the last byte of each missing.
async fn pieces(connection: &Connection, channel: u64, credit: u64, held: &mut Vec<SendStream>) -> u64 {
    let mut sent = 0;
    for number in 0..credit / ((1 << 20) + 4096) {
        let Ok(Ok(mut send)) = timeout(STEP, connection.open_uni()).await else { break };
        let head = [&channel.to_le_bytes()[..], &number.to_le_bytes(), &(1_u32 << 20).to_le_bytes()].concat();
        if send.write_all(&head).await.is_err() {
            break;
        }
        sent += fill(&mut send, (1 << 20) - 1).await;
        held.push(send);
    }
    sent
}

/// Writes until so many bytes are taken, or none for a while.
async fn fill(send: &mut SendStream, bytes: u64) -> u64 {
    let chunk = vec![0; CHUNK];
    let mut sent = 0;
    while sent < bytes {
        let next = usize::try_from(bytes - sent).unwrap_or(usize::MAX).min(CHUNK);
        match timeout(Duration::from_millis(200), send.write(&chunk[..next])).await {
            Ok(Ok(written)) => sent += u64::try_from(written).unwrap_or(0),
            _ => break,
        }
    }
    sent
}

fn frame(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes()[..], body].concat()
}

async fn read_frame(stream: &mut RecvStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.ok()?;
    let mut body = vec![0; usize::from(u16::from_le_bytes(length))];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}
