//! How QUIC is set up.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
};
use dataplane_identity::{Identity, tls};
use proto_model::PublicKey;
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig,
    VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use crate::{
    BindError, Limits, MAX_PIECE, TransportSettings,
    budget::LANE,
    congestion::adapter::Factory,
    frames::PIECE_HEAD,
    steering::{SteeredIds, first_id},
};

/// The largest datagram. quinn hands up to ten to the kernel in one send, and ten that are together over 65,507 bytes are
/// refused without anybody noticing: it looks like loss.
pub(crate) const MAX_MTU: u16 = 6500;

/// What quinn may hold of one stream that nobody reads: a whole piece, so that no stream waits for room half-way.
const STREAM_WINDOW: u32 = 1024 * 1024 + 64 * 1024;

/// What quinn may hold of the connections of one session that nobody reads, at least, while it has a channel and the budget
/// allows it.
pub(crate) const MIN_WINDOW: u64 = 16 * 1024 * 1024;

/// The same of one connection at most: 1 Gbit/s over 500 ms, 10 Gbit/s over 50 ms.
pub(crate) const MAX_WINDOW: u64 = 64 * 1024 * 1024;

/// What quinn keeps of one dialler, and of all, before its connection is taken: its first flight. quinn's own bounds are 10 MiB and 100 MiB.
const EARLY_BYTES: u64 = 64 * 1024;
const EARLY_BYTES_IN_ALL: u64 = 8 * 1024 * 1024;

/// The least round trip that is guessed before one was measured is quinn's third of a second; sites further apart than a
/// satellite hop are not expected, and a lower guess only costs a packet sent twice.
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// Packets that may arrive before they are acknowledged: measured 18 % less processor time than 2.
const ACK_EVERY: u32 = 10;

/// How long fewer than that wait for more: while a session starts it grows by acknowledgments, and each that waits costs it time.
const ACK_WITHIN: Duration = Duration::from_millis(5);

const _: () = {
    assert!(10 * MAX_MTU as usize <= 65_507, "GSO sends of ten datagrams have to fit one UDP datagram");
    // Every datagram at the smallest MTU carries over 1,150 bytes of a stream, and quinn closes a connection that holds over
    // 1,024 separate chunks of one.
    assert!((MAX_PIECE + PIECE_HEAD) / 1150 < 1024, "a piece has to fit 1,024 packets");
    assert!(MAX_PIECE + PIECE_HEAD <= STREAM_WINDOW as usize, "a piece has to fit a stream's window");
};

/// Of an endpoint on one socket of the group.
pub(crate) fn endpoint_config(identity: &Identity, ids: SteeredIds) -> EndpointConfig {
    // The same after a restart, so that connections from before are reset at once. The signature is deterministic and
    // never leaves the process.
    let secret = digest(&SHA256, &identity.key().sign(b"dwcp amst stateless reset v1"));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref())));
    config.cid_generator(move || Box::new(ids));
    config.max_udp_payload_size(MAX_MTU).expect("the constant is above the least that QUIC allows");
    config
}

/// For those who dial us.
pub(crate) fn server_config(
    identity: &Identity,
    settings: &TransportSettings,
    limits: &Limits,
) -> Result<ServerConfig, BindError> {
    let tls = tls::quic_server_config(identity)?;
    let tls = QuicServerConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport(settings, limits)));
    config.max_incoming(limits.incoming_sessions.max(16));
    // What comes before a connection is taken: it is taken at once.
    config.incoming_buffer_size(EARLY_BYTES).incoming_buffer_size_total(EARLY_BYTES_IN_ALL);
    Ok(config)
}

/// For dialling one peer, at the socket that `spread` leads to.
pub(crate) fn client_config(
    identity: &Identity,
    peer: PublicKey,
    settings: &TransportSettings,
    limits: &Limits,
    spread: u8,
) -> Result<ClientConfig, rustls::Error> {
    let tls = tls::quic_client_config(identity, peer)?;
    let tls = QuicClientConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport(settings, limits)));
    config.initial_dst_cid_provider(Arc::new(move || first_id(spread)));
    Ok(config)
}

fn transport(settings: &TransportSettings, limits: &Limits) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_MTU);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY)).max_ack_delay(Some(ACK_WITHIN));
    let idle = IdleTimeout::try_from(limits.idle_timeout).ok();
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(settings.max_streams))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.channels_per_session.saturating_add(1)))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(window(LANE))
        .send_window(send_window(settings.initial_streams))
        .max_idle_timeout(idle)
        .keep_alive_interval(Some(limits.keep_alive))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(Factory(settings.congestion)))
        .datagram_receive_buffer_size(None);
    config
}

/// What quinn may hold of what we send: all streams that may be under way.
pub(crate) fn send_window(streams: u32) -> u64 {
    u64::from(streams.max(8)) * u64::from(STREAM_WINDOW)
}

/// As QUIC writes it.
pub(crate) fn window(bytes: u64) -> VarInt {
    VarInt::from_u64(bytes.clamp(LANE, MAX_WINDOW)).expect("the bound is far below 2^62")
}
