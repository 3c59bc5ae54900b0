//! Copies of a whole ledger as it stood at one moment, made in slices while it goes on changing, and ledgers made from them.
//!
//! What changes before its slice has come is copied first, as it was. What is added after the moment is left out. What leaves memory
//! after the moment may be left out: it was resolved before, and is in the history. A stock stands before its users and a user before
//! their reservations.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ahead::LOOKS_TOGETHER;
use crate::keys::{KeyEntry, KeyUse};
use crate::ledger::{Ledger, Rules, Stock};
use crate::record::{KeyRecord, ReservationRecord, StockRecord, UserRecord};
use crate::reservation::NIL;
use crate::slab::Slab;
use crate::values::{GrantSequence, Idempotency, Quantity, StockId, Timestamp, UserId};
use crate::view::Life;

/// One piece of a copy. Its serialised form is durable: variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotItem {
    /// The first piece.
    Begin {
        /// The time of the newest event in the copy.
        last_applied: Timestamp,
    },
    /// A stock.
    Stock(Box<StockRecord>),
    /// A user of a stock.
    User(UserRecord),
    /// A reservation in memory.
    Reservation(ReservationRecord),
    /// A remembered key.
    Key(KeyRecord),
    /// The last piece.
    End {
        /// How many pieces came before it.
        items: u64,
    },
}

/// How far a slice brought a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyProgress {
    /// There is more to come.
    More,
    /// The last piece was handed out.
    Done,
    /// No copy is being made: none was begun, or it was given up.
    None,
}

/// A copy that is being made.
#[derive(Debug)]
pub(crate) struct Copying {
    phase: Phase,
    stocks: Marks,
    users: Marks,
    reservations: Marks,
    keys: Marks,
    /// Stocks that were archived after the moment.
    archived_since: BTreeSet<u32>,
    /// Pieces that are due before their slice.
    early: VecDeque<SnapshotItem>,
    items: u64,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Stocks { next: u32 },
    Users { next: u32 },
    Reservations { stock: u32, next: GrantSequence },
    Keys { next: u32 },
    End,
}

/// Which slots are still to be copied: those that were there at the moment, until they are marked.
#[derive(Debug)]
struct Marks {
    bits: Vec<u64>,
    slots: u32,
}

impl Marks {
    fn new<T>(slab: &Slab<T>) -> Self {
        Self { bits: vec![0; slab.slots().div_ceil(u64::BITS) as usize], slots: slab.slots() }
    }

    /// Marks `slot`, and returns whether it was still to be copied.
    fn mark(&mut self, slot: u32) -> bool {
        if slot >= self.slots {
            return false;
        }
        let (word, bit) = (&mut self.bits[(slot / u64::BITS) as usize], 1 << (slot % u64::BITS));
        let is_due = *word & bit == 0;
        *word |= bit;
        is_due
    }
}

impl Ledger {
    /// Begins a copy of the ledger as it stands now. One that was begun before is given up.
    pub fn begin_copy(&mut self) {
        self.copying = Some(Box::new(Copying {
            phase: Phase::Stocks { next: 0 },
            stocks: Marks::new(&self.stocks),
            users: Marks::new(&self.users),
            reservations: Marks::new(&self.reservations),
            keys: Marks::new(self.keys.entries()),
            archived_since: BTreeSet::new(),
            early: VecDeque::from([SnapshotItem::Begin { last_applied: self.last_applied }]),
            items: 0,
        }));
    }

    /// Whether a copy is being made. One that was begun and has not come to its end was given up by an undo.
    pub const fn is_copying(&self) -> bool {
        self.copying.is_some()
    }

    /// Gives up the copy that is being made.
    pub fn give_up_copy(&mut self) {
        self.copying = None;
    }

    /// Hands out the pieces that are due before their slice, because of what has changed since the last call. They gather until this or
    /// [`Self::copy_slice`] is called.
    pub fn copy_early(&mut self, mut emit: impl FnMut(SnapshotItem)) {
        let Some(copying) = &mut self.copying else { return };
        for item in copying.early.drain(..) {
            copying.items += 1;
            emit(item);
        }
    }

