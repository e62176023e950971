//! Trees of many small files: beside rsync, and so many entries that only the disk can hold their list.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tests_harness::{AgentOptions, Fleet, FleetOptions, fill_random, private_mounts};

use crate::{
    measure::{self, median, timed},
    print_line,
    rivals::Daemon,
};

/// Files of a folder.
const FOLDER: u64 = 100;

/// Seconds of one way, over all runs: all of the tree, and again after one file of a hundred changed.
#[derive(Debug, Default)]
struct Seconds {
    first: Vec<f64>,
    again: Vec<f64>,
}

/// The file of this number: 1 to 16 KB of incompressible data.
fn path(root: &Path, number: u64) -> PathBuf {
    root.join(format!("{:05}/{number:07}", number / FOLDER))
}

/// Sends `files` small files by dwcp, rsync, and rsync with `--fsync`, and each again with one in a hundred changed.
pub(crate) fn small_files(files: u64, runs: usize) -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let source = fleet.agents[0].root("data").join("set");
    for number in 0..files {
        if number % FOLDER == 0 {
            fs::create_dir_all(path(&source, number).parent().context("a folder")?)?;
        }
        fill_random(&path(&source, number), 1000 + number * 7919 % 15_000, number)?;
    }
    let mut ways =
        [("dwcp send", Seconds::default()), ("rsync", Seconds::default()), ("rsync --fsync", Seconds::default())];
    let mut round = 0;
    for run in 0..runs {
        // Each into a new folder: a file system is slow for minutes after so many were deleted.
        for again in [false, true] {
            if again {
                round += 1;
                for number in (0..files).step_by(100) {
                    let file = File::options().write(true).open(path(&source, number))?;
                    file.write_all_at(format!("{round}").as_bytes(), 500)?;
                }
            }
            for (name, seconds) in &mut ways {
                ensure!(Command::new("sync").status()?.success(), "sync");
                let took = match *name {
                    "dwcp send" => send(&fleet, &format!("site-b:data:/in-{run}"))?,
                    "rsync" => rsync(&fleet, &source, &format!("plain-{run}"), &[])?,
                    _ => rsync(&fleet, &source, &format!("fsync-{run}"), &["--fsync"])?,
                };
                if again { seconds.again.push(took) } else { seconds.first.push(took) }
            }
        }
    }
    print_line(&format!("{files} files of 1 to 16 KB, {runs} interleaved runs, medians\n"));
    for (name, seconds) in &ways {
        let shown = |values: &[f64]| {
            let (low, high) = measure::range(values);
            format!("{:6.2} s [{low:.2}-{high:.2}]", median(values))
        };
        print_line(&format!("{name:<14} all {}   1 % changed {}", shown(&seconds.first), shown(&seconds.again)));
    }
    let [(_, ours), rivals @ ..] = &ways;
    for (name, theirs) in rivals {
        print_line(&format!(
            "{name} took {:.2} x as long, with 1 % changed {:.2} x",
            median(&theirs.first) / median(&ours.first),
            median(&theirs.again) / median(&ours.again)
        ));
    }
    peaks(&fleet)
}

fn rsync(fleet: &Fleet, source: &Path, name: &str, arguments: &[&str]) -> Result<f64> {
    let target = fleet.scratch.folder(name)?;
    let daemon = Daemon::start(fleet.scratch.path(), source)?;
    let seconds = daemon.fetch(&target, arguments)?;
    daemon.stop()?;
    Ok(seconds)
}

fn send(fleet: &Fleet, to: &str) -> Result<f64> {
    let cli = fleet.cli()?;
    let (result, seconds) = timed(|| cli.json(&["send", "--from", "site-a", "data:/set", to]));
    let sent = result?;
    ensure!(sent["state"] == "SUCCEEDED", "{sent:#}");
    Ok(seconds)
}

fn peaks(fleet: &Fleet) -> Result<()> {
    for (name, agent) in ["sender", "receiver"].iter().zip(&fleet.agents) {
        print_line(&format!("{name}: peak resident {:.0} MB", measure::peak_megabytes(agent.process().pid())?));
    }
    Ok(())
}

/// Sends `entries` empty files, in folders and in one flat folder, between two agents whose roots are in memory.
pub(crate) fn entries(entries: u64, flat: bool) -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions { agents: Vec::new(), ..FleetOptions::default() })?;
    for name in ["site-a", "site-b"] {
        let root = fleet.scratch.folder(&format!("{name}-data"))?;
        let mut script = format!("mount -t tmpfs -o size=8g,nr_inodes=0 dwcp-bench '{}'\n", root.display());
        if name == "site-a" {
            let per_folder = if flat { entries } else { 1000 };
            let at = root.display();
            script.push_str(&format!(
                "for folder in $(seq 1 {folders}); do mkdir -p '{at}'/set/$folder; cd '{at}'/set/$folder; seq -f entry-%.0f 1 {per_folder} | xargs touch; done; cd /\n",
                folders = entries / per_folder
            ));
        }
        fleet.add_agent(AgentOptions {
            name: name.to_owned(),
            roots: vec![("data".to_owned(), root)],
            relay: name == "site-a",
            runner: private_mounts(&script),
            ..AgentOptions::default()
        })?;
    }
    fleet.all_ready()?;
    let first = send(&fleet, "site-b:data:/in")?;
    let again = send(&fleet, "site-b:data:/in")?;
    let how = if flat { "in one folder" } else { "in folders of 1000" };
    print_line(&format!("{entries} empty files {how}: {first:.1} s, again {again:.1} s"));
    peaks(&fleet)
}
