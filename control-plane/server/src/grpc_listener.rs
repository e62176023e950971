//! The gRPC port and `admin.sock`: accepting, the TLS handshake, and who is at the other end.
//!
//! Each handshake is a task of its own with a deadline, so that one who stalls holds up nobody. Who has shown no credential, by a certificate
//! or in a call, gives way to newcomers where there are many, and has to go after a while. Connections that stand are handed to tonic
//! through one short queue.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use control_plane_api::auth::{ConnectInfo, Remote};
use control_plane_pki::node_uid_of;
use control_plane_store::{Actor, Refusal, Refusals};
use foundation_listener::{Gate, Guarded, Patience, Place, accept, limit_hits};
use foundation_runtime::{LocalSocket, OnEnd, TaskGroup};
use metrics::{counter, gauge};
use nix::unistd::Uid;
use rustls::CertificateError;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;

use crate::{
    connections::{Entry, NodeConnections},
    limits::{Limits, count, seconds},
};

/// The preface of HTTP/2, which every gRPC client sends at once.
const PREFACE_BYTES: usize = 24;

/// Connections that stand and tonic has not taken yet.
const ACCEPTED_QUEUE: usize = 128;

/// A connection that stands.
#[derive(Debug)]
pub(crate) struct Connection {
    io: Guarded<Io>,
    info: ConnectInfo,
    _held: Held,
    _entry: Option<Entry>,
}

/// What a connection holds of what is bounded.
#[derive(Debug)]
enum Held {
    Place(#[allow(dead_code, reason = "dropped with the connection")] Place),
    Permit(#[allow(dead_code, reason = "dropped with the connection")] OwnedSemaphorePermit),
}

#[derive(Debug)]
enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Local(UnixStream),
}

/// Accepts on the port and the socket.
#[derive(Debug)]
pub(crate) struct GrpcListener {
    /// Cutting it cuts every connection.
    pub(crate) cut: CancellationToken,
    /// The nodes among them.
    pub(crate) nodes: NodeConnections,
    refusals: Refusals,
    tasks: TaskGroup,
    accepted: mpsc::Sender<io::Result<Connection>>,
    limits: Limits,
}

impl GrpcListener {
    /// A listener that hands its connections to the receiver, and counts whom it refused.
    pub(crate) fn new(
        tasks: &TaskGroup,
        nodes: NodeConnections,
        refusals: Refusals,
        limits: Limits,
    ) -> (Self, mpsc::Receiver<io::Result<Connection>>) {
        let (accepted, connections) = mpsc::channel(ACCEPTED_QUEUE);
        let tasks = tasks.child("grpc-listener");
        (Self { cut: CancellationToken::new(), nodes, refusals, tasks, accepted, limits }, connections)
    }

    /// Accepts on the port until the tasks are to end.
    pub(crate) fn accept_tls(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        let shared = self.shared();
        let token = self.tasks.token().clone();
        self.tasks.spawn("accept-grpc", OnEnd::Fatal, async move {
            let accepting = shared.accept_tls(&listener, &acceptor);
            token.run_until_cancelled(accepting).await;
        });
    }

    /// Accepts on the socket until the tasks are to end; its file goes then.
    pub(crate) fn accept_local(&self, socket: LocalSocket) {
        let shared = self.shared();
        let token = self.tasks.token().clone();
        self.tasks.spawn("accept-admin", OnEnd::Fatal, async move {
            token.run_until_cancelled(shared.accept_local(socket)).await;
        });
    }

    fn shared(&self) -> Shared {
        let strangers = ("limits.grpc_strangers", count(self.limits.grpc_strangers));
        Shared {
            cut: self.cut.clone(),
            nodes: self.nodes.clone(),
            refusals: self.refusals.clone(),
            tasks: self.tasks.clone(),
            accepted: self.accepted.clone(),
            gate: Gate::with_admitted(strangers, ("limits.grpc_connections", count(self.limits.grpc_connections))),
            limits: self.limits,
        }
    }
}

/// What each accepting task has.
#[derive(Clone)]
struct Shared {
    cut: CancellationToken,
    nodes: NodeConnections,
    refusals: Refusals,
    tasks: TaskGroup,
    accepted: mpsc::Sender<io::Result<Connection>>,
    gate: Gate,
    limits: Limits,
}

impl Shared {
    async fn accept_tls(&self, listener: &TcpListener, acceptor: &TlsAcceptor) {
        loop {
            for _ in 0..accept::AT_ONCE {
                let (stream, remote) = accept::next(listener, &self.gate, "grpc").await;
                let place = self.gate.enter_with(remote.ip(), &self.cut);
                let (shared, acceptor) = (self.clone(), acceptor.clone());
                let token = self.tasks.token().clone();
                self.tasks.spawn("tls-handshake", OnEnd::Expected, async move {
                    token.run_until_cancelled(shared.shake_hands(stream, remote, &acceptor, place)).await;
                });
            }
            // Those that were put out are gone before more come.
            tokio::task::yield_now().await;
        }
    }