    /// Hands out the next pieces of the copy: up to `looks_max`, after as many looks at records.
    pub fn copy_slice(&mut self, looks_max: usize, mut emit: impl FnMut(SnapshotItem)) -> CopyProgress {
        let Some(mut copying) = self.copying.take() else { return CopyProgress::None };
        for _ in 0..looks_max {
            let item = copying.early.pop_front().or_else(|| {
                let (phase, item) = self.next_piece(&mut copying);
                copying.phase = phase;
                item
            });
            let Some(item) = item else { continue };
            copying.items += 1;
            let is_end = matches!(item, SnapshotItem::End { .. });
            emit(item);
            if is_end {
                return CopyProgress::Done;
            }
        }
        self.copying = Some(copying);
        CopyProgress::More
    }

    fn next_piece(&self, copying: &mut Copying) -> (Phase, Option<SnapshotItem>) {
        match copying.phase {
            Phase::Stocks { next } if next >= copying.stocks.slots => (Phase::Users { next: 0 }, None),
            Phase::Stocks { next } => {
                let is_due = copying.stocks.mark(next) && self.stocks.is_occupied(next);
                (Phase::Stocks { next: next + 1 }, is_due.then(|| self.stock_item(next)))
            }
            Phase::Users { next } if next >= copying.users.slots => {
                (Phase::Reservations { stock: 0, next: GrantSequence(1) }, None)
            }
            Phase::Users { next } => {
                let is_due = copying.users.mark(next) && self.users.is_occupied(next);
                (Phase::Users { next: next + 1 }, if is_due { self.user_item(copying, next) } else { None })
            }
            Phase::Reservations { stock, .. } if stock >= copying.stocks.slots => (Phase::Keys { next: 0 }, None),
            Phase::Reservations { stock, next } => match self.stocks[stock].in_memory.from(next).next() {
                None => (Phase::Reservations { stock: stock + 1, next: GrantSequence(1) }, None),
                Some((sequence, slot)) => {
                    let item = copying.reservations.mark(slot).then(|| SnapshotItem::Reservation(self.record_at(slot)));
                    (Phase::Reservations { stock, next: GrantSequence(sequence.0 + 1) }, item)
                }
            },
            Phase::Keys { next } if next >= copying.keys.slots => (Phase::End, None),
            Phase::Keys { next } => {
                let is_due = copying.keys.mark(next) && self.keys.entries().is_occupied(next);
                let entry = Some(next)
                    .filter(|_| is_due && !mutant!(KeyTableDroppedAtSnapshot))
                    .map(|slot| &self.keys.entries()[slot])
                    .filter(|entry| !entry.is_superseded());
                (Phase::Keys { next: next + 1 }, entry.map(|entry| self.key_item(entry)))
            }
            Phase::End => (Phase::End, Some(SnapshotItem::End { items: copying.items })),
        }
    }

    fn stock_item(&self, slot: u32) -> SnapshotItem {
        SnapshotItem::Stock(Box::new(self.stocks[slot].record()))
    }

    /// An archived stock's user counts only as the one of a reservation, which names them.
    fn user_item(&self, copying: &Copying, slot: u32) -> Option<SnapshotItem> {
        let user = &self.users[slot];
        let stock = &self.stocks[user.stock];
        (!self.was_archived(copying, user.stock)).then(|| {
            SnapshotItem::User(UserRecord { stock: stock.id, user: UserId::known(self.names.text(user.name)), units: user.units() })
        })
    }

    fn key_item(&self, entry: &KeyEntry) -> SnapshotItem {
        SnapshotItem::Key(KeyRecord {
            stock: self.stocks[entry.stock].id,
            key: entry.key(),
            request: entry.request(),
            reservation: entry.reservation(),
            created: entry.created,
            at: entry.at,
        })
    }

    /// Before a stock changes.
    pub(crate) fn keep_image_of_stock(&mut self, slot: u32) {
        let Some(copying) = &mut self.copying else { return };
        if copying.stocks.mark(slot) {
            let item = SnapshotItem::Stock(Box::new(self.stocks[slot].record()));
            copying.early.push_back(item);
        }
    }

