//! The only mutator: [`Ledger::apply`], and what takes it back.

use crate::command::StockTerms;
use crate::event::Event;
use crate::image::Image;
use crate::keys::{KeyInverse, KeyUse};
use crate::ledger::{Ledger, Stock, User};
use crate::names::NameId;
use crate::record::{LastExit, ReservationRecord};
use crate::reservation::{NIL, Reservation};
use crate::sum::of_reservation;
use crate::values::{
    Allotment, ChangeSequence, Delta, GrantSequence, Idempotency, Quantity, Reference, ReservationId, Revision, Sku, StockId,
    StockNumber, Timestamp, UserId,
};
use crate::view::Life;

/// What undoes one [`Ledger::apply`]. Inverses are used newest first and at most once.
#[derive(Debug)]
#[must_use = "drop it only once the event is committed"]
pub struct Inverse {
    change: InverseChange,
    last_applied: Timestamp,
}

#[derive(Debug)]
enum InverseChange {
    StockCreated { stock: u32 },
    Reserved { reservation: u32, key: Option<KeyInverse> },
    Left { before: ReservationBefore, exit: Exit, key: Option<KeyInverse> },
    Expired { before: Vec<ReservationBefore> },
    Extended { reservation: u32, expires_at: Timestamp, key: Option<KeyInverse> },
    StockTermed { stock: u32, terms: StockTerms },
    StockAdjusted { stock: u32, delta: Delta, key: Option<KeyInverse> },
    StockStepped { stock: u32, life: Life },
    Recalled { reservation: u32, is_new_user: bool },
    Nothing,
}

/// What a reservation was before units left it.
#[derive(Debug)]
struct ReservationBefore {
    slot: u32,
    /// How many units left.
    units: u32,
    last_exit: LastExit,
}

/// From where units of a reservation go where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// From reserved to sold.
    Sold,
    /// From reserved to available, by the caller's will.
    Released,
    /// From reserved to available, by the clock.
    Expired,
    /// From sold to available.
    Returned,
}

impl Ledger {
    /// Applies `event`, which happened at `at`, and returns what undoes it.
    ///
    /// # Panics
    /// When the event does not fit the ledger (it was not decided on this state) or conservation breaks: a broken invariant. The
    /// node must stop.
    pub fn apply(&mut self, event: &Event, at: Timestamp) -> Inverse {
        assert!(at >= self.last_applied, "time went backwards in the log: {at:?} after {:?}", self.last_applied);
        let last_applied = std::mem::replace(&mut self.last_applied, at);
        let change = match event {
            Event::StockCreated { stock, sku, quantity, terms } => self.create_stock(*stock, sku, *quantity, terms),
            Event::Reserved { stock, sequence, user, quantity, expires_at, reference, idempotency } => {
                let stock = self.expect_stock(*stock);
                let grant = Grant { sequence: *sequence, at, expires_at: *expires_at, units: quantity.units() };
                self.reserve(stock, grant, user, reference.as_ref(), *idempotency)
            }
            Event::Confirmed { reservation, quantity, idempotency } => {
                self.leave_one(*reservation, *quantity, Exit::Sold, *idempotency, at)
            }
            Event::Released { reservation, quantity, idempotency } => {
                self.leave_one(*reservation, *quantity, Exit::Released, *idempotency, at)
            }
            Event::Returned { reservation, quantity, idempotency } => {
                self.leave_one(*reservation, *quantity, Exit::Returned, *idempotency, at)
            }
            Event::Expired { reservations } => {
                let before = reservations.iter().map(|reservation| self.leave(*reservation, None, Exit::Expired, at)).collect();
                InverseChange::Expired { before }
            }
            Event::Extended { reservation, expires_at, idempotency } => {
                let slot = self.expect_reservation(*reservation);
                self.begin_change(slot);
                let before = self.extend(slot, *expires_at);
                let key = self.remember_reservation(slot, *idempotency, false, at);
                InverseChange::Extended { reservation: slot, expires_at: before, key }
            }
            Event::StockChanged { stock, terms } => {
                let slot = self.expect_stock(*stock);
                self.begin_revision(slot);
                let terms = std::mem::replace(&mut self.stocks[slot].terms, terms.clone());
                InverseChange::StockTermed { stock: slot, terms }
            }
            Event::StockAdjusted { stock, delta, reason: _, idempotency } => {
                let slot = self.expect_stock(*stock);
                self.begin_stock_change(slot);
                self.adjust(slot, delta.units());
                let key = self.remember(slot, None, *idempotency, false, at);
                InverseChange::StockAdjusted { stock: slot, delta: *delta, key }
            }
            Event::StockPaused { stock } => self.step(*stock, |life| life.is_paused = true),
            Event::StockReopened { stock } => self.step(*stock, |life| (life.is_paused, life.is_closed) = (false, false)),
            Event::StockClosed { stock } => self.step(*stock, |life| life.is_closed = true),
            Event::StockArchived { stock } => {
                let slot = self.expect_stock(*stock);
                assert_eq!(self.stocks[slot].reserved, 0, "{} was archived with units reserved", self.stocks[slot].sku);
                self.archived.push_back((slot, at));
                let change = self.step(*stock, |life| life.is_archived = true);
                self.note_archived(slot);
                change
            }
            Event::Recalled { record } => self.recall(record, at),
            // It says how the ledger stands, and whoever applies it compares.
            Event::Summed { .. } => InverseChange::Nothing,
        };
        Inverse { change, last_applied }
    }

