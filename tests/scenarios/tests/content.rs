//! The content store of a real agent: made at the start, found damaged where it is, and gone without harm.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests_harness::{Fleet, FleetOptions, binary, digest_tree, eventually, fill_random, write_sample_tree};

const LIMIT: Duration = Duration::from_secs(60);

/// What an agent answers at a path.
fn get(http: &str, path: &str) -> Result<Value> {
    let answer = Command::new("curl").args(["-sf", &format!("http://{http}{path}")]).output()?;
    ensure!(answer.status.success(), "{path}: {:?}", answer.status);
    Ok(serde_json::from_slice(&answer.stdout)?)
}

/// Waits until the agent says this of its content store.
fn says(fleet: &Fleet, status: &str) -> Result<String> {
    let http = fleet.agents[0].http();
    eventually("the content store's health", LIMIT, || {
        let health = get(&http, "/health?verbose=true")?;
        let store = &health["components"]["content_store"];
        let message = store["message"].as_str().unwrap_or_default().to_owned();
        Ok((store["status"] == status).then_some(message))
    })
}

/// `dwcp-agent content …`: its JSON, and whether it ended well.
fn content(dir: &Path, verb: &str) -> Result<(Value, bool)> {
    let mut command = Command::new(binary("dwcp-agent")?);
    command.args(["content", verb, "-o", "json", "--data-dir"]).arg(dir);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
    Ok((answer, output.status.success()))
}

#[test]
fn a_content_store_that_is_damaged_or_removed_is_named_and_stops_nothing() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let config = fleet.scratch.path().join("quick.yaml");
    fs::write(&config, "monitoring:\n  health_check_interval: 1s\n")?;
    let agent = &mut fleet.agents[0];
    agent.stop()?;
    // A death's leavings: half-written, and nobody's.
    let store = agent.dir().join("content");
    let nobodys = store.join("objects/ab").join("0".repeat(62));
    fs::create_dir_all(nobodys.parent().context("a parent")?)?;
    fs::create_dir_all(store.join("incoming"))?;
    fs::write(&nobodys, "nobody's")?;
    fs::write(store.join("incoming/0123456789abcdef"), "half")?;
    agent.options_mut().arguments = vec!["--config".to_owned(), config.display().to_string()];
    agent.restart()?;
    fleet.all_ready()?;
    let dir = fleet.agents[0].dir().to_path_buf();
    says(&fleet, "healthy")?;
    eventually("leavings are removed", LIMIT, || {
        Ok((!nobodys.exists() && !store.join("incoming/0123456789abcdef").exists()).then_some(()))
    })?;
    ensure!(fs::metadata(&store)?.permissions().mode() & 0o777 == 0o700, "nobody else's to look at");
    ensure!(content(&dir, "stats")?.0["objects"] == 0);

    // An object that is not what its name says.
    fs::create_dir_all(nobodys.parent().context("a parent")?)?;
    fs::write(&nobodys, "damaged")?;
    let (verified, well) = content(&dir, "verify")?;
    ensure!(!well && verified["damaged"] == serde_json::json!([format!("ab{}", "0".repeat(62))]), "{verified:#}");
    let message = says(&fleet, "degraded")?;
    ensure!(message.contains("content/damaged"), "{message}");
    eventually("dwcp check to say so", LIMIT, || {
        let said = fleet.cli_on(0)?.run(&["check"])?.stdout;
        Ok(said.contains("dwcp-agent content verify").then_some(()))
    })?;
    // A running agent collects by itself.
    ensure!(!content(&dir, "collect")?.1);
    fs::remove_dir_all(store.join("damaged"))?;
    says(&fleet, "healthy")?;
    ensure!(content(&dir, "verify")?.1);

    // All of it, under the agent.
    fs::remove_dir_all(&store)?;
    let source = fleet.agents[0].root("data").join("set");
    write_sample_tree(&source, 9)?;
    fleet.cli()?.ok(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
    ensure!(digest_tree(&source)? == digest_tree(&fleet.agents[1].root("data").join("in/set"))?);
    eventually("the store is made anew", LIMIT, || Ok(store.join("objects").is_dir().then_some(())))?;
    says(&fleet, "healthy")?;
    let stats = get(&fleet.agents[0].http(), "/api/v1/dwcp/hde/stats")?;
    ensure!(stats["content"]["objects"].is_u64() && stats["baselines_synced"].is_u64(), "{stats:#}");
    fleet.agents[0].check_alive()
}

