//! Why a bench gives no figures.

use std::io;

/// A bench that failed. It gives no figures then: a figure of wrong work is worse than none.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The operating system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What it says.
        source: io::Error,
    },
    /// What was measured did not do its work: it oversold, lost an answer, or never came up.
    #[error("{0}")]
    Wrong(String),
}

impl BenchError {
    /// Says of an error what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }

    /// Work that is wrong, as any part of the house says it.
    pub fn wrong(error: impl std::fmt::Display) -> Self {
        Self::Wrong(error.to_string())
    }
}

/// Fails with both numbers unless they are equal.
pub fn expect_equal(what: &str, found: u64, expected: u64) -> Result<(), BenchError> {
    if found == expected {
        return Ok(());
    }
    Err(BenchError::Wrong(format!("{what} is {found} where {expected} was expected")))
}
