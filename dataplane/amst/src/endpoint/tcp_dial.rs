//! Dials a lane over TCP to the peer of a session.

use std::{sync::Arc, time::Duration};

use foundation_runtime::OnEnd;
use rustls_pki_types::ServerName;
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{TlsConnector, TlsStream};

use super::{
    Shared,
    tcp_port::{HANDSHAKE_TIMEOUT, adopt, peer_of},
};
use crate::{
    Session,
    frames::{FEATURES, Hello, Welcome},
    lane_thread::LaneThread,
    session::read_frame,
    tcp::{self, Parts, TcpLane},
};

/// How long the connection may take: a lane is of use where round trips are short, and a firewall may say nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Dials, where there is no lane and none is being dialled. The session works meanwhile, and without one that fails.
pub(crate) fn dial(session: &Session) {
    let Some(number) = session.begin_tcp() else { return session.tcp_dialled(Err("there is one".to_owned())) };
    let shared = Arc::clone(session.shared());
    let thread = shared.quietest_thread();
    let (session, own) = (session.clone(), thread.clone());
    let work = async move {
        let shared = Arc::clone(session.shared());
        let attempt = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect(&shared, &session, number, own));
        let result = attempt.await.unwrap_or_else(|_elapsed| Err("it took too long".to_owned()));
        session.tcp_dialled(result);
    };
    thread.enter(|| shared.tasks.spawn("amst tcp dial", OnEnd::Expected, work));
}

async fn connect(shared: &Arc<Shared>, session: &Session, number: u8, thread: LaneThread) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let remote = session.info().remote;
    let config = dataplane_identity::tls::tcp_client_config(&shared.identity, session.peer());
    let connector = TlsConnector::from(Arc::new(config.map_err(|error| words(&error))?));
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(remote)).await;
    let stream = stream.map_err(|_elapsed| "nobody answers")?.map_err(|error| words(&error))?;
    let socket = adopt(stream, shared.limits.idle_timeout).map_err(|error| words(&error))?;
    let traffic = socket.traffic();
    // The name is not sent, and the certificate is judged by the key.
    let name = ServerName::try_from("node.dwcp").expect("the constant is a DNS name");
    let stream = connector.connect(name, socket).await.map_err(|error| words(&error))?;
    let mut stream = TlsStream::from(stream);
    if peer_of(stream.get_ref().1) != Some(session.peer()) {
        return Err("somebody else answered".to_owned());
    }
    let hello = Hello { session: session.id(), instance: shared.instance, lane: number, features: FEATURES };
    stream.write_all(&hello.encode()).await.map_err(|error| words(&error))?;
    stream.flush().await.map_err(|error| words(&error))?;
    // The refusal of our certificate comes only now, and one of the lane is an end without a word.
    let welcome = read_frame(&mut stream).await.map_err(|error| words(&error))?;
    let welcome = Welcome::decode(&welcome).map_err(|error| words(&error))?;
    if welcome.instance != session.instance() {
        return Err("the peer started anew".to_owned());
    }
    let room = shared.budget.open_lane(session.peer()).ok_or("no memory for a further lane")?;
    tcp::grow(&mut stream, &room);
    let parts = Parts { number, dialled: true, remote, thread, room, traffic, now: shared.clock.now() };
    let lane = session.hold_tcp(TcpLane::new(parts)).ok_or("the peer was faster, or the session is over")?;
    shared.tasks.spawn("amst tcp lane", OnEnd::Expected, tcp::run(session.clone(), lane, stream));
    Ok(())
}
