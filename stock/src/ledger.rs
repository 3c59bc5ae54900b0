//! The ledger of one shard: stocks, reservations, users' units, remembered keys. Its state and how it is read; what changes it is in
//! `apply.rs`, what leaves and re-enters memory in `eviction.rs`, copies of the whole in `snapshot.rs`.

use crate::command::{Command, Request, StockTerms};
use crate::grants::Grants;
use crate::keys::KeyTable;
use crate::names::{NameId, Names};
use crate::record::{ReservationRecord, StockRecord};
use crate::reservation::{NIL, Reservation};
use crate::slab::{Queue, Slab};
use crate::snapshot::Copying;
use crate::sum::{StockSum, Sums};
use crate::table::SlotTable;
use crate::values::{
    Allotment, ChangeSequence, GrantSequence, Partition, Reference, ReservationId, Revision, Sku, StockId, StockNumber, Timestamp,
    UserId,
};
use crate::view::{Life, ReservationView, StockView};
use crate::wheel::Wheel;

pub use crate::apply::Inverse;

/// Rules that hold for a whole ledger. They must be the same wherever the same log is decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a key is remembered after its command, by log time.
    pub idempotency_seconds: u32,
    /// Most keys that are remembered at once, at most [`crate::limits::IDEMPOTENCY_KEYS_MAX`]; beyond, new keyed work is refused. Keys
    /// that are over and not yet dropped do not count against it, so there may be a few more for as long as that takes.
    pub idempotency_keys_max: usize,
    /// How long a reservation stays readable after its last held unit went; not shorter than `idempotency_seconds`. The history keeps it
    /// for `idempotency_seconds` more, for repeats of what was done to it at the last moment.
    pub retention_seconds: u32,
    /// Most reservations in memory, at most [`crate::limits::RESERVATIONS_IN_MEMORY_MAX`]; beyond, new ones are refused.
    pub reservations_in_memory_max: usize,
    /// Most users in memory, counted once for each stock, at most [`crate::limits::USERS_IN_MEMORY_MAX`]; beyond, reservations of new ones
    /// are refused. Who has units of a stock stays until that is archived.
    pub users_in_memory_max: usize,
}

/// Why a request must be refused instead of decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// No further key can be remembered, and none may be forgotten.
    Keys,
    /// No further reservation fits into memory.
    Reservations,
    /// No further user fits into memory.
    Users,
}

/// The state of one shard's products.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) rules: Rules,
    pub(crate) stocks: Slab<Stock>,
    pub(crate) stocks_by_sku: SlotTable,
    pub(crate) stocks_by_id: SlotTable,
    /// Highest stock number given in each partition that has any.
    pub(crate) stock_numbers: std::collections::BTreeMap<Partition, StockNumber>,
    pub(crate) reservations: Slab<Reservation>,
    pub(crate) users: Slab<User>,
    pub(crate) users_by_name: SlotTable,
    pub(crate) names: Names,
    pub(crate) keys: KeyTable,
    pub(crate) wheel: Wheel,
    pub(crate) last_applied: Timestamp,
    pub(crate) open_holds: u64,
    /// Reservations that hold nothing, in the order in which events brought that about, and when.
    pub(crate) resolved: Queue<(u32, Timestamp)>,
    /// The same of those that were changed once more. Apart, so that undoing an event finds its own entry at the end of the other.
    pub(crate) resolved_again: Queue<(u32, Timestamp)>,
    /// Stocks whose archiving may still be undone, so that their users must stay, and when it was.
    pub(crate) archived: Queue<(u32, Timestamp)>,
    /// The next user to look at for one whom an archived stock no longer needs, while that is under way.
    pub(crate) sweep: Option<u32>,
    pub(crate) copying: Option<Box<Copying>>,
    pub(crate) sums: Sums,
}

/// One product.
#[derive(Debug)]
pub(crate) struct Stock {
    pub(crate) id: StockId,
    pub(crate) sku: Sku,
    pub(crate) first_quantity: Allotment,
    pub(crate) terms: StockTerms,
    pub(crate) life: Life,
    pub(crate) revision: Revision,
    pub(crate) allotted: u64,
    pub(crate) available: u64,
    pub(crate) reserved: u64,
    pub(crate) sold: u64,
    /// The place of the newest grant; 0 before the first.
    pub(crate) grants: u64,
    /// The place of the newest change.
    pub(crate) changes: ChangeSequence,
    /// Whether it was archived, and that is committed: users' counts are of no use any more.
    pub(crate) is_archived_for_good: bool,
    pub(crate) in_memory: Grants,
    pub(crate) sum: StockSum,
}

