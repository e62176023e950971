//! `ready.json`: how a program says where it serves.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{process::Process, wait::eventually};

/// A cold start makes a database cluster; a loaded machine makes it slow.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Waits until `process` has written its `DIR/ready.json`, of this very process.
pub(crate) fn ready(process: &mut Process, dir: &Path) -> Result<Value> {
    let path = dir.join("ready.json");
    let pid = u64::from(process.pid());
    let ready = eventually("ready.json", START_LIMIT, || {
        process.check_alive()?;
        let Ok(bytes) = fs::read(&path) else { return Ok(None) };
        let ready: Value = serde_json::from_slice(&bytes).context("ready.json is written by rename, so it is whole")?;
        Ok((ready["pid"].as_u64() == Some(pid)).then_some(ready))
    });
    ready.with_context(|| format!("it printed:\n{}", process.output()))
}

/// A text field of `ready.json`.
pub(crate) fn field(ready: &Value, name: &str) -> String {
    ready[name].as_str().unwrap_or_default().to_owned()
}
