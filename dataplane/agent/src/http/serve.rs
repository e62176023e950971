//! Serves HTTP/1.1 on one listener: a bounded number of connections, each with a deadline for its request's head.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use foundation_runtime::{OnEnd, TaskGroup};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::ServiceExt as _;

/// So many connections at once: the manuals load it with `ab -c 10`, and every one costs a file descriptor.
const MAX_CONNECTIONS: usize = 256;
/// Until a request's head is there, also on an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Out of file descriptors, say: accepting at once again would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the group is cancelled.
pub(crate) async fn serve(listener: TcpListener, router: Router, tasks: TaskGroup) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = tokio::select! {
            () = tasks.cancelled() => return,
            permit = Arc::clone(&room).acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            () = tasks.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(stream, peer, router.clone(), permit, tasks.clone());
                tasks.spawn("http connection", OnEnd::Expected, connection);
            }
            Err(error) => {
                tracing::warn!(%error, "Cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    permit: OwnedSemaphorePermit,
    tasks: TaskGroup,
) {
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.map(axum::body::Body::new)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => ended,
        () = tasks.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    }
    .unwrap_or_else(|error| tracing::debug!(%error, %peer, "An HTTP connection broke"));
    drop(permit);
}
