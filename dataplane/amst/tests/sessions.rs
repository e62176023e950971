//! Real QUIC on loopback: who gets in, what arrives, and what is bounded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use bed::{Fleet, PATIENCE, contents, fleet, open, options, soon};
use bytes::Bytes;
use dataplane_amst::{
    Channel, CloseReason, ControlError, DialError, Endpoint, IncomingChannel, MAX_PIECE, OpenChannelError, Options,
    SendError, TransportSettings,
};
use foundation_runtime::{Clock, TaskGroup};
use proto_model::ByteCount;
use proto_model::config::CongestionAlgorithm;

#[tokio::test]
async fn peers_know_each_other_and_pieces_arrive_intact_in_any_order() {
    let fleet = fleet(2, |_, options| options.settings.lanes = 2).await;
    let (session, ours, mut theirs) = fleet.channel().await;
    assert_eq!(ours.peer, fleet.nodes[1].identity.public_key());
    assert_eq!(theirs.channel.peer, fleet.nodes[0].identity.public_key());
    assert_eq!(theirs.remote, fleet.nodes[0].address());

    let lengths = [0, 1, 4096, 70_000, 1024 * 1024, MAX_PIECE];
    let sender = ours.pieces_tx.clone();
    let sending = async {
        let sends = (0..60_u64).map(|number| {
            let payload = contents(number, lengths[usize::try_from(number).unwrap() % lengths.len()]);
            let sender = sender.clone();
            async move { sender.send(number, payload).await.unwrap() }
        });
        futures::future::join_all(sends).await;
    };
    let receiving = async {
        let mut seen = BTreeMap::new();
        while seen.len() < 60 {
            let piece = theirs.channel.pieces_rx.recv().await.unwrap();
            let length = lengths[usize::try_from(piece.number).unwrap() % lengths.len()];
            assert_eq!(piece.payload, contents(piece.number, length));
            assert!(seen.insert(piece.number, ()).is_none(), "each piece arrives once");
        }
    };
    soon(async { tokio::join!(sending, receiving) }).await;
    let info = session.info();
    assert_eq!((info.congestion_algorithm, info.streams), ("auto", 32));
    assert!(soon(session.ping()).await.unwrap() < PATIENCE);
}

#[tokio::test]
async fn control_frames_arrive_in_order_both_ways_and_end() {
    let fleet = fleet(2, |_, _| {}).await;
    let (_session, mut ours, theirs) = fleet.channel().await;
    let mut theirs = theirs.channel;
    let large = contents(1, dataplane_amst::MAX_CONTROL_FRAME);
    let there = async {
        ours.control_tx.send(&large).await.unwrap();
        ours.control_tx.send(b"").await.unwrap();
        ours.control_tx.send(b"last").await.unwrap();
        ours.control_tx.finish();
        ours.control_rx.recv().await.unwrap()
    };
    let back = async {
        assert_eq!(theirs.control_rx.recv().await.unwrap(), Some(large.clone()));
        assert_eq!(theirs.control_rx.recv().await.unwrap(), Some(Bytes::new()));
        assert_eq!(theirs.control_rx.recv().await.unwrap(), Some(Bytes::from_static(b"last")));
        assert_eq!(theirs.control_rx.recv().await.unwrap(), None);
        theirs.control_tx.send(b"answer").await.unwrap();
    };
    let (answer, ()) = soon(async { tokio::join!(there, back) }).await;
    assert_eq!(answer, Some(Bytes::from_static(b"answer")));
}

