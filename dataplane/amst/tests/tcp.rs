//! Lanes over TCP with TLS: the same pieces arrive as over QUIC, also when the lane is cut.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails here")]

mod bed;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bed::{Fleet, contents, fleet, path::Path, soon};
use dataplane_amst::{Channel, MAX_PIECE, PieceReceiver, PieceSender, SendError, Session, SessionInfo, TcpPort};
use foundation_runtime::{OnEnd, TaskGroup};
use proto_model::config::TcpLane;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Barrier,
};

const LENGTHS: [usize; 6] = [0, 1, 4096, 70_000, 1024 * 1024, MAX_PIECE];

async fn nodes(policy: impl Fn(usize) -> TcpLane) -> Fleet {
    fleet(3, |index, options| options.settings.tcp_lane = policy(index)).await
}

/// Waits for what can be seen of a session.
async fn until(session: &Session, what: impl Fn(&SessionInfo) -> bool) {
    soon(async {
        while !what(&session.info()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn carries(info: &SessionInfo) -> bool {
    info.tcp_lane.is_some_and(|lane| lane.carries)
}

async fn moves(from: &Channel, to: &mut Channel, count: u64) {
    flow(&from.pieces_tx, &mut to.pieces_rx, count).await;
}

/// Sends pieces of all lengths one way, many at once; each arrives once, as it was.
async fn flow(from: &PieceSender, to: &mut PieceReceiver, count: u64) {
    let length = |number: u64| LENGTHS[usize::try_from(number).unwrap() % LENGTHS.len()];
    let sends = (0..count).map(|number| from.send(number, contents(number, length(number))));
    let sending = async {
        for sent in futures::future::join_all(sends).await {
            sent.unwrap();
        }
    };
    let receiving = async {
        let mut seen = BTreeMap::new();
        while u64::try_from(seen.len()).unwrap() < count {
            let piece = to.recv().await.unwrap();
            assert!(piece.payload == contents(piece.number, length(piece.number)), "{}", piece.number);
            assert!(seen.insert(piece.number, ()).is_none(), "each piece arrives once");
        }
    };
    soon(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn pieces_arrive_over_tcp_as_over_quic_in_both_directions() {
    let fleet = nodes(|_| TcpLane::Always).await;
    let (session, mut ours, mut theirs) = fleet.channel().await;
    let far = fleet.nodes[1].endpoint.sessions().remove(0);
    until(&session, carries).await;
    until(&far, carries).await;
    moves(&ours, &mut theirs.channel, 40).await;
    moves(&theirs.channel, &mut ours, 40).await;
    for info in [session.info(), far.info()] {
        assert!(info.tcp_bytes_sent > 10_000_000 && info.tcp_bytes_received > 10_000_000, "{info:?}");
        assert!(info.bytes_sent > info.tcp_bytes_sent && info.bytes_sent < info.tcp_bytes_sent + 1_000_000, "{info:?}");
    }
    assert_eq!(session.info().tcp_lane.map(|lane| lane.dialled), far.info().tcp_lane.map(|lane| !lane.dialled));
}

#[tokio::test]
async fn where_one_end_wants_none_nothing_listens_and_quic_carries_all() {
    let fleet = nodes(|index| if index == 1 { TcpLane::Off } else { TcpLane::Always }).await;
    assert_eq!(*fleet.nodes[1].endpoint.tcp_port().borrow(), TcpPort::Off);
    let open = TcpPort::Open(fleet.nodes[0].endpoint.local_addr());
    assert_eq!(*fleet.nodes[0].endpoint.tcp_port().borrow(), open);
    assert!(TcpStream::connect(fleet.nodes[1].address()).await.is_err());
    let (session, ours, mut theirs) = fleet.channel().await;
    moves(&ours, &mut theirs.channel, 20).await;
    assert_eq!((session.info().tcp_lane, session.info().tcp_bytes_sent), (None, 0));
}

#[tokio::test]
async fn the_setting_changes_live_while_pieces_are_under_way() {
    let fleet = nodes(|_| TcpLane::Off).await;
    let (session, ours, mut theirs) = fleet.channel().await;
    let set = |policy| {
        for node in &fleet.nodes {
            let mut settings = node.endpoint.settings();
            settings.tcp_lane = policy;
            node.endpoint.retune(settings).unwrap();
        }
    };
    let changing = async {
        for _ in 0..2 {
            set(TcpLane::Always);
            until(&session, carries).await;
            set(TcpLane::Off);
            until(&session, |info| info.tcp_lane.is_none()).await;
        }
    };
    let moving = async {
        for _ in 0..3 {
            moves(&ours, &mut theirs.channel, 60).await;
        }
    };
    soon(async { tokio::join!(changing, moving) }).await;
    assert!(session.closed().is_none() && session.info().tcp_bytes_sent > 0);
}

#[tokio::test]
async fn a_taken_port_is_said_and_quic_serves_alone() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let fleet = fleet(2, |index, options| {
        options.settings.tcp_lane = TcpLane::Always;
        if index == 1 {
            options.listen = address;
        }
    })
    .await;
    let TcpPort::Failed(reason) = fleet.nodes[1].endpoint.tcp_port().borrow().clone() else { panic!() };
    assert!(reason.contains(&address.to_string()) && reason.contains("in use"), "{reason}");
    // Nobody answers with TLS there.
    let (session, ours, mut theirs) = fleet.channel().await;
    moves(&ours, &mut theirs.channel, 20).await;
    assert_eq!(session.info().tcp_lane.map(|lane| lane.dialled), None);
}

#[tokio::test]
async fn one_that_is_revoked_is_cut_on_tcp_as_on_quic() {
    let fleet = nodes(|_| TcpLane::Always).await;
    let (session, ours, mut theirs) = fleet.channel().await;
    until(&session, carries).await;
    moves(&ours, &mut theirs.channel, 10).await;
    let far = fleet.nodes[1].endpoint.sessions().remove(0);
    fleet.fleet.revoke(&fleet.nodes[0].identity);
    fleet.fleet.share([&fleet.nodes[1].identity]);
    soon(far.wait_closed()).await;
    soon(session.wait_closed()).await;
    until(&far, |info| info.tcp_lane.is_none()).await;
}

#[tokio::test]
async fn a_session_that_ends_in_the_middle_of_a_flow_ends_each_send_and_keeps_nothing() {
    let fleet = nodes(|_| TcpLane::Always).await;
    let (session, ours, mut theirs) = fleet.channel().await;
    until(&session, carries).await;
    let payload = contents(1, 1024 * 1024);
    let sends = (0..800).map(|number| ours.pieces_tx.send(number, payload.clone()));
    let sending = futures::future::join_all(sends);
    let ending = async {
        for _ in 0..100 {
            theirs.channel.pieces_rx.recv().await.unwrap();
        }
        drop(fleet.nodes[1].endpoint.shutdown(Duration::from_secs(3)).await);
    };
    let (results, ()) = soon(async { tokio::join!(sending, ending) }).await;
    assert!(results.iter().any(|sent| matches!(sent, Err(SendError::Session(_)))), "it was in the middle");
    assert!(session.closed().is_some());
    until(&session, |info| info.streams_in_use == 0 && info.tcp_lane.is_none()).await;
    soon(async {
        while fleet.nodes[0].endpoint.send_memory().promised.bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // No task waits for a peer that is gone.
    fleet.nodes[0].endpoint.shutdown(Duration::from_secs(3)).await.unwrap();
}

/// What becomes of a connection that has carried its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Both ends hear of it.
    Reset,
    /// Nothing more arrives, and nobody says so.
    Silence,
}

/// Carries each connection so many bytes far, of both directions together.
async fn proxy(address: SocketAddr, target: SocketAddr, share: u64, end: End) -> (TaskGroup, Arc<AtomicU64>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let (tasks, ended) = (TaskGroup::new("proxy"), Arc::new(AtomicU64::new(0)));
    let (token, count, inner) = (tasks.token().clone(), Arc::clone(&ended), tasks.clone());
    tasks.spawn("proxy", OnEnd::Expected, async move {
        while let Some(Ok((near, _))) = token.run_until_cancelled(listener.accept()).await {
            let (token, count) = (token.clone(), Arc::clone(&count));
            inner.spawn("carry", OnEnd::Expected, async move {
                let Ok(far) = TcpStream::connect(target).await else { return };
                token.run_until_cancelled(carry(near, far, share, end, &count)).await;
            });
        }
    });
    (tasks, ended)
}

async fn carry(mut near: TcpStream, mut far: TcpStream, share: u64, end: End, ended: &AtomicU64) {
    let (mut out, mut back) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut left = share;
    while left > 0 {
        let moved = tokio::select! {
            read = near.read(&mut out) => match read {
                Ok(read @ 1..) => far.write_all(&out[..read]).await.map(|()| read),
                _ => return,
            },
            read = far.read(&mut back) => match read {
                Ok(read @ 1..) => near.write_all(&back[..read]).await.map(|()| read),
                _ => return,
            },
        };
        let Ok(moved) = moved else { return };
        left = left.saturating_sub(u64::try_from(moved).unwrap());
    }
    ended.fetch_add(1, Relaxed);
    match end {
        End::Reset => {
            for stream in [&near, &far] {
                stream.set_zero_linger().unwrap();
            }
        }
        End::Silence => std::future::pending().await,
    }
}

/// Carries connections on once both of two addresses have one; how many there were at each.
async fn crossing(ways: [(SocketAddr, SocketAddr); 2]) -> (TaskGroup, Arc<[AtomicU64; 2]>) {
    let (tasks, counts, both) = (TaskGroup::new("proxy"), Arc::<[AtomicU64; 2]>::default(), Arc::new(Barrier::new(2)));
    for (index, (address, target)) in ways.into_iter().enumerate() {
        let listener = TcpListener::bind(address).await.unwrap();
        let (token, counts, both) = (tasks.token().clone(), Arc::clone(&counts), Arc::clone(&both));
        let inner = tasks.clone();
        tasks.spawn("proxy", OnEnd::Expected, async move {
            while let Some(Ok((near, _))) = token.run_until_cancelled(listener.accept()).await {
                if counts[index].fetch_add(1, Relaxed) == 0 {
                    both.wait().await;
                }
                let (token, mut near) = (token.clone(), near);
                inner.spawn("carry", OnEnd::Expected, async move {
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    drop(token.run_until_cancelled(copy_bidirectional(&mut near, &mut far)).await);
                });
            }
        });
    }
    (tasks, counts)
}

#[tokio::test]
async fn of_two_lanes_that_are_dialled_at_once_one_stays() {
    for _ in 0..3 {
        let fleet = nodes(|_| TcpLane::Always).await;
        let [near, far] = [fleet.nodes[0].address(), fleet.nodes[1].address()];
        let path = Path::to(far, Duration::ZERO, |datagram| vec![datagram.at]).await;
        let (_proxy, dialled) = crossing([(path.address, far), (path.behind, near)]).await;
        let peer = fleet.nodes[1].identity.public_key();
        let session = soon(fleet.nodes[0].endpoint.session(peer, &[path.address])).await.unwrap();
        let (ours, mut theirs) = bed::open(&session, &fleet.nodes[1]).await;
        let far = fleet.nodes[1].endpoint.sessions().remove(0);
        until(&session, carries).await;
        until(&far, carries).await;
        moves(&ours, &mut theirs.channel, 20).await;
        let dialler = [&session, &far].map(|end| end.info().tcp_lane.map(|lane| lane.dialled));
        assert_eq!(dialler, [Some(true), Some(false)], "the one of who dialled the session");
        assert_eq!([0, 1].map(|index| dialled[index].load(Relaxed)), [1, 1], "neither had to dial again");
    }
}

#[tokio::test]
async fn a_lane_that_is_cut_in_the_middle_costs_no_piece_and_doubles_none() {
    for (end, share) in
        [(End::Reset, 3_333_333), (End::Reset, 40_001), (End::Silence, 5_000_000), (End::Silence, 900_000)]
    {
        let fleet = fleet(2, |_, options| {
            options.settings.tcp_lane = TcpLane::Always;
            options.limits.idle_timeout = Duration::from_secs(2);
            options.limits.keep_alive = Duration::from_millis(300);
        })
        .await;
        // Whoever is dialled by the path is dialled by the proxy too.
        let target = fleet.nodes[1].address();
        let path = Path::to(target, Duration::ZERO, |datagram| vec![datagram.at]).await;
        let (_proxy, ended) = proxy(path.address, target, share, end).await;
        let peer = fleet.nodes[1].identity.public_key();
        let session = soon(fleet.nodes[0].endpoint.session(peer, &[path.address])).await.unwrap();
        let (mut ours, mut theirs) = bed::open(&session, &fleet.nodes[1]).await;
        let far = fleet.nodes[1].endpoint.sessions().remove(0);
        until(&session, carries).await;
        until(&far, |info| info.tcp_lane.is_some_and(|lane| lane.carries)).await;
        // Both ways at once, so that each end has pieces that the other did not answer.
        let (a, b) = (&ours.pieces_tx.clone(), &theirs.channel.pieces_tx.clone());
        let there = flow(a, &mut theirs.channel.pieces_rx, 60);
        let back = flow(b, &mut ours.pieces_rx, 60);
        soon(async { tokio::join!(there, back) }).await;
        assert!(ended.load(Relaxed) > 0, "{end:?} {share}: it was cut");
        assert!(session.closed().is_none() && far.closed().is_none());
    }
}
