//! Whoever does not keep to the protocol of lanes over TCP: strangers are kept out, and a member that lies is cut off.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use dataplane_amst::{Endpoint, IncomingChannel, Limits, MAX_PIECE, Options, Session, TransportSettings};
use dataplane_identity::{Identity, testing::TestFleet, tls};
use foundation_runtime::{Clock, TaskGroup};
use proto_model::config::TcpLane;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt, crypto::rustls::QuicClientConfig};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const PATIENCE: Duration = Duration::from_secs(30);

/// The code with which an endpoint closes on whoever broke the protocol.
const PROTOCOL: VarInt = VarInt::from_u32(2);

const SESSION: [u8; 16] = [1; 16];
const INSTANCE: [u8; 16] = [2; 16];
const TCP_LANES: u64 = 1;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

/// A port that is free for UDP and TCP: of one that the kernel chooses for UDP, the same number may be another's for TCP.
fn free_port() -> u16 {
    let both = || {
        let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
        std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_free| port)
    };
    (0..50).find_map(|_| both()).expect("a free port")
}

/// A victim, and a member of its fleet that speaks by hand.
struct Attack {
    _dirs: [tempfile::TempDir; 2],
    fleet: TestFleet,
    endpoint: Endpoint,
    attacker: Identity,
    victim: Identity,
    connection: Connection,
    _client: quinn::Endpoint,
    _stream: (SendStream, RecvStream),
}

