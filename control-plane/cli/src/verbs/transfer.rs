//! `dwcp transfer`: transfers, running and ended.

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use proto_rpc::v1::{
    CancelTransferRequest, GetTransferRequest, ListTransfersRequest, ListTransfersResponse, PauseTransferRequest,
    ResumeTransferRequest, Transfer, TransferSpec, WatchTransfersRequest,
};

use super::{
    follow::{follow, issues, planned, report, state_name},
    once, request_id, resource, send, short,
};
use crate::{
    args::{Global, Transfer as Verb},
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, fields, table},
    progress, units,
};

pub(super) async fn run(global: &Global, output: &Output, verb: Verb) -> Result<ExitCode, Failure> {
    let connection = Connection::open(global)?;
    match verb {
        Verb::List { filter, limit } => list(&connection, output, filter, limit).await?,
        Verb::Get { transfer } => {
            let request = GetTransferRequest { name: resource("transfers", &transfer) };
            let transfer = connection.transfers().get_transfer(request).await?.into_inner();
            output.message(&transfer, details)?;
        }
        Verb::Watch { transfer: Some(name), timeout } => {
            let transfer = follow(&connection, output, &resource("transfers", &name), timeout).await?;
            return report(output, &transfer);
        }
        Verb::Watch { transfer: None, timeout } => watch_all(&connection, output, timeout).await?,
        Verb::Cancel { transfer } => {
            let request = CancelTransferRequest { name: resource("transfers", &transfer), request_id: request_id() };
            let transfer = once(request, async |request| connection.transfers().cancel_transfer(request).await).await?;
            output.message(&transfer, |transfer| {
                format!("{} is {}; files that were published stay", transfer.name, state_name(transfer.state()))
            })?;
        }
        Verb::Pause { transfer, reason } => {
            let request =
                PauseTransferRequest { name: resource("transfers", &transfer), reason, request_id: request_id() };
            let paused = once(request, async |request| connection.transfers().pause_transfer(request).await).await;
            let transfer = paused.map_err(perhaps_direct)?;
            output.message(&transfer, |transfer| {
                let until = units::time(transfer.grant_expire_time.as_ref());
                let name = short(&transfer.name);
                format!(
                    "{} is {}\nNext: dwcp transfer resume {name} · dwcp transfer cancel {name}; it can go on until {until}",
                    transfer.name,
                    progress::paused(transfer)
                )
            })?;
        }
        Verb::Resume { transfer } => {
            let request = ResumeTransferRequest { name: resource("transfers", &transfer), request_id: request_id() };
            let transfer = once(request, async |request| connection.transfers().resume_transfer(request).await).await?;
            output.message(&transfer, |transfer| {
                let (name, state) = (&transfer.name, state_name(transfer.state()));
                format!("{name} goes on ({state})\nNext: dwcp transfer watch {}", short(name))
            })?;
        }
        Verb::Create(mut send) => {
            send.detach = true;
            return send::run(global, output, *send).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the control plane does not know may be known to an agent.
fn perhaps_direct(failure: Failure) -> Failure {
    if failure.exit != Exit::NotFound {
        return failure;
    }
    failure.hint("a direct send (`dwcp send --direct`) is known to its agent alone, and cannot be paused")
}

async fn list(connection: &Connection, output: &Output, filter: String, limit: usize) -> Result<(), Failure> {
    let mut all = ListTransfersResponse::default();
    loop {
        let left = limit.saturating_sub(all.transfers.len());
        let request = ListTransfersRequest {
            page_size: i32::try_from(left.clamp(1, 1000)).unwrap_or(1000),
            page_token: all.next_page_token,
            filter: filter.clone(),
        };
        let page = connection.transfers().list_transfers(request).await?.into_inner();
        all.transfers.extend(page.transfers);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() || all.transfers.len() >= limit {
            break;
        }
    }
    let now = Clock::system().utc();
    output.list(&all, &all.transfers, |transfers| rows(transfers, now))
}

async fn watch_all(connection: &Connection, output: &Output, timeout: Option<Duration>) -> Result<(), Failure> {
    let request = WatchTransfersRequest::default();
    let mut stream = connection.transfers().watch_transfers(request).await?.into_inner();
    let clock = Clock::system();
    let events = async {
        while let Some(event) = stream.message().await? {
            if output.for_people() && event.transfer.is_none() {
                continue;
            }
            output.event(&event, |event| {
                let transfer = event.transfer.clone().unwrap_or_default();
                let progress = transfer.progress.unwrap_or_default();
                let time = clock.utc().format("%H:%M:%S");
                let line = progress::line(&transfer, &progress);
                format!("{time} {} {:<17} {line}", short(&transfer.name), state_name(transfer.state()))
            })?;
        }
        Ok(())
    };
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, events)
            .await
            .unwrap_or_else(|_elapsed| Err(Failure::new(Exit::TimedOut, "the time is over"))),
        None => events.await,
    }
}

fn rows(transfers: &[Transfer], now: DateTime<Utc>) -> String {
    table(
        ["NAME", "STATE", "FROM", "TO", "DONE", "SENT", "BEGAN", "NOTE"],
        transfers.iter().map(|transfer| {
            let spec = transfer.spec.clone().unwrap_or_default();
            let progress = transfer.progress.unwrap_or_default();
            [
                short(&transfer.name).to_owned(),
                state_name(transfer.state()).to_owned(),
                format!("{}:{}", short(&spec.source_node), spec.source_paths.join(",")),
                destination(&spec),
                format!("{}/{}", units::bytes(progress.bytes_done), units::bytes(progress.bytes_total)),
                units::bytes(progress.bytes_sent),
                units::relative(transfer.create_time.as_ref(), now),
                note(transfer, now),
            ]
        }),
    )
}

/// Who holds it, and how long it may still take.
fn note(transfer: &Transfer, now: DateTime<Utc>) -> String {
    let paused = transfer.pause.as_ref().map(|_held| progress::paused(transfer));
    let left = progress::deadline_left(transfer, now);
    [paused, left].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn deadline(transfer: &Transfer, spec: &TransferSpec) -> String {
    let at = units::time(spec.deadline.as_ref());
    match progress::deadline_left(transfer, Clock::system().utc()) {
        Some(left) => format!("{at} ({left})"),
        None => at,
    }
}

fn details(transfer: &Transfer) -> String {
    let spec = transfer.spec.clone().unwrap_or_default();
    let progress = transfer.progress.unwrap_or_default();
    let receiver = transfer.receiver_progress.unwrap_or_default();
    let error = transfer.error.clone().unwrap_or_default();
    let path = transfer.path.clone().unwrap_or_default();
    let took = units::between(transfer.start_time.as_ref(), transfer.end_time.as_ref());
    let mut text = fields([
        ("name", transfer.name.clone()),
        ("state", format!("{} {} {}", state_name(transfer.state()), error.reason, error.message).trim().to_owned()),
        ("pause", transfer.pause.as_ref().map(|_held| progress::paused(transfer)).unwrap_or_default()),
        ("from", format!("{}:{}", short(&spec.source_node), spec.source_paths.join(" "))),
        ("to", destination(&spec)),
        ("options", options(&spec)),
        ("files", format!("{}/{}", progress.files_done, progress.files_total)),
        ("bytes", format!("{}/{}", units::bytes(progress.bytes_done), units::bytes(progress.bytes_total))),
        ("already there", units::bytes(progress.bytes_reused)),
        ("on the wire", units::bytes(progress.bytes_sent)),
        ("receiver", format!("{} verified, {} files in place", units::bytes(receiver.bytes_done), receiver.files_done)),
        (
            "transport",
            format!(
                "{} {}, {} lanes, {} streams, {}, rtt {:.1} ms",
                path.path, path.remote_address, path.lanes, path.streams, path.congestion_algorithm, path.rtt_ms
            ),
        ),
        ("held up by", held_up_by(transfer)),
        ("advice", transfer.advice.clone()),
        ("tree digest", transfer.tree_digest.clone()),
        ("trace", transfer.trace_id.clone()),
        ("by", transfer.created_by.clone()),
        ("accepted", units::time(transfer.create_time.as_ref())),
        ("ended", units::time(transfer.end_time.as_ref())),
        ("took", took.map(units::duration).unwrap_or_default()),
        ("deadline", deadline(transfer, &spec)),
        ("grant ends", units::time(transfer.grant_expire_time.as_ref())),
    ]);
    text.push_str(&planned(transfer));
    text.push_str(&issues(transfer));
    text
}

/// Causes with their shares of the time, the longest first; what is below a hundredth says nothing.
fn held_up_by(transfer: &Transfer) -> String {
    let all: f64 = transfer.time_spent.iter().map(|spent| spent.seconds).sum();
    let shares =
        transfer.time_spent.iter().map(|spent| (spent, spent.seconds / all)).filter(|(_, share)| *share >= 0.01);
    let shares: Vec<_> = shares
        .map(|(spent, share)| {
            format!("{} {:.0} % ({:.1} s)", spent.cause.replace('_', " "), share * 100.0, spent.seconds)
        })
        .collect();
    shares.join(", ")
}

fn options(spec: &TransferSpec) -> String {
    let mut options = Vec::new();
    options.extend(spec.delete.then(|| "--delete".to_owned()));
    options.extend(spec.checksum.then(|| "--checksum".to_owned()));
    options.extend(spec.dry_run.then(|| "--dry-run".to_owned()));
    options.extend(spec.exclude.iter().map(|glob| format!("--exclude {glob}")));
    options.join(" ")
}

fn destination(spec: &TransferSpec) -> String {
    format!("{}:{}", short(&spec.destination_node), spec.destination_path)
}
