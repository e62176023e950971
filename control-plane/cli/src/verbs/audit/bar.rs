//! How far a long log is read, on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// Below so many events nobody waits.
const WORTH_A_BAR: u64 = 20_000;

/// A bar that counts events; draws nothing where nobody looks.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(output: &Output, events: u64) -> Self {
        let drawn = output.may_draw() && events >= WORTH_A_BAR;
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(events), target);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:24} {percent:>3}%  {human_pos} of {human_len} events  {per_sec}")
        {
            bar.set_style(style.progress_chars("━╸ "));
        }
        Self(bar)
    }

    pub(super) fn at(&self, events: u64) {
        self.0.set_position(events);
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
