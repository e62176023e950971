//! Connections to `agent.sock`: a bounded number, and a want of files ends nothing.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use foundation_listener::{Gate, accept};
use foundation_runtime::LocalSocket;
use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tonic::transport::server::{Connected, UdsConnectInfo};

/// A connection, and its place.
#[derive(Debug)]
pub(super) struct LocalConnection {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

/// Connections as they come; more than `most` have to wait.
pub(super) fn bounded(socket: LocalSocket, most: usize) -> impl Stream<Item = io::Result<LocalConnection>> {
    let places = Arc::new(Semaphore::new(most));
    // Nobody is put out here: who may connect is a user of this host.
    let gate = Gate::new("limits.local_connections", most);
    stream::unfold((socket, places, gate), |(mut socket, places, gate)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        loop {
            match socket.accept().await {
                Ok(stream) => {
                    let connection = LocalConnection { stream, _place: place };
                    return Some((Ok(connection), (socket, places, gate)));
                }
                Err(error) => accept::failed(&error, &gate, "agent.sock").await,
            }
        }
    })
}

impl Connected for LocalConnection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for LocalConnection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buf)
    }
}

impl AsyncWrite for LocalConnection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
