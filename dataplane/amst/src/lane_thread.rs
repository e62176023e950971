//! A socket's thread: a single-threaded runtime that drives the socket's endpoint and its connections. A runtime of many
//! threads costs quinn far more processor time for the same bytes.

use std::{
    fmt,
    future::Future,
    io,
    net::UdpSocket,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use foundation_runtime::Clock;
use nix::time::{ClockId, clock_gettime};
use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{path_use::Part, timer::FineTimer};

/// A handle on the thread. Clones are the same thread.
#[derive(Clone)]
pub(crate) struct LaneThread(Handle, Arc<Use>, Clock, usize);

/// What a thread does of its time.
#[derive(Debug, Default)]
struct Use {
    /// It had something to do.
    busy: Part,
    /// It had a processor.
    worked: Part,
}

/// How often a thread looks at how busy it was.
const LOOK: Duration = Duration::from_millis(250);

impl LaneThread {
    /// Starts the thread; it ends with `stop`.
    pub(crate) async fn start(index: usize, clock: Clock, stop: CancellationToken) -> io::Result<Self> {
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new().name(format!("amst-{index}")).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let busy = Arc::new(Use::default());
            drop(sender.send(Ok(Self(runtime.handle().clone(), Arc::clone(&busy), clock.clone(), index))));
            runtime.block_on(async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = look(&busy, &clock) => {}
                }
            });
        })?;
        receiver.await.map_err(io::Error::other)?
    }

    /// The part of the last quarter of a second in which the thread had something to do.
    pub(crate) fn busy(&self) -> f64 {
        self.1.busy.get()
    }

    /// The part of it in which the thread had a processor.
    pub(crate) fn worked(&self) -> f64 {
        self.1.worked.get()
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.1, &other.1)
    }

    /// Which thread.
    pub(crate) fn id(&self) -> usize {
        self.3
    }

    /// Runs something that spawns, or makes timers or sockets, for this thread.
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _context = self.0.enter();
        work()
    }
}

/// Looks for how much of the time the thread had something to do. That is not its processor time: on a host that is busy with other things a thread
/// has less of that, and is at its end all the same.
async fn look(part: &Use, clock: &Clock) {
    let metrics = Handle::current().metrics();
    let had_to_do = || metrics.worker_total_busy_duration(0);
    let worked = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default();
    let (mut then, mut had, mut before) = (clock.now(), had_to_do(), worked());
    loop {
        tokio::time::sleep(LOOK).await;
        let (now, has, work) = (clock.now(), had_to_do(), worked());
        let passed = now.saturating_duration_since(then).as_secs_f64().max(1e-6);
        part.busy.set(has.saturating_sub(had).as_secs_f64() / passed);
        part.worked.set(work.saturating_sub(before).as_secs_f64() / passed);
        (then, had, before) = (now, has, work);
    }
}

impl fmt::Debug for LaneThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LaneThread").field(&self.0.id()).finish()
    }
}

impl Runtime for LaneThread {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.enter(|| Box::pin(FineTimer::new(at, self.2.clone())) as _)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        // The drivers of quinn: they end with their endpoint and its connections, which this crate closes.
        drop(self.0.spawn(future));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.enter(|| TokioRuntime.wrap_udp_socket(socket))
    }
}