    /// Takes back the newest event that was applied and not yet undone. A copy of the ledger that is being made is given up.
    pub fn undo(&mut self, inverse: Inverse) {
        self.copying = None;
        if mutant!(UndoSkipped) {
            return;
        }
        match inverse.change {
            InverseChange::StockCreated { stock } => self.undo_create_stock(stock),
            InverseChange::Reserved { reservation, key } => {
                self.undo_key(key);
                self.undo_reserve(reservation);
            }
            InverseChange::Left { before, exit, key } => {
                self.undo_key(key);
                self.undo_leave(&before, exit);
            }
            InverseChange::Expired { before } => {
                for before in before.iter().rev() {
                    self.undo_leave(before, Exit::Expired);
                }
            }
            InverseChange::Extended { reservation, expires_at, key } => {
                self.undo_key(key);
                self.extend(reservation, expires_at);
                self.undo_stock_change(self.stock_of(reservation));
            }
            InverseChange::StockTermed { stock, terms } => {
                self.stocks[stock].terms = terms;
                self.undo_revision(stock);
            }
            InverseChange::StockAdjusted { stock, delta, key } => {
                self.undo_key(key);
                self.adjust(stock, -delta.units());
                self.undo_stock_change(stock);
            }
            InverseChange::StockStepped { stock, life } => {
                if self.stocks[stock].life.is_archived && !life.is_archived {
                    self.archived.pop_back();
                }
                self.stocks[stock].life = life;
                self.undo_revision(stock);
            }
            InverseChange::Nothing => {}
            InverseChange::Recalled { reservation: slot, is_new_user } => {
                self.resolved.pop_back();
                self.forget_reservation(slot);
                let user = self.reservations[slot].user;
                if is_new_user {
                    self.forget_user(user);
                }
            }
        }
        self.last_applied = inverse.last_applied;
    }

