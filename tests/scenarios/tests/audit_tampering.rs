//! Whatever is done to the audit log past the programs is found, by `dwcp audit verify` with exit code 12 and a finding that says what and
//! where, and by whoever remembers an earlier head: the server in its folder, agents, the command line (R13, R14).

mod audit_log;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use audit_log::{Log, put_back, save, signing_key};
use ed25519_dalek::SigningKey;
use serde_json::Value;
use tests_harness::{Agent, AgentOptions, Cli, ControlPlane, ControlPlaneOptions, Ran, Scratch, eventually, metric};
use tests_postgres::{cluster, sql};

const LIMIT: Duration = Duration::from_secs(60);
/// An agent hears of a head every ten seconds at most, and at once when its session begins.
const ALARM: Duration = Duration::from_secs(30);
const TAMPERED: i32 = 12;

fn outside(url: &str) -> ControlPlaneOptions {
    ControlPlaneOptions { database_url: Some(url.to_owned()), ..ControlPlaneOptions::default() }
}

/// Somebody who never verified this log before.
fn stranger(control_plane: &ControlPlane, scratch: &Scratch) -> Result<Cli> {
    let home = scratch.folder(&format!("home-{}", uuid::Uuid::new_v4()))?;
    Ok(control_plane.cli()?.with("HOME", home))
}

fn expect_finding(ran: &Ran, what: &str, expected: &str) -> Result<()> {
    ensure!(ran.code == TAMPERED, "{what}: exit code {}\n{}{}", ran.code, ran.stdout, ran.stderr);
    ensure!(ran.stdout.contains(expected), "{what}: {expected:?} is not in\n{}", ran.stdout);
    Ok(())
}

/// What is done to a table of fifteen events, and what the finding says.
const ROWS: &[(&str, &str, &str)] = &[
    (
        "time",
        "UPDATE audit_events SET time = time + interval '1 s' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its time",
    ),
    (
        "time unseen",
        "UPDATE audit_events SET time = time + interval '1 us' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its time",
    ),
    (
        "actor",
        "UPDATE audit_events SET actor = 'operator:eve' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its actor",
    ),
    (
        "action",
        "UPDATE audit_events SET action = 'node.delete' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its action",
    ),
    (
        "resource",
        "UPDATE audit_events SET resource = 'nodes/a' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its resource",
    ),
    (
        "outcome",
        "UPDATE audit_events SET outcome = 'refused' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its outcome",
    ),
    (
        "detail",
        "UPDATE audit_events SET detail = detail || '{\"relay\": true}' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its detail",
    ),
    (
        "detail emptied",
        "UPDATE audit_events SET detail = '7' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its detail",
    ),
    (
        "trace_id",
        "UPDATE audit_events SET trace_id = 'ab' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its trace_id",
    ),
    (
        "leaf",
        "UPDATE audit_events SET leaf = leaf || ' ' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its leaf",
    ),
    (
        "leaf_hash",
        "UPDATE audit_events SET leaf_hash = sha256('x') WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its leaf_hash",
    ),
    ("sequence", "UPDATE audit_events SET sequence = 500 WHERE sequence = 5", "event 5 was removed"),
    (
        "a row and its hashes",
        "UPDATE audit_events SET actor = 'operator:eve', leaf = l, leaf_hash = sha256('\\x00' || l) FROM (SELECT convert_to(replace(convert_from(leaf, 'UTF8'), 'operator:', 'operator:eve'), 'UTF8') AS l FROM audit_events WHERE sequence = 5) AS x WHERE sequence = 5",
        "are not those of the signed head: the log was rewritten",
    ),
    ("removed", "DELETE FROM audit_events WHERE sequence = 5", "event 5 was removed"),
    ("some removed", "DELETE FROM audit_events WHERE sequence BETWEEN 5 AND 8", "events 5 to 8 were removed"),
    ("the first removed", "DELETE FROM audit_events WHERE sequence = 0", "event 0 was removed"),
    (
        "tail removed",
        "DELETE FROM audit_events WHERE sequence > 9",
        "the log ends after 10 events, but the signed head covers",
    ),
    ("all removed", "DELETE FROM audit_events", "the log ends after 0 events"),
    (
        "swapped",
        "UPDATE audit_events SET sequence = 1000 WHERE sequence = 5; UPDATE audit_events SET sequence = 5 WHERE sequence = 6; UPDATE audit_events SET sequence = 6 WHERE sequence = 1000",
        "event 5 was changed: not what was hashed is its sequence",
    ),
    (
        "appended",
        "INSERT INTO audit_events SELECT sequence + 1, time, actor, action, resource, outcome, detail, trace_id, leaf, leaf_hash FROM audit_events ORDER BY sequence DESC LIMIT 1",
        "on are not covered by the signed head: rows were inserted",
    ),
    (
        "inserted",
        "UPDATE audit_events SET sequence = sequence + 1000 WHERE sequence > 5; UPDATE audit_events SET sequence = sequence - 999 WHERE sequence > 1000; INSERT INTO audit_events SELECT 6, time, actor, action, resource, outcome, detail, trace_id, leaf, leaf_hash FROM audit_events WHERE sequence = 5",
        "event 6 was changed: not what was hashed is its sequence",
    ),
    ("the head's size", "UPDATE audit_head SET size = size - 1", "the server's head is not the one that is signed"),
    ("the head's root", "UPDATE audit_head SET root = sha256('x')", "the server's head is not the one that is signed"),
    (
        "the head's text",
        "UPDATE audit_head SET checkpoint = replace(checkpoint, '/1', '/2')",
        "the head is not signed as it should be",
    ),
];

