//! Indexes from a key to a slot. An index keeps 32 bits of the key's hash beside the slot and nothing else of the key, which stands in
//! the record; so growing it touches no record, and a look-up touches hardly any but the right one. Hashes are seeded with what callers
//! cannot know, so that chosen names cannot make them slow. With `keys.rs` and `audit.rs` the door of hashbrown and foldhash.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::FixedState;
use hashbrown::HashTable;

/// Tables that an index is split into by hash: each grows by itself, so that one growth moves one part in 256.
const PARTS: usize = 256;

/// An index of slots. The caller says which record a slot is; the same key must always hash alike.
#[derive(Debug)]
pub(crate) struct SlotTable {
    parts: Box<[HashTable<Entry>]>,
    seed: FixedState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    hash: KeyHash,
    slot: u32,
}

/// The part of a key's hash that an index keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHash(u32);

impl KeyHash {
    /// As wide as the tables want it: they place by the lowest bits and tell apart by the highest.
    const fn spread(self) -> u64 {
        (self.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    const fn part(self) -> usize {
        (self.spread() >> 32) as usize % PARTS
    }
}

impl SlotTable {
    pub(crate) fn new(seed: u64) -> Self {
        Self { parts: (0..PARTS).map(|_| HashTable::new()).collect(), seed: FixedState::with_seed(seed) }
    }

    pub(crate) fn hash<K: Hash>(&self, key: &K) -> KeyHash {
        let [.., a, b, c, d] = self.seed.hash_one(key).to_le_bytes();
        KeyHash(u32::from_le_bytes([a, b, c, d]))
    }

    /// The slot under `hash` of which `is_it` says that it is the one.
    pub(crate) fn find(&self, hash: KeyHash, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let found = self.parts[hash.part()].find(hash.spread(), |entry| entry.hash == hash && is_it(entry.slot));
        found.map(|entry| entry.slot)
    }

    /// Adds `slot` under `hash`; nothing may be there for the same key.
    pub(crate) fn insert(&mut self, hash: KeyHash, slot: u32) {
        self.parts[hash.part()].insert_unique(hash.spread(), Entry { hash, slot }, |other| other.hash.spread());
    }

    pub(crate) fn remove(&mut self, hash: KeyHash, slot: u32) {
        if let Ok(entry) = self.parts[hash.part()].find_entry(hash.spread(), |entry| *entry == Entry { hash, slot }) {
            entry.remove();
        }
    }
}
