//! All servers of a fleet are killed and come back: agents are let in at the configured pace, and cost little. R2.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests_storm::{Herd, HerdOptions};

#[test]
fn agents_come_back_at_the_pace_that_is_configured() -> Result<()> {
    let options = HerdOptions { agents: 60, restarts: 1, away: Duration::from_secs(3), rate: 5 };
    let mut herd = Herd::start(options)?;
    let storm = herd.storm()?;
    println!("{storm}");
    storm.check()?;
    ensure!(storm.sent_away > 0.0, "nobody was sent away");
    herd.stop();
    Ok(())
}
