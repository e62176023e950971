//! [`Telemetry`]: what a program holds, and [`init`].

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use foundation_runtime::Clock;
use opentelemetry::{KeyValue, global, trace::TracerProvider as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider},
};
use tokio::sync::watch;
use tracing_subscriber::{
    Layer as _, Registry, filter::Targets, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::{
    LevelError, Metrics, Options,
    exporter::Target,
    level::{log_filter, span_filter},
    log_layer::{LogLayer, write_left_out},
    metrics_handle::Upkeep,
    restraint::Restraint,
    sampler::LiveRatio,
    sink::Sink,
};

/// Spans wait so long for others to be sent with.
const EXPORT_DELAY: Duration = Duration::from_secs(1);
/// Spans that wait; more are dropped. A few MB.
const MAX_WAITING_SPANS: usize = 4096;
/// What is waiting when the program ends is given up after this.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The telemetry of a program. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sink: Arc<Sink>,
    restraint: Arc<Restraint>,
    level: reload::Handle<Targets, Registry>,
    ratio: LiveRatio,
    target: Target,
    provider: SdkTracerProvider,
    metrics: Metrics,
    _upkeep: Upkeep,
}

/// Telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// No such level.
    #[error("the log level is not usable")]
    Level(#[from] LevelError),
    /// It was set up before, in this process.
    #[error("telemetry is already set up: {0}")]
    Twice(String),
}

/// Sets a program's telemetry up. To be called in a Tokio runtime where spans are to be exported, before anything is logged.
///
/// An endpoint or a file that cannot be used is said and does not stop the program.
///
/// # Errors
/// Where the level is none, or it was called before.
pub fn init(options: Options) -> Result<Telemetry, InitError> {
    let sink = Arc::new(Sink::new(options.format, options.file));
    let (filter, level) = reload::Layer::new(log_filter(&options.level)?);
    let restraint = Arc::new(Restraint::new(options.log_lines_per_second));
    let (said, sums) = (Arc::clone(&sink), Arc::clone(&restraint));
    let clock = Clock::system();
    let say_sums = move || sums.due(clock.now()).iter().for_each(|left_out| write_left_out(&said, &clock, left_out));
    let (metrics, upkeep) = Metrics::install(say_sums).map_err(InitError::Twice)?;

    let ratio = LiveRatio::new(options.sample_rate);
    let target = Target::new(resource(options.service.clone(), options.version, options.instance));
    let provider = provider(&target, &ratio);
    global::set_text_map_propagator(TraceContextPropagator::new());
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(options.service))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false);
    let lines = LogLayer { sink: Arc::clone(&sink), clock: Clock::system(), restraint: Arc::clone(&restraint) };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans.with_filter(span_filter()))
        .try_init()
        .map_err(|error| InitError::Twice(error.to_string()))?;

    let telemetry =
        Telemetry(Arc::new(Inner { sink, restraint, level, ratio, target, provider, metrics, _upkeep: upkeep }));
    telemetry.set_otlp_endpoint(options.otlp_endpoint.as_deref());
    Ok(telemetry)
}

fn resource(service: String, version: String, instance: String) -> Resource {
    let mut attributes = vec![KeyValue::new("service.version", version)];
    if !instance.is_empty() {
        attributes.push(KeyValue::new("service.instance.id", instance));
    }
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        attributes.push(KeyValue::new("host.name", host.trim().to_owned()));
    }
    Resource::builder().with_service_name(service).with_attributes(attributes).build()
}

fn provider(target: &Target, ratio: &LiveRatio) -> SdkTracerProvider {
    let batches =
        BatchConfigBuilder::default().with_scheduled_delay(EXPORT_DELAY).with_max_queue_size(MAX_WAITING_SPANS).build();
    let processor = BatchSpanProcessor::builder(target.exporter()).with_batch_config(batches).build();
    SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampler::ParentBased(Box::new(ratio.clone())))
        .build()
}

impl Telemetry {
    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Changes what is logged.
    ///
    /// # Errors
    /// Where the text is no level; then nothing changes.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        let filter = log_filter(level)?;
        // The handle outlives its layer only when the program ends.
        let _gone = self.0.level.reload(filter);
        Ok(())
    }

    /// Changes how many lines of one kind are written in a second.
    pub fn set_log_lines(&self, per_second: u32) {
        self.0.restraint.set(per_second);
    }

    /// Changes the share of traces that begin here and are kept.
    pub fn set_sample_rate(&self, rate: f64) {
        self.0.ratio.set(rate);
    }

    /// Changes where spans go. To be called in a Tokio runtime. One that cannot be used is logged, and the present one stays.
    pub fn set_otlp_endpoint(&self, endpoint: Option<&str>) {
        if let Err(reason) = self.0.target.set(endpoint) {
            tracing::warn!(endpoint, reason, "Traces cannot be exported there");
        }
    }

    /// Changes the file that lines also go to.
    ///
    /// # Errors
    /// Where it cannot be opened; the present one stays.
    pub fn set_file(&self, path: Option<PathBuf>) -> io::Result<()> {
        self.0.sink.set_file(path)
    }

    /// Why lines do not reach the file, while they do not.
    #[must_use]
    pub fn log_file_trouble(&self) -> watch::Receiver<Option<String>> {
        self.0.sink.trouble()
    }

    /// Opens the file anew, after it was moved away.
    ///
    /// # Errors
    /// Where it cannot be opened; the present one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        self.0.sink.reopen()
    }

    /// Sends what waits, for at most 3 s, and ends the export. Lines can still be logged after it.
    pub async fn shutdown(&self) {
        let provider = self.0.provider.clone();
        // It blocks, also on a runtime with one thread.
        let work = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT));
        match tokio::time::timeout(SHUTDOWN_TIMEOUT + EXPORT_DELAY, work).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!(%error, "Some spans were not exported"),
            Ok(Err(_)) | Err(_) => tracing::debug!("Some spans were not exported in time"),
        }
    }
}
