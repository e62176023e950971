//! `dwcp audit verify`: hashes every leaf, builds the tree, checks the signed head. The server's word is not believed.

use std::{fs, path::Path, process::ExitCode};

use control_plane_audit::{Anchor, Event, LogVerifier, Outcome, Record, Report};
use foundation_merkle::{Checkpoint, Hash, VerifierKey};
use proto_rpc::v1::{AuditEvent, AuditHead, GetAuditHeadRequest, ListAuditEventsRequest};
use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::anchors::{Anchors, Kept};
use crate::{
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, fields},
    units,
};

/// What a verification came to, for scripts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verification {
    ok: bool,
    events: u64,
    root_hash: String,
    findings: Vec<String>,
    finding_count: u64,
    /// The size of the largest kept head that the log continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    anchored_at: Option<u64>,
    signed_by: String,
}

pub(super) async fn run(
    connection: &Connection,
    output: &Output,
    anchor: Option<&Path>,
    verifier_key: Option<&str>,
) -> Result<ExitCode, Failure> {
    let head = connection.audit().get_audit_head(GetAuditHeadRequest {}).await?.into_inner();
    let mut anchors = Anchors::load()?;
    let verification = match signed_head(&head, &anchors, verifier_key) {
        Ok((key, checkpoint)) => {
            let kept = kept_heads(&key, &checkpoint, &anchors, anchor)?;
            let report = read_log(connection, &checkpoint, kept).await?;
            if report.is_clean() {
                let kept = Kept { verifier_key: key.to_string(), checkpoint: head.checkpoint.clone() };
                anchors.keep(key.name(), kept)?;
            }
            verification(&report, &key)
        }
        Err(finding) => Verification {
            ok: false,
            events: 0,
            root_hash: head.root_hash.clone(),
            findings: vec![finding],
            finding_count: 1,
            anchored_at: None,
            signed_by: head.verifier_key.clone(),
        },
    };
    output.plain(&verification, |verification| lines(output, verification))?;
    Ok(if verification.ok { ExitCode::SUCCESS } else { ExitCode::from(Exit::AuditFailed as u8) })
}

/// The head, if the key that is trusted signed it: the one given, else the one remembered, else (once) the server's.
fn signed_head(head: &AuditHead, anchors: &Anchors, given: Option<&str>) -> Result<(VerifierKey, Checkpoint), String> {
    let offered: VerifierKey =
        head.verifier_key.parse().map_err(|error| format!("the server's verifier key is no key: {error}"))?;
    let trusted = given.or_else(|| anchors.of(offered.name()).map(|kept| kept.verifier_key.as_str()));
    let key = match trusted {
        Some(trusted) => trusted.parse().map_err(|error| format!("the trusted verifier key is no key: {error}"))?,
        None => offered.clone(),
    };
    if key != offered {
        return Err(format!("the log is signed by another key ({offered}) than the trusted one ({key})"));
    }
    let checkpoint = Checkpoint::parse_and_verify(&head.checkpoint, &key)
        .map_err(|error| format!("the head is not signed as it should be: {error}"))?;
    if checkpoint.size != head.tree_size || hash_text(&checkpoint.root) != head.root_hash {
        return Err("the server's head is not the one that is signed".to_owned());
    }
    Ok((key, checkpoint))
}

/// Heads that were seen before and that the log must continue.
fn kept_heads(
    key: &VerifierKey,
    present: &Checkpoint,
    anchors: &Anchors,
    file: Option<&Path>,
) -> Result<Vec<Anchor>, Failure> {
    let mut heads = Vec::new();
    let mut add = |note: &str, source: &str| {
        let head = Checkpoint::parse_and_verify(note, key)
            .map_err(|error| Failure::chain(format!("{source} is no checkpoint of this log"), &error))?;
        // A restore opens a log of another origin; its first record names the head it was restored from.
        if head.origin == present.origin {
            heads.push(Anchor { source: source.to_owned(), size: head.size, root: head.root });
        }
        Ok::<_, Failure>(())
    };
    if let Some(kept) = anchors.of(key.name()) {
        add(&kept.checkpoint, "the head verified here before")?;
    }
    if let Some(file) = file {
        let note = fs::read_to_string(file)
            .map_err(|error| Failure::chain(format!("cannot read {}", file.display()), &error))?;
        add(&note, &format!("the head in {}", file.display()))?;
    }
    Ok(heads)
}