impl Stock {
    pub(crate) fn assert_conserved(&self) {
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

    pub(crate) fn is_closed(&self, now: Timestamp) -> bool {
        self.life.is_over(&self.terms, now)
    }

    pub(crate) fn view(&self) -> StockView {
        StockView {
            id: self.id,
            sku: self.sku.clone(),
            allotted: self.allotted,
            available: self.available,
            reserved: self.reserved,
            sold: self.sold,
            terms: self.terms.clone(),
            life: self.life,
            revision: self.revision,
        }
    }

    pub(crate) fn record(&self) -> StockRecord {
        StockRecord {
            id: self.id,
            sku: self.sku.clone(),
            first_quantity: self.first_quantity,
            terms: self.terms.clone(),
            allotted: self.allotted,
            available: self.available,
            reserved: self.reserved,
            sold: self.sold,
            grants: self.grants,
            changes: self.changes,
            revision: self.revision,
            is_paused: self.life.is_paused,
            is_closed: self.life.is_closed,
            is_archived: self.life.is_archived,
        }
    }
}

/// One user's units of one stock. Kept while there are any, or a reservation of theirs is in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) name: NameId,
    pub(crate) stock: u32,
    /// Reserved and sold, in two halves, so that a user needs no more than 20 bytes.
    units: [u32; 2],
    /// The newest of their reservations in memory.
    pub(crate) newest: u32,
}

const _: () = assert!(size_of::<User>() == 20);

impl User {
    pub(crate) const fn new(stock: u32, name: NameId) -> Self {
        Self { name, stock, units: [0; 2], newest: NIL }
    }

    pub(crate) fn units(&self) -> u64 {
        let [high, low] = self.units;
        u64::from(high) << 32 | u64::from(low)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves together are the whole")]
    pub(crate) const fn set_units(&mut self, units: u64) {
        self.units = [(units >> 32) as u32, units as u32];
    }
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
            users: Slab::new(),
            users_by_name: SlotTable::new(seed),
            names: Names::new(),
            keys: KeyTable::new(seed, rules.idempotency_seconds),
            wheel: Wheel::default(),
            last_applied: Timestamp::default(),
            open_holds: 0,
            resolved: Queue::new(),
            resolved_again: Queue::new(),
            archived: Queue::new(),
            sweep: None,
            copying: None,
            sums: Sums::default(),
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

    /// Stocks.
    pub const fn stock_count(&self) -> usize {
        self.stocks.len()
    }

    /// Users kept in memory, counted once for each stock.
    pub const fn user_count(&self) -> usize {
        self.users.len()
    }

    /// Keys kept in memory.
    pub const fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The moment at which [`crate::decide_lapse`] next has work, if any unit is held.
    pub fn next_lapse(&self) -> Option<Timestamp> {
        self.wheel.next_due()
    }

    /// Every stock, in the order of creation.
    pub fn stocks(&self) -> impl Iterator<Item = StockView> + '_ {
        self.stocks.iter().map(|(_, stock)| stock.view())
    }