    /// What `event`, which was applied last, left behind.
    pub fn image(&self, event: &Event) -> Image {
        match event {
            Event::Reserved { stock, .. } => Image::Granted { change: self.stocks[self.expect_stock(*stock)].changes },
            Event::Confirmed { reservation, .. }
            | Event::Released { reservation, .. }
            | Event::Returned { reservation, .. }
            | Event::Extended { reservation, .. } => {
                let slot = self.expect_reservation(*reservation);
                Image::Reservation { change: self.stocks[self.stock_of(slot)].changes, record: self.record_at(slot) }
            }
            Event::Expired { reservations } => self.image_of_lapse(reservations),
            Event::StockCreated { stock, .. }
            | Event::StockChanged { stock, .. }
            | Event::StockAdjusted { stock, .. }
            | Event::StockPaused { stock }
            | Event::StockReopened { stock }
            | Event::StockClosed { stock }
            | Event::StockArchived { stock } => Image::Stock(Box::new(self.stocks[self.expect_stock(*stock)].record())),
            Event::Recalled { .. } | Event::Summed { .. } => Image::Nothing,
        }
    }

    fn image_of_lapse(&self, reservations: &[ReservationId]) -> Image {
        // Each stock's changes end where it stands now, so they are numbered from the last one backwards. Most are of one stock.
        let mut next: Vec<(u32, u64)> = Vec::new();
        let mut lapsed: Vec<_> = reservations
            .iter()
            .rev()
            .map(|reservation| {
                let slot = self.expect_reservation(*reservation);
                let stock = self.stock_of(slot);
                let place = next.iter().rposition(|(known, _)| *known == stock).unwrap_or_else(|| {
                    next.push((stock, self.stocks[stock].changes.0));
                    next.len() - 1
                });
                let change = ChangeSequence(next[place].1);
                next[place].1 -= u64::from(!mutant!(LapseMisnumbered));
                (change, self.record_at(slot))
            })
            .collect();
        lapsed.reverse();
        Image::Lapsed(lapsed)
    }

    fn expect_stock(&self, id: StockId) -> u32 {
        self.stock_slot_of(id).unwrap_or_else(|| panic!("an event names a stock that is not in the ledger: {id:?}"))
    }

    fn expect_reservation(&self, id: ReservationId) -> u32 {
        self.reservation_slot(id).unwrap_or_else(|| panic!("an event names a reservation that is not in the ledger: {id:?}"))
    }

    pub(crate) fn insert_stock(&mut self, stock: Stock) -> u32 {
        let (sku, id) = (stock.sku.clone(), stock.id);
        let slot = self.stocks.push(stock);
        self.stocks_by_sku.insert(self.stocks_by_sku.hash(&sku), slot);
        self.stocks_by_id.insert(self.stocks_by_id.hash(&id), slot);
        self.stock_numbers.insert(id.partition, id.number);
        self.outdate_sum(slot);
        slot
    }

    fn create_stock(&mut self, id: StockId, sku: &Sku, quantity: Allotment, terms: &StockTerms) -> InverseChange {
        assert_eq!(id, self.next_stock_id(id.partition), "a stock's number is out of order");
        assert!(self.stock_slot(sku).is_none(), "the stock {sku} was created twice");
        let units = quantity.units();
        let stock = self.insert_stock(Stock {
            id,
            sku: sku.clone(),
            first_quantity: quantity,
            terms: terms.clone(),
            life: Life::default(),
            revision: Revision(1),
            allotted: units,
            available: units,
            reserved: 0,
            sold: 0,
            grants: 0,
            changes: ChangeSequence(1),
            is_archived_for_good: false,
            in_memory: crate::grants::Grants::default(),
            sum: crate::sum::StockSum::default(),
        });
        self.leave_stock_out(stock);
        InverseChange::StockCreated { stock }
    }

    fn undo_create_stock(&mut self, slot: u32) {
        let (sku, id) = (self.stocks[slot].sku.clone(), self.stocks[slot].id);
        self.leave_sum(slot);
        self.stocks.remove(slot);
        self.stocks_by_sku.remove(self.stocks_by_sku.hash(&sku), slot);
        self.stocks_by_id.remove(self.stocks_by_id.hash(&id), slot);
        match id.number.0 - 1 {
            0 => self.stock_numbers.remove(&id.partition),
            number => self.stock_numbers.insert(id.partition, StockNumber(number)),
        };
    }

