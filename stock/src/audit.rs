//! An independent check of a log: does what happened keep what was promised?
//!
//! An [`Auditor`] is fed the events of one log in order and keeps plain books of its own. It knows the promises and the events, and
//! shares nothing with the ledger, with the decisions or with their tables, so that a mistake there cannot hide itself here.

use std::collections::BTreeMap;
use std::fmt;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::command::StockTerms;
use crate::event::Event;
use crate::values::{
    Allotment, Fingerprint, GrantSequence, Idempotency, Partition, Quantity, ReservationId, Sku, StockId, StockNumber, Timestamp,
    UserId,
};

/// The user of a grant from a stock without a limit: nobody's units are counted there.
const NOBODY: u32 = u32::MAX;

/// Keys that a stock may gather before those whose time is over are dropped for the first time.
const KEYS_BEFORE_SWEEP: usize = 1_024;

/// A promise that the log breaks, with the place in the stock and the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An event is older than the one before it.
    TimeBackwards {
        /// The event's time.
        at: Timestamp,
        /// The time of the event before it.
        newest: Timestamp,
    },
    /// A sku was created twice.
    DuplicateSku {
        /// The product.
        sku: Sku,
    },
    /// A stock's number does not follow the newest of its partition.
    StockOutOfOrder {
        /// The place it was given.
        stock: StockId,
        /// The number that was due.
        expected: StockNumber,
    },
    /// An event names a stock that was never created.
    UnknownStock {
        /// The place it names.
        stock: StockId,
    },
    /// An event names a reservation that was never granted.
    UnknownReservation {
        /// The reservation it names.
        reservation: ReservationId,
    },
    /// A grant's sequence was given before, or skips one.
    GrantOutOfOrder {
        /// The product.
        sku: Sku,
        /// The sequence it was given.
        found: GrantSequence,
        /// The sequence that was due.
        expected: GrantSequence,
    },
    /// A grant while the stock was not open.
    OutsideWindow {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it was granted.
        at: Timestamp,
        /// When the stock opens.
        opens_at: Option<Timestamp>,
        /// When the stock closes.
        closes_at: Option<Timestamp>,
    },
    /// A hold shorter than a second, or longer than its stock allows.
    HoldOutOfBounds {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it was granted.
        at: Timestamp,
        /// When it ends.
        expires_at: Timestamp,
        /// The longest hold its stock allows, in seconds.
        seconds_max: u32,
    },
    /// A grant that gives a user more than the stock's limit.
    OverLimit {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What the user had, reserved and sold.
        has: u32,
        /// What was granted.
        granted: u32,
        /// The limit.
        limit: u32,
    },
    /// A grant of more units than were available.
    Oversold {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What was granted.
        granted: u32,
        /// What was available.
        available: u64,
    },
    /// A confirm or release of more units than the reservation held.
    MoreThanHeld {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// What left.
        left: u32,
        /// What it held.
        held: u32,
    },
    /// Units were sold when their hold was over.
    ConfirmedTooLate {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When they were sold.
        at: Timestamp,
        /// When their hold was over.
        expires_at: Timestamp,
    },
    /// A hold lapsed before its time.
    LapsedTooEarly {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
        /// When it lapsed.
        at: Timestamp,
        /// When it might have.
        expires_at: Timestamp,
    },
    /// A reservation lapsed that held nothing.
    LapsedNothing {
        /// The product.
        sku: Sku,
        /// Which grant.
        sequence: GrantSequence,
    },
    /// A key had an effect although it was still remembered from an earlier one.
    KeyUsedTwice {
        /// The product.
        sku: Sku,
        /// The first effect.
        first_at: Timestamp,
        /// The second.
        at: Timestamp,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeBackwards { at, newest } => {
                write!(formatter, "an event of {} ms follows one of {} ms", at.unix_ms(), newest.unix_ms())
            }
            Self::DuplicateSku { sku } => write!(formatter, "{sku} was created twice"),
            Self::StockOutOfOrder { stock, expected } => write!(
                formatter,
                "stock {} of partition {} was created where {} was due",
                stock.number.0, stock.partition.0, expected.0
            ),
            Self::UnknownStock { stock } => {
                write!(formatter, "stock {} of partition {} was never created", stock.number.0, stock.partition.0)
            }
            Self::UnknownReservation { reservation: ReservationId { stock, sequence } } => write!(
                formatter,
                "grant {} of stock {} of partition {} was never made",
                sequence.0, stock.number.0, stock.partition.0
            ),
            Self::GrantOutOfOrder { sku, found, expected } => {
                write!(formatter, "grant {} of {sku} was made where {} was due", found.0, expected.0)
            }
            Self::OutsideWindow { sku, sequence, at, opens_at, closes_at } => {
                write!(formatter, "grant {} of {sku} was made at {} ms, outside the window from ", sequence.0, at.unix_ms())?;
                write_end(formatter, *opens_at)?;
                formatter.write_str(" to ")?;
                write_end(formatter, *closes_at)
            }
            Self::HoldOutOfBounds { sku, sequence, at, expires_at, seconds_max } => write!(
                formatter,
                "grant {} of {sku} holds from {} ms to {} ms where 1 to {seconds_max} seconds are allowed",
                sequence.0,
                at.unix_ms(),
                expires_at.unix_ms()
            ),
            Self::OverLimit { sku, sequence, has, granted, limit } => write!(
                formatter,
                "grant {} of {sku} gives {granted} units to a user who has {has} where the limit is {limit}",
                sequence.0
            ),
            Self::Oversold { sku, sequence, granted, available } => {
                write!(formatter, "grant {} of {sku} gives {granted} units where {available} are available", sequence.0)
            }
            Self::MoreThanHeld { sku, sequence, left, held } => {
                write!(formatter, "{left} units left grant {} of {sku}, which held {held}", sequence.0)
            }
            Self::ConfirmedTooLate { sku, sequence, at, expires_at } => write!(
                formatter,
                "grant {} of {sku} was confirmed at {} ms, when its hold was over since {} ms",
                sequence.0,
                at.unix_ms(),
                expires_at.unix_ms()
            ),
            Self::LapsedTooEarly { sku, sequence, at, expires_at } => write!(
                formatter,
                "grant {} of {sku} lapsed at {} ms, when its hold was good until {} ms",
                sequence.0,
                at.unix_ms(),
                expires_at.unix_ms()
            ),
            Self::LapsedNothing { sku, sequence } => write!(formatter, "grant {} of {sku} lapsed and held nothing", sequence.0),
            Self::KeyUsedTwice { sku, first_at, at } => write!(
                formatter,
                "a key of {sku} that had its effect at {} ms had another at {} ms, while it was remembered",
                first_at.unix_ms(),
                at.unix_ms()
            ),
        }
    }
}

