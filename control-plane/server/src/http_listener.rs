//! One HTTP port for plain and TLS, HTTP/1.1 and 2: the first byte tells (D27).

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, response::Response};
use control_plane_console::Peer;
use foundation_runtime::{Clock, OnEnd, TaskGroup};
use foundation_telemetry::requests::{self, Outcome};
use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

use crate::guarded::{FIRST_BYTES_TIMEOUT, Guarded};

/// Connections at the same time on one port: browsers, monitors, scripts.
const MAX_CONNECTIONS: usize = 1024;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request's head may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection that stopped reading or lies idle on HTTP/2 is kept after a ping.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long requests that are being answered may take at the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);

/// A handshake's first byte, in TLS; no HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// No request is shorter.
const FIRST_BYTES: usize = 16;

/// Pause after an accept that failed for want of something, so that the loop does not spin.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// Serves a router on a port until the tasks are to end.
pub(crate) fn serve(
    clock: &Clock,
    tasks: &TaskGroup,
    name: &'static str,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
) {
    let server = Arc::new(Server { clock: clock.clone(), tasks: tasks.clone(), tls: TlsAcceptor::from(tls), router });
    let token = tasks.token().clone();
    tasks.spawn(name, OnEnd::Fatal, async move {
        token.run_until_cancelled(server.accept(&listener)).await;
    });
}

struct Server {
    clock: Clock,
    tasks: TaskGroup,
    tls: TlsAcceptor,
    router: Router,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: &TcpListener) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let server = Arc::clone(&self);
                    self.tasks.spawn("http-connection", OnEnd::Expected, async move {
                        let _permit = permit;
                        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                        if let Err(error) = server.connection(stream, address).await {
                            tracing::debug!(component = "server", %address, %error, "An HTTP connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(component = "server", %error, "A connection could not be accepted");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, address: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut first = [0];
        let peeked = tokio::time::timeout(FIRST_BYTES_TIMEOUT, stream.peek(&mut first)).await??;
        if peeked == 0 {
            return Ok(());
        }
        if first[0] == TLS_HANDSHAKE {
            let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(stream)).await??;
            self.requests(stream, Peer { address, tls: true }).await
        } else {
            self.requests(stream, Peer { address, tls: false }).await
        }
    }

    async fn requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
    ) -> io::Result<()> {
        let (router, clock) = (self.router.clone(), self.clock.clone());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let mut router = router.clone();
            let clock = clock.clone();
            async move { Ok::<_, Infallible>(counted(&mut router, request, &clock).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
        let guarded = Guarded::new(stream, self.tasks.token().child_token().clone(), FIRST_BYTES, FIRST_BYTES_TIMEOUT);
        let connection = builder.serve_connection(TokioIo::new(guarded), service);
        tokio::pin!(connection);
        let finished = tokio::select! {
            result = connection.as_mut() => return result.map_err(io::Error::other),
            () = self.tasks.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(FINISH_TIMEOUT, connection).await
            }
        };
        finished?.map_err(io::Error::other)
    }
}

/// Answers, and counts what asked for the API: what monitors ask all the time would hide its errors.
async fn counted(router: &mut Router, request: Request<Incoming>, clock: &Clock) -> Response {
    let path = request.uri().path().to_owned();
    let begun = clock.now();
    let response = router.call(request).await.unwrap_or_else(|never| match never {});
    if path.starts_with("/api/") {
        let status = response.status();
        // A path is a label only where it exists: no stranger makes up series.
        let method = if status.is_success() || status.is_server_error() { path.as_str() } else { "unknown" };
        let outcome = if status.is_server_error() { Outcome::Fault } else { Outcome::Handled };
        requests::observe("http", method, status.as_str(), outcome, clock.now() - begun);
    }
    response
}
