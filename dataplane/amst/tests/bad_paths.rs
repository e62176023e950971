//! Real QUIC over paths that hold back, double and lose what they carry: every piece arrives as it was, and no session ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bed::{
    Fleet, contents, fleet, open,
    path::{Arrivals, Datagram, Path},
    soon,
};
use dataplane_amst::{Channel, IncomingChannel, MAX_CONTROL_FRAME, MAX_PIECE, Session};
use foundation_runtime::Clock;
use proto_model::config::CongestionAlgorithm;

const MS: Duration = Duration::from_millis(1);

/// Two nodes with such a path between them; what comes back takes so long.
async fn over(back: Duration, decide: impl FnMut(Datagram) -> Arrivals + Send + 'static) -> (Fleet, Path, Session) {
    // It alone fills a window whatever the path does to it.
    let fleet = fleet(2, |_, options| options.settings.congestion = CongestionAlgorithm::Cubic).await;
    let path = Path::to(fleet.nodes[1].address(), back, decide).await;
    let session = soon(fleet.nodes[0].endpoint.session(fleet.nodes[1].identity.public_key(), &[path.address])).await;
    (fleet, path, session.unwrap())
}

async fn moves(ours: &Channel, theirs: &mut IncomingChannel, pieces: u64, bytes: usize) {
    let sending =
        futures::future::try_join_all((0..pieces).map(|number| ours.pieces_tx.send(number, contents(number, bytes))));
    let receiving = async {
        for _ in 0..pieces {
            let piece = theirs.channel.pieces_rx.recv().await.expect("a piece");
            assert_eq!(piece.payload, contents(piece.number, bytes));
        }
    };
    let (sent, ()) = soon(async { tokio::join!(sending, receiving) }).await;
    sent.unwrap();
}

/// What is sent again and what it replaces come together, before anybody has read the first: quinn then has bytes of a stream twice.
#[tokio::test]
async fn a_piece_whose_beginning_comes_twice_at_once_is_read_once() {
    // What comes in the last half of each round is gathered, and handed out last first: long enough for a probe to follow.
    let gathers = |datagram: Datagram| {
        let round = datagram.at.as_millis() / 400;
        let end = MS * u32::try_from((round + 1) * 400).unwrap();
        vec![if end - datagram.at > 200 * MS { datagram.at } else { end }]
    };
    let (fleet, path, session) = over(Duration::ZERO, gathers).await;
    let (ours, mut theirs) = open(&session, &fleet.nodes[1]).await;
    let clock = Clock::system();
    let begun = clock.now();
    while clock.now() - begun < Duration::from_secs(5) {
        moves(&ours, &mut theirs, 30, 3000).await;
    }
    assert!(session.closed().is_none());
    drop(path);
}

/// At the smallest MTU, every other datagram of a piece late by half a second: as many gaps in each stream as there can be. quinn closes a connection
/// that keeps over 1,024 separate parts of one stream.
#[tokio::test]
async fn a_piece_with_as_many_gaps_as_possible_ends_nothing() {
    let (delay, late) = (40 * MS, 500 * MS);
    // So many of the next datagrams.
    let torn = Arc::new(AtomicU64::new(0));
    let left = Arc::clone(&torn);
    let tears = move |datagram: Datagram| {
        if datagram.bytes > 1200 {
            return Vec::new();
        }
        let tear = left.try_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        vec![datagram.at + if tear && datagram.number.is_multiple_of(2) { late } else { delay }]
    };
    let (fleet, path, session) = over(delay, tears).await;
    let (mut ours, mut theirs) = open(&session, &fleet.nodes[1]).await;
    // Until the window takes a whole piece.
    moves(&ours, &mut theirs, 10, MAX_PIECE).await;
    torn.store(1000, Relaxed);
    moves(&ours, &mut theirs, 4, MAX_PIECE).await;
    moves(&ours, &mut theirs, 10, MAX_PIECE).await;
    torn.store(1000, Relaxed);
    // What is read in order waits for all of it.
    let frames = async {
        for number in 0..3 {
            ours.control_tx.send(&contents(number, MAX_CONTROL_FRAME)).await.unwrap();
        }
    };
    let taken = async {
        for number in 0..3 {
            assert_eq!(theirs.channel.control_rx.recv().await.unwrap(), Some(contents(number, MAX_CONTROL_FRAME)));
        }
    };
    soon(async { tokio::join!(frames, taken) }).await;
    assert!(session.closed().is_none());
    let info = session.info();
    println!("{} on the way at once, {} bytes taken for lost", path.most_on_the_way(), info.bytes_lost);
    assert!(path.most_on_the_way() > 600, "the window was never a whole piece: {}", path.most_on_the_way());
    assert_eq!(info.mtu, 1200);
}