impl std::error::Error for Finding {}

fn write_end(formatter: &mut fmt::Formatter<'_>, end: Option<Timestamp>) -> fmt::Result {
    match end {
        Some(end) => write!(formatter, "{} ms", end.unix_ms()),
        None => formatter.write_str("any time"),
    }
}

/// One stock at the end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditedStock {
    /// Its place.
    pub stock: StockId,
    /// Its name.
    pub sku: Sku,
    /// All units it was ever given.
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
    /// Units that callers gave back.
    pub released_units: u64,
    /// Units that the clock took back.
    pub expired_units: u64,
    /// The time of the newest event.
    pub newest: Timestamp,
}

/// Checks a log event by event.
///
/// Memory: 16 bytes a grant, about 32 bytes a remembered key, and about 80 bytes a user of a stock that has a limit.
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
}

/// What is written down of one stock.
#[derive(Debug)]
struct Book {
    sku: Sku,
    terms: StockTerms,
    allotted: u64,
    available: u64,
    sold: u64,
    /// Grant n stands at n - 1.
    grants: Vec<Grant>,
    /// The users of a stock with a limit, each with a place in `units`.
    users: HashMap<UserId, u32, FixedState>,
    /// Reserved and sold, by user. Within 32 bits as the limit is.
    units: Vec<u32>,
    /// When each remembered key had its effect. Two halves instead of 128 bits save the padding.
    keys: HashMap<(u64, u64), Timestamp, FixedState>,
    sweep_keys_at: usize,
}

