//! A member of the fleet that has its dialler open lanes without end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bed::soon;
use dataplane_amst::{Endpoint, TransportSettings};
use dataplane_identity::{testing::TestFleet, tls};
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use quinn::{Connection, Incoming, RecvStream, SendStream, crypto::rustls::QuicServerConfig};

const MOST: usize = TransportSettings::MAX_LANES as usize;

type Dialled = (Connection, SendStream, RecvStream);

fn frame(body: &[u8]) -> Vec<u8> {
    [u16::try_from(body.len()).unwrap().to_le_bytes().as_slice(), body].concat()
}

fn number(kind: u8, value: u64) -> Vec<u8> {
    frame(&[[kind].as_slice(), &value.to_le_bytes()].concat())
}

/// Takes a lane, and says that it ends lanes as it should.
async fn take(incoming: Incoming) -> Option<Dialled> {
    let connection = incoming.await.ok()?;
    let (mut send, mut receive) = connection.accept_bi().await.ok()?;
    receive.read_exact(&mut [0; 43]).await.ok()?;
    send.write_all(&frame(&[[2; 16].as_slice(), &3_u64.to_le_bytes()].concat())).await.ok()?;
    Some((connection, send, receive))
}

async fn pong(receive: &mut RecvStream, value: u64) {
    let mut body = Vec::new();
    while body != [[4].as_slice(), &value.to_le_bytes()].concat() {
        let mut length = [0; 2];
        receive.read_exact(&mut length).await.unwrap();
        body = vec![0; usize::from(u16::from_le_bytes(length))];
        receive.read_exact(&mut body).await.unwrap();
    }
}

#[tokio::test]
async fn who_wants_lanes_again_and_again_and_ends_none_gets_no_more_than_a_session_has() {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let fleet = TestFleet::new();
    let (victim, attacker) = (fleet.node(dirs[0].path(), "victim"), fleet.node(dirs[1].path(), "attacker"));
    fleet.share([&victim, &attacker]);
    let mut options = bed::options(&victim);
    options.sockets = 4;
    options.settings.lanes = 0;
    let endpoint = Endpoint::bind(options, Clock::system(), TaskGroup::new("victim")).await.unwrap();
    let config = QuicServerConfig::try_from(tls::quic_server_config(&attacker).unwrap()).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let server = quinn::Endpoint::server(config, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = server.local_addr().unwrap();
    let (count, tasks) = (Arc::new(AtomicUsize::new(0)), TaskGroup::new("attacker"));
    let (lanes, mut taken) = tokio::sync::mpsc::channel(64);
    let seen = Arc::clone(&count);
    tasks.spawn("attacker", OnEnd::Expected, async move {
        while let Some(incoming) = server.accept().await {
            seen.fetch_add(1, Relaxed);
            lanes.send(take(incoming).await).await.ok();
        }
    });
    let session = soon(endpoint.session(attacker.public_key(), &[address])).await.unwrap();
    let (_connection, mut send, mut receive) = taken.recv().await.unwrap().unwrap();
    let mut round = 0;
    let mut flap = async || {
        round += 1;
        send.write_all(&[number(6, 4), number(6, 1), number(3, round)].concat()).await.unwrap();
        soon(pong(&mut receive, round)).await;
    };
    for _ in 0..20 {
        flap().await;
    }
    // Each rise would cost three handshakes.
    assert!(count.load(Relaxed) <= 1 + 3, "{}", count.load(Relaxed));
    soon(async {
        while count.load(Relaxed) < MOST {
            flap().await;
        }
    })
    .await;
    // Through another time in which more might be wanted.
    let more = tokio::time::timeout(Duration::from_secs(3), async {
        loop {
            flap().await;
        }
    });
    assert!(more.await.is_err());
    assert!(
        count.load(Relaxed) == MOST && session.closed().is_none(),
        "{} {:?}",
        count.load(Relaxed),
        session.closed()
    );
}
