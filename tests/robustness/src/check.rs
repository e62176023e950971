//! What must hold whenever nobody hurts, and what must hold at the end.

use std::{collections::BTreeMap, fs, os::unix::ffi::OsStrExt, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use proto_rpc::v1;
use tests_harness::eventually;

use crate::{
    history::History,
    operators::{Operators, Outcome, Write, WriteKind},
    rig::Rig,
};

/// How long everything may take to come together on a busy machine, once nobody hurts.
const CONVERGE: Duration = Duration::from_secs(150);

/// Ends that the control plane has not heard of.
const SILENT_ENDS: &str = "SELECT t.id, e.role FROM transfers t CROSS JOIN (VALUES ('sender'), ('receiver')) AS e (role) \
    WHERE NOT EXISTS (SELECT FROM transfer_ends x WHERE x.transfer = t.id AND x.role = e.role AND x.ended)";
/// How long an end may take to be reported.
const REPORTED: Duration = Duration::from_secs(20);

/// Waits until everything has come together: workers done, processes alive, agents READY with the newest configuration, the log whole,
/// nothing left behind.
pub(crate) fn converged(rig: &mut Rig, operators: &Operators) -> Result<Duration> {
    let history = Arc::clone(operators.history());
    let begun = history.elapsed();
    eventually("every write and transfer to end", CONVERGE, || Ok(operators.is_quiet().then_some(())))?;
    for server in &mut rig.servers {
        server.check_alive()?;
    }
    for agent in &mut rig.agents {
        agent.check_alive()?;
    }
    rig.all_ready(CONVERGE)?;
    in_force(rig)?;
    let took = history.elapsed().saturating_sub(begun);
    for server in 0..rig.servers.len() {
        let verified = rig.cli(server)?.json(&["audit", "verify"])?;
        ensure!(verified["ok"] == true, "audit verify: {verified:#}");
    }
    // The receiver's own folder goes a moment after its end was said.
    let mut left = Vec::new();
    let clean = eventually("nothing to be left behind", Duration::from_secs(20), || {
        left = remains(rig);
        Ok(left.is_empty().then_some(()))
    });
    if clean.is_err() {
        history.violation(format!("left behind: {left:?}"));
    }
    for (name, log) in rig.logs() {
        let panics = log.lines().filter(|line| line.contains("panicked at")).collect::<Vec<_>>();
        ensure!(panics.is_empty(), "{name} panicked: {panics:?}");
    }
    Ok(took)
}

/// What is in force at each agent is what the control plane wants there.
fn in_force(rig: &Rig) -> Result<()> {
    let cli = rig.cli(0)?;
    for agent in &rig.agents {
        let mut seen = String::new();
        let waited = eventually("the newest configuration to be in force", CONVERGE, || {
            let effective = cli.json(&["config", "effective", agent.name()])?;
            seen = effective["digest"].to_string();
            let here = crate::probe::agent_digest(&agent.http())?;
            Ok((effective["digest"] == here.as_str()).then_some(()))
        });
        waited.with_context(|| format!("{}: {seen}", agent.name()))?;
    }
    Ok(())
}

/// Temporary files and folders of transfers that no transfer needs.
fn remains(rig: &Rig) -> Vec<String> {
    let mut found = Vec::new();
    for agent in 0..rig.agents.len() {
        temporaries(&rig.root(agent), &mut found);
        temporaries(rig.agents[agent].dir(), &mut found);
        for entry in fs::read_dir(rig.agents[agent].dir().join("transfers")).into_iter().flatten().flatten() {
            if entry.file_name() != "ended" && entry.file_name() != "syncs" {
                found.push(entry.path().display().to_string());
            }
        }
    }
    rig.servers.iter().for_each(|server| temporaries(server.dir(), &mut found));
    found
}

fn temporaries(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.as_bytes();
        if name.starts_with(b".dwcp-") || name.ends_with(b".new") {
            found.push(entry.path().display().to_string());
        }
        // The database's own files are its own.
        if name != b"postgres" && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            temporaries(&entry.path(), found);
        }
    }
}

