//! A server stands still at moments of a seed while another goes on: nothing that it wanted to write takes effect afterwards. R10.

use anyhow::Result;
use tests_harness::seed;
use tests_storm::paused;

#[test]
fn what_a_server_held_that_stood_still_is_not_written() -> Result<()> {
    let found = paused(3, seed())?;
    println!("{found}");
    found.check()
}
