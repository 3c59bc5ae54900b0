//! Records by slot number. Grows a chunk at a time, so that no growth ever copies what is there and no caller waits for it.

use std::ops::{Index, IndexMut};

const CHUNK_RECORDS: usize = 4_096;

/// A growing row of records that never moves them. Slots are handed out in order; only the newest can be taken back.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    length: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), length: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.length as usize
    }

    /// Adds a record and returns its slot.
    ///
    /// # Panics
    /// When all 2^32 - 1 slots are taken, which is more than memory holds.
    pub(crate) fn push(&mut self, record: T) -> u32 {
        let slot = self.length;
        assert!(slot < u32::MAX, "a ledger holds at most {} records of one kind", u32::MAX);
        if self.len().is_multiple_of(CHUNK_RECORDS) {
            self.chunks.push(Vec::with_capacity(CHUNK_RECORDS));
        }
        self.chunks[slot as usize / CHUNK_RECORDS].push(record);
        self.length += 1;
        slot
    }

    /// Takes back the newest record, which must be at `slot`.
    pub(crate) fn pop(&mut self, slot: u32) -> T {
        assert_eq!(slot + 1, self.length, "only the newest record can be taken back");
        let chunk = slot as usize / CHUNK_RECORDS;
        let Some(record) = self.chunks[chunk].pop() else { unreachable!("the newest chunk holds the newest record") };
        if self.chunks[chunk].is_empty() {
            self.chunks.pop();
        }
        self.length -= 1;
        record
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, slot: u32) -> &T {
        &self.chunks[slot as usize / CHUNK_RECORDS][slot as usize % CHUNK_RECORDS]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.chunks[slot as usize / CHUNK_RECORDS][slot as usize % CHUNK_RECORDS]
    }
}
