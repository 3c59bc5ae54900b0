//! An independent check of a log: does what happened keep what was promised?
//!
//! An [`Auditor`] is fed the events of one log in order and keeps plain books of its own. It knows the promises and the events, and
//! shares nothing with the ledger, with the decisions or with their tables, so that a mistake there cannot hide itself here.

mod book;
mod finding;
mod images;

use std::collections::BTreeMap;

use foldhash::quality::FixedState;
use hashbrown::HashSet;

use self::book::Book;
pub use self::finding::Finding;
use crate::command::StockTerms;
use crate::event::Event;
use crate::record::StockRecord;
use crate::snapshot::SnapshotItem;
use crate::sum::LedgerSum;
use crate::values::{Allotment, Idempotency, Partition, Sku, StockId, StockNumber, Timestamp};

/// One stock at the end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedStock {
    /// Its place.
    pub stock: StockId,
    /// Its name.
    pub sku: Sku,
    /// All units it was ever given, less those taken away.
    pub allotted: u64,
    /// Units that can be granted.
    pub available: u64,
    /// Units held, counted over the reservations.
    pub reserved: u64,
    /// Units sold.
    pub sold: u64,
    /// Grants made, which is also the sequence of the newest.
    pub grants: u64,
}

/// What a whole log amounts to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditSummary {
    /// Every stock, by place.
    pub stocks: Vec<AuditedStock>,
    /// Events observed.
    pub events: u64,
    /// Grants made.
    pub grants: u64,
    /// Units granted.
    pub granted_units: u64,
    /// Units that were sold.
    pub confirmed_units: u64,
    /// Units that callers gave back unsold.
    pub released_units: u64,
    /// Units that the clock took back.
    pub expired_units: u64,
    /// Units that came back after they were sold.
    pub returned_units: u64,
    /// Reservations that the books know: those granted, and of those from before a snapshot the ones in it or recalled since.
    pub reservations: u64,
    /// The time of the newest event.
    pub newest: Timestamp,
}

/// Checks a log event by event, from its beginning or from a snapshot.
///
/// Memory: 48 bytes a grant, about 70 for one from before the snapshot, about 32 bytes a remembered key, and about 80 bytes a user of a
/// stock.
#[derive(Debug)]
pub struct Auditor {
    seed: FixedState,
    remembered_ms: u64,
    stocks: BTreeMap<StockId, Book>,
    skus: HashSet<Sku, FixedState>,
    /// Highest stock number of each partition that has any.
    stock_numbers: BTreeMap<Partition, u32>,
    /// Everything but the stocks themselves, which are written down at the end.
    summary: AuditSummary,
    /// Pieces of a snapshot so far.
    items: u64,
    start: Start,
}

/// What the books begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Nothing yet.
    Empty,
    /// A snapshot of which more is to come.
    Loading,
    /// Whatever it was, it has been taken in.
    Done,
}

impl Auditor {
    /// An auditor of an empty log whose keys were remembered for `idempotency_seconds`: where that rule was changed while the log was
    /// written, the shortest time that ever held. `seed` keys the hash tables, and changes no finding.
    pub fn new(idempotency_seconds: u32, seed: u64) -> Self {
        let seed = FixedState::with_seed(seed);
        Self {
            remembered_ms: u64::from(idempotency_seconds) * 1_000,
            stocks: BTreeMap::new(),
            skus: HashSet::with_hasher(seed.clone()),
            seed,
            stock_numbers: BTreeMap::new(),
            summary: AuditSummary::default(),
            items: 0,
            start: Start::Empty,
        }
    }

    /// Takes the next piece of the snapshot that the log goes on from. All pieces come before the first event. A reservation that was
    /// granted before the snapshot and is not in it is unknown until an event recalls it.
    pub fn load(&mut self, item: &SnapshotItem) -> Result<(), Finding> {
        self.load_piece(item)?;
        self.items += 1;
        Ok(())
    }

