//! Why the rig itself could not go on. A promise that was not kept is no error of the rig: it is what it looks for.

use std::io;
use std::path::Path;

/// Why the rig could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RigError {
    /// It was told to stop.
    #[error("stopped by a signal")]
    Interrupted,
    /// A program failed.
    #[error("{command}: {what}")]
    Command { command: String, what: String },
    /// The operating system failed.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The file system still took a file after it was shut down, so nothing was cut.
    #[error("the file system was not cut")]
    NotCut,
    /// The node cannot be had.
    #[error(transparent)]
    Node(#[from] tidegate_witness::node::NodeError),
}

impl RigError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = path.display().to_string();
        move |source| Self::Io { what, source }
    }
}
