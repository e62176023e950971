//! Either end of a transfer over a long, thin, lossy path is killed at moments of a seed: it goes on by itself, and sends again no more than
//! what was under way. `tests/robustness/run --distant 20 --megabytes 200` does the same for longer.

use anyhow::{Result, ensure};
use tests_harness::seed;
use tests_robustness::kill_far_apart;

const MEGABYTES: u32 = 40;

/// What is under way at most: what the reader takes in two round trips, at least 8 MiB, and what a journal lags behind.
const UNDER_WAY: u64 = 12 << 20;

#[test]
fn a_killed_end_far_away_sends_again_what_was_under_way() -> Result<()> {
    for killed in kill_far_apart(2, seed(), MEGABYTES)? {
        eprintln!("{killed:?}");
        ensure!(killed.again <= UNDER_WAY, "{killed:?}");
        ensure!(killed.again_on_the_path <= UNDER_WAY + UNDER_WAY / 10, "{killed:?}");
    }
    Ok(())
}