/// What the sending agent says of what it keeps: versions, and objects.
fn kept(fleet: &Fleet) -> Result<(u64, u64)> {
    let stats = get(&fleet.agents[0].http(), "/api/v1/dwcp/hde/stats")?;
    let number = |value: &Value| value.as_u64().with_context(|| format!("{stats:#}"));
    Ok((number(&stats["baselines_synced"])?, number(&stats["content"]["objects"])?))
}

/// Objects of an agent's content store, as they lie there.
fn objects(store: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(store.join("objects"))? {
        for object in fs::read_dir(folder?.path())? {
            found.push(object?.path());
        }
    }
    Ok(found.into_iter().filter(|path| path.extension().is_none()).collect())
}

#[test]
fn versions_that_were_sent_are_kept_and_losing_or_damaging_them_costs_only_bytes() -> Result<()> {
    let mut fleet = Fleet::start(&FleetOptions::default())?;
    let config = fleet.scratch.path().join("quick.yaml");
    fs::write(&config, "monitoring:\n  health_check_interval: 1s\ncompression:\n  baseline_interval: 1s\n")?;
    let agent = &mut fleet.agents[0];
    agent.stop()?;
    agent.options_mut().arguments = vec!["--config".to_owned(), config.display().to_string()];
    agent.restart()?;
    fleet.all_ready()?;
    let (source, target) = (fleet.agents[0].root("data"), fleet.agents[1].root("data"));
    let store = fleet.agents[0].dir().join("content");
    fs::create_dir_all(source.join("set"))?;
    let file = source.join("set/file");
    fill_random(&file, 4 << 20, 7)?;
    // Each changes a little more, and each is there as it was sent.
    let send = |version: u8| -> Result<()> {
        let mut bytes = fs::read(&file)?;
        bytes[1_000_000 * usize::from(version % 4)..][..100].fill(version);
        fs::write(&file, &bytes)?;
        fleet.cli()?.ok(&["send", "--from", "site-a", "data:/set", "site-b:data:/in"])?;
        ensure!(digest_tree(&source.join("set"))? == digest_tree(&target.join("in/set"))?, "version {version}");
        Ok(())
    };
    // One that replaced an older one is kept: the next is likely. Two are kept of each file, a second apart where they are copied. One that is
    // written to while it is copied is not kept: the next is not written before that is over, on a slow disk either.
    let mut version = 0;
    eventually("two versions to be kept", LIMIT, || {
        version += 1;
        send(version)?;
        let wanted = u64::from(version - 1).min(2);
        let soon = eventually("this one to be kept", Duration::from_secs(6), || {
            Ok((kept(&fleet)?.0 == wanted).then_some(wanted))
        });
        Ok(soon.ok().filter(|kept| *kept == 2).map(drop))
    })?;
    ensure!(kept(&fleet)?.1 == 2, "{:?}", kept(&fleet));
    // Damaged on the disk: what arrives is whole all the same, and what does not verify is not used.
    for object in objects(&store)? {
        let mut bytes = fs::read(&object)?;
        bytes[2_000_000] ^= 1;
        fs::write(&object, bytes)?;
    }
    send(version + 1)?;
    ensure!(!content(fleet.agents[0].dir(), "verify")?.1, "a version that is kept still was damaged");
    says(&fleet, "degraded")?;
    // All of it gone, and the rows that name it.
    fs::remove_dir_all(&store)?;
    send(version + 2)?;
    fs::remove_file(fleet.agents[0].dir().join("agent.db"))?;
    send(version + 3)?;
    fleet.agents[0].check_alive()
}
