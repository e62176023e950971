//! Stands before quinn on each socket: first packets of strangers beyond their allowance are dropped before anything is computed for them.
//! To find out that a first packet (RFC 9000 17.2.2: an Initial) is worth nothing costs quinn some 30 µs, and a Retry as much again; dropping one
//! here costs a look at its first bytes. Established connections, whose packets have short headers, are none of this module's business.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use foundation_listener::{Allowance, limit_hits};
use foundation_runtime::Clock;
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// What strangers may make all sockets of a port do. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Doorkeeper {
    clock: Clock,
    per_second: f64,
    allowance: Arc<Mutex<Allowance>>,
}

/// A socket with its doorkeeper.
#[derive(Debug)]
pub(crate) struct Kept {
    socket: Arc<dyn AsyncUdpSocket>,
    keeper: Doorkeeper,
}

impl Doorkeeper {
    /// So many first packets of one address a second.
    pub(crate) fn new(clock: Clock, per_second: u32) -> Self {
        Self { clock, per_second: f64::from(per_second), allowance: Arc::default() }
    }

    /// A peer is at this address, or was said to be there.
    pub(crate) fn know(&self, address: IpAddr) {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner).know(address);
    }

    pub(crate) fn keep(&self, socket: Arc<dyn AsyncUdpSocket>) -> Arc<Kept> {
        Arc::new(Kept { socket, keeper: self.clone() })
    }

    /// Whether one more connection of this address may begin.
    pub(crate) fn lets_in(&self, from: IpAddr) -> bool {
        let now = self.clock.now();
        let let_in = self.allowance.lock().unwrap_or_else(PoisonError::into_inner).takes(from, now, self.per_second);
        if !let_in {
            limit_hits::hit("limits.quic_first_packets_per_second");
        }
        let_in
    }

    /// Takes out of `bytes`, datagrams of `stride` bytes of one sender, what is not let in; what is left stands at the beginning.
    fn sift(&self, bytes: &mut [u8], stride: usize, from: IpAddr) -> usize {
        let stride = stride.max(1);
        let (mut read, mut kept) = (0, 0);
        while read < bytes.len() {
            let end = (read + stride).min(bytes.len());
            if !is_first(bytes[read]) || self.lets_in(from) {
                bytes.copy_within(read..end, kept);
                kept += end - read;
            }
            read = end;
        }
        kept
    }
}

/// Whether a datagram begins with an Initial: a long header with type 0. That of other versions than 1 may be another, and none of ours.
const fn is_first(first_byte: u8) -> bool {
    first_byte & 0xb0 == 0x80
}

impl AsyncUdpSocket for Kept {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.socket.poll_recv(context, bufs, meta))?;
        for (meta, buffer) in meta.iter_mut().zip(bufs).take(received) {
            let length = meta.len.min(buffer.len());
            // Nearly always there is none, and nothing is moved.
            if (0..length).step_by(meta.stride.max(1)).any(|at| is_first(buffer[at])) {
                // Nothing left is no datagram to quinn.
                meta.len = self.keeper.sift(&mut buffer[..length], meta.stride, meta.addr.ip());
            }
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_first_packets_are_counted_and_what_is_left_is_as_it_was() {
        let keeper = Doorkeeper::new(Clock::system(), 1);
        let stranger = IpAddr::from([192, 0, 2, 1]);
        while keeper.lets_in(stranger) {}
        // Of a connection, two first ones, one of a handshake that goes on, and a short one of a connection.
        let sent = [[0x40, 1, 1], [0xc1, 2, 2], [0xc0, 3, 3], [0xe0, 4, 4]].concat();
        let mut bytes = [&sent[..], &[0x41, 5]].concat();
        let left = keeper.sift(&mut bytes, 3, stranger);
        assert_eq!(bytes[..left], [0x40, 1, 1, 0xe0, 4, 4, 0x41, 5]);
        let peer = IpAddr::from([192, 0, 2, 2]);
        keeper.know(peer);
        let mut bytes = sent.clone();
        assert_eq!((keeper.sift(&mut bytes, 3, peer), bytes), (sent.len(), sent));
    }
}