async fn read_log(connection: &Connection, head: &Checkpoint, kept: Vec<Anchor>) -> Result<Report, Failure> {
    let mut verifier = LogVerifier::new(kept);
    let mut page_token = String::new();
    // Rows appended after the head was asked for are not its business; rows that hide behind its size are.
    let mut left = head.size;
    while left > 0 {
        let request = ListAuditEventsRequest {
            page_size: i32::try_from(left.min(1000)).unwrap_or(1000),
            page_token,
            ..ListAuditEventsRequest::default()
        };
        let page = connection.audit().list_audit_events(request).await?.into_inner();
        for event in &page.audit_events {
            verifier.push(&parse(event)?);
        }
        left = left.saturating_sub(page.audit_events.len() as u64);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(verifier.finish(head))
}

/// An event with the fields that are shown; where these are not the leaf's, the verifier finds it changed.
fn parse(event: &AuditEvent) -> Result<Event, Failure> {
    let broken = |what: &str| Failure::new(Exit::AuditFailed, format!("event {} is broken: {what}", event.sequence));
    let time = event.time.as_ref().and_then(units::utc).ok_or_else(|| broken("it has no time"))?;
    let outcome: Outcome = event.outcome.parse().map_err(|_unknown| broken("its outcome is unknown"))?;
    let mut record = Record {
        sequence: event.sequence,
        time,
        actor: event.actor.clone(),
        action: event.action.clone(),
        resource: event.resource.clone(),
        outcome,
        detail: event.detail.as_ref().map(structure).unwrap_or_default(),
        trace_id: event.trace_id.clone(),
    };
    // The API's numbers are floating point: where only that differs, the leaf's are meant.
    if let Ok(leaf) = Record::from_leaf(&event.leaf)
        && floating(&Value::Object(leaf.detail.clone())) == floating(&Value::Object(record.detail.clone()))
    {
        record.detail = leaf.detail;
    }
    let leaf_hash: Hash = event.leaf_hash.parse().map_err(|_invalid| broken("its hash is no hash"))?;
    Ok(Event { record, leaf: event.leaf.clone(), leaf_hash })
}

fn structure(message: &prost_types::Struct) -> Map<String, Value> {
    message.fields.iter().map(|(key, field)| (key.clone(), value(field))).collect()
}

fn value(message: &prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match &message.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::NumberValue(number)) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(value).collect()),
        Some(Kind::StructValue(fields)) => Value::Object(structure(fields)),
    }
}

/// The value with every number as a floating-point one.
fn floating(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().and_then(Number::from_f64).map_or(Value::Null, Value::Number),
        Value::Array(items) => Value::Array(items.iter().map(floating).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, field)| (key.clone(), floating(field))).collect())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn verification(report: &Report, key: &VerifierKey) -> Verification {
    Verification {
        ok: report.is_clean(),
        events: report.events,
        root_hash: hash_text(&report.root),
        findings: report.findings.iter().map(ToString::to_string).collect(),
        finding_count: report.finding_count,
        anchored_at: report.anchored.as_ref().map(|anchor| anchor.size),
        signed_by: key.to_string(),
    }
}

fn lines(output: &Output, verification: &Verification) -> String {
    if verification.ok {
        let mark = output.paint("32", "√");
        let anchored = match verification.anchored_at {
            Some(size) => format!("it continues the head verified here before (of {size} events)"),
            None => {
                "verified here for the first time: the head is kept, to find a cut or rewritten log later".to_owned()
            }
        };
        return format!("{mark} {} events, unchanged and complete\n", verification.events)
            + &fields([
                ("head", verification.root_hash.clone()),
                ("signed by", verification.signed_by.clone()),
                ("anchor", anchored),
            ]);
    }
    let mark = output.paint("31", "×");
    let mut text = format!("{mark} the audit log does not verify\n");
    for finding in &verification.findings {
        text.push_str(&format!("    {finding}\n"));
    }
    text
}

fn hash_text(hash: &Hash) -> String {
    hex::encode(hash.as_bytes())
}
