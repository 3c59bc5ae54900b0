//! Rows of records that grow a chunk at a time, so that no growth ever copies the records that are there and no caller waits for it.

use std::collections::VecDeque;
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

/// A queue that is added to at its end and taken from at both.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// None of them is empty.
    chunks: VecDeque<VecDeque<T>>,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: VecDeque::new() }
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub(crate) fn push_back(&mut self, item: T) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_RECORDS => chunk.push_back(item),
            _ => {
                let mut chunk = VecDeque::with_capacity(CHUNK_RECORDS);
                chunk.push_back(item);
                self.chunks.push_back(chunk);
            }
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let item = self.chunks.front_mut()?.pop_front();
        self.chunks.pop_front_if(|chunk| chunk.is_empty());
        item
    }

    pub(crate) fn pop_back(&mut self) -> Option<T> {
        let item = self.chunks.back_mut()?.pop_back();
        self.chunks.pop_back_if(|chunk| chunk.is_empty());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_keeps_its_order_over_many_chunks() {
        const ITEMS: usize = 3 * CHUNK_RECORDS + 1;
        let mut queue = Queue::new();
        assert_eq!((queue.pop_front(), queue.pop_back()), (None, None));
        (0..ITEMS).for_each(|item| queue.push_back(item));
        assert_eq!(queue.pop_back(), Some(ITEMS - 1));
        for item in 0..ITEMS - 1 {
            assert_eq!(queue.front(), Some(&item));
            assert_eq!(queue.pop_front(), Some(item));
        }
        assert_eq!(queue.front(), None);
        queue.push_back(7);
        assert_eq!(queue.pop_back(), Some(7));
        assert_eq!(queue.front(), None);
    }
}
