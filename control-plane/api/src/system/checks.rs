//! What a server finds when it looks at itself. A check that cannot be made is an error that says so, never a missing line.

use std::time::Duration;

use chrono::{DateTime, Utc};
use control_plane_pki::not_after_of;
use control_plane_store::{AuditKey, Cause, audit_log, backup as store_backup, nodes, operation, servers, syncs};
use foundation_merkle::{Checkpoint, VerifierKey};
use proto_model::{ComponentHealth, HealthStatus, SyncState};
use proto_rpc::v1::{Check, CheckCategory};

use super::host::Severity;
use crate::State;

/// With fewer nodes that store its records, the DHT does not outlive the loss of one.
const SAFE_RING: usize = 3;

/// A certificate that ends sooner is worth a warning: time for somebody to come back from a holiday.
const SOON_DAYS: i64 = 30;

/// A statement that reads nothing takes a millisecond; one that takes so long waits for something.
const SLOW: Duration = Duration::from_millis(500);

/// How old the newest backup may be.
const BACKUP_DAYS: i64 = 7;

/// Newest events whose leaves are hashed again; `dwcp audit verify` hashes all.
const EVENTS_LOOKED_AT: u32 = 100;

/// Nodes that are counted.
const MAX_NODES: u32 = 10_000;

/// Syncs that are looked at: as many as a fleet has.
const MAX_SYNCS: u32 = 10_000;

pub(super) async fn run(state: &State) -> Vec<CheckCategory> {
    let mut categories = vec![
        category("postgres", postgres(state).await),
        category("audit", audit(state).await),
        category("backup", backup(state).await),
        category("certificates", certificates(state)),
        category("dht", dht(state).await),
        category("agents", agents(state).await),
        category("syncs", vec![syncs_in_step(state).await]),
    ];
    for finding in state.server.host.now() {
        let found = match finding.trouble {
            None => Found::Fine,
            Some((Severity::Warning, error, hint)) => Found::Warning(error, hint),
            Some((Severity::Error, error, hint)) => Found::Error(error, hint),
        };
        let check = check(finding.description, found);
        match categories.iter_mut().find(|category| category.category_name == finding.category) {
            Some(category) => category.checks.push(check),
            None => categories.push(category(finding.category, vec![check])),
        }
    }
    categories
}

fn category(name: &str, checks: Vec<Check>) -> CheckCategory {
    CheckCategory { category_name: name.to_owned(), checks }
}

fn check(description: &str, found: Found) -> Check {
    let (result, error, hint) = match found {
        Found::Fine => ("success", String::new(), ""),
        Found::Warning(error, hint) => ("warning", error, hint),
        Found::Error(error, hint) => ("error", error, hint),
    };
    Check { description: description.to_owned(), result: result.to_owned(), error, hint: hint.to_owned() }
}

