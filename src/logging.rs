//! The program's own log: where it goes, how it looks, what is worth saying. The door of tracing-subscriber.

use std::io::{self, IsTerminal};

use tidegate_config::{LogFormat, OutputSettings};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The filter is none.
#[derive(Debug, thiserror::Error)]
#[error("output.filter is {given} where a level such as info, or a list such as warn,tidegate_engine=debug, is needed")]
pub(crate) struct FilterError {
    given: String,
    source: ParseError,
}

/// Sends the log of the whole process to the standard error. Called once, before any thread is started.
pub(crate) fn start(settings: &OutputSettings) -> Result<(), FilterError> {
    let filter = EnvFilter::try_new(&settings.filter).map_err(|source| FilterError { given: settings.filter.clone(), source })?;
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    match settings.format {
        LogFormat::Human => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
