//! Indexes from a key to a slot. An index knows 32 bits of the key's hash beside the slot and nothing else of the key, which stands in
//! the record; so growing it touches no record, and a look-up touches hardly any but the right one. Hashes are seeded with what callers
//! cannot know, so that chosen names cannot make them slow. With `keys.rs` and `audit.rs` the door of hashbrown and foldhash.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::FixedState;
use hashbrown::HashTable;

/// Tables that an index is split into by the first bits of the hash: each grows by itself, so that one growth moves one part in 256.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 8;

/// An index of slots. The caller says which record a slot is; the same key must always hash alike.
#[derive(Debug)]
pub(crate) struct SlotTable {
    parts: Box<[HashTable<Entry>]>,
    seed: FixedState,
}

/// A slot and the hash of its key, without the bits that tell the part: in seven bytes, because nodes hold millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    hash: [u8; 3],
    slot: [u8; 4],
}

const _: () = assert!(size_of::<Entry>() == 7);

/// The part of a key's hash that an index keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHash(u32);

impl KeyHash {
    /// As wide as the tables want it: they place by the lowest bits and tell apart by the highest.
    const fn spread(self) -> u64 {
        (self.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    const fn part(self) -> usize {
        (self.0 >> (u32::BITS - PART_BITS)) as usize
    }
}

impl Entry {
    const fn new(hash: KeyHash, slot: u32) -> Self {
        let [_, a, b, c] = hash.0.to_be_bytes();
        Self { hash: [a, b, c], slot: slot.to_be_bytes() }
    }

    const fn slot(self) -> u32 {
        u32::from_be_bytes(self.slot)
    }

    /// Its key's hash, if it is of the same part as `neighbour`.
    const fn hash(self, neighbour: KeyHash) -> KeyHash {
        let [part, ..] = neighbour.0.to_be_bytes();
        let [a, b, c] = self.hash;
        KeyHash(u32::from_be_bytes([part, a, b, c]))
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
        let wanted = Entry::new(hash, 0).hash;
        let found = self.parts[hash.part()].find(hash.spread(), |entry| entry.hash == wanted && is_it(entry.slot()));
        found.map(|entry| entry.slot())
    }

    /// Adds `slot` under `hash`; nothing may be there for the same key.
    pub(crate) fn insert(&mut self, hash: KeyHash, slot: u32) {
        self.parts[hash.part()].insert_unique(hash.spread(), Entry::new(hash, slot), |other| other.hash(hash).spread());
    }

    pub(crate) fn remove(&mut self, hash: KeyHash, slot: u32) {
        let entry = Entry::new(hash, slot);
        if let Ok(found) = self.parts[hash.part()].find_entry(hash.spread(), |other| *other == entry) {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_after_growths_and_none_after_its_removal() {
        let keys = 0..200_000_u32;
        let mut table = SlotTable::new(7);
        for key in keys.clone() {
            let hash = table.hash(&key);
            assert_eq!(table.find(hash, |slot| slot == u32::MAX - key), None);
            table.insert(hash, u32::MAX - key);
        }
        for key in keys.clone().step_by(2) {
            table.remove(table.hash(&key), u32::MAX - key);
        }
        for key in keys {
            let found = table.find(table.hash(&key), |slot| slot == u32::MAX - key);
            assert_eq!(found, (key % 2 == 1).then_some(u32::MAX - key));
        }
    }
}
