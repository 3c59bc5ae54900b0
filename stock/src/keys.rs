//! The idempotency table: which keys were used for what, and until when that is remembered. A key costs about 80 bytes.

use crate::reservation::NIL;
use crate::slab::Slab;
use crate::table::SlotTable;
use crate::values::{Fingerprint, GrantSequence, Idempotency, Timestamp};

/// What a key was used for. Its halves are kept apart, so that an entry needs no more than 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    key: [u64; 2],
    request: [u64; 2],
    pub(crate) at: Timestamp,
    /// The reservation that it granted or changed; 0 for the stock itself.
    sequence: u64,
    pub(crate) stock: u32,
    /// Neighbours in the order of use, which is the order of time.
    older: u32,
    newer: u32,
    /// Whether it granted the reservation: its answer is then 201 and not 200.
    pub(crate) created: bool,
    /// Whether the same key was used again, after its time.
    is_superseded: bool,
}

const _: () = assert!(size_of::<KeyEntry>() <= 64);

impl KeyEntry {
    pub(crate) fn key(&self) -> Fingerprint {
        join(self.key)
    }

    pub(crate) fn request(&self) -> Fingerprint {
        join(self.request)
    }

    pub(crate) const fn is_superseded(&self) -> bool {
        self.is_superseded
    }

    /// `None` for the stock itself.
    pub(crate) fn reservation(&self) -> Option<GrantSequence> {
        (self.sequence > 0).then_some(GrantSequence(self.sequence))
    }
}

/// What a key that is used now is remembered for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyUse {
    pub(crate) stock: u32,
    pub(crate) idempotency: Idempotency,
    /// `None` for the stock itself.
    pub(crate) reservation: Option<GrantSequence>,
    pub(crate) created: bool,
    pub(crate) at: Timestamp,
}

/// What to put back when the newest entry is undone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyInverse {
    slot: u32,
    superseded: Option<u32>,
}

impl KeyInverse {
    /// The slot of the entry that was added.
    pub(crate) const fn slot(self) -> u32 {
        self.slot
    }

    /// The slot of the entry that it took the place of: one whose time is over.
    pub(crate) const fn superseded(self) -> Option<u32> {
        self.superseded
    }
}

#[derive(Debug)]
pub(crate) struct KeyTable {
    entries: Slab<KeyEntry>,
    by_key: SlotTable,
    oldest: u32,
    newest: u32,
    remembered_ms: u64,
}

impl KeyTable {
    pub(crate) fn new(seed: u64, remembered_seconds: u32) -> Self {
        Self {
            entries: Slab::new(),
            by_key: SlotTable::new(seed),
            oldest: NIL,
            newest: NIL,
            remembered_ms: u64::from(remembered_seconds) * 1_000,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) const fn entries(&self) -> &Slab<KeyEntry> {
        &self.entries
    }

    /// Whether there is an entry whose time is over at `now`: one that is only waiting to be forgotten.
    pub(crate) fn has_spare(&self, now: Timestamp) -> bool {
        self.oldest != NIL && self.is_over(self.entries[self.oldest].at, now)
    }

    /// The entry of `key` if it is still remembered at `now`. Whether [`Self::forget`] has run makes no difference to the answer.
    pub(crate) fn get(&self, stock: u32, key: Fingerprint, now: Timestamp) -> Option<&KeyEntry> {
        let slot = self.find(stock, split(key))?;
        Some(&self.entries[slot]).filter(|entry| !self.is_over(entry.at, now))
    }

    pub(crate) fn insert(&mut self, used: KeyUse) -> KeyInverse {
        let key = split(used.idempotency.key);
        let superseded = self.find(used.stock, key);
        if let Some(old) = superseded {
            self.entries[old].is_superseded = true;
            self.by_key.remove(self.hash(used.stock, key), old);
        }
        let slot = self.add(used);
        self.link_newest(slot);
        KeyInverse { slot, superseded }
    }

    /// Takes in a key that was remembered elsewhere, and returns its slot; `None` when it is known. Once all are in,
    /// [`Self::link_in_order`] must be told their order.
    pub(crate) fn load(&mut self, used: KeyUse) -> Option<u32> {
        match self.find(used.stock, split(used.idempotency.key)) {
            Some(_) => None,
            None => Some(self.add(used)),
        }
    }

    /// Puts all entries in the order of their time.
    pub(crate) fn link_in_order(&mut self, slots: impl Iterator<Item = u32>) {
        slots.for_each(|slot| self.link_newest(slot));
    }

    fn add(&mut self, used: KeyUse) -> u32 {
        let key = split(used.idempotency.key);
        let slot = self.entries.push(KeyEntry {
            key,
            request: split(used.idempotency.request),
            at: used.at,
            sequence: used.reservation.map_or(0, |sequence| sequence.0),
            stock: used.stock,
            older: NIL,
            newer: NIL,
            created: used.created,
            is_superseded: false,
        });
        self.by_key.insert(self.hash(used.stock, key), slot);
        slot
    }

    fn link_newest(&mut self, slot: u32) {
        self.entries[slot].older = self.newest;
        match self.newest {
            NIL => self.oldest = slot,
            newest => self.entries[newest].newer = slot,
        }
        self.newest = slot;
    }

    pub(crate) fn undo(&mut self, inverse: KeyInverse) {
        let KeyEntry { key, stock, .. } = self.entries[inverse.slot];
        self.remove(inverse.slot);
        // What has been forgotten meanwhile was over at a committed time, so nobody can ask for it again.
        let superseded = inverse.superseded.filter(|slot| {
            let old = &self.entries[*slot];
            self.entries.is_occupied(*slot) && old.is_superseded && (old.key, old.stock) == (key, stock)
        });
        if let Some(old) = superseded {
            self.entries[old].is_superseded = false;
            self.by_key.insert(self.hash(stock, key), old);
        }
    }

    /// Drops up to `limit` entries that are no longer remembered at `committed`, which no undo may reach behind.
    pub(crate) fn forget(&mut self, committed: Timestamp, limit: usize) {
        for _ in 0..limit {
            if !self.has_spare(committed) {
                return;
            }
            self.remove(self.oldest);
        }
    }

    /// Drops the entry at `slot`.
    fn remove(&mut self, slot: u32) {
        let KeyEntry { key, stock, older, newer, is_superseded, .. } = self.entries[slot];
        match older {
            NIL => self.oldest = newer,
            older => self.entries[older].newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => self.entries[newer].older = older,
        }
        if !is_superseded {
            self.by_key.remove(self.hash(stock, key), slot);
        }
        self.entries.remove(slot);
    }

    fn find(&self, stock: u32, key: [u64; 2]) -> Option<u32> {
        self.by_key.find(self.hash(stock, key), |slot| {
            let entry = &self.entries[slot];
            entry.key == key && entry.stock == stock
        })
    }

    fn hash(&self, stock: u32, key: [u64; 2]) -> crate::table::KeyHash {
        self.by_key.hash(&(stock, key))
    }

    fn is_over(&self, at: Timestamp, now: Timestamp) -> bool {
        now.unix_ms() + u64::from(mutant!(KeyForgottenTooEarly)) >= at.unix_ms().saturating_add(self.remembered_ms)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves together are the whole")]
const fn split(fingerprint: Fingerprint) -> [u64; 2] {
    [(fingerprint.0 >> 64) as u64, fingerprint.0 as u64]
}

fn join([high, low]: [u64; 2]) -> Fingerprint {
    Fingerprint(u128::from(high) << 64 | u128::from(low))
}
