//! A member that asks for all it can and never takes it: what its sender holds for it is bounded, and others are sent to meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

mod bed;

use std::{net::Ipv4Addr, sync::Arc};

use bed::{contents, fleet, open, soon};
use dataplane_identity::tls;
use futures::StreamExt;
use proto_model::ByteCount;
use quinn::{RecvStream, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 16 * MIB;

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

#[tokio::test]
async fn a_receiver_that_takes_nothing_holds_its_share_of_the_senders_memory_and_keeps_nobody_waiting() {
    let fleet = fleet(3, |_, options| options.limits.send_budget = ByteCount::new(BUDGET)).await;
    let [sender, honest, deaf] = fleet.nodes.as_slice() else { panic!() };
    // By hand: all the credit there is, and room for nothing.
    let config = tls::quic_client_config(&deaf.identity, sender.identity.public_key()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(VarInt::from_u32(16 * 1024)).max_concurrent_uni_streams(VarInt::from_u32(1024));
    config.transport_config(Arc::new(transport));
    let client = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let connection = soon(client.connect_with(config, sender.address(), "node.dwcp").unwrap()).await.unwrap();
    let (mut greeting, mut answers) = connection.open_bi().await.unwrap();
    greeting.write_all(&frame(&[[1; 16].as_slice(), &[2; 16], &[0], &[0; 8]].concat())).await.unwrap();
    soon(read_frame(&mut answers)).await;
    let (mut opening, mut answer) = connection.open_bi().await.unwrap();
    opening.write_all(&frame(&[0_u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat())).await.unwrap();
    assert_eq!(soon(read_frame(&mut answer)).await[0], 0);
    let asked = soon(sender.endpoint.next_channel()).await.unwrap().channel;
    let mut stuck = futures::stream::FuturesUnordered::new();
    for number in 0..32 {
        let pieces = asked.pieces_tx.clone();
        stuck.push(async move { pieces.send(number, contents(number, 1 << 20)).await });
    }

    let session = sender.dial(honest).await.unwrap();
    let (ours, mut theirs) = open(&session, honest).await;
    let mut most = 0;
    for number in 0..64 {
        let payload = contents(number, 1 << 20);
        let moved = async {
            let (sent, piece) =
                tokio::join!(ours.pieces_tx.send(number, payload.clone()), theirs.channel.pieces_rx.recv());
            sent.unwrap();
            assert_eq!(piece.unwrap().payload, payload);
        };
        tokio::select! {
            () = soon(moved) => {}
            sent = stuck.next() => panic!("it was acknowledged: {sent:?}"),
        }
        most = most.max(sender.endpoint.send_memory().promised.bytes());
    }
    assert!(most <= BUDGET, "{most}");
    let held = sender.endpoint.send_memory().promised.bytes();
    assert!((BUDGET / 2..=BUDGET / 4 * 3).contains(&held), "its share, not {held}");

    // Once it is gone, nothing is held for it.
    connection.close(VarInt::from_u32(0), b"");
    while soon(stuck.next()).await.is_some_and(|sent| sent.is_err()) {}
    soon(async {
        while sender.endpoint.send_memory().promised.bytes() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
