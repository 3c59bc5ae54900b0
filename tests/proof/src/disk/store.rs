//! The model disk: a log store that keeps every change in order, knows which of them are safe, writes down every call, and fails as it is
//! told to. Knows nothing of groups.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_persistence::record::KEY_BYTES;
use tidegate_persistence::store::Visit;
use tidegate_persistence::{Group, LogIndex, LogStore, RecordKey, StoreError, StreamId, WalWriter};

pub(crate) type Key = [u8; KEY_BYTES];

/// One change as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// What is put under the key; `None` removes what is there.
    pub(crate) value: Option<Arc<[u8]>>,
    /// Whether it is not what was written: torn, or with a bit flipped.
    pub(crate) is_bad: bool,
}

/// What a store makes of a bad change when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It has a checksum of its own, takes the first bad change for the end of what was written, and drops it with all that follows.
    Cuts,
    /// It does not notice, and serves it.
    Serves,
}

/// Which of the calls that change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Append,
    Remove,
    Flush,
    Sync,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Nothing of it happens.
    Nothing,
    /// Half of its first change reaches the disk.
    Torn,
    /// It happens, and says that it did not.
    Whole,
    /// Nothing of it happens, nor of anything after it: the disk is full.
    Full,
}

/// One call that fails, counted from 0 since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) call: usize,
    pub(crate) kind: FaultKind,
}

/// What happened, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A call came back.
    Called { call: Call, is_ok: bool, changes: usize, flushed: usize, synced: usize },
    /// The log has started.
    Started,
    /// A group and all before it were told as committed.
    Committed(StreamId, u64),
    /// The free space was told to be low, or no longer.
    Low(bool),
    /// The log told that it has failed.
    Failed(String),
    /// The sidecar was seen to have its n-th content.
    Sidecar(usize),
}

/// Groups that are handed over while a call takes long.
#[derive(Debug, Clone)]
pub(crate) struct Handover {
    /// Whether that is as early as the next append; otherwise it is the next sync or flush.
    pub(crate) at_append: bool,
    pub(crate) groups: Vec<(StreamId, Group)>,
}

struct Feed {
    writer: WalWriter,
    script: VecDeque<Handover>,
}

