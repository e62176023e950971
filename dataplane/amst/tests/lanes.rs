//! Lanes come and go while a session works: nothing that it carries is lost or comes twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bed::{contents, fleet, open, path::Path, soon};
use dataplane_amst::{Channel, PieceReceiver, PieceSender, Scaled, Session};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Changes of the number of lanes in a run.
const CHANGES: usize = 24;
/// Pieces of one sender that are under way at once.
const AT_ONCE: u64 = 12;

fn seed() -> u64 {
    std::env::var("DWCP_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

/// Sends pieces of all lengths until it is told to stop; how many went.
async fn send(sender: PieceSender, seed: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut sends = futures::stream::FuturesUnordered::new();
    let mut random = StdRng::seed_from_u64(seed);
    let mut next = 0;
    loop {
        while next < AT_ONCE || (sends.len() < usize::try_from(AT_ONCE).unwrap() && !stop.load(Relaxed)) {
            let (sender, number) = (sender.clone(), next);
            let length = [0, 1, 5000, 100_000, 1 << 20][random.random_range(0..5_usize)];
            sends.push(async move { sender.send(number, contents(number, length)).await.unwrap() });
            next += 1;
        }
        if futures::StreamExt::next(&mut sends).await.is_none() {
            return next;
        }
    }
}

/// Takes what comes until all of it is there.
async fn receive(mut receiver: PieceReceiver, sent: tokio::sync::oneshot::Receiver<u64>) {
    let mut seen = BTreeSet::new();
    let mut sent = std::pin::pin!(sent);
    let mut all = u64::MAX;
    while u64::try_from(seen.len()).unwrap() < all {
        tokio::select! {
            count = &mut sent, if all == u64::MAX => all = count.unwrap(),
            piece = receiver.recv() => {
                let piece = piece.expect("the session lives");
                assert_eq!(piece.payload, contents(piece.number, piece.payload.len()));
                assert!(seen.insert(piece.number), "piece {} came twice", piece.number);
            }
        }
    }
    assert_eq!(seen.last().copied(), all.checked_sub(1));
}

async fn lanes(session: &Session, there: &Session, wanted: usize) {
    soon(async {
        while session.info().lanes != wanted || there.info().lanes != wanted {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn many_transfers_lose_nothing_while_lanes_come_and_go() {
    let seed = seed();
    println!("DWCP_TEST_SEED={seed}");
    let fleet = fleet(2, |_, options| options.sockets = 4).await;
    let [a, b] = fleet.nodes.as_slice() else { panic!() };
    let session = a.dial(b).await.unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let stop = Arc::new(AtomicBool::new(false));
    let (mut running, mut kept) = (Vec::new(), Vec::new());
    for channel in 0..3 {
        let (ours, theirs) = open(&session, b).await;
        let Channel { pieces_tx: ours_tx, pieces_rx: ours_rx, control_tx, control_rx, .. } = ours;
        let Channel { pieces_tx: theirs_tx, pieces_rx: theirs_rx, .. } = theirs.channel;
        kept.push((control_tx, control_rx));
        for (sender, receiver) in [(ours_tx, theirs_rx), (theirs_tx, ours_rx)] {
            let (all, sent) = tokio::sync::oneshot::channel();
            let sending = send(sender, seed + channel, Arc::clone(&stop));
            running.push(async move {
                tokio::join!(async move { all.send(sending.await).unwrap() }, receive(receiver, sent));
            });
        }
    }
    let there = b.endpoint.sessions().remove(0);
    let changes = async {
        let mut sent = 0;
        for _ in 0..CHANGES {
            let wanted = random.random_range(1..=4_u32);
            let mut settings = a.endpoint.settings();
            settings.lanes = wanted;
            a.endpoint.retune(settings).unwrap();
            lanes(&session, &there, usize::try_from(wanted).unwrap()).await;
            // What lanes moved that are over still counts.
            let now = session.info().bytes_sent;
            assert!(now >= sent, "{now} after {sent}");
            sent = now;
        }
        stop.store(true, Relaxed);
    };
    let transfers = futures::future::join_all(running);
    tokio::time::timeout(4 * bed::PATIENCE, async { tokio::join!(transfers, changes) })
        .await
        .expect("it took too long");
    assert!(session.closed().is_none() && there.closed().is_none(), "{:?} {:?}", session.closed(), there.closed());
    let moved = a.endpoint.moves().iter().filter(|past| past.what.of == Scaled::Lanes).count();
    assert!(moved > CHANGES / 2, "each change is remembered");
}

/// Also where the datagram that closes a lane is lost, which is sent once.
#[tokio::test]
async fn lanes_that_go_over_a_path_that_loses_much_leave_the_session_alive() {
    let seed = seed();
    println!("DWCP_TEST_SEED={seed}");
    let fleet = fleet(2, |_, _| {}).await;
    let [a, b] = fleet.nodes.as_slice() else { panic!() };
    let (delay, mut random) = (Duration::from_millis(5), StdRng::seed_from_u64(seed));
    let path = Path::to(b.address(), delay, move |datagram| {
        if random.random_range(0..4_u32) == 0 { Vec::new() } else { vec![datagram.at + delay] }
    })
    .await;
    let session = soon(a.endpoint.session(b.identity.public_key(), &[path.address])).await.unwrap();
    let there = b.endpoint.sessions().remove(0);
    let promised = || [a, b].map(|node| node.endpoint.memory().promised);
    let with_one = promised();
    for _ in 0..6 {
        for wanted in [4, 1] {
            let mut settings = a.endpoint.settings();
            settings.lanes = wanted;
            a.endpoint.retune(settings).unwrap();
            lanes(&session, &there, usize::try_from(wanted).unwrap()).await;
        }
        // Until both have forgotten them.
        soon(async {
            while promised() != with_one {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(session.closed().is_none() && there.closed().is_none(), "{:?} {:?}", session.closed(), there.closed());
    }
    soon(session.ping()).await.unwrap();
}
