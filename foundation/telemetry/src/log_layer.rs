//! Events into lines.

use std::sync::Arc;

use foundation_runtime::Clock;
use opentelemetry::{Context, trace::TraceContextExt as _};
use tracing::{Event, Subscriber};
use tracing_subscriber::{Layer, layer};

use crate::{component, format::Head, record::Record, sink::Sink};

/// Writes each event as a line.
#[derive(Debug)]
pub(crate) struct LogLayer {
    pub(crate) sink: Arc<Sink>,
    pub(crate) clock: Clock,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _context: layer::Context<'_, S>) {
        let mut record = Record::default();
        event.record(&mut record);
        // The layer that makes spans activates their context on the thread that entered them.
        let span = Context::map_current(|context| context.span().span_context().clone());
        let trace_id = span.is_valid().then(|| span.trace_id().to_string());
        let metadata = event.metadata();
        let component = record.component.as_deref().unwrap_or_else(|| component::of_target(metadata.target()));
        let head = Head { time: self.clock.utc(), level: *metadata.level(), component, trace_id: trace_id.as_deref() };
        self.sink.write(head, &record);
    }
}
