//! Plain quinn as a rival: memory to memory over so many connections, each with an endpoint and a stream of its own, read out of order.

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use foundation_runtime::Clock;
use futures::future::{Either, select, try_join_all};
use nix::sys::socket::{setsockopt, sockopt};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, ServerConfig, TokioRuntime, TransportConfig,
    VarInt,
    congestion::{BbrConfig, CubicConfig},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};

/// Above twice the BDP of any case.
const WINDOW: u32 = 64 * 1024 * 1024;
/// What the kernel gives by default (`rmem_max`) where it was not raised.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
const NAME: &str = "bench";
const BLOCK: usize = 1024 * 1024;

fn transport(congestion: &str) -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport
        .send_window(u64::from(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .stream_receive_window(VarInt::from_u32(WINDOW));
    match congestion {
        "cubic" => transport.congestion_controller_factory(Arc::new(CubicConfig::default())),
        "bbr" => transport.congestion_controller_factory(Arc::new(BbrConfig::default())),
        _ => bail!("{congestion}: quinn has cubic and bbr"),
    };
    Ok(Arc::new(transport))
}

fn socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)?;
    setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)?;
    Ok(socket)
}

/// Receives at `address` until `seconds` have passed since the first byte, and gives the bytes. The certificate goes to a file, which says
/// that it listens.
pub(crate) async fn receive(address: SocketAddr, certificate: &Path, connections: usize, seconds: f64) -> Result<u64> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![made.cert.der().clone()], key.into())?;
    config.transport_config(transport("cubic")?);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket(address)?, Arc::new(TokioRuntime))?;
    let ready = certificate.with_extension("part");
    std::fs::write(&ready, made.cert.der())?;
    std::fs::rename(ready, certificate)?;

    let received = AtomicU64::new(0);
    let accepted =
        (0..connections).map(|_| async { endpoint.accept().await.context("closed")?.await.context("a connection") });
    let connections: Vec<Connection> = try_join_all(accepted).await?;
    let streams =
        try_join_all(connections.iter().map(|connection| async { connection.accept_uni().await.context("a stream") }))
            .await?;
    let reading = Box::pin(try_join_all(streams.into_iter().map(|stream| read(stream, &received))));
    let clock = Clock::system();
    let end = Box::pin(tokio::time::sleep_until((clock.now() + Duration::from_secs_f64(seconds)).into()));
    match select(reading, end).await {
        Either::Left((ended, _)) => ended.map(drop)?,
        Either::Right(_) => {}
    }
    let bytes = received.load(Ordering::Relaxed);
    endpoint.close(VarInt::from_u32(0), b"");
    Ok(bytes)
}

async fn read(mut stream: RecvStream, received: &AtomicU64) -> Result<()> {
    while let Some(chunk) = stream.read_chunk(usize::MAX, false).await? {
        received.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Sends from `address` until the other end closes.
pub(crate) async fn send(
    address: SocketAddr,
    to: SocketAddr,
    certificate: &Path,
    connections: usize,
    congestion: &str,
) -> Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(certificate)?))?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(transport(congestion)?);
    let sending = (0..connections).map(|_| {
        let config = config.clone();
        async move {
            let endpoint = Endpoint::new(EndpointConfig::default(), None, socket(address)?, Arc::new(TokioRuntime))?;
            let connection = endpoint.connect_with(config, to, NAME)?.await?;
            let mut stream = connection.open_uni().await?;
            let block = vec![7; BLOCK];
            while stream.write_all(&block).await.is_ok() {}
            anyhow::Ok(())
        }
    });
    try_join_all(sending).await.map(drop)
}