#[tokio::test]
async fn a_stranger_is_refused_by_both_ends() {
    let Fleet { fleet, nodes } = fleet(1, |_, _| {}).await;
    let dir = tempfile::tempdir().unwrap();
    // It has a certificate of the fleet, and a roster in which it stands; nobody else has that roster.
    let stranger = fleet.node(dir.path(), "stranger");
    fleet.share([&stranger]);
    let tasks = TaskGroup::new("stranger");
    let endpoint = Endpoint::bind(options(&stranger), Clock::system(), tasks).await.unwrap();
    let refused = soon(endpoint.session(nodes[0].identity.public_key(), &[nodes[0].address()])).await;
    assert!(matches!(refused, Err(DialError::Refused(_))), "{refused:?}");
    let refused = soon(nodes[0].endpoint.session(stranger.public_key(), &[endpoint.local_addr()])).await;
    assert_eq!(refused.err(), Some(DialError::NotAMember));
    assert!(nodes[0].endpoint.sessions().is_empty());
}

#[tokio::test]
async fn a_node_of_another_fleet_is_refused() {
    let ours = fleet(1, |_, _| {}).await;
    let theirs = fleet(1, |_, _| {}).await;
    // Each roster has the other's key; the certificates are of two CAs.
    for (fleet, mine, other) in [(&ours.fleet, &ours, &theirs), (&theirs.fleet, &theirs, &ours)] {
        fleet.enter(&other.nodes[0].identity, "other", proto_model::Labels::default());
        fleet.share([&mine.nodes[0].identity]);
    }
    let refused = ours.nodes[0].dial(&theirs.nodes[0]).await.unwrap_err();
    assert!(matches!(refused, DialError::Unreachable(_)), "{refused:?}");
}

#[tokio::test]
async fn another_member_at_the_address_is_not_taken_for_the_peer_and_the_next_address_is_tried() {
    let fleet = fleet(3, |_, _| {}).await;
    let [a, b, c] = fleet.nodes.as_slice() else { panic!() };
    let key = b.identity.public_key();
    let error = soon(a.endpoint.session(key, &[c.address()])).await.unwrap_err();
    assert!(error.is_temporary() && matches!(error, DialError::Unreachable(_)), "{error:?}");
    let session = soon(a.endpoint.session(key, &[c.address(), b.address()])).await.unwrap();
    assert_eq!(session.info().remote, b.address());
}

