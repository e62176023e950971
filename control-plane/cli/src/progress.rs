//! A transfer's progress on a terminal: one bar, drawn on standard error.

use std::time::Duration;

use chrono::{DateTime, Utc};
use foundation_runtime::Clock;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto_rpc::v1::{Transfer, TransferProgress, transfer::State};

use crate::{output::Output, units};

/// A bar that shows a transfer; draws nothing where nobody looks.
#[derive(Debug)]
pub(crate) struct TransferBar(ProgressBar);

impl TransferBar {
    pub(crate) fn new(output: &Output) -> Self {
        let bar = ProgressBar::with_draw_target(
            None,
            if output.may_draw() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
        );
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {percent:>3}%  {msg}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        // So that a bar without news is seen to live.
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    pub(crate) fn show(&self, transfer: &Transfer) {
        let progress = transfer.progress.unwrap_or_default();
        self.0.set_prefix(title(transfer));
        self.0.set_length(progress.bytes_total.max(1));
        self.0.set_position(progress.bytes_done.min(progress.bytes_total));
        self.0.set_message(line(transfer, &progress));
    }

    /// A line above the bar, also where no bar is drawn.
    pub(crate) fn note(&self, output: &Output, text: &str) {
        self.0.suspend(|| output.talk(text));
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// A bar over the bytes of one file; draws nothing where nobody looks.
#[derive(Debug)]
pub(crate) struct BytesBar(ProgressBar);

impl BytesBar {
    pub(crate) fn new(output: &Output, title: &str, bytes: u64) -> Self {
        let target = if output.may_draw() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(bytes.max(1)), target);
        let shape = "{prefix} {bar:24} {percent:>3}%  {binary_bytes_per_sec}  ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(shape) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_prefix(title.to_owned());
        Self(bar)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn title(transfer: &Transfer) -> String {
    let spec = transfer.spec.clone().unwrap_or_default();
    match spec.source_paths.as_slice() {
        [only] => only.clone(),
        paths => format!("{} sources", paths.len()),
    }
}

/// `1.3/2.1 GiB  412 MiB/s  ETA 2.0s  streams 32  saved 81%  direct`.
pub(crate) fn line(transfer: &Transfer, progress: &TransferProgress) -> String {
    match transfer.state() {
        State::Pending => return "waits for the sender".to_owned(),
        State::Waiting => {
            let why = transfer.error.clone().unwrap_or_default();
            // One that was just resumed.
            let why = if why.message.is_empty() { "for the sender to go on" } else { why.message.as_str() };
            return format!("waits: {why}");
        }
        State::Paused => return paused(transfer),
        State::Unspecified
        | State::Running
        | State::Succeeded
        | State::SucceededInPart
        | State::Failed
        | State::Cancelled => {}
    }
    let more = if progress.totals_final { "" } else { "+" };
    let mut parts = vec![format!("{}/{}{more}", units::bytes(progress.bytes_done), units::bytes(progress.bytes_total))];
    if matches!(transfer.state(), State::Running) {
        parts.push(units::rate(progress.rate_bytes_per_second));
        let eta = progress.eta.as_ref().and_then(|eta| Duration::try_from(*eta).ok());
        parts.push(eta.map_or_else(|| "ETA -".to_owned(), |eta| format!("ETA {}", units::duration(eta))));
    }
    if let Some(path) = &transfer.path {
        parts.push(format!("streams {}", path.streams));
        parts.push(path.path.clone());
    }
    if let Some(saved) = saved(progress) {
        parts.push(format!("saved {saved:.0}%"));
    }
    parts.extend(deadline_left(transfer, Clock::system().utc()));
    parts.join("  ")
}

/// `paused by operator:ada since 2026-11-22 01:00:00Z: the line is needed`.
pub(crate) fn paused(transfer: &Transfer) -> String {
    let pause = transfer.pause.clone().unwrap_or_default();
    let since = units::time(pause.pause_time.as_ref());
    let why = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
    let yet = if pause.at_rest { "" } else { " (the sender has not said yet that it stands still)" };
    format!("paused by {} since {since}{why}{yet}", pause.paused_by)
}

/// `deadline in 1h02m`, of one that has not ended.
pub(crate) fn deadline_left(transfer: &Transfer, now: DateTime<Utc>) -> Option<String> {
    let deadline = transfer.spec.as_ref()?.deadline.as_ref().filter(|_| transfer.end_time.is_none());
    deadline.map(|deadline| format!("deadline {}", units::relative(Some(deadline), now)))
}

/// How many of a hundred bytes did not have to be sent, of those that are done.
pub(crate) fn saved(progress: &TransferProgress) -> Option<f64> {
    if progress.bytes_done == 0 {
        return None;
    }
    #[allow(clippy::cast_precision_loss, reason = "a percentage for people")]
    let share = 1.0 - progress.bytes_sent as f64 / progress.bytes_done as f64;
    (share > 0.0).then_some(share * 100.0)
}
