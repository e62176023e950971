//! `dwcp audit verify`: hashes every leaf, builds the tree, checks the signed head. The server's word is not believed.

use std::{path::PathBuf, process::ExitCode};

use control_plane_audit::{Anchor, Event, LogVerifier, Outcome, Record, Report};
use foundation_merkle::{Checkpoint, Hash, VerifierKey, verify_consistency};
use proto_model::printable;
use proto_rpc::v1::{
    AuditEvent, AuditHead, ExportAuditEventsRequest, GetAuditHeadRequest, GetConsistencyProofRequest,
    ListAuditEventsRequest,
};
use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::{
    anchors::{Anchors, Kept},
    bar::Bar,
    trust::{self, KeptHeads, Known},
};
use crate::{
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, fields},
    units,
};

/// What a verification came to, for scripts.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verification {
    pub(super) ok: bool,
    pub(super) events: u64,
    pub(super) root_hash: String,
    pub(super) findings: Vec<String>,
    pub(super) finding_count: u64,
    /// The size of the largest kept head that the log continues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) anchored_at: Option<u64>,
    pub(super) signed_by: String,
    /// Restores that the log tells of, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) restores: Vec<String>,
    /// For a file: the first event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<u64>,
    /// For a file: how many events the signed head covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) head_size: Option<u64>,
    #[serde(skip)]
    pub(super) known: Option<Known>,
}

/// What the log is held against.
#[derive(Debug)]
pub(super) struct Against {
    pub(super) anchors: Vec<PathBuf>,
    pub(super) verifier_key: Option<String>,
    pub(super) ca: Option<PathBuf>,
}

pub(super) async fn run(connection: &Connection, output: &Output, against: &Against) -> Result<ExitCode, Failure> {
    let mut anchors = Anchors::load()?;
    let mut log = connection.audit().export_audit_events(ExportAuditEventsRequest::default()).await?.into_inner();
    let header = log.message().await?.and_then(|part| part.header).unwrap_or_default();
    let head = header.head.clone().unwrap_or_default();
    let verification = match signed_head(&head, &header.ca_signature, &anchors, against)? {
        Ok((key, known, checkpoint)) => {
            let KeptHeads { heads: kept, older, findings } =
                trust::kept_heads(&key, &checkpoint, &anchors, &against.anchors)?;
            let verifier = LogVerifier::new(kept.clone()).with_older(older);
            let mut report = read_log(connection, output, &mut log, &checkpoint, verifier).await?;
            for finding in findings {
                report.add(finding);
            }
            if !head.finding.is_empty() {
                report.add(format!("the server itself remembers another log: {}", printable(&head.finding)));
            }
            if report.inner.is_clean() && report.more.is_empty() {
                report.more.extend(damaged_tree(connection, &checkpoint, &kept).await?);
            }
            let verification = report.verification(&key, known);
            if verification.ok {
                let kept = Kept { verifier_key: key.to_string(), checkpoint: head.checkpoint.clone() };
                anchors.keep(key.name(), kept)?;
            }
            verification
        }
        Err(finding) => Verification {
            root_hash: head.root_hash.clone(),
            findings: vec![finding],
            finding_count: 1,
            signed_by: head.verifier_key.clone(),
            ..Verification::default()
        },
    };
    output.plain(&verification, |verification| lines(output, verification))?;
    Ok(exit(&verification))
}

pub(super) fn exit(verification: &Verification) -> ExitCode {
    if verification.ok { ExitCode::SUCCESS } else { ExitCode::from(Exit::AuditFailed as u8) }
}

/// The head, if the key that is trusted signed it: the one given, else the one remembered, else one that the CA signed, else (once) the
/// server's.
fn signed_head(
    head: &AuditHead,
    ca_signature: &[u8],
    anchors: &Anchors,
    against: &Against,
) -> Result<Result<(VerifierKey, Known, Checkpoint), String>, Failure> {
    let offered: VerifierKey = match head.verifier_key.parse() {
        Ok(key) => key,
        Err(error) => return Ok(Err(format!("the server's verifier key is no key: {error}"))),
    };
    let ca = against.ca.as_deref();
    let known = match trust::known_key(&offered, anchors, against.verifier_key.as_deref(), ca, ca_signature)? {
        Ok(known) => known.unwrap_or(Known::AtFirstSight),
        Err(finding) => return Ok(Err(finding)),
    };
    let checkpoint = match Checkpoint::parse_and_verify(&head.checkpoint, &offered) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return Ok(Err(format!("the head is not signed as it should be: {error}"))),
    };
    if checkpoint.size != head.tree_size || checkpoint.root.to_string() != head.root_hash {
        return Ok(Err("the server's head is not the one that is signed".to_owned()));
    }
    Ok(Ok((offered, known, checkpoint)))
}

type Log = tonic::Streaming<proto_rpc::v1::ExportAuditEventsResponse>;

struct Found {
    inner: Report,
    /// What is not of the rows themselves.
    more: Vec<String>,
}

impl Found {
    fn add(&mut self, finding: String) {
        self.more.push(finding);
    }

    fn verification(self, key: &VerifierKey, known: Known) -> Verification {
        let mut findings: Vec<_> = self.inner.findings.iter().map(ToString::to_string).collect();
        let finding_count = self.inner.finding_count + self.more.len() as u64;
        findings.extend(self.more);
        Verification {
            ok: finding_count == 0,
            events: self.inner.events,
            root_hash: self.inner.root.to_string(),
            findings,
            finding_count,
            anchored_at: self.inner.anchored.as_ref().map(|anchor| anchor.size),
            signed_by: key.to_string(),
            restores: self.inner.restores.iter().map(ToString::to_string).collect(),
            known: Some(known),
            ..Verification::default()
        }
    }
}

