//! The units and the scripts that install them: what systemd thinks of the first, and what the second leave on a host.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tests_harness::{Ran, Scratch, binary, repository};

/// Exposure from 0 (safe) to 100, by systemd's own reckoning. What is left are the network and unix sockets, which both need.
const EXPOSURE: &str = "20";

const UNITS: [&str; 2] = ["dwcp-control-plane.service", "dwcp-agent.service"];

/// The programs' folder.
fn bin() -> Result<PathBuf> {
    Ok(binary("dwcp")?.parent().context("a folder")?.to_path_buf())
}

/// A script of `deploy`, into a folder instead of the machine.
fn deploy(script: &str, destination: &Path, arguments: &[&str]) -> Result<Ran> {
    let mut command = Command::new(repository().join("deploy").join(script));
    command.env("DESTDIR", destination).env("DWCP_BIN", bin()?).args(arguments);
    Ok(command.output()?.into())
}

fn deployed(script: &str, destination: &Path, arguments: &[&str]) -> Result<String> {
    let ran = deploy(script, destination, arguments)?;
    ensure!(ran.code == 0, "deploy/{script} {arguments:?}: {}{}", ran.stdout, ran.stderr);
    Ok(ran.stdout)
}

/// All files below a folder.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

#[test]
fn systemd_finds_no_fault_in_the_units_and_little_that_they_could_harm() -> Result<()> {
    let analyze = |arguments: &[&str]| -> Result<Ran> {
        let output = Command::new("systemd-analyze").arg("--no-pager").args(arguments).output();
        Ok(output.context("systemd-analyze (deploy/tools systemd)")?.into())
    };
    let scratch = Scratch::new()?;
    for unit in UNITS {
        // The programs need not be installed here.
        let text = fs::read_to_string(repository().join("deploy/systemd").join(unit))?;
        let path = scratch.path().join(unit);
        fs::write(&path, text.replace("/usr/local/bin/", &format!("{}/", bin()?.display())))?;
        let path = path.display().to_string();
        let verified = analyze(&["verify", "--man=no", &path])?;
        let of_ours: Vec<_> = verified.stderr.lines().filter(|line| line.contains("dwcp")).collect();
        assert!(of_ours.is_empty(), "{of_ours:#?}");
        let security = analyze(&["security", "--offline=true", &format!("--threshold={EXPOSURE}"), &path])?;
        ensure!(
            security.code == 0 && security.stdout.contains("Overall exposure level"),
            "{}{}",
            security.stdout,
            security.stderr
        );
    }
    Ok(())
}

#[test]
fn an_installation_is_whole_can_be_repeated_and_is_taken_away() -> Result<()> {
    let scratch = Scratch::new()?;
    let to = scratch.path().join("root");
    let nothing = deployed("install", &to, &["agent", "--dry-run"])?;
    assert!(nothing.contains("write") && !to.exists(), "{nothing}");

    deployed("install", &to, &["control-plane", "--advertise", "ctl.example", "--advertise", "192.0.2.1:9000"])?;
    deployed("install", &to, &["agent", "--root", "data=/srv/x y", "--root", "old=/home/me/old:ro"])?;
    for name in ["dwcp", "dwcp-agent", "dwcp-control-plane"] {
        assert_eq!(fs::metadata(to.join("usr/local/bin").join(name))?.permissions().mode() & 0o777, 0o755);
    }
    for unit in UNITS {
        assert_eq!(
            fs::read(to.join("etc/systemd/system").join(unit))?,
            fs::read(repository().join("deploy/systemd").join(unit))?
        );
    }
    let completion = fs::read_to_string(to.join("usr/local/share/bash-completion/completions/dwcp"))?;
    assert!(completion.contains("token"), "{completion}");
    let options = fs::read_to_string(to.join("etc/dwcp/control-plane.yaml"))?;
    assert!(options.contains("- \"ctl.example\"\n  - \"192.0.2.1:9000\""), "{options}");

    // What an operator wrote stays; one more root comes to the others.
    let config = to.join("etc/dwcp/agent.yaml");
    let mine = format!("monitoring:\n  log_level: warn\n{}", fs::read_to_string(&config)?);
    fs::write(&config, mine)?;
    let before = files(&to)?;
    deployed("install", &to, &["control-plane", "--advertise", "other.example"])?;
    deployed("install", &to, &["agent", "--root", "more=/srv/more"])?;
    assert_eq!(files(&to)?, before);
    assert_eq!(fs::read_to_string(to.join("etc/dwcp/control-plane.yaml"))?, options);
    let config = fs::read_to_string(config)?;
    let layer = proto_model::config::Layer::host("agent.yaml", config.clone());
    let tree = proto_model::config::parse(layer).map_err(|wrong| anyhow::anyhow!("{wrong:?} in {config}"))?;
    let effective = proto_model::config::resolve(&[tree]).map_err(|wrong| anyhow::anyhow!("{wrong:?} in {config}"))?;
    let roots = &effective.config.roots;
    let root = |name: &str| roots.iter().find(|(held, _)| held.as_str() == name).map(|(_, root)| root.clone());
    assert_eq!(root("data").context("data")?.path, Path::new("/srv/x y"));
    assert!(root("old").context("old")?.read_only);
    assert!(!root("more").context("more")?.read_only);
    assert_eq!(effective.config.monitoring.log_level.as_str(), "warn");
    let dropin = fs::read_to_string(to.join("etc/systemd/system/dwcp-agent.service.d/roots.conf"))?;
    for line in ["ReadWritePaths=-\"/srv/x y\"", "ReadWritePaths=-\"/srv/more\"", "BindReadOnlyPaths=-\"/home/me/old\""]
    {
        assert!(dropin.lines().any(|held| held == line), "{line} in {dropin}");
    }

    // The other program's parts stay, and so does the state, unless all is to go.
    deployed("uninstall", &to, &["agent"])?;
    assert!(to.join("usr/local/bin/dwcp").exists() && to.join("var/lib/dwcp-agent").exists());
    assert!(to.join("etc/dwcp/agent.yaml").exists() && !to.join("usr/local/bin/dwcp-agent").exists());
    deployed("uninstall", &to, &["agent", "--purge"])?;
    deployed("uninstall", &to, &["control-plane", "--purge"])?;
    assert_eq!(files(&to)?, BTreeSet::new());
    assert!(to.join("srv/x y").exists(), "a root's folder is the operator's");
    Ok(())
}

#[test]
fn what_is_typed_wrong_is_said_before_anything_is_done() -> Result<()> {
    let scratch = Scratch::new()?;
    let to = scratch.path().join("root");
    for (arguments, code, said) in [
        (vec![], 2, "say control-plane or agent"),
        (vec!["agent", "--advertise", "x"], 2, "belong to a control plane"),
        (vec!["control-plane", "--root", "a=/b"], 2, "belong to an agent"),
        (vec!["agent", "--root", "data=srv"], 2, "is no NAME=DIR"),
        (vec!["agent", "--rot"], 2, "unknown: --rot"),
        (vec!["agent", "--root"], 2, "--root needs a value"),
        (vec!["agent", "--bin", "/nowhere"], 1, "cargo build"),
    ] {
        let ran = deploy("install", &to, &arguments)?;
        assert!(ran.code == code && ran.stderr.contains(said), "{arguments:?}: {ran:?}");
    }
    assert!(!to.exists());
    Ok(())
}