/// How often each write is there, by what PostgreSQL holds.
pub(crate) fn present(operators: &Operators) -> Result<BTreeMap<String, u32>> {
    let mut present = BTreeMap::new();
    let mut count = |request: String| *present.entry(request).or_default() += 1;
    let api = operators.api(0);
    for config in ["configs/fleet", "configs/node.site-a", "configs/node.site-b", "configs/node.site-c"] {
        let mut page_token = String::new();
        loop {
            let request = v1::ListConfigRevisionsRequest { parent: config.to_owned(), page_size: 1000, page_token };
            let page = match operators.ask(async { api.configs().list_config_revisions(request).await }) {
                Err(status) if status.code() == tonic::Code::NotFound => break,
                page => page?,
            };
            for revision in page.revisions {
                if let Some(request) = revision.document.lines().next().and_then(|line| line.strip_prefix("# write ")) {
                    count(request.replace('-', ""));
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
    }
    let mut page_token = String::new();
    loop {
        let request = v1::ListJoinTokensRequest { page_size: 1000, page_token };
        let page = operators.ask(async { api.join_tokens().list_join_tokens(request).await })?;
        page.join_tokens
            .iter()
            .filter_map(|token| token.node_labels.get("write"))
            .for_each(|write| count(write.clone()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut page_token = String::new();
    loop {
        let request = v1::ListTransfersRequest { page_size: 1000, page_token, filter: String::new() };
        let page = operators.ask(async { api.transfers().list_transfers(request).await })?;
        for transfer in page.transfers {
            let exclude = transfer.spec.unwrap_or_default().exclude;
            exclude.iter().filter_map(|glob| glob.strip_prefix("write-")).for_each(|write| count(write.to_owned()));
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    for event in events(operators, "action=node.update")? {
        let labels = event.detail.unwrap_or_default().fields.remove("labels").and_then(|value| value.kind);
        if let Some(prost_types::value::Kind::StringValue(labels)) = labels {
            labels
                .split(',')
                .filter_map(|label| label.trim().strip_prefix("write="))
                .for_each(|write| count(write.to_owned()));
        }
    }
    Ok(present)
}

/// All audit events of a filter.
fn events(operators: &Operators, filter: &str) -> Result<Vec<v1::AuditEvent>> {
    let (mut found, mut page_token, api) = (Vec::new(), String::new(), operators.api(0));
    loop {
        let filter = filter.to_owned();
        let request = v1::ListAuditEventsRequest { page_size: 1000, page_token, filter, order_by: String::new() };
        let page = operators.ask(async { api.audit().list_audit_events(request).await })?;
        found.extend(page.audit_events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// Each acknowledged write is there once, each that failed not at all, each unknown one at most once.
pub(crate) fn count_writes(history: &History, writes: &[Write], present: &BTreeMap<String, u32>) {
    for write in writes {
        let times = present.get(&write.request.simple().to_string()).copied().unwrap_or_default();
        let right = match write.outcome {
            Outcome::Acknowledged(_) => times == 1,
            Outcome::Failed => times == 0,
            Outcome::Unknown => times <= 1,
        };
        if !right {
            history.violation(format!("{write:?} is there {times} times"));
        }
    }
}

/// Each transfer began once and ended once, by the audit log; and both of its ends have said so.
pub(crate) fn count_transfers(rig: &Rig, operators: &Operators, writes: &[Write]) -> Result<()> {
    let mut times: BTreeMap<String, [u32; 2]> = BTreeMap::new();
    for (place, action) in ["transfer.create", "transfer.end"].into_iter().enumerate() {
        for event in events(operators, &format!("action={action}"))? {
            times.entry(event.resource).or_default()[place] += 1;
        }
    }
    for write in writes {
        if let (WriteKind::Transfer { .. }, Outcome::Acknowledged(name)) = (&write.kind, &write.outcome) {
            let [began, ended] = times.get(name).copied().unwrap_or_default();
            if (began, ended) != (1, 1) {
                operators.history().violation(format!("{name} began {began} times and ended {ended} times"));
            }
        }
    }
    let mut silent = String::new();
    let said = eventually("each end to be said", REPORTED, || {
        silent = tests_postgres::sql(&rig.servers[0].database_url(), SILENT_ENDS);
        Ok(silent.is_empty().then_some(()))
    });
    if said.is_err() {
        operators.history().violation(format!("ends that were never said: {silent}"));
    }
    Ok(())
}