#[derive(Debug)]
struct Grant {
    expires_at: Timestamp,
    held: u32,
    user: u32,
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
        }
    }

    /// Checks the next event of the log, which happened at `at`. After a finding the books stand between two events: the log is
    /// bad at this place, and neither the rest of it nor a summary says anything more.
    pub fn observe(&mut self, event: &Event, at: Timestamp) -> Result<(), Finding> {
        let newest = self.summary.newest;
        if at < newest {
            return Err(Finding::TimeBackwards { at, newest });
        }
        self.summary.newest = at;
        self.summary.events += 1;
        match event {
            Event::StockCreated { stock, sku, quantity, terms } => self.observe_created(*stock, sku, *quantity, terms),
            Event::Reserved { stock, sequence, user, quantity, expires_at, reference: _, idempotency } => {
                let remembered_ms = self.remembered_ms;
                let book = self.stocks.get_mut(stock).ok_or(Finding::UnknownStock { stock: *stock })?;
                book.use_key(*idempotency, at, remembered_ms)?;
                book.grant(*sequence, user, *quantity, *expires_at, at)?;
                self.summary.grants += 1;
                self.summary.granted_units += u64::from(quantity.units());
                Ok(())
            }
            Event::Confirmed { reservation, quantity, idempotency } => {
                let remembered_ms = self.remembered_ms;
                let (book, grant) = self.find(*reservation)?;
                book.use_key(*idempotency, at, remembered_ms)?;
                book.confirm(grant, *quantity, at)?;
                self.summary.confirmed_units += u64::from(quantity.units());
                Ok(())
            }
            Event::Released { reservation, quantity, idempotency } => {
                let remembered_ms = self.remembered_ms;
                let (book, grant) = self.find(*reservation)?;
                book.use_key(*idempotency, at, remembered_ms)?;
                book.take_held(grant, quantity.units())?;
                book.give_back(grant, quantity.units());
                self.summary.released_units += u64::from(quantity.units());
                Ok(())
            }
            Event::Expired { reservations } => {
                for reservation in reservations {
                    let (book, grant) = self.find(*reservation)?;
                    let units = book.lapse(grant, at)?;
                    self.summary.expired_units += u64::from(units);
                }
                Ok(())
            }
        }
    }

    /// What the log amounts to.
    ///
    /// # Panics
    /// When the auditor's own books do not add up, which no log can bring about.
    pub fn finish(self) -> AuditSummary {
        let stocks = self.stocks.into_iter().map(|(stock, book)| {
            let reserved = book.grants.iter().map(|grant| u64::from(grant.held)).sum::<u64>();
            assert_eq!(book.available + reserved + book.sold, book.allotted, "the auditor's books of {} do not add up", book.sku);
            AuditedStock {
                stock,
                sku: book.sku,
                allotted: book.allotted,
                available: book.available,
                reserved,
                sold: book.sold,
                grants: book.grants.len() as u64,
            }
        });
        AuditSummary { stocks: stocks.collect(), ..self.summary }
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
        *number = stock.number.0;
        let book = Book {
            sku: sku.clone(),
            terms: terms.clone(),
            allotted: quantity.units(),
            available: quantity.units(),
            sold: 0,
            grants: Vec::new(),
            users: HashMap::with_hasher(self.seed.clone()),
            units: Vec::new(),
            keys: HashMap::with_hasher(self.seed.clone()),
            sweep_keys_at: KEYS_BEFORE_SWEEP,
        };
        self.stocks.insert(stock, book);
        Ok(())
    }

    fn find(&mut self, reservation: ReservationId) -> Result<(&mut Book, usize), Finding> {
        let book = self.stocks.get_mut(&reservation.stock).ok_or(Finding::UnknownStock { stock: reservation.stock })?;
        let grant = reservation.sequence.0.checked_sub(1).and_then(|place| usize::try_from(place).ok());
        match grant.filter(|grant| *grant < book.grants.len()) {
            Some(grant) => Ok((book, grant)),
            None => Err(Finding::UnknownReservation { reservation }),
        }
    }
}

