//! Whatever is killed, at any moment: nothing that was acknowledged is lost or done twice, no part of a file is seen under its name,
//! and all comes together again by itself. `tests/robustness/run` does the same for longer.

use std::path::Path;

use anyhow::Result;
use tests_harness::seed;
use tests_robustness::{Mode, Options, run};

fn campaign(mode: Mode, seed: u64, kills: u32) -> Result<()> {
    eprintln!("seed {seed}");
    let keep = Path::new(env!("CARGO_TARGET_TMPDIR")).to_path_buf();
    let summary = run(&Options { seed, kills, phase: 4, large: 8 << 20, mode, keep })?;
    eprintln!("{summary}");
    Ok(())
}

#[test]
fn two_servers_over_one_database_and_three_agents_survive_six_kills() -> Result<()> {
    campaign(Mode::Outside, seed(), 6)
}

#[test]
fn a_server_with_a_database_of_its_own_and_three_agents_survive_six_kills() -> Result<()> {
    // Printed, and to be given again to `tests/robustness/run --mode embedded --phase 4 --megabytes 8 --kills 6 --seed`.
    campaign(Mode::Embedded, seed(), 6)
}
