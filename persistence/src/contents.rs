//! What a segment of the log holds, as far as it is known without reading it.
//!
//! Kept up to date with every change, and looked up once when a segment is opened of which nothing is known. Knows records only as far as
//! it needs their place and time.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use tidegate_stock::Timestamp;

use crate::record::{GroupSequence, LogIndex, RecordKey, RecordKind, StreamId, decode_value};
use crate::store::{LogStore, StoreError};

/// The place of an entry: its index and its sequence, as [`crate::SegmentInfo`] has them.
pub(crate) type Place = (LogIndex, GroupSequence);

/// What is known of a segment without reading.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Contents {
    /// Bytes of values that were appended, and what its file took when it was opened.
    pub(crate) taken_bytes: u64,
    /// `None` while it is empty.
    pub(crate) oldest_time: Option<Timestamp>,
    pub(crate) newest_time: Timestamp,
    /// The first entry of each stream that it holds.
    pub(crate) first: BTreeMap<StreamId, Place>,
    /// The last entry of each stream that it holds, of the same streams.
    pub(crate) last: BTreeMap<StreamId, Place>,
}

impl Contents {
    /// Takes note of an appended value.
    pub(crate) fn note(&mut self, key: RecordKey, value: &[u8]) {
        // What cannot be read stands for the beginning of everything; whoever reads it finds the damage.
        let header = decode_value(key, value).ok().map(|(header, _, _)| header);
        let (sequence, time) =
            header.map_or((GroupSequence(0), Timestamp::from_unix_ms(0)), |header| (header.sequence, header.time));
        let place = (key.index, sequence);
        self.first.entry(key.stream).and_modify(|first| *first = place.min(*first)).or_insert(place);
        self.last.entry(key.stream).and_modify(|last| *last = place.max(*last)).or_insert(place);
        // A vote has no time of its own, nor has an entry of a replicated log before its first group.
        if header.is_none_or(|header| header.kind != RecordKind::Vote && time > Timestamp::from_unix_ms(0)) {
            self.oldest_time = Some(self.oldest_time.map_or(time, |oldest| oldest.min(time)));
            self.newest_time = self.newest_time.max(time);
        }
    }

    /// Looks at the first and the last value of each stream.
    pub(crate) fn read(store: &dyn LogStore) -> Result<Self, StoreError> {
        let mut contents = Self::default();
        for stream in store.streams()? {
            let first = RecordKey { stream, index: LogIndex(0), part: 0 };
            for from in [Some(first), store.last_key(stream)?].into_iter().flatten() {
                store.scan(from, &mut |key, value| {
                    if let Some(key) = RecordKey::decode(key) {
                        contents.note(key, value);
                    }
                    ControlFlow::Break(())
                })?;
            }
        }
        Ok(contents)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// Whether it holds anything of `stream` from index `from` on.
    pub(crate) fn holds_from(&self, stream: StreamId, from: LogIndex) -> bool {
        self.last.get(&stream).is_some_and(|(last, _)| *last >= if mutant!(SegmentBorderLoses) { from.next() } else { from })
    }

    /// Whether all that it holds lies below `keep_from` of its stream.
    pub(crate) fn lies_below(&self, keep_from: &BTreeMap<StreamId, LogIndex>) -> bool {
        self.last.iter().all(|(stream, (last, _))| keep_from.get(stream).is_some_and(|keep| last < keep))
    }
}
