//! Spans out by OTLP, to an address that can be changed while the program runs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

/// A collector that does not answer is given up after this, so that the queue moves on.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(3);

/// A collector that stays away is mentioned again after so many batches: at one in five seconds, every half hour.
const SAY_AGAIN: u64 = 360;

/// Where spans go at present.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    resource: Resource,
    present: Arc<Mutex<Present>>,
}

#[derive(Debug, Default)]
struct Present {
    endpoint: Option<String>,
    exporter: Option<Arc<OtlpExporter>>,
}

/// Hands spans to the present target; drops them where there is none.
#[derive(Debug)]
pub(crate) struct LiveExporter {
    target: Target,
    /// Batches that were lost since the last one that arrived.
    lost: AtomicU64,
}

impl Target {
    pub(crate) fn new(resource: Resource) -> Self {
        Self { resource, present: Arc::default() }
    }

    pub(crate) fn exporter(&self) -> LiveExporter {
        LiveExporter { target: self.clone(), lost: AtomicU64::new(0) }
    }

    /// Changes it. Must be called in a Tokio runtime, which carries the calls.
    pub(crate) fn set(&self, endpoint: Option<&str>) -> Result<(), String> {
        let endpoint = endpoint.map(str::trim).filter(|endpoint| !endpoint.is_empty());
        if self.lock().endpoint.as_deref() == endpoint {
            return Ok(());
        }
        let exporter = endpoint.map(|endpoint| self.build(endpoint)).transpose()?;
        *self.lock() = Present { endpoint: endpoint.map(str::to_owned), exporter: exporter.map(Arc::new) };
        Ok(())
    }

    fn build(&self, endpoint: &str) -> Result<OtlpExporter, String> {
        // The exporter panics where there is no runtime.
        let _runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
        let builder = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIMEOUT);
        let mut exporter = builder.build().map_err(|error| error.to_string())?;
        exporter.set_resource(&self.resource);
        Ok(exporter)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpanExporter for LiveExporter {
    /// A collector that is away is no error of ours: said once, then rarely, and the spans are dropped.
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = self.target.lock().exporter.clone();
        let Some(exporter) = exporter else { return Ok(()) };
        match exporter.export(batch).await {
            Ok(()) => {
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::info!(
                        component = "telemetry",
                        batches_lost = lost,
                        "Traces arrive at the collector again"
                    );
                }
            }
            Err(error) => {
                let lost = self.lost.fetch_add(1, Ordering::Relaxed);
                if lost.is_multiple_of(SAY_AGAIN) {
                    let batches_lost = lost.saturating_add(1);
                    tracing::warn!(component = "telemetry", %error, batches_lost, "Traces do not arrive at the OTLP collector");
                }
            }
        }
        Ok(())
    }
}
