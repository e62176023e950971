//! Initials of QUIC that a stranger sends and never follows up, whole and damaged.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result};
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig, crypto::rustls::QuicClientConfig};
use rand::RngExt as _;

use crate::source;

/// What came of a flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo {
    /// Datagrams that were sent.
    pub sent: u32,
    /// Their bytes.
    pub bytes_out: usize,
    /// Bytes that came back.
    pub bytes_in: usize,
}

/// Initials, each of a connection of its own.
///
/// # Errors
/// TLS cannot be set up.
pub fn initials(target: SocketAddr, count: usize) -> Result<Vec<Vec<u8>>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"dwcp-amst/1".to_vec(), b"h3".to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    (0..count)
        .map(|_| {
            let now = Instant::now();
            let (_, mut connection) = endpoint.connect(now, config.clone(), target, "node")?;
            let mut buffer = Vec::new();
            let transmit = connection.poll_transmit(now, 1, &mut buffer).context("an Initial")?;
            buffer.truncate(transmit.size);
            Ok(buffer)
        })
        .collect()
}

/// Sends each Initial, every `damaged`-th with some bytes changed, from one of many addresses.
///
/// # Errors
/// No socket can be bound.
pub fn send(target: SocketAddr, initials: &[Vec<u8>], addresses: u32, damaged: usize) -> Result<Echo> {
    let sockets = (0..addresses.max(1)).map(|number| {
        let socket = UdpSocket::bind(source(number))?;
        socket.set_nonblocking(true)?;
        anyhow::Ok(socket)
    });
    let sockets = sockets.collect::<Result<Vec<_>>>()?;
    let mut echo = Echo::default();
    let mut random = rand::rng();
    let mut buffer = [0; 8192];
    for (number, (initial, socket)) in initials.iter().zip(sockets.iter().cycle()).enumerate() {
        let mut datagram = initial.clone();
        if damaged > 0 && number % damaged == 0 {
            for _ in 0..4 {
                let at = random.random_range(0..datagram.len());
                datagram[at] ^= random.random::<u8>();
            }
        }
        if socket.send_to(&datagram, target).is_ok() {
            echo.sent += 1;
            echo.bytes_out += datagram.len();
        }
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            echo.bytes_in += length;
        }
    }
    // Retries and answers that are still on their way.
    std::thread::sleep(std::time::Duration::from_millis(500));
    for socket in &sockets {
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            echo.bytes_in += length;
        }
    }
    Ok(echo)
}
