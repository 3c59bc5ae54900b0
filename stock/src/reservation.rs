//! A reservation as the ledger keeps it: 64 bytes, one line of the processor's cache.

use crate::names::NameId;
use crate::record::LastExit;
use crate::values::{GrantSequence, Timestamp};

/// No slot: the end of a list.
pub(crate) const NIL: u32 = u32::MAX;

const SEQUENCE_BITS: u32 = 56;
const SEQUENCE_MASK: u64 = GrantSequence::MAX.0;
const EXIT_MASK: u64 = 0b11 << SEQUENCE_BITS;
const TOUCHED: u64 = 1 << 58;
const LEAVING: u64 = 1 << 59;

/// One grant. Its stock is its user's; its quantity is the sum of the four counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reservation {
    /// The sequence in the lower 56 bits; above it what happened last and two flags.
    packed: u64,
    pub(crate) reserved_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) user: u32,
    pub(crate) reference: NameId,
    pub(crate) reserved: u32,
    pub(crate) confirmed: u32,
    pub(crate) released: u32,
    pub(crate) returned: u32,
    /// Neighbours among the reservations of the same user in memory, by sequence.
    pub(crate) older: u32,
    pub(crate) newer: u32,
    /// While units are held: neighbours in the expiry wheel's list. After that: when the last went, in two halves.
    link: [u32; 2],
}

const _: () = assert!(size_of::<Reservation>() == 64);

impl Reservation {
    pub(crate) fn new(
        sequence: GrantSequence,
        reserved_at: Timestamp,
        expires_at: Timestamp,
        user: u32,
        reference: NameId,
    ) -> Self {
        assert!(sequence <= GrantSequence::MAX, "grant {} of one stock", sequence.0);
        Self {
            packed: sequence.0,
            reserved_at,
            expires_at,
            user,
            reference,
            reserved: 0,
            confirmed: 0,
            released: 0,
            returned: 0,
            older: NIL,
            newer: NIL,
            link: [NIL; 2],
        }
    }

    pub(crate) const fn sequence(&self) -> GrantSequence {
        GrantSequence(self.packed & SEQUENCE_MASK)
    }

    pub(crate) const fn last_exit(&self) -> LastExit {
        match (self.packed & EXIT_MASK) >> SEQUENCE_BITS {
            0 => LastExit::None,
            1 => LastExit::Released,
            2 => LastExit::Expired,
            _ => LastExit::Returned,
        }
    }

    pub(crate) const fn set_last_exit(&mut self, exit: LastExit) {
        let code = match exit {
            LastExit::None => 0,
            LastExit::Released => 1,
            LastExit::Expired => 2,
            LastExit::Returned => 3,
        };
        self.packed = self.packed & !EXIT_MASK | code << SEQUENCE_BITS;
    }

    /// Whether it was changed after its last unit was held, and since anybody looked.
    pub(crate) const fn is_touched(&self) -> bool {
        self.packed & TOUCHED != 0
    }

    pub(crate) const fn set_touched(&mut self, is_touched: bool) {
        self.packed = if is_touched { self.packed | TOUCHED } else { self.packed & !TOUCHED };
    }

    /// Whether it is on its way out of memory.
    pub(crate) const fn is_leaving(&self) -> bool {
        self.packed & LEAVING != 0
    }

    pub(crate) const fn set_leaving(&mut self, is_leaving: bool) {
        self.packed = if is_leaving { self.packed | LEAVING } else { self.packed & !LEAVING };
    }

    /// The next in the wheel's list. Only while units are held.
    pub(crate) const fn next(&self) -> u32 {
        self.link[0]
    }

    pub(crate) const fn set_next(&mut self, slot: u32) {
        self.link[0] = slot;
    }

    /// The one before in the wheel's list. Only while units are held.
    pub(crate) const fn previous(&self) -> u32 {
        self.link[1]
    }

    pub(crate) const fn set_previous(&mut self, slot: u32) {
        self.link[1] = slot;
    }

    /// When the last held unit went; `None` while any is held.
    pub(crate) fn resolved_at(&self) -> Option<Timestamp> {
        let [high, low] = self.link;
        (self.reserved == 0).then(|| Timestamp::from_unix_ms(u64::from(high) << 32 | u64::from(low)))
    }

    /// Notes when the last held unit went. It must not be in the wheel any more.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves together are the whole")]
    pub(crate) const fn set_resolved_at(&mut self, at: Timestamp) {
        self.link = [(at.unix_ms() >> 32) as u32, at.unix_ms() as u32];
    }
}
