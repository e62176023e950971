//! A timer that fires when it should. tokio's fires on a whole millisecond, up to one too late; a paced sender, who sends each
//! time what two milliseconds are worth and may save up no more, would lose a part of its rate by that.

use std::{
    fmt,
    future::Future,
    os::fd::{AsFd, AsRawFd, RawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use foundation_runtime::Clock;
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use quinn::AsyncTimer;
use tokio::{
    io::unix::AsyncFd,
    time::{Sleep, sleep_until},
};

/// What is due later than this may be late by a millisecond.
const FINE: Duration = Duration::from_millis(20);

/// For one connection, on the thread of its lane. Its file descriptor comes with the first deadline that needs it, so that
/// connections that send nothing have none.
pub(crate) struct FineTimer {
    deadline: Instant,
    clock: Clock,
    coarse: Pin<Box<Sleep>>,
    fine: Option<AsyncFd<Source>>,
    /// Which of them is set.
    is_fine: bool,
}

/// The kernel's timer.
struct Source(TimerFd);

impl AsRawFd for Source {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl FineTimer {
    /// To be made, set and polled within a runtime.
    pub(crate) fn new(deadline: Instant, clock: Clock) -> Self {
        let coarse = Box::pin(sleep_until(deadline.into()));
        let mut timer = Self { deadline, clock, coarse, fine: None, is_fine: false };
        timer.set_to(deadline);
        timer
    }

    fn set_to(&mut self, deadline: Instant) {
        self.deadline = deadline;
        let left = deadline.saturating_duration_since(self.clock.now());
        // Where the kernel has no descriptor to give, the other one serves.
        self.is_fine = left < FINE && self.set_fine(left).is_some();
        if !self.is_fine {
            Sleep::reset(self.coarse.as_mut(), deadline.into());
        }
    }

    #[expect(
        deprecated,
        reason = "what replaces it is unsafe to call, and `Source` owns its descriptor and names no other"
    )]
    fn set_fine(&mut self, left: Duration) -> Option<()> {
        if self.fine.is_none() {
            let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
            let source = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).ok()?;
            self.fine = Some(AsyncFd::new(Source(source)).ok()?);
        }
        // Nothing at all would mean never.
        let left = TimeSpec::from_duration(left.max(Duration::from_nanos(1)));
        self.fine.as_ref()?.get_ref().0.set(Expiration::OneShot(left), TimerSetTimeFlags::empty()).ok()
    }
}

impl AsyncTimer for FineTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.set_to(deadline);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.deadline {
            return Poll::Ready(());
        }
        match &self.fine {
            Some(fine) if self.is_fine => loop {
                // An error of the reactor is as good as its word: whoever waits looks at the clock.
                let Ok(mut guard) = ready!(fine.poll_read_ready(cx)) else { return Poll::Ready(()) };
                let expired = guard.get_inner().0.wait().is_ok();
                guard.clear_ready();
                if expired {
                    return Poll::Ready(());
                }
            },
            _ => Future::poll(self.coarse.as_mut(), cx),
        }
    }
}

impl fmt::Debug for FineTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FineTimer")
            .field("deadline", &self.deadline)
            .field("is_fine", &self.is_fine)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn fires(timer: &mut Pin<Box<FineTimer>>) {
        poll_fn(|cx| AsyncTimer::poll(timer.as_mut(), cx)).await;
    }

    #[tokio::test]
    async fn it_fires_after_each_deadline_and_never_before() {
        let clock = Clock::system();
        let mut timer = Box::pin(FineTimer::new(clock.now() + Duration::from_micros(300), clock.clone()));
        let waits = [300, 1, 700, 0, 25_000, 1500];
        for micros in waits {
            let deadline = clock.now() + Duration::from_micros(micros);
            AsyncTimer::reset(timer.as_mut(), deadline);
            fires(&mut timer).await;
            assert!(clock.now() >= deadline, "{micros} µs");
            // Again without a reset, as a driver may.
            fires(&mut timer).await;
        }
    }

    #[tokio::test]
    async fn a_deadline_that_is_put_off_does_not_fire_at_the_old_one() {
        let clock = Clock::system();
        let mut timer = Box::pin(FineTimer::new(clock.now() + Duration::from_micros(200), clock.clone()));
        let later = clock.now() + Duration::from_millis(40);
        AsyncTimer::reset(timer.as_mut(), later);
        fires(&mut timer).await;
        assert!(clock.now() >= later);
        let soon = clock.now() + Duration::from_millis(2);
        AsyncTimer::reset(timer.as_mut(), soon);
        fires(&mut timer).await;
        assert!(clock.now() >= soon);
    }
}
