//! The alarm of R30 in a fleet as it runs: an agent whose ring answers in another's place, what it says, and that it works all the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dataplane_dht::{Nat, NodeType, Record, SignedRecord};
use rand::{SeedableRng as _, rngs::StdRng};
use tests_harness::{Fleet, FleetOptions};

use crate::{
    fleet::{fleet, signer},
    sybils::{Lie, Sybils},
};

/// How long until it is said, at most.
const LIMIT: Duration = Duration::from_secs(100);

/// So old a record should be in the DHT.
const SETTLED: Duration = Duration::from_secs(65);

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// From the start of the agent until `dwcp check` said so.
    pub after: Duration,
    /// What it said.
    pub line: String,
    /// Until a transfer from that agent had ended.
    pub sent: Duration,
}

/// Does it.
///
/// # Errors
/// It is not said, or the transfer fails.
pub async fn run() -> Result<Report> {
    let mut world = Fleet::start(&FleetOptions::default())?;
    let target = world.agents[0].node_id().parse()?;
    // Nobody's; this liar says that there is nothing.
    let record = Record {
        issued_s: 1,
        ttl_s: 1,
        fleet: fleet(),
        addresses: Vec::new(),
        node_type: NodeType::Public,
        nat: Nat::Unknown,
        relays: Vec::new(),
    };
    let unused = SignedRecord::sign(&signer(0), 1, &record)?;
    let liar = Sybils::start(3, &Lie::Empty, target, &unused, &mut StdRng::seed_from_u64(1)).await?;
    let list = liar.nodes.iter().map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(",");
    // A record that is younger than a minute need not be in the DHT yet; who compared then compares again when its cache has run out.
    tokio::time::sleep(SETTLED).await;
    let lied_to = &mut world.agents[1];
    lied_to.stop()?;
    lied_to.options_mut().arguments.extend(["--dht-bootstrap".to_owned(), list]);
    lied_to.restart()?;
    let begun = Instant::now();
    let cli = world.cli_on(1)?;
    let line = loop {
        let said = cli.run(&["check"])?.stdout;
        if let Some(line) = said.lines().find(|line| line.contains("say otherwise")) {
            break line.trim().to_owned();
        }
        ensure!(begun.elapsed() < LIMIT, "not said in {LIMIT:?}: {said}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let after = begun.elapsed();
    let file = world.agents[1].root("data").join("file");
    std::fs::write(&file, b"it works all the same")?;
    let begun = Instant::now();
    cli.ok(&["send", file.to_str().context("a path of text")?, "site-a:data:/in/"])?;
    Ok(Report { after, line, sent: begun.elapsed() })
}
