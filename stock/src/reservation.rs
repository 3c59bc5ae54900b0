//! A reservation as the ledger keeps it: 60 bytes, because nodes hold millions. So what is longer than 32 bits stands in pieces.

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
    /// The sequence in the lower 56 bits; above it what happened last and two flags. The higher half first.
    packed: [u32; 2],
    reserved_at: Moment,
    expires_at: Moment,
    pub(crate) user: u32,
    pub(crate) reference: NameId,
    pub(crate) reserved: u32,
    pub(crate) confirmed: u32,
    pub(crate) released: u32,
    pub(crate) returned: u32,
    /// Neighbours among the reservations of the same user in memory, by sequence.
    pub(crate) older: u32,
    pub(crate) newer: u32,
    /// While units are held: neighbours in the expiry wheel's list. After that: when the last went, the higher half first.
    link: [u32; 2],
}

const _: () = assert!(size_of::<Reservation>() == 60);

/// A moment in 48 bits, the highest first: up to the year 10889. Later ones, which no clock shows, count as the last of these.
#[derive(Debug, Clone, Copy)]
struct Moment([u16; 3]);

impl Moment {
    const BITS: u32 = 48;

    #[expect(clippy::cast_possible_truncation, reason = "the three pieces together are the whole")]
    const fn new(at: Timestamp) -> Self {
        let ms = at.unix_ms();
        let ms = if ms >> Self::BITS == 0 { ms } else { (1 << Self::BITS) - 1 };
        Self([(ms >> 32) as u16, (ms >> 16) as u16, ms as u16])
    }

    const fn get(self) -> Timestamp {
        let [high, middle, low] = self.0;
        Timestamp::from_unix_ms((high as u64) << 32 | (middle as u64) << 16 | low as u64)
    }
}

/// A number of 64 bits in two halves, the higher first.
#[expect(clippy::cast_possible_truncation, reason = "the two halves together are the whole")]
const fn halves(whole: u64) -> [u32; 2] {
    [(whole >> 32) as u32, whole as u32]
}

const fn whole([high, low]: [u32; 2]) -> u64 {
    (high as u64) << 32 | low as u64
}

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
            packed: halves(sequence.0),
            reserved_at: Moment::new(reserved_at),
            expires_at: Moment::new(expires_at),
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
        GrantSequence(self.packed() & SEQUENCE_MASK)
    }

    /// The sequence, and above it what happened last: one number that stands for both.
    pub(crate) const fn sequence_and_exit(&self) -> u64 {
        self.packed() & (SEQUENCE_MASK | EXIT_MASK)
    }

    pub(crate) const fn reserved_at(&self) -> Timestamp {
        self.reserved_at.get()
    }

    pub(crate) const fn expires_at(&self) -> Timestamp {
        self.expires_at.get()
    }

    pub(crate) const fn set_expires_at(&mut self, at: Timestamp) {
        self.expires_at = Moment::new(at);
    }

    pub(crate) const fn last_exit(&self) -> LastExit {
        match (self.packed() & EXIT_MASK) >> SEQUENCE_BITS {
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
        self.packed = halves(self.packed() & !EXIT_MASK | code << SEQUENCE_BITS);
    }

    /// Whether it was changed after its last unit was held, and since anybody looked.
    pub(crate) const fn is_touched(&self) -> bool {
        self.packed() & TOUCHED != 0
    }

    pub(crate) const fn set_touched(&mut self, is_touched: bool) {
        self.set_flag(TOUCHED, is_touched);
    }

    /// Whether it is on its way out of memory.
    pub(crate) const fn is_leaving(&self) -> bool {
        self.packed() & LEAVING != 0
    }

    pub(crate) const fn set_leaving(&mut self, is_leaving: bool) {
        self.set_flag(LEAVING, is_leaving);
    }

    const fn packed(&self) -> u64 {
        whole(self.packed)
    }

    const fn set_flag(&mut self, flag: u64, is_set: bool) {
        self.packed = halves(if is_set { self.packed() | flag } else { self.packed() & !flag });
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
        (self.reserved == 0).then(|| Timestamp::from_unix_ms(whole(self.link)))
    }

    /// Notes when the last held unit went. It must not be in the wheel any more.
    pub(crate) const fn set_resolved_at(&mut self, at: Timestamp) {
        self.link = halves(at.unix_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_flags_do_not_touch_each_other() {
        const END_OF_9999: u64 = 253_402_300_799_999;
        let at = Timestamp::from_unix_ms;
        let mut reservation = Reservation::new(GrantSequence::MAX, at(0x1234_5678_9abc), at(END_OF_9999), 7, NameId::NONE);
        reservation.set_last_exit(LastExit::Returned);
        reservation.set_touched(true);
        reservation.set_leaving(true);
        reservation.set_touched(false);
        assert_eq!((reservation.sequence(), reservation.last_exit()), (GrantSequence::MAX, LastExit::Returned));
        assert!(reservation.is_leaving() && !reservation.is_touched());
        assert_eq!((reservation.reserved_at(), reservation.expires_at()), (at(0x1234_5678_9abc), at(END_OF_9999)));
        reservation.set_expires_at(at(u64::MAX));
        assert_eq!((reservation.reserved_at(), reservation.expires_at()), (at(0x1234_5678_9abc), at((1 << 48) - 1)));
        reservation.set_resolved_at(at(u64::MAX - 1));
        assert_eq!(reservation.resolved_at(), Some(at(u64::MAX - 1)));
    }
}
