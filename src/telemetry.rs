//! Traces: which spans are kept, how they wait, and how they reach a collector. The door of opentelemetry, and of the client that talks
//! to the collector.
//!
//! A request's thread at most puts a finished span into a bounded queue; where that is full the span is dropped and counted. Everything
//! else happens on one thread of the exporter's own, so a collector that is slow or gone delays nobody.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tidegate_api::REQUEST_SPAN_TARGET;
use tidegate_config::{CollectorUrl, TelemetrySettings};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use ureq::Agent;

/// Spans that may wait for the collector or be on their way to it; more are dropped.
const QUEUE_SPANS_MAX: usize = 4_096;

/// Most spans in one request to the collector.
const BATCH_SPANS_MAX: usize = 512;

/// Longest time that a span waits for others to be sent with.
const BATCH_WAIT_MAX: Duration = Duration::from_secs(1);

/// Longest time for one request to the collector, from looking up its name to the end of its answer.
const EXPORT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Longest time that the last spans get at the end.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(3);

/// Largest answer of a collector that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Shortest time between two lines in the log that say that spans cannot be sent.
const FAILURE_TOLD_EVERY: Duration = Duration::from_mins(1);

const _: () = assert!(BATCH_SPANS_MAX < QUEUE_SPANS_MAX);
// An export that hangs when the end begins still leaves time for another.
const _: () = assert!(EXPORT_WAIT_MAX.as_millis() < FLUSH_WAIT_MAX.as_millis());

/// Traces cannot be sent as the settings ask.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be sent to telemetry.otlp_endpoint at {endpoint}")]
pub(crate) struct TelemetryError {
    endpoint: CollectorUrl,
    source: ExporterBuildError,
}

/// The export of traces, from its start to its last flush.
#[derive(Debug)]
pub(crate) struct Telemetry {
    provider: SdkTracerProvider,
    counts: Arc<Counts>,
}

impl Telemetry {
    /// Starts the exporter's thread if there is a collector; nothing is sent before there is a span. `None` where there is no collector:
    /// then no span is ever made for one.
    pub(crate) fn start(settings: &TelemetrySettings) -> Result<Option<Self>, TelemetryError> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.traces())
            .with_timeout(EXPORT_WAIT_MAX)
            .with_http_client(Collector::new())
            .build()
            .map_err(|source| TelemetryError { endpoint: endpoint.clone(), source })?;
        let counts = Arc::new(Counts::default());
        let exporter = CountedExporter { exporter, counts: Arc::clone(&counts), told_at: Mutex::new(None) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_WAIT_MAX)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let resource = Resource::builder()
            .with_service_name(settings.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BoundedProcessor { processor, counts: Arc::clone(&counts) })
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio.get()))))
            .with_resource(resource)
            .build();
        Ok(Some(Self { provider, counts }))
    }

    /// What takes the spans of requests, and nothing else, out of everything that the program says.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("tidegate"))
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == REQUEST_SPAN_TARGET))
    }

    /// Adds its counters to `registry`.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("trace_spans", "Spans for the collector, by what became of them", self.counts.spans.clone());
    }

    /// Sends what still waits. Blocks, [`FLUSH_WAIT_MAX`] at the longest; what is not sent by then is lost.
    pub(crate) fn stop(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FLUSH_WAIT_MAX) {
            tracing::warn!(%error, spans = self.counts.waiting.load(Ordering::Relaxed), "the last spans may not have reached the collector");
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SpanLabels {
    outcome: &'static str,
}

/// What becomes of spans.
#[derive(Debug)]
struct Counts {
    /// In the queue, or on their way to the collector.
    waiting: AtomicUsize,
    spans: Family<SpanLabels, Counter>,
    exported: Counter,
    failed: Counter,
    dropped: Counter,
}

impl Default for Counts {
    fn default() -> Self {
        let spans = Family::default();
        let counter = |outcome| spans.get_or_create_owned(&SpanLabels { outcome });
        let (exported, failed, dropped) = (counter("exported"), counter("failed"), counter("dropped"));
        Self { waiting: AtomicUsize::new(0), spans, exported, failed, dropped }
    }
}

/// The queue's bound. The batch processor has one too, but does not tell what it drops.
#[derive(Debug)]
struct BoundedProcessor {
    processor: BatchSpanProcessor,
    counts: Arc<Counts>,
}

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        let admitted = self
            .counts
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| (waiting < QUEUE_SPANS_MAX).then_some(waiting + 1));
        match admitted {
            // Whoever is in the processor's own queue is counted here, so that queue never overflows.
            Ok(_) => self.processor.on_end(span),
            Err(_) => {
                self.counts.dropped.inc();
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// Sends batches and says what became of them.
#[derive(Debug)]
struct CountedExporter {
    exporter: OtlpExporter,
    counts: Arc<Counts>,
    told_at: Mutex<Option<Instant>>,
}

impl CountedExporter {
    /// Tells of a failure, unless one was told a moment ago.
    fn tell(&self, error: &OTelSdkError) {
        let mut told_at = self.told_at.lock();
        if told_at.is_none_or(|told_at| told_at.elapsed() >= FAILURE_TOLD_EVERY) {
            *told_at = Some(Instant::now());
            tracing::warn!(%error, failed = self.counts.failed.get(), "spans could not be sent to the collector");
        }
    }
}

impl SpanExporter for CountedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        match &result {
            Ok(()) => {
                self.counts.exported.inc_by(spans as u64);
            }
            Err(error) => {
                self.counts.failed.inc_by(spans as u64);
                self.tell(error);
            }
        }
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The way to the collector: one request at a time, on the thread that asks.
struct Collector(Agent);

impl Collector {
    fn new() -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(EXPORT_WAIT_MAX))
            // Statuses are for the exporter to judge, and spans go where the settings say and nowhere else.
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build();
        Self(config.into())
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Collector")
    }
}

#[async_trait]
impl HttpClient for Collector {
    /// Blocks the exporter's thread, which has nothing else to do.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.0.run(Request::from_parts(head, body.to_vec()))?.into_parts();
        let body = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, body.into()))
    }
}
