//! `dwcp transfer`: transfers, running and ended.

use std::{process::ExitCode, time::Duration};

use chrono::{DateTime, Utc};
use foundation_runtime::{Backoff, Clock, Stop, stop_signal};
use proto_rpc::v1::{
    CancelTransferRequest, GetTransferRequest, ListTransfersRequest, ListTransfersResponse, Transfer, TransferSpec,
    WatchTransferRequest, WatchTransfersRequest, transfer::State,
};

use super::{request_id, resource, send, short};
use crate::{
    args::{Global, Transfer as Verb},
    connection::Connection,
    failure::{Exit, Failure},
    output::{Output, fields, table},
    progress::{self, TransferBar},
    units,
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
            let transfer = connection.transfers().cancel_transfer(request).await?.into_inner();
            output.message(&transfer, |transfer| {
                format!("{} is {}; files that were published stay", transfer.name, state_name(transfer.state()))
            })?;
        }
        Verb::Create(mut send) => {
            send.detach = true;
            return send::run(global, output, *send).await;
        }
    }
    Ok(ExitCode::SUCCESS)
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

/// Follows a transfer to its end, through lost connections; what is shown meanwhile is up to `output`.
pub(super) async fn follow(
    connection: &Connection,
    output: &Output,
    name: &str,
    timeout: Option<Duration>,
) -> Result<Transfer, Failure> {
    let bar = TransferBar::new(output);
    let clock = Clock::system();
    let deadline = timeout.map(|timeout| clock.now() + timeout);
    let wait = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let come_back = format!("dwcp transfer watch {0} · dwcp transfer cancel {0}", short(name));
    let result = tokio::select! {
        ended = until_end(connection, output, name, &bar) => ended,
        () = wait => Err(Failure::new(Exit::TimedOut, format!("{name} has not ended in time; it goes on")).hint(come_back)),
        signal = stop_signal() => {
            let signal = signal.unwrap_or(Stop::Interrupt);
            let word = if signal == Stop::Interrupt { "interrupted" } else { "terminated" };
            Err(Failure::new(Exit::Interrupted, format!("{word}; {name} goes on")).hint(come_back))
        }
    };
    bar.finish();
    result
}

/// Watches until the transfer has ended; a lost connection is taken up again.
async fn until_end(
    connection: &Connection,
    output: &Output,
    name: &str,
    bar: &TransferBar,
) -> Result<Transfer, Failure> {
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    let mut said = false;
    loop {
        let request = WatchTransferRequest { name: name.to_owned(), resume_token: String::new() };
        let error = match connection.transfers().watch_transfer(request).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(event)) => {
                            let Some(transfer) = event.transfer else { continue };
                            backoff.reset();
                            said = false;
                            bar.show(&transfer);
                            if has_ended(transfer.state()) {
                                return Ok(transfer);
                            }
                        }
                        Ok(None) => break None,
                        Err(status) => break Some(status),
                    }
                }
            }
            Err(status) => Some(status),
        };
        if let Some(status) = error {
            let lost = matches!(
                status.code(),
                tonic::Code::Unavailable
                    | tonic::Code::Unknown
                    | tonic::Code::Cancelled
                    | tonic::Code::ResourceExhausted
            );
            if !lost {
                return Err(status.into());
            }
            if !said {
                said = true;
                bar.note(output, "the control plane cannot be reached; the transfer goes on, and this waits for news");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
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

/// The result of an ended transfer, and the exit code that it stands for.
pub(super) fn report(output: &Output, transfer: &Transfer) -> Result<ExitCode, Failure> {
    output.message(transfer, summary)?;
    Ok(match transfer.state() {
        State::Succeeded => ExitCode::SUCCESS,
        State::SucceededInPart => ExitCode::from(Exit::InPart as u8),
        State::Unspecified | State::Pending | State::Running | State::Waiting | State::Failed | State::Cancelled => {
            ExitCode::from(Exit::Failed as u8)
        }
    })
}

/// What was moved, and what was saved.
fn summary(transfer: &Transfer) -> String {
    let progress = transfer.progress.unwrap_or_default();
    let spec = transfer.spec.clone().unwrap_or_default();
    let mut text = String::new();
    if spec.dry_run {
        text.push_str(&planned(transfer));
    }
    match transfer.state() {
        State::Succeeded | State::SucceededInPart => {
            let took = units::between(transfer.start_time.as_ref(), transfer.end_time.as_ref()).unwrap_or_default();
            let saved = progress::saved(&progress).map(|saved| format!(", {saved:.0}% saved")).unwrap_or_default();
            let deleted = match progress.files_deleted {
                0 => String::new(),
                deleted => format!(", {deleted} deleted"),
            };
            let done = if spec.dry_run { "would move" } else { "done" };
            text.push_str(&format!(
                "{done}  {} entries, {} in {} ({} on the wire, {} already there{saved}){deleted}\n",
                progress.files_done,
                units::bytes(progress.bytes_done),
                units::duration(took),
                units::bytes(progress.bytes_sent),
                units::bytes(progress.bytes_reused),
            ));
        }
        State::Unspecified | State::Pending | State::Running | State::Waiting | State::Failed | State::Cancelled => {
            let error = transfer.error.clone().unwrap_or_default();
            text.push_str(&format!("{}  {} {}\n", state_name(transfer.state()), error.reason, error.message));
        }
    }
    text.push_str(&issues(transfer));
    text.push_str(&format!("dwcp transfer get {}\n", short(&transfer.name)));
    text
}

fn planned(transfer: &Transfer) -> String {
    transfer
        .planned_changes
        .iter()
        .map(|change| format!("{:<8} {:>10}  {}\n", change.action, units::bytes(change.bytes), change.path))
        .collect()
}

fn issues(transfer: &Transfer) -> String {
    /// What a person reads; the whole list is in the JSON.
    const SHOWN: usize = 20;
    if transfer.issue_count == 0 {
        return String::new();
    }
    let mut text = format!("{} entries were left out:\n", transfer.issue_count);
    for issue in transfer.issues.iter().take(SHOWN) {
        text.push_str(&format!("  {}  {}: {}\n", issue.path, issue.reason, issue.message));
    }
    if transfer.issue_count > SHOWN as u64 {
        text.push_str("  … (all of them: -o json)\n");
    }
    text
}

fn rows(transfers: &[Transfer], now: DateTime<Utc>) -> String {
    table(
        ["NAME", "STATE", "FROM", "TO", "DONE", "SENT", "BEGAN"],
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
            ]
        }),
    )
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
        ("tree digest", transfer.tree_digest.clone()),
        ("trace", transfer.trace_id.clone()),
        ("by", transfer.created_by.clone()),
        ("accepted", units::time(transfer.create_time.as_ref())),
        ("ended", units::time(transfer.end_time.as_ref())),
        ("took", took.map(units::duration).unwrap_or_default()),
        ("grant ends", units::time(transfer.grant_expire_time.as_ref())),
    ]);
    text.push_str(&planned(transfer));
    text.push_str(&issues(transfer));
    text
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

/// Whether nothing will change any more.
pub(super) fn has_ended(state: State) -> bool {
    match state {
        State::Succeeded | State::SucceededInPart | State::Failed | State::Cancelled => true,
        State::Unspecified | State::Pending | State::Running | State::Waiting => false,
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "UNKNOWN",
        State::Pending => "PENDING",
        State::Running => "RUNNING",
        State::Waiting => "WAITING",
        State::Succeeded => "SUCCEEDED",
        State::SucceededInPart => "SUCCEEDED_IN_PART",
        State::Failed => "FAILED",
        State::Cancelled => "CANCELLED",
    }
}
