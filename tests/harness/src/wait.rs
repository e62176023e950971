//! Waiting for something that can be seen.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until `look` finds something, or fails with what was waited for.
///
/// # Errors
/// After `limit`, or when `look` fails.
#[allow(clippy::disallowed_methods, reason = "tests wait in real time")]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// As [`eventually`], for what is asked for asynchronously.
///
/// # Errors
/// After `limit`, or when `look` fails.
#[allow(clippy::disallowed_methods, reason = "tests wait in real time")]
pub async fn eventually_async<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
