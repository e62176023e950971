//! Full disks, used-up inodes and read errors: one clear state and message, others go on, and what can go on goes on by itself.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{
    Cli, Fleet, FleetOptions, as_seen_by, digest_tree, eventually, fill_random, metric, private_mounts,
};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Starts an agent of the fleet anew with these mounts and a small reserve; it tries again every second.
fn restart_with(fleet: &mut Fleet, agent: usize, script: &str) -> Result<()> {
    restart_configured(fleet, agent, script, "")?;
    fleet.all_ready()
}

/// The same with more of a configuration, and without waiting until it is READY.
fn restart_configured(fleet: &mut Fleet, agent: usize, script: &str, more: &str) -> Result<()> {
    let config = fleet.scratch.path().join(format!("{agent}.yaml"));
    fs::write(&config, format!("storage:\n  reserve: 4MiB\ntransfer:\n  retry_interval: 1s\n{more}"))?;
    let agent = &mut fleet.agents[agent];
    agent.stop()?;
    agent.options_mut().runner = private_mounts(script);
    agent.options_mut().arguments = vec!["--config".to_owned(), config.display().to_string()];
    agent.restart()
}

/// A path as the agent's own mounts have it.
fn seen(fleet: &Fleet, agent: usize, path: &Path) -> PathBuf {
    as_seen_by(fleet.agents[agent].process().pid(), path)
}

fn mount(options: &str, path: &Path) -> String {
    let path = path.display();
    format!("mkdir -p '{path}'; mount -t tmpfs -o {options} dwcp-trees '{path}'\n")
}

fn send(cli: &Cli, source: &str, to: &str) -> Result<String> {
    let created = cli.json(&["send", "--from", "site-a", source, to, "--detach"])?;
    Ok(created["name"].as_str().context("a name")?.to_owned())
}

/// Waits until a transfer says that there is no space, and gives its message.
fn waits_for_space(cli: &Cli, name: &str) -> Result<String> {
    let mut last = Value::Null;
    eventually("a transfer that waits for space", LIMIT, || {
        last = cli.json(&["transfer", "get", name])?;
        let waits = last["state"] == "WAITING" && last["error"]["reason"] == "NO_SPACE";
        Ok(waits.then(|| last["error"]["message"].as_str().unwrap_or_default().to_owned()))
    })
    .with_context(|| format!("{last:#}"))
}

fn ended(cli: &Cli, name: &str) -> Result<Value> {
    cli.json(&["transfer", "watch", name, "--timeout", "60s"])
}

fn free_bytes(path: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

fn temporaries(path: &Path) -> Result<usize> {
    Ok(digest_tree(path)?.into_keys().filter(|path| path.ends_with(b".part")).count())
}

#[test]
fn a_full_destination_is_waited_for_and_its_reserve_is_kept() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data"), fleet.agents[1].root("data"));
    restart_with(&mut fleet, 0, "")?;
    restart_with(&mut fleet, 1, &mount("size=32m", &b))?;
    fs::create_dir_all(a.join("set"))?;
    for part in 0..5 {
        fill_random(&a.join(format!("set/{part}")), 4 * MIB, part)?;
    }
    fill_random(&a.join("small"), MIB, 9)?;
    fill_random(&a.join("never"), 40 * MIB, 10)?;
    let b = seen(&fleet, 1, &b);
    let cli = fleet.cli()?;
    fill_random(&b.join("filler"), 12 * MIB, 8)?;
    let name = send(&cli, "data:/set", "site-b:data:/in")?;
    let message = waits_for_space(&cli, &name)?;
    for word in ["data:/in", "at the receiver", "storage.reserve", "goes on by itself"] {
        assert!(message.contains(word), "{message}");
    }
    // Another one that fits goes through meanwhile.
    let small = send(&cli, "data:/small", "site-b:data:/")?;
    assert_eq!(ended(&cli, &small)?["state"], "SUCCEEDED");
    assert!(free_bytes(&b)? >= 4 * MIB, "the reserve is kept");
    // What can never fit fails at once.
    let never = send(&cli, "data:/never", "site-b:data:/")?;
    let never = cli.run(&["-o", "json", "transfer", "watch", &never, "--timeout", "60s"])?;
    assert_ne!(never.code, 0);
    assert!(never.stdout.contains("NO_SPACE") && never.stdout.contains("in all"), "{}", never.stdout);

    fs::remove_file(b.join("filler"))?;
    assert_eq!(ended(&cli, &name)?["state"], "SUCCEEDED");
    assert_eq!(digest_tree(&a.join("set"))?, digest_tree(&b.join("in/set"))?);
    assert_eq!(temporaries(&b)?, 0);
    assert!(free_bytes(&b)? >= 4 * MIB, "the reserve is kept");
    Ok(())
}

