//! The demo of the README, as a newcomer types it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use tests_harness::Scratch;

fn script(name: &str, dir: &Path) -> Result<(bool, String)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(root.join("deploy/demo").join(name))
        .env("DWCP_DEMO_DIR", dir)
        .env("DWCP_DEMO_MB", "40")
        .output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

#[test]
fn the_demo_runs_the_main_job_and_leaves_nothing_behind() -> Result<()> {
    let scratch = Scratch::new()?;
    let dir = scratch.path().join("demo");
    let (up, text) = script("up", &dir)?;
    let environment = dir.join("env");
    let checked = Command::new("bash")
        .args(["-c", &format!(". {} && dwcp check && dwcp -o json transfer list", environment.display())])
        .output()?;
    let (down, last) = script("down", &dir)?;
    ensure!(up, "{text}");
    assert!(text.contains("diff -r finds no difference"), "{text}");
    assert!(text.contains("unchanged and complete"), "{text}");
    assert!(text.contains("grpcurl -cacert"), "{text}");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    ensure!(down, "{last}");
    assert!(!dir.exists());
    let left = Command::new("pgrep").args(["-f", &dir.display().to_string()]).output()?;
    assert!(left.stdout.is_empty(), "still running: {}", String::from_utf8_lossy(&left.stdout));
    Ok(())
}