impl Attack {
    /// A session by hand.
    async fn begin(change: impl FnOnce(&mut Options)) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let fleet = TestFleet::new();
        let (victim, attacker) = (fleet.node(dirs[0].path(), "victim"), fleet.node(dirs[1].path(), "attacker"));
        fleet.share([&victim, &attacker]);
        let mut options = Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
            sockets: 1,
            identity: victim.clone(),
            settings: TransportSettings { tcp_lane: TcpLane::Always, ..TransportSettings::default() },
            limits: Limits { idle_timeout: Duration::from_secs(2), ..Limits::default() },
        };
        change(&mut options);
        let endpoint = Endpoint::bind(options, Clock::system(), TaskGroup::new("victim")).await.unwrap();
        let client = quinn::Endpoint::client(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let config = tls::quic_client_config(&attacker, victim.public_key()).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_millis(500)));
        config.transport_config(Arc::new(transport));
        let connection = soon(client.connect_with(config, endpoint.local_addr(), "node.dwcp").unwrap()).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&hello(SESSION, 0)).await.unwrap();
        let mut welcome = [0; 26];
        soon(receive.read_exact(&mut welcome)).await.unwrap();
        assert_eq!(welcome[18..], TCP_LANES.to_le_bytes());
        let stream = (send, receive);
        Self { _dirs: dirs, fleet, endpoint, attacker, victim, connection, _client: client, _stream: stream }
    }

    fn session(&self) -> Session {
        self.endpoint.sessions().remove(0)
    }

    /// TLS with these papers.
    async fn connect(&self, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        // Little that is not read fits on the way.
        socket.set_recv_buffer_size(16 * 1024)?;
        let stream = socket.connect(self.endpoint.local_addr()).await?;
        let name = ServerName::try_from("node.dwcp").unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    async fn member(&self) -> TlsStream<TcpStream> {
        self.connect(tls::tcp_client_config(&self.attacker, self.victim.public_key()).unwrap()).await.unwrap()
    }

    /// A lane as it should be.
    async fn lane(&self) -> TlsStream<TcpStream> {
        let mut lane = self.member().await;
        lane.write_all(&hello(SESSION, 0)).await.unwrap();
        let mut welcome = [0; 26];
        soon(lane.read_exact(&mut welcome)).await.unwrap();
        lane
    }

    /// Opens a channel as it should be; what credit it has been given.
    async fn open_channel(&self, id: u64) -> (u64, IncomingChannel, (SendStream, RecvStream)) {
        let (mut send, mut receive) = self.connection.open_bi().await.unwrap();
        send.write_all(&frame(&[id.to_le_bytes(), 0_u64.to_le_bytes()].concat())).await.unwrap();
        let mut answer = [0; 11];
        soon(receive.read_exact(&mut answer)).await.unwrap();
        let credit = u64::from_le_bytes(answer[3..].try_into().unwrap());
        (credit, soon(self.endpoint.next_channel()).await.unwrap(), (send, receive))
    }

    async fn assert_cut_off(&self) {
        let ConnectionError::ApplicationClosed(close) = soon(self.connection.closed()).await else { panic!() };
        assert_eq!(close.error_code, PROTOCOL, "{close}");
        soon(async {
            while !self.endpoint.sessions().is_empty() || self.endpoint.memory().promised.bytes() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

fn frame(body: &[u8]) -> Vec<u8> {
    [u16::try_from(body.len()).unwrap().to_le_bytes().as_slice(), body].concat()
}

fn hello(session: [u8; 16], lane: u8) -> Vec<u8> {
    frame(&[session.as_slice(), &INSTANCE, &[lane], &TCP_LANES.to_le_bytes()].concat())
}

fn piece(channel: u64, claimed: usize, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(claimed).unwrap().to_le_bytes();
    [[1].as_slice(), &channel.to_le_bytes(), &7_u64.to_le_bytes(), &length, payload].concat()
}

/// It ends without a word.
async fn assert_hung_up(stream: &mut TlsStream<TcpStream>) {
    let mut byte = [0];
    assert!(!matches!(soon(stream.read(&mut byte)).await, Ok(1..)));
}

#[tokio::test]
async fn who_is_no_member_gets_no_lane() {
    let attack = Attack::begin(|_| {}).await;
    let key = attack.victim.public_key();
    let verify = |identity: &Identity| tls::tcp_client_config(identity, key).unwrap();
    // A certificate of the fleet whose key stands in nobody else's roster, and one of another fleet.
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let unknown = attack.fleet.node(dirs[0].path(), "unknown");
    attack.fleet.share([&unknown]);
    let foreign_fleet = TestFleet::new();
    let foreign = foreign_fleet.node(dirs[1].path(), "foreign");
    foreign_fleet.enter(&attack.victim, "victim", proto_model::Labels::default());
    foreign_fleet.share([&foreign]);
    let mut none = verify(&attack.attacker);
    none.client_auth_cert_resolver = Arc::new(NoCertificate);
    let mut quic = verify(&attack.attacker);
    quic.alpn_protocols = vec![tls::QUIC_ALPN.to_vec()];
    let mut silent = verify(&attack.attacker);
    silent.alpn_protocols.clear();
    for (who, config) in [
        ("unknown", verify(&unknown)),
        ("foreign", verify(&foreign)),
        ("none", none),
        ("quic", quic),
        ("silent", silent),
    ] {
        // In TLS 1.3 the client's end stands before the server has judged.
        let Ok(mut stream) = attack.connect(config).await else { continue };
        drop(stream.write_all(&hello(SESSION, 0)).await);
        drop(stream.flush().await);
        assert_hung_up(&mut stream).await;
        assert_eq!(attack.session().info().tcp_lane, None, "{who}");
    }
    // Who has a certificate of the fleet joins no session of another member, and none that is not there, nor under the other end's number.
    for wrong in [hello([9; 16], 0), hello(SESSION, 1), vec![0xff; 300], frame(&[SESSION, [3; 16]].concat())] {
        let mut stream = attack.member().await;
        stream.write_all(&wrong).await.unwrap();
        assert_hung_up(&mut stream).await;
    }
    let other = attack.fleet.node(dirs[2].path(), "other");
    attack.fleet.share([&attack.victim, &other]);
    let mut stream = attack.connect(verify(&other)).await.unwrap();
    stream.write_all(&hello(SESSION, 0)).await.unwrap();
    assert_hung_up(&mut stream).await;
    assert_eq!(attack.session().info().tcp_lane, None);
    assert!(attack.session().closed().is_none());
    let _lane = attack.lane().await;
    assert!(attack.session().info().tcp_lane.is_some());
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn strangers_hold_no_more_than_their_bounds_and_members_get_in_beside_them() {
    let attack = Attack::begin(|options| options.limits.handshakes = 8).await;
    let before = attack.endpoint.memory();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(attack.endpoint.local_addr()).await.unwrap());
    }
    // The oldest give way.
    let mut byte = [0];
    for stream in &mut silent[..30] {
        assert!(!matches!(soon(stream.read(&mut byte)).await, Ok(1..)));
    }
    let _lane = attack.lane().await;
    assert_eq!(before.budget, attack.endpoint.memory().budget);
    // And what says nothing is ended.
    for stream in &mut silent[30..] {
        assert!(!matches!(soon(stream.read(&mut byte)).await, Ok(1..)));
    }
}

#[tokio::test]
async fn an_address_gets_its_rate_and_no_more() {
    let attack = Attack::begin(|options| options.limits.first_packets_per_second = 1).await;
    // What is left of ten seconds' share of a stranger, and five a second since its session made the address known.
    let mut kept = 0;
    for _ in 0..80 {
        let mut stream = TcpStream::connect(attack.endpoint.local_addr()).await.unwrap();
        let mut byte = [0];
        let ended = tokio::time::timeout(Duration::from_millis(40), stream.read(&mut byte)).await.is_ok();
        kept += usize::from(!ended);
    }
    assert!((5..=40).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_lying_length_credit_that_was_not_given_and_records_that_do_not_exist_end_the_session() {
    let records: [Vec<u8>; 6] = [
        piece(0, MAX_PIECE + 1, b""),
        piece(0, usize::try_from(u32::MAX).unwrap(), b""),
        vec![4],
        vec![0xff; 64],
        // An answer to nothing, and the word to begin for the second time.
        vec![2],
        vec![0, 0],
    ];
    for record in records {
        let attack = Attack::begin(|_| {}).await;
        let (_, mut channel, _control) = attack.open_channel(0).await;
        let mut lane = attack.lane().await;
        lane.write_all(&record).await.unwrap();
        lane.flush().await.unwrap();
        assert!(soon(channel.channel.pieces_rx.recv()).await.is_none());
        drop(channel);
        attack.assert_cut_off().await;
    }
    let attack = Attack::begin(|_| {}).await;
    let (credit, mut channel, _control) = attack.open_channel(0).await;
    let mut lane = attack.lane().await;
    let whole = piece(0, MAX_PIECE, &vec![0; MAX_PIECE]);
    let pieces = usize::try_from(credit).unwrap() / MAX_PIECE + 1;
    let sending = async {
        for _ in 0..pieces {
            if lane.write_all(&whole).await.is_err() {
                return;
            }
        }
        drop(lane.flush().await);
    };
    let holding = async {
        let mut held = Vec::new();
        while let Some(piece) = channel.channel.pieces_rx.recv().await {
            held.push(piece);
        }
        held.len()
    };
    // As long as nothing is given back there is no more credit.
    let ((), arrived) = soon(async { tokio::join!(sending, holding) }).await;
    assert_eq!(arrived, pieces - 1);
    drop(channel);
    attack.assert_cut_off().await;
}

#[tokio::test]
async fn pieces_that_nobody_wants_are_refused_and_take_no_memory() {
    let attack = Attack::begin(|_| {}).await;
    let mut lane = attack.lane().await;
    lane.write_all(&[0]).await.unwrap();
    let before = attack.endpoint.memory();
    for _ in 0..20 {
        lane.write_all(&piece(42, MAX_PIECE, &vec![0; MAX_PIECE])).await.unwrap();
    }
    lane.flush().await.unwrap();
    let mut answers = [0; 20];
    soon(lane.read_exact(&mut answers)).await.unwrap();
    assert_eq!(answers, [3; 20]);
    assert_eq!(attack.endpoint.memory(), before);
    // It goes on.
    let (_, mut channel, _control) = attack.open_channel(0).await;
    lane.write_all(&piece(0, 3, b"yes")).await.unwrap();
    lane.flush().await.unwrap();
    assert_eq!(soon(channel.channel.pieces_rx.recv()).await.unwrap().payload, b"yes".as_slice());
}

#[tokio::test]
async fn who_sends_endless_pieces_and_takes_no_answers_is_cut_off() {
    let attack = Attack::begin(|_| {}).await;
    let (answers, mut lane) = tokio::io::split(attack.lane().await);
    // Answers are a byte each: a great many.
    let many = piece(42, 0, b"").repeat(5_000);
    let flood = async {
        loop {
            if lane.write_all(&many).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = flood => {}
        _error = attack.connection.closed() => {}
        () = tokio::time::sleep(PATIENCE) => panic!("it goes on for ever"),
    }
    drop(answers);
    attack.assert_cut_off().await;
}

#[tokio::test]
async fn a_piece_that_stops_half_way_ends_the_lane_and_its_credit_holds_for_quic() {
    let attack = Attack::begin(|options| options.settings.read_timeout = Duration::from_secs(1)).await;
    let (credit, mut channel, _control) = attack.open_channel(0).await;
    for hang_up in [false, true] {
        let mut lane = attack.lane().await;
        lane.write_all(&piece(0, MAX_PIECE, &[7; 100_000])).await.unwrap();
        lane.flush().await.unwrap();
        if hang_up {
            drop(lane);
        } else {
            assert_hung_up(&mut lane).await;
        }
        soon(async {
            while attack.session().info().tcp_lane.is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    // As many pieces as there was credit for, as if the two had never been.
    let cost = u64::try_from(MAX_PIECE).unwrap() + 4096;
    for _ in 0..credit / cost {
        let mut stream = attack.connection.open_uni().await.unwrap();
        stream.write_all(&piece(0, MAX_PIECE, &vec![0; MAX_PIECE])[1..]).await.unwrap();
        stream.finish().unwrap();
        assert_eq!(soon(channel.channel.pieces_rx.recv()).await.unwrap().payload.len(), MAX_PIECE);
    }
    assert!(attack.session().closed().is_none());
}

#[tokio::test]
async fn lies_about_a_lane_that_is_over_end_the_session_or_change_nothing() {
    let over = |lane: u8, taken: u64| frame(&[[5].as_slice(), &[lane], &taken.to_le_bytes()].concat());
    let mut attack = Attack::begin(|_| {}).await;
    for lane in 0..=u8::MAX {
        attack._stream.0.write_all(&over(lane, u64::MAX)).await.unwrap();
    }
    let lane = attack.lane().await;
    assert!(attack.session().info().tcp_lane.is_some() && attack.session().closed().is_none());
    // It took a piece that was never sent.
    attack._stream.0.write_all(&over(0, 1)).await.unwrap();
    attack.assert_cut_off().await;
    drop(lane);
}
