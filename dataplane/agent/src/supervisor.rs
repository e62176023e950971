//! A part that fails is started again, later each time, and its component says so; the agent goes on without it.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use foundation_runtime::{Backoff, Clock, OnEnd, TaskGroup};
use futures::FutureExt as _;

use crate::health::{Component, Health};

/// The first wait before a part is started again.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A part that ran so long had been started well: the next wait is short again.
const RAN_WELL: Duration = Duration::from_secs(60);

/// Why a part ended.
pub(crate) type PartResult = Result<(), String>;

/// Runs parts.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    pub(crate) tasks: TaskGroup,
    pub(crate) health: Health,
    pub(crate) clock: Clock,
}

impl Supervisor {
    /// Runs `part` until the agent stops; it is then dropped where it stands. A part that returns `Ok` is done; one that fails or panics is started again.
    /// The part itself says when it is healthy.
    pub(crate) fn keep<F, P>(&self, name: &'static str, component: Component, mut part: F)
    where
        F: FnMut() -> P + Send + 'static,
        P: Future<Output = PartResult> + Send + 'static,
    {
        let this = self.clone();
        self.tasks.spawn(name, OnEnd::Expected, async move {
            let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
            loop {
                let began = this.clock.now();
                let ended = tokio::select! {
                    () = this.tasks.cancelled() => return,
                    ended = AssertUnwindSafe(part()).catch_unwind() => ended,
                };
                let why = match ended {
                    Ok(Ok(())) => return,
                    Ok(Err(why)) => why,
                    Err(_panicked) => "it ended without an answer (a bug: the log has its place)".to_owned(),
                };
                if this.clock.now().saturating_duration_since(began) >= RAN_WELL {
                    backoff.reset();
                }
                let wait = backoff.next_delay();
                tracing::warn!(
                    component = component.as_str(),
                    part = name,
                    why,
                    wait_ms = wait.as_millis(),
                    "A part failed and is started again"
                );
                this.health.unhealthy(component, why);
                tokio::select! {
                    () = this.tasks.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::health::Level;

    #[tokio::test]
    async fn a_part_that_fails_or_panics_is_started_again() {
        let supervisor =
            Supervisor { tasks: TaskGroup::new("test"), health: Health::default(), clock: Clock::system() };
        let runs = Arc::new(AtomicU32::new(0));
        let (counted, health) = (Arc::clone(&runs), supervisor.health.clone());
        supervisor.keep("part", Component::Dht, move || {
            let (run, health) = (counted.fetch_add(1, Ordering::SeqCst), health.clone());
            async move {
                match run {
                    0 => Err("the first time it fails".to_owned()),
                    1 => panic!("the second time it panics"),
                    _ => {
                        health.healthy(Component::Dht);
                        Ok(())
                    }
                }
            }
        });
        let mut watch = supervisor.health.watch();
        watch.wait_for(|board| board.get(&Component::Dht).is_some_and(|s| s.level == Level::Healthy)).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        supervisor.tasks.shutdown(Duration::from_secs(1)).await.unwrap();
    }
}