/// The same by somebody who drops what PostgreSQL holds against it.
const UNCONSTRAINED: &[(&str, &str, &str)] = &[
    (
        "a number twice",
        "INSERT INTO audit_events SELECT * FROM audit_events WHERE sequence = 5",
        "event 5 stands where 6 belongs",
    ),
    (
        "no outcome",
        "UPDATE audit_events SET outcome = 'maybe' WHERE sequence = 5",
        "event 5 was changed: its outcome is what this program never writes",
    ),
    (
        "no hash",
        "UPDATE audit_events SET leaf_hash = 'x' WHERE sequence = 5",
        "event 5 was changed: its leaf_hash is what this program never writes",
    ),
    ("nothing", "UPDATE audit_events SET actor = NULL, leaf = NULL WHERE sequence = 5", "event 5 was changed"),
    (
        "the end of time",
        "UPDATE audit_events SET time = 'infinity' WHERE sequence = 5",
        "event 5 was changed: not what was hashed is its time",
    ),
];

#[test]
fn whatever_is_changed_in_the_database_is_found_and_named() -> Result<()> {
    let scratch = Scratch::new()?;
    let url = cluster().database();
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), outside(&url))?;
    let cli = control_plane.cli()?;
    for _ in 0..10 {
        cli.ok(&["token", "create"])?;
    }
    let verified = cli.json(&["audit", "verify"])?;
    for _ in 0..5 {
        cli.ok(&["token", "create"])?;
    }
    save(&url);
    for (what, statement, expected) in ROWS {
        drop(sql(&url, statement));
        expect_finding(&stranger(&control_plane, &scratch)?.run(&["audit", "verify"])?, what, expected)?;
        put_back(&url);
    }
    // The server may have looked in between, and speaks of it until it looks again.
    let mut said = None;
    eventually("all of it to be put back", LIMIT, || {
        let ran = said.insert(stranger(&control_plane, &scratch)?.run(&["audit", "verify"])?);
        Ok((ran.code == 0).then_some(()))
    })
    .with_context(|| format!("{said:?}"))?;

    // What is only made of the events: agents would be given wrong proofs. Who has an earlier head asks for one too.
    drop(sql(&url, "UPDATE audit_nodes SET hash = sha256('x') WHERE level > 0"));
    expect_finding(&cli.run(&["audit", "verify"])?, "the tree", "the hashes that are stored beside them are not")?;
    put_back(&url);
    ensure!(cli.json(&["audit", "verify"])?["anchoredAt"] == verified["events"], "the head of before is an anchor");

    drop(sql(
        &url,
        "ALTER TABLE audit_events DROP CONSTRAINT audit_events_pkey, DROP CONSTRAINT audit_events_outcome_check,
             DROP CONSTRAINT audit_events_leaf_hash_check, ALTER actor DROP NOT NULL, ALTER leaf DROP NOT NULL",
    ));
    for (what, statement, expected) in UNCONSTRAINED {
        drop(sql(&url, statement));
        expect_finding(&stranger(&control_plane, &scratch)?.run(&["audit", "verify"])?, what, expected)?;
        put_back(&url);
    }
    eprintln!("tampers found: {} of {}", ROWS.len() + UNCONSTRAINED.len() + 1, ROWS.len() + UNCONSTRAINED.len() + 1);
    Ok(())
}