#[tokio::test]
async fn a_revoked_peer_is_cut_while_it_is_connected() {
    let fleet = fleet(2, |_, _| {}).await;
    let (session, _ours, theirs) = fleet.channel().await;
    fleet.fleet.revoke(&fleet.nodes[0].identity);
    fleet.fleet.share([&fleet.nodes[1].identity]);
    assert_eq!(soon(session.wait_closed()).await.reason, CloseReason::NotAMember);
    assert!(fleet.nodes[1].endpoint.sessions().is_empty());
    let mut theirs = theirs.channel;
    assert!(soon(theirs.control_rx.recv()).await.is_err());
    assert!(soon(theirs.pieces_rx.recv()).await.is_none());
    let refused = fleet.nodes[0].dial(&fleet.nodes[1]).await;
    assert!(matches!(refused, Err(DialError::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn a_receiver_that_reads_nothing_holds_its_share_of_the_budget_and_stalls_no_other_channel() {
    let budget = 16 * 1024 * 1024;
    let fleet = fleet(2, |_, options| options.limits.receive_budget = ByteCount::new(budget)).await;
    let (session, deaf, mut deaf_there) = fleet.channel().await;
    let (busy, mut busy_there) = open(&session, &fleet.nodes[1]).await;

    // All the deaf channel ever takes: sends until none has gone through while the other channel moved 64 MiB.
    let mut sends = futures::stream::FuturesUnordered::new();
    for number in 0..64 {
        let sender = deaf.pieces_tx.clone();
        sends.push(async move { sender.send(number, contents(number, 1024 * 1024)).await });
    }
    let mut went = 0;
    for number in 0..64_u64 {
        let payload = contents(number, 1024 * 1024);
        let moved = async {
            let sent = busy.pieces_tx.send(number, payload.clone());
            let (sent, piece) = tokio::join!(sent, busy_there.channel.pieces_rx.recv());
            sent.unwrap();
            assert_eq!(piece.unwrap().payload, payload);
        };
        let mut moved = std::pin::pin!(moved);
        soon(async {
            loop {
                tokio::select! {
                    () = &mut moved => break,
                    Some(sent) = futures::StreamExt::next(&mut sends) => { sent.unwrap(); went += 1; }
                }
            }
        })
        .await;
    }
    assert!((1..=9).contains(&went), "half of the budget and one piece at most, not {went}");
    assert!(fleet.nodes[1].endpoint.memory().promised.bytes() <= budget);

    // Once it listens, all of it comes.
    let rest = async {
        while let Some(sent) = futures::StreamExt::next(&mut sends).await {
            sent.unwrap();
        }
    };
    let listening = async {
        for _ in 0..64 {
            let piece = deaf_there.channel.pieces_rx.recv().await.unwrap();
            assert_eq!(piece.payload, contents(piece.number, 1024 * 1024));
        }
    };
    soon(async { tokio::join!(rest, listening) }).await;
    drop((deaf, deaf_there, busy, busy_there));
    // What the connection itself may hold is given back with its end.
    fleet.nodes[0].endpoint.shutdown(Duration::from_secs(5)).await.unwrap();
    soon(async {
        while fleet.nodes[1].endpoint.memory().promised.bytes() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_piece_that_is_too_large_is_not_sent_and_one_for_a_closed_receiver_is_refused() {
    let fleet = fleet(2, |_, _| {}).await;
    let (_session, ours, theirs) = fleet.channel().await;
    let large = Bytes::from(vec![0; MAX_PIECE + 1]);
    assert_eq!(ours.pieces_tx.send(0, large).await, Err(SendError::TooLarge(MAX_PIECE + 1)));
    let IncomingChannel { channel, .. } = theirs;
    let Channel { pieces_rx, mut control_tx, .. } = channel;
    drop(pieces_rx);
    soon(async {
        // The word that pieces are not wanted any more is on its way.
        while ours.pieces_tx.send(1, Bytes::from_static(b"piece")).await.is_ok() {}
    })
    .await;
    assert_eq!(ours.pieces_tx.send(2, Bytes::new()).await, Err(SendError::NotWanted));
    // The channel's other half goes on.
    soon(control_tx.send(b"still here")).await.unwrap();
}

#[tokio::test]
async fn crossed_dials_serve_both_ends_and_callers_at_once_share_one() {
    let fleet = fleet(2, |_, _| {}).await;
    let [a, b] = fleet.nodes.as_slice() else { panic!() };
    let (first, second, back) = tokio::join!(a.dial(b), a.dial(b), b.dial(a));
    let (first, second, back) = (first.unwrap(), second.unwrap(), back.unwrap());
    assert_eq!((first.peer(), second.peer()), (b.identity.public_key(), b.identity.public_key()));
    for (session, acceptor) in [(&first, b), (&second, b), (&back, a)] {
        let (_ours, _theirs) = open(session, acceptor).await;
    }
    assert!(a.endpoint.sessions().len() <= 2);
}

#[tokio::test]
async fn a_peer_that_vanishes_is_noticed_and_one_that_shuts_down_says_so() {
    let quick = |_: usize, options: &mut Options| {
        options.limits.idle_timeout = Duration::from_millis(500);
        options.limits.keep_alive = Duration::from_millis(100);
    };
    let fleet = fleet(3, quick).await;
    let [a, b, c] = fleet.nodes.as_slice() else { panic!() };

    // Through a relay that can be cut, b vanishes without a word.
    let relay = Relay::to(b.address(), |_| Fate::Pass).await;
    let session = soon(a.endpoint.session(b.identity.public_key(), &[relay.address])).await.unwrap();
    let (ours, _theirs) = open(&session, b).await;
    relay.tasks.shutdown(PATIENCE).await.unwrap();
    let closed = soon(session.wait_closed()).await;
    assert_eq!(closed.reason, CloseReason::TimedOut);
    assert!(closed.is_temporary());
    let error = ours.pieces_tx.send(0, Bytes::from_static(b"piece")).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");

    let session = a.dial(c).await.unwrap();
    c.tasks.shutdown(PATIENCE).await.unwrap();
    assert_eq!(soon(session.wait_closed()).await.reason, CloseReason::PeerShutdown);
    let error = a.dial(c).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
}

#[tokio::test]
async fn lanes_spread_over_sockets_and_the_port_is_dual_stack() {
    let fleet = fleet(2, |_, options| {
        options.listen = "[::]:0".parse().unwrap();
        options.sockets = 4;
        options.settings.lanes = 4;
    })
    .await;
    let (session, ours, mut theirs) = fleet.channel().await;
    soon(async {
        while session.info().lanes < 4 || fleet.nodes[1].endpoint.sessions()[0].info().lanes < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let sending =
        futures::future::join_all((0..32).map(|number| ours.pieces_tx.send(number, contents(number, 300_000))));
    let receiving = async {
        for _ in 0..32 {
            let piece = theirs.channel.pieces_rx.recv().await.unwrap();
            assert_eq!(piece.payload, contents(piece.number, 300_000));
        }
    };
    let (sent, ()) = soon(async { tokio::join!(sending, receiving) }).await;
    assert!(sent.iter().all(Result::is_ok));
}

#[tokio::test]
async fn settings_change_while_a_session_lives() {
    let fleet = fleet(2, |_, _| {}).await;
    let (session, _ours, _theirs) = fleet.channel().await;
    let endpoint = &fleet.nodes[0].endpoint;
    let wanted = TransportSettings { initial_streams: 64, ..TransportSettings::default() };
    endpoint.retune(wanted.clone()).unwrap();
    assert_eq!((session.info().streams, endpoint.settings()), (64, wanted.clone()));
    endpoint.retune(TransportSettings { min_streams: 65, ..wanted.clone() }).unwrap_err();
    assert_eq!(endpoint.settings(), wanted);
}

#[tokio::test]
async fn channels_beyond_what_a_session_or_the_budget_takes_are_refused_for_now() {
    let fleet = fleet(2, |_, options| options.limits.receive_budget = ByteCount::mib(64)).await;
    let session = fleet.nodes[0].dial(&fleet.nodes[1]).await.unwrap();
    let mut kept = Vec::new();
    let refused = soon(async {
        loop {
            match session.open_channel().await {
                Ok(channel) => kept.push(channel),
                Err(error) => break error,
            }
        }
    })
    .await;
    assert_eq!(refused, OpenChannelError::Busy);
    assert!(refused.is_temporary() && kept.len() == 5, "{}", kept.len());
    kept.clear();
    let mut incoming = Vec::new();
    for _ in 0..5 {
        incoming.push(soon(fleet.nodes[1].endpoint.next_channel()).await.unwrap());
    }
    drop(incoming);
    let (_ours, _theirs) = open(&session, &fleet.nodes[1]).await;
}

#[tokio::test]
async fn what_is_said_behind_an_opening_arrives_with_it_and_a_refusal_shows_at_the_first_answer() {
    let little = |number, options: &mut Options| {
        if number == 1 {
            options.limits.receive_budget = ByteCount::mib(64);
        }
    };
    let fleet = fleet(2, little).await;
    let session = fleet.nodes[0].dial(&fleet.nodes[1]).await.unwrap();
    assert!(session.is_early());
    let mut ours = soon(session.open_channel_early()).await.unwrap();
    soon(ours.control_tx.send(b"at once")).await.unwrap();
    let mut theirs = soon(fleet.nodes[1].endpoint.next_channel()).await.unwrap().channel;
    assert_eq!(soon(theirs.control_rx.recv()).await.unwrap().unwrap(), "at once");
    soon(theirs.control_tx.send(b"an answer")).await.unwrap();
    assert_eq!(soon(ours.control_rx.recv()).await.unwrap().unwrap(), "an answer");
    // The credit came with it.
    let piece = contents(1, 300_000);
    let (sent, came) =
        soon(async { tokio::join!(ours.pieces_tx.send(1, piece.clone()), theirs.pieces_rx.recv()) }).await;
    sent.unwrap();
    assert_eq!(came.unwrap().payload, piece);

    let mut kept = Vec::new();
    soon(async {
        while let Ok(channel) = session.open_channel().await {
            kept.push(channel);
        }
    })
    .await;
    let mut refused = soon(session.open_channel_early()).await.unwrap();
    assert_eq!(soon(refused.control_rx.recv()).await.unwrap_err(), ControlError::Busy);
    drop(refused);
    // Nothing of it is left.
    soon(ours.control_tx.send(b"more")).await.unwrap();
    assert_eq!(soon(theirs.control_rx.recv()).await.unwrap().unwrap(), "more");
}

#[tokio::test]
async fn pieces_survive_a_path_that_loses_and_reorders() {
    let fleet = fleet(2, |_, _| {}).await;
    let [a, b] = fleet.nodes.as_slice() else { panic!() };
    // Of every hundred datagrams three are lost and ten come late: many gaps in every stream, none of them fatal.
    let relay = Relay::to(b.address(), |count| match count % 100 {
        20 | 50 | 51 if count > 100 => Fate::Lose,
        30..40 if count > 100 => Fate::Delay,
        _ => Fate::Pass,
    })
    .await;
    let session = soon(a.endpoint.session(b.identity.public_key(), &[relay.address])).await.unwrap();
    let (ours, mut theirs) = open(&session, b).await;
    let sending =
        futures::future::join_all((0..8).map(|number| ours.pieces_tx.send(number, contents(number, MAX_PIECE))));
    let receiving = async {
        for _ in 0..8 {
            let piece = theirs.channel.pieces_rx.recv().await.unwrap();
            assert_eq!(piece.payload, contents(piece.number, MAX_PIECE));
        }
    };
    let (sent, ()) = soon(async { tokio::join!(sending, receiving) }).await;
    assert!(sent.iter().all(Result::is_ok));
    assert!(session.closed().is_none());
    assert!(session.info().bytes_lost > 0);
}

/// quinn hands ten datagrams to the kernel at once; above 65,507 bytes together they vanish. On loopback the path takes any
/// size, so the discovery goes as far as it may.
#[tokio::test]
async fn the_largest_datagrams_that_are_discovered_do_not_vanish_when_ten_are_sent_at_once() {
    let fleet = fleet(2, |_, _| {}).await;
    let (session, ours, mut theirs) = fleet.channel().await;
    let mut number = 0;
    soon(async {
        while session.info().mtu < 6000 {
            let (sent, piece) =
                tokio::join!(ours.pieces_tx.send(number, contents(7, 10_000)), theirs.channel.pieces_rx.recv());
            sent.unwrap();
            assert!(piece.is_some());
            number += 1;
        }
    })
    .await;
    let before = session.info();
    let payload = contents(1, MAX_PIECE);
    let sending = futures::future::join_all((0..32).map(|number| ours.pieces_tx.send(number, payload.clone())));
    let receiving = async {
        for _ in 0..32 {
            assert_eq!(theirs.channel.pieces_rx.recv().await.unwrap().payload, payload);
        }
    };
    soon(async { tokio::join!(sending, receiving) }).await;
    let after = session.info();
    let (sent, lost) = (after.bytes_sent - before.bytes_sent, after.bytes_lost - before.bytes_lost);
    assert!(lost < sent / 4, "{lost} of {sent} bytes were lost");
    assert!(10 * usize::from(after.mtu) <= 65_507, "{}", after.mtu);
}

/// What becomes of a datagram.
#[derive(Clone, Copy)]
enum Fate {
    Pass,
    Lose,
    /// Comes after the next one that passes.
    Delay,
}

/// A path between a dialler and one address.
struct Relay {
    address: SocketAddr,
    tasks: TaskGroup,
}

impl Relay {
    async fn to(target: SocketAddr, fate: impl Fn(u64) -> Fate + Send + Sync + 'static) -> Self {
        Self::to_changing(Arc::new(Mutex::new(target)), fate).await
    }

    async fn to_changing(target: Arc<Mutex<SocketAddr>>, fate: impl Fn(u64) -> Fate + Send + Sync + 'static) -> Self {
        let near = Arc::new(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let far = Arc::new(tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = near.local_addr().unwrap();
        let tasks = TaskGroup::new("relay");
        let token = tasks.token().clone();
        tasks.spawn("relay", foundation_runtime::OnEnd::Expected, async move {
            let (mut out, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            let mut dialler = address;
            let mut late: Vec<Vec<u8>> = Vec::new();
            let mut count = 0;
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    Ok((length, from)) = near.recv_from(&mut out) => {
                        dialler = from;
                        count += 1;
                        let target = *target.lock().unwrap();
                        match fate(count) {
                            Fate::Lose => {}
                            Fate::Delay => late.push(out[..length].to_vec()),
                            Fate::Pass => {
                                far.send_to(&out[..length], target).await.unwrap();
                                for datagram in late.drain(..).rev() {
                                    far.send_to(&datagram, target).await.unwrap();
                                }
                            }
                        }
                    }
                    Ok((length, _)) = far.recv_from(&mut back) => {
                        near.send_to(&back[..length], dialler).await.unwrap();
                    }
                }
            }
        });
        Self { address, tasks }
    }
}

#[tokio::test]
async fn a_peer_that_started_anew_is_noticed_at_once() {
    // Longer than this test may take: it is not the time-out that finds it.
    let fleet = fleet(2, |_, options| options.limits.idle_timeout = 2 * PATIENCE).await;
    let [a, b] = fleet.nodes.as_slice() else { panic!() };
    // The same node again at another port, as after a kill; the path then leads to it.
    let tasks = TaskGroup::new("again");
    let again = Endpoint::bind(options(&b.identity), Clock::system(), tasks).await.unwrap();
    let target = Arc::new(Mutex::new(b.address()));
    let relay = Relay::to_changing(Arc::clone(&target), |_| Fate::Pass).await;
    let session = soon(a.endpoint.session(b.identity.public_key(), &[relay.address])).await.unwrap();
    *target.lock().unwrap() = again.local_addr();
    assert_eq!(soon(session.wait_closed()).await.reason, CloseReason::PeerRestarted);
    let session = soon(a.endpoint.session(b.identity.public_key(), &[relay.address])).await.unwrap();
    soon(session.ping()).await.unwrap();
}

#[tokio::test]
async fn what_is_configured_governs_new_sessions_and_lanes_are_one_flow() {
    for algorithm in [CongestionAlgorithm::Reno, CongestionAlgorithm::Cubic, CongestionAlgorithm::Auto] {
        let fleet = fleet(2, |_, options| {
            options.settings.lanes = 4;
            options.settings.congestion = algorithm;
        })
        .await;
        let (session, ours, mut theirs) = fleet.channel().await;
        let payload = contents(1, MAX_PIECE);
        let sending = async {
            for number in 0..8 {
                ours.pieces_tx.send(number, payload.clone()).await.unwrap();
            }
        };
        let receiving = async {
            for _ in 0..8 {
                theirs.channel.pieces_rx.recv().await.unwrap();
            }
        };
        soon(async { tokio::join!(sending, receiving) }).await;
        let info = session.info();
        assert_eq!(info.congestion_algorithm, algorithm.as_str());
        let congestion = info.congestion.unwrap();
        assert!(congestion.window > 12_000 && congestion.min_rtt > Duration::ZERO, "{congestion:?}");
        // Both ends have what was configured, also where it is changed while a session lives.
        let mut settings = fleet.nodes[0].endpoint.settings();
        settings.congestion = CongestionAlgorithm::Cubic;
        fleet.nodes[0].endpoint.retune(settings).unwrap();
        assert_eq!(session.info().congestion_algorithm, algorithm.as_str(), "a session keeps what it began with");
    }
}