    /// Before a user's units change; their stock's image has been kept.
    pub(crate) fn keep_image_of_user(&mut self, slot: u32) {
        let Some(mut copying) = self.copying.take() else { return };
        if copying.users.mark(slot) {
            copying.early.extend(self.user_item(&copying, slot));
        }
        self.copying = Some(copying);
    }

    /// After another use of a key took its place; its stock's image has been kept.
    pub(crate) fn keep_image_of_key(&mut self, slot: u32) {
        let Some(mut copying) = self.copying.take() else { return };
        if copying.keys.mark(slot) {
            copying.early.push_back(self.key_item(&self.keys.entries()[slot]));
        }
        self.copying = Some(copying);
    }

    /// A stock was archived after the moment.
    pub(crate) fn note_archived(&mut self, slot: u32) {
        if let Some(copying) = &mut self.copying {
            copying.archived_since.insert(slot);
        }
    }

    /// Before a reservation changes; its stock's and its user's images have been kept.
    pub(crate) fn keep_image_of_reservation(&mut self, slot: u32) {
        let Some(mut copying) = self.copying.take() else { return };
        if copying.reservations.mark(slot) && !mutant!(BeforeImageLost) {
            copying.early.push_back(SnapshotItem::Reservation(self.record_at(slot)));
        }
        self.copying = Some(copying);
    }

    /// Whether a stock was archived at the moment of the copy.
    fn was_archived(&self, copying: &Copying, stock: u32) -> bool {
        self.stocks[stock].life.is_archived && !copying.archived_since.contains(&stock)
    }

    /// A stock was added after the moment.
    pub(crate) fn leave_stock_out(&mut self, slot: u32) {
        if let Some(copying) = &mut self.copying {
            copying.stocks.mark(slot);
        }
    }

    /// A user was added after the moment.
    pub(crate) fn leave_user_out(&mut self, slot: u32) {
        if let Some(copying) = &mut self.copying {
            copying.users.mark(slot);
        }
    }

    /// A reservation was added after the moment.
    pub(crate) fn leave_reservation_out(&mut self, slot: u32) {
        if let Some(copying) = &mut self.copying {
            copying.reservations.mark(slot);
        }
    }

    /// A key was added after the moment.
    pub(crate) fn leave_key_out(&mut self, slot: u32) {
        if let Some(copying) = &mut self.copying {
            copying.keys.mark(slot);
        }
    }
}