#[derive(Default)]
struct State {
    changes: Vec<Change>,
    visible: BTreeMap<Key, Arc<[u8]>>,
    flushed: usize,
    synced: usize,
    calls: usize,
    fault: Option<Fault>,
    is_full: bool,
    steps: Vec<Step>,
    feed: Option<Feed>,
    /// Values that can still be read before reading fails.
    readable: Option<usize>,
}

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// A disk on which `changes` lie, safe, opened by a store that makes `opening` of what is bad.
    pub(crate) fn holding(changes: &[Change], opening: Opening) -> Self {
        let kept = match opening {
            Opening::Serves => changes.len(),
            Opening::Cuts => changes.iter().position(|change| change.is_bad).unwrap_or(changes.len()),
        };
        let mut state = State { changes: changes[..kept].to_vec(), flushed: kept, synced: kept, ..State::default() };
        for change in &changes[..kept] {
            set(&mut state.visible, change);
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// Has one call fail.
    pub(crate) fn fail(&self, fault: Fault) {
        self.0.lock().fault = Some(fault);
    }

    /// Has reading fail after so many values.
    pub(crate) fn fail_reading_after(&self, values: usize) {
        self.0.lock().readable = Some(values);
    }

    /// Has `script` handed over, a piece at a time, by calls that take long.
    pub(crate) fn feed(&self, writer: WalWriter, script: VecDeque<Handover>) {
        self.0.lock().feed = Some(Feed { writer, script });
    }

    /// Lets go of the log that it feeds.
    pub(crate) fn unfeed(&self) {
        self.0.lock().feed = None;
    }

    /// Writes down that something happened beside the calls.
    pub(crate) fn note(&self, step: Step) {
        self.0.lock().steps.push(step);
    }

    /// Whether everything was handed over.
    pub(crate) fn is_fed(&self) -> bool {
        self.0.lock().feed.as_ref().is_none_or(|feed| feed.script.is_empty())
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.0.lock().steps.clone()
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.0.lock().changes.clone()
    }

    /// Removes the value under `key` alone, as a call of its own: for stores that remove in an order of their own.
    #[cfg(test)]
    pub(crate) fn forget(&self, key: RecordKey) -> Result<(), StoreError> {
        self.call(Call::Remove, vec![Change { key: key.encode(), value: None, is_bad: false }])
    }

    /// Does a call, or fails it, and writes it down.
    fn call(&self, call: Call, made: Vec<Change>) -> Result<(), StoreError> {
        let state = &mut *self.0.lock();
        let fault = state.fault.filter(|fault| fault.call == state.calls).map(|fault| fault.kind);
        state.calls += 1;
        state.is_full |= fault == Some(FaultKind::Full);
        let is_refused = state.is_full && call != Call::Flush;
        match fault {
            _ if is_refused => {}
            None | Some(FaultKind::Whole) => state.make(call, made),
            Some(FaultKind::Torn) => state.tear(made),
            Some(FaultKind::Nothing | FaultKind::Full) => {}
        }
        let is_ok = fault.is_none() && !is_refused;
        let (changes, flushed, synced) = (state.changes.len(), state.flushed, state.synced);
        state.steps.push(Step::Called { call, is_ok, changes, flushed, synced });
        state.hand_over(call);
        if is_refused {
            return Err(StoreError::Io(io::ErrorKind::StorageFull.into()));
        }
        if is_ok { Ok(()) } else { Err(StoreError::Io(io::Error::other("the disk was told to fail"))) }
    }
}

impl State {
    fn make(&mut self, call: Call, made: Vec<Change>) {
        for change in made {
            set(&mut self.visible, &change);
            self.changes.push(change);
        }
        if matches!(call, Call::Flush | Call::Sync) {
            self.flushed = self.changes.len();
        }
        if call == Call::Sync {
            self.synced = self.changes.len();
        }
    }

    /// Half of the first change reaches the disk; what is seen meanwhile does not change.
    fn tear(&mut self, made: Vec<Change>) {
        let Some(first) = made.into_iter().next() else { return };
        self.changes.push(torn(&first, first.value.as_ref().map_or(0, |value| value.len() / 2)));
    }

    fn hand_over(&mut self, call: Call) {
        let Some(feed) = &mut self.feed else { return };
        let is_due = |piece: &Handover| piece.at_append || call != Call::Append;
        if let Some(piece) = feed.script.pop_front_if(|piece| is_due(piece)) {
            for (stream, group) in piece.groups {
                feed.writer.append(stream, group);
            }
        }
    }
}

/// `change` of which only so many bytes of the value were written.
pub(crate) fn torn(change: &Change, bytes: usize) -> Change {
    Change { key: change.key, value: change.value.as_ref().map(|value| Arc::from(&value[..bytes])), is_bad: true }
}

fn set(visible: &mut BTreeMap<Key, Arc<[u8]>>, change: &Change) {
    match &change.value {
        Some(value) => visible.insert(change.key, Arc::clone(value)),
        None => visible.remove(&change.key),
    };
}

impl LogStore for Disk {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        self.call(Call::Append, vec![Change { key: key.encode(), value: Some(Arc::from(value)), is_bad: false }])
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        let to = RecordKey { index: to, part: u16::MAX, ..from };
        let mut keys: Vec<Key> = Vec::new();
        if from <= to {
            keys.extend(self.0.lock().visible.range(from.encode()..=to.encode()).rev().map(|(key, _)| *key));
        }
        let removed = keys.len() as u64;
        // One after the other, as a real store removes them: a crash may keep a part of it.
        self.call(Call::Remove, keys.into_iter().map(|key| Change { key, value: None, is_bad: false }).collect())?;
        Ok(removed)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.call(Call::Flush, Vec::new())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.call(Call::Sync, Vec::new())
    }

    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let to = RecordKey { stream: from.stream, index: LogIndex(u64::MAX), part: u16::MAX };
        let (mut values, readable) = {
            let state = self.0.lock();
            let range = state.visible.range(from.encode()..=to.encode());
            (range.map(|(key, value)| (*key, Arc::clone(value))).collect::<Vec<_>>().into_iter(), state.readable)
        };
        for (key, value) in values.by_ref().take(readable.unwrap_or(usize::MAX)) {
            if visit(&key, &value) == ControlFlow::Break(()) {
                return Ok(());
            }
        }
        match readable {
            Some(_) => Err(StoreError::Io(io::Error::other("the disk was told to fail reading"))),
            None => Ok(()),
        }
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        let from = RecordKey { stream, index: LogIndex(0), part: 0 };
        let to = RecordKey { stream, index: LogIndex(u64::MAX), part: u16::MAX };
        let state = self.0.lock();
        Ok(state.visible.range(from.encode()..=to.encode()).next_back().and_then(|(key, _)| RecordKey::decode(key)))
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        let state = self.0.lock();
        let mut streams: Vec<_> = state.visible.keys().filter_map(|key| RecordKey::decode(key)).map(|key| key.stream).collect();
        streams.dedup();
        Ok(streams)
    }
}