/// Doubled, late by chance, lost: none of it is seen by who reads.
#[tokio::test]
async fn doubled_late_and_lost_datagrams_are_nobodys_concern() {
    let mut state = 7_u64;
    let mut dice = move |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let bad = move |datagram: Datagram| {
        let mut arrival = || datagram.at + MS * u32::try_from(5 + dice(20)).unwrap();
        let twice = vec![arrival(), arrival()];
        match dice(50) {
            0 => Vec::new(),
            1..20 => twice,
            _ => twice[..1].to_vec(),
        }
    };
    let (fleet, _path, session) = over(5 * MS, bad).await;
    let (ours, mut theirs) = open(&session, &fleet.nodes[1]).await;
    moves(&ours, &mut theirs, 60, 40_000).await;
    moves(&ours, &mut theirs, 4, MAX_PIECE).await;
    assert!(session.closed().is_none());
    assert_eq!(soon(session.ping()).await.map(drop), Ok(()));
}

/// A NAT on the way forgets the connection again and again: it goes on under another address, and none is opened anew.
#[tokio::test]
async fn a_dialler_whose_port_changes_on_the_way_keeps_its_session() {
    let (fleet, path, session) = over(10 * MS, |datagram| vec![datagram.at + 10 * MS]).await;
    let (ours, mut theirs) = open(&session, &fleet.nodes[1]).await;
    let at = || fleet.nodes[1].endpoint.sessions().first().map(|session| session.info().remote);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..4 {
        let before = at();
        seen.extend(before);
        path.rebind();
        moves(&ours, &mut theirs, 20, 100_000).await;
        soon(async {
            while at() == before {
                moves(&ours, &mut theirs, 1, 1000).await;
            }
        })
        .await;
    }
    assert!(session.closed().is_none() && seen.len() == 4, "{seen:?}");
    assert_eq!(fleet.nodes[1].endpoint.sessions().len(), 1);
}

/// Plain losses say nothing of the path's MTU (quinn's issue 2791). `DWCP_LOSS_SECONDS` is for how long (4).
#[tokio::test]
async fn random_losses_are_not_taken_for_a_smaller_mtu() {
    let seconds = std::env::var("DWCP_LOSS_SECONDS").map_or(4, |seconds| seconds.parse().unwrap());
    let lossy = |percent: u64| async move {
        let mut state = percent;
        let loses = move |datagram: Datagram| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let lost = datagram.bytes > 1472 || (state >> 33) % 100 < percent;
            if lost { Vec::new() } else { vec![datagram.at + 10 * MS] }
        };
        let fleet = fleet(2, |_, _| {}).await;
        let path = Path::to(fleet.nodes[1].address(), 10 * MS, loses).await;
        let key = fleet.nodes[1].identity.public_key();
        let session = soon(fleet.nodes[0].endpoint.session(key, &[path.address])).await.unwrap();
        let (ours, mut theirs) = open(&session, &fleet.nodes[1]).await;
        let clock = Clock::system();
        let begun = clock.now();
        let (mut least, mut found) = (u16::MAX, false);
        while clock.now() - begun < Duration::from_secs(seconds) {
            moves(&ours, &mut theirs, 4, 100_000).await;
            let mtu = session.info().mtu;
            found |= mtu > 1400;
            if found {
                least = least.min(mtu);
            }
        }
        let info = session.info();
        println!(
            "{percent} %: {} bytes lost of {}, MTU {} and never below {least}",
            info.bytes_lost, info.bytes_sent, info.mtu
        );
        assert!(found && least > 1400, "{percent} %: {least}, {}", info.mtu);
    };
    tokio::join!(lossy(1), lossy(3), lossy(10));
}