    /// Checks the next event of the log, which happened at `at`. After a finding the books stand between two events: the log is
    /// bad at this place, and neither the rest of it nor a summary says anything more.
    ///
    /// # Panics
    /// When a snapshot was begun and has not come to its end.
    pub fn observe(&mut self, event: &Event, at: Timestamp) -> Result<(), Finding> {
        assert!(self.start != Start::Loading, "an event came before the snapshot's last piece");
        self.start = Start::Done;
        let newest = self.summary.newest;
        if at < newest {
            return Err(Finding::TimeBackwards { at, newest });
        }
        self.summary.newest = at;
        self.summary.events += 1;
        match event {
            Event::StockCreated { stock, sku, quantity, terms } => self.observe_created(*stock, sku, *quantity, terms),
            Event::Reserved { stock, sequence, user, quantity, expires_at, reference, idempotency } => {
                self.change(*stock, *idempotency, at)?.grant(*sequence, user, *quantity, *expires_at, reference.as_ref(), at)?;
                self.summary.grants += 1;
                self.summary.granted_units += u64::from(quantity.units());
                Ok(())
            }
            Event::Confirmed { reservation, quantity, idempotency } => {
                self.change(reservation.stock, *idempotency, at)?.confirm(reservation.sequence, *quantity, at)?;
                self.summary.confirmed_units += u64::from(quantity.units());
                Ok(())
            }
            Event::Released { reservation, quantity, idempotency } => {
                self.change(reservation.stock, *idempotency, at)?.release(reservation.sequence, *quantity, at)?;
                self.summary.released_units += u64::from(quantity.units());
                Ok(())
            }
            Event::Returned { reservation, quantity, idempotency } => {
                self.change(reservation.stock, *idempotency, at)?.take_back(reservation.sequence, *quantity)?;
                self.summary.returned_units += u64::from(quantity.units());
                Ok(())
            }
            Event::Extended { reservation, expires_at, idempotency } => {
                self.change(reservation.stock, *idempotency, at)?.extend(reservation.sequence, *expires_at, at)
            }
            Event::Expired { reservations } => {
                for reservation in reservations {
                    let units = self.change(reservation.stock, None, at)?.lapse(reservation.sequence, at)?;
                    self.summary.expired_units += u64::from(units);
                }
                Ok(())
            }
            Event::StockAdjusted { stock, delta, reason: _, idempotency } => {
                self.change(*stock, *idempotency, at)?.adjust(delta.units())
            }
            Event::StockChanged { stock, terms } => self.revise(*stock)?.change_terms(terms),
            Event::StockPaused { stock } => {
                let book = self.revise(*stock)?;
                book.is_paused = true;
                book.check_not_archived()
            }
            Event::StockReopened { stock } => {
                let book = self.revise(*stock)?;
                (book.is_paused, book.is_closed) = (false, false);
                book.check_not_archived()
            }
            Event::StockClosed { stock } => {
                let book = self.revise(*stock)?;
                book.is_closed = true;
                book.check_not_archived()
            }
            Event::StockArchived { stock } => self.revise(*stock)?.archive(at),
            Event::Recalled { record } => self.book_mut(record.id.stock)?.recall(record),
            // Its hash is for a ledger to make; what can be counted is counted here too.
            Event::Summed { sum } => self.check_sum(sum),
        }
    }

    /// What the log amounts to.
    ///
    /// # Panics
    /// When the auditor's own books do not add up, which no log can bring about.
    pub fn finish(mut self) -> AuditSummary {
        self.summary.reservations = self.stocks.values().map(Book::grants_known).sum();
        let stocks = self.stocks.into_iter().map(|(stock, book)| {
            let (reserved, sold) = book.counted();
            let adds_up = book.available + reserved + book.sold == book.allotted && (sold == book.sold || !book.has_begun_empty());
            assert!(adds_up, "the auditor's books of {} do not add up", book.sku);
            AuditedStock {
                stock,
                grants: book.grants_made(),
                sku: book.sku,
                allotted: book.allotted,
                available: book.available,
                reserved,
                sold: book.sold,
            }
        });
        AuditSummary { stocks: stocks.collect(), ..self.summary }
    }

    fn check_sum(&self, sum: &LedgerSum) -> Result<(), Finding> {
        let (told, found) = (sum.stocks, self.stocks.len() as u64);
        if told == found { Ok(()) } else { Err(Finding::StocksSummed { told, found }) }
    }

    fn observe_created(&mut self, stock: StockId, sku: &Sku, quantity: Allotment, terms: &StockTerms) -> Result<(), Finding> {
        let number = self.stock_numbers.entry(stock.partition).or_insert(0);
        let expected = StockNumber(*number + 1);
        if stock.number != expected {
            return Err(Finding::StockOutOfOrder { stock, expected });
        }
        if !self.skus.insert(sku.clone()) {
            return Err(Finding::DuplicateSku { sku: sku.clone() });
        }
        Book::check_terms(sku, terms)?;
        *number = stock.number.0;
        self.stocks.insert(stock, Book::opened(stock, sku, quantity, terms, &self.seed));
        Ok(())
    }

