//! What a session is made of, for people.

use std::{net::SocketAddr, time::Duration};

use proto_model::PublicKey;

use super::{Session, TcpLaneInfo};
use crate::congestion::Snapshot;

/// What a session is made of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Who is at the other end.
    pub peer: PublicKey,
    /// Where, as it is seen from here.
    pub remote: SocketAddr,
    /// Whether this end dialled.
    pub dialled: bool,
    /// QUIC connections.
    pub lanes: usize,
    /// The lane over TCP, if there is one.
    pub tcp_lane: Option<TcpLaneInfo>,
    /// Bytes sent over such lanes, TLS and all.
    pub tcp_bytes_sent: u64,
    /// The same, received.
    pub tcp_bytes_received: u64,
    /// Streams of pieces that it may send at once.
    pub streams: usize,
    /// Streams of pieces that it sends now.
    pub streams_in_use: usize,
    /// Channels that are open.
    pub channels: usize,
    /// What runs, whatever was asked for since.
    pub congestion_algorithm: &'static str,
    /// What it knows of the path; none when the session is over.
    pub congestion: Option<Snapshot>,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Bytes of a datagram that the path takes.
    pub mtu: u16,
    /// Bytes sent of UDP and TCP, of all lanes.
    pub bytes_sent: u64,
    /// The same, received.
    pub bytes_received: u64,
    /// Bytes that were declared lost and sent again.
    pub bytes_lost: u64,
    /// Bits a second that it may send by the lowest bound that concerns it.
    pub rate_limit: Option<u64>,
    /// The key of that bound.
    pub rate_limited_by: Option<&'static str>,
}

impl Session {
    /// What the session is made of now.
    #[must_use]
    pub fn info(&self) -> SessionInfo {
        let lanes = self.lanes();
        let first = lanes.first().map(|lane| lane.connection.stats().path);
        let moved = self.moved_bytes();
        let congestion = self.congestion();
        let algorithm = congestion.map_or(self.0.shared.settings().congestion, |congestion| congestion.algorithm);
        let (tcp_bytes_sent, tcp_bytes_received) = self.0.tcp.bytes();
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        SessionInfo {
            peer: self.0.peer,
            remote: lanes.first().map_or(unknown, |lane| lane.remote()),
            dialled: self.0.dialled,
            lanes: self.lane_count(),
            tcp_lane: self.tcp_info(),
            tcp_bytes_sent,
            tcp_bytes_received,
            streams: self.0.slots.capacity(),
            streams_in_use: self.0.slots.used(),
            channels: self.channel_count(),
            congestion_algorithm: algorithm.as_str(),
            congestion,
            rtt: first.map_or(Duration::ZERO, |path| path.rtt),
            mtu: first.map_or(0, |path| path.current_mtu),
            bytes_sent: moved.sent,
            bytes_received: moved.received,
            bytes_lost: moved.lost,
            rate_limit: self.rate_limit(),
            rate_limited_by: self.lowest_bound().map(|(_, key)| key),
        }
    }
}
