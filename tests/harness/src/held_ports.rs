//! Ports of a program that is not running: it comes back to them, and no program of another test may choose them meanwhile.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use serde_json::Value;

/// Holds the side of each port that its program does not use: who chooses a port wants both, and who knocks at a program that is gone is
/// refused as ever.
#[derive(Debug, Default)]
pub(crate) struct HeldPorts {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl HeldPorts {
    /// Of what a program said in its `ready.json`. A port that cannot be held is in use, and that is its user's affair.
    pub(crate) fn of(ready: &Value) -> Self {
        let mut held = Self::default();
        for (name, value) in ready.as_object().into_iter().flatten() {
            let Some(address) = value.as_str().and_then(|text| text.parse::<SocketAddr>().ok()) else { continue };
            if ["quic", "dht"].contains(&name.as_str()) {
                held.tcp.extend(TcpListener::bind(address));
            } else {
                held.udp.extend(UdpSocket::bind(address));
            }
        }
        held
    }
}