/// An update of which both ends hold the older version: that one stays whole and readable until there is room for the new one.
#[test]
fn an_update_that_finds_the_destination_full_leaves_the_old_version_readable_and_goes_on_by_itself() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data"), fleet.agents[1].root("data"));
    let keep = "compression:\n  baseline_interval: 1s\ncontent:\n  copy_baselines: always\n";
    restart_configured(&mut fleet, 0, "", keep)?;
    restart_configured(&mut fleet, 1, &mount("size=72m", &b), keep)?;
    fleet.all_ready()?;
    let b = seen(&fleet, 1, &b);
    let cli = fleet.cli()?;
    let set = a.join("set");
    fs::create_dir_all(&set)?;
    for part in 0..3 {
        fill_random(&set.join(format!("{part}")), 8 * MIB, part)?;
    }
    fs::write(set.join("small"), "the first version\n".repeat(1000))?;
    let first = send(&cli, "data:/set", "site-b:data:/in")?;
    assert_eq!(ended(&cli, &first)?["state"], "SUCCEEDED");
    eventually("versions to be kept", LIMIT, || {
        let kept = metric(&fleet.agents[0].metrics(), "dwcp_hde_baselines_synced").unwrap_or_default();
        Ok((kept >= 4.0).then_some(()))
    })?;
    let old = digest_tree(&b.join("in/set"))?;

    for part in 0..3 {
        let file = fs::File::options().write(true).open(set.join(format!("{part}")))?;
        file.write_all_at(b"changed", 3 * MIB + part)?;
    }
    fs::write(set.join("small"), "the second version\n".repeat(1000))?;
    // Room for two of the three, besides the reserve.
    let room = free_bytes(&b)? - 4 * MIB;
    fill_random(&b.join("filler"), room - 18 * MIB, 8)?;
    let name = send(&cli, "data:/set", "site-b:data:/in")?;
    waits_for_space(&cli, &name)?;
    // Each file is the old version or the new one, and nothing else is there under a final name.
    let there = || -> Result<usize> {
        let (now, new) = (digest_tree(&b.join("in/set"))?, digest_tree(&set)?);
        for (path, entry) in now.iter().filter(|(path, _)| !path.ends_with(b".part")) {
            ensure!(old.get(path) == Some(entry) || new.get(path) == Some(entry), "{}", String::from_utf8_lossy(path));
        }
        Ok(now.keys().filter(|path| !path.ends_with(b".part")).count())
    };
    // Of what the sender was told is in place, nothing is missing.
    let told = cli.json(&["transfer", "get", &name])?["progress"]["filesDone"].as_str().map_or(Ok(0), str::parse)?;
    assert_eq!(there()?, old.len());
    let new = digest_tree(&set)?;
    let in_place = digest_tree(&b.join("in/set"))?.iter().filter(|(path, entry)| new.get(*path) == Some(entry)).count();
    ensure!((told..new.len()).contains(&in_place), "{in_place} of {told}");
    fs::remove_file(b.join("filler"))?;
    let done = ended(&cli, &name)?;
    assert_eq!(done["state"], "SUCCEEDED", "{done:#}");
    assert_eq!(digest_tree(&set)?, digest_tree(&b.join("in/set"))?);
    assert_eq!(temporaries(&b)?, 0);
    // What changed travelled, and it alone, also after the pause.
    let sent = done["progress"]["bytesSent"].as_str().and_then(|bytes| bytes.parse::<u64>().ok());
    assert!(sent.is_some_and(|bytes| bytes < MIB), "{done:#}");
    assert!(free_bytes(&b)? >= 4 * MIB, "the reserve is kept");
    Ok(())
}

#[test]
fn used_up_inodes_are_waited_for() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data"), fleet.agents[1].root("data"));
    restart_with(&mut fleet, 0, "")?;
    restart_with(&mut fleet, 1, &mount("size=32m,nr_inodes=150", &b))?;
    fs::create_dir_all(a.join("set"))?;
    for n in 0..300 {
        fs::write(a.join(format!("set/{n}")), format!("{n}"))?;
    }
    let cli = fleet.cli()?;
    let name = send(&cli, "data:/set", "site-b:data:/in")?;
    let message = waits_for_space(&cli, &name)?;
    assert!(message.contains("no inodes left") && message.contains("data:/in"), "{message}");
    let pid = fleet.agents[1].process().pid().to_string();
    let more = Command::new("nsenter")
        .args(["-t", &pid, "--mount", "mount", "-o", "remount,nr_inodes=1000"])
        .arg(&b)
        .status()?;
    ensure!(more.success(), "the file system cannot be made larger");
    assert_eq!(ended(&cli, &name)?["state"], "SUCCEEDED");
    let b = seen(&fleet, 1, &b);
    assert_eq!(digest_tree(&a.join("set"))?, digest_tree(&b.join("in/set"))?);
    assert_eq!(temporaries(&b)?, 0);
    Ok(())
}