    /// Before a stock changes: a copy that is being made gets it as it stands, and the change gets its place.
    fn begin_stock_change(&mut self, slot: u32) {
        self.keep_image_of_stock(slot);
        let stock = &mut self.stocks[slot];
        stock.changes.0 += 1;
        stock.sum.outdate(slot, &mut self.sums);
    }

    fn undo_stock_change(&mut self, slot: u32) {
        self.outdate_sum(slot);
        self.stocks[slot].changes.0 -= 1;
        self.stocks[slot].assert_conserved();
    }

    /// Before a stock's settings or life change.
    fn begin_revision(&mut self, slot: u32) {
        self.begin_stock_change(slot);
        self.stocks[slot].revision.0 += 1;
    }

    fn undo_revision(&mut self, slot: u32) {
        self.stocks[slot].revision.0 -= 1;
        self.undo_stock_change(slot);
    }

    /// Before a reservation changes, and with it its stock and its user.
    fn begin_change(&mut self, slot: u32) {
        // In this order: a copy holds a stock before its users, and a user before their reservations.
        self.begin_stock_change(self.stock_of(slot));
        self.keep_image_of_user(self.reservations[slot].user);
        self.keep_image_of_reservation(slot);
    }

    fn step(&mut self, stock: StockId, change: impl FnOnce(&mut Life)) -> InverseChange {
        let slot = self.expect_stock(stock);
        self.begin_revision(slot);
        let life = self.stocks[slot].life;
        change(&mut self.stocks[slot].life);
        InverseChange::StockStepped { stock: slot, life }
    }

    fn adjust(&mut self, slot: u32, delta: i64) {
        let stock = &mut self.stocks[slot];
        let (Some(available), Some(allotted)) =
            (stock.available.checked_add_signed(delta), stock.allotted.checked_add_signed(delta))
        else {
            panic!("{} was adjusted by {delta} units where {} are available", stock.sku, stock.available)
        };
        (stock.available, stock.allotted) = (available, allotted);
        stock.assert_conserved();
    }

    fn extend(&mut self, slot: u32, expires_at: Timestamp) -> Timestamp {
        assert!(self.reservations[slot].reserved > 0, "reservation {:?} was extended and holds nothing", self.id_of(slot));
        self.wheel.remove(&mut self.reservations, slot);
        let sum = self.sum_of_reservation(slot);
        let before = self.reservations[slot].expires_at();
        self.reservations[slot].set_expires_at(expires_at);
        if !mutant!(SumMissesExtension) {
            self.move_sum(sum, self.sum_of_reservation(slot));
        }
        self.wheel.insert(&mut self.reservations, slot);
        before
    }

    fn reserve(
        &mut self,
        stock: u32,
        grant: Grant,
        user: &UserId,
        reference: Option<&Reference>,
        idempotency: Option<Idempotency>,
    ) -> InverseChange {
        self.begin_stock_change(stock);
        let name = user.as_str();
        let (user, _) = self.user_or_new(stock, user);
        self.keep_image_of_user(user);
        let units = u64::from(grant.units);
        let moved = self.give_user_units(user, name, units);

        let of = &mut self.stocks[stock];
        assert_eq!(of.grants + 1, grant.sequence.0, "a grant is out of order for {}", of.sku);
        assert!(of.available >= units, "oversold {}: {units} units granted where {} are available", of.sku, of.available);
        of.available -= units;
        of.reserved += units;
        of.grants = grant.sequence.0;
        of.sum.move_users(moved);
        of.assert_conserved();
        let id = of.id;

        let reference = reference.map_or(NameId::NONE, |reference| self.names.insert(reference.as_str()));
        let mut reservation = Reservation::new(grant.sequence, grant.at, grant.expires_at, user, reference);
        reservation.reserved = grant.units;
        self.move_sum(0, of_reservation(id, &reservation));
        let slot = self.insert_reservation(reservation);
        let key = self.remember_reservation(slot, idempotency, true, grant.at);
        InverseChange::Reserved { reservation: slot, key }
    }

