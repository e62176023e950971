//! Tries the way to this host: the control plane sends a datagram to where this call comes from.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket},
    time::Duration,
};

use proto_rpc::agent::{ProbeReachRequest, agent_service_client::AgentServiceClient};
use tokio::{net::UdpSocket, time::timeout};
use tonic::transport::Channel;

/// How often it is tried: a datagram may be lost.
const TRIES: u32 = 3;
/// How long each is waited for: a WAN's round trip, generously.
const WAIT: Duration = Duration::from_secs(1);
/// How long a call may take.
const CALL: Duration = Duration::from_secs(10);

/// How the way in is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayIn {
    /// The datagram arrived.
    Open {
        /// The address that this host has for the control plane.
        observed: Option<IpAddr>,
    },
    /// None arrived.
    Closed {
        /// The address that this host has for the control plane.
        observed: Option<IpAddr>,
    },
}

/// Why the way in could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The port is somebody's.
    #[error("cannot listen on UDP port {port}: {source}")]
    Bind {
        /// The port.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The control plane did not do it.
    #[error("the control plane did not send a datagram: {0}")]
    Call(#[from] tonic::Status),
    /// It did not answer.
    #[error("the control plane did not answer within 10 s")]
    TimedOut,
}

/// Asks for datagrams to `listen`'s port until one arrives, or three were lost.
///
/// # Errors
/// It could not be tried.
pub async fn way_in(channel: Channel, listen: SocketAddr) -> Result<WayIn, ProbeError> {
    let port = listen.port();
    let bind = |source| ProbeError::Bind { port, source };
    let socket = StdUdpSocket::bind(listen).map_err(bind)?;
    socket.set_nonblocking(true).map_err(bind)?;
    let socket = UdpSocket::from_std(socket).map_err(bind)?;
    let port = socket.local_addr().map_err(bind)?.port();
    let mut client = AgentServiceClient::new(channel);
    let mut observed = None;
    for _ in 0..TRIES {
        let nonce: [u8; 16] = rand::random();
        let request = ProbeReachRequest { udp_port: port.into(), nonce: nonce.to_vec() };
        let answer = timeout(CALL, client.probe_reach(request)).await.map_err(|_elapsed| ProbeError::TimedOut)??;
        observed = parse_observed(&answer.into_inner().observed_address).or(observed);
        if timeout(WAIT, arrives(&socket, &nonce)).await.is_ok() {
            return Ok(WayIn::Open { observed });
        }
    }
    Ok(WayIn::Closed { observed })
}

async fn arrives(socket: &UdpSocket, nonce: &[u8; 16]) {
    let mut buffer = [0; 64];
    loop {
        // An ICMP error of an earlier datagram is no reason to give up.
        if let Ok((length, _from)) = socket.recv_from(&mut buffer).await
            && buffer[..length] == *nonce
        {
            return;
        }
    }
}

fn parse_observed(text: &str) -> Option<IpAddr> {
    text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_none| text.parse()).ok()
}