#[test]
fn a_log_that_was_written_anew_without_the_key_is_found_and_never_signed_by_a_server() -> Result<()> {
    let scratch = Scratch::new()?;
    let url = cluster().database();
    let control_plane = ControlPlane::start(&scratch.path().join("cp"), outside(&url))?;
    let cli = control_plane.cli()?;
    for _ in 0..6 {
        cli.ok(&["token", "create"])?;
    }
    save(&url);
    let eve = |log: &mut Log| log.records[3].actor = "operator:eve".to_owned();

    // Signed anew by a key of his own.
    let mut log = Log::read(&url)?;
    eve(&mut log);
    log.write(&url, &SigningKey::from_bytes(&[9; 32]))?;
    let fresh = stranger(&control_plane, &scratch)?;
    expect_finding(&fresh.run(&["audit", "verify"])?, "another key", "the head is not signed as it should be")?;
    let refused = cli.run(&["token", "create"])?;
    ensure!(refused.code == TAMPERED && refused.stderr.contains("tampered"), "a write on top of it: {refused:?}");
    put_back(&url);

    // All of it anew, under the signature of before: the next write of an unwary server would sign it.
    let mut log = Log::read(&url)?;
    eve(&mut log);
    log.write_below_the_old_head(&url)?;
    expect_finding(
        &fresh.run(&["audit", "verify"])?,
        "the old head",
        "the server's head is not the one that is signed",
    )?;
    let refused = cli.run(&["token", "create"])?;
    ensure!(refused.code == TAMPERED, "a write on top of it: {refused:?}");
    put_back(&url);
    // The server finds by itself that the log is again what it was, and works again.
    eventually("writes to be taken again", LIMIT, || Ok((cli.run(&["token", "create"])?.code == 0).then_some(())))?;
    cli.ok(&["audit", "verify"])?;
    Ok(())
}

/// A control plane on an outside database, and an agent that is its witness.
struct Watched {
    agent: Agent,
    control_plane: ControlPlane,
    cli: Cli,
    scratch: Scratch,
}

impl Watched {
    fn start(url: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let control_plane = ControlPlane::start(&scratch.path().join("cp"), outside(url))?;
        let options = AgentOptions { name: "site-a".to_owned(), ..AgentOptions::default() };
        let agent = Agent::join(&control_plane, &scratch.path().join("site-a"), options)?;
        let cli = control_plane.cli()?;
        Ok(Self { agent, control_plane, cli, scratch })
    }

    fn node(&self) -> Result<Value> {
        self.cli.json(&["node", "get", "site-a"])
    }

    fn witness_file(&self) -> std::path::PathBuf {
        self.agent.dir().join("audit-witness.json")
    }

    /// Waits until the agent holds a head of at least so many events.
    fn witnessed(&self, size: u64) -> Result<()> {
        eventually("the agent to witness the newest head", LIMIT, || Ok((self.held()? >= size).then_some(())))
    }

    fn held(&self) -> Result<u64> {
        let Ok(text) = fs::read_to_string(self.witness_file()) else { return Ok(0) };
        let witness: Value = serde_json::from_str(&text)?;
        let lines = witness["checkpoint"].as_str().unwrap_or_default();
        lines.lines().nth(1).context("a head has a size")?.parse().context("of a number")
    }

    /// The same control plane and its folder, over a database of somebody's choice.
    fn serve(&mut self, url: &str) -> Result<()> {
        self.control_plane.stop()?;
        self.control_plane = ControlPlane::start(&self.scratch.path().join("cp"), outside(url))?;
        self.cli = self.control_plane.cli()?;
        Ok(())
    }

