//! A path between a dialler and one address, on loopback, that does to datagrams what it is told.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use foundation_runtime::{Clock, OnEnd, TaskGroup};
use tokio::{net::UdpSocket, sync::Notify};

/// One datagram on its way to the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    /// Counted from 0.
    pub(crate) number: u64,
    pub(crate) bytes: usize,
    /// When it came, since the path began.
    pub(crate) at: Duration,
}

/// When copies of a datagram arrive, since the path began; none, and it is lost. At the same moment, the later number is first.
pub(crate) type Arrivals = Vec<Duration>;

/// By when it is due, and its place among those of the same moment.
type Held = BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>;

fn take_due(held: &mut Held, now: Duration) -> Option<Vec<u8>> {
    let due = held.peek().is_some_and(|next| next.0.0 <= now);
    if due { held.pop().map(|next| next.0.2) } else { None }
}

pub(crate) struct Path {
    pub(crate) address: SocketAddr,
    /// Where the other end sees the dialler.
    pub(crate) behind: SocketAddr,
    _tasks: TaskGroup,
    most: Arc<AtomicUsize>,
    rebind: Arc<Notify>,
}

impl Path {
    /// To an address; each datagram there arrives as `decide` says. What comes back takes as long as `back`.
    pub(crate) async fn to(
        target: SocketAddr,
        back: Duration,
        mut decide: impl FnMut(Datagram) -> Arrivals + Send + 'static,
    ) -> Self {
        let near = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, behind) = (near.local_addr().unwrap(), far.local_addr().unwrap());
        let tasks = TaskGroup::new("path");
        let most = Arc::new(AtomicUsize::new(0));
        let rebind = Arc::new(Notify::new());
        let (seen, bell) = (Arc::clone(&most), Arc::clone(&rebind));
        let clock = Clock::system();
        let (token, mut answers) = (tasks.token().clone(), 0_u64);
        tasks.spawn("path", OnEnd::Expected, async move {
            let start: Instant = clock.now();
            let (mut out, mut answer) = (vec![0; 65_536], vec![0; 65_536]);
            let (mut there, mut home) = (Held::new(), Held::new());
            let (mut dialler, mut number) = (address, 0_u64);
            loop {
                let now = clock.now() - start;
                while let Some(bytes) = take_due(&mut there, now) {
                    drop(far.send_to(&bytes, target).await);
                }
                while let Some(bytes) = take_due(&mut home, now) {
                    drop(near.send_to(&bytes, dialler).await);
                }
                let next = there.peek().into_iter().chain(home.peek()).map(|held| held.0.0).min();
                let wait = next.map_or(Duration::from_secs(1), |due| due.saturating_sub(clock.now() - start));
                tokio::select! {
                    () = token.cancelled() => return,
                    () = bell.notified() => far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
                    Ok((bytes, from)) = near.recv_from(&mut out) => {
                        dialler = from;
                        let at = clock.now() - start;
                        for due in decide(Datagram { number, bytes, at }) {
                            there.push(Reverse((due, u64::MAX - number, out[..bytes].to_vec())));
                        }
                        seen.fetch_max(there.len(), Relaxed);
                        number += 1;
                    }
                    Ok((bytes, _)) = far.recv_from(&mut answer) => {
                        answers += 1;
                        home.push(Reverse((clock.now() - start + back, answers, answer[..bytes].to_vec())));
                    }
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
        Self { address, behind, _tasks: tasks, most, rebind }
    }

    /// From now on the dialler is seen at another port, as behind a NAT that forgot it; what is on its way back is lost.
    pub(crate) fn rebind(&self) {
        self.rebind.notify_one();
    }

    /// Datagrams that were on their way at once, at most.
    pub(crate) fn most_on_the_way(&self) -> usize {
        self.most.load(Relaxed)
    }
}