    /// Every reservation in memory, stock by stock in the order of the grants.
    pub fn reservations(&self) -> impl Iterator<Item = ReservationView> + '_ {
        self.stocks
            .iter()
            .flat_map(|(_, stock)| stock.in_memory.from(GrantSequence(1)).map(|(_, slot)| self.record_at(slot).view(&stock.sku)))
    }

    /// One stock, if it is there.
    pub fn stock(&self, id: StockId) -> Option<StockView> {
        self.stock_slot_of(id).map(|slot| self.stocks[slot].view())
    }

    /// One reservation, if it is in memory.
    pub fn reservation(&self, id: ReservationId) -> Option<ReservationView> {
        let slot = self.reservation_slot(id)?;
        Some(self.record_at(slot).view(&self.stocks[self.users[self.reservations[slot].user].stock].sku))
    }

    /// What a user has of a stock, reserved and sold. 0 once the stock is archived.
    pub fn user_units(&self, id: StockId, user: &UserId) -> u64 {
        self.stock_slot_of(id).filter(|stock| !self.stocks[*stock].life.is_archived).map_or(0, |stock| self.units_of(stock, user))
    }

    /// Whether `request` must be refused, not decided, because what it would add has no room: a key that is not known, so that it
    /// neither forgets an old key nor goes unremembered, a reservation, or its user.
    pub fn lacks_room(&self, request: &Request, now: Timestamp) -> Option<NoRoom> {
        // A key that is over makes room even before it is dropped: dropping waits for log time, which moves only when something is logged.
        let keys_full = self.keys.len() >= self.rules.idempotency_keys_max && !self.keys.has_spare(now);
        let is_full = self.reservations.len() >= self.rules.reservations_in_memory_max;
        let users_full = self.users.len() >= self.rules.users_in_memory_max;
        // Nearly always there is room, and nothing need be looked up.
        if !keys_full && !is_full && !users_full {
            return None;
        }
        let key_known = request.idempotency.and_then(|idempotency| {
            let stock = self.stock_slot_for(&request.command)?;
            Some(self.keys.get(stock, idempotency.key, now).is_some())
        });
        if keys_full && key_known == Some(false) {
            return Some(NoRoom::Keys);
        }
        // What names no stock is rejected, and needs no room.
        let Command::Reserve { sku, user, .. } = &request.command else { return None };
        let stock = self.stock_slot(sku).filter(|_| key_known != Some(true))?;
        if is_full {
            return Some(NoRoom::Reservations);
        }
        (users_full && self.user_slot(stock, user.as_str()).is_none()).then_some(NoRoom::Users)
    }

    /// The stock in whose name space the command's key is, if it takes one.
    fn stock_slot_for(&self, command: &Command) -> Option<u32> {
        match command {
            Command::Reserve { sku, .. } | Command::AdjustStock { sku, .. } => self.stock_slot(sku),
            Command::Confirm { reservation, .. }
            | Command::Release { reservation, .. }
            | Command::Return { reservation, .. }
            | Command::Extend { reservation, .. } => self.stock_slot_of(reservation.stock),
            Command::CreateStock { .. }
            | Command::ReadReservation { .. }
            | Command::ChangeStock { .. }
            | Command::StepStock { .. } => None,
        }
    }

    pub(crate) fn stock_slot(&self, sku: &Sku) -> Option<u32> {
        self.stocks_by_sku.find(self.stocks_by_sku.hash(sku), |slot| self.stocks[slot].sku == *sku)
    }

    pub(crate) fn stock_slot_of(&self, id: StockId) -> Option<u32> {
        self.stocks_by_id.find(self.stocks_by_id.hash(&id), |slot| self.stocks[slot].id == id)
    }

    pub(crate) fn reservation_slot(&self, id: ReservationId) -> Option<u32> {
        self.stocks[self.stock_slot_of(id.stock)?].in_memory.get(id.sequence)
    }

    pub(crate) fn stock_of(&self, reservation: u32) -> u32 {
        self.users[self.reservations[reservation].user].stock
    }

    pub(crate) fn id_of(&self, reservation: u32) -> ReservationId {
        ReservationId { stock: self.stocks[self.stock_of(reservation)].id, sequence: self.reservations[reservation].sequence() }
    }

    pub(crate) fn next_stock_id(&self, partition: Partition) -> StockId {
        let newest = self.stock_numbers.get(&partition).map_or(0, |number| number.0);
        StockId { partition, number: StockNumber(newest + 1) }
    }

    pub(crate) fn units_of(&self, stock: u32, user: &UserId) -> u64 {
        self.user_slot(stock, user.as_str()).map_or(0, |slot| self.users[slot].units())
    }

    pub(crate) fn due(&self, now: Timestamp, limit: usize) -> impl Iterator<Item = ReservationId> + '_ {
        self.wheel.due(&self.reservations, now, limit).map(|slot| self.id_of(slot))
    }

    pub(crate) fn user_slot(&self, stock: u32, user: &str) -> Option<u32> {
        self.users_by_name.find(self.user_hash(stock, user.as_bytes()), |slot| {
            self.users[slot].stock == stock && self.names.bytes(self.users[slot].name) == user.as_bytes()
        })
    }

    /// Whether `slot` is that of `user` of a stock.
    pub(crate) fn is_user(&self, slot: u32, stock: u32, user: &str) -> bool {
        self.users.is_occupied(slot)
            && self.users[slot].stock == stock
            && self.names.bytes(self.users[slot].name) == user.as_bytes()
    }

    pub(crate) fn user_hash(&self, stock: u32, user: &[u8]) -> crate::table::KeyHash {
        self.users_by_name.hash(&(stock, user))
    }

    /// A copy of a reservation in memory.
    pub(crate) fn record_at(&self, slot: u32) -> ReservationRecord {
        let reservation = &self.reservations[slot];
        ReservationRecord {
            id: self.id_of(slot),
            user: UserId::known(self.names.text(self.users[reservation.user].name)),
            reference: (reservation.reference != NameId::NONE).then(|| Reference::known(self.names.text(reservation.reference))),
            reserved_at: reservation.reserved_at(),
            expires_at: reservation.expires_at(),
            resolved_at: reservation.resolved_at(),
            reserved: reservation.reserved,
            confirmed: reservation.confirmed,
            released: reservation.released,
            returned: reservation.returned,
            last_exit: reservation.last_exit(),
        }
    }
}
