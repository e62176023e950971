//! Tries the ways between this host and the control plane, and says what to open where one is closed.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::UdpSocket, time::timeout};

/// How often a DHT node is asked: a datagram may be lost.
const TRIES: u32 = 3;
/// How long each answer is waited for.
const WAIT: Duration = Duration::from_secs(1);
/// So many nodes are asked at most, one after the other.
const MAX_ASKED: usize = 3;

/// How the way out over UDP is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WayOut {
    /// This node answered.
    Open(SocketAddr),
    /// None answered; these were asked.
    Closed(Vec<SocketAddr>),
}

/// Asks DHT nodes for a sign of life (BEP 5, `ping`).
pub(crate) async fn way_out(nodes: &[SocketAddr]) -> WayOut {
    let asked: Vec<_> = nodes.iter().copied().take(MAX_ASKED).collect();
    for node in &asked {
        for _ in 0..TRIES {
            if timeout(WAIT, ping(*node)).await.is_ok_and(|answered| answered.is_ok()) {
                return WayOut::Open(*node);
            }
        }
    }
    WayOut::Closed(asked)
}

async fn ping(node: SocketAddr) -> std::io::Result<()> {
    let any: SocketAddr = if node.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(node).await?;
    let (transaction, query) = ping_query(rand::random(), rand::random());
    socket.send(&query).await?;
    let mut buffer = [0; 1500];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Any answer to this transaction shows that datagrams come through, also one of an error.
        if buffer[..length].windows(transaction.len()).any(|part| part == transaction) {
            return Ok(());
        }
    }
}

/// The query, and how its transaction stands in the answer. mainline drops a query whose `t` has not 4 bytes.
fn ping_query(id: [u8; 20], t: [u8; 4]) -> (Vec<u8>, Vec<u8>) {
    let transaction = [b"1:t4:".as_slice(), &t].concat();
    let query = [b"d1:ad2:id20:".as_slice(), &id, b"e1:q4:ping", &transaction, b"1:y1:qe"].concat();
    (transaction, query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_as_bep_5_writes_it() {
        let (_, query) = ping_query(*b"abcdefghij0123456789", *b"aabb");
        assert_eq!(query, b"d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t4:aabb1:y1:qe");
    }

    #[tokio::test]
    async fn a_node_that_answers_is_found_behind_one_that_does_not() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let node = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (deaf, address) = (silent.local_addr().unwrap(), node.local_addr().unwrap());
        let nodes = [deaf, address];
        let answer = async {
            let mut buffer = [0; 200];
            let (length, from) = node.recv_from(&mut buffer).await.unwrap();
            let at = buffer[..length].windows(5).position(|part| part == b"1:t4:").unwrap();
            let reply = [b"d1:rd2:id20:aaaaaaaaaaaaaaaaaaaae".as_slice(), &buffer[at..at + 9], b"1:y1:re"].concat();
            node.send_to(&reply, from).await.unwrap();
        };
        let (way, ()) = tokio::join!(way_out(&nodes), answer);
        assert_eq!(way, WayOut::Open(address));
    }
}