    async fn shake_hands(&self, stream: TcpStream, remote: SocketAddr, acceptor: &TlsAcceptor, place: Place) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(component = "server", %remote, %error, "The connection is gone already");
            return;
        }
        // A refused handshake looks like a time-out to grpcurl: this line is where its reason can be found.
        let refused = |reason: &str| {
            counter!("dwcp_tls_handshake_failures_total").increment(1);
            tracing::info!(component = "server", %remote, reason, "A TLS handshake was refused");
        };
        let shaking = timeout(seconds(self.limits.handshake_seconds), acceptor.accept(stream));
        let stream = match place.cut().run_until_cancelled(shaking).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                self.note_certificate(&error, remote);
                return refused(&error.to_string());
            }
            Some(Err(_elapsed)) => return refused("it took too long"),
            None => return refused("another one needed the place"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.map(|certificate| certificate.to_vec());
        let cut = place.cut().clone();
        let uid = certificate.as_deref().and_then(|der| node_uid_of(der).ok());
        if uid.is_some() && !place.admission().admit() {
            return refused("the server is full: limits.grpc_connections");
        }
        let most = count(self.limits.node_connections);
        let entry = uid.map(|uid| self.nodes.enter(uid, remote.ip(), cut.clone(), most));
        let info = ConnectInfo {
            remote: Remote::Tcp(remote),
            peer_certificate: certificate.map(Arc::from),
            peer_uid: None,
            cut,
            admission: Some(place.admission()),
        };
        if uid.is_none() {
            self.expect_a_credential(&place);
        }
        self.hand_over(Io::Tls(Box::new(stream)), info, Held::Place(place), entry).await;
    }

    /// Cuts the connection after a while, unless a credential was shown on it.
    fn expect_a_credential(&self, place: &Place) {
        let (admission, cut) = (place.admission(), place.cut().clone());
        let (time, token) = (seconds(self.limits.grpc_stranger_seconds), self.tasks.token().clone());
        self.tasks.spawn("stranger", OnEnd::Expected, async move {
            tokio::select! {
                () = tokio::time::sleep(time) => if admission.is_stranger() {
                    limit_hits::hit("limits.grpc_stranger_seconds");
                    cut.cancel();
                },
                () = cut.cancelled() => {}
                () = token.cancelled() => {}
                () = admission.gone() => {}
            }
        });
    }

    /// Who shows a certificate that does not count is worth a record; who does not speak TLS is not.
    fn note_certificate(&self, error: &io::Error, remote: SocketAddr) {
        let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        let reason = match error {
            Some(rustls::Error::InvalidCertificate(CertificateError::Revoked)) => "the certificate of a deleted node",
            Some(rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            )) => "a certificate that has ended, or has not begun",
            Some(rustls::Error::InvalidCertificate(_)) => "a certificate that is not a node's of this fleet",
            Some(_) | None => return,
        };
        let (actor, from) = (Actor::Anonymous, Some(remote.ip()));
        self.refusals.note(Refusal { actor, action: "connect", resource: "grpc", reason, from }, "");
    }

    fn note_local(&self, uid: u32) {
        let (actor, reason) = (Actor::Socket(uid), "neither root nor the server's own user");
        self.refusals.note(Refusal { actor, action: "connect", resource: "admin.sock", reason, from: None }, "");
    }

    async fn accept_local(&self, mut socket: LocalSocket) {
        let own = Uid::effective().as_raw();
        let permits = Arc::new(Semaphore::new(count(self.limits.local_connections)));
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            match socket.accept().await.and_then(|stream| Ok((stream.peer_cred()?.uid(), stream))) {
                Ok((uid, stream)) if uid == 0 || uid == own => {
                    let info = ConnectInfo {
                        remote: Remote::Unix,
                        peer_certificate: None,
                        peer_uid: Some(uid),
                        cut: self.cut.child_token(),
                        admission: None,
                    };
                    self.hand_over(Io::Local(stream), info, Held::Permit(permit), None).await;
                }
                Ok((uid, _)) => {
                    tracing::info!(component = "server", uid, "A user was refused on admin.sock");
                    self.note_local(uid);
                }
                Err(error) => accept::failed(&error, &self.gate, "admin.sock").await,
            }
        }
    }

    async fn hand_over(&self, io: Io, info: ConnectInfo, held: Held, entry: Option<Entry>) {
        let patience = Patience {
            first_bytes: PREFACE_BYTES,
            first: seconds(self.limits.head_seconds),
            stalled: seconds(self.limits.stalled_seconds),
        };
        let io = Guarded::new(io, info.cut.clone(), patience);
        gauge!("dwcp_grpc_connections").increment(1);
        // Refused only when the server has ended; dropping the connection then closes it.
        drop(self.accepted.send(Ok(Connection { io, info, _held: held, _entry: entry })).await);
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        gauge!("dwcp_grpc_connections").decrement(1);
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(context, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buf),
            Self::Local(stream) => Pin::new(stream).poll_read(context, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(context, buf),
            Self::Local(stream) => Pin::new(stream).poll_write(context, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            Self::Local(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