#[test]
fn a_full_state_folder_is_waited_for_at_either_end_and_so_is_a_full_log() -> Result<()> {
    for agent in [0, 1] {
        let mut fleet = Fleet::start(&FleetOptions::default())?;
        let (a, b) = (fleet.agents[0].root("data"), fleet.agents[1].root("data"));
        let state = fleet.agents[agent].dir().join("transfers");
        let logs = fleet.scratch.path().join("logs");
        let other = 1 - agent;
        restart_with(&mut fleet, other, "")?;
        // The log's file system is full from the beginning, but for an empty file.
        let at = logs.display();
        let log = mount("size=64k", &logs)
            + &format!(": > '{at}/agent.log'; dd if=/dev/zero of='{at}/full' bs=4k 2>/dev/null || true\n");
        let file = format!("logging:\n  file: {at}/agent.log\n");
        restart_configured(&mut fleet, agent, &(mount("size=1m", &state) + &log), &file)?;
        let log_is_full =
            format!("log_file is degraded: {at}/agent.log: the log cannot be written there: No space left");
        assert!(fleet.degraded(agent)?.contains(&log_is_full));

        fs::create_dir_all(a.join("set"))?;
        for n in 0..50 {
            fill_random(&a.join(format!("set/{n}")), 10_000 * n, n)?;
        }
        let cli = fleet.cli()?;
        let filler = seen(&fleet, agent, &state).join("filler");
        drop(fill_random(&filler, 2 * MIB, 1));
        let name = send(&cli, "data:/set", "site-b:data:/in")?;
        let message = waits_for_space(&cli, &name)?;
        let whose = ["sender's folder", "receiver's folder"][agent];
        assert!(message.contains(whose) && message.contains(&*state.to_string_lossy()), "{message}");
        assert!(message.contains("goes on by itself"), "{message}");
        fs::remove_file(&filler)?;
        assert_eq!(ended(&cli, &name)?["state"], "SUCCEEDED");
        assert_eq!(digest_tree(&a.join("set"))?, digest_tree(&b.join("in/set"))?);
        // All of that without a log; it goes on by itself with the first line for which there is room.
        assert!(fleet.degraded(agent)?.contains(&log_is_full));
        fs::remove_file(seen(&fleet, agent, &logs).join("full"))?;
        let more = send(&cli, "data:/set/1", "site-b:data:/more")?;
        assert_eq!(ended(&cli, &more)?["state"], "SUCCEEDED");
        fleet.all_ready()?;
        // Nothing but the memory of ended transfers, and of syncs, is left.
        let left: Vec<_> = fs::read_dir(seen(&fleet, agent, &state))?.flatten().map(|e| e.file_name()).collect();
        assert!(left.iter().all(|name| name == "ended" || name == "syncs"), "{left:?}");
    }
    Ok(())
}

#[test]
fn a_file_with_read_errors_is_listed_and_the_others_arrive() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let (a, b) = (fleet.agents[0].root("data").join("set"), fleet.agents[1].root("data"));
    fs::create_dir_all(&a)?;
    for name in ["bad-small", "bad-large", "good-small", "good-large"] {
        fill_random(&a.join(name), if name.ends_with("small") { 5_000 } else { 3_000_000 }, 3)?;
    }
    fleet.agents[0].stop()?;
    let bad = |name: &str| a.join(name).display().to_string();
    // Every read of the two files fails, as on a disk that is worn out.
    let strace = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=read,pread64,readv"].map(str::to_owned);
    let faults = ["-P".to_owned(), bad("bad-small"), "-P".to_owned(), bad("bad-large")];
    let inject = ["-e".to_owned(), "inject=read,pread64,readv:error=EIO".to_owned()];
    fleet.agents[0].options_mut().runner = [strace.to_vec(), faults.to_vec(), inject.to_vec()].concat();
    fleet.agents[0].restart()?;
    fleet.all_ready()?;
    let ran = fleet.cli()?.run(&["-o", "json", "send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    assert_eq!(ran.code, 4, "{}{}", ran.stdout, ran.stderr);
    let answer: Value = serde_json::from_str(&ran.stdout)?;
    let mut left_out: Vec<_> = answer["issues"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|issue| (issue["path"].to_string(), issue["reason"].to_string()))
        .collect();
    left_out.sort();
    let unreadable = |name: &str| (format!("\"set/{name}\""), "\"UNREADABLE\"".to_owned());
    assert_eq!(left_out, [unreadable("bad-large"), unreadable("bad-small")], "{answer:#}");
    assert!(answer["issues"].to_string().contains("Input/output error"), "{answer:#}");
    let arrived: Vec<_> = digest_tree(&b.join("in/set"))?.into_keys().collect();
    assert_eq!(arrived, [b"good-large".to_vec(), b"good-small".to_vec()]);
    Ok(())
}
