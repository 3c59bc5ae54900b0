//! The ledger of one shard: stocks, reservations, users' units, remembered keys. [`Ledger::apply`] is its only mutator.

use crate::command::{Command, Request, StockTerms};
use crate::event::Event;
use crate::keys::{KeyEntry, KeyInverse, KeyTable};
use crate::reservation::{LastExit, NIL, Reservation};
use crate::slab::Slab;
use crate::table::SlotTable;
use crate::values::{Allotment, Idempotency, Partition, Quantity, ReservationId, Sku, StockId, StockNumber, Timestamp, UserId};
use crate::view::{ReservationState, ReservationView, StockView};
use crate::wheel::Wheel;

/// Rules that hold for a whole ledger. They must be the same wherever the same log is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a key is remembered after its command, by log time.
    pub idempotency_seconds: u32,
    /// Most keys that are remembered at once; beyond, new keyed work is refused. Keys that are over and not yet dropped do not count
    /// against it, so there may be a few more for as long as that takes.
    pub idempotency_keys_max: usize,
}

/// The state of one shard's products.
#[derive(Debug)]
pub struct Ledger {
    rules: Rules,
    pub(crate) stocks: Slab<Stock>,
    stocks_by_sku: SlotTable,
    stocks_by_id: SlotTable,
    /// Highest stock number given in each partition that has any.
    stock_numbers: std::collections::BTreeMap<Partition, StockNumber>,
    pub(crate) reservations: Slab<Reservation>,
    reservations_by_id: SlotTable,
    users: Slab<User>,
    users_by_name: SlotTable,
    keys: KeyTable,
    wheel: Wheel,
    last_applied: Timestamp,
    open_holds: u64,
}

/// One product.
#[derive(Debug)]
pub(crate) struct Stock {
    pub(crate) id: StockId,
    pub(crate) sku: Sku,
    pub(crate) first_quantity: Allotment,
    pub(crate) terms: StockTerms,
    pub(crate) allotted: u64,
    pub(crate) available: u64,
    pub(crate) reserved: u64,
    pub(crate) sold: u64,
    /// The place of the newest grant; 0 before the first.
    pub(crate) grants: u64,
}

impl Stock {
    fn assert_conserved(&self) {
        assert!(
            self.available + self.reserved + self.sold == self.allotted,
            "conservation is broken for {}: available {} + reserved {} + sold {} != allotted {}",
            self.sku,
            self.available,
            self.reserved,
            self.sold,
            self.allotted
        );
    }
}

/// One user's units of one stock.
#[derive(Debug)]
struct User {
    stock: u32,
    name: UserId,
    /// Reserved and sold.
    units: u64,
}

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
    Reserved { reservation: u32, is_new_user: bool, key: Option<KeyInverse> },
    Confirmed { before: ReservationBefore, key: Option<KeyInverse> },
    Released { before: ReservationBefore, key: Option<KeyInverse> },
    Expired { before: Vec<ReservationBefore> },
}

/// What a reservation was before held units left it.
#[derive(Debug)]
struct ReservationBefore {
    slot: u32,
    /// How many units left.
    units: u32,
    resolved_at: Timestamp,
    last_exit: LastExit,
}

/// Where held units go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exit {
    Sold,
    Released,
    Expired,
}

