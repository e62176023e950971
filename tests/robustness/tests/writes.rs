//! Operators write at two servers while one of these, PostgreSQL or its connections fail: what was acknowledged is there once, and a repeat of
//! what is unknown does not double it. R3; `tests/robustness/run --writes 20` does it for longer.

use anyhow::Result;
use tests_harness::seed;
use tests_robustness::fail_while_writing;

#[test]
fn what_is_acknowledged_is_there_once_whatever_fails() -> Result<()> {
    let written = fail_while_writing(4, seed())?;
    eprintln!("{written}");
    written.check()
}
