//! What a metrics port answers.

use std::process::Command;

use anyhow::{Result, ensure};

/// The value of a series, or the sum of all of its labels' values.
///
/// # Errors
/// The metrics cannot be read.
pub fn metric(address: &str, name: &str) -> Result<f64> {
    let text = text(address)?;
    let values = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let found = series == name || series.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        found.then(|| value.parse::<f64>().ok()).flatten()
    });
    Ok(values.sum())
}

/// The value of one label of the hits of limits.
///
/// # Errors
/// The metrics cannot be read.
pub fn limit_hits(address: &str, limit: &str) -> Result<f64> {
    let text = text(address)?;
    let series = format!("dwcp_limit_hits_total{{limit=\"{limit}\"}}");
    let line = text.lines().find_map(|line| line.strip_prefix(&series)?.trim().parse().ok());
    Ok(line.unwrap_or(0.0))
}

fn text(address: &str) -> Result<String> {
    let answer = Command::new("curl").args(["-sf", "-m", "20", &format!("http://{address}/metrics")]).output()?;
    ensure!(answer.status.success(), "no metrics at {address}");
    Ok(String::from_utf8(answer.stdout)?)
}
