//! The sum of a ledger: a hash, kept up by every change, by which two ledgers that came from one log are compared.
//!
//! It is the sum, modulo 2^64, of a hash for each stock with its counters, settings and life, one for each reservation that holds anything (but
//! for when it was granted, to whom, and its reference), and one for each user's units of a stock that is not archived. A change takes away the hash of what was there, as it is in memory, and adds
//! that of what is there from then on; so a record that went wrong in memory makes a difference once it is changed.
//!
//! Nothing is in it that nodes let go of in their own time, and so may or may not have in memory: reservations that hold nothing, keys, users of
//! archived stocks. So a ledger that was loaded from a copy has the sum of the one that was copied, whoever made the copy.
//!
//! How the hashes are made is durable, because sums are in the log: it never changes. Another way needs an event of another kind.

use serde::{Deserialize, Serialize};

use crate::command::StockTerms;
use crate::event::Event;
use crate::ledger::{Ledger, Stock};
use crate::reservation::Reservation;
use crate::values::{Quantity, StockId, Timestamp};
use crate::view::Life;

/// Stocks whose hash is outdated before it is made up for at the next tidying, so that asking for the sum never takes long.
const OUTDATED_MAX: usize = 1_024;

/// What a ledger comes to. Two that applied the same events have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LedgerSum {
    /// How many stocks there are.
    pub stocks: u64,
    /// How many reservations hold at least one unit.
    pub open_holds: u64,
    /// The hash of all of it.
    pub hash: u64,
}

impl std::fmt::Display for LedgerSum {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:016x} ({} stocks, {} open reservations)", self.hash, self.stocks, self.open_holds)
    }
}

/// The part of a sum that is kept up.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// Of the stocks, as far as they are not outdated, and of the reservations.
    total: u64,
    /// Stocks that have changed since their hash was last added.
    outdated: Vec<u32>,
}

/// A stock's own part of the sum.
#[derive(Debug, Default)]
pub(crate) struct StockSum {
    /// The hashes of its users' units.
    users: u64,
    /// What is in the total for it.
    added: u64,
    /// Whether it is among those that are outdated.
    is_outdated: bool,
}

impl StockSum {
    /// The hashes of its users' units come to so much more.
    pub(crate) const fn move_users(&mut self, by: u64) {
        self.users = self.users.wrapping_add(by);
    }

    /// The stock, at `slot`, has changed or is about to.
    pub(crate) fn outdate(&mut self, slot: u32, sums: &mut Sums) {
        if !self.is_outdated {
            self.is_outdated = true;
            sums.outdated.push(slot);
        }
    }
}

/// Both halves of a product, folded into 64 bits. No defence against whoever chooses the words, and no secret.
#[expect(clippy::cast_possible_truncation, reason = "the two halves together are the whole")]
const fn fold(one: u64, other: u64) -> u64 {
    let product = one as u128 * other as u128;
    product as u64 ^ (product >> 64) as u64
}

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// What the words of a reservation are laid over, in their order.
const RESERVATION: [u64; 4] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

/// Mixes words into 64 bits, one after the other.
#[derive(Debug, Clone, Copy)]
struct Mix(u64);

impl Mix {
    const USER: Self = Self(0xc0ac_29b7_c97c_50dd);
    const STOCK: Self = Self(0x3f84_d5b5_b547_0917);

    const fn word(self, word: u64) -> Self {
        Self(fold(self.0 ^ word, FACTOR))
    }

    /// The number of bytes; then, the first the lowest, eight at a time while there are more, and the last eight. Of fewer than eight the first
    /// four with the last four above them, and of fewer than four all of them.
    fn bytes(self, bytes: &[u8]) -> Self {
        let mix = self.word(bytes.len() as u64);
        if let Some(last) = bytes.last_chunk::<8>() {
            let words = bytes[..bytes.len() - 1].as_chunks::<8>().0;
            let mix = words.iter().fold(mix, |mix, word| mix.word(u64::from_le_bytes(*word)));
            return mix.word(u64::from_le_bytes(*last));
        }
        if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            return mix.word(u64::from(u32::from_le_bytes(*last)) << 32 | u64::from(u32::from_le_bytes(*first)));
        }
        mix.word(bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }

    /// 0 for nothing, and one more than the value otherwise.
    const fn optional(self, value: Option<u64>) -> Self {
        self.word(match value {
            None => 0,
            Some(value) => value.wrapping_add(1),
        })
    }
}

const fn place(StockId { partition, number }: StockId) -> u64 {
    (partition.0 as u64) << 32 | number.0 as u64
}

/// Pairs of words are folded, and what they come to together is mixed once more: so that what one reservation has is not as good as another
/// having it.
#[inline]
pub(crate) fn of_reservation(stock: StockId, reservation: &Reservation) -> u64 {
    if reservation.reserved == 0 {
        return 0;
    }
    let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
    let [place_of, sequence, until, kept] = RESERVATION;
    let identity = fold(place(stock) ^ place_of, reservation.sequence_and_exit() ^ sequence);
    let holds = fold(reservation.expires_at().unix_ms() ^ until, pair(reservation.reserved, reservation.confirmed) ^ kept);
    fold(identity.wrapping_add(holds) ^ pair(reservation.released, reservation.returned), FACTOR)
}