/// Why pieces make no ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadError {
    /// A piece came before the first or after the last, or the last never came.
    OutOfPlace,
    /// A piece belongs to a stock that has not come.
    UnknownStock(StockId),
    /// A piece came twice.
    Twice(Box<SnapshotItem>),
    /// The number of pieces is not the one that the last of them tells.
    Items {
        /// How many came.
        found: u64,
        /// How many were told.
        expected: u64,
    },
    /// A reservation is newer than the newest grant of its stock, or than any grant can be.
    BeyondGrants(Box<ReservationRecord>),
    /// A reservation's counts sum to nothing, or to more than one command can be about.
    NoQuantity(Box<ReservationRecord>),
    /// A stock's counters do not add up.
    NotConserved(Box<StockRecord>),
    /// A stock's units reserved are not those of its reservations.
    Reserved {
        /// The stock.
        stock: StockId,
        /// What it says.
        expected: u64,
        /// What its reservations hold.
        found: u64,
    },
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfPlace => formatter.write_str("a piece is out of place"),
            Self::UnknownStock(stock) => write!(formatter, "a piece belongs to a stock that has not come: {stock:?}"),
            Self::Twice(item) => write!(formatter, "a piece came twice: {item:?}"),
            Self::Items { found, expected } => write!(formatter, "{found} pieces came where {expected} were told"),
            Self::BeyondGrants(record) => write!(formatter, "a reservation is newer than its stock's newest grant: {record:?}"),
            Self::NoQuantity(record) => write!(formatter, "a reservation's counts sum to no quantity: {record:?}"),
            Self::NotConserved(stock) => write!(formatter, "the counters of {} do not add up: {stock:?}", stock.sku),
            Self::Reserved { stock, expected, found } => {
                write!(formatter, "{expected} units of {stock:?} are reserved, and its reservations hold {found}")
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// A ledger that is being made from a copy.
#[derive(Debug)]
pub struct Loader {
    ledger: Ledger,
    items: u64,
    has_begun: bool,
    has_ended: bool,
    /// Keys with their times, to be put in order.
    keys: Vec<(Timestamp, u32)>,
    /// Whose reservation came last.
    newest_user: Option<u32>,
}

impl Loader {
    /// A loader of a ledger with these rules and this seed, which need not be those of the copied one.
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self { ledger: Ledger::new(rules, seed), items: 0, has_begun: false, has_ended: false, keys: Vec::new(), newest_user: None }
    }

    /// Takes the next pieces, in order: as [`Self::add`] does one, and faster than that.
    pub fn add_all(&mut self, items: Vec<SnapshotItem>) -> Result<(), LoadError> {
        let mut items = items.into_iter();
        while !items.as_slice().is_empty() {
            items.as_slice().iter().take(LOOKS_TOGETHER).for_each(|item| self.ledger.look_ahead_at_item(item));
            items.by_ref().take(LOOKS_TOGETHER).try_for_each(|item| self.add(item))?;
        }
        Ok(())
    }

    /// Takes the next piece.
    pub fn add(&mut self, item: SnapshotItem) -> Result<(), LoadError> {
        if self.has_ended || self.has_begun == matches!(item, SnapshotItem::Begin { .. }) {
            return Err(LoadError::OutOfPlace);
        }
        match item {
            SnapshotItem::Begin { last_applied } => {
                self.ledger.last_applied = last_applied;
                self.has_begun = true;
            }
            SnapshotItem::Stock(record) => self.add_stock(record)?,
            SnapshotItem::User(record) => {
                let stock = self.stock(record.stock)?;
                let (slot, is_new) = self.ledger.user_or_new(stock, &record.user);
                if !is_new {
                    return Err(LoadError::Twice(Box::new(SnapshotItem::User(record))));
                }
                let moved = self.ledger.give_user_units(slot, record.user.as_str(), record.units);
                self.ledger.stocks[stock].sum.move_users(moved);
            }
            SnapshotItem::Reservation(record) => self.add_reservation(record)?,
            SnapshotItem::Key(record) => self.add_key(record)?,
            SnapshotItem::End { items } => {
                if items != self.items {
                    return Err(LoadError::Items { found: self.items, expected: items });
                }
                self.has_ended = true;
            }
        }
        self.items += 1;
        Ok(())
    }

    /// The ledger, once the last piece has been taken.
    pub fn finish(mut self) -> Result<Ledger, LoadError> {
        if !self.has_ended {
            return Err(LoadError::OutOfPlace);
        }
        let ledger = &mut self.ledger;
        for stock in 0..ledger.stocks.slots() {
            let mut held = 0;
            let slots: Vec<u32> = ledger.stocks[stock].in_memory.from(GrantSequence(1)).map(|(_, slot)| slot).collect();
            for slot in slots {
                held += u64::from(ledger.reservations[slot].reserved);
                ledger.link_newest_to_user(slot);
                if let Some(at) = ledger.reservations[slot].resolved_at() {
                    ledger.resolved.push_back((slot, at));
                }
            }
            let of = &ledger.stocks[stock];
            if held != of.reserved {
                return Err(LoadError::Reserved { stock: of.id, expected: of.reserved, found: held });
            }
        }
        self.keys.sort_unstable();
        ledger.keys.link_in_order(self.keys.into_iter().map(|(_, slot)| slot));
        // Their reservations left memory while the copy was made.
        for slot in 0..ledger.users.slots() {
            ledger.forget_user_if_idle(slot);
        }
        ledger.make_up_sums();
        Ok(self.ledger)
    }

    fn stock(&self, id: StockId) -> Result<u32, LoadError> {
        self.ledger.stock_slot_of(id).ok_or(LoadError::UnknownStock(id))
    }

    fn add_stock(&mut self, record: Box<StockRecord>) -> Result<(), LoadError> {
        if self.ledger.stock_slot_of(record.id).is_some() || self.ledger.stock_slot(&record.sku).is_some() {
            return Err(LoadError::Twice(Box::new(SnapshotItem::Stock(record))));
        }
        let sum = [record.available, record.reserved, record.sold].into_iter().try_fold(0_u64, u64::checked_add);
        if sum != Some(record.allotted) {
            return Err(LoadError::NotConserved(record));
        }
        // Stocks of one partition need not come in the order of their numbers.
        let newest = self.ledger.stock_numbers.get(&record.id.partition).copied();
        self.ledger.insert_stock(Stock {
            id: record.id,
            sku: record.sku,
            first_quantity: record.first_quantity,
            terms: record.terms,
            life: Life { is_paused: record.is_paused, is_closed: record.is_closed, is_archived: record.is_archived },
            revision: record.revision,
            allotted: record.allotted,
            available: record.available,
            reserved: record.reserved,
            sold: record.sold,
            grants: record.grants,
            changes: record.changes,
            is_archived_for_good: record.is_archived,
            in_memory: crate::grants::Grants::default(),
            sum: crate::sum::StockSum::default(),
        });
        if let Some(newest) = newest.filter(|newest| *newest > record.id.number && !mutant!(StockNumberFallsBack)) {
            self.ledger.stock_numbers.insert(record.id.partition, newest);
        }
        Ok(())
    }

    fn add_reservation(&mut self, record: ReservationRecord) -> Result<(), LoadError> {
        let stock = self.stock(record.id.stock)?;
        let of = &self.ledger.stocks[stock];
        if record.id.sequence.0 == 0 || record.id.sequence.0 > of.grants || record.id.sequence > GrantSequence::MAX {
            return Err(LoadError::BeyondGrants(Box::new(record)));
        }
        if Quantity::new(record.counts().sum()).is_err() {
            return Err(LoadError::NoQuantity(Box::new(record)));
        }
        if of.in_memory.get(record.id.sequence).is_some() {
            return Err(LoadError::Twice(Box::new(SnapshotItem::Reservation(record))));
        }
        let ledger = &mut self.ledger;
        // Users stand in the order in which they came, and so do most of their reservations: the next user is a good guess.
        let guess = self.newest_user.map_or(0, |user| user + 1);
        let user =
            if ledger.is_user(guess, stock, record.user.as_str()) { guess } else { ledger.user_or_new(stock, &record.user).0 };
        self.newest_user = Some(user);
        let mut reservation = ledger.reservation_of(&record, user);
        if record.reserved == 0 {
            reservation.set_resolved_at(record.resolved_at.unwrap_or(record.reserved_at));
        }
        let slot = ledger.reservations.push(reservation);
        ledger.stocks[stock].in_memory.insert(record.id.sequence, slot);
        if record.reserved > 0 {
            ledger.wheel.insert(&mut ledger.reservations, slot);
            ledger.move_sum(0, ledger.sum_of_reservation(slot));
            ledger.open_holds += 1;
        }
        Ok(())
    }

    fn add_key(&mut self, record: KeyRecord) -> Result<(), LoadError> {
        let stock = self.stock(record.stock)?;
        let used = KeyUse {
            stock,
            idempotency: Idempotency { key: record.key, request: record.request },
            reservation: record.reservation,
            created: record.created,
            at: record.at,
        };
        match self.ledger.keys.load(used) {
            Some(slot) => self.keys.push((record.at, slot)),
            None => return Err(LoadError::Twice(Box::new(SnapshotItem::Key(record)))),
        }
        Ok(())
    }
}

impl Ledger {
    /// Puts a reservation in front of all others of its user.
    fn link_newest_to_user(&mut self, slot: u32) {
        let user = self.reservations[slot].user;
        let older = std::mem::replace(&mut self.users[user].newest, slot);
        self.reservations[slot].older = older;
        if older != NIL {
            self.reservations[older].newer = slot;
        }
    }
}
