//! `dwcp audit`: the audit log, and the proof that nobody touched it.

mod anchors;
mod verify;

use std::process::ExitCode;

use proto_rpc::v1::{AuditEvent, ListAuditEventsRequest, ListAuditEventsResponse, TailAuditEventsRequest};

use crate::{
    args::{Audit as Verb, Global},
    connection::Connection,
    failure::Failure,
    output::{Output, table},
    units,
};

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<ExitCode, Failure> {
    let connection = Connection::open(global)?;
    match verb {
        Verb::List { filter, limit, newest_first } => list(&connection, output, filter, limit, newest_first).await?,
        Verb::Tail { from } => tail(&connection, output, from).await?,
        Verb::Verify { anchor, verifier_key } => {
            return verify::run(&connection, output, anchor.as_deref(), verifier_key.as_deref()).await;
        }
    }
    Ok(ExitCode::SUCCESS)
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
    output.list(&all, &all.audit_events, |events| {
        table(
            ["SEQUENCE", "TIME", "ACTOR", "ACTION", "RESOURCE", "OUTCOME"],
            events.iter().map(|event| {
                [
                    event.sequence.to_string(),
                    units::time(event.time.as_ref()),
                    event.actor.clone(),
                    event.action.clone(),
                    event.resource.clone(),
                    event.outcome.clone(),
                ]
            }),
        )
    })
}

async fn tail(connection: &Connection, output: &Output, from: Option<u64>) -> Result<(), Failure> {
    let request = TailAuditEventsRequest { from_sequence: from };
    let mut stream = connection.audit().tail_audit_events(request).await?.into_inner();
    while let Some(event) = stream.message().await? {
        output.event(&event, line)?;
    }
    Ok(())
}

fn line(event: &AuditEvent) -> String {
    let refused = if event.outcome == "ok" { "" } else { " REFUSED" };
    let time = units::time(event.time.as_ref());
    format!("{:>6} {time} {} {} {}{refused}", event.sequence, event.actor, event.action, event.resource)
}
