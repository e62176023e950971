//! Thousands of small files that are alike, some at a time, between two real agents: with dictionaries fewer bytes travel, a dictionary is shipped
//! once, is still there after a restart, and costs only bytes where it was lost.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, digest_tree, eventually, metric};

const LIMIT: Duration = Duration::from_secs(60);

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()).unwrap_or_default()
}

/// Whether the first agent trains dictionaries, from now on.
fn configure(fleet: &mut Fleet, dictionaries: bool) -> Result<()> {
    let config = fleet.scratch.path().join("dictionaries.yaml");
    fs::write(&config, format!("compression:\n  enable_dictionary: {dictionaries}\n"))?;
    let agent = &mut fleet.agents[0];
    agent.stop()?;
    agent.options_mut().arguments = vec!["--config".to_owned(), config.display().to_string()];
    agent.restart()?;
    fleet.all_ready()
}

/// What an agent says of its dictionaries.
fn dictionaries(fleet: &Fleet, agent: usize) -> Result<Value> {
    let url = format!("http://{}/api/v1/dwcp/hde/stats", fleet.agents[agent].http());
    let answer = Command::new("curl").args(["-sf", &url]).output()?;
    let stats: Value = serde_json::from_slice(&answer.stdout)?;
    Ok(stats["dictionaries"].clone())
}

/// A service's configuration, like others of its kind.
fn service(number: u64) -> String {
    let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 29);
    format!(
        "{{\n  \"apiVersion\": \"services.example.org/v1\",\n  \"kind\": \"Service\",\n  \"metadata\": {{\n    \"name\": \"service-{number}\",\n    \"uid\": \
         \"{:016x}\"\n  }},\n  \"spec\": {{\n    \"image\": \"registry.example.org/platform/service:1.{}.{}\",\n    \"replicas\": {},\n    \"resources\": {{\n      \
         \"limits\": {{ \"cpu\": \"{}m\", \"memory\": \"256Mi\" }},\n      \"requests\": {{ \"cpu\": \"100m\", \"memory\": \"128Mi\" }}\n    }},\n    \"environment\": [\n      \
         {{ \"name\": \"LOG_LEVEL\", \"value\": \"info\" }},\n      {{ \"name\": \"DATABASE_URL\", \"value\": \"postgres://db-{}.internal:5432/app\" }}\n    ],\n    \
         \"livenessProbe\": {{ \"path\": \"/health/live\", \"intervalSeconds\": 10, \"failureThreshold\": 3 }},\n    \"readinessProbe\": {{ \"path\": \
         \"/health/ready\", \"intervalSeconds\": 5, \"failureThreshold\": 2 }}\n  }}\n}}\n",
        hash(number),
        number % 40,
        number % 17,
        number % 5 + 1,
        100 + number % 9 * 50,
        number % 23,
    )
}

/// Sends so many new files; gives the bytes that were sent.
fn send(fleet: &Fleet, first: u64, count: u64) -> Result<u64> {
    let name = format!("from-{first}");
    let folder = fleet.agents[0].root("data").join(&name);
    fs::create_dir_all(&folder)?;
    for number in first..first + count {
        fs::write(folder.join(format!("service-{number}.json")), service(number))?;
        fs::write(
            folder.join(format!("service-{number}.conf")),
            format!("# {number}\n[service]\nname = service-{number}\n"),
        )?;
    }
    let source = format!("data:/{name}");
    let ended = fleet.cli()?.json(&["send", "--from", "site-a", &source, "site-b:data:/in", "--timeout", "60s"])?;
    ensure!(ended["state"] == "SUCCEEDED", "{ended:#}");
    ensure!(digest_tree(&folder)? == digest_tree(&fleet.agents[1].root("data").join("in").join(&name))?);
    Ok(number(&ended["progress"]["bytesSent"]))
}

fn counted(fleet: &Fleet, agent: usize, name: &str) -> f64 {
    metric(&fleet.agents[agent].metrics(), name).unwrap_or_default()
}

/// Sends a few new files, and again, until a dictionary was shipped: bytes of each.
fn until_shipped(fleet: &Fleet, first: u64) -> Result<Vec<u64>> {
    let mut rounds = Vec::new();
    while counted(fleet, 0, SHIPPED) == 0.0 {
        ensure!(rounds.len() < 15, "nothing is shipped: {rounds:?}");
        rounds.push(send(fleet, first + 100 * u64::try_from(rounds.len())?, 10)?);
    }
    Ok(rounds)
}

const SHIPPED: &str = "dwcp_hde_dictionary_events_total{event=\"shipped\"}";

#[test]
fn many_small_transfers_of_like_files_take_fewer_bytes_with_a_dictionary_that_is_shipped_once() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let off = send(&fleet, 100_000, 10)?;
    configure(&mut fleet, true)?;
    send(&fleet, 0, 1000)?;
    let known = || Ok((number(&dictionaries(&fleet, 0)?["trained"]) > 0).then_some(()));
    eventually("a dictionary to be trained", LIMIT, known)?;
    let mut rounds = until_shipped(&fleet, 200_000)?;
    for round in 0..5 {
        rounds.push(send(&fleet, 300_000 + 100 * round, 10)?);
    }
    let on = rounds.last().copied().context("rounds")?;
    println!("20 small files: {off} bytes without a dictionary, {on} with it; all transfers: {rounds:?}");
    ensure!(on < off * 3 / 4, "{on} of {off}");
    ensure!(rounds.iter().sum::<u64>() < off * u64::try_from(rounds.len())?, "with what was shipped: {rounds:?}");
    ensure!(counted(&fleet, 0, SHIPPED) == 1.0 && counted(&fleet, 0, "dwcp_hde_dictionary_size_bytes") > 1000.0);
    let received = dictionaries(&fleet, 1)?;
    ensure!(number(&received["received"]) == 1 && number(&received["received_bytes"]) > 1000, "{received:#}");

    // Both ends start anew, one of them killed.
    fleet.agents[1].kill()?;
    fleet.agents[1].restart()?;
    configure(&mut fleet, true)?;
    let again = send(&fleet, 400_000, 10)?;
    ensure!(again < off * 3 / 4, "{again} of {off}");
    ensure!(counted(&fleet, 0, SHIPPED) == 0.0, "nothing was shipped since the start");

    // Gone at the receiver: it falls back, is counted, and shipped again once it has missed its price.
    fs::remove_dir_all(fleet.agents[1].dir().join("transfers/dictionaries/received"))?;
    let without = send(&fleet, 500_000, 10)?;
    ensure!(without > again * 5 / 4, "{without} and {again}");
    let fallbacks = counted(&fleet, 0, "dwcp_hde_baseline_fallbacks_total{reason=\"dictionary\"}");
    ensure!(fallbacks >= 1.0, "{fallbacks}");
    until_shipped(&fleet, 600_000)?;
    let healed = send(&fleet, 700_000, 10)?;
    ensure!(healed < off * 3 / 4, "{healed} of {off}");
    fleet.agents[0].check_alive()
}
