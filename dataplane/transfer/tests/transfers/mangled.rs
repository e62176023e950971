//! A real conversation of two real ends, of which some frames and pieces are changed on the way: whatever both make of it, nobody panics or waits for
//! ever, and what is called a success is one. `DWCP_MANGLED_CASES` is how many are tried (60), `DWCP_TEST_SEED` draws others.

use std::{collections::BTreeMap, fs, time::Duration};

use dataplane_transfer::{Received, Settings};
use futures::{StreamExt, stream};
use proto_model::{TransferOptions, TransferState};

use crate::bed::{Bed, Faults, Mangle, noise, settings, tree};

/// Three links whose silences, pauses and last words all take their longest, on a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(240);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// One transfer whose first links change what they carry; how it ended.
async fn mangled(seed: u64) -> (TransferState, String) {
    let bed = Bed::new();
    for host in [&bed.a, &bed.b] {
        let stall_timeout = Duration::from_secs(2);
        host.transfers.set_settings(Settings { stall_timeout, ..settings() });
    }
    for (name, bytes) in [("one", 5_000), ("two/large", 300_000), ("two/other", 90_000), ("empty", 0)] {
        let path = bed.a.root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(seed, bytes)).unwrap();
    }
    // Some of it is there already, in an older version, which its length shows: times may be the same.
    fs::create_dir(bed.b.root.join("two")).unwrap();
    fs::write(bed.b.root.join("two/large"), [noise(seed, 200_000), noise(1, 110_000)].concat()).unwrap();
    let (own, outside) = (tree(&bed.a.root), tree(&bed.b.outside));
    let faults =
        (0..3).map(|link| Faults { mangle: Some(Mangle::new(seed * 3 + link, 4 + seed % 20)), ..Faults::default() });
    let grant = bed.grant(&["data:/"], "data:/", TransferOptions::default());
    let (report, wires) = bed.send_job_within(ENDS_WITHIN, bed.job(&grant), faults.collect()).await;
    // A receiver that panicked would be missing here.
    let received = tokio::time::timeout(ENDS_WITHIN, wires.received()).await;
    let received = received.unwrap_or_else(|_late| panic!("seed {seed}: {report:?}"));
    assert_eq!(tree(&bed.a.root), own, "seed {seed}: the source changed");
    assert_eq!(tree(&bed.b.outside), outside, "seed {seed}: something outside changed");
    // What the receiver says is changed as well: only what both call a success is one.
    let succeeded = |end: &Received| matches!(end, Received::Ended(report) if report.state == TransferState::Succeeded);
    if report.state == TransferState::Succeeded && received.iter().any(succeeded) {
        assert_eq!(tree(&bed.b.root), own, "seed {seed}: {report:?}");
    }
    let reason = report.error.map(|error| error.reason).unwrap_or_default();
    (report.state, reason.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_frames_end_a_transfer_or_nothing_and_never_look_like_success() {
    let (cases, seed) = (number("DWCP_MANGLED_CASES", 60), number("DWCP_TEST_SEED", 20_261_121));
    println!("DWCP_TEST_SEED={seed}");
    let ends: Vec<_> = stream::iter(0..cases).map(|case| mangled(seed + case)).buffer_unordered(6).collect().await;
    let mut counts = BTreeMap::new();
    for (state, reason) in ends {
        *counts.entry(format!("{state:?} {reason}")).or_insert(0) += 1;
    }
    println!("{counts:#?}");
    assert!(counts.len() > 2, "the changes had little effect: {counts:?}");
}
