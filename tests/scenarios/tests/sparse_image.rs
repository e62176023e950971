//! A disk image of 8 GiB, nearly all of it hole, of whose data a hundredth changes: it arrives with its holes, and the change
//! costs about what changed.

use std::{
    fs::File,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FallocateFlags, fallocate};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, seed};

const IMAGE_BYTES: u64 = 8 << 30;
/// Data lies in extents, as a file system's does.
const EXTENT_BYTES: usize = 4 << 20;
const EXTENTS: u64 = 64;
/// A hundredth of the data, in blocks as a file system writes them.
const CHANGED_BLOCKS: u64 = 655;
const BLOCK_BYTES: usize = 4096;
/// What a changed block may cost, in blocks: the blocks around it travel with it.
const CHANGED_BOUND: u64 = 80;

fn extent_at(number: u64) -> u64 {
    number * (IMAGE_BYTES / EXTENTS)
}

fn bytes_sent(sent: &Value) -> Result<u64> {
    let text = sent["progress"]["bytesSent"].as_str().with_context(|| format!("{sent:#}"))?;
    Ok(text.parse()?)
}

/// Extent by extent; what lies between them is hole in both, which their blocks show.
fn ensure_same(source: &Path, target: &Path) -> Result<()> {
    let (from, to) = (File::open(source)?, File::open(target)?);
    let (mut wanted, mut found) = (vec![0; 2 * EXTENT_BYTES], vec![0; 2 * EXTENT_BYTES]);
    for number in 0..EXTENTS {
        from.read_exact_at(&mut wanted, extent_at(number))?;
        to.read_exact_at(&mut found, extent_at(number))?;
        ensure!(wanted == found, "extent {number} differs");
    }
    let (from, to) = (from.metadata()?, to.metadata()?);
    ensure!(to.len() == IMAGE_BYTES, "{} bytes", to.len());
    ensure!(to.blocks() <= from.blocks() + from.blocks() / 50 + 64, "{} blocks of {}", to.blocks(), from.blocks());
    Ok(())
}

#[test]
fn an_image_of_holes_arrives_with_its_holes_and_again_at_the_cost_of_what_changed() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let (source, target) =
        (fleet.agents[0].root("data").join("disk.img"), fleet.agents[1].root("data").join("disk.img"));
    let mut random = StdRng::seed_from_u64(seed());
    let image = File::create(&source)?;
    image.set_len(IMAGE_BYTES)?;
    let mut extent = vec![0; EXTENT_BYTES];
    for number in 0..EXTENTS {
        random.fill(&mut extent[..]);
        image.write_all_at(&extent, extent_at(number))?;
    }
    let cli = fleet.cli_on(0)?;
    let first = cli.json(&["send", "--from", "site-a", "data:/disk.img", "site-b:data:/"])?;
    ensure!(first["state"] == "SUCCEEDED", "{first:#}");
    ensure_same(&source, &target)?;
    let data = EXTENTS * extent.len() as u64;
    ensure!(bytes_sent(&first)? < data + data / 50, "holes are not sent: {first:#}");

    let mut block = vec![0; BLOCK_BYTES];
    for _ in 0..CHANGED_BLOCKS {
        random.fill(&mut block[..]);
        let within = random.random_range(0..EXTENT_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
        image.write_all_at(&block, extent_at(random.random_range(0..EXTENTS)) + within as u64)?;
    }
    // Data where there was a hole, and a hole where there was data.
    image.write_all_at(&block, extent_at(1) + (32 << 20))?;
    fallocate(
        &image,
        FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        i64::try_from(extent_at(2))?,
        i64::try_from(EXTENT_BYTES)?,
    )?;
    image.sync_all()?;
    let again = cli.json(&["send", "--from", "site-a", "data:/disk.img", "site-b:data:/"])?;
    ensure!(again["state"] == "SUCCEEDED", "{again:#}");
    ensure_same(&source, &target)?;
    let changed = CHANGED_BLOCKS * BLOCK_BYTES as u64;
    ensure!(bytes_sent(&again)? < CHANGED_BOUND * changed, "{} bytes of change cost {}", changed, bytes_sent(&again)?);
    Ok(())
}
