//! Two members that open all they may and send to a reader that reads nothing (R21): memory stays within the budget, what is over it is refused, and
//! a third member goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use dataplane_amst::{Endpoint, Limits, Options, TransportSettings};
use dataplane_identity::{Identity, testing::TestFleet, tls};
use foundation_runtime::{Clock, TaskGroup};
use proto_model::ByteCount;
use quinn::{Connection, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 96 * MIB;
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody takes more of it for so long: it is full.
const FULL: Duration = Duration::from_millis(500);
/// Tells this very program to be an attacker: its folder, the address, and the name to dial.
const ATTACK: &str = "DWCP_TEST_ATTACK";
/// Written by an attacker that can do no more.
const DONE: &str = "done";

fn rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

async fn bind(identity: Identity, budget: u64) -> Endpoint {
    let options = Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        sockets: 1,
        identity,
        settings: TransportSettings::default(),
        limits: Limits { receive_budget: ByteCount::new(budget), waiting_channels: 4096, ..Limits::default() },
    };
    Endpoint::bind(options, Clock::system(), TaskGroup::new("node")).await.unwrap()
}

struct Attacker(Child);

impl Drop for Attacker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn attack(dir: &Path, target: SocketAddr) -> Attacker {
    let program = std::env::current_exe().unwrap();
    let told = format!("{}\n{target}\nvictim", dir.display());
    Attacker(Command::new(program).args(["--exact", "attacker", "--nocapture"]).env(ATTACK, told).spawn().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_send_what_nobody_reads_stay_within_the_budget_and_keep_nobody_out() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let dirs: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let fleet = TestFleet::new();
    let names = ["victim", "first", "second", "honest"];
    let nodes: Vec<_> = dirs.iter().zip(names).map(|(dir, name)| fleet.node(dir.path(), name)).collect();
    fleet.share(&nodes);
    let victim = bind(nodes[0].clone(), BUDGET).await;
    let honest = bind(nodes[3].clone(), BUDGET).await;
    let before = rss();
    let _attackers: Vec<_> = dirs[1..3].iter().map(|dir| attack(dir.path(), victim.local_addr())).collect();
    // Whoever opens a channel is taken up, and nothing is read of it.
    let (mut held, mut peak) = (Vec::new(), 0);
    let done = || dirs[1..3].iter().all(|dir| dir.path().join(DONE).exists());
    timeout(PATIENCE, async {
        while !done() {
            if let Ok(Some(channel)) = timeout(Duration::from_millis(50), victim.next_channel()).await {
                held.push(channel);
            }
            peak = peak.max(rss());
        }
    })
    .await
    .unwrap();
    eprintln!("{} channels, {} MiB more, promised {:?}", held.len(), (peak - before) / MIB, victim.memory());
    assert!(held.len() >= 4, "{}", held.len());
    // Both have what they get: a third member moves its pieces nevertheless.
    let session = honest.session(nodes[0].public_key(), &[victim.local_addr()]).await.unwrap();
    let channel = timeout(PATIENCE, session.open_channel()).await.unwrap().expect("room for a third member");
    let mut there = timeout(PATIENCE, async {
        loop {
            let next = victim.next_channel().await.unwrap().channel;
            if next.peer == nodes[3].public_key() {
                break next;
            }
        }
    })
    .await
    .unwrap();
    let moved = async {
        for number in 0..64 {
            let sent = channel.pieces_tx.send(number, Bytes::from(vec![7; 1 << 20]));
            let (sent, piece) = tokio::join!(sent, there.pieces_rx.recv());
            sent.unwrap();
            assert_eq!(piece.unwrap().payload.len(), 1 << 20);
            peak = peak.max(rss());
        }
    };
    timeout(PATIENCE, moved).await.expect("the third member's pieces");
    assert!(victim.memory().promised.bytes() <= BUDGET, "{:?}", victim.memory());
    let more = peak - before;
    assert!(more <= BUDGET + BUDGET / 5, "{} MiB more with a budget of {} MiB", more / MIB, BUDGET / MIB);
}

/// Does nothing but where the test above starts it.
#[tokio::test(flavor = "multi_thread")]
async fn attacker() {
    let Ok(told) = std::env::var(ATTACK) else { return };
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let [dir, address, name] = told.lines().collect::<Vec<_>>()[..] else { return };
    let identity = Identity::open(Path::new(dir)).unwrap().unwrap();
    let key = identity.membership().by_name(&name.parse().unwrap()).unwrap().public_key;
    let config = tls::quic_client_config(&identity, key).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let client = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let mut held = Vec::new();
    for session in 0..4 {
        let Ok(connection) = client.connect_with(config.clone(), address.parse().unwrap(), "node.dwcp").unwrap().await
        else {
            break;
        };
        let Some(greeting) = greet(&connection, session).await else { break };
        let mut streams = vec![greeting];
        let mut pieces = Vec::new();
        for channel in (0..64).step_by(2) {
            let Some((credit, stream)) = open_channel(&connection, channel).await else { break };
            streams.push(stream);
            send_pieces(&connection, channel, credit, &mut pieces).await;
        }
        for (control, _) in streams.iter_mut().skip(1) {
            fill(control, 2 * MIB).await;
        }
        held.push((connection, streams, pieces));
    }
    fs::write(Path::new(dir).join(DONE), b"").unwrap();
    std::future::pending::<()>().await;
}

async fn greet(connection: &Connection, session: u8) -> Option<(SendStream, RecvStream)> {
    let (mut send, mut receive) = connection.open_bi().await.ok()?;
    let hello = [&[session + 1; 16][..], &[2; 16], &[0], &[0; 8]].concat();
    send.write_all(&frame(&hello)).await.ok()?;
    read_frame(&mut receive).await?;
    Some((send, receive))
}

async fn open_channel(connection: &Connection, id: u64) -> Option<(u64, (SendStream, RecvStream))> {
    let (mut send, mut receive) = timeout(FULL, connection.open_bi()).await.ok()?.ok()?;
    send.write_all(&frame(&[id.to_le_bytes(), 0_u64.to_le_bytes()].concat())).await.ok()?;
    let answer = read_frame(&mut receive).await?;
    let credit = (*answer.first()? == 0).then(|| answer.get(1..9)?.try_into().ok().map(u64::from_le_bytes))??;
    Some((credit, (send, receive)))
}

async fn send_pieces(connection: &Connection, channel: u64, credit: u64, held: &mut Vec<SendStream>) {
    for number in 0..credit / (MIB + 4096) {
        let Ok(Ok(mut send)) = timeout(FULL, connection.open_uni()).await else { return };
        let head = [&channel.to_le_bytes()[..], &number.to_le_bytes(), &(1_u32 << 20).to_le_bytes()].concat();
        if send.write_all(&head).await.is_err() {
            return;
        }
        fill(&mut send, MIB).await;
        held.push(send);
    }
}

/// Writes until so many bytes are taken, or none for a while.
async fn fill(send: &mut SendStream, bytes: u64) {
    let chunk = vec![0x55; 64 << 10];
    let mut sent = 0;
    while sent < bytes {
        let next = chunk.len().min(usize::try_from(bytes - sent).unwrap());
        match timeout(FULL, send.write(&chunk[..next])).await {
            Ok(Ok(written)) => sent += u64::try_from(written).unwrap(),
            _ => return,
        }
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    [u16::try_from(body.len()).unwrap().to_le_bytes().as_slice(), body].concat()
}

async fn read_frame(stream: &mut RecvStream) -> Option<Vec<u8>> {
    let read = async {
        let mut length = [0; 2];
        stream.read_exact(&mut length).await.ok()?;
        let mut body = vec![0; usize::from(u16::from_le_bytes(length))];
        stream.read_exact(&mut body).await.ok()?;
        Some(body)
    };
    timeout(PATIENCE, read).await.ok()?
}
