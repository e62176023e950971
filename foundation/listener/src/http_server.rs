//! HTTP on one port, plain and TLS: the first byte tells (D27).

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use foundation_runtime::{OnEnd, TaskGroup};
use hyper::{Request, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use crate::{Gate, Guarded, Patience, Place, accept};

/// A handshake's first byte, in TLS; no HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// No request is shorter.
const FIRST_BYTES: usize = 16;

/// How long a connection that stopped reading or lies idle on HTTP/2 is kept after a ping.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Requests at once over one HTTP/2 connection: a browser's page.
pub const MAX_STREAMS: u32 = 64;

/// The longest head of a request; a token and a trace are below 1 KiB.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Header fields of a request.
pub const MAX_HEADERS: usize = 64;

/// How long requests that are being answered may take at the end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);

/// Whom a connection is with. In every request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The other end; an IPv4 address is one, also where the listener is dual-stack.
    pub address: SocketAddr,
    /// Whether TLS is spoken.
    pub tls: bool,
}

/// How long callers may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the first bytes, and for a request's whole head; also between two requests.
    pub head: Duration,
    /// For taking any of an answer.
    pub stalled: Duration,
    /// For everything: a connection that is older is closed after its present request.
    pub life: Duration,
}

/// Several round trips of a bad path.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// A request's head is one packet.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// A path that is interrupted and comes back.
const STALLED_TIME: Duration = Duration::from_secs(20);
/// A browser or a scraper connects anew.
const LIFE_TIME: Duration = Duration::from_secs(600);

impl Default for Times {
    fn default() -> Self {
        Self { handshake: HANDSHAKE_TIME, head: HEAD_TIME, stalled: STALLED_TIME, life: LIFE_TIME }
    }
}

/// The present TLS configuration, if there is one.
pub type Tls = Arc<dyn Fn() -> Option<Arc<rustls::ServerConfig>> + Send + Sync>;

/// One port.
#[derive(Clone)]
pub struct HttpPort {
    /// Its name in logs.
    pub name: &'static str,
    /// Who may be connected.
    pub gate: Gate,
    /// For those who speak TLS; looked at for each.
    pub tls: Tls,
    /// What answers.
    pub router: Router,
    /// How long callers may take.
    pub times: Times,
}

impl fmt::Debug for HttpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPort").field("name", &self.name).finish_non_exhaustive()
    }
}

impl HttpPort {
    /// Serves until the tasks are to end.
    pub async fn serve(self, listener: TcpListener, tasks: TaskGroup) {
        let token = tasks.token().clone();
        let accepting = async {
            loop {
                for _ in 0..accept::AT_ONCE {
                    let (stream, address) = accept::next(&listener, &self.gate, self.name).await;
                    let place = self.gate.enter_with(address.ip(), &CancellationToken::new());
                    let (port, group) = (self.clone(), tasks.clone());
                    tasks.spawn("http connection", OnEnd::Expected, async move {
                        if let Err(error) = port.connection(stream, address, &place, &group).await {
                            tracing::debug!(port = port.name, %address, %error, "An HTTP connection ended");
                        }
                    });
                }
                // Those that were put out are gone before more come.
                tokio::task::yield_now().await;
            }
        };
        token.run_until_cancelled(accepting).await;
    }

    async fn connection(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: &Place,
        tasks: &TaskGroup,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut first = [0];
        let peeking = place.cut().run_until_cancelled(timeout(self.times.head, stream.peek(&mut first)));
        let peeked = peeking.await.ok_or_else(put_out)???;
        if peeked == 0 {
            return Ok(());
        }
        if first[0] != TLS_HANDSHAKE {
            return self.requests(stream, Peer { address, tls: false }, place, tasks).await;
        }
        let Some(tls) = (self.tls)() else { return Err(io::Error::other("there is no TLS here")) };
        let shaking = timeout(self.times.handshake, TlsAcceptor::from(tls).accept(stream));
        let stream = place.cut().run_until_cancelled(shaking).await.ok_or_else(put_out)???;
        self.requests(stream, Peer { address, tls: true }, place, tasks).await
    }

    async fn requests(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        place: &Place,
        tasks: &TaskGroup,
    ) -> io::Result<()> {
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let mut router = router.clone();
            async move { router.call(request.map(Body::new)).await }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.times.head)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX));
        let patience = Patience { first_bytes: FIRST_BYTES, first: self.times.head, stalled: self.times.stalled };
        let guarded = Guarded::new(stream, place.cut().clone(), patience);
        let connection = builder.serve_connection(TokioIo::new(guarded), service);
        tokio::pin!(connection);
        let finished = tokio::select! {
            result = connection.as_mut() => return result.map_err(io::Error::other),
            () = tasks.cancelled() => {
                connection.as_mut().graceful_shutdown();
                timeout(FINISH_TIMEOUT, connection).await
            }
            () = tokio::time::sleep(self.times.life) => {
                connection.as_mut().graceful_shutdown();
                timeout(self.times.stalled, connection).await
            }
        };
        finished?.map_err(io::Error::other)
    }
}

fn put_out() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "another one needed the place")
}
