//! The narrow door between the log and whatever keeps it: ordered keys, opaque values, and three depths of safety.
//!
//! Implemented by sled, by a row of sled's stores, by memory, and by stores that fail on purpose. Knows nothing of what groups mean.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use tidegate_stock::Timestamp;

use crate::record::{GroupSequence, LogIndex, RecordKey, StreamId};

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

/// What one piece of a log that is made of pieces holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number; they follow each other without a gap, from 1 as long as nothing was compacted.
    pub number: u64,
    /// Bytes that its store took on the disk at the last sync, roughly.
    pub bytes_on_disk: u64,
    /// The time of its oldest entry; 0 while it is empty.
    pub oldest_time: Timestamp,
    /// The time of its newest entry; 0 while it is empty.
    pub newest_time: Timestamp,
    /// The first entry of each stream that it holds. An entry that is no group has the sequence of the last group before it.
    pub first: BTreeMap<StreamId, (LogIndex, GroupSequence)>,
    /// The last entry of each stream that it holds, committed or not.
    pub last: BTreeMap<StreamId, (LogIndex, GroupSequence)>,
}

/// What a compaction gave back to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Segments that are gone.
    pub segments: u64,
    /// Bytes that they took on the disk.
    pub bytes: u64,
}

/// An ordered store of log values. One thread writes; any number may scan meanwhile.
///
/// Changes become visible to scans at once and are safe in the order in which they were made: what survives a crash is always a prefix
/// of them, at least up to the last [`LogStore::flush`] for a crash of the process, up to the last [`LogStore::sync`] for one of the machine.
pub trait LogStore: Send + Sync {
    /// Puts `value` under `key`, replacing what is there. Not durable at return.
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError>;

    /// Removes everything of `from.stream` from `from` on, up to and including index `to`. Returns how many values went. Not durable at return.
    ///
    /// The last goes first, so that a crash in between leaves the beginning, and no hole in front of what is left.
    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError>;

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

    /// Tells the store that everything appended so far is whole groups, so that one that is made of pieces may go on in its next. Called
    /// by the thread that writes, often; never waits for anything slow but a sync of what was not synced. A store in one piece does nothing.
    fn between_groups(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Its pieces, oldest first; none for a store in one piece. Reads nothing from the disk.
    fn segments(&self) -> Vec<SegmentInfo> {
        Vec::new()
    }

    /// The newest entry of `stream` that is known without reading and does not lie behind group `sequence`, or else the oldest known.
    fn entry_near(&self, stream: StreamId, sequence: GroupSequence) -> Option<(LogIndex, GroupSequence)> {
        let _ = (stream, sequence);
        None
    }

    /// Removes pieces, oldest first, whose entries all lie below `keep_from` of their stream; a stream that is not named keeps everything.
    /// Never removes the piece that is being written. A store in one piece removes nothing.
    ///
    /// May be called on any thread but never from within a visitor. At return the removal survives a loss of power; an error leaves a
    /// store that opens, and the rest to the next call.
    fn compact(&self, keep_from: &BTreeMap<StreamId, LogIndex>) -> Result<Compacted, StoreError> {
        let _ = keep_from;
        Ok(Compacted::default())
    }
}
