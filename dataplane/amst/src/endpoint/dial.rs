//! Dials peers: several addresses, the first that answers.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use foundation_listener::limit_hits;
use foundation_runtime::OnEnd;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared as SharedFuture},
    stream::FuturesUnordered,
};
use proto_model::PublicKey;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tracing::{Instrument, subscriber::NoSubscriber};

use super::{DialError, Shared, accept::peer_of};
use crate::{
    CloseReason, Session,
    close::Code,
    frames::{FEATURES, Hello, Welcome},
    session::{FrameError, Lane, LaneDial, Origin, canonical, read_frame, reason},
    telemetry, transport,
};

/// Addresses of a peer that are tried, at most: a host has few, and each costs a handshake at somebody's host.
const MAX_ADDRESSES: usize = 16;

/// How long an address is tried alone before the next one is tried too (RFC 8305 5).
const STAGGER: Duration = Duration::from_millis(250);

/// How long an address is tried: several round trips of a bad path.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);

type Dialling = SharedFuture<BoxFuture<'static, Result<Session, DialError>>>;

/// Diallings that are under way, one for each peer at most.
#[derive(Debug, Default)]
pub(super) struct Dials(Arc<Mutex<HashMap<PublicKey, Dialling>>>);

/// The session with a peer, present or dialled.
pub(super) async fn session(
    shared: &Arc<Shared>,
    dials: &Dials,
    peer: PublicKey,
    addresses: &[SocketAddr],
) -> Result<Session, DialError> {
    // Before the first look, so that one that is added after it is noticed.
    let mut additions = shared.additions();
    if shared.tasks.is_cancelled() {
        return Err(DialError::Shutdown);
    }
    if peer == shared.identity.public_key() {
        return Err(DialError::Oneself);
    }
    if !shared.is_member(&peer) {
        return Err(DialError::NotAMember);
    }
    if let Some(session) = shared.session_with(&peer) {
        return Ok(session);
    }
    let addresses = in_order(addresses);
    if addresses.is_empty() {
        return Err(DialError::NoAddress);
    }
    let mut dialling = dials.join(shared, peer, addresses);
    loop {
        tokio::select! {
            result = &mut dialling => {
                let present = shared.session_with(&peer);
                return result.map(|dialled| present.clone().unwrap_or(dialled)).or_else(|error| present.ok_or(error));
            }
            // The sender lives in `shared`.
            _ = additions.changed() => if let Some(session) = shared.session_with(&peer) {
                return Ok(session);
            },
        }
    }
}

impl Dials {
    /// Joins the dialling that is under way, or begins one. It goes on when all who wait for it leave.
    fn join(&self, shared: &Arc<Shared>, peer: PublicKey, addresses: Vec<SocketAddr>) -> Dialling {
        let mut dials = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dialling) = dials.get(&peer) {
            return dialling.clone();
        }
        let span = tracing::info_span!(
            "amst connect",
            otel.kind = "client",
            dwcp.peer.id = %peer.node_id(),
            network.transport = "udp",
            network.protocol.name = "quic",
        );
        let (mine, list) = (Arc::clone(shared), Arc::clone(&self.0));
        let work = async move {
            let result = dial(&mine, peer, addresses).await;
            list.lock().unwrap_or_else(PoisonError::into_inner).remove(&peer);
            telemetry::dialled(result.is_ok());
            if let Err(error) = &result {
                tracing::warn!(peer = %peer.node_id(), reason = %error, "Failed to connect");
                mine.unreachable(&peer);
                telemetry::gauges(&mine);
            }
            result
        };
        // Entered, so that the task takes the span with it.
        let running = span.in_scope(|| shared.tasks.run("amst dial", work.in_current_span()));
        let dialling = running.map(|result| result.unwrap_or(Err(DialError::Shutdown))).boxed().shared();
        dials.insert(peer, dialling.clone());
        dialling
    }
}

/// Each once, families in turn beginning with the first one's (RFC 8305 4), so that a family that leads nowhere costs little.
fn in_order(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut seen: Vec<SocketAddr> = Vec::new();
    for address in addresses.iter().map(|address| canonical(*address)) {
        if address.port() != 0 && !address.ip().is_unspecified() && !seen.contains(&address) {
            seen.push(address);
        }
    }
    let first_is_v6 = seen.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = seen.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut order: Vec<_> = first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    order.extend(second);
    order.truncate(MAX_ADDRESSES);
    order
}

