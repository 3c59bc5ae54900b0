//! The narrow door between the log and whatever keeps it: ordered keys, opaque values, and three depths of safety.
//!
//! Implemented by sled, by memory, and by stores that fail on purpose. Knows nothing of records, groups or streams' meaning.

use std::io;
use std::ops::ControlFlow;

use crate::record::{RecordKey, StreamId};

/// Why a store could not do what it was asked. The store must not be used for writing afterwards.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system failed.
    #[error("log store failed: {0}")]
    Io(#[from] io::Error),
    /// The store's own files contradict themselves.
    #[error("log store is damaged: {0}")]
    Damaged(String),
}

/// What a scan does with a key and its value. The key's bytes are as found, well-formed or not.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// An ordered store of log values. One thread writes; any number may scan meanwhile.
///
/// Changes become visible to scans at once and are safe in the order in which they were made: what survives a crash is always a prefix
/// of them, at least up to the last [`LogStore::flush`] for a crash of the process, up to the last [`LogStore::sync`] for one of the machine.
pub trait LogStore: Send + Sync {
    /// Puts `value` under `key`, replacing what is there. Not durable at return.
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError>;

    /// Removes everything of `from.stream` from `from` on, up to and including index `to`. Returns how many values went. Not durable at return.
    fn remove(&self, from: RecordKey, to: crate::record::LogIndex) -> Result<u64, StoreError>;

    /// Waits until everything so far survives the end of this process.
    fn flush(&self) -> Result<(), StoreError>;

    /// Waits until everything so far survives a loss of power.
    fn sync(&self) -> Result<(), StoreError>;

    /// Visits the values of `from.stream` from `from` on in the order of their keys, until the visitor breaks.
    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError>;

    /// The last key of `stream`, if it holds any.
    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError>;

    /// The streams that hold a value, in order.
    fn streams(&self) -> Result<Vec<StreamId>, StoreError>;
}