impl Book {
    fn grant(
        &mut self,
        sequence: GrantSequence,
        user: &UserId,
        quantity: Quantity,
        expires_at: Timestamp,
        at: Timestamp,
    ) -> Result<(), Finding> {
        let expected = GrantSequence(self.grants.len() as u64 + 1);
        if sequence != expected {
            return Err(Finding::GrantOutOfOrder { sku: self.sku.clone(), found: sequence, expected });
        }
        let StockTerms { per_user_limit, hold_seconds: _, hold_seconds_max, opens_at, closes_at } = self.terms;
        if opens_at.is_some_and(|opens_at| at < opens_at) || closes_at.is_some_and(|closes_at| at >= closes_at) {
            return Err(Finding::OutsideWindow { sku: self.sku.clone(), sequence, at, opens_at, closes_at });
        }
        let seconds_max = hold_seconds_max.seconds();
        if expires_at < at.plus_seconds(1) || expires_at > at.plus_seconds(seconds_max) {
            return Err(Finding::HoldOutOfBounds { sku: self.sku.clone(), sequence, at, expires_at, seconds_max });
        }
        let granted = quantity.units();
        let available = self.available;
        let Some(rest) = available.checked_sub(u64::from(granted)) else {
            return Err(Finding::Oversold { sku: self.sku.clone(), sequence, granted, available });
        };
        let user = match per_user_limit {
            None => NOBODY,
            Some(limit) => {
                let user = self.place_of(user);
                let has = self.units[user as usize];
                if u64::from(has) + u64::from(granted) > u64::from(limit.units()) {
                    return Err(Finding::OverLimit { sku: self.sku.clone(), sequence, has, granted, limit: limit.units() });
                }
                self.units[user as usize] += granted;
                user
            }
        };
        self.available = rest;
        self.grants.push(Grant { expires_at, held: granted, user });
        Ok(())
    }

    fn confirm(&mut self, grant: usize, quantity: Quantity, at: Timestamp) -> Result<(), Finding> {
        let expires_at = self.grants[grant].expires_at;
        if at >= expires_at {
            return Err(Finding::ConfirmedTooLate { sku: self.sku.clone(), sequence: sequence_of(grant), at, expires_at });
        }
        self.take_held(grant, quantity.units())?;
        self.sold += u64::from(quantity.units());
        Ok(())
    }

    fn lapse(&mut self, grant: usize, at: Timestamp) -> Result<u32, Finding> {
        let Grant { expires_at, held, user: _ } = self.grants[grant];
        if at < expires_at {
            return Err(Finding::LapsedTooEarly { sku: self.sku.clone(), sequence: sequence_of(grant), at, expires_at });
        }
        if held == 0 {
            return Err(Finding::LapsedNothing { sku: self.sku.clone(), sequence: sequence_of(grant) });
        }
        self.take_held(grant, held)?;
        self.give_back(grant, held);
        Ok(held)
    }

    fn take_held(&mut self, grant: usize, left: u32) -> Result<(), Finding> {
        let held = self.grants[grant].held;
        match held.checked_sub(left) {
            Some(rest) => self.grants[grant].held = rest,
            None => return Err(Finding::MoreThanHeld { sku: self.sku.clone(), sequence: sequence_of(grant), left, held }),
        }
        Ok(())
    }

    fn give_back(&mut self, grant: usize, units: u32) {
        self.available += u64::from(units);
        let user = self.grants[grant].user;
        if user != NOBODY {
            self.units[user as usize] -= units;
        }
    }

    fn place_of(&mut self, user: &UserId) -> u32 {
        if let Some(place) = self.users.get(user) {
            return *place;
        }
        let Ok(place) = u32::try_from(self.units.len()) else { unreachable!("2^32 users do not fit in memory") };
        self.users.insert(user.clone(), place);
        self.units.push(0);
        place
    }

    fn use_key(&mut self, idempotency: Option<Idempotency>, at: Timestamp, remembered_ms: u64) -> Result<(), Finding> {
        let Some(Idempotency { key: Fingerprint(key), request: _ }) = idempotency else { return Ok(()) };
        let is_remembered = |since: Timestamp| at.unix_ms() < since.unix_ms().saturating_add(remembered_ms);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves together are the whole")]
        let halves = ((key >> 64) as u64, key as u64);
        match self.keys.insert(halves, at) {
            Some(first_at) if is_remembered(first_at) => {
                return Err(Finding::KeyUsedTwice { sku: self.sku.clone(), first_at, at });
            }
            _ => {}
        }
        // Dropping what is over when the table would grow, and not before, costs a constant for each key.
        if self.keys.len() >= self.sweep_keys_at {
            self.keys.retain(|_, since| is_remembered(*since));
            self.sweep_keys_at = KEYS_BEFORE_SWEEP.max(self.keys.len() * 2);
        }
        Ok(())
    }
}

const fn sequence_of(grant: usize) -> GrantSequence {
    GrantSequence(grant as u64 + 1)
}
