//! One UDP port, several sockets: who gets which datagram.
//!
//! The sockets share the port by `SO_REUSEPORT`, and a classic BPF program on the group picks one by the first byte of the
//! destination connection id, modulo their number; each endpoint makes ids that lead to itself. So lanes spread evenly,
//! answers to what was dialled come back to who dialled, and a peer whose address changes keeps its connection. None of the
//! sockets may be closed before all are: the kernel would renumber the rest.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
        sockopt::{AttachReusePortCbpf, Ipv6V6Only, RcvBuf, ReusePort, SndBuf},
    },
};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::RngExt;

/// Bytes of our connection ids, as quinn's own.
const ID_LENGTH: usize = 8;

/// Bytes of the id that a dialler makes up for the first packet: random enough for RFC 9000 7.2, which wants 8.
const FIRST_ID_LENGTH: usize = 16;

/// What a socket may hold: 4 MiB are 30 ms at 1 Gbit/s. The kernel takes less without a word where `net.core.rmem_max` is
/// lower.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// Opens `count` sockets on one address. `[::]` takes IPv4 too, and means it alone where the host has no IPv6.
pub(crate) fn open(listen: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let first = match open_first(listen) {
        Err(error) if listen.ip().is_unspecified() && listen.is_ipv6() && lacks_ipv6(&error) => {
            open_first(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port())))?
        }
        other => other?,
    };
    if count == 1 {
        return Ok(vec![first]);
    }
    // The first was bound alone, so that a port of somebody else's was noticed; now others may join it.
    setsockopt(&first, ReusePort, &true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let socket = new_socket(address)?;
        setsockopt(&socket, ReusePort, &true)?;
        sockets.push(bound(socket, address)?);
    }
    steer(&sockets[0], count)?;
    Ok(sockets)
}

fn open_first(listen: SocketAddr) -> io::Result<UdpSocket> {
    bound(new_socket(listen)?, listen)
}

fn new_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, Ipv6V6Only, &!address.ip().is_unspecified())?;
    }
    setsockopt(&socket, RcvBuf, &SOCKET_BUFFER)?;
    setsockopt(&socket, SndBuf, &SOCKET_BUFFER)?;
    Ok(socket)
}

fn bound(socket: OwnedFd, address: SocketAddr) -> io::Result<UdpSocket> {
    use std::os::fd::AsRawFd;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(UdpSocket::from(socket))
}

fn lacks_ipv6(error: &io::Error) -> bool {
    [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Picks the socket by the datagram's destination connection id (RFC 8999): in a long header, whose first bit is set, its
/// first byte stands at 6, in a short one at 1. A datagram that is too short for that goes to the first socket.
fn steer(first: &UdpSocket, count: usize) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const JUMP: u16 = 0x05;
    const MODULO: u16 = 0x94;
    const RETURN: u16 = 0x16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let count = u32::try_from(count).map_err(io::Error::other)?;
    let mut program = [
        op(LOAD_BYTE, 0, 0, 0),
        op(JUMP_IF_SET, 0, 2, 0x80),
        op(LOAD_BYTE, 0, 0, 6),
        op(JUMP, 0, 0, 1),
        op(LOAD_BYTE, 0, 0, 1),
        op(MODULO, 0, 0, count),
        op(RETURN, 0, 0, 0),
    ];
    let program =
        libc::sock_fprog { len: u16::try_from(program.len()).map_err(io::Error::other)?, filter: program.as_mut_ptr() };
    Ok(setsockopt(first, AttachReusePortCbpf, &program)?)
}

/// Makes connection ids that lead to the socket of one endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SteeredIds {
    /// Of the socket in its group.
    pub(crate) index: u8,
    /// Sockets of the group.
    pub(crate) count: u8,
}

impl ConnectionIdGenerator for SteeredIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id: [u8; ID_LENGTH] = rand::random();
        while id[0] % self.count != self.index {
            id[0] = rand::random();
        }
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        // Ids of an earlier run pass: their connections get a stateless reset, so that peers learn of the restart.
        if id.len() == ID_LENGTH && id[0] % self.count == self.index { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The id for the first packet of a dialled connection: its first byte chooses the peer's socket, so that lanes with
/// consecutive numbers reach different ones.
pub(crate) fn first_id(spread: u8) -> ConnectionId {
    let mut id = [0; FIRST_ID_LENGTH];
    rand::rng().fill(&mut id);
    id[0] = spread;
    ConnectionId::new(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_quinn_took_asks_for_segmentation_with_each_send_alone() {
        // Set on the socket itself it could not be switched off by sends that fail, where a driver cannot do it (quinn #2575).
        use nix::sys::socket::{getsockopt, sockopt::UdpGsoSegment};
        use quinn::Runtime as _;
        let sockets = open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 1).unwrap();
        let taken = quinn::TokioRuntime.wrap_udp_socket(sockets[0].try_clone().unwrap()).unwrap();
        assert_eq!(getsockopt(&sockets[0], UdpGsoSegment), Ok(0));
        drop(taken);
    }

    #[test]
    fn datagrams_reach_the_socket_that_their_connection_id_names() {
        let sockets = open("[::]:0".parse().unwrap(), 4).unwrap();
        let port = sockets[0].local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut buffer = [0; 64];
        for (index, socket) in (0..).zip(&sockets) {
            let id = SteeredIds { index, count: 4 }.generate_cid();
            let short = [&[0x40][..], &id[..], &[0; 20]].concat();
            let long = [&[0xc0, 0, 0, 0, 1, 8][..], &id[..], &[1; 20]].concat();
            for datagram in [short, long] {
                client.send_to(&datagram, ("127.0.0.1", port)).unwrap();
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let (length, _) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], datagram);
            }
        }
    }

    #[test]
    fn a_taken_port_is_noticed() {
        let sockets = open("[::]:0".parse().unwrap(), 2).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert_eq!(open(address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
