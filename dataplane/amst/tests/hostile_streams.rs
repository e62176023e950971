//! A member that opens streams and says next to nothing in them: what it takes is bounded, and others go on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod bed;

use std::{sync::Arc, time::Duration};

use bed::{Fleet, contents, fleet, open, soon};
use dataplane_identity::tls;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;

/// The code with which an endpoint closes on whoever broke the protocol, and on whom it lost.
const PROTOCOL: VarInt = VarInt::from_u32(2);
/// Nothing more is taken for so long: that is all.
const FULL: Duration = Duration::from_millis(300);

/// The first of three nodes, taken over: a session by hand with the second. The third is honest.
async fn taken_over(read_timeout: Duration) -> (Fleet, Connection, (SendStream, RecvStream), quinn::Endpoint) {
    let fleet = fleet(3, |_, options| options.settings.read_timeout = read_timeout).await;
    let (attacker, victim) = (&fleet.nodes[0], &fleet.nodes[1]);
    let tls = tls::quic_client_config(&attacker.identity, victim.identity.public_key()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let client = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connection = soon(client.connect_with(config, victim.address(), "node.dwcp").unwrap()).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame(&[[1; 16].as_slice(), &[2; 16], &[0], &[0; 8]].concat())).await.unwrap();
    soon(read_frame(&mut receive)).await;
    (fleet, connection, (send, receive), client)
}

fn frame(body: &[u8]) -> Vec<u8> {
    [u16::try_from(body.len()).unwrap().to_le_bytes().as_slice(), body].concat()
}

async fn read_frame(stream: &mut RecvStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.unwrap();
    let mut body = vec![0; usize::from(u16::from_le_bytes(length))];
    stream.read_exact(&mut body).await.unwrap();
    body
}

async fn open_channel(connection: &Connection) -> (SendStream, RecvStream) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&frame(&[0; 16])).await.unwrap();
    assert_eq!(soon(read_frame(&mut receive)).await[0], 0);
    (send, receive)
}

/// An honest node still moves its pieces to the victim.
async fn others_go_on(fleet: &Fleet) {
    let session = fleet.nodes[2].dial(&fleet.nodes[1]).await.unwrap();
    let (ours, mut theirs) = open(&session, &fleet.nodes[1]).await;
    for number in 0..8 {
        let payload = contents(number, 500_000);
        let (sent, piece) =
            soon(async { tokio::join!(ours.pieces_tx.send(number, payload.clone()), theirs.channel.pieces_rx.recv()) })
                .await;
        sent.unwrap();
        assert_eq!(piece.unwrap().payload, payload);
    }
}

async fn sessions_of_the_victim_end(fleet: &Fleet) {
    soon(async {
        while !fleet.nodes[1].endpoint.sessions().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn streams_without_end_that_begin_and_stop_are_as_many_as_allowed_and_end_their_session() {
    let (fleet, connection, _session, _client) = taken_over(Duration::from_secs(2)).await;
    let mut held = Vec::new();
    while let Ok(Ok(mut stream)) = timeout(FULL, connection.open_uni()).await {
        stream.write_all(&[0; 7]).await.unwrap();
        held.push(stream);
    }
    let most = fleet.nodes[1].endpoint.settings().max_streams;
    assert_eq!(held.len(), usize::try_from(most).unwrap());
    others_go_on(&fleet).await;
    // Neither does it keep them: the read time-out ends its session.
    let ConnectionError::ApplicationClosed(_) = soon(connection.closed()).await else { panic!("closed by the victim") };
}

#[tokio::test]
async fn empty_pieces_without_end_that_nobody_reads_are_paid_for() {
    let (fleet, connection, _session, _client) = taken_over(Duration::from_secs(30)).await;
    let _control = open_channel(&connection).await;
    let unread = soon(fleet.nodes[1].endpoint.next_channel()).await.unwrap();
    let mut sent = 0_u64;
    while connection.close_reason().is_none() {
        let Ok(Ok(mut stream)) = timeout(FULL, connection.open_uni()).await else { break };
        let head = [[0; 8], sent.to_le_bytes()].concat();
        stream.write_all(&[head.as_slice(), &[0; 4]].concat()).await.ok();
        stream.finish().ok();
        sent += 1;
    }
    // Each costs four kilobytes of what was promised, so that no more than that are ever held.
    let promised = fleet.nodes[1].endpoint.memory();
    assert!(promised.promised <= promised.budget, "{promised:?}");
    assert!(sent <= promised.budget.bytes() / 4096, "{sent}");
    others_go_on(&fleet).await;
    let ConnectionError::ApplicationClosed(close) = soon(connection.closed()).await else { panic!("cut off") };
    assert_eq!(close.error_code, PROTOCOL);
    drop(unread);
}

#[tokio::test]
async fn empty_control_frames_that_nobody_reads_wait_at_the_sender() {
    let (fleet, connection, _session, _client) = taken_over(Duration::from_secs(30)).await;
    let (mut control, _answers) = open_channel(&connection).await;
    let unread = soon(fleet.nodes[1].endpoint.next_channel()).await.unwrap();
    let nothing = vec![0; 64 << 10];
    let mut sent = 0;
    while let Ok(Ok(written)) = timeout(FULL, control.write(&nothing)).await {
        sent += written;
        assert!(sent < 64 << 20, "nobody reads it");
    }
    println!("{sent} bytes of empty frames were taken");
    assert!(sent <= 4 << 20, "{sent}");
    others_go_on(&fleet).await;
    assert!(connection.close_reason().is_none(), "it did nothing that it may not");
    drop(unread);
}

#[tokio::test]
async fn frames_of_a_later_version_without_end_are_skipped() {
    let (fleet, connection, (mut session, mut answers), _client) = taken_over(Duration::from_secs(30)).await;
    let unknown: Vec<u8> = std::iter::repeat_n(frame(&[99; 1000]), 1000).flatten().collect();
    let words = async {
        for _ in 0..10 {
            session.write_all(&unknown).await.unwrap();
        }
        session.write_all(&frame(&[[3].as_slice(), &5_u64.to_le_bytes()].concat())).await.unwrap();
    };
    let (..) = tokio::join!(soon(words), others_go_on(&fleet));
    while soon(read_frame(&mut answers)).await != [[4].as_slice(), &5_u64.to_le_bytes()].concat() {}
    connection.close(VarInt::from_u32(0), b"");
    drop(unknown);
    fleet.nodes[2].endpoint.shutdown(Duration::from_secs(5)).await.unwrap();
    sessions_of_the_victim_end(&fleet).await;
}
