//! The two threads of a direction: one takes packets in and says when they came, one hands them out when they are due.

use std::{
    io::ErrorKind,
    process::Command,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use foundation_runtime::Clock;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::gettid,
};

use crate::{
    device::Device,
    lateness::Histogram,
    line::{Flying, Line},
    link::{Direction, Link},
    namespace::said,
    report::DirectionReport,
};

/// How often a thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// The shortest sleep. A thread of real-time priority that never sleeps, as one that looks at the clock until a packet is due, takes
/// a whole core: on a busy machine the kernel then gives that core to others for up to 50 ms. Sleeping so long costs these
/// microseconds in lateness and keeps the worst within 2 to 3 ms.
const LEAST_SLEEP: Duration = Duration::from_micros(50);
/// So many are handed out before the next look at the clock and the line.
const BATCH: usize = 32;
/// Above the programs that are measured, below the kernel's own threads.
const PRIORITY: &str = "40";
/// The largest packet of an interface.
const LARGEST: usize = 65_536;

/// One direction that runs.
#[derive(Debug)]
pub(crate) struct Pump {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Whether its threads have real-time priority.
    pub(crate) real_time: bool,
}

#[derive(Debug)]
struct Shared {
    direction: Direction,
    clock: Clock,
    start: Instant,
    from: Arc<Device>,
    to: Arc<Device>,
    state: Mutex<State>,
    earlier: Condvar,
    stop: AtomicBool,
}

#[derive(Debug)]
struct State {
    line: Line,
    /// Until when the thread that hands out sleeps.
    asleep_until: u64,
    late: Histogram,
    /// Between two packets that were taken in without a wait between them.
    pauses: Histogram,
    refused: u64,
    /// What the interface had lost when the count began.
    lost_before: u64,
}

impl Pump {
    pub(crate) fn start(
        direction: Direction,
        from: Arc<Device>,
        to: Arc<Device>,
        link: Link,
        start: Instant,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            direction,
            clock: Clock::system(),
            start,
            from,
            to,
            state: Mutex::new(State {
                line: Line::new(link),
                asleep_until: 0,
                late: Histogram::default(),
                pauses: Histogram::default(),
                refused: 0,
                lost_before: 0,
            }),
            earlier: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        let mut real_time = true;
        for (name, work) in [("wan-in", take_in as fn(&Shared)), ("wan-out", hand_out)] {
            let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
            let shared = Arc::clone(&shared);
            threads.push(thread::Builder::new().name(name.to_owned()).spawn(move || {
                drop(ready.send(in_real_time()));
                work(&shared);
            })?);
            real_time &= is_ready.recv().context("the thread says so first")?.is_ok();
        }
        Ok(Self { shared, threads, real_time })
    }

    pub(crate) fn link(&self) -> Link {
        self.shared.lock().line.link().clone()
    }

    pub(crate) fn change(&self, change: &dyn Fn(&mut Link)) {
        let mut state = self.shared.lock();
        let mut link = state.line.link().clone();
        change(&mut link);
        let now = self.shared.now();
        state.line.change(now, link);
        self.shared.earlier.notify_one();
    }

    pub(crate) fn count_anew(&self, link: Link) -> Result<()> {
        let lost = self.shared.to.lost()?;
        let mut state = self.shared.lock();
        let now = self.shared.now();
        state.line.count_anew(now, link);
        (state.late, state.pauses) = (Histogram::default(), Histogram::default());
        (state.refused, state.lost_before) = (0, lost);
        self.shared.earlier.notify_one();
        Ok(())
    }

    pub(crate) fn report(&self) -> Result<DirectionReport> {
        let lost_by_devices = self.shared.to.lost()?;
        let mut state = self.shared.lock();
        let now = self.shared.now();
        state.line.settle(now);
        Ok(DirectionReport {
            direction: self.shared.direction,
            tally: state.line.tally().clone(),
            late: state.late.figures(),
            pauses: state.pauses.figures(),
            refused: state.refused,
            lost_by_devices: lost_by_devices - state.lost_before,
        })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.earlier.notify_all();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Gives the present thread real-time priority.
fn in_real_time() -> Result<()> {
    said(Command::new("chrt").args(["--fifo", "--pid", PRIORITY, &gettid().to_string()])).map(drop)
}

/// Takes packets in as they come.
fn take_in(shared: &Shared) {
    let tun = shared.from.tun();
    let mut packet = vec![0; LARGEST];
    let look = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO);
    while !shared.stopped() {
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(tun), PollFlags::POLLIN)];
        if !matches!(poll(&mut ready, look), Ok(count) if count > 0) {
            continue;
        }
        let mut before: Option<u64> = None;
        while let Some(length) = next_packet(tun, &mut packet) {
            let now = shared.now();
            let mut state = shared.lock();
            if let Some(before) = before.replace(now) {
                state.pauses.record(now.saturating_sub(before));
            }
            let answer = state.line.on_packet(now, packet.get(..length).unwrap_or_default());
            if state.line.next_due().is_some_and(|due| due < state.asleep_until) {
                shared.earlier.notify_one();
            }
            drop(state);
            if let Some(answer) = answer
                && tun.send(&answer).is_err()
            {
                shared.lock().refused += 1;
            }
        }
    }
}

/// The next packet's length, where one waits.
fn next_packet(tun: &tun_rs::SyncDevice, packet: &mut [u8]) -> Option<usize> {
    loop {
        match tun.recv(packet) {
            Ok(length) => return Some(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Nothing waits; or the interface is down, which `poll` says again.
            Err(_) => return None,
        }
    }
}

/// Hands packets out when they are due.
fn hand_out(shared: &Shared) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut state = shared.lock();
    while !shared.stopped() {
        let now = shared.now();
        while batch.len() < BATCH
            && let Some(packet) = state.line.take_due(now)
        {
            batch.push(packet);
        }
        if !batch.is_empty() {
            drop(state);
            state = write_all(shared, &mut batch);
            continue;
        }
        state = wait_for_next(shared, state, now);
    }
}

fn write_all<'a>(shared: &'a Shared, batch: &mut Vec<Flying>) -> MutexGuard<'a, State> {
    let mut late = [0_u64; BATCH];
    let mut refused = 0;
    for (packet, late) in batch.iter().zip(&mut late) {
        *late = shared.now().saturating_sub(packet.due);
        refused += u64::from(shared.to.tun().send(&packet.bytes).is_err());
    }
    let mut state = shared.lock();
    for late in &late[..batch.len()] {
        state.late.record(*late);
    }
    state.refused += refused;
    batch.clear();
    state
}

fn wait_for_next<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>, now: u64) -> MutexGuard<'a, State> {
    let due = state.line.next_due().unwrap_or(u64::MAX);
    let sleep = Duration::from_nanos(due.saturating_sub(now)).clamp(LEAST_SLEEP, LOOK);
    state.asleep_until = due;
    let (mut state, _) = shared.earlier.wait_timeout(state, sleep).unwrap_or_else(PoisonError::into_inner);
    state.asleep_until = 0;
    state
}
