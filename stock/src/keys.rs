//! The idempotency table: which keys were used for what, and until when that is remembered. A key costs about 110 bytes.

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::slab::Queue;
use crate::values::{Fingerprint, Idempotency, Timestamp};

/// Maps that the entries are spread over by fingerprint: each grows by itself, so that one growth moves one part in 256.
const PARTS: usize = 256;

/// A key within the name space of its stock.
type ScopedKey = (u32, Fingerprint);

/// What a key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub(crate) request: Fingerprint,
    /// The reservation that it granted or changed.
    pub(crate) reservation: u32,
    /// Whether it granted it: its answer is then 201 and not 200.
    pub(crate) created: bool,
    pub(crate) at: Timestamp,
}

/// What to put back when the newest entry is undone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyInverse {
    scoped: ScopedKey,
    replaced: Option<KeyEntry>,
}

#[derive(Debug)]
pub(crate) struct KeyTable {
    parts: Box<[HashMap<ScopedKey, KeyEntry, FixedState>]>,
    length: usize,
    /// In the order of use, which is the order of time.
    oldest: Queue<(Timestamp, ScopedKey)>,
    remembered_ms: u64,
    /// The latest time that [`Self::forget`] was given.
    committed: Timestamp,
}

impl KeyTable {
    pub(crate) fn new(seed: u64, remembered_seconds: u32) -> Self {
        Self {
            parts: (0..PARTS).map(|_| HashMap::with_hasher(FixedState::with_seed(seed))).collect(),
            length: 0,
            oldest: Queue::new(),
            remembered_ms: u64::from(remembered_seconds) * 1_000,
            committed: Timestamp::default(),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// Whether there is an entry whose time is over at `now`: one that is only waiting to be forgotten.
    pub(crate) fn has_spare(&self, now: Timestamp) -> bool {
        self.oldest.front().is_some_and(|(at, _)| self.is_over(*at, now))
    }

    /// The entry of `key` if it is still remembered at `now`. Whether [`Self::forget`] has run makes no difference to the answer.
    pub(crate) fn get(&self, stock: u32, key: Fingerprint, now: Timestamp) -> Option<&KeyEntry> {
        let scoped = (stock, key);
        self.parts[part(scoped)].get(&scoped).filter(|entry| !self.is_over(entry.at, now))
    }

    pub(crate) fn insert(
        &mut self,
        stock: u32,
        idempotency: Idempotency,
        reservation: u32,
        created: bool,
        at: Timestamp,
    ) -> KeyInverse {
        let scoped = (stock, idempotency.key);
        let replaced = self.put(scoped, KeyEntry { request: idempotency.request, reservation, created, at });
        self.oldest.push_back((at, scoped));
        KeyInverse { scoped, replaced }
    }

    pub(crate) fn undo(&mut self, inverse: KeyInverse) {
        // An entry that was over at a committed time may be forgotten already, and nobody can ask for it again: put back, it would stay.
        match inverse.replaced.filter(|entry| !self.is_over(entry.at, self.committed)) {
            Some(entry) => self.put(inverse.scoped, entry),
            None => self.take(inverse.scoped),
        };
        let newest = self.oldest.pop_back();
        debug_assert_eq!(newest.map(|(_, scoped)| scoped), Some(inverse.scoped));
    }

    /// Drops up to `limit` entries that are no longer remembered at `committed`, which no undo may reach behind.
    pub(crate) fn forget(&mut self, committed: Timestamp, limit: usize) {
        self.committed = self.committed.max(committed);
        for _ in 0..limit {
            let Some((at, scoped)) = self.oldest.front().copied().filter(|(at, _)| self.is_over(*at, committed)) else { return };
            // A key used again after its time has a newer entry, which stays.
            if self.parts[part(scoped)].get(&scoped).is_some_and(|entry| entry.at == at) {
                self.take(scoped);
            }
            self.oldest.pop_front();
        }
    }

    fn put(&mut self, scoped: ScopedKey, entry: KeyEntry) -> Option<KeyEntry> {
        let replaced = self.parts[part(scoped)].insert(scoped, entry);
        self.length += usize::from(replaced.is_none());
        replaced
    }

    fn take(&mut self, scoped: ScopedKey) -> Option<KeyEntry> {
        let taken = self.parts[part(scoped)].remove(&scoped);
        self.length -= usize::from(taken.is_some());
        taken
    }

    const fn is_over(&self, at: Timestamp, now: Timestamp) -> bool {
        now.unix_ms() >= at.unix_ms().saturating_add(self.remembered_ms)
    }
}

/// Fingerprints are keyed hashes, so any of their bits spread evenly.
const fn part(scoped: ScopedKey) -> usize {
    (scoped.1.0 & (PARTS as u128 - 1)) as usize
}
