//! Events into lines.

use std::sync::Arc;

use foundation_runtime::Clock;
use opentelemetry::{Context, trace::TraceContextExt as _};
use tracing::{Event, Subscriber};
use tracing_subscriber::{Layer, layer};

use crate::{
    component,
    format::Head,
    record::Record,
    restraint::{LeftOut, Restraint, Verdict},
    sink::Sink,
};

/// Writes each event as a line.
#[derive(Debug)]
pub(crate) struct LogLayer {
    pub(crate) sink: Arc<Sink>,
    pub(crate) clock: Clock,
    pub(crate) restraint: Arc<Restraint>,
}

/// Writes how many lines were left out.
pub(crate) fn write_left_out(sink: &Sink, clock: &Clock, left_out: &LeftOut) {
    let component = if left_out.component.is_empty() { "telemetry" } else { &left_out.component };
    let head = Head { time: clock.utc(), level: left_out.level, component, trace_id: None };
    sink.write(head, &Record::of_left_out(&left_out.like, left_out.count));
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _context: layer::Context<'_, S>) {
        let (before, verdict) = self.restraint.admit(event.metadata(), self.clock.now());
        if let Some(before) = before {
            write_left_out(&self.sink, &self.clock, &before);
        }
        if verdict == (Verdict::LeaveOut { first: false }) {
            return;
        }
        let mut record = Record::default();
        event.record(&mut record);
        // The layer that makes spans activates their context on the thread that entered them.
        let span = Context::map_current(|context| context.span().span_context().clone());
        let trace_id = span.is_valid().then(|| span.trace_id().to_string());
        let metadata = event.metadata();
        let component = record.component.as_deref().unwrap_or_else(|| component::of_target(metadata.target()));
        if verdict != Verdict::Write {
            self.restraint.remember(metadata, component, &record.message);
            return;
        }
        let head = Head { time: self.clock.utc(), level: *metadata.level(), component, trace_id: trace_id.as_deref() };
        self.sink.write(head, &record);
    }
}
