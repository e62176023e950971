//! `dwcp audit`: the audit log, and the proof that nobody touched it.

mod anchors;
mod bar;
mod export;
mod file;
mod trust;
mod verify;

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use foundation_runtime::Clock;
use proto_model::escape_str;
use proto_rpc::v1::{
    AuditEvent, ExportAuditEventsRequest, ListAuditEventsRequest, ListAuditEventsResponse, TailAuditEventsRequest,
};
use serde_json::Value;

use self::verify::Against;
use crate::{
    args::{Audit as Verb, AuditFilter, Global},
    connection::Connection,
    failure::Failure,
    output::{Output, table},
    units,
};

/// What is told of an event's details in a table; all of it is in `-o json`.
const MAX_DETAIL_CHARS: usize = 120;

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<ExitCode, Failure> {
    let against = |anchors, verifier_key| Against { anchors, verifier_key, ca: Connection::ca_file(global) };
    match verb {
        Verb::List { filter, limit, newest_first } => {
            list(&Connection::open(global)?, output, filter.text()?, limit, newest_first).await?;
        }
        Verb::Tail { from, filter } => tail(&Connection::open(global)?, output, from, filter).await?,
        Verb::Verify { file: Some(file), anchor, verifier_key } => {
            return file::run(output, &file, &against(anchor, verifier_key));
        }
        Verb::Verify { file: None, anchor, verifier_key } => {
            return verify::run(&Connection::open(global)?, output, &against(anchor, verifier_key)).await;
        }
        Verb::Export { from, since, until, out } => {
            let now = Clock::system().utc();
            let time = |text: Option<String>| text.map(|text| point_in_time(&text, now)).transpose();
            let request = ExportAuditEventsRequest {
                first_sequence: from,
                since: time(since)?.map(proto_model::to_timestamp),
                until: time(until)?.map(proto_model::to_timestamp),
                ..ExportAuditEventsRequest::default()
            };
            let against = against(Vec::new(), None);
            return export::run(&Connection::open(global)?, output, request, &out, &against).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl AuditFilter {
    /// One filter of the API.
    fn text(self) -> Result<String, Failure> {
        let now = Clock::system().utc();
        let mut terms = vec![self.filter];
        for (key, time) in [("since", self.since), ("until", self.until)] {
            if let Some(time) = time {
                let time = point_in_time(&time, now)?.to_rfc3339_opts(SecondsFormat::Millis, true);
                terms.push(format!("{key}={time}"));
            }
        }
        terms.retain(|term| !term.trim().is_empty());
        Ok(terms.join(","))
    }
}

/// A time as people type it: `2026-11-21T09:30:00Z`, `2026-11-21`, or how long ago: `90s`, `2h`, `7d`.
fn point_in_time(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Failure> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    if let Some(day) = text.parse::<chrono::NaiveDate>().ok().and_then(|day| day.and_hms_opt(0, 0, 0)) {
        return Ok(day.and_utc());
    }
    let ago =
        units::parse_duration(text).ok().and_then(|ago| now.checked_sub_signed(chrono::Duration::from_std(ago).ok()?));
    ago.ok_or_else(|| {
        let text = escape_str(text);
        Failure::usage(format!(
            "`{text}` is no time; write for example 2026-11-21T09:30:00Z, 2026-11-21, or 2h for two hours ago"
        ))
    })
}

async fn list(
    connection: &Connection,
    output: &Output,
    filter: String,
    limit: usize,
    newest_first: bool,
) -> Result<(), Failure> {
    let mut all = ListAuditEventsResponse::default();
    loop {
        let left = limit.saturating_sub(all.audit_events.len());
        let request = ListAuditEventsRequest {
            page_size: i32::try_from(left.clamp(1, 1000)).unwrap_or(1000),
            page_token: all.next_page_token,
            filter: filter.clone(),
            order_by: if newest_first { "sequence desc" } else { "" }.to_owned(),
        };
        let page = connection.audit().list_audit_events(request).await?.into_inner();
        all.audit_events.extend(page.audit_events);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.audit_events.len() >= limit {
            break;
        }
    }
    let more = !all.next_page_token.is_empty();
    output.list(&all, &all.audit_events, |events| {
        table(
            ["SEQUENCE", "TIME", "ACTOR", "ACTION", "RESOURCE", "OUTCOME", "DETAIL", "TRACE"],
            events.iter().map(|event| {
                [
                    event.sequence.to_string(),
                    units::time(event.time.as_ref()),
                    escape_str(&event.actor),
                    escape_str(&event.action),
                    escape_str(&event.resource),
                    escape_str(&event.outcome),
                    detail(event),
                    escape_str(&event.trace_id),
                ]
            }),
        )
    })?;
    if all.audit_events.is_empty() {
        output.talk("no events");
    } else if more {
        output.talk(&format!(
            "the first {}; there are more: --limit, --since, --newest-first",
            verify::events(limit as u64)
        ));
    }
    Ok(())
}

async fn tail(connection: &Connection, output: &Output, from: Option<u64>, filter: String) -> Result<(), Failure> {
    let request = TailAuditEventsRequest { from_sequence: from, filter };
    let mut stream = connection.audit().tail_audit_events(request).await?.into_inner();
    while let Some(event) = stream.message().await? {
        output.event(&event, line)?;
    }
    Ok(())
}

fn line(event: &AuditEvent) -> String {
    let refused = if event.outcome == "ok" { "" } else { " REFUSED" };
    let [actor, action, resource] = [&event.actor, &event.action, &event.resource].map(|text| escape_str(text));
    let mut line =
        format!("{:>6} {} {actor} {action} {resource}{refused}", event.sequence, units::time(event.time.as_ref()));
    let detail = detail(event);
    if !detail.is_empty() {
        line.push_str(&format!("  {detail}"));
    }
    if !event.trace_id.is_empty() {
        line.push_str(&format!("  trace={}", escape_str(&event.trace_id)));
    }
    line
}

/// `state=succeeded node=nodes/site-b`: what happened and where before everything else.
fn detail(event: &AuditEvent) -> String {
    let Some(detail) = &event.detail else { return String::new() };
    let first = ["state", "node", "role", "reason", "count"];
    let place = |key: &str| first.iter().position(|name| *name == key).unwrap_or(first.len());
    let mut fields: Vec<_> = detail.fields.iter().collect();
    fields.sort_by_key(|(key, _)| (place(key), (*key).clone()));
    let shown = fields.into_iter().filter_map(|(key, value)| {
        let text = match verify::value(value) {
            Value::Null => return None,
            Value::String(text) if text.is_empty() => return None,
            Value::String(text) if text.contains(' ') => format!("{text:?}"),
            Value::String(text) => text,
            other => whole(&other),
        };
        Some(escape_str(&format!("{key}={text}")))
    });
    let text = shown.collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The API's numbers are floating point: whole ones are shown as such.
fn whole(value: &Value) -> String {
    let text = value.to_string();
    text.strip_suffix(".0").map_or(text.clone(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use prost_types::{Struct, Value as Field, value::Kind};

    use super::*;

    #[test]
    fn times_are_understood_as_typed() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        assert_eq!(point_in_time("1m", now).unwrap().timestamp(), 1_799_999_940);
        assert_eq!(point_in_time("2026-11-21", now).unwrap().to_rfc3339(), "2026-11-21T00:00:00+00:00");
        assert_eq!(point_in_time("2026-11-21T10:00:00+02:00", now).unwrap().to_rfc3339(), "2026-11-21T08:00:00+00:00");
        for wrong in ["", "yesterday", "2026-13-01", "99999999999999d"] {
            assert!(point_in_time(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_happened_stands_before_the_rest_and_nothing_in_it_moves_the_cursor() {
        let field = |kind| Field { kind: Some(kind) };
        let fields = [
            ("count", field(Kind::NumberValue(3.0))),
            ("aside", field(Kind::StringValue("a\u{1b}[2Jb".to_owned()))),
            ("state", field(Kind::StringValue("failed".to_owned()))),
            ("empty", field(Kind::NullValue(0))),
        ];
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let event = AuditEvent { detail: Some(Struct { fields }), ..AuditEvent::default() };
        assert_eq!(detail(&event), r"state=failed count=3 aside=a\x1b[2Jb");
    }
}
