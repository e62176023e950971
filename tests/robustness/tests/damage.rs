//! Files of an agent are removed, emptied, cut short, or have a bit flipped: it goes on by itself, and never with what is wrong.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tests_harness::{Agent, Cli, Fleet, FleetOptions, digest_tree, eventually, seed};
use tests_robustness::change_tree;

const LIMIT: Duration = Duration::from_secs(60);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Emptied,
    CutShort,
    BitFlipped,
}

fn damage(path: &Path, damage: Damage, random: &mut StdRng) -> Result<()> {
    let mut bytes = fs::read(path)?;
    match damage {
        Damage::Emptied => bytes.clear(),
        Damage::CutShort => bytes.truncate(bytes.len() / 2),
        Damage::BitFlipped => {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
    }
    // In place, so that the mode stays.
    fs::write(path, bytes).context("write")
}

fn moves(fleet: &Fleet, cli: &Cli, random: &mut StdRng) -> Result<()> {
    let (source, target) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    change_tree(&source, 300_000, random)?;
    let sent = eventually("a transfer", LIMIT, || {
        let ran =
            cli.run(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--delete", "--timeout", "30s"])?;
        Ok((ran.code == 0).then_some(()))
    });
    sent.with_context(|| fleet.agents[1].process().output())?;
    ensure!(digest_tree(&source)? == digest_tree(&target)?, "the trees differ");
    Ok(())
}

#[test]
fn a_store_that_is_removed_under_a_running_agent_is_made_anew_and_the_seq_goes_on() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let mut random = StdRng::seed_from_u64(1);
    let highest = |agent: &Agent| {
        let text = agent.process().output();
        let numbers = text.split("seq: ").skip(1);
        let numbers = numbers.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<i64>().ok());
        numbers.collect::<Vec<_>>()
    };
    for round in 0..3 {
        for suffix in ["", "-wal", "-shm"].iter().take(1 + 2 * (round % 2)) {
            fs::remove_file(fleet.agents[1].dir().join(format!("agent.db{suffix}")))?;
        }
        moves(&fleet, &cli, &mut random)?;
        eventually("another store", LIMIT, || Ok(fleet.agents[1].dir().join("agent.db").exists().then_some(())))?;
        fleet.agents[1].kill()?;
        fleet.agents[1].restart()?;
        fleet.all_ready()?;
        let wanted = round + 2;
        eventually("its record to be said again", LIMIT, || {
            Ok((highest(&fleet.agents[1]).len() >= wanted).then_some(()))
        })?;
    }
    let seqs = highest(&fleet.agents[1]);
    assert!(seqs.is_sorted_by(|a, b| a < b), "{seqs:?}");
    Ok(())
}

#[test]
fn a_transfer_goes_on_whatever_of_its_own_files_was_damaged() -> Result<()> {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let cli = fleet.cli()?;
    let (source, target) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data").join("in/set"));
    for (end, names) in [(1, vec!["journal", "pages", "remains"]), (0, vec!["pages", "job", "spent"])] {
        for name in names {
            let kind = [Damage::Emptied, Damage::CutShort, Damage::BitFlipped][random.random_range(0..3)];
            change_tree(&source, 60_000_000, &mut random)?;
            let created =
                cli.json(&["send", "--from", "site-a", "data:/set", "site-b:data:/in", "--delete", "--detach"])?;
            let id = created["name"].as_str().context("a name")?.trim_start_matches("transfers/").to_owned();
            let role = if end == 1 { "receiver" } else { "sender" };
            let file = fleet.agents[end].dir().join(format!("transfers/{id}.{role}/{name}"));
            eventually("the transfer to begin", LIMIT, || {
                Ok((file.exists() && fs::metadata(&file)?.len() > 0).then_some(()))
            })?;
            fleet.agents[end].kill()?;
            // It may have ended in the moment before.
            let damaged = file.exists() && damage(&file, kind, &mut random).is_ok();
            fleet.agents[end].restart()?;
            let ended = cli.json(&["transfer", "watch", &format!("transfers/{id}"), "--timeout", "90s"])?;
            let shown = format!("seed {seed}, {role}'s {name} {kind:?} {damaged}: {ended:#}");
            assert_eq!(ended["state"], "SUCCEEDED", "{shown}");
            assert_eq!(digest_tree(&source)?, digest_tree(&target)?, "{shown}");
            assert!(!fleet.agents[end].process().output().contains("panicked"), "{shown}");
        }
    }
    Ok(())
}
