//! Follows a transfer to its end, and says what it came to.

use std::{process::ExitCode, time::Duration};

use foundation_runtime::{Backoff, Clock, Stop, stop_signal};
use proto_model::TransferError;
use proto_rpc::v1::{Transfer, WatchTransferRequest, transfer::State};

use super::short;
use crate::{
    connection::Connection,
    failure::{Exit, Failure},
    output::Output,
    progress::{self, TransferBar},
    units,
};

/// Seconds from which on it is said what held a transfer up.
const WORTH_ADVICE: u64 = 10;

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
    let mut paused = false;
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
                            tell_of_pause(output, bar, &transfer, &mut paused);
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

/// Says once that somebody holds the transfer, and once that it goes on.
fn tell_of_pause(output: &Output, bar: &TransferBar, transfer: &Transfer, paused: &mut bool) {
    let now = transfer.state() == State::Paused;
    if std::mem::replace(paused, now) == now {
        return;
    }
    let name = short(&transfer.name);
    if now {
        let by = progress::paused(transfer);
        bar.note(output, &format!("{by}; this waits on, and `dwcp transfer resume {name}` lets it go on"));
    } else if !has_ended(transfer.state()) {
        bar.note(output, "resumed");
    }
}

/// The result of an ended transfer, and the exit code that it stands for.
pub(super) fn report(output: &Output, transfer: &Transfer) -> Result<ExitCode, Failure> {
    output.message(transfer, summary)?;
    Ok(match transfer.state() {
        State::Succeeded => ExitCode::SUCCESS,
        State::SucceededInPart => ExitCode::from(Exit::InPart as u8),
        State::Failed if is_late(transfer) => ExitCode::from(Exit::TimedOut as u8),
        State::Unspecified
        | State::Pending
        | State::Running
        | State::Waiting
        | State::Paused
        | State::Failed
        | State::Cancelled => ExitCode::from(Exit::Failed as u8),
    })
}

/// Whether its deadline ended it.
fn is_late(transfer: &Transfer) -> bool {
    transfer.error.as_ref().is_some_and(|error| error.reason == TransferError::DEADLINE_EXCEEDED)
}

/// What was moved, and what was saved.
fn summary(transfer: &Transfer) -> String {
    let progress = transfer.progress.unwrap_or_default();
    let spec = transfer.spec.clone().unwrap_or_default();
    let mut text = String::new();
    match transfer.state() {
        State::Succeeded | State::SucceededInPart if spec.dry_run => {
            text.push_str(&planned(transfer));
            text.push_str(&planned_sum(transfer));
        }
        State::Succeeded | State::SucceededInPart => {
            let took = units::between(transfer.start_time.as_ref(), transfer.end_time.as_ref()).unwrap_or_default();
            let saved = progress::saved(&progress).map(|saved| format!(", {saved:.0}% saved")).unwrap_or_default();
            let deleted = match progress.files_deleted {
                0 => String::new(),
                deleted => format!(", {deleted} deleted"),
            };
            text.push_str(&format!(
                "done  {}, {} in {} ({} on the wire, {} already there{saved}){deleted}\n",
                units::entries(progress.files_done),
                units::bytes(progress.bytes_done),
                units::duration(took),
                units::bytes(progress.bytes_sent),
                units::bytes(progress.bytes_reused),
            ));
            // Of what took a moment nobody asks why it was not faster.
            if took.as_secs() >= WORTH_ADVICE && !transfer.advice.is_empty() {
                text.push_str(&format!("why   {}\n", transfer.advice));
            }
        }
        State::Unspecified
        | State::Pending
        | State::Running
        | State::Waiting
        | State::Paused
        | State::Failed
        | State::Cancelled => {
            let error = transfer.error.clone().unwrap_or_default();
            text.push_str(&format!("{}  {} {}\n", state_name(transfer.state()), error.reason, error.message));
        }
    }
    text.push_str(&issues(transfer));
    text.push_str(&format!("dwcp transfer get {}\n", short(&transfer.name)));
    text
}

pub(super) fn planned(transfer: &Transfer) -> String {
    transfer
        .planned_changes
        .iter()
        .map(|change| format!("{:<8} {:>10}  {}\n", change.action, units::bytes(change.bytes), change.path))
        .collect()
}

/// A dry run in one line: it did nothing, so what it found is counted, not what it moved.
fn planned_sum(transfer: &Transfer) -> String {
    /// `planned_changes` ends here (transfer.proto): a full list is a lower bound.
    const LISTED: usize = 1000;
    let progress = transfer.progress.unwrap_or_default();
    let deleted = transfer.planned_changes.iter().filter(|change| change.action == "delete").count();
    let changed = transfer.planned_changes.len() - deleted;
    let at_least = if transfer.planned_changes.len() < LISTED { "" } else { "at least " };
    let delete = if deleted == 0 { String::new() } else { format!(", would delete {at_least}{deleted}") };
    format!(
        "would move  {at_least}{}, {} ({} already there){delete}\n",
        units::entries(changed as u64),
        units::bytes(progress.bytes_total.saturating_sub(progress.bytes_done)),
        units::bytes(progress.bytes_done),
    )
}

pub(super) fn issues(transfer: &Transfer) -> String {
    /// What a person reads; the whole list is in the JSON.
    const SHOWN: usize = 20;
    if transfer.issue_count == 0 {
        return String::new();
    }
    let mut text = format!("{} left out:\n", units::entries(transfer.issue_count));
    for issue in transfer.issues.iter().take(SHOWN) {
        text.push_str(&format!("  {}  {}: {}\n", issue.path, issue.reason, issue.message));
    }
    if transfer.issue_count > SHOWN as u64 {
        text.push_str("  … (all of them: -o json)\n");
    }
    text
}

/// Whether nothing will change any more.
pub(super) fn has_ended(state: State) -> bool {
    match state {
        State::Succeeded | State::SucceededInPart | State::Failed | State::Cancelled => true,
        State::Unspecified | State::Pending | State::Running | State::Waiting | State::Paused => false,
    }
}

pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "UNKNOWN",
        State::Pending => "PENDING",
        State::Running => "RUNNING",
        State::Waiting => "WAITING",
        State::Succeeded => "SUCCEEDED",
        State::SucceededInPart => "SUCCEEDED_IN_PART",
        State::Failed => "FAILED",
        State::Cancelled => "CANCELLED",
        State::Paused => "PAUSED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_rpc::v1::{PlannedChange, TransferProgress};

    #[test]
    fn a_dry_run_counts_what_would_be_moved() {
        let change = |action: &str| PlannedChange { path: "a".to_owned(), action: action.to_owned(), bytes: 5 };
        let transfer = Transfer {
            progress: Some(TransferProgress { bytes_total: 15, bytes_done: 5, ..TransferProgress::default() }),
            planned_changes: vec![change("create"), change("replace"), change("delete")],
            ..Transfer::default()
        };
        assert_eq!(planned_sum(&transfer), "would move  2 entries, 10 B (5 B already there), would delete 1\n");
        let one = Transfer { planned_changes: vec![change("create")], ..Transfer::default() };
        assert_eq!(planned_sum(&one), "would move  1 entry, 0 B (0 B already there)\n");
    }
}
