//! A TCP connection below TLS: counts what it moves, and reads ahead, since rustls asks for some 4 KiB at a time.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Bytes that a connection moved, TLS and all.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    /// What was read ahead stands between the two.
    ahead: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, traffic: Arc::default(), ahead: Vec::new(), begin: 0, end: 0 }
    }

    pub(crate) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// Reads so many bytes ahead from now on: memory for who has shown who it is.
    pub(crate) fn read_ahead(&mut self, bytes: usize) {
        if self.begin == self.end {
            self.ahead = vec![0; bytes];
            (self.begin, self.end) = (0, 0);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.begin == this.end {
            let stream = Pin::new(&mut this.stream);
            let count = |read| this.traffic.received.fetch_add(u64::try_from(read).unwrap_or(u64::MAX), Relaxed);
            if this.ahead.len() <= out.remaining() {
                let before = out.filled().len();
                ready!(stream.poll_read(context, out))?;
                count(out.filled().len() - before);
                return Poll::Ready(Ok(()));
            }
            let mut ahead = ReadBuf::new(&mut this.ahead);
            ready!(stream.poll_read(context, &mut ahead))?;
            (this.begin, this.end) = (0, ahead.filled().len());
            count(this.end);
        }
        let take = out.remaining().min(this.end - this.begin);
        out.put_slice(&this.ahead[this.begin..this.begin + take]);
        this.begin += take;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(context, parts))?;
        this.traffic.sent.fetch_add(u64::try_from(written).unwrap_or(u64::MAX), Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_is_read_ahead_is_read_in_order_and_counted_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = Socket::new(listener.accept().await.unwrap().0);
        let traffic = near.traffic();
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
        let (written, read) = tokio::join!(far.write_all(&sent), async {
            let mut read = vec![0; 1_000];
            near.read_exact(&mut read).await.unwrap();
            near.read_ahead(7_000);
            for step in [1, 100, 20_000, 3] {
                let mut part = vec![0; step];
                near.read_exact(&mut part).await.unwrap();
                read.extend(part);
            }
            let mut rest = vec![0; 100_000 - read.len()];
            near.read_exact(&mut rest).await.unwrap();
            [read, rest].concat()
        });
        written.unwrap();
        assert!(read == sent);
        near.write_all(b"answer").await.unwrap();
        assert_eq!((traffic.received(), traffic.sent()), (100_000, 6));
    }
}
