//! Why a snapshot is not made.

use std::io;

use tidegate_cluster::SnapshotFileError;
use tidegate_engine::CopyGivenUp;
use tidegate_persistence::{HistoryError, ReadError, SnapshotError, WalError};

/// Why a snapshot was not made. What there was before is as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotFailure {
    /// The shard is stopping, its log has failed, or it could not keep a copy for so slow a disk.
    #[error(transparent)]
    GivenUp(#[from] CopyGivenUp),
    /// It would leave less free space than `log.disk_free_bytes_min`.
    #[error("the disk has {free} free bytes, and {needed} are needed to leave log.disk_free_bytes_min beside the snapshot")]
    DiskLow {
        /// Free bytes.
        free: u64,
        /// What is still to be written, roughly, and what must be left.
        needed: u64,
    },
    /// The free space of the disk is unknown.
    #[error("the free space of the disk is unknown: {0}")]
    FreeSpace(#[source] io::Error),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The log could not be made durable.
    #[error(transparent)]
    Sync(#[from] WalError),
    /// The file could not be written.
    #[error(transparent)]
    File(#[from] SnapshotError),
    /// What other members need of it cannot be had.
    #[error(transparent)]
    Member(#[from] SnapshotFileError),
    /// The history could not be made durable.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The upkeep has stopped.
    #[error("the node is stopping")]
    Stopped,
}
