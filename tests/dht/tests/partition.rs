//! R33 for seconds; `tests/dht/run partition` does it for minutes and with the intervals of the product. Needs root.

#![allow(clippy::print_stdout, reason = "figures for whoever looks")]

use std::{path::Path, time::Duration};

use anyhow::Result;
use tests_dht::partition::{Partition, run};

#[test]
fn a_fleet_that_was_cut_in_two_comes_together_and_loses_nothing() -> Result<()> {
    let options = Partition { agents: 10, ring: 3, seconds: 5, patience_ms: 3000, seed: tests_harness::seed() };
    let report = run(Path::new(env!("CARGO_BIN_EXE_dwcp-dht")), &options)?;
    println!("{report:#?}");
    assert_eq!((report.lost, report.backwards), (0, 0), "R33: {report:?}");
    assert!(report.ring_healed.max(report.healed) <= Duration::from_secs(120), "R33: {report:?}");
    Ok(())
}