enum Found {
    Fine,
    Warning(String, &'static str),
    Error(String, &'static str),
}

async fn postgres(state: &State) -> Vec<Check> {
    const HINT: &str = "look at the server's log, and at PostgreSQL's (DIR/postgres/postgres.log)";
    let trouble = state.db.trouble();
    let begun = state.clock.now();
    let reachable = match operation::database_version(&state.db).await {
        Ok(_version) => in_time(state.clock.now().duration_since(begun)),
        Err(error) => {
            let hint = trouble.map_or(HINT, Cause::hint);
            return vec![check("PostgreSQL answers", Found::Error(error.chain(), hint))];
        }
    };
    let writable = trouble.map_or(Found::Fine, |cause| Found::Error(cause.to_string(), cause.hint()));
    let migrated = match operation::migrations(&state.db).await {
        Ok(migrations) if migrations.missing > 0 => Found::Error(
            format!("{} migrations are missing", migrations.missing),
            "restart a server of this version: it migrates at start",
        ),
        Ok(migrations) if migrations.unknown > 0 => Found::Warning(
            format!("{} migrations are newer than this server", migrations.unknown),
            "bring this server to the version of the newest one",
        ),
        Ok(_) => Found::Fine,
        Err(error) => Found::Error(error.chain(), HINT),
    };
    vec![
        check("PostgreSQL answers", reachable),
        check("PostgreSQL takes writes", writable),
        check("the schema is that of this version", migrated),
    ]
}

fn in_time(took: Duration) -> Found {
    if took <= SLOW {
        return Found::Fine;
    }
    let error = format!("a statement that reads nothing took {} ms", took.as_millis());
    Found::Warning(
        error,
        "look at the load, the disk and the locks of PostgreSQL's host; `log_min_duration_statement` names what is slow",
    )
}

/// Syncs that are not in step, by name: how many more there are is said.
async fn syncs_in_step(state: &State) -> Check {
    const HINT: &str = "dwcp sync get NAME says why; dwcp sync list shows all of them";
    let found = match syncs::page(&state.db, None, MAX_SYNCS).await {
        Ok(found) => {
            let now = state.clock.utc();
            let ill = found.iter().map(|sync| (sync.name.resource_name(), sync.state(now))).filter(|(_, state)| {
                matches!(state, SyncState::Failed | SyncState::WithIssues | SyncState::Waiting | SyncState::Ended)
            });
            let ill: Vec<_> = ill.map(|(name, state)| format!("{name} is {state}")).collect();
            match ill.split_first() {
                None => Found::Fine,
                Some((first, [])) => Found::Warning(first.clone(), HINT),
                Some((first, more)) => Found::Warning(format!("{first}, and {} more", more.len()), HINT),
            }
        }
        Err(error) => Found::Error(error.chain(), "look at the server's log"),
    };
    check("syncs are in step", found)
}

/// A backup leaves a record in the audit log.
async fn backup(state: &State) -> Vec<Check> {
    let newest = store_backup::last_success(&state.db).await;
    let first =
        audit_log::list(&state.db, audit_log::EventFilter::default(), audit_log::Order::Ascending, None, 1).await;
    let first = first.map(|events| events.first().map(|event| event.time));
    let found = match (newest, first) {
        (Ok(newest), Ok(first)) => backup_age(newest, first, state.clock.utc()),
        (Err(error), _) | (_, Err(error)) => Found::Error(error.chain(), "look at the server's log"),
    };
    vec![check("there is a backup of the last seven days", found)]
}

/// A fleet that is younger than a week need not have one yet.
fn backup_age(newest: Option<DateTime<Utc>>, first: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Found {
    const HINT: &str = "dwcp-control-plane backup --passphrase-file F -O FILE, each night by a timer";
    let days = |time: DateTime<Utc>| (now - time).num_days();
    match (newest.map(days), first.map(days)) {
        (Some(age), _) if age >= BACKUP_DAYS => Found::Warning(format!("the newest one is {age} days old"), HINT),
        (None, Some(age)) if age >= BACKUP_DAYS => Found::Warning("there is none".to_owned(), HINT),
        (Some(_) | None, _) => Found::Fine,
    }
}

async fn audit(state: &State) -> Vec<Check> {
    vec![
        check("the audit log's head is signed by the fleet's key", audit_head(state).await),
        check("the newest audit events are those that were hashed", audit_events(state).await),
        check("the audit log continues what this server saw before", audit_anchor(state)),
        check("the audit log continues what the agents saw before", audit_witnesses(state).await),
    ]
}

fn audit_anchor(state: &State) -> Found {
    match state.db.audit_key().and_then(AuditKey::alarm) {
        None => Found::Fine,
        Some(finding) => Found::Error(format!("nothing is changed until it is: {finding}"), TAMPERED),
    }
}

/// An agent that refuses the log's head says so as the state of its component.
async fn audit_witnesses(state: &State) -> Found {
    match alarmed(state, WITNESS).await {
        Ok(None) => Found::Fine,
        Ok(Some(alarm)) => Found::Error(alarm, TAMPERED),
        Err(failed) => failed,
    }
}

/// An agent to which the DHT says less than it knows says so as the state of its component.
async fn dht_witnesses(state: &State) -> Found {
    match alarmed(state, DHT_WITNESS).await {
        Ok(None) => Found::Fine,
        Ok(Some(alarm)) => Found::Warning(alarm, DISAGREES),
        Err(failed) => failed,
    }
}

/// How many connected agents say that this part of them is not well, and what the first says.
async fn alarmed(state: &State, part: &str) -> Result<Option<String>, Found> {
    let all = nodes::list(&state.db, nodes::NodeFilter::default(), None, MAX_NODES).await;
    let all = all.map_err(|error| Found::Error(error.chain(), "look at the server's log"))?;
    let ill = |component: &&ComponentHealth| component.component == part && component.status != HealthStatus::Healthy;
    let alarmed: Vec<_> = all
        .iter()
        .filter(|node| node.connected)
        .filter_map(|node| {
            node.components.iter().find(ill).map(|component| format!("{}: {}", node.name, component.message))
        })
        .collect();
    Ok(alarmed.first().map(|first| format!("{} of {} nodes say otherwise; {first}", alarmed.len(), all.len())))
}

/// An agent's component that witnesses the log.
const WITNESS: &str = "audit_log";

/// An agent's component that compares what the DHT says with what is known otherwise.
const DHT_WITNESS: &str = "dht_records";

const DISAGREES: &str = "somebody may answer in place of the ring, or a ring node lies: compare `dwcp node list` with who may relay, look at the ring's hosts, and delete a node that should not be there";

const TAMPERED: &str = "run `dwcp audit verify`, which looks at every event; docs/audit.md says what to do then";

async fn audit_head(state: &State) -> Found {
    let head = match audit_log::head(&state.db).await {
        Ok(Some(head)) => head,
        Ok(None) => return Found::Error("there is no head".to_owned(), TAMPERED),
        Err(error) => return Found::Error(error.chain(), "look at the server's log"),
    };
    let Ok(key) = state.keys.audit_verifier_key().parse::<VerifierKey>() else {
        return Found::Error("the verifier key cannot be read".to_owned(), TAMPERED);
    };
    match Checkpoint::parse_and_verify(&head.checkpoint, &key) {
        Ok(signed) if (signed.size, signed.root) == (head.size, head.root) => Found::Fine,
        Ok(signed) => Found::Error(
            format!("the signed head has {} events, the stored one {}, or another root", signed.size, head.size),
            TAMPERED,
        ),
        Err(error) => Found::Error(error.to_string(), TAMPERED),
    }
}

async fn audit_events(state: &State) -> Found {
    let newest = audit_log::list(
        &state.db,
        audit_log::EventFilter::default(),
        audit_log::Order::Descending,
        None,
        EVENTS_LOOKED_AT,
    );
    let events = match newest.await {
        Ok(events) => events,
        Err(error) => return Found::Error(error.chain(), TAMPERED),
    };
    match events.iter().find(|event| !event.is_as_hashed()) {
        None => Found::Fine,
        Some(event) => Found::Error(format!("event {} was changed", event.sequence), TAMPERED),
    }
}

fn ahead(state: &State) -> Found {
    let ahead = state.fleet.agents_ahead();
    match ahead.first() {
        None => Found::Fine,
        Some(first) => Found::Error(
            format!(
                "{} agents hold a newer roster, for example {}: {}.{} where the database has {}.{}",
                ahead.len(),
                first.hostname,
                first.held.epoch,
                first.held.sequence,
                first.here.epoch,
                first.here.sequence
            ),
            "the database was put back without a new epoch: stop the servers, run `dwcp-control-plane open-epoch`, start them",
        ),
    }
}

fn unknown_members(state: &State) -> Found {
    let unknown = state.fleet.unknown_members();
    match unknown.first() {
        None => Found::Fine,
        Some(first) => Found::Warning(
            format!(
                "{} hosts are not, for example {} from {} ({})",
                unknown.len(),
                first.hostname,
                first.remote,
                first.uid
            ),
            "they joined after the backup that was restored: `dwcp token create --node NAME`, then `dwcp-agent join` on the host",
        ),
    }
}

fn certificates(state: &State) -> Vec<Check> {
    let ends = not_after_of(state.keys.ca().certificate_der());
    let found = match ends {
        Ok(ends) => until(ends, state.clock.utc()),
        Err(error) => Found::Error(error.to_string(), "restore the fleet's keys from a backup"),
    };
    vec![check("the CA's certificate is valid for long", found)]
}

fn until(ends: DateTime<Utc>, now: DateTime<Utc>) -> Found {
    let days = (ends - now).num_days();
    match days {
        ..0 => Found::Error(format!("ended {} days ago", -days), "agents refuse this server: rotate the CA"),
        0..SOON_DAYS => Found::Warning(format!("ends in {days} days"), "plan the rotation of the CA"),
        SOON_DAYS.. => Found::Fine,
    }
}

async fn dht(state: &State) -> Vec<Check> {
    let ring = state.fleet.ring();
    let found = if ring.len() < SAFE_RING {
        let nodes = match ring.len() {
            0 => "no node stores".to_owned(),
            1 => "1 node stores".to_owned(),
            count => format!("{count} nodes store"),
        };
        Found::Warning(
            format!("{nodes} the DHT's records"),
            "allow relays (`dwcp token create --relay`, then `dwcp-agent run --relay`), or run a second server",
        )
    } else {
        Found::Fine
    };
    vec![
        check("the DHT's ring outlives the loss of a node", found),
        check("the DHT says to agents what is known otherwise", dht_witnesses(state).await),
    ]
}

async fn agents(state: &State) -> Vec<Check> {
    let all = match nodes::list(&state.db, nodes::NodeFilter::default(), None, MAX_NODES).await {
        Ok(all) => all,
        Err(error) => {
            return vec![check("agents are connected", Found::Error(error.chain(), "look at the server's log"))];
        }
    };
    let connected = match servers::connected(&state.db).await {
        Ok(connected) => connected,
        Err(error) => {
            return vec![check("agents are connected", Found::Error(error.chain(), "look at the server's log"))];
        }
    };
    let found = if all.is_empty() {
        Found::Warning("no node has joined".to_owned(), "`dwcp token create` prints the command for a host")
    } else if connected == 0 {
        Found::Warning(format!("none of {} nodes is connected", all.len()), "`dwcp node list` shows who was seen when")
    } else {
        Found::Fine
    };
    let ill: Vec<_> = all.iter().filter(|node| node.state == nodes::NodeState::Degraded).collect();
    let healthy = match ill.first() {
        None => Found::Fine,
        Some(first) => Found::Warning(
            format!("{} of {} nodes are degraded; {}: {}", ill.len(), all.len(), first.name, first.state_reason),
            "`dwcp node get NAME` shows why",
        ),
    };
    vec![
        check("agents are connected", found),
        check("connected agents do what they should", healthy),
        check("hosts with a certificate of this fleet are in it", unknown_members(state)),
        check("the database is as new as what agents hold", ahead(state)),
    ]
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn warns(found: &Found) -> bool {
        matches!(found, Found::Warning(..))
    }

    #[test]
    fn a_slow_database_is_said() {
        assert!(!warns(&in_time(Duration::from_millis(20))));
        assert!(warns(&in_time(Duration::from_secs(2))));
    }

    #[test]
    fn a_week_without_a_backup_is_said_but_not_of_a_young_fleet() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let ago = |days| Some(now - TimeDelta::days(days));
        assert!(!warns(&backup_age(None, ago(2), now)));
        assert!(warns(&backup_age(None, ago(8), now)));
        assert!(!warns(&backup_age(ago(3), ago(100), now)));
        assert!(warns(&backup_age(ago(9), ago(100), now)));
    }

    #[test]
    fn a_certificate_is_said_before_it_ends() {
        let now = DateTime::UNIX_EPOCH;
        assert!(!warns(&until(now + TimeDelta::days(300), now)));
        assert!(warns(&until(now + TimeDelta::days(20), now)));
        assert!(matches!(until(now - TimeDelta::days(2), now), Found::Error(..)));
    }
}