    fn undo_reserve(&mut self, slot: u32) {
        let reservation = self.reservations[slot];
        let stock = self.users[reservation.user].stock;
        self.wheel.remove(&mut self.reservations, slot);
        self.move_sum(self.sum_of_reservation(slot), 0);
        self.open_holds -= 1;
        self.forget_reservation(slot);

        let units = u64::from(reservation.reserved);
        let of = &mut self.stocks[stock];
        of.available += units;
        of.reserved -= units;
        of.grants -= u64::from(!mutant!(UndoKeepsGrantNumber));
        self.undo_stock_change(stock);

        let user = reservation.user;
        self.take_user_units(user, units);
        // Also where the user was there before: what else there was of them may have left memory meanwhile.
        self.forget_user_if_idle(user);
    }

    /// Takes a reservation into memory: newest of its user's, in the wheel while it holds anything, and otherwise not yet on its way out.
    pub(crate) fn insert_reservation(&mut self, reservation: Reservation) -> u32 {
        let (user, sequence, is_held) = (reservation.user, reservation.sequence(), reservation.reserved > 0);
        let slot = self.reservations.push(reservation);
        self.leave_reservation_out(slot);
        let stock = self.users[user].stock;
        self.stocks[stock].in_memory.insert(sequence, slot);
        self.link_to_user(slot);
        if is_held {
            self.wheel.insert(&mut self.reservations, slot);
            self.open_holds += 1;
        }
        slot
    }

    /// Takes a reservation out of memory that is neither in the wheel nor among the resolved. Its user stays.
    pub(crate) fn forget_reservation(&mut self, slot: u32) {
        let reservation = self.reservations[slot];
        let stock = self.users[reservation.user].stock;
        self.stocks[stock].in_memory.remove(reservation.sequence());
        match reservation.newer {
            NIL => self.users[reservation.user].newest = reservation.older,
            newer => self.reservations[newer].older = reservation.older,
        }
        if reservation.older != NIL {
            self.reservations[reservation.older].newer = reservation.newer;
        }
        if reservation.reference != NameId::NONE {
            self.names.remove(reservation.reference);
        }
        self.reservations.remove(slot);
    }

    /// Puts a reservation in its place among those of its user, which is the first but for what was recalled. That place is near the
    /// user's newest, or the next in the stock is the user's too, or the user has few among many: it is looked for from both ends.
    fn link_to_user(&mut self, slot: u32) {
        let (user, sequence) = (self.reservations[slot].user, self.reservations[slot].sequence());
        let (mut newer, mut older) = (NIL, self.users[user].newest);
        let mut neighbours = self.stocks[self.users[user].stock].in_memory.from(GrantSequence(sequence.0 + 1));
        while older != NIL && self.reservations[older].sequence() > sequence {
            if let Some((_, near)) = neighbours.next().filter(|(_, near)| self.reservations[*near].user == user) {
                (newer, older) = (near, self.reservations[near].older);
                break;
            }
            (newer, older) = (older, self.reservations[older].older);
        }
        drop(neighbours);
        (self.reservations[slot].newer, self.reservations[slot].older) = (newer, older);
        match newer {
            NIL => self.users[user].newest = slot,
            newer => self.reservations[newer].older = slot,
        }
        if older != NIL {
            self.reservations[older].newer = slot;
        }
    }

    /// The slot of a user of a stock, and whether it was made just now.
    pub(crate) fn user_or_new(&mut self, stock: u32, user: &UserId) -> (u32, bool) {
        if let Some(slot) = self.user_slot(stock, user.as_str()) {
            return (slot, false);
        }
        let name = self.names.insert(user.as_str());
        let slot = self.users.push(User::new(stock, name));
        self.leave_user_out(slot);
        self.users_by_name.insert(self.user_hash(stock, user.as_str().as_bytes()), slot);
        (slot, true)
    }

