//! A store in memory that knows what a crash would leave of it. For tests and benches.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::record::{KEY_BYTES, LogIndex, RecordKey, StreamId};
use crate::store::{LogStore, StoreError, Visit};

type Key = [u8; KEY_BYTES];

/// A log store in memory. Clones share it, so a test can look at it, and crash it, while the log writes to it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a scan sees.
    visible: BTreeMap<Key, Vec<u8>>,
    /// What survives a loss of power.
    synced: BTreeMap<Key, Vec<u8>>,
    /// Changes since the last sync, oldest first; `None` removes.
    unsynced: Vec<(Key, Option<Vec<u8>>)>,
    /// How many of those survive the end of the process.
    flushed: usize,
    syncs: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses the power: forgets all changes since the last sync but the first `kept`. Returns how many there were.
    pub fn crash(&self, kept: usize) -> usize {
        let state = &mut *self.0.lock();
        let unsynced = std::mem::take(&mut state.unsynced);
        let lost = unsynced.len();
        for (key, value) in unsynced.into_iter().take(kept) {
            set(&mut state.synced, key, value);
        }
        state.visible.clone_from(&state.synced);
        state.flushed = 0;
        lost
    }

    /// Kills the process: forgets all changes since the last flush.
    pub fn kill(&self) {
        let state = &mut *self.0.lock();
        state.unsynced.truncate(state.flushed);
        state.visible.clone_from(&state.synced);
        for (key, value) in &state.unsynced {
            set(&mut state.visible, *key, value.clone());
        }
    }

    /// How often [`LogStore::sync`] was called.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }
}

impl State {
    fn change(&mut self, key: Key, value: Option<Vec<u8>>) {
        set(&mut self.visible, key, value.clone());
        self.unsynced.push((key, value));
    }
}

fn set(map: &mut BTreeMap<Key, Vec<u8>>, key: Key, value: Option<Vec<u8>>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

const fn last_of(stream: StreamId) -> RecordKey {
    RecordKey { stream, index: LogIndex(u64::MAX), part: u16::MAX }
}

const fn first_of(stream: StreamId) -> RecordKey {
    RecordKey { stream, index: LogIndex(0), part: 0 }
}

impl LogStore for MemoryStore {
    fn append(&self, key: RecordKey, value: &[u8]) -> Result<(), StoreError> {
        self.0.lock().change(key.encode(), Some(value.to_vec()));
        Ok(())
    }

    fn remove(&self, from: RecordKey, to: LogIndex) -> Result<u64, StoreError> {
        let to = RecordKey { index: to, part: u16::MAX, ..from };
        if from > to {
            return Ok(0);
        }
        let mut state = self.0.lock();
        let keys: Vec<Key> = state.visible.range(from.encode()..=to.encode()).rev().map(|(key, _)| *key).collect();
        for key in &keys {
            state.change(*key, None);
        }
        Ok(keys.len() as u64)
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut state = self.0.lock();
        state.flushed = state.unsynced.len();
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        let state = &mut *self.0.lock();
        for (key, value) in state.unsynced.drain(..) {
            set(&mut state.synced, key, value);
        }
        state.flushed = 0;
        state.syncs += 1;
        Ok(())
    }

    fn scan(&self, from: RecordKey, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut next = from.encode();
        // The visitor runs without the lock, so it may use the store.
        loop {
            let found = {
                let state = self.0.lock();
                state.visible.range(next..=last_of(from.stream).encode()).next().map(|(key, value)| (*key, value.clone()))
            };
            let Some((key, value)) = found else { return Ok(()) };
            if visit(&key, &value) == ControlFlow::Break(()) || key == last_of(from.stream).encode() {
                return Ok(());
            }
            next = successor(key);
        }
    }

    fn last_key(&self, stream: StreamId) -> Result<Option<RecordKey>, StoreError> {
        let state = self.0.lock();
        let mut range = state.visible.range(first_of(stream).encode()..=last_of(stream).encode());
        Ok(range.next_back().and_then(|(key, _)| RecordKey::decode(key)))
    }

    fn streams(&self) -> Result<Vec<StreamId>, StoreError> {
        let mut streams: Vec<_> =
            self.0.lock().visible.keys().filter_map(|key| RecordKey::decode(key)).map(|key| key.stream).collect();
        streams.dedup();
        Ok(streams)
    }
}

/// The key that follows `key` directly; `key` is not the last there can be.
fn successor(mut key: Key) -> Key {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    key
}