async fn dial(shared: &Arc<Shared>, peer: PublicKey, addresses: Vec<SocketAddr>) -> Result<Session, DialError> {
    let mut failed = Vec::new();
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let spread: u8 = rand::random();
    loop {
        if attempts.is_empty() {
            let Some(address) = waiting.next() else { return Err(DialError::Unreachable(failed)) };
            attempts.push(attempt(shared, peer, address, spread));
        }
        let ended = tokio::select! {
            ended = attempts.next() => ended,
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {
                attempts.extend(waiting.next().map(|address| attempt(shared, peer, address, spread)));
                continue;
            }
            () = shared.tasks.cancelled() => return Err(DialError::Shutdown),
        };
        match ended {
            Some((_, Ok(reached))) => {
                let session = reached.into_session(shared, peer, spread)?;
                session.adjust_lanes();
                return Ok(session);
            }
            Some((_, Err(Failure::Refused(reason)))) => return Err(DialError::Refused(reason)),
            Some((address, Err(Failure::Unreachable(reason)))) => {
                failed.push((address, reason));
                // The next one need not wait for its turn.
                attempts.extend(waiting.next().map(|address| attempt(shared, peer, address, spread)));
            }
            None => {}
        }
    }
}

/// Why an address did not lead to a session.
enum Failure {
    /// The peer is not there.
    Unreachable(String),
    /// The peer is there, and says no.
    Refused(String),
}

/// A connection to the peer that was greeted in both directions.
struct Reached {
    connection: Connection,
    stream: (SendStream, RecvStream),
    id: [u8; 16],
    instance: [u8; 16],
    /// That both have.
    features: u64,
    socket: usize,
}

async fn attempt(
    shared: &Arc<Shared>,
    peer: PublicKey,
    address: SocketAddr,
    spread: u8,
) -> (SocketAddr, Result<Reached, Failure>) {
    let id = rand::random();
    let attempt = connect(shared, peer, address, LaneNumber { id, number: 0, spread });
    let result = tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await;
    (address, result.unwrap_or_else(|_elapsed| Err(Failure::Unreachable("no answer".to_owned()))))
}

/// A lane, as the dialler makes it.
#[derive(Clone, Copy)]
struct LaneNumber {
    /// Of the session.
    id: [u8; 16],
    number: u8,
    /// Which sockets the session's first lane uses; the others follow on.
    spread: u8,
}

async fn connect(
    shared: &Arc<Shared>,
    peer: PublicKey,
    address: SocketAddr,
    lane: LaneNumber,
) -> Result<Reached, Failure> {
    let unreachable = |reason: String| Failure::Unreachable(reason);
    let spread = lane.spread.wrapping_add(lane.number);
    let config = transport::client_config(&shared.identity, peer, &shared.settings(), &shared.limits, spread)
        .map_err(|error| unreachable(error.to_string()))?;
    let socket = usize::from(spread) % shared.sockets.len();
    // The name is not sent, and the certificate is judged by the key.
    // quinn's driver takes the present span with it for as long as the connection lives, and a span that is held never
    // ends: so it is begun where there is none.
    let connecting = tracing::subscriber::with_default(NoSubscriber::default(), || {
        shared.sockets[socket].endpoint.connect_with(config, address, "node.dwcp")
    });
    let connection =
        connecting.map_err(|error| unreachable(error.to_string()))?.await.map_err(|error| judge(&error))?;
    if peer_of(&connection) != Some(peer) {
        return Err(unreachable("somebody else answered".to_owned()));
    }
    let given_up = GivenUp(Some(&connection).filter(|_| lane.number != 0));
    let greeting = async {
        let (mut send, mut receive) = connection.open_bi().await.map_err(|_ended| FrameError::Ended)?;
        let hello = Hello { session: lane.id, instance: shared.instance, lane: lane.number, features: FEATURES };
        send.write_chunk(hello.encode()).await.map_err(|_ended| FrameError::Ended)?;
        let welcome = Welcome::decode(&read_frame(&mut receive).await?)?;
        Ok((welcome, (send, receive)))
    };
    let greeted = greeting.await;
    given_up.not_so();
    match greeted {
        Ok((welcome, stream)) => Ok(Reached {
            connection,
            stream,
            id: lane.id,
            instance: welcome.instance,
            features: welcome.features & FEATURES,
            socket,
        }),
        // The refusal of our certificate comes only now.
        Err(FrameError::Ended) => Err(match connection.close_reason() {
            Some(error) => judge(&error),
            None => unreachable("it hung up".to_owned()),
        }),
        Err(FrameError::Malformed(error)) => {
            connection.close(Code::Protocol.into(), Code::Protocol.words());
            Err(unreachable(error.to_string()))
        }
    }
}

