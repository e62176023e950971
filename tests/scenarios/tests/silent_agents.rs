//! Agents that read nothing while configurations are written: one push is on its way to each, the server's memory does not grow with
//! what they miss, others get theirs as before, and who reads again gets the newest. R11.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use proto_rpc::v1::{CreateConfigRequest, GetConfigRequest, UpdateConfigRequest};
use tests_harness::{Fleet, FleetOptions, Stopped, eventually};

const REVISIONS: u32 = 150;
const LIMIT: Duration = Duration::from_secs(60);
/// R11: what one agent that reads nothing may cost.
const KIB_PER_AGENT: u64 = 1024;
/// Traces, metrics and what allocators keep for themselves.
const KIB_OF_NOISE: u64 = 16 * 1024;

fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// Some 60 KiB, so that a backlog would be seen. Each says something else than the one before, and the last than the first: what says the same
/// is not put into force again.
fn document(number: u32) -> String {
    let filler = "# filler that nobody reads, and that costs what it costs to keep\n".repeat(1_000);
    let level = if number == REVISIONS { 15 } else { number % 14 + 1 };
    format!("{filler}compression:\n  level: {level}\n")
}

/// Which configurations of the control plane an agent has put into force.
fn applied(log: &str) -> usize {
    log.matches("A configuration of the control plane is in force").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_read_nothing_cost_little_and_get_the_newest_when_they_read_again() -> Result<()> {
    let names = ["site-a", "stuck-b", "stuck-c", "stuck-d"];
    let agents = names.map(str::to_owned).to_vec();
    let fleet = Fleet::start(&FleetOptions { agents, ..FleetOptions::default() })?;
    let mut configs = fleet.control_plane.api()?.configs();
    let first =
        CreateConfigRequest { config_id: "fleet".to_owned(), document: document(0), ..CreateConfigRequest::default() };
    let mut etag = configs.create_config(first).await?.into_inner().etag;
    let cli = fleet.cli()?;
    let all_have_the_newest = || {
        let config = cli.json(&["config", "get", "fleet"])?;
        Ok((config["rollout"]["appliedNodes"].as_array().map_or(0, Vec::len) == names.len()).then_some(()))
    };
    // One that stands still between applying and answering would be given nothing but the last.
    eventually("all to have the first", LIMIT, all_have_the_newest)?;
    let stuck = fleet.agents[1..].iter().map(|agent| Stopped::process(agent.process())).collect::<Result<Vec<_>>>()?;
    let before: Vec<_> = fleet.agents.iter().map(|agent| applied(&agent.process().output())).collect();
    let server = fleet.control_plane.process().pid();
    let resident = resident_kib(server)?;
    for number in 1..=REVISIONS {
        let request = UpdateConfigRequest {
            name: "configs/fleet".to_owned(),
            document: document(number),
            etag,
            ..UpdateConfigRequest::default()
        };
        etag = configs.update_config(request).await?.into_inner().etag;
    }
    // The one that reads has the last.
    let get = GetConfigRequest { name: "configs/fleet".to_owned() };
    loop {
        let rollout = configs.get_config(get.clone()).await?.into_inner().rollout.context("a rollout")?;
        if rollout.applied_nodes.iter().any(|node| node == "nodes/site-a") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = resident_kib(server)?.saturating_sub(resident);
    println!("{REVISIONS} revisions of 60 KiB: {grown} KiB more, with {} agents that read nothing", stuck.len());
    let allowed = KIB_OF_NOISE + KIB_PER_AGENT * u64::try_from(stuck.len())?;
    ensure!(grown <= allowed, "{grown} KiB more, {allowed} are allowed");
    drop(stuck);
    eventually("all to have the newest", LIMIT, all_have_the_newest)?;
    for (agent, before) in fleet.agents[1..].iter().zip(&before[1..]) {
        let took = applied(&agent.process().output()) - before;
        ensure!((1..=3).contains(&took), "{} applied {took} of {REVISIONS}", agent.name());
    }
    fleet.all_ready()
}