impl Ledger {
    /// An empty ledger. `seed` keys its hash tables: secret, and of no influence on any decision.
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            stocks: Slab::new(),
            stocks_by_sku: SlotTable::new(seed),
            stocks_by_id: SlotTable::new(seed),
            stock_numbers: std::collections::BTreeMap::new(),
            reservations: Slab::new(),
            reservations_by_id: SlotTable::new(seed),
            users: Slab::new(),
            users_by_name: SlotTable::new(seed),
            keys: KeyTable::new(seed, rules.idempotency_seconds),
            wheel: Wheel::default(),
            last_applied: Timestamp::default(),
            open_holds: 0,
        }
    }

    /// The rules it was made with.
    pub const fn rules(&self) -> Rules {
        self.rules
    }

    /// The time of the newest applied event; no batch may be stamped earlier.
    pub const fn last_applied(&self) -> Timestamp {
        self.last_applied
    }

    /// Reservations that hold at least one unit.
    pub const fn open_holds(&self) -> u64 {
        self.open_holds
    }

    /// Reservations kept in memory, open or resolved.
    pub const fn reservation_count(&self) -> usize {
        self.reservations.len()
    }

    /// Keys kept in memory.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The moment at which [`crate::decide_lapse`] next has work, if any unit is held.
    pub fn next_lapse(&self) -> Option<Timestamp> {
        self.wheel.next_due()
    }

    /// Every stock, in the order of creation.
    pub fn stocks(&self) -> impl Iterator<Item = StockView> + '_ {
        self.stocks.iter().map(Stock::view)
    }

    /// Every reservation in memory, in the order of the grants.
    pub fn reservations(&self) -> impl Iterator<Item = ReservationView> + '_ {
        self.reservations.iter().map(|reservation| self.view(reservation))
    }

    /// One stock, if it is there.
    pub fn stock(&self, id: StockId) -> Option<StockView> {
        self.stock_slot_of(id).map(|slot| self.stocks[slot].view())
    }

    /// One stock by its name, if it is there.
    pub fn stock_of_sku(&self, sku: &Sku) -> Option<StockView> {
        self.stock_slot(sku).map(|slot| self.stocks[slot].view())
    }

    /// One reservation, if it is there.
    pub fn reservation(&self, id: ReservationId) -> Option<ReservationView> {
        self.reservation_slot(id).map(|slot| self.view(&self.reservations[slot]))
    }

    /// What a user has of a stock, reserved and sold.
    pub fn user_units(&self, id: StockId, user: &UserId) -> u64 {
        self.stock_slot_of(id).map_or(0, |stock| self.units_of(stock, user))
    }

    /// True when `request` carries a key that is not known and the key table has no room for it: the request must be refused, not
    /// decided, so that it neither forgets an old key nor goes unremembered.
    pub fn lacks_room_for_key(&self, request: &Request, now: Timestamp) -> bool {
        let Some(idempotency) = request.idempotency else { return false };
        // A key that is over makes room even before it is dropped: dropping waits for log time, which moves only when something is logged.
        if self.keys.len() < self.rules.idempotency_keys_max || self.keys.has_spare(now) {
            return false;
        }
        let stock = match &request.command {
            Command::Reserve { sku, .. } => self.stock_slot(sku),
            Command::Confirm { reservation, .. } | Command::Release { reservation, .. } => self.stock_slot_of(reservation.stock),
            Command::CreateStock { .. } | Command::ReadReservation { .. } => None,
        };
        stock.is_some_and(|stock| self.keys.get(stock, idempotency.key, now).is_none())
    }

    /// Drops up to `limit` keys whose time is over at `committed`, a time no undo reaches behind. Changes no decision.
    pub fn forget_keys(&mut self, committed: Timestamp, limit: usize) {
        self.keys.forget(committed, limit);
    }

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
                assert_eq!(self.stocks[stock].grants + 1, sequence.0, "a grant is out of order for {}", self.stocks[stock].sku);
                let reservation = Reservation {
                    sequence: *sequence,
                    reserved_at: at,
                    expires_at: *expires_at,
                    resolved_at: Timestamp::default(),
                    reference: reference.clone().map(Box::new),
                    stock,
                    user: NIL,
                    reserved: quantity.units(),
                    confirmed: 0,
                    released: 0,
                    next: NIL,
                    previous: NIL,
                    last_exit: LastExit::None,
                };
                self.reserve(reservation, user, *idempotency, at)
            }
            Event::Confirmed { reservation, quantity, idempotency } => {
                let before = self.leave(*reservation, Some(*quantity), Exit::Sold, at);
                let key = self.remember(before.slot, *idempotency, false, at);
                InverseChange::Confirmed { before, key }
            }
            Event::Released { reservation, quantity, idempotency } => {
                let before = self.leave(*reservation, Some(*quantity), Exit::Released, at);
                let key = self.remember(before.slot, *idempotency, false, at);
                InverseChange::Released { before, key }
            }
            Event::Expired { reservations } => {
                let before = reservations.iter().map(|reservation| self.leave(*reservation, None, Exit::Expired, at)).collect();
                InverseChange::Expired { before }
            }
        };
        Inverse { change, last_applied }
    }

    /// Takes back the newest event that was applied and not yet undone.
    pub fn undo(&mut self, inverse: Inverse) {
        match inverse.change {
            InverseChange::StockCreated { stock } => self.undo_create_stock(stock),
            InverseChange::Reserved { reservation, is_new_user, key } => {
                self.undo_key(key);
                self.undo_reserve(reservation, is_new_user);
            }
            InverseChange::Confirmed { before, key } => {
                self.undo_key(key);
                self.undo_leave(&before, Exit::Sold);
            }
            InverseChange::Released { before, key } => {
                self.undo_key(key);
                self.undo_leave(&before, Exit::Released);
            }
            InverseChange::Expired { before } => {
                for before in before.iter().rev() {
                    self.undo_leave(before, Exit::Expired);
                }
            }
        }
        self.last_applied = inverse.last_applied;
    }

    pub(crate) fn stock_slot(&self, sku: &Sku) -> Option<u32> {
        self.stocks_by_sku.find(self.stocks_by_sku.hash(sku), |slot| self.stocks[slot].sku == *sku)
    }

    pub(crate) fn reservation_slot(&self, id: ReservationId) -> Option<u32> {
        let stock = self.stock_slot_of(id.stock)?;
        let hash = self.reservations_by_id.hash(&(stock, id.sequence));
        self.reservations_by_id.find(hash, |slot| {
            let reservation = &self.reservations[slot];
            reservation.stock == stock && reservation.sequence == id.sequence
        })
    }

    pub(crate) fn id_of(&self, reservation: u32) -> ReservationId {
        let reservation = &self.reservations[reservation];
        ReservationId { stock: self.stocks[reservation.stock].id, sequence: reservation.sequence }
    }

    pub(crate) fn next_stock_id(&self, partition: Partition) -> StockId {
        let newest = self.stock_numbers.get(&partition).map_or(0, |number| number.0);
        StockId { partition, number: StockNumber(newest + 1) }
    }

    pub(crate) fn units_of(&self, stock: u32, user: &UserId) -> u64 {
        self.user_slot(stock, user).map_or(0, |slot| self.users[slot].units)
    }

    pub(crate) fn known_key(&self, stock: u32, idempotency: Idempotency, now: Timestamp) -> Option<&KeyEntry> {
        self.keys.get(stock, idempotency.key, now)
    }

    pub(crate) fn due(&self, now: Timestamp, limit: usize) -> impl Iterator<Item = ReservationId> + '_ {
        self.wheel.due(&self.reservations, now, limit).map(|slot| self.id_of(slot))
    }

    fn stock_slot_of(&self, id: StockId) -> Option<u32> {
        self.stocks_by_id.find(self.stocks_by_id.hash(&id), |slot| self.stocks[slot].id == id)
    }

    fn user_slot(&self, stock: u32, user: &UserId) -> Option<u32> {
        let hash = self.users_by_name.hash(&(stock, user));
        self.users_by_name.find(hash, |slot| self.users[slot].stock == stock && self.users[slot].name == *user)
    }

    fn view(&self, reservation: &Reservation) -> ReservationView {
        let stock = &self.stocks[reservation.stock];
        let quantity = u64::from(reservation.reserved) + u64::from(reservation.confirmed) + u64::from(reservation.released);
        let Ok(quantity) = Quantity::new(quantity) else { unreachable!("the counts of a reservation sum to its quantity") };
        ReservationView {
            id: ReservationId { stock: stock.id, sequence: reservation.sequence },
            sku: stock.sku.clone(),
            user: self.users[reservation.user].name.clone(),
            quantity,
            reserved: reservation.reserved,
            confirmed: reservation.confirmed,
            released: reservation.released,
            state: match (reservation.reserved, reservation.confirmed, reservation.last_exit) {
                (1.., _, _) => ReservationState::Reserved,
                (0, 1.., _) => ReservationState::Confirmed,
                (0, 0, LastExit::Expired) => ReservationState::Expired,
                (0, 0, _) => ReservationState::Released,
            },
            reference: reservation.reference.as_deref().cloned(),
            reserved_at: reservation.reserved_at,
            expires_at: reservation.expires_at,
            resolved_at: (reservation.reserved == 0).then_some(reservation.resolved_at),
        }
    }

    fn expect_stock(&self, id: StockId) -> u32 {
        self.stock_slot_of(id).unwrap_or_else(|| panic!("an event names a stock that is not in the ledger: {id:?}"))
    }

    fn create_stock(&mut self, id: StockId, sku: &Sku, quantity: Allotment, terms: &StockTerms) -> InverseChange {
        assert_eq!(id, self.next_stock_id(id.partition), "a stock's number is out of order");
        assert!(self.stock_slot(sku).is_none(), "the stock {sku} was created twice");
        let units = quantity.units();
        let stock = self.stocks.push(Stock {
            id,
            sku: sku.clone(),
            first_quantity: quantity,
            terms: terms.clone(),
            allotted: units,
            available: units,
            reserved: 0,
            sold: 0,
            grants: 0,
        });
        self.stocks_by_sku.insert(self.stocks_by_sku.hash(sku), stock);
        self.stocks_by_id.insert(self.stocks_by_id.hash(&id), stock);
        self.stock_numbers.insert(id.partition, id.number);
        InverseChange::StockCreated { stock }
    }

    fn undo_create_stock(&mut self, slot: u32) {
        let stock = self.stocks.pop(slot);
        self.stocks_by_sku.remove(self.stocks_by_sku.hash(&stock.sku), slot);
        self.stocks_by_id.remove(self.stocks_by_id.hash(&stock.id), slot);
        match stock.id.number.0 - 1 {
            0 => self.stock_numbers.remove(&stock.id.partition),
            number => self.stock_numbers.insert(stock.id.partition, StockNumber(number)),
        };
    }

    fn reserve(
        &mut self,
        mut reservation: Reservation,
        user: &UserId,
        idempotency: Option<Idempotency>,
        at: Timestamp,
    ) -> InverseChange {
        let units = u64::from(reservation.reserved);
        let (user, is_new_user) = self.user_or_new(reservation.stock, user);
        reservation.user = user;
        self.users[user].units += units;

        let stock = &mut self.stocks[reservation.stock];
        assert!(stock.available >= units, "oversold {}: {units} units granted where {} are available", stock.sku, stock.available);
        stock.available -= units;
        stock.reserved += units;
        stock.grants = reservation.sequence.0;
        stock.assert_conserved();

        let hash = self.reservations_by_id.hash(&(reservation.stock, reservation.sequence));
        let slot = self.reservations.push(reservation);
        self.reservations_by_id.insert(hash, slot);
        self.wheel.insert(&mut self.reservations, slot);
        self.open_holds += 1;
        let key = self.remember(slot, idempotency, true, at);
        InverseChange::Reserved { reservation: slot, is_new_user, key }
    }

    fn undo_reserve(&mut self, slot: u32, is_new_user: bool) {
        self.wheel.remove(&mut self.reservations, slot);
        self.open_holds -= 1;
        let reservation = self.reservations.pop(slot);
        let hash = self.reservations_by_id.hash(&(reservation.stock, reservation.sequence));
        self.reservations_by_id.remove(hash, slot);

        let units = u64::from(reservation.reserved);
        let stock = &mut self.stocks[reservation.stock];
        stock.available += units;
        stock.reserved -= units;
        stock.grants -= 1;
        stock.assert_conserved();

        self.users[reservation.user].units -= units;
        if is_new_user {
            let user = self.users.pop(reservation.user);
            self.users_by_name.remove(self.users_by_name.hash(&(user.stock, &user.name)), reservation.user);
        }
    }

    /// The slot of a user of a stock, and whether it was made just now.
    fn user_or_new(&mut self, stock: u32, user: &UserId) -> (u32, bool) {
        if let Some(slot) = self.user_slot(stock, user) {
            return (slot, false);
        }
        let slot = self.users.push(User { stock, name: user.clone(), units: 0 });
        self.users_by_name.insert(self.users_by_name.hash(&(stock, user)), slot);
        (slot, true)
    }

    fn remember(&mut self, reservation: u32, idempotency: Option<Idempotency>, created: bool, at: Timestamp) -> Option<KeyInverse> {
        let stock = self.reservations[reservation].stock;
        idempotency.map(|idempotency| self.keys.insert(stock, idempotency, reservation, created, at))
    }

    fn undo_key(&mut self, key: Option<KeyInverse>) {
        if let Some(key) = key {
            self.keys.undo(key);
        }
    }

    /// Moves `quantity` held units (all of them when `None`) out of a reservation.
    fn leave(&mut self, id: ReservationId, quantity: Option<Quantity>, exit: Exit, at: Timestamp) -> ReservationBefore {
        let Some(slot) = self.reservation_slot(id) else {
            panic!("an event names a reservation that is not in the ledger: {id:?}")
        };
        let reservation = &mut self.reservations[slot];
        let units = quantity.map_or(reservation.reserved, Quantity::units);
        assert!(
            units > 0 && units <= reservation.reserved,
            "{units} units leave reservation {id:?}, which holds {}",
            reservation.reserved
        );
        let before = ReservationBefore { slot, units, resolved_at: reservation.resolved_at, last_exit: reservation.last_exit };
        reservation.reserved -= units;
        match exit {
            Exit::Sold => reservation.confirmed += units,
            Exit::Released => {
                reservation.released += units;
                reservation.last_exit = LastExit::Released;
            }
            Exit::Expired => {
                reservation.released += units;
                reservation.last_exit = LastExit::Expired;
            }
        }
        if reservation.reserved == 0 {
            reservation.resolved_at = at;
            self.wheel.remove(&mut self.reservations, slot);
            self.open_holds -= 1;
        }
        let (stock, user) = (self.reservations[slot].stock, self.reservations[slot].user);
        let units = u64::from(units);
        let stock = &mut self.stocks[stock];
        stock.reserved -= units;
        if exit == Exit::Sold {
            stock.sold += units;
        } else {
            stock.available += units;
            self.users[user].units -= units;
        }
        stock.assert_conserved();
        before
    }

    fn undo_leave(&mut self, before: &ReservationBefore, exit: Exit) {
        let reservation = &mut self.reservations[before.slot];
        let was_resolved = reservation.reserved == 0;
        reservation.reserved += before.units;
        match exit {
            Exit::Sold => reservation.confirmed -= before.units,
            Exit::Released | Exit::Expired => reservation.released -= before.units,
        }
        reservation.resolved_at = before.resolved_at;
        reservation.last_exit = before.last_exit;
        let (stock, user) = (reservation.stock, reservation.user);
        if was_resolved {
            self.wheel.insert(&mut self.reservations, before.slot);
            self.open_holds += 1;
        }
        let units = u64::from(before.units);
        let stock = &mut self.stocks[stock];
        stock.reserved += units;
        if exit == Exit::Sold {
            stock.sold -= units;
        } else {
            stock.available -= units;
            self.users[user].units += units;
        }
        stock.assert_conserved();
    }
}

impl Stock {
    fn view(&self) -> StockView {
        StockView {
            id: self.id,
            sku: self.sku.clone(),
            allotted: self.allotted,
            available: self.available,
            reserved: self.reserved,
            sold: self.sold,
            terms: self.terms.clone(),
        }
    }
}
