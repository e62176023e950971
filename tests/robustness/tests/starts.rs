//! R18, shortened: whatever is killed, also while it starts, starts again. `tests/robustness/run --starts N` goes on for longer.

use anyhow::Result;
use tests_harness::seed;
use tests_robustness::start_often;

#[test]
fn programs_that_are_killed_at_any_moment_start_again_and_transfers_go_on() -> Result<()> {
    let seed = seed();
    eprintln!("{:?}", start_often(12, seed, 8 << 20)?);
    Ok(())
}