fn of_units(user: Mix, units: u64) -> u64 {
    if units == 0 { 0 } else { user.word(units).0 }
}

fn of_stock(stock: &Stock) -> u64 {
    let Stock { id, sku, first_quantity, terms, life, revision, allotted, available, reserved, sold, grants, changes, .. } = stock;
    let StockTerms { per_user_limit, hold_seconds, hold_seconds_max, opens_at, closes_at } = terms;
    let Life { is_paused, is_closed, is_archived } = *life;
    Mix::STOCK
        .word(place(*id))
        .bytes(sku.as_str().as_bytes())
        .word(first_quantity.units())
        .optional(per_user_limit.map(Quantity::units).map(u64::from))
        .word(u64::from(hold_seconds.seconds()) << 32 | u64::from(hold_seconds_max.seconds()))
        .optional(opens_at.map(Timestamp::unix_ms))
        .optional(closes_at.map(Timestamp::unix_ms))
        .word(u64::from(is_paused) | u64::from(is_closed) << 1 | u64::from(is_archived) << 2)
        .word(revision.0)
        .word(*allotted)
        .word(*available)
        .word(*reserved)
        .word(*sold)
        .word(*grants)
        .word(changes.0)
        .word(if is_archived { 0 } else { stock.sum.users })
        .0
}

impl Ledger {
    /// What the ledger comes to as it stands.
    pub fn sum(&mut self) -> LedgerSum {
        self.make_up_sums();
        LedgerSum { stocks: self.stocks.len() as u64, open_holds: self.open_holds, hash: self.sums.total }
    }

    /// Whether what `event`, which was applied last, says of the ledger is so; of most events, yes.
    ///
    /// # Errors
    /// The sum that it says, and that of this ledger.
    pub fn compare(&mut self, event: &Event) -> Result<(), (LedgerSum, LedgerSum)> {
        let Event::Summed { sum: logged } = event else { return Ok(()) };
        let own = self.sum();
        if own == *logged { Ok(()) } else { Err((*logged, own)) }
    }

    /// A stock has changed, or is about to.
    pub(crate) fn outdate_sum(&mut self, slot: u32) {
        self.stocks[slot].sum.outdate(slot, &mut self.sums);
    }

    /// Before a stock is taken out.
    pub(crate) fn leave_sum(&mut self, slot: u32) {
        let sum = std::mem::take(&mut self.stocks[slot].sum);
        self.sums.total = self.sums.total.wrapping_sub(sum.added);
    }

    /// What a reservation is in the sum with: to be told before a change, and behind it.
    pub(crate) fn sum_of_reservation(&self, slot: u32) -> u64 {
        of_reservation(self.stocks[self.stock_of(slot)].id, &self.reservations[slot])
    }

    /// A reservation was in the sum with `before`, and is with `after`.
    pub(crate) const fn move_sum(&mut self, before: u64, after: u64) {
        self.sums.total = self.sums.total.wrapping_sub(before).wrapping_add(after);
    }

    /// Gives a user `units` more, and returns what [`StockSum::move_users`] of its stock, which has been outdated, is to be told.
    pub(crate) fn give_user_units(&mut self, slot: u32, name: &str, units: u64) -> u64 {
        let user = &mut self.users[slot];
        let before = user.units();
        user.set_units(before + units);
        let named = Mix::USER.bytes(name.as_bytes());
        of_units(named, before + units).wrapping_sub(of_units(named, before))
    }

    /// Gives a user, whose stock has been outdated, `units` more.
    pub(crate) fn add_user_units(&mut self, slot: u32, units: u64) {
        self.change_user_units(slot, |before| before + units);
    }

    /// Takes `units` from a user, whose stock has been outdated.
    pub(crate) fn take_user_units(&mut self, slot: u32, units: u64) {
        self.change_user_units(slot, |before| before - units);
    }

    fn change_user_units(&mut self, slot: u32, change: impl FnOnce(u64) -> u64) {
        let user = &mut self.users[slot];
        let before = user.units();
        let after = change(before);
        user.set_units(after);
        let named = Mix::USER.bytes(self.names.bytes(user.name));
        let sum = &mut self.stocks[user.stock].sum;
        sum.users = sum.users.wrapping_sub(of_units(named, before)).wrapping_add(of_units(named, after));
    }

    /// Makes up for outdated stocks once they are many.
    pub(crate) fn tidy_sums(&mut self) {
        if self.sums.outdated.len() >= OUTDATED_MAX {
            self.make_up_sums();
        }
    }

    /// Makes up for all that is outdated.
    pub(crate) fn make_up_sums(&mut self) {
        for slot in self.sums.outdated.drain(..) {
            // One whose creation was taken back is out of the sum, and its slot may be another's.
            if !self.stocks.is_occupied(slot) || !self.stocks[slot].sum.is_outdated {
                continue;
            }
            let hash = of_stock(&self.stocks[slot]);
            let sum = &mut self.stocks[slot].sum;
            self.sums.total = self.sums.total.wrapping_sub(sum.added).wrapping_add(hash);
            (sum.added, sum.is_outdated) = (hash, false);
        }
    }
}
