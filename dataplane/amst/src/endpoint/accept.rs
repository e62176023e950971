//! Takes connections that peers dial.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use foundation_listener::{Place, limit_hits};
use foundation_runtime::OnEnd;
use metrics::counter;
use proto_model::PublicKey;
use quinn::{Connection, Incoming, RecvStream, SendStream};

use super::Shared;
use crate::{
    CloseReason, Session,
    close::Code,
    frames::{FEATURES, Hello, Welcome},
    lane_thread::LaneThread,
    session::{Lane, Origin, canonical, read_frame},
};

/// How long a handshake and greeting may take: several round trips of a bad path.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes connections until the endpoint is closed.
pub(super) async fn run(shared: Arc<Shared>, endpoint: quinn::Endpoint, thread: LaneThread) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = shared.tasks.cancelled() => return,
        };
        let Some(incoming) = incoming else { return };
        let busy = shared.gate.held().0 >= shared.retry_from.load(Ordering::Relaxed);
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            limit_hits::hit("limits.quic_retry_from");
            // It failed only if it may not be asked to try again, which was just checked.
            drop(incoming.retry());
            continue;
        }
        let place = shared.gate.enter(incoming.remote_address().ip());
        let taking = take(Arc::clone(&shared), incoming, place, thread.clone());
        shared.tasks.spawn("amst handshake", OnEnd::Expected, taking);
    }
}

async fn take(shared: Arc<Shared>, incoming: Incoming, place: Place, thread: LaneThread) {
    let remote = canonical(incoming.remote_address());
    let greeting = tokio::time::timeout(HANDSHAKE_TIMEOUT, greet(&shared, incoming, thread));
    let refused = match place.cut().run_until_cancelled(greeting).await {
        Some(Ok(Ok(()))) => return,
        Some(Ok(Err(reason))) => reason,
        Some(Err(_elapsed)) => "the handshake took too long".to_owned(),
        None => "another one needed the place".to_owned(),
    };
    counter!("dwcp_amst_refused_connections_total").increment(1);
    tracing::info!(%remote, reason = refused, "Refused a connection");
}

async fn greet(shared: &Arc<Shared>, incoming: Incoming, thread: LaneThread) -> Result<(), String> {
    let connection = incoming.await.map_err(|error| error.to_string())?;
    let peer = peer_of(&connection).ok_or("no node's certificate")?;
    let (send, mut receive) = connection.accept_bi().await.map_err(|error| error.to_string())?;
    let hello = read_frame(&mut receive).await.map_err(|error| error.to_string())?;
    let hello = Hello::decode(&hello).map_err(|error| error.to_string())?;
    // The roster may have changed since the certificate was judged.
    if !shared.is_member(&peer) {
        return Err(refuse(&connection, Code::NotAMember));
    }
    let stream = (send, receive);
    shared.doorkeeper.know(connection.remote_address().ip());
    if hello.lane == 0 {
        open_session(shared, (connection, peer), hello, stream, thread).await
    } else {
        join_session(shared, (connection, peer), hello, stream, thread).await
    }
}

async fn open_session(
    shared: &Arc<Shared>,
    (connection, peer): (Connection, PublicKey),
    hello: Hello,
    (mut send, receive): (SendStream, RecvStream),
    thread: LaneThread,
) -> Result<(), String> {
    if shared.registry().incoming() >= shared.limits.incoming_sessions {
        limit_hits::hit("limits.incoming_sessions");
        return Err(refuse(&connection, Code::Busy));
    }
    let Some(room) = shared.budget.open_lane(peer) else {
        limit_hits::hit("limits.receive_budget");
        return Err(refuse(&connection, Code::Busy));
    };
    let origin = Origin {
        peer,
        id: hello.session,
        instance: hello.instance,
        features: hello.features & FEATURES,
        dialled: false,
        spread: 0,
    };
    let session = Session::new(shared, origin);
    let remote = canonical(connection.remote_address());
    // Before anybody can find the session: one without a lane would look like one that has ended.
    let lane = session.hold(Lane::new(0, connection, thread, room));
    if shared.add(&session).is_err() {
        return Err(refuse(&lane.connection, Code::Busy));
    }
    let unstarted = Unstarted(Some(&session));
    send.write_chunk(welcome(shared, hello)).await.map_err(|error| error.to_string())?;
    unstarted.started();
    session.start(&lane, (send, receive));
    tracing::info!(peer = %peer.node_id(), %remote, "Exchanged identities with a peer that dialled");
    // The roster may have changed while the session was not yet to be found.
    if !shared.is_member(&peer) {
        session.close(CloseReason::Revoked);
    }
    Ok(())
}

async fn join_session(
    shared: &Arc<Shared>,
    (connection, peer): (Connection, PublicKey),
    hello: Hello,
    (mut send, _receive): (SendStream, RecvStream),
    thread: LaneThread,
) -> Result<(), String> {
    let session = shared.registry().by_id(&peer, &hello.session);
    let Some(session) = session.filter(|session| session.may_join(hello.lane)) else {
        return Err(refuse(&connection, Code::Busy));
    };
    let Some(room) = shared.budget.open_lane(peer) else {
        limit_hits::hit("limits.receive_budget");
        return Err(refuse(&connection, Code::Busy));
    };
    // Before the other end can say anything of it over the session's own stream.
    let lane = session.add_lane(Lane::new(hello.lane, connection, thread, room).not_yet());
    if let Err(error) = send.write_chunk(welcome(shared, hello)).await {
        refuse(&lane.connection, Code::Busy);
        return Err(error.to_string());
    }
    // Whether it was finished shows at the other end.
    drop(send.finish());
    shared.tasks.spawn("amst lane greeting", OnEnd::Expected, async move {
        // The dialler has the answer, or it has gone.
        if send.stopped().await.is_ok() {
            lane.carry();
        }
    });
    Ok(())
}

/// A session that can be found and that nobody reads yet. Dropped, it is closed.
struct Unstarted<'a>(Option<&'a Session>);

impl Unstarted<'_> {
    fn started(mut self) {
        self.0 = None;
    }
}

impl Drop for Unstarted<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.0 {
            session.close(CloseReason::Lost("the greeting failed".to_owned()));
        }
    }
}

fn welcome(shared: &Shared, hello: Hello) -> bytes::Bytes {
    Welcome { instance: shared.instance, features: hello.features & FEATURES }.encode()
}

fn refuse(connection: &Connection, code: Code) -> String {
    connection.close(code.into(), code.words());
    String::from_utf8_lossy(code.words()).into_owned()
}

/// The key of who is at the other end, from the certificate that was judged in the handshake.
pub(super) fn peer_of(connection: &Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().ok()?;
    dataplane_identity::tls::peer_key(chain.first()?).ok()
}
