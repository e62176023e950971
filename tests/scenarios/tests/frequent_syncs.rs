//! A sync of a large file that runs far more often than versions of it are copied: each run costs what changed, and no second copy of the whole.
//!
//! `DWCP_SYNC_MIB` and `DWCP_SYNC_RUNS` make it larger, `DWCP_SEED` another one.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, digest_tree, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(120);
/// Places of the file that change between two runs, and bytes of each.
const CHANGES: u64 = 50;
const CHANGED: u64 = 64;

/// What both ends put on the wire so far.
fn on_the_wire(fleet: &Fleet) -> Result<u64> {
    let mut sum = 0.0;
    for agent in &fleet.agents {
        sum += metric(&agent.metrics(), "dwcp_amst_bytes_sent")?;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of bytes, below 2^53")]
    Ok(sum as u64)
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

fn set(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Changes some of the file's pages.
fn change(path: &Path, size: u64, seed: u64, run: u64) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let mut state = seed.wrapping_mul(1_000_003).wrapping_add(run);
    let mut next = move || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    for _ in 0..CHANGES {
        let at = next() % (size / CHANGED) * CHANGED;
        let bytes: Vec<u8> = (0..CHANGED / 8).flat_map(|_| next().to_le_bytes()).collect();
        file.write_all_at(&bytes, at)?;
    }
    Ok(file.sync_all()?)
}

/// Bytes on the disk below a folder.
fn occupied(folder: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(folder)?.flatten() {
        let data = entry.metadata()?;
        sum += if data.is_dir() { occupied(&entry.path())? } else { data.blocks() * 512 };
    }
    Ok(sum)
}

#[test]
fn a_large_file_that_changes_in_every_run_costs_what_changed() -> Result<()> {
    let (size, runs) = (set("DWCP_SYNC_MIB", 16) << 20, set("DWCP_SYNC_RUNS", 13));
    let seed = set("DWCP_SEED", 1);
    println!("DWCP_SEED={seed} DWCP_SYNC_MIB={} DWCP_SYNC_RUNS={runs}", size >> 20);
    let fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let source = fleet.agents[0].root("data").join("image");
    let destination = fleet.agents[1].root("data").join("in/image");
    fill_random(&source, size, seed)?;
    let arguments = ["sync", "create", "--from", "site-a", "data:/image", "site-b:data:/in", "--name", "image"];
    cli.json(&[&arguments[..], &["--every", "1h"]].concat())?;
    eventually("the first run", LIMIT, || {
        Ok((cli.json(&["sync", "get", "image"])?["state"] == "IN_STEP").then_some(()))
    })?;
    let (mut sent, mut wire) = (Vec::new(), Vec::new());
    for run in 0..runs {
        change(&source, size, seed, run)?;
        let before = on_the_wire(&fleet)?;
        let sync = cli.json(&["sync", "run", "image", "--timeout", "60s"])?;
        ensure!(sync["status"]["lastRun"]["result"] == "SUCCEEDED", "{sync:#}");
        wire.push(on_the_wire(&fleet)? - before);
        sent.push(number(&sync["status"]["lastRun"]["progress"]["bytesSent"]));
        ensure!(fs::metadata(&source)?.len() == fs::metadata(&destination)?.len());
    }
    println!("bytes of pieces by run: {sent:?}\nbytes on the wire, both ways: {wire:?}");
    ensure!(
        digest_tree(source.parent().context("a folder")?)? == digest_tree(destination.parent().context("a folder")?)?
    );
    // Every tenth version is described anew by the receiver (compression.max_delta_chain), which costs more.
    let least = CHANGES * CHANGED;
    let close = wire.iter().filter(|wire| **wire < 4 * least + (16 << 10)).count();
    ensure!(close + 2 >= wire.len(), "{close} of {} runs cost what changed ({least}): {wire:?}", wire.len());
    // The newest version, the one that was copied before it, and what finds things in them.
    let held = occupied(&fleet.agents[0].dir().join("content"))?;
    println!("the sender's content store: {held} bytes");
    ensure!(held <= 2 * size + size / 4 + (4 << 20), "{held}");
    Ok(())
}