    fn load_piece(&mut self, item: &SnapshotItem) -> Result<(), Finding> {
        let bad = |what| Finding::SnapshotPiece { what, item: Box::new(item.clone()) };
        match (self.start, item) {
            (Start::Empty, SnapshotItem::Begin { last_applied }) => {
                self.start = Start::Loading;
                self.summary.newest = *last_applied;
                Ok(())
            }
            (Start::Loading, SnapshotItem::Stock(record)) => self.load_stock(record).map_err(bad),
            (Start::Loading, SnapshotItem::User(record)) => match self.stocks.get_mut(&record.stock) {
                None => Err(bad("a user of no stock")),
                Some(book) => book.add_user(&record.user, record.units).map_err(bad),
            },
            (Start::Loading, SnapshotItem::Reservation(record)) => match self.stocks.get_mut(&record.id.stock) {
                None => Err(bad("a reservation of no stock")),
                Some(book) => book.add_from_snapshot(record).map_err(bad),
            },
            (Start::Loading, SnapshotItem::Key(record)) => match self.stocks.get_mut(&record.stock) {
                None => Err(bad("a key of no stock")),
                Some(_) if record.at > self.summary.newest => Err(bad("a key of later")),
                Some(book) => book.add_key(record).map_err(bad),
            },
            (Start::Loading, SnapshotItem::End { items }) if *items == self.items => {
                self.start = Start::Done;
                self.check_loaded()
            }
            (Start::Loading, SnapshotItem::End { .. }) => Err(bad("another number of pieces")),
            _ => Err(bad("a piece out of place")),
        }
    }

    fn load_stock(&mut self, record: &StockRecord) -> Result<(), &'static str> {
        if self.stocks.contains_key(&record.id) || !self.skus.insert(record.sku.clone()) {
            return Err("a stock twice");
        }
        if Book::check_terms(&record.sku, &record.terms).is_err() {
            return Err("a stock whose settings contradict each other");
        }
        let sum = [record.reserved, record.sold].into_iter().try_fold(record.available, u64::checked_add);
        if sum != Some(record.allotted) {
            return Err("a stock whose counts do not add up");
        }
        let newest = self.stock_numbers.entry(record.id.partition).or_insert(0);
        *newest = (*newest).max(record.id.number.0);
        self.stocks.insert(record.id, Book::continued(record, &self.seed));
        Ok(())
    }

    /// What is held is in the snapshot, and so is every user who has anything.
    fn check_loaded(&self) -> Result<(), Finding> {
        for book in self.stocks.values() {
            let (sku, (held, sold)) = (|| book.sku.clone(), book.counted());
            if held != book.reserved {
                return Err(Finding::SnapshotSum { sku: sku(), what: "units reserved", expected: book.reserved, found: held });
            }
            if sold > book.sold {
                return Err(Finding::SnapshotSum { sku: sku(), what: "units sold", expected: book.sold, found: sold });
            }
            let (expected, found) = (book.reserved + book.sold, book.units_of_all());
            if !book.is_archived && expected != found {
                return Err(Finding::SnapshotSum { sku: sku(), what: "units of users", expected, found });
            }
        }
        Ok(())
    }

    /// The books of a stock that changes.
    fn change(&mut self, stock: StockId, idempotency: Option<Idempotency>, at: Timestamp) -> Result<&mut Book, Finding> {
        let remembered_ms = self.remembered_ms;
        let book = self.book_mut(stock)?;
        book.changes += 1;
        book.use_key(idempotency, at, remembered_ms)?;
        Ok(book)
    }

    /// The books of a stock whose settings or life change.
    fn revise(&mut self, stock: StockId) -> Result<&mut Book, Finding> {
        let book = self.book_mut(stock)?;
        book.changes += 1;
        book.revision += 1;
        Ok(book)
    }

    fn book_mut(&mut self, stock: StockId) -> Result<&mut Book, Finding> {
        self.stocks.get_mut(&stock).ok_or(Finding::UnknownStock { stock })
    }

    fn book(&self, stock: StockId) -> Result<&Book, Finding> {
        self.stocks.get(&stock).ok_or(Finding::UnknownStock { stock })
    }
}
