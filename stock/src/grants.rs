//! Where a stock's reservations are in memory, by the place of their grant: a row of slots, in chunks that go when nothing of them is left.

use std::collections::VecDeque;

use crate::reservation::NIL;
use crate::values::GrantSequence;

const CHUNK_SLOTS: usize = 64;

const CHUNK_GRANTS: u64 = CHUNK_SLOTS as u64;

/// The slots of one stock's reservations.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    chunks: VecDeque<Option<Box<Chunk>>>,
    /// Chunks that went from the front.
    dropped: u64,
}

#[derive(Debug)]
struct Chunk {
    slots: [u32; CHUNK_SLOTS],
    live: u32,
}

impl Grants {
    /// The slot of a grant's reservation, if that is in memory.
    pub(crate) fn get(&self, sequence: GrantSequence) -> Option<u32> {
        let (chunk, place) = self.place(sequence)?;
        let slot = self.chunks.get(chunk)?.as_ref()?.slots[place];
        (slot != NIL).then_some(slot)
    }

    /// Notes the slot of a grant, of which none is noted.
    pub(crate) fn insert(&mut self, sequence: GrantSequence, slot: u32) {
        let number = (sequence.0 - 1) / CHUNK_GRANTS;
        if self.chunks.is_empty() {
            self.dropped = number;
        }
        // What was recalled may be older than everything in memory.
        while number < self.dropped {
            self.chunks.push_front(None);
            self.dropped -= 1;
        }
        let Some((chunk, place)) = self.place(sequence) else { unreachable!("the front has just been made") };
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = self.chunks[chunk].get_or_insert_with(|| Box::new(Chunk { slots: [NIL; CHUNK_SLOTS], live: 0 }));
        debug_assert_eq!(chunk.slots[place], NIL);
        chunk.slots[place] = slot;
        chunk.live += 1;
    }

    /// Forgets a grant that is noted.
    pub(crate) fn remove(&mut self, sequence: GrantSequence) {
        let Some((index, place)) = self.place(sequence) else { unreachable!("only what is noted is forgotten") };
        let Some(chunk) = &mut self.chunks[index] else { unreachable!("only what is noted is forgotten") };
        chunk.slots[place] = NIL;
        chunk.live -= 1;
        if chunk.live > 0 {
            return;
        }
        self.chunks[index] = None;
        while self.chunks.pop_front_if(|chunk| chunk.is_none()).is_some() {
            self.dropped += 1;
        }
        while self.chunks.pop_back_if(|chunk| chunk.is_none()).is_some() {}
    }

    /// The grants in memory from `from` on, oldest first.
    pub(crate) fn from(&self, from: GrantSequence) -> impl Iterator<Item = (GrantSequence, u32)> + '_ {
        let first = (from.0.max(1) - 1) / CHUNK_GRANTS;
        let skip = usize::try_from(first.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        self.chunks
            .iter()
            .enumerate()
            .skip(skip)
            .filter_map(|(index, chunk)| chunk.as_ref().map(|chunk| (index, chunk)))
            .flat_map(move |(index, chunk)| {
                let base = (self.dropped + index as u64) * CHUNK_GRANTS + 1;
                chunk.slots.iter().zip(base..base + CHUNK_GRANTS).map(|(slot, sequence)| (GrantSequence(sequence), *slot))
            })
            .filter(move |(sequence, slot)| *slot != NIL && *sequence >= from)
    }

    /// The grants in memory below `before`, newest first. A chunk of which nothing is in memory costs one look.
    pub(crate) fn below(&self, before: GrantSequence) -> impl Iterator<Item = (GrantSequence, u32)> + '_ {
        let end = before.0.saturating_sub(1).div_ceil(CHUNK_GRANTS).saturating_sub(self.dropped);
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.chunks.len());
        self.chunks
            .range(..end)
            .enumerate()
            .rev()
            .filter_map(|(index, chunk)| chunk.as_ref().map(|chunk| (index, chunk)))
            .flat_map(move |(index, chunk)| {
                let base = (self.dropped + index as u64) * CHUNK_GRANTS + 1;
                let sequences = (base..base + CHUNK_GRANTS).rev();
                chunk.slots.iter().rev().zip(sequences).map(|(slot, sequence)| (GrantSequence(sequence), *slot))
            })
            .filter(move |(sequence, slot)| *slot != NIL && *sequence < before)
    }

    /// The chunk that a grant belongs to, counted from the front, and its place there; `None` before the front.
    fn place(&self, sequence: GrantSequence) -> Option<(usize, usize)> {
        let number = sequence.0.checked_sub(1)?;
        let chunk = (number / CHUNK_GRANTS).checked_sub(self.dropped)?;
        Some((usize::try_from(chunk).ok()?, usize::try_from(number % CHUNK_GRANTS).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(grants: impl Iterator<Item = (GrantSequence, u32)>) -> Vec<u64> {
        grants
            .map(|(sequence, slot)| {
                assert_eq!(u64::from(slot), sequence.0 + 1_000);
                sequence.0
            })
            .collect()
    }

    #[test]
    fn grants_are_found_in_order_whatever_has_left() {
        let mut grants = Grants::default();
        for sequence in 1..=1_000 {
            grants.insert(GrantSequence(sequence), u32::try_from(sequence).unwrap() + 1_000);
        }
        (1..=1_000).filter(|sequence| sequence % 100 != 7).for_each(|sequence| grants.remove(GrantSequence(sequence)));
        let left = [7, 107, 207, 307, 407, 507, 607, 707, 807, 907];
        assert_eq!(sequences(grants.from(GrantSequence(1))), left);
        assert_eq!(sequences(grants.from(GrantSequence(207))), left[2..]);
        assert_eq!(sequences(grants.below(GrantSequence(307))), [207, 107, 7]);
        assert_eq!(sequences(grants.below(GrantSequence(2_000))).len(), 10);
        (0..9).for_each(|index| grants.remove(GrantSequence(left[index])));
        assert_eq!((grants.get(GrantSequence(7)), grants.get(GrantSequence(907))), (None, Some(1_907)));
        // Older than everything in memory.
        grants.insert(GrantSequence(3), 1_003);
        assert_eq!(sequences(grants.below(GrantSequence(1_000))), [907, 3]);
        grants.remove(GrantSequence(907));
        grants.remove(GrantSequence(3));
        assert_eq!((grants.chunks.len(), grants.get(GrantSequence(3))), (0, None));
        assert_eq!(sequences(grants.from(GrantSequence(1))), []);
        assert_eq!(sequences(grants.below(GrantSequence(1))), []);
    }
}
