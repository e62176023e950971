//! Agents that stand still cost little, hold up nobody, and are given the newest when they go on. R11; with real agents in `silent_agents.rs`.

use anyhow::Result;
use tests_storm::{SilentOptions, silent};

#[test]
fn agents_that_stand_still_hold_up_nobody() -> Result<()> {
    let found = silent(&SilentOptions { agents: 24, silent: 8, revisions: 40 })?;
    println!("{found}");
    found.check()
}
