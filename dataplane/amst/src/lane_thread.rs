//! A socket's thread: a single-threaded runtime that drives the socket's endpoint and its connections. A runtime of many
//! threads costs quinn far more processor time for the same bytes.

use std::{fmt, future::Future, io, net::UdpSocket, pin::Pin, sync::Arc, time::Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

/// A handle on the thread. Clones are the same thread.
#[derive(Clone)]
pub(crate) struct LaneThread(Handle);

impl LaneThread {
    /// Starts the thread; it ends with `stop`.
    pub(crate) async fn start(index: usize, stop: CancellationToken) -> io::Result<Self> {
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new().name(format!("amst-{index}")).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(error))),
            };
            drop(sender.send(Ok(runtime.handle().clone())));
            runtime.block_on(stop.cancelled());
        })?;
        receiver.await.map_err(io::Error::other)?.map(Self)
    }

    /// Runs something that spawns, or makes timers or sockets, for this thread.
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _context = self.0.enter();
        work()
    }
}

impl fmt::Debug for LaneThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaneThread").field(&self.0.id()).finish()
    }
}

impl Runtime for LaneThread {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.enter(|| TokioRuntime.new_timer(at))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // The drivers of quinn: they end with their endpoint and its connections, which this crate closes.
        drop(self.0.spawn(future));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.enter(|| TokioRuntime.wrap_udp_socket(socket))
    }
}