async fn read_log(
    connection: &Connection,
    output: &Output,
    log: &mut Log,
    head: &Checkpoint,
    mut verifier: LogVerifier,
) -> Result<Found, Failure> {
    let bar = Bar::new(output, head.size);
    let mut read = 0;
    while let Some(part) = log.message().await? {
        for event in &part.events {
            match parse(event) {
                Ok(event) => verifier.push(&event),
                Err(what) => verifier.push_unreadable(event.sequence, &event.leaf, what),
            }
        }
        read += part.events.len() as u64;
        bar.at(read);
    }
    bar.end();
    if let Some(from) = rows_beyond_the_head(connection).await? {
        verifier.find_unsigned(from);
    }
    Ok(Found { inner: verifier.finish(head), more: Vec::new() })
}

/// The first row that no head covers. The row is asked for before the head: what was appended meanwhile is covered.
async fn rows_beyond_the_head(connection: &Connection) -> Result<Option<u64>, Failure> {
    let newest = ListAuditEventsRequest {
        page_size: 1,
        order_by: "sequence desc".to_owned(),
        ..ListAuditEventsRequest::default()
    };
    let newest = connection.audit().list_audit_events(newest).await?.into_inner();
    let head = connection.audit().get_audit_head(GetAuditHeadRequest {}).await?.into_inner();
    let newest = newest.audit_events.first().map(|event| event.sequence);
    Ok(newest.filter(|newest| *newest >= head.tree_size).map(|_| head.tree_size))
}

/// The proofs that agents are given are made of stored hashes: whether these are those of the log, which itself is as it should be.
async fn damaged_tree(connection: &Connection, head: &Checkpoint, kept: &[Anchor]) -> Result<Option<String>, Failure> {
    let earlier =
        kept.iter().filter(|anchor| 0 < anchor.size && anchor.size < head.size).max_by_key(|anchor| anchor.size);
    let Some(earlier) = earlier else { return Ok(None) };
    let request = GetConsistencyProofRequest { first_size: earlier.size, second_size: head.size };
    let hashes = match connection.audit().get_consistency_proof(request).await {
        Ok(proof) => proof.into_inner().hashes,
        Err(status) if status.code() == tonic::Code::Internal => Vec::new(),
        Err(status) => return Err(status.into()),
    };
    let proof: Option<Vec<Hash>> = hashes.iter().map(|hash| Hash::try_from(hash.as_slice()).ok()).collect();
    let proven = verify_consistency(earlier.size, &earlier.root, head.size, &head.root, &proof.unwrap_or_default());
    Ok(proven.err().map(|error| {
        format!(
            "the events are whole, but the hashes that are stored beside them are not: no proof leads from {} to {} events \
             ({error}), and agents will raise the alarm",
            earlier.size, head.size
        )
    }))
}

/// An event with the fields that are shown; where these are not the leaf's, the verifier finds it changed.
fn parse(event: &AuditEvent) -> Result<Event, &'static str> {
    let time = event.time.as_ref().and_then(units::utc).ok_or("its time")?;
    let outcome: Outcome = event.outcome.parse().map_err(|_unknown| "its outcome")?;
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
    let leaf_hash: Hash = event.leaf_hash.parse().map_err(|_invalid| "its leaf_hash")?;
    Ok(Event { record, leaf: event.leaf.clone(), leaf_hash })
}

fn structure(message: &prost_types::Struct) -> Map<String, Value> {
    message.fields.iter().map(|(key, field)| (key.clone(), value(field))).collect()
}

pub(super) fn value(message: &prost_types::Value) -> Value {
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

/// `1 event`, `2 events`.
pub(super) fn events(count: u64) -> String {
    format!("{count} event{}", if count == 1 { "" } else { "s" })
}

pub(super) fn lines(output: &Output, verification: &Verification) -> String {
    if verification.ok {
        let mark = output.paint("32", "√");
        let anchored = match (verification.anchored_at, verification.head_size) {
            (Some(size), _) => format!("they continue the head that was kept (of {})", events(size)),
            (None, Some(_)) => "no head was kept of this stretch".to_owned(),
            (None, None) => {
                "verified here for the first time: the head is kept, to find a cut or rewritten log later".to_owned()
            }
        };
        let what = match (verification.first, verification.head_size) {
            (Some(0), Some(size)) if size == verification.events => "unchanged and complete".to_owned(),
            (Some(first), Some(size)) => format!("from {first} on, unchanged, of a log of {}", events(size)),
            (_, _) => "unchanged and complete".to_owned(),
        };
        return format!("{mark} {}, {what}\n", events(verification.events))
            + &verification.restores.iter().map(|restore| format!("    {restore}\n")).collect::<String>()
            + &fields([
                ("head", verification.root_hash.clone()),
                ("signed by", verification.signed_by.clone()),
                ("trusted as", verification.known.map_or("", Known::words).to_owned()),
                ("anchor", anchored),
            ]);
    }
    let mark = output.paint("31", "×");
    let mut text = format!("{mark} the audit log does not verify\n");
    for finding in &verification.findings {
        text.push_str(&format!("    {finding}\n"));
    }
    let more = verification.finding_count.saturating_sub(verification.findings.len() as u64);
    if more > 0 {
        text.push_str(&format!("    and {more} more\n"));
    }
    text.push_str("what to do now: docs/audit.md, \"When verification fails\"\n");
    text
}