    /// Drops a user of whom no reservation is in memory.
    pub(crate) fn forget_user(&mut self, slot: u32) {
        let user = self.users[slot];
        debug_assert_eq!(user.newest, NIL);
        let hash = self.user_hash(user.stock, self.names.bytes(user.name));
        self.users_by_name.remove(hash, slot);
        self.names.remove(user.name);
        self.users.remove(slot);
    }

    fn remember_reservation(
        &mut self,
        slot: u32,
        idempotency: Option<Idempotency>,
        created: bool,
        at: Timestamp,
    ) -> Option<KeyInverse> {
        self.remember(self.stock_of(slot), Some(self.reservations[slot].sequence()), idempotency, created, at)
    }

    fn remember(
        &mut self,
        stock: u32,
        reservation: Option<GrantSequence>,
        idempotency: Option<Idempotency>,
        created: bool,
        at: Timestamp,
    ) -> Option<KeyInverse> {
        idempotency.map(|idempotency| {
            let key = self.keys.insert(KeyUse { stock, idempotency, reservation, created, at });
            self.leave_key_out(key.slot());
            if let Some(old) = key.superseded() {
                self.keep_image_of_key(old);
            }
            key
        })
    }

    fn undo_key(&mut self, key: Option<KeyInverse>) {
        if let Some(key) = key.filter(|_| !mutant!(UndoKeepsKey)) {
            self.keys.undo(key);
        }
    }

    fn leave_one(
        &mut self,
        id: ReservationId,
        quantity: Quantity,
        exit: Exit,
        idempotency: Option<Idempotency>,
        at: Timestamp,
    ) -> InverseChange {
        let before = self.leave(id, Some(quantity), exit, at);
        let key = self.remember_reservation(before.slot, idempotency, false, at);
        InverseChange::Left { before, exit, key }
    }

    /// Moves `quantity` units (all that are held when `None`) of a reservation.
    fn leave(&mut self, id: ReservationId, quantity: Option<Quantity>, exit: Exit, at: Timestamp) -> ReservationBefore {
        let slot = self.expect_reservation(id);
        self.begin_change(slot);
        let reservation = &mut self.reservations[slot];
        let sum = of_reservation(id.stock, reservation);
        let from = if exit == Exit::Returned { &mut reservation.confirmed } else { &mut reservation.reserved };
        let units = quantity.map_or(*from, Quantity::units);
        assert!(units > 0 && units <= *from, "{units} units leave reservation {id:?} ({exit:?}), which has {from}");
        *from -= units;
        let before = ReservationBefore { slot, units, last_exit: reservation.last_exit() };
        match exit {
            Exit::Sold => reservation.confirmed += units,
            Exit::Released => {
                reservation.released += units;
                reservation.set_last_exit(LastExit::Released);
            }
            Exit::Expired => {
                reservation.released += units;
                reservation.set_last_exit(LastExit::Expired);
            }
            Exit::Returned => {
                reservation.returned += units;
                reservation.set_last_exit(LastExit::Returned);
                reservation.set_touched(true);
            }
        }
        let moved = of_reservation(id.stock, reservation);
        let is_resolved = reservation.reserved == 0 && exit != Exit::Returned;
        self.move_sum(sum, moved);
        if is_resolved {
            self.wheel.remove(&mut self.reservations, slot);
            self.reservations[slot].set_resolved_at(at);
            self.resolved.push_back((slot, at));
            self.open_holds -= 1;
        }
        let user = self.reservations[slot].user;
        let units = u64::from(units);
        let stock = self.users[user].stock;
        let of = &mut self.stocks[stock];
        if exit == Exit::Returned {
            of.sold -= units;
        } else {
            of.reserved -= units;
        }
        if exit == Exit::Sold {
            of.sold += units;
        } else {
            of.available += units;
            if exit == Exit::Expired && mutant!(ExpiryAppliedTwice) {
                (of.available, of.allotted) = (of.available + units, of.allotted + units);
            }
            // An archived stock's users are not counted any more.
            let stay_counted = exit == Exit::Expired && mutant!(LapsedUnitsCountForUser);
            if !of.life.is_archived && !stay_counted {
                self.take_user_units(user, units);
            }
        }
        self.stocks[stock].assert_conserved();
        before
    }

