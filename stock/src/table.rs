//! Indexes from a key to a slot. They store the slot alone (the key stands in the record), and hash with a seed that callers cannot
//! know, so that chosen names cannot make them slow. The door of hashbrown and foldhash.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::FixedState;
use hashbrown::HashTable;

/// Tables that an index is split into by the top bits of the hash: each grows by itself, so that one growth moves one part in 256.
const PARTS: usize = 256;

/// An index of slots. The caller says what a slot's key is; the same key must always hash alike.
#[derive(Debug)]
pub(crate) struct SlotTable {
    parts: Box<[HashTable<u32>]>,
    seed: FixedState,
}

impl SlotTable {
    pub(crate) fn new(seed: u64) -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect(), seed: FixedState::with_seed(seed) }
    }

    pub(crate) fn hash<K: Hash>(&self, key: &K) -> u64 {
        self.seed.hash_one(key)
    }

    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.parts[part(hash)].find(hash, |slot| is_it(*slot)).copied()
    }

    /// Adds `slot` under `hash`; `hash_of` gives the hash of any slot that is already there.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, hash_of: impl Fn(&FixedState, u32) -> u64) {
        let Self { parts, seed } = self;
        parts[part(hash)].insert_unique(hash, slot, |other| hash_of(seed, *other));
    }

    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        if let Ok(entry) = self.parts[part(hash)].find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
    }
}

/// The hash of `key` as [`SlotTable::hash`] gives it, for use while the table itself is borrowed.
pub(crate) fn hash_with<K: Hash>(seed: &FixedState, key: &K) -> u64 {
    seed.hash_one(key)
}

const fn part(hash: u64) -> usize {
    // hashbrown takes its control bits from the very top and its position from the bottom; these lie between.
    ((hash >> 44) & (PARTS as u64 - 1)) as usize
}
