//! A node that is deleted while it sends and receives is cut off within five seconds (R35). `tests/robustness/run --revocations N`
//! repeats it, with figures.

use anyhow::Result;
use tests_robustness::revoke;

#[test]
fn a_node_that_is_deleted_while_it_sends_and_receives_is_cut_off_within_five_seconds() -> Result<()> {
    for cut in revoke(1, 35, 1 << 30)? {
        eprintln!("{cut:?}");
    }
    Ok(())
}
