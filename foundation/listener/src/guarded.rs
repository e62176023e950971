//! A connection that can be cut, must say something soon, and must read what it is told.
//!
//! Cutting ends the connection at its next poll: every stream on it ends with it. The deadline for the first bytes is needed since hyper waits
//! for them without one: whoever connects and stays silent would hold a connection for ever. So would one that never reads its answer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a connection may keep us waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Bytes that are awaited first; no request is shorter.
    pub first_bytes: usize,
    /// Until they have arrived.
    pub first: Duration,
    /// While it takes nothing of what is written.
    pub stalled: Duration,
}

/// A connection with a cut, a deadline for its first bytes, and one for each write.
#[derive(Debug)]
pub struct Guarded<S> {
    inner: S,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until so many bytes have arrived.
    awaited: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    /// While a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl<S> Guarded<S> {
    /// Guards a connection: `cut` ends it.
    pub fn new(inner: S, cut: CancellationToken, patience: Patience) -> Self {
        Self {
            inner,
            cut: Box::pin(cut.cancelled_owned()),
            awaited: patience.first_bytes,
            deadline: (patience.first_bytes > 0).then(|| Box::pin(tokio::time::sleep(patience.first))),
            stall: None,
            patience: patience.stalled,
        }
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut"));
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(context).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client said nothing"));
        }
        if self.stall.as_mut().is_some_and(|stall| stall.as_mut().poll(context).is_ready()) {
            return Err(stalled());
        }
        Ok(())
    }

    /// Takes note of whether a write went on.
    fn written<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let patience = self.patience;
        let stall = self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stall.as_mut().poll(context));
        Poll::Ready(Err(stalled()))
    }
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client does not read")
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
        let this = self.get_mut();
        if let Err(error) = this.check(context) {
            return Poll::Ready(Err(error));
        }
        let polled = Pin::new(&mut this.inner).poll_write(context, buf);
        this.written(polled, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_flush(context);
        this.written(polled, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_shutdown(context);
        this.written(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Err(error) = this.check(context) {
            return Poll::Ready(Err(error));
        }
        let polled = Pin::new(&mut this.inner).poll_write_vectored(context, bufs);
        this.written(polled, context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const WAIT: Duration = Duration::from_millis(50);

    fn patience(first_bytes: usize) -> Patience {
        Patience { first_bytes, first: WAIT, stalled: WAIT }
    }

    #[tokio::test]
    async fn a_silent_client_is_dropped_and_one_that_spoke_is_not() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut silent = Guarded::new(server, CancellationToken::new(), patience(4));
        client.write_all(b"abc").await.unwrap();
        let mut buffer = [0; 4];
        assert_eq!(silent.read_exact(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut client, server) = tokio::io::duplex(64);
        let mut speaking = Guarded::new(server, CancellationToken::new(), patience(4));
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
        let mut guarded = Guarded::new(server, cut.clone(), patience(0));
        let mut buffer = [0; 4];
        let (read, ()) = tokio::join!(guarded.read(&mut buffer), async { cut.cancel() });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_is_dropped() {
        let (_client, server) = tokio::io::duplex(64);
        let mut guarded = Guarded::new(server, CancellationToken::new(), patience(0));
        assert_eq!(guarded.write_all(&[0; 1000]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
