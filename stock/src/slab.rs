//! Rows of records that grow a chunk at a time, so that no growth ever copies the records that are there and no caller waits for it.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

const CHUNK_RECORDS: usize = 4_096;

/// A row of records that never moves them. A slot that was given back is the next to be handed out.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    /// One bit for each slot of a chunk: whether a record lives there.
    occupied: Vec<[u64; CHUNK_RECORDS / 64]>,
    free: Queue<u32>,
    slots: u32,
    live: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), occupied: Vec::new(), free: Queue::new(), slots: 0, live: 0 }
    }

    /// Records that live in it.
    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    /// Slots that were ever handed out: each is below this.
    pub(crate) const fn slots(&self) -> u32 {
        self.slots
    }

    /// Adds a record and returns its slot.
    ///
    /// # Panics
    /// When all 2^32 - 1 slots are taken, which is more than memory holds.
    pub(crate) fn push(&mut self, record: T) -> u32 {
        self.live += 1;
        if let Some(slot) = self.free.pop_back() {
            self[slot] = record;
            self.mark(slot, true);
            return slot;
        }
        let slot = self.slots;
        assert!(slot < u32::MAX, "a ledger holds at most {} records of one kind", u32::MAX);
        if (slot as usize).is_multiple_of(CHUNK_RECORDS) {
            self.chunks.push(Vec::with_capacity(CHUNK_RECORDS));
            self.occupied.push([0; CHUNK_RECORDS / 64]);
        }
        self.chunks[slot as usize / CHUNK_RECORDS].push(record);
        self.slots += 1;
        self.mark(slot, true);
        slot
    }

    /// Gives back the slot of a record that lives. The record itself stays until the slot is used again.
    pub(crate) fn remove(&mut self, slot: u32) {
        debug_assert!(self.is_occupied(slot), "slot {slot} is given back twice");
        self.mark(slot, false);
        self.free.push_back(slot);
        self.live -= 1;
    }

    pub(crate) fn is_occupied(&self, slot: u32) -> bool {
        let (chunk, word, bit) = place(slot);
        self.occupied.get(chunk).is_some_and(|words| words[word] & bit != 0)
    }

    /// Every record that lives, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.slots).filter(|slot| self.is_occupied(*slot)).map(|slot| (slot, &self[slot]))
    }

    fn mark(&mut self, slot: u32, is_occupied: bool) {
        let (chunk, word, bit) = place(slot);
        if is_occupied {
            self.occupied[chunk][word] |= bit;
        } else {
            self.occupied[chunk][word] &= !bit;
        }
    }
}

const fn place(slot: u32) -> (usize, usize, u64) {
    let slot = slot as usize;
    (slot / CHUNK_RECORDS, slot % CHUNK_RECORDS / 64, 1 << (slot % 64))
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
    length: usize,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: VecDeque::new(), length: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.chunks.front()?.front()
    }

    pub(crate) fn push_back(&mut self, item: T) {
        self.length += 1;
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
        self.length -= 1;
        self.chunks.pop_front_if(|chunk| chunk.is_empty());
        item
    }

    pub(crate) fn pop_back(&mut self) -> Option<T> {
        let item = self.chunks.back_mut()?.pop_back();
        self.length -= 1;
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
        assert_eq!(queue.len(), ITEMS - 1);
        for item in 0..ITEMS - 1 {
            assert_eq!(queue.front(), Some(&item));
            assert_eq!(queue.pop_front(), Some(item));
        }
        assert_eq!(queue.front(), None);
        queue.push_back(7);
        assert_eq!(queue.pop_back(), Some(7));
        assert_eq!(queue.front(), None);
    }

    #[test]
    fn a_slot_that_was_given_back_is_handed_out_again() {
        const RECORDS: u32 = 2 * 4_096 + 10;
        let mut slab = Slab::new();
        for record in 0..RECORDS {
            assert_eq!(slab.push(record), record);
        }
        slab.remove(4_095);
        slab.remove(4_096);
        assert_eq!(slab.len(), 2 * 4_096 + 8);
        assert!(!slab.is_occupied(4_096) && slab.is_occupied(4_097) && !slab.is_occupied(RECORDS));
        assert_eq!(slab.iter().map(|(slot, _)| slot).find(|slot| *slot > 4_094), Some(4_097));
        assert_eq!((slab.push(1), slab.push(2)), (4_096, 4_095));
        assert_eq!((slab[4_096], slab[4_095], slab.slots()), (1, 2, RECORDS));
    }
}
