//! The program's own log: where it goes, how it looks, what is worth saying. The door of tracing-subscriber.
//!
//! A JSON line is one object: `timestamp` (RFC 3339, UTC), `level`, `target`, `message`, the fields of the event beside them, and `span`
//! with its `name` and fields where there is one. What is said of a request carries its `trace_id` among its fields.

use std::io::{self, IsTerminal};

use tidegate_config::{LogFormat, OutputSettings};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::log_lines::LogLines;
use crate::telemetry::Telemetry;

/// The filter is none.
#[derive(Debug, thiserror::Error)]
#[error("output.filter is {given} where a level such as info, or a list such as warn,tidegate_engine=debug, is needed")]
pub(crate) struct FilterError {
    given: String,
    source: ParseError,
}

/// Sends the log of the whole process to the standard error. Called once, before any thread is started.
pub(crate) fn start(settings: &OutputSettings) -> Result<(), FilterError> {
    // For the whole subscriber, so that what nobody listens to costs one look.
    tracing_subscriber::registry().with(filter(settings)?).with(layer(settings, io::stderr)).init();
    Ok(())
}

/// As [`start`], by way of `lines`; and the spans of requests to `telemetry`, whatever is worth saying in the log.
pub(crate) fn start_serving(settings: &OutputSettings, lines: &LogLines, telemetry: Option<&Telemetry>) -> Result<(), FilterError> {
    let filter = filter(settings)?;
    match telemetry {
        Some(telemetry) => {
            let lines = layer(settings, lines.clone()).with_filter(filter);
            tracing_subscriber::registry().with(lines).with(telemetry.layer()).init();
        }
        None => tracing_subscriber::registry().with(filter).with(layer(settings, lines.clone())).init(),
    }
    Ok(())
}

/// Foreign crates, of which only what is wrong is worth saying; whoever wants more names them in the filter.
const FOREIGN: &str = "fjall=warn,lsm_tree=warn,openraft=warn,sled=warn";

fn filter(settings: &OutputSettings) -> Result<EnvFilter, FilterError> {
    // Alone first, so that an error shows what was given.
    let given = EnvFilter::try_new(&settings.filter).map_err(|source| FilterError { given: settings.filter.clone(), source })?;
    Ok(EnvFilter::try_new(format!("{FOREIGN},{}", settings.filter)).unwrap_or(given))
}

/// What writes lines to `output`.
fn layer<S, W>(settings: &OutputSettings, output: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(output);
    match settings.format {
        LogFormat::Human => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    }
}
