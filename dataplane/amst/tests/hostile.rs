//! A member of the fleet that does not keep to the protocol: what it gets is bounded, and it is cut off.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bed::path::Path;
use dataplane_amst::{Endpoint, IncomingChannel, Limits, MAX_PIECE, Options, Session, TransportSettings};
use dataplane_identity::{Identity, testing::TestFleet, tls};
use foundation_runtime::{Clock, TaskGroup};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt, crypto::rustls::QuicClientConfig};

const PATIENCE: Duration = Duration::from_secs(30);

/// The code with which an endpoint closes on whoever broke the protocol.
const PROTOCOL: VarInt = VarInt::from_u32(2);

struct Attack {
    _dirs: [tempfile::TempDir; 2],
    endpoint: Endpoint,
    connection: Connection,
    client: quinn::Endpoint,
    own: Identity,
    victim: Identity,
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

impl Attack {
    /// A connection by hand, with a good certificate, and no word yet.
    async fn begin() -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let fleet = TestFleet::new();
        let (victim, attacker) = (fleet.node(dirs[0].path(), "victim"), fleet.node(dirs[1].path(), "attacker"));
        fleet.share([&victim, &attacker]);
        let options = Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            sockets: 1,
            identity: victim.clone(),
            settings: TransportSettings::default(),
            limits: Limits::default(),
        };
        let endpoint = Endpoint::bind(options, Clock::system(), TaskGroup::new("victim")).await.unwrap();
        let client = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let connection = connect(&client, &attacker, &victim, endpoint.local_addr()).await;
        Self { _dirs: dirs, endpoint, connection, client, own: attacker, victim }
    }

    /// Opens a session as it should be.
    async fn greet(&self) -> (SendStream, RecvStream) {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        send.write_all(&frame(&[[1; 16].as_slice(), &[2; 16], &[0], &[0; 8]].concat())).await.unwrap();
        soon(read_frame(&mut receive)).await;
        (send, receive)
    }

    /// Opens a channel as it should be; what credit it has been given.
    async fn open_channel(&self, id: u64) -> (u64, IncomingChannel, (SendStream, RecvStream)) {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        send.write_all(&frame(&[id.to_le_bytes(), 0_u64.to_le_bytes()].concat())).await.unwrap();
        let answer = soon(read_frame(&mut receive)).await;
        assert_eq!(answer[0], 0);
        let credit = u64::from_le_bytes(answer[1..9].try_into().unwrap());
        (credit, soon(self.endpoint.next_channel()).await.unwrap(), (send, receive))
    }

    /// Sends a piece by hand; nothing where the other end has had enough already.
    async fn piece(&self, channel: u64, claimed: usize, payload: &[u8]) -> Option<SendStream> {
        let mut stream = self.connection.open_uni().await.ok()?;
        let length = u32::try_from(claimed).unwrap().to_le_bytes();
        let head = [channel.to_le_bytes().as_slice(), &7_u64.to_le_bytes(), &length].concat();
        stream.write_all(&head).await.ok();
        stream.write_all(payload).await.ok();
        stream.finish().ok();
        Some(stream)
    }

    async fn assert_cut_off(&self) {
        let ConnectionError::ApplicationClosed(close) = soon(self.connection.closed()).await else { panic!() };
        assert_eq!(close.error_code, PROTOCOL, "{close}");
        soon(async {
            while !self.endpoint.sessions().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

async fn connect(client: &quinn::Endpoint, from: &Identity, to: &Identity, address: SocketAddr) -> Connection {
    let config = tls::quic_client_config(from, to.public_key()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    soon(client.connect_with(config, address, "node.dwcp").unwrap()).await.unwrap()
}

fn frame(body: &[u8]) -> Vec<u8> {
    [u16::try_from(body.len()).unwrap().to_le_bytes().as_slice(), body].concat()
}

async fn read_frame(stream: &mut RecvStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.unwrap();
    let mut body = vec![0; usize::from(u16::from_le_bytes(length))];
    stream.read_exact(&mut body).await.unwrap();
    body
}

#[tokio::test]
async fn a_piece_that_claims_to_be_too_large_ends_the_session() {
    let attack = Attack::begin().await;
    let _session = attack.greet().await;
    let (_, _channel, _control) = attack.open_channel(0).await;
    attack.piece(0, MAX_PIECE + 1, &[0; 100]).await;
    attack.assert_cut_off().await;
}

#[tokio::test]
async fn a_piece_without_credit_ends_the_session() {
    let attack = Attack::begin().await;
    let _session = attack.greet().await;
    let (credit, channel, _control) = attack.open_channel(0).await;
    let payload = vec![0; 1024 * 1024];
    let mut sent = 0;
    while sent <= credit && attack.connection.close_reason().is_none() {
        sent += 1024 * 1024;
        soon(attack.piece(0, payload.len(), &payload)).await;
    }
    attack.assert_cut_off().await;
    assert!(attack.endpoint.memory().promised <= attack.endpoint.memory().budget);
    drop(channel);
}

#[tokio::test]
async fn a_piece_that_ends_early_or_goes_on_after_its_length_ends_the_session() {
    for payload in [9, 11] {
        let attack = Attack::begin().await;
        let _session = attack.greet().await;
        let (_, mut channel, _control) = attack.open_channel(0).await;
        attack.piece(0, 10, &vec![0; payload]).await;
        attack.assert_cut_off().await;
        assert!(soon(channel.channel.pieces_rx.recv()).await.is_none());
    }
}

#[tokio::test]
async fn a_piece_for_an_unknown_channel_is_refused_and_the_session_goes_on() {
    let attack = Attack::begin().await;
    let _session = attack.greet().await;
    let stream = attack.piece(42, 10, &[0; 10]).await.unwrap();
    // It may have been acknowledged before it was refused.
    let stopped = soon(stream.stopped()).await.unwrap();
    assert!(stopped.is_none_or(|code| code == VarInt::from_u32(1)));
    let (_, mut channel, _control) = attack.open_channel(0).await;
    attack.piece(0, 3, b"yes").await;
    assert_eq!(soon(channel.channel.pieces_rx.recv()).await.unwrap().payload, b"yes".as_slice());
}

#[tokio::test]
async fn a_control_frame_that_claims_to_be_too_large_ends_the_session() {
    let attack = Attack::begin().await;
    let _session = attack.greet().await;
    let (_, mut channel, (mut control, _)) = attack.open_channel(0).await;
    control.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
    assert!(soon(channel.channel.control_rx.recv()).await.is_err());
    attack.assert_cut_off().await;
}

#[tokio::test]
async fn a_channel_with_the_wrong_parity_or_a_malformed_opening_ends_the_session() {
    for opening in [[1_u64.to_le_bytes(), [0; 8]].concat(), b"short".to_vec()] {
        let attack = Attack::begin().await;
        let _session = attack.greet().await;
        let (mut send, _receive) = attack.connection.open_bi().await.unwrap();
        send.write_all(&frame(&opening)).await.unwrap();
        attack.assert_cut_off().await;
    }
}

#[tokio::test]
async fn a_malformed_greeting_gets_no_session() {
    let attack = Attack::begin().await;
    let (mut send, mut receive) = attack.connection.open_bi().await.unwrap();
    send.write_all(&[0xff; 100]).await.unwrap();
    assert!(soon(receive.read_to_end(100)).await.is_err());
    assert!(attack.endpoint.sessions().is_empty());
}

#[tokio::test]
async fn credit_without_measure_harms_nobody() {
    let attack = Attack::begin().await;
    let (mut session, mut answers) = attack.greet().await;
    let (_, channel, _control) = attack.open_channel(0).await;
    let credit = |total: u64| frame(&[[1].as_slice(), &0_u64.to_le_bytes(), &total.to_le_bytes()].concat());
    // As much as a semaphore holds, and then the rest of what a number holds, while pieces that were paid for still wait.
    session.write_all(&credit(u64::MAX >> 3)).await.unwrap();
    let pieces = channel.channel.pieces_tx.clone();
    let waiting = (0..300).map(|number| pieces.send(number, vec![0; 100_000].into()));
    let mut waiting = Box::pin(futures::future::join_all(waiting));
    // Nobody takes the streams: from the hundredth on they wait.
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut waiting).await.is_err());
    session.write_all(&credit(u64::MAX)).await.unwrap();
    session.write_all(&frame(&[[3].as_slice(), &5_u64.to_le_bytes()].concat())).await.unwrap();
    while soon(read_frame(&mut answers)).await != [[4].as_slice(), &5_u64.to_le_bytes()].concat() {}
    attack.connection.close(VarInt::from_u32(0), b"");
    let sent = soon(waiting).await;
    assert!(sent.iter().any(Result::is_err));
}

#[tokio::test]
async fn a_lane_that_ends_without_a_word_ends_the_session_whatever_code_it_gives() {
    let attack = Attack::begin().await;
    let _session = attack.greet().await;
    let lane = connect(&attack.client, &attack.own, &attack.victim, attack.endpoint.local_addr()).await;
    let (mut send, mut receive) = lane.open_bi().await.unwrap();
    send.write_all(&frame(&[[1; 16].as_slice(), &[2; 16], &[1], &[2, 0, 0, 0, 0, 0, 0, 0]].concat())).await.unwrap();
    soon(read_frame(&mut receive)).await;
    // What nobody wants. Once that is said, the lane is known to be in use at both ends.
    let mut piece = lane.open_uni().await.unwrap();
    piece.write_all(&[0; 20]).await.unwrap();
    soon(piece.stopped()).await.unwrap();
    // As if both had agreed on it.
    lane.close(VarInt::from_u32(6), b"lane retired");
    attack.assert_cut_off().await;
}

#[tokio::test]
async fn the_first_lane_cannot_be_retired_and_others_that_are_not_there_are_no_matter() {
    let attack = Attack::begin().await;
    let (mut session, _answers) = attack.greet().await;
    for kind in [7_u8, 8] {
        session.write_all(&frame(&[[kind].as_slice(), &9_u64.to_le_bytes()].concat())).await.unwrap();
    }
    let (_, _channel, _control) = attack.open_channel(0).await;
    session.write_all(&frame(&[[7_u8].as_slice(), &0_u64.to_le_bytes()].concat())).await.unwrap();
    attack.assert_cut_off().await;
}

#[tokio::test]
async fn a_lane_that_is_given_up_before_its_dialler_hears_of_it_ends_alone_whatever_code_it_gives() {
    let attack = Attack::begin().await;
    let _session = attack.greet().await;
    let session = attack.endpoint.sessions().remove(0);
    // The answer is on its way for so long that the lane is there and gone before.
    let path = Path::to(attack.endpoint.local_addr(), Duration::from_secs(1), |datagram| vec![datagram.at]).await;
    for (number, code) in [(1, 0_u32), (2, 4), (1, 6)] {
        let lane = connect(&attack.client, &attack.own, &attack.victim, path.address).await;
        let (mut send, _receive) = lane.open_bi().await.unwrap();
        let hello = frame(&[[1; 16].as_slice(), &[2; 16], &[number], &[2, 0, 0, 0, 0, 0, 0, 0]].concat());
        send.write_all(&hello).await.unwrap();
        lanes(&session, 2).await;
        lane.close(VarInt::from_u32(code), b"");
        lanes(&session, 1).await;
    }
    assert!(session.closed().is_none(), "{:?}", session.closed());
}

async fn lanes(session: &Session, wanted: usize) {
    soon(async {
        while session.info().lanes != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
