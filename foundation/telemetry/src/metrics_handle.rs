//! Metrics: the recorder, its buckets, and what it renders.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{sync::Mutex, time::Sleep};

use crate::process_metrics;

/// Classic buckets by how a histogram's name ends, the longest ending first. A name that ends otherwise gets the seconds.
const BUCKETS: [(&str, &[f64]); 4] = [
    ("_connection_duration_seconds", &LONG_SECONDS),
    ("_transfer_duration_seconds", &LONG_SECONDS),
    ("_bytes", &BYTES),
    ("_seconds", &SECONDS),
];
/// 1 ms to 30 s: calls.
const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0];
/// 0.1 s to an hour: connections and transfers.
const LONG_SECONDS: [f64; 10] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0];
/// 1 KiB to 1 TiB.
const BYTES: [f64; 8] =
    [1024.0, 16_384.0, 262_144.0, 4_194_304.0, 67_108_864.0, 1_073_741_824.0, 17_179_869_184.0, 1_099_511_627_776.0];

/// How often what histograms gathered is folded into their buckets, so that it does not pile up where nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long after one page of metrics the next one is made at the soonest: it costs milliseconds, and whoever may ask may ask often.
const PAGE_GAP: Duration = Duration::from_millis(50);

/// The metrics of a program. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    handle: PrometheusHandle,
    /// How many pages were begun.
    begun: AtomicU64,
    newest: Mutex<Page>,
}

/// What is shown to all who asked before it was begun.
#[derive(Default)]
struct Page {
    number: u64,
    text: Arc<str>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("begun", &self.begun).finish_non_exhaustive()
    }
}

/// Ends the upkeep when dropped.
#[derive(Debug)]
pub(crate) struct Upkeep(#[allow(dead_code, reason = "dropping it ends the thread")] SyncSender<()>);

impl Metrics {
    /// All metrics in Prometheus's text format, those of the process among them.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = self.0.handle.render();
        process_metrics::render(&mut out);
        out
    }

    /// The same for a port: true at some time after it was asked for. Who asks meanwhile gets the same page, so that any number of callers
    /// costs as much as one who asks all the time. Cancel safe.
    pub async fn page(&self) -> Arc<str> {
        let known = self.0.begun.load(Ordering::SeqCst);
        let mut page = self.0.newest.lock().await;
        if page.number > known {
            return Arc::clone(&page.text);
        }
        if let Some(rest) = page.rest.as_mut() {
            rest.await;
        }
        page.number = self.0.begun.fetch_add(1, Ordering::SeqCst) + 1;
        page.text = self.render().into();
        page.rest = Some(Box::pin(tokio::time::sleep(PAGE_GAP)));
        Arc::clone(&page.text)
    }

    /// Makes the recorder the program's; `besides` is done with its upkeep.
    pub(crate) fn install(besides: impl Fn() + Send + 'static) -> Result<(Self, Upkeep), String> {
        let mut builder = PrometheusBuilder::new().set_buckets(&SECONDS).map_err(|error| error.to_string())?;
        for (ending, buckets) in BUCKETS {
            let matcher = Matcher::Suffix(ending.to_owned());
            builder = builder.set_buckets_for_metric(matcher, buckets).map_err(|error| error.to_string())?;
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
        crate::requests::describe();
        let inner = Inner { handle: handle.clone(), begun: AtomicU64::new(0), newest: Mutex::default() };
        Ok((Self(Arc::new(inner)), upkeep(handle, besides)?))
    }
}

fn upkeep(handle: PrometheusHandle, besides: impl Fn() + Send + 'static) -> Result<Upkeep, String> {
    let (stop, stopped) = sync_channel::<()>(0);
    let work = move || {
        while stopped.recv_timeout(UPKEEP_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            handle.run_upkeep();
            besides();
        }
    };
    thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(work).map_err(|error| error.to_string())?;
    Ok(Upkeep(stop))
}

#[cfg(test)]
mod tests {
    use metrics::{Key, Level, Metadata, Recorder as _};

    use super::*;

    #[tokio::test]
    async fn a_page_is_newer_than_the_question_and_one_for_all_who_ask_meanwhile() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let (begun, newest) = (AtomicU64::new(0), Mutex::default());
        let metrics = Metrics(Arc::new(Inner { handle: recorder.handle(), begun, newest }));
        let counter = recorder.register_counter(&Key::from_name("asked"), &Metadata::new("", Level::INFO, None));
        for number in 1..=3 {
            counter.absolute(number);
            let asked: Vec<_> = (0..1000)
                .map(|_| {
                    let metrics = metrics.clone();
                    #[allow(clippy::disallowed_methods, reason = "ended below")]
                    tokio::spawn(async move { metrics.page().await })
                })
                .collect();
            for page in asked {
                assert!(page.await.unwrap().contains(&format!("asked {number}")));
            }
        }
        let made = metrics.0.begun.load(Ordering::SeqCst);
        assert!(made <= 6, "{made} pages for 3000 questions");
    }
}
