//! What a running fleet measures is what `docs/metrics.md` says, and each of it says what it means.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tests_harness::{Fleet, FleetOptions, write_sample_tree};

/// What stands of a metric on the page, or in an answer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    programs: BTreeSet<String>,
}

fn documented() -> Result<BTreeMap<String, Metric>> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md"))?;
    let list = |cell: &str| cell.split(", ").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let mut found = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, programs, meaning] = cells[..] else { anyhow::bail!("five cells in {line}") };
        ensure!(!meaning.is_empty(), "{line}");
        let metric = Metric { kind: kind.to_owned(), labels: list(labels), programs: list(programs) };
        found.insert(name.trim_matches('`').to_owned(), metric);
    }
    Ok(found)
}

/// Adds what a program answers.
fn scrape(address: &str, program: &str, found: &mut BTreeMap<String, Metric>) -> Result<()> {
    let answer = Command::new("curl").args(["-sf", &format!("http://{address}/metrics")]).output()?;
    let text = String::from_utf8(answer.stdout)?;
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            ensure!(text.contains(&format!("# HELP {name} ")), "{name} of {program} says not what it means");
            let metric = found.entry(name.to_owned()).or_default();
            kind.clone_into(&mut metric.kind);
            metric.programs.insert(program.to_owned());
        } else if let Some((series, labels)) = line.split_once('{') {
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|end| series.strip_suffix(end));
            let name = bare.filter(|bare| found.contains_key(*bare)).unwrap_or(series);
            let metric = found.get_mut(name).with_context(|| format!("no TYPE before {line}"))?;
            let (labels, _) = labels.split_once('}').context("labels end")?;
            let names = labels.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name);
            metric.labels.extend(names.filter(|name| *name != "le").map(str::to_owned));
        }
    }
    Ok(())
}

#[test]
fn the_page_of_metrics_is_what_a_running_fleet_answers() -> Result<()> {
    let fleet = Fleet::start(&FleetOptions::default())?;
    let source = fleet.agents[0].root("data").join("set");
    write_sample_tree(&source, 5)?;
    let cli = fleet.cli()?;
    cli.ok(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    let mut seen = BTreeMap::new();
    scrape(&fleet.control_plane.metrics(), "CP", &mut seen)?;
    for agent in &fleet.agents {
        scrape(&agent.metrics(), "A", &mut seen)?;
    }
    let documented = documented()?;
    let mut wrong = Vec::new();
    for (name, metric) in &seen {
        let Some(page) = documented.get(name) else {
            wrong.push(format!("{name} is not on the page: {metric:?}"));
            continue;
        };
        let fits = page.kind == metric.kind
            && metric.labels.is_subset(&page.labels)
            && metric.programs.is_subset(&page.programs);
        if !fits {
            wrong.push(format!("{name}: the page says {page:?}, the fleet {metric:?}"));
        }
    }
    // What only shows when something happens is at least in the source.
    for name in documented.keys().filter(|name| !seen.contains_key(*name)) {
        let found = Command::new("grep")
            .args(["-rqF", "--include=*.rs", &format!("\"{name}\"")])
            .args(["control-plane", "dataplane", "foundation"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .status()?;
        if !found.success() {
            wrong.push(format!("{name} is on the page, and nowhere else"));
        }
    }
    assert!(wrong.is_empty(), "docs/metrics.md: {wrong:#?}");
    Ok(())
}
