//! R15: what was said to be received is there after a power cut, nothing is seen in part, and the host comes back by itself.
//! `tests/robustness/run --cuts N` does the same for longer.

use anyhow::Result;
use tests_harness::seed;
use tests_robustness::{can_cut_power, cut_power, cut_power_of_syncs};

#[test]
fn what_was_received_is_there_after_a_power_cut() -> Result<()> {
    if !can_cut_power()? {
        eprintln!("no file system of our own can be mounted and shut down here: nothing was tried");
        return Ok(());
    }
    let seed = seed();
    let cuts = cut_power(3, seed, 30 << 20)?;
    eprintln!("{cuts:?}");
    Ok(())
}

#[test]
fn a_sync_knows_its_files_from_others_after_a_power_cut_and_its_runs_go_on() -> Result<()> {
    if !can_cut_power()? {
        eprintln!("no file system of our own can be mounted and shut down here: nothing was tried");
        return Ok(());
    }
    let seed = seed();
    let cuts = cut_power_of_syncs(3, seed, 4 << 20)?;
    eprintln!("{cuts:?}");
    Ok(())
}