    /// Everybody who remembers raises the alarm, and nobody takes the log for the one it was.
    fn everybody_is_alarmed(&self, agent_says: &str, verify_says: &str) -> Result<()> {
        let held = fs::read(self.witness_file())?;
        #[allow(clippy::disallowed_methods, reason = "how long it took is printed")]
        let begun = std::time::Instant::now();
        // The agent: its state as the fleet sees it, its log, its metric.
        let mut seen = Value::Null;
        eventually("the agent's alarm in the list of nodes", ALARM, || {
            seen = self.node()?;
            Ok((seen["state"] == "DEGRADED" && seen["stateReason"].as_str().unwrap_or_default().contains("audit_log"))
                .then_some(()))
        })
        .with_context(|| format!("{seen:#}"))?;
        eprintln!("the agent's alarm was seen after {:?}", begun.elapsed());
        ensure!(seen["components"].to_string().contains(agent_says), "{agent_says:?} is not in {seen:#}");
        ensure!(self.cli.ok(&["node", "list"])?.contains("DEGRADED"), "node list shows it");
        let log = self.agent.process().output();
        ensure!(log.contains("The audit log is not what this agent saw before"), "the agent's log:\n{log}");
        ensure!(metric(&self.agent.metrics(), "dwcp_audit_verify_failures_total")? >= 1.0, "the agent's metric");
        ensure!(fs::read(self.witness_file())? == held, "the agent gave up the head it had seen");
        // The server: at its start, from its own folder; it serves, but signs nothing on top.
        let log = self.control_plane.process().output();
        ensure!(log.contains("The audit log is not what this server saw before"), "the server's log:\n{log}");
        ensure!(
            metric(&self.control_plane.metrics(), "dwcp_audit_verify_failures_total")? >= 1.0,
            "the server's metric"
        );
        let refused = self.cli.run(&["token", "create"])?;
        ensure!(refused.code == TAMPERED, "a write: {refused:?}");
        let check = self.cli.run(&["check", "--short"])?;
        ensure!(check.code == 10, "{check:?}");
        for line in ["continues what this server saw before", "continues what the agents saw before"] {
            ensure!(check.stdout.contains(line), "{line:?} is not in\n{}", check.stdout);
        }
        // The command line, by its own memory, and anybody by a head that was kept elsewhere.
        expect_finding(&self.cli.run(&["audit", "verify"])?, "by memory", verify_says)?;
        for anchor in [self.witness_file(), self.control_plane.dir().join("audit.checkpoint")] {
            let anchor = anchor.display().to_string();
            let ran = stranger(&self.control_plane, &self.scratch)?.run(&["audit", "verify", "--anchor", &anchor])?;
            expect_finding(&ran, &anchor, verify_says)?;
        }
        Ok(())
    }

    fn nobody_is_alarmed(&self) -> Result<()> {
        let mut seen = Value::Null;
        eventually("the agent to be READY", LIMIT, || {
            seen = self.node()?;
            Ok((seen["state"] == "READY").then_some(()))
        })
        .with_context(|| format!("{seen:#}"))?;
        self.cli.ok(&["audit", "verify"])?;
        self.cli.ok(&["token", "create"])?;
        // The state that is shown first may be the one that the database was put back with.
        eventually("nobody to speak of the audit log", LIMIT, || {
            Ok((!self.cli.run(&["check", "--short"])?.stdout.contains("audit")).then_some(()))
        })
    }
}

/// A copy of a database as it is; nobody may be connected.
fn copy(url: &str, name: &str) -> Result<String> {
    let (database, query) = url.split_once('?').context("the socket's folder is given by ?host=")?;
    let (start, present) = database.rsplit_once('/').context("a URL has a path")?;
    drop(sql(&format!("{start}/postgres?{query}"), &format!("CREATE DATABASE {name} TEMPLATE {present}")));
    Ok(format!("{start}/{name}?{query}"))
}

