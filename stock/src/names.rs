//! Identifiers packed by length: a name costs its bytes, one for the length, and a few to fill (up to three of a name below 32 characters),
//! instead of an allocation.

use crate::limits::{IDENTIFIER_CHARACTERS_MAX, RESERVATIONS_IN_MEMORY_MAX, USERS_IN_MEMORY_MAX};
use crate::slab::Queue;

/// Lengths of slots in bytes. A name with the byte of its length is in the shortest that it fits.
const SLOT_BYTES: [usize; CLASSES] = [4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 132];

const CLASSES: usize = 16;

const CHUNK_BYTES: usize = 64 * 1024;

const INDEX_BITS: u32 = 27;

// A handle holds class and index, and the value for no name is none of them. A length fits its byte, and the longest name its slot.
const _: () = assert!(CLASSES < 1 << (u32::BITS - INDEX_BITS));
const _: () = assert!(IDENTIFIER_CHARACTERS_MAX <= u8::MAX as usize);
const _: () = assert!(IDENTIFIER_CHARACTERS_MAX < SLOT_BYTES[CLASSES - 1]);
// The names of all users and the references of all reservations have room, though all be equally long; a few more reservations come back
// from the history at a time.
const _: () = assert!(RESERVATIONS_IN_MEMORY_MAX + USERS_IN_MEMORY_MAX + 100_000 < 1 << INDEX_BITS);

/// A name's place. Copies of it are good until the name is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameId(u32);

impl NameId {
    /// No name.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// All names of a ledger.
#[derive(Debug)]
pub(crate) struct Names {
    classes: [Class; CLASSES],
}

/// Names whose slots are equally long.
#[derive(Debug)]
struct Class {
    chunks: Vec<Box<[u8]>>,
    slots: u32,
    free: Queue<u32>,
}

impl Names {
    pub(crate) fn new() -> Self {
        Self { classes: std::array::from_fn(|_| Class { chunks: Vec::new(), slots: 0, free: Queue::new() }) }
    }

    /// Keeps `name`, which is an identifier.
    pub(crate) fn insert(&mut self, name: &str) -> NameId {
        let class = SLOT_BYTES.partition_point(|slot_bytes| *slot_bytes < 1 + name.len());
        let slot_bytes = SLOT_BYTES[class];
        let names = &mut self.classes[class];
        let index = names.free.pop_back().unwrap_or_else(|| {
            let index = names.slots;
            assert!(index < 1 << INDEX_BITS, "a ledger keeps at most {} names of one length", 1 << INDEX_BITS);
            if (index as usize).is_multiple_of(CHUNK_BYTES / slot_bytes) {
                names.chunks.push(vec![0; CHUNK_BYTES].into_boxed_slice());
            }
            names.slots += 1;
            index
        });
        let slot = &mut names.chunks[index as usize / (CHUNK_BYTES / slot_bytes)][place(index, slot_bytes)..][..slot_bytes];
        let Ok(length) = u8::try_from(name.len()) else { unreachable!("an identifier is no longer than 128 characters") };
        slot[0] = length;
        slot[1..=name.len()].copy_from_slice(name.as_bytes());
        let Ok(class) = u32::try_from(class) else { unreachable!("there are few classes") };
        NameId(class << INDEX_BITS | index)
    }

    /// The bytes of a name.
    pub(crate) fn bytes(&self, id: NameId) -> &[u8] {
        let (class, index) = id.parts();
        let slot_bytes = SLOT_BYTES[class];
        let chunk = &self.classes[class].chunks[index as usize / (CHUNK_BYTES / slot_bytes)];
        let slot = &chunk[place(index, slot_bytes)..][..slot_bytes];
        &slot[1..=usize::from(slot[0])]
    }

    /// A name.
    pub(crate) fn text(&self, id: NameId) -> &str {
        match std::str::from_utf8(self.bytes(id)) {
            Ok(text) => text,
            Err(_) => unreachable!("only identifiers are kept"),
        }
    }

    /// Gives a name's place back.
    pub(crate) fn remove(&mut self, id: NameId) {
        let (class, index) = id.parts();
        self.classes[class].free.push_back(index);
    }
}

impl NameId {
    const fn parts(self) -> (usize, u32) {
        ((self.0 >> INDEX_BITS) as usize, self.0 & ((1 << INDEX_BITS) - 1))
    }
}

const fn place(index: u32, slot_bytes: usize) -> usize {
    index as usize % (CHUNK_BYTES / slot_bytes) * slot_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_are_kept_over_many_chunks() {
        let mut names = Names::new();
        let texts: Vec<String> = (0..40_000).map(|number| format!("{number:0>width$}", width = 1 + number % 128)).collect();
        let ids: Vec<_> = texts.iter().map(|text| names.insert(text)).collect();
        for (text, id) in texts.iter().zip(&ids) {
            assert_eq!(names.text(*id), text);
        }
        names.remove(ids[7]);
        names.remove(ids[127]);
        assert_eq!(names.insert("12345678"), ids[7]);
        assert_eq!((names.text(ids[7]), names.text(ids[6])), ("12345678", "0000006"));
    }
}
