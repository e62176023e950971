//! A connection that can be cut, and that must say something soon.
//!
//! Cutting ends the connection at its next poll: every stream on it ends with it. The deadline for the first bytes is needed since hyper waits
//! for them without one: whoever connects and stays silent would hold a connection for ever.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a client may take for its first bytes after the handshake.
pub(crate) const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection with a cut and a deadline for its first bytes.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until so many bytes have arrived.
    awaited: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// Guards a connection: `cut` ends it, and its first `first_bytes` must arrive within `wait`.
    pub(crate) fn new(inner: S, cut: CancellationToken, first_bytes: usize, wait: Duration) -> Self {
        let deadline = Some(Box::pin(tokio::time::sleep(wait)));
        Self { inner, cut: Box::pin(cut.cancelled_owned()), awaited: first_bytes, deadline }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut"));
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing"));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Err(error) = this.check(context) {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(context, buf);
        if this.deadline.is_some() && polled.is_ready() {
            this.awaited = this.awaited.saturating_sub(buf.filled().len() - before);
            if this.awaited == 0 {
                this.deadline = None;
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bufs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const WAIT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_silent_client_is_dropped_and_one_that_spoke_is_not() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut silent = Guarded::new(server, CancellationToken::new(), 4, WAIT);
        client.write_all(b"abc").await.unwrap();
        let mut buffer = [0; 4];
        assert_eq!(silent.read_exact(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut client, server) = tokio::io::duplex(64);
        let mut speaking = Guarded::new(server, CancellationToken::new(), 4, WAIT);
        client.write_all(b"abcd").await.unwrap();
        speaking.read_exact(&mut buffer).await.unwrap();
        // Past the deadline, which is over since the client spoke.
        let _elapsed = tokio::time::timeout(WAIT * 2, speaking.read(&mut buffer)).await.unwrap_err();
        client.write_all(b"efgh").await.unwrap();
        speaking.read_exact(&mut buffer).await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_ends_a_read_that_waits() {
        let (_client, server) = tokio::io::duplex(64);
        let cut = CancellationToken::new();
        let mut guarded = Guarded::new(server, cut.clone(), 0, WAIT);
        let mut buffer = [0; 4];
        let (read, ()) = tokio::join!(guarded.read(&mut buffer), async { cut.cancel() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
