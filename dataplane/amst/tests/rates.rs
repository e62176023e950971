//! Bounds of what is sent in a second.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bed::{Fleet, contents, fleet, open, soon};
use dataplane_amst::{Channel, IncomingChannel, Rates};
use foundation_runtime::Clock;
use proto_model::config::TcpLane;

const PIECE: usize = 500_000;

/// Moves so many pieces; bits a second.
async fn moves(ours: &Channel, theirs: &mut IncomingChannel, pieces: u64) -> f64 {
    let begun: Instant = Clock::system().now();
    let send =
        futures::future::try_join_all((0..pieces).map(|number| ours.pieces_tx.send(number, contents(number, PIECE))));
    let take = async {
        for _ in 0..pieces {
            theirs.channel.pieces_rx.recv().await.unwrap();
        }
    };
    let (sent, ()) = soon(async { tokio::join!(send, take) }).await;
    sent.unwrap();
    let seconds = (Clock::system().now() - begun).as_secs_f64();
    let bits = 8.0 * f64::from(u32::try_from(pieces).unwrap()) * f64::from(u32::try_from(PIECE).unwrap());
    bits / seconds
}

async fn pair(pacing: Option<u64>) -> (Fleet, Channel, IncomingChannel) {
    let fleet = fleet(3, |_, options| options.settings.pacing_rate = pacing).await;
    let (session, ours, theirs) = fleet.channel().await;
    assert_eq!(session.info().rate_limit, pacing);
    (fleet, ours, theirs)
}

#[tokio::test]
async fn a_session_sends_no_more_than_its_pacing_rate_until_that_is_changed() {
    let (fleet, ours, mut theirs) = pair(Some(40_000_000)).await;
    let rate = moves(&ours, &mut theirs, 20).await;
    println!("of 40 Mbit/s: {rate:.0}");
    assert!(rate < 40_000_000.0 * 1.05, "{rate}");
    let mut settings = fleet.nodes[0].endpoint.settings();
    settings.pacing_rate = None;
    fleet.nodes[0].endpoint.retune(settings).unwrap();
    let rate = moves(&ours, &mut theirs, 40).await;
    assert!(rate > 40_000_000.0 * 1.2, "the bound is gone: {rate}");
}

#[tokio::test]
async fn peers_have_bounds_of_their_own_below_that_of_all() {
    let (fleet, first, mut at_first) = pair(None).await;
    let session = fleet.nodes[0].dial(&fleet.nodes[2]).await.unwrap();
    let (second, mut at_second) = open(&session, &fleet.nodes[2]).await;
    let peers = HashMap::from([(fleet.nodes[1].identity.public_key(), 8_000_000)]);
    fleet.nodes[0].endpoint.set_rates(&Rates { total: Some(48_000_000), peers });
    assert_eq!(session.info().rate_limit, Some(48_000_000));
    let (slow, fast) = tokio::join!(moves(&first, &mut at_first, 3), moves(&second, &mut at_second, 15));
    println!("of 8 and 48 Mbit/s: {slow:.0}, {fast:.0}");
    assert!(slow < 8_000_000.0 * 1.05 && fast < 48_000_000.0 * 1.05, "{slow} {fast}");
    assert!(fast > 2.0 * slow, "the slow peer does not hold up the other: {slow} {fast}");
}

#[tokio::test]
async fn far_below_the_rate_of_one_piece_a_second_they_still_arrive_one_after_the_other() {
    let (_fleet, ours, mut theirs) = pair(Some(4_000_000)).await;
    let rate = moves(&ours, &mut theirs, 3).await;
    println!("of 4 Mbit/s: {rate:.0}");
    assert!(rate < 4_000_000.0 * 1.05, "{rate}");
}

#[tokio::test]
async fn a_bound_holds_over_tcp_as_well() {
    let fleet = fleet(2, |_, options| {
        options.settings.pacing_rate = Some(240_000_000);
        options.settings.tcp_lane = TcpLane::Always;
    })
    .await;
    let (session, ours, mut theirs) = fleet.channel().await;
    soon(async {
        while !session.info().tcp_lane.is_some_and(|lane| lane.carries) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let rate = moves(&ours, &mut theirs, 60).await;
    let info = session.info();
    println!("of 240 Mbit/s over TCP: {rate:.0}, {} of {} bytes", info.tcp_bytes_sent, info.bytes_sent);
    assert!(rate < 240_000_000.0 * 1.05, "{rate}");
    assert!(info.tcp_bytes_sent > 60 * 500_000, "{info:?}");
    // Answers would wait behind pieces that are slow.
    let mut settings = fleet.nodes[0].endpoint.settings();
    settings.pacing_rate = Some(40_000_000);
    fleet.nodes[0].endpoint.retune(settings).unwrap();
    let rate = moves(&ours, &mut theirs, 10).await;
    assert!(rate < 40_000_000.0 * 1.05, "{rate}");
    let (before, now) = (info, session.info());
    assert!(now.tcp_bytes_sent < before.tcp_bytes_sent + 500_000, "{now:?}");
    assert!(now.tcp_lane.is_some_and(|lane| !lane.carries), "{now:?}");
}

#[tokio::test]
async fn what_nobody_wants_any_more_leaves_the_path_to_others() {
    let fleet = fleet(2, |_, options| options.settings.pacing_rate = Some(8_000_000)).await;
    let (session, ours, mut theirs) = fleet.channel().await;
    // Six seconds of it.
    let many = (0..12).map(|number| ours.pieces_tx.send(number, contents(number, PIECE)));
    let mut sending = Box::pin(futures::future::try_join_all(many));
    tokio::select! {
        _all = &mut sending => panic!("they wait for the bound"),
        first = soon(theirs.channel.pieces_rx.recv()) => assert!(first.is_some()),
    }
    let before = session.info().bytes_sent;
    drop(sending);
    drop((ours, theirs));
    let (ours, mut theirs) = open(&session, &fleet.nodes[1]).await;
    moves(&ours, &mut theirs, 1).await;
    let sent = session.info().bytes_sent - before;
    println!("{sent} bytes for one piece of {PIECE}");
    assert!(sent < 1_500_000, "{sent} bytes: more than that piece and what was half sent");
}
