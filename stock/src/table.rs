//! Indexes from a key to a slot. An index knows 32 bits of the key's hash beside the slot and nothing else of the key, which stands in
//! the record; so growing it touches no record, and a look-up touches hardly any but the right one. Hashes are seeded with what callers
//! cannot know, so that chosen names cannot make them slow. With `keys.rs` and `audit.rs` the door of hashbrown and foldhash.

use std::hash::{BuildHasher, Hash};

use foldhash::quality::FixedState;
use hashbrown::HashTable;

/// Tables that an index is split into: each grows by itself, so that one growth moves one part in 256.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 8;

/// Shares of all hashes that are dealt out to the parts.
const SHARES: usize = 1 << SHARE_BITS;
const SHARE_BITS: u32 = 12;

/// Which part each share belongs to. If all parts were of one size they would all fill up, and grow, in the same second. So the first holds half
/// as many as the last, and those between rise evenly by a factor: while the whole doubles, one part after the other grows.
static PART_OF_SHARE: [u8; SHARES] = part_of_share();

#[expect(clippy::cast_possible_truncation, reason = "parts are numbered by 8 bits")]
const fn part_of_share() -> [u8; SHARES] {
    /// 2^(1/256) in units of 2^-48.
    const STEP: u128 = 282_238_132_792_267;
    const ONE: u128 = 1 << 48;
    let mut parts = [0; SHARES];
    let (mut part, mut share, mut end) = (0, 0, ONE);
    while part < PARTS {
        end = end * STEP / ONE;
        // Where the part ends: 2^((part + 1) / 256) - 1 of the whole.
        while share < SHARES && (share as u128) * ONE < (end - ONE) * (SHARES as u128) {
            parts[share] = part as u8;
            share += 1;
        }
        part += 1;
    }
    // What rounding left over.
    while share < SHARES {
        parts[share] = (PARTS - 1) as u8;
        share += 1;
    }
    parts
}

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

/// What an index keeps of a key's hash: first the part that the key is in, then bits that tell it apart there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHash(u32);

impl KeyHash {
    const fn new(hash: u64) -> Self {
        let share = (hash >> (u64::BITS - SHARE_BITS)) as usize;
        let [.., a, b, c] = hash.to_be_bytes();
        Self(u32::from_be_bytes([PART_OF_SHARE[share], a, b, c]))
    }

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
        KeyHash::new(self.seed.hash_one(key))
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
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn while_an_index_doubles_its_parts_grow_one_after_the_other() {
        const KEYS: u32 = 1 << 20;
        let mut table = SlotTable::new(7);
        let insert = |table: &mut SlotTable, key: u32| table.insert(table.hash(&key), key);
        for key in 0..KEYS {
            insert(&mut table, key);
        }
        // How many parts grow in each hundredth of what is added.
        let mut growths: BTreeMap<u32, usize> = BTreeMap::new();
        let buckets = |table: &SlotTable| table.parts.iter().map(HashTable::num_buckets).collect::<Vec<_>>();
        let mut before = buckets(&table);
        for hundredth in 0..100 {
            for key in 0..KEYS.div_ceil(100) {
                insert(&mut table, KEYS + hundredth * KEYS.div_ceil(100) + key);
            }
            let now = buckets(&table);
            growths.insert(hundredth, before.iter().zip(&now).filter(|(before, now)| before != now).count());
            before = now;
        }
        let (all, most) = (growths.values().sum::<usize>(), growths.values().max().copied().unwrap_or(0));
        assert!((PARTS - 32..=PARTS + 32).contains(&all), "{all} parts grew");
        // All of them, if they were of one size.
        assert!(most <= PARTS / 8, "{most} parts grew at once: {growths:?}");
    }

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