/// A further lane that is not greeted yet. Dropped, it is closed with a code that does not end the session at the other end.
struct GivenUp<'a>(Option<&'a Connection>);

impl GivenUp<'_> {
    fn not_so(mut self) {
        self.0 = None;
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.close(Code::Busy.into(), Code::Busy.words());
        }
    }
}

fn judge(error: &ConnectionError) -> Failure {
    match reason(error) {
        refused @ CloseReason::NotAMember => Failure::Refused(refused.to_string()),
        CloseReason::LocalShutdown
        | CloseReason::PeerShutdown
        | CloseReason::TimedOut
        | CloseReason::PeerRestarted
        | CloseReason::Revoked
        | CloseReason::Protocol(_)
        | CloseReason::Unused
        | CloseReason::Lost(_) => Failure::Unreachable(error.to_string()),
    }
}

impl Reached {
    fn into_session(self, shared: &Arc<Shared>, peer: PublicKey, spread: u8) -> Result<Session, DialError> {
        let remote = canonical(self.connection.remote_address());
        let Some(room) = shared.budget.open_lane(peer) else {
            limit_hits::hit("limits.receive_budget");
            self.connection.close(Code::Busy.into(), Code::Busy.words());
            let reason = "this node has no memory for a further connection (limits.receive_budget)";
            return Err(DialError::Unreachable(vec![(remote, reason.to_owned())]));
        };
        let (id, instance, features) = (self.id, self.instance, self.features);
        let session = Session::new(shared, Origin { peer, id, instance, features, dialled: true, spread });
        // Before anybody can find the session: one without a lane would look like one that has ended.
        let lane = session.hold(Lane::new(0, self.connection, shared.sockets[self.socket].thread.clone(), room));
        if let Err(full) = shared.add(&session) {
            lane.connection.close(Code::Busy.into(), Code::Busy.words());
            return Err(DialError::Unreachable(vec![(remote, full.to_string())]));
        }
        session.start(&lane, self.stream);
        tracing::info!(peer = %peer.node_id(), %remote, "Exchanged identities with a peer that was dialled");
        // The roster may have changed while the session was not yet to be found.
        if !shared.is_member(&peer) {
            session.close(CloseReason::Revoked);
            return Err(DialError::NotAMember);
        }
        Ok(session)
    }
}

/// Dials a further lane. The session works meanwhile, and without one that fails.
pub(crate) fn open_lane(dial: LaneDial, session: &Session) {
    let session = session.clone();
    let shared = Arc::clone(session.shared());
    session.clone().shared().tasks.spawn("amst lane dial", OnEnd::Expected, async move {
        let failed = match further_lane(&shared, &session, dial.number).await {
            Ok(()) => return dial.came(),
            Err(Failure::Unreachable(reason) | Failure::Refused(reason)) => reason,
        };
        tracing::info!(
            peer = %session.peer().node_id(), number = dial.number, reason = failed, "A further lane was not opened"
        );
    });
}

async fn further_lane(shared: &Arc<Shared>, session: &Session, number: u8) -> Result<(), Failure> {
    // Before the other end takes the lane.
    let Some(room) = shared.budget.open_lane(session.peer()) else {
        limit_hits::hit("limits.receive_budget");
        return Err(Failure::Unreachable("this node has no memory for it (limits.receive_budget)".to_owned()));
    };
    let address = session.info().remote;
    let lane = LaneNumber { id: session.id(), number, spread: session.spread() };
    let dialled = tokio::time::timeout(ATTEMPT_TIMEOUT, connect(shared, session.peer(), address, lane)).await;
    let reached = dialled.unwrap_or_else(|_elapsed| Err(Failure::Unreachable("no answer".to_owned())))?;
    let thread = shared.sockets[reached.socket].thread.clone();
    session.add_lane(Lane::new(number, reached.connection, thread, room));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns_by_family_and_none_is_tried_twice() {
        let addresses =
            ["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1", "0.0.0.0:1", "192.0.2.2:0"];
        let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let order: Vec<_> = in_order(&addresses).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1"]);
    }
}