    fn undo_leave(&mut self, before: &ReservationBefore, exit: Exit) {
        let sum = self.sum_of_reservation(before.slot);
        let reservation = &mut self.reservations[before.slot];
        let was_resolved = reservation.reserved == 0 && exit != Exit::Returned;
        match exit {
            Exit::Sold => reservation.confirmed -= before.units,
            Exit::Released | Exit::Expired => reservation.released -= before.units,
            Exit::Returned => reservation.returned -= before.units,
        }
        let to = if exit == Exit::Returned { &mut reservation.confirmed } else { &mut reservation.reserved };
        *to += before.units;
        reservation.set_last_exit(before.last_exit);
        let user = reservation.user;
        self.move_sum(sum, self.sum_of_reservation(before.slot));
        if was_resolved {
            self.resolved.pop_back();
            self.wheel.insert(&mut self.reservations, before.slot);
            self.open_holds += 1;
        }
        let units = u64::from(before.units);
        let slot = self.users[user].stock;
        if exit != Exit::Sold && !self.stocks[slot].life.is_archived {
            self.add_user_units(user, units);
        }
        let stock = &mut self.stocks[slot];
        if exit == Exit::Sold {
            stock.sold -= units;
        } else {
            stock.available -= units;
        }
        if exit == Exit::Returned {
            stock.sold += units;
        } else {
            stock.reserved += units;
        }
        self.undo_stock_change(slot);
    }

    /// Takes back into memory what had left it. Where it has not left yet (nodes need not be in step about that) nothing happens.
    fn recall(&mut self, record: &ReservationRecord, at: Timestamp) -> InverseChange {
        let stock = self.expect_stock(record.id.stock);
        if let Some(slot) = self.reservation_slot(record.id) {
            assert_eq!(self.record_at(slot), *record, "a reservation was recalled that differs from the one in memory");
            return InverseChange::Nothing;
        }
        let Some(resolved_at) = record.resolved_at else { panic!("a reservation was recalled that holds units: {record:?}") };
        let (user, is_new_user) = self.user_or_new(stock, &record.user);
        if is_new_user && !self.stocks[stock].life.is_archived {
            assert_eq!(record.confirmed, 0, "a user with units was not in memory: {record:?}");
        }
        let mut reservation = self.reservation_of(record, user);
        reservation.set_resolved_at(resolved_at);
        let slot = self.insert_reservation(reservation);
        self.resolved.push_back((slot, at));
        InverseChange::Recalled { reservation: slot, is_new_user }
    }

    /// A reservation as `record` says; what its links mean is set by whoever takes it in.
    pub(crate) fn reservation_of(&mut self, record: &ReservationRecord, user: u32) -> Reservation {
        let reference = record.reference.as_ref().map_or(NameId::NONE, |reference| self.names.insert(reference.as_str()));
        let mut reservation = Reservation::new(record.id.sequence, record.reserved_at, record.expires_at, user, reference);
        reservation.reserved = record.reserved;
        reservation.confirmed = record.confirmed;
        reservation.released = record.released;
        reservation.returned = record.returned;
        reservation.set_last_exit(record.last_exit);
        reservation
    }
}

/// A grant as its event says.
#[derive(Clone, Copy)]
struct Grant {
    sequence: GrantSequence,
    at: Timestamp,
    expires_at: Timestamp,
    units: u32,
}