#[test]
fn who_remembers_finds_a_database_that_was_put_back_and_a_log_written_anew_with_the_real_key() -> Result<()> {
    let url = cluster().database();
    let mut fleet = Watched::start(&url)?;
    fleet.cli.ok(&["token", "create"])?;
    fleet.control_plane.stop()?;
    let older = copy(&url, "older")?;
    fleet.control_plane.restart()?;
    fleet.cli = fleet.control_plane.cli()?;
    for _ in 0..4 {
        fleet.cli.ok(&["token", "create"])?;
    }
    let size = fleet.cli.json(&["audit", "verify"])?["events"].as_u64().context("a number")?;
    fleet.witnessed(size)?;

    // Restored behind our back, to what it was: signed as it should be, and shorter.
    fleet.serve(&older)?;
    fleet.everybody_is_alarmed("shrank", "its end was cut off")?;
    fleet.serve(&url)?;
    fleet.nobody_is_alarmed()?;

    // By whoever has the database and the seal key: nothing in the log itself is wrong.
    let size = fleet.cli.json(&["audit", "verify"])?["events"].as_u64().context("a number")?;
    fleet.witnessed(size)?;
    fleet.control_plane.stop()?;
    save(&url);
    let key = signing_key(&url, &fleet.control_plane.dir().join("seal.key"))?;
    let mut log = Log::read(&url)?;
    log.records[2].actor = "operator:eve".to_owned();
    log.write(&url, &key)?;
    fleet.control_plane.restart()?;
    fleet.cli = fleet.control_plane.cli()?;
    let ran = stranger(&fleet.control_plane, &fleet.scratch)?.run(&["audit", "verify"])?;
    // Who never saw the log before finds nothing in it, and is told what the server remembers.
    expect_finding(&ran, "by a stranger", "the server itself remembers another log")?;
    fleet.everybody_is_alarmed("not a continuation", "the log was rewritten")?;

    // Nobody was fooled for good: the true log is taken up again, also by an agent that was restarted meanwhile.
    fleet.agent.stop()?;
    fleet.agent.restart()?;
    fleet.control_plane.stop()?;
    put_back(&url);
    fleet.control_plane.restart()?;
    fleet.cli = fleet.control_plane.cli()?;
    fleet.nobody_is_alarmed()?;
    Ok(())
}

#[test]
fn an_epoch_that_no_restore_opened_is_alarmed() -> Result<()> {
    let url = cluster().database();
    let mut fleet = Watched::start(&url)?;
    let size = fleet.cli.json(&["audit", "verify"])?["events"].as_u64().context("a number")?;
    fleet.witnessed(size)?;
    // By whoever has the database and not the seal key.
    fleet.control_plane.stop()?;
    drop(sql(&url, "UPDATE fleet SET epoch = 2"));
    fleet.control_plane.restart()?;
    fleet.cli = fleet.control_plane.cli()?;
    let mut seen = Value::Null;
    eventually("the agent's alarm", ALARM, || {
        seen = fleet.node()?;
        Ok(seen["components"].to_string().contains("its audit log is of epoch 1").then_some(()))
    })
    .with_context(|| format!("{seen:#}"))
}

#[test]
fn a_log_that_is_rewritten_under_a_running_fleet_is_found_without_a_restart() -> Result<()> {
    let url = cluster().database();
    let fleet = Watched::start(&url)?;
    fleet.cli.ok(&["token", "create"])?;
    let size = fleet.cli.json(&["audit", "verify"])?["events"].as_u64().context("a number")?;
    fleet.witnessed(size)?;
    let key = signing_key(&url, &fleet.control_plane.dir().join("seal.key"))?;
    // As long as before, so that the size says nothing.
    let mut log = Log::read(&url)?;
    log.records[1].resource = "joinTokens/other".to_owned();
    log.write(&url, &key)?;
    fleet.everybody_is_alarmed("not a continuation", "the log was rewritten")
}

#[test]
fn a_database_that_was_made_anew_beside_the_old_folder_is_another_fleet() -> Result<()> {
    let scratch = Scratch::new()?;
    let dir = scratch.path().join("cp");
    let mut first = ControlPlane::start(&dir, outside(&cluster().database()))?;
    first.stop()?;
    fs::remove_file(Path::new(&dir).join("admin.token"))?;
    let second = ControlPlane::start(&dir, outside(&cluster().database()))?;
    second.cli()?.ok(&["token", "create"])?;
    let log = second.process().output();
    ensure!(log.contains("The kept audit head is of another fleet"), "{log}");
    Ok(())
}
