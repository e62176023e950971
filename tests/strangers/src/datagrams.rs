//! Datagrams of strangers: garbage for any port, and questions for a DHT node that are answered at somebody else's cost.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use rand::RngExt as _;

use crate::source;

/// Sends `count` datagrams of garbage from `addresses` addresses; how many the system took.
///
/// # Errors
/// No socket can be bound.
pub fn garbage(target: SocketAddr, count: u32, addresses: u32) -> Result<u32> {
    let mut random = rand::rng();
    let sockets = sockets(addresses)?;
    let mut sent = 0;
    for (number, socket) in (0..count).zip(sockets.iter().cycle()) {
        let mut datagram = vec![0; random.random_range(0..1400)];
        random.fill(&mut datagram[..]);
        // Some look like QUIC, some like bencode at first.
        match (number % 4, datagram.first_mut()) {
            (1, Some(first)) => *first |= 0xc0,
            (2, Some(first)) => *first = b'd',
            (3, Some(_)) => datagram = b"d1:ad2:id20:".iter().copied().chain([b'l'; 1000]).collect(),
            _ => {}
        }
        sent += u32::from(socket.send_to(&datagram, target).is_ok());
    }
    Ok(sent)
}

/// What `count` questions for a value that is not there bring back: bytes asked, bytes answered, questions answered.
///
/// # Errors
/// No socket can be bound.
pub fn ask(target: SocketAddr, count: u32, addresses: u32) -> Result<(usize, usize, usize)> {
    let sockets = sockets(addresses)?;
    let (mut asked, mut answered, mut answers) = (0, 0, 0);
    let mut buffer = [0; 2048];
    for (number, socket) in (0..count).zip(sockets.iter().cycle()) {
        let mut id = [0_u8; 20];
        rand::rng().fill(&mut id);
        let mut question = b"d1:ad2:id20:".to_vec();
        question.extend(id);
        question.extend(b"6:target20:");
        question.extend(id);
        question.extend(b"e1:q3:get1:t4:");
        question.extend(number.to_be_bytes());
        question.extend(b"1:y1:qe");
        socket.send_to(&question, target)?;
        asked += question.len();
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            answered += length;
            answers += 1;
        }
    }
    for socket in &sockets {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            answered += length;
            answers += 1;
        }
    }
    Ok((asked, answered, answers))
}

fn sockets(addresses: u32) -> Result<Vec<UdpSocket>> {
    (0..addresses.max(1))
        .map(|number| {
            let socket = UdpSocket::bind(source(number))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect()
}
