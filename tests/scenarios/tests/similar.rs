//! Files that are new at their path and like another one: a second image of a kind, one that was renamed and changed; though the receiver is
//! killed on the way, or what it leans on changes.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, eventually, fill_random, metric};

const LIMIT: Duration = Duration::from_secs(60);
const IMAGE: u64 = 200 << 20;
const BLOCK: u64 = 4096;

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

/// Copies an image and changes one of so many of its blocks.
fn variant(from: &Path, to: &Path, one_in: u64) -> Result<()> {
    fs::copy(from, to)?;
    let file = File::options().write(true).open(to)?;
    let blocks = fs::metadata(to)?.len() / BLOCK;
    for block in (0..blocks).step_by(usize::try_from(one_in)?) {
        let hash = block.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bytes: Vec<u8> = (0..BLOCK / 8).flat_map(|n| (hash ^ n.wrapping_mul(hash | 1)).to_le_bytes()).collect();
        file.write_all_at(&bytes, block * BLOCK)?;
    }
    Ok(())
}

fn create(fleet: &Fleet, what: &str) -> Result<String> {
    let source = format!("data:/{what}");
    let created = fleet.cli()?.json(&["send", "--from", "site-a", &source, "site-b:data:/in", "--detach"])?;
    Ok(created["name"].as_str().context("a transfer has a name")?.to_owned())
}

fn ended(fleet: &Fleet, name: &str, what: &str) -> Result<u64> {
    let ended = fleet.cli()?.json(&["transfer", "watch", name, "--timeout", "120s"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    let arrived = fleet.agents[1].root("data").join("in").join(what);
    ensure!(fs::read(fleet.agents[0].root("data").join(what))? == fs::read(arrived)?);
    Ok(number(&ended["progress"]["bytesSent"]))
}

fn send(fleet: &Fleet, what: &str) -> Result<u64> {
    ended(fleet, &create(fleet, what)?, what)
}

#[test]
fn a_second_image_costs_what_differs_and_so_does_a_file_that_was_renamed_and_changed() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let data = fleet.agents[0].root("data");
    fs::create_dir_all(&data)?;
    fill_random(&data.join("one.img"), IMAGE, 7)?;
    send(&fleet, "one.img")?;
    variant(&data.join("one.img"), &data.join("two.img"), 50)?;
    let second = send(&fleet, "two.img")?;
    println!("a second image of {IMAGE} bytes with 2 % changed: {second} bytes");
    ensure!(second < IMAGE / 20, "{second}");
    ensure!(metric(&fleet.agents[1].metrics(), "dwcp_hde_similar_files_total")? >= 1.0);

    // Renamed, and changed at its beginning, in its middle, and in length.
    fill_random(&data.join("draft"), 50 << 20, 8)?;
    send(&fleet, "draft")?;
    let mut bytes = fs::read(data.join("draft"))?;
    fs::remove_file(data.join("draft"))?;
    bytes.splice(0..10, *b"another beginning");
    bytes.splice(20_000_000..20_000_100, vec![b'x'; 5000]);
    fs::write(data.join("final"), &bytes)?;
    let renamed = send(&fleet, "final")?;
    println!("{} bytes that were renamed and changed: {renamed} bytes", bytes.len());
    ensure!(renamed < 500_000, "{renamed}");

    // The receiver is killed on the way, and what it leans on changes meanwhile.
    variant(&data.join("final"), &data.join("three.img"), 20)?;
    let name = create(&fleet, "three.img")?;
    let arrived = fleet.agents[1].root("data").join("in");
    eventually("the transfer to be under way", LIMIT, || {
        let names = fs::read_dir(&arrived)?.filter_map(Result::ok).map(|entry| entry.file_name());
        let begun = names.into_iter().any(|name| name.to_string_lossy().starts_with(".dwcp-"));
        Ok((begun || arrived.join("three.img").exists()).then_some(()))
    })?;
    fleet.agents[1].kill()?;
    let first = File::options().write(true).open(arrived.join("final"))?;
    first.write_all_at(&vec![0x55; 3 << 20], 30 << 20)?;
    fleet.agents[1].restart()?;
    let third = ended(&fleet, &name, "three.img")?;
    println!("killed in between, and what it leaned on changed: {third} bytes");
    ensure!(third < 50 << 20, "{third}");
    fleet.agents[1].check_alive()
}
