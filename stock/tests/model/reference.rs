//! The naive ledger that the real ones are held against: rows in a `Vec`, texts for names, and a linear scan for every sum.
//!
//! It is written from the contract's sentences and must not know how the crates under test do anything. The ledger alone is held
//! against it in `model.rs` beside this folder, and the whole engine in the engine's own tests, which take this file by its path.

/// A product's or a user's name.
pub(crate) type Name = &'static str;

/// A caller's name for an attempt.
pub(crate) type Key = u32;

/// What is asked for, in plain texts and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    Create {
        sku: Name,
        quantity: u64,
        terms: Terms,
    },
    /// `reference` stands for the text `order-` with that number.
    Reserve {
        sku: Name,
        user: Name,
        quantity: u64,
        hold_seconds: Option<u64>,
        reference: Option<u64>,
    },
    Confirm {
        grant: Grant,
        quantity: Option<u64>,
    },
    Release {
        grant: Grant,
        quantity: Option<u64>,
    },
    Read {
        grant: Grant,
    },
    Return {
        grant: Grant,
        quantity: Option<u64>,
    },
    Extend {
        grant: Grant,
        hold_seconds: u64,
    },
    /// Only if the revision is one of those named, if any are.
    Change {
        sku: Name,
        patch: Patch,
        if_revision: Option<[Option<u64>; 2]>,
    },
    Adjust {
        sku: Name,
        delta: i64,
        reason: Name,
    },
    Step {
        sku: Name,
        step: Step,
    },
}

impl Ask {
    /// The product that it is about.
    pub(crate) const fn sku(&self) -> Name {
        match self {
            Self::Create { sku, .. }
            | Self::Reserve { sku, .. }
            | Self::Change { sku, .. }
            | Self::Adjust { sku, .. }
            | Self::Step { sku, .. } => sku,
            Self::Confirm { grant, .. }
            | Self::Release { grant, .. }
            | Self::Read { grant }
            | Self::Return { grant, .. }
            | Self::Extend { grant, .. } => grant.sku,
        }
    }

    /// The reservation that it names.
    pub(crate) const fn grant(&self) -> Option<Grant> {
        match self {
            Self::Confirm { grant, .. }
            | Self::Release { grant, .. }
            | Self::Read { grant }
            | Self::Return { grant, .. }
            | Self::Extend { grant, .. } => Some(*grant),
            Self::Create { .. } | Self::Reserve { .. } | Self::Change { .. } | Self::Adjust { .. } | Self::Step { .. } => None,
        }
    }
}

/// A step in a stock's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Pause,
    Reopen,
    Close,
    Archive,
}

/// Which settings become what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[expect(clippy::option_option, reason = "a setting left alone and a setting taken away are two things")]
pub(crate) struct Patch {
    pub(crate) per_user_limit: Option<Option<u64>>,
    pub(crate) hold_seconds: Option<u64>,
    pub(crate) hold_seconds_max: Option<u64>,
    pub(crate) opens_at: Option<Option<u64>>,
    pub(crate) closes_at: Option<Option<u64>>,
}

/// A reservation's name: its product and the place of its grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Grant {
    pub(crate) sku: Name,
    pub(crate) sequence: u64,
}

/// A stock's settings; moments in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Terms {
    pub(crate) per_user_limit: Option<u64>,
    pub(crate) hold_seconds: u64,
    pub(crate) hold_seconds_max: u64,
    pub(crate) opens_at: Option<u64>,
    pub(crate) closes_at: Option<u64>,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Stock { sku: Name, created: bool, replayed: bool },
    Reservation { grant: Grant, created: bool, replayed: bool },
    No(No),
}

/// An answer, and the reservation that lapsed on the way.
type Yes = (Answer, Option<Grant>);

/// A rejection, and the reservation that lapsed on the way.
type Refused = (No, Option<Grant>);

/// How a call on a reservation fares before its own rules.
enum Met {
    /// It is a repeat.
    Before(Yes),
    /// It is looked at now; the reservation may have lapsed by that.
    Now(Option<Grant>),
}

/// A rejection with the numbers that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum No {
    UnknownSku,
    UnknownReservation,
    StockExists,
    IdempotencyKeyReused,
    HoldOutOfRange { asked: u64, max: u64 },
    Closed,
    NotOpen { opens_at: u64 },
    LimitReached { limit: u64, has: u64, asked: u64 },
    SoldOut { available: u64, asked: u64 },
    Released,
    Expired,
    Confirmed,
    Returned,
    NotConfirmed,
    MoreThanRemains { asked: u64, remaining: u64 },
    ExtendedTooFar { asked: u64, max: u64 },
    Paused,
    InUse { reserved: u64 },
    TooFewToTake { available: u64, delta: i64 },
    TooManyToHave { allotted: u64, delta: i64 },
    Changed,
    HoldOverMax { hold: u64, max: u64 },
    EmptyWindow { opens_at: u64, closes_at: u64 },
}

impl No {
    /// Its name in a tally.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::UnknownSku => "unknown sku",
            Self::UnknownReservation => "unknown reservation",
            Self::StockExists => "stock exists",
            Self::IdempotencyKeyReused => "idempotency key reused",
            Self::HoldOutOfRange { .. } => "hold over max",
            Self::Closed => "closed",
            Self::NotOpen { .. } => "not open",
            Self::LimitReached { .. } => "limit reached",
            Self::SoldOut { .. } => "sold out",
            Self::Released => "reservation released",
            Self::Expired => "reservation expired",
            Self::Confirmed => "reservation confirmed",
            Self::Returned => "reservation returned",
            Self::NotConfirmed => "reservation not confirmed",
            Self::MoreThanRemains { .. } => "quantity over remaining",
            Self::ExtendedTooFar { .. } => "extend over max",
            Self::Paused => "paused",
            Self::InUse { .. } => "stock in use",
            Self::TooFewToTake { .. } => "insufficient stock",
            Self::TooManyToHave { .. } => "allotted over max",
            Self::Changed => "precondition failed",
            Self::HoldOverMax { .. } => "terms contradict by hold",
            Self::EmptyWindow { .. } => "terms contradict by window",
        }
    }
}

/// A stock with its reservations, in the order of their grants.
#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub(crate) sku: Name,
    pub(crate) quantity: u64,
    /// All adjustments together.
    adjusted: i64,
    pub(crate) terms: Terms,
    pub(crate) is_paused: bool,
    pub(crate) is_closed: bool,
    pub(crate) is_archived: bool,
    /// How often settings or life changed, with the creation.
    pub(crate) revision: u64,
    /// How often anything of it changed, with the creation.
    changes: u64,
    pub(crate) reservations: Vec<Reservation>,
}

impl Stock {
    pub(crate) fn allotted(&self) -> u64 {
        self.quantity.checked_add_signed(self.adjusted).expect("no stock has less than nothing")
    }

    pub(crate) fn reserved(&self) -> u64 {
        self.reservations.iter().map(Reservation::held).sum()
    }

    pub(crate) fn sold(&self) -> u64 {
        self.reservations.iter().map(|reservation| reservation.confirmed).sum()
    }

    pub(crate) fn available(&self) -> u64 {
        self.allotted() - self.reserved() - self.sold()
    }

    /// A user's units reserved and sold; nobody counts them once the stock is archived.
    pub(crate) fn units_of(&self, user: &str) -> u64 {
        let own = self.reservations.iter().filter(|reservation| reservation.user == user);
        if self.is_archived { 0 } else { own.map(|reservation| reservation.held() + reservation.confirmed).sum() }
    }

    fn is_over(&self, now: u64) -> bool {
        self.is_archived || self.is_closed || self.terms.closes_at.is_some_and(|closes_at| closes_at <= now)
    }

    /// The first that holds of archived, closed, paused, scheduled, sold out, open.
    pub(crate) fn state(&self, now: u64) -> &'static str {
        if self.is_archived {
            "archived"
        } else if self.is_over(now) {
            "closed"
        } else if self.is_paused {
            "paused"
        } else if self.terms.opens_at.is_some_and(|opens_at| opens_at > now) {
            "scheduled"
        } else if self.available() == 0 {
            "sold_out"
        } else {
            "open"
        }
    }

    pub(crate) fn row(&self, now: u64) -> StockRow {
        StockRow {
            quantity: self.quantity,
            terms: self.terms,
            allotted: self.allotted(),
            available: self.available(),
            reserved: self.reserved(),
            sold: self.sold(),
            grants: self.reservations.len() as u64,
            revision: self.revision,
            is_paused: self.is_paused,
            is_closed: self.is_closed,
            is_archived: self.is_archived,
            state: self.state(now),
            adjustment: None,
        }
    }

    /// Everything that speaks against a grant, the first reason first.
    fn reasons(&self, user: &str, quantity: u64, hold: u64, now: u64) -> impl Iterator<Item = No> + use<> {
        let (has, available, terms) = (self.units_of(user), self.available(), &self.terms);
        let max = terms.hold_seconds_max;
        let opens_at = terms.opens_at.filter(|opens_at| *opens_at > now);
        let limit = terms.per_user_limit.filter(|limit| has + quantity > *limit);
        [
            (hold > max).then_some(No::HoldOutOfRange { asked: hold, max }),
            self.is_over(now).then_some(No::Closed),
            self.is_paused.then_some(No::Paused),
            opens_at.map(|opens_at| No::NotOpen { opens_at }),
            limit.map(|limit| No::LimitReached { limit, has, asked: quantity }),
            (available < quantity).then_some(No::SoldOut { available, asked: quantity }),
        ]
        .into_iter()
        .flatten()
    }
}

/// How units left a reservation other than by being sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenBack {
    Released,
    Lapsed,
    Returned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) grant: Grant,
    pub(crate) user: Name,
    pub(crate) quantity: u64,
    pub(crate) confirmed: u64,
    pub(crate) released: u64,
    pub(crate) returned: u64,
    pub(crate) reference: Option<u64>,
    pub(crate) reserved_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) resolved_at: Option<u64>,
    /// What took units back last.
    pub(crate) given_back_by: Option<GivenBack>,
}

impl Reservation {
    pub(crate) fn held(&self) -> u64 {
        self.quantity - self.confirmed - self.released - self.returned
    }

    /// `reserved` while any unit is held, else `confirmed` while any is sold, else by what happened last.
    pub(crate) fn state(&self) -> &'static str {
        match (self.held(), self.confirmed, self.given_back_by) {
            (1.., ..) => "reserved",
            (0, 1.., _) => "confirmed",
            (0, 0, Some(GivenBack::Lapsed)) => "expired",
            (0, 0, Some(GivenBack::Returned)) => "returned",
            (0, 0, _) => "released",
        }
    }
}

/// What is remembered of a call that changed something.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    sku: Name,
    key: Key,
    ask: Ask,
    /// Nothing for the stock itself.
    grant: Option<Grant>,
    created: bool,
    at: u64,
}

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Created,
    Changed,
    Adjusted,
    Paused,
    Reopened,
    Closed,
    Archived,
    Reserved,
    Confirmed,
    Released,
    Lapsed,
    Returned,
    Extended,
}

/// One change, as whoever follows them is to be told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) sku: Name,
    /// Its place among the changes of the product.
    pub(crate) number: u64,
    pub(crate) at: u64,
    pub(crate) left: Left,
}

/// What it changed, as that stood right after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Reservation(Reservation),
    Stock(StockRow),
}

/// A stock but for its reservations, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StockRow {
    pub(crate) quantity: u64,
    pub(crate) terms: Terms,
    pub(crate) allotted: u64,
    pub(crate) available: u64,
    pub(crate) reserved: u64,
    pub(crate) sold: u64,
    pub(crate) grants: u64,
    pub(crate) revision: u64,
    pub(crate) is_paused: bool,
    pub(crate) is_closed: bool,
    pub(crate) is_archived: bool,
    pub(crate) state: &'static str,
    /// By how much it was adjusted and why, if it was.
    pub(crate) adjustment: Option<(i64, Name)>,
}

/// The naive ledger.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    idempotency_ms: u64,
    retention_ms: u64,
    pub(crate) stocks: Vec<Stock>,
    remembered: Vec<Remembered>,
    /// What happened since somebody last took it away, in order.
    pub(crate) changes: Vec<Change>,
    /// The sum of the digests of all reservations, kept up with every change of one.
    pub(crate) digest: u64,
    /// Reservations that hold anything, kept up likewise.
    pub(crate) open_holds: u64,
    /// What would have been the reason to reject the last call if the one given had not held.
    pub(crate) next_reason: Option<No>,
}

impl Reference {
    pub(crate) fn new(idempotency_seconds: u64, retention_seconds: u64) -> Self {
        Self {
            idempotency_ms: idempotency_seconds * 1_000,
            retention_ms: retention_seconds * 1_000,
            stocks: Vec::new(),
            remembered: Vec::new(),
            changes: Vec::new(),
            digest: 0,
            open_holds: 0,
            next_reason: None,
        }
    }

    pub(crate) fn stock(&self, sku: &str) -> Option<&Stock> {
        self.stocks.iter().find(|stock| stock.sku == sku)
    }

    /// Every reservation, stock by stock, in the order of the grants.
    pub(crate) fn reservations(&self) -> impl Iterator<Item = &Reservation> + Clone {
        self.stocks.iter().flat_map(|stock| &stock.reservations)
    }

    pub(crate) fn reservation(&self, grant: Grant) -> Option<&Reservation> {
        let place = usize::try_from(grant.sequence).ok()?.checked_sub(1)?;
        self.stock(grant.sku)?.reservations.get(place)
    }

    pub(crate) fn grants(&self, sku: &str) -> u64 {
        self.stock(sku).map_or(0, |stock| stock.reservations.len() as u64)
    }

    /// How many keys a call at `now` about one of these products would be held against.
    pub(crate) fn remembered_keys(&self, now: u64, own: impl Fn(Name) -> bool) -> usize {
        let is_known = |known: &&Remembered| now < known.at + self.idempotency_ms && own(known.sku);
        self.remembered.iter().filter(is_known).count()
    }

    /// The moment from which on the newest use of some key no longer counts, for each key.
    pub(crate) fn key_ends(&self) -> impl Iterator<Item = u64> + '_ {
        self.remembered.iter().map(|remembered| remembered.at + self.idempotency_ms)
    }

    /// Whether a reservation can still be read and returned.
    pub(crate) fn is_retained(&self, reservation: &Reservation, now: u64) -> bool {
        reservation.resolved_at.is_none_or(|at| now < at + self.retention_ms)
    }

    /// Whether the answer to a repeat may still show a reservation.
    pub(crate) fn is_shown(&self, reservation: &Reservation, now: u64) -> bool {
        reservation.resolved_at.is_none_or(|at| now < at + self.retention_ms + self.idempotency_ms)
    }

    /// The clock takes back all that a reservation holds. Says no to a lapse that is not allowed.
    pub(crate) fn lapse(&mut self, grant: Grant, now: u64) -> Result<(), String> {
        let Some(reservation) = self.reservation(grant) else { return Err(format!("{grant:?} lapsed and was never granted")) };
        if now < reservation.expires_at {
            return Err(format!("{grant:?} lapsed at {now} and is good until {}", reservation.expires_at));
        }
        match reservation.held() {
            0 => Err(format!("{grant:?} lapsed and holds nothing")),
            held => {
                self.leave(grant, held, Kind::Lapsed, now);
                Ok(())
            }
        }
    }

    /// A reservation whose units should be back by now, if there is one: they are available again within one second.
    pub(crate) fn overdue(&self, now: u64) -> Option<&Reservation> {
        self.reservations().find(|reservation| reservation.held() > 0 && reservation.expires_at + 1_000 <= now)
    }

    /// Decides and does what is asked. The second part is the reservation that lapses on the way, because the call met it after its
    /// time.
    pub(crate) fn ask(&mut self, ask: &Ask, key: Option<Key>, now: u64) -> (Answer, Option<Grant>) {
        self.next_reason = None;
        match self.try_ask(ask, key, now) {
            Ok(done) => done,
            Err((no, lapsed)) => (Answer::No(no), lapsed),
        }
    }

    fn try_ask(&mut self, ask: &Ask, key: Option<Key>, now: u64) -> Result<Yes, Refused> {
        match *ask {
            Ask::Create { sku, quantity, terms } => {
                self.create(sku, quantity, terms, now).map(|answer| (answer, None)).map_err(|no| (no, None))
            }
            Ask::Reserve { sku, user, quantity, hold_seconds, reference } => {
                let Some(stock) = self.stock(sku) else { return Err((No::UnknownSku, None)) };
                let hold = hold_seconds.unwrap_or(stock.terms.hold_seconds);
                let mut reasons = stock.reasons(user, quantity, hold, now);
                let first = reasons.next();
                match self.repeat(sku, ask, key, now) {
                    Ok(Some(yes)) => return Ok(yes),
                    Ok(None) => {}
                    Err(reused) => {
                        self.next_reason = first;
                        return Err(reused);
                    }
                }
                if let Some(no) = first {
                    self.next_reason = reasons.next();
                    return Err((no, None));
                }
                let grant = Grant { sku, sequence: self.grants(sku) + 1 };
                let reservation = Reservation {
                    grant,
                    user,
                    quantity,
                    confirmed: 0,
                    released: 0,
                    returned: 0,
                    reference,
                    reserved_at: now,
                    expires_at: now + hold * 1_000,
                    resolved_at: None,
                    given_back_by: None,
                };
                self.open_holds += 1;
                self.digest = self.digest.wrapping_add(digest(&reservation));
                self.stock_mut(sku).reservations.push(reservation);
                self.note(sku, Kind::Reserved, now, Some(reservation), None);
                self.remember(sku, Some(grant), ask, key, true, now);
                Ok((Answer::Reservation { grant, created: true, replayed: false }, None))
            }
            Ask::Read { grant } => {
                if self.retained(grant, now).is_none() {
                    return Err((No::UnknownReservation, None));
                }
                Ok((about(grant), self.lapse_if_over(grant, now)))
            }
            Ask::Confirm { grant, quantity } => self.give_up_held(grant, quantity, Kind::Confirmed, ask, key, now),
            Ask::Release { grant, quantity } => self.give_up_held(grant, quantity, Kind::Released, ask, key, now),
            Ask::Return { grant, quantity } => self.give_back(grant, quantity, ask, key, now),
            Ask::Extend { grant, hold_seconds } => self.extend(grant, hold_seconds, ask, key, now),
            Ask::Change { sku, patch, if_revision } => {
                self.change(sku, &patch, if_revision, now).map(|answer| (answer, None)).map_err(|no| (no, None))
            }
            Ask::Adjust { sku, delta, reason } => {
                let Some(stock) = self.stock(sku) else { return Err((No::UnknownSku, None)) };
                let (allotted, available) = (stock.allotted(), stock.available());
                if let Some(yes) = self.repeat(sku, ask, key, now)? {
                    return Ok(yes);
                }
                if available.checked_add_signed(delta).is_none() {
                    return Err((No::TooFewToTake { available, delta }, None));
                }
                if allotted.checked_add_signed(delta).is_none_or(|after| after > 1_000_000_000_000) {
                    return Err((No::TooManyToHave { allotted, delta }, None));
                }
                self.stock_mut(sku).adjusted += delta;
                self.note(sku, Kind::Adjusted, now, None, Some((delta, reason)));
                self.remember(sku, None, ask, key, false, now);
                Ok((Answer::Stock { sku, created: false, replayed: false }, None))
            }
            Ask::Step { sku, step } => self.step(sku, step, now).map(|answer| (answer, None)).map_err(|no| (no, None)),
        }
    }

    fn stock_mut(&mut self, sku: &str) -> &mut Stock {
        self.stocks.iter_mut().find(|stock| stock.sku == sku).expect("the stock is there")
    }

    fn create(&mut self, sku: Name, quantity: u64, terms: Terms, now: u64) -> Result<Answer, No> {
        if let Some(stock) = self.stock(sku) {
            let is_same = (stock.quantity, stock.terms) == (quantity, terms);
            return if is_same { Ok(Answer::Stock { sku, created: false, replayed: false }) } else { Err(No::StockExists) };
        }
        self.stocks.push(Stock {
            sku,
            quantity,
            adjusted: 0,
            terms,
            is_paused: false,
            is_closed: false,
            is_archived: false,
            revision: 1,
            changes: 0,
            reservations: Vec::new(),
        });
        self.note(sku, Kind::Created, now, None, None);
        Ok(Answer::Stock { sku, created: true, replayed: false })
    }

    fn change(&mut self, sku: Name, patch: &Patch, if_revision: Option<[Option<u64>; 2]>, now: u64) -> Result<Answer, No> {
        let stock = self.stock(sku).ok_or(No::UnknownSku)?;
        let mut terms = stock.terms;
        if let Some(limit) = patch.per_user_limit {
            terms.per_user_limit = limit;
        }
        if let Some(seconds) = patch.hold_seconds {
            terms.hold_seconds = seconds;
        }
        if let Some(seconds) = patch.hold_seconds_max {
            terms.hold_seconds_max = seconds;
        }
        if let Some(at) = patch.opens_at {
            terms.opens_at = at;
        }
        if let Some(at) = patch.closes_at {
            terms.closes_at = at;
        }
        let is_other = if_revision.is_some_and(|revisions| !revisions.contains(&Some(stock.revision)));
        let (hold, max) = (terms.hold_seconds, terms.hold_seconds_max);
        let empty_window = match (terms.opens_at, terms.closes_at) {
            (Some(opens_at), Some(closes_at)) if opens_at >= closes_at => Some(No::EmptyWindow { opens_at, closes_at }),
            _ => None,
        };
        let reasons = [
            is_other.then_some(No::Changed),
            stock.is_archived.then_some(No::Closed),
            (hold > max).then_some(No::HoldOverMax { hold, max }),
            empty_window,
        ];
        let mut reasons = reasons.into_iter().flatten();
        if let Some(no) = reasons.next() {
            self.next_reason = reasons.next();
            return Err(no);
        }
        if stock.terms != terms {
            let stock = self.stock_mut(sku);
            stock.terms = terms;
            stock.revision += 1;
            self.note(sku, Kind::Changed, now, None, None);
        }
        Ok(Answer::Stock { sku, created: false, replayed: false })
    }

    fn step(&mut self, sku: Name, step: Step, now: u64) -> Result<Answer, No> {
        let stock = self.stock(sku).ok_or(No::UnknownSku)?;
        let (is_over, reserved) = (stock.is_over(now), stock.reserved());
        let stock = self.stock_mut(sku);
        let before = (stock.is_paused, stock.is_closed, stock.is_archived);
        let kind = match step {
            Step::Pause | Step::Reopen if stock.is_archived => return Err(No::Closed),
            Step::Pause => {
                stock.is_paused = true;
                Kind::Paused
            }
            Step::Reopen => {
                (stock.is_paused, stock.is_closed) = (false, false);
                Kind::Reopened
            }
            Step::Close | Step::Archive if stock.is_archived => Kind::Archived,
            Step::Close => {
                stock.is_closed = true;
                Kind::Closed
            }
            Step::Archive if !is_over => return Err(No::InUse { reserved: 0 }),
            Step::Archive if reserved > 0 => return Err(No::InUse { reserved }),
            Step::Archive => {
                stock.is_archived = true;
                Kind::Archived
            }
        };
        if (stock.is_paused, stock.is_closed, stock.is_archived) != before {
            stock.revision += 1;
            self.note(sku, kind, now, None, None);
        }
        Ok(Answer::Stock { sku, created: false, replayed: false })
    }

    fn give_back(&mut self, grant: Grant, quantity: Option<u64>, ask: &Ask, key: Option<Key>, now: u64) -> Result<Yes, Refused> {
        let lapsed = match self.meet(grant, ask, key, now)? {
            Met::Before(yes) => return Ok(yes),
            Met::Now(lapsed) => lapsed,
        };
        let reservation = self.one(grant);
        let (sold, returned) = (reservation.confirmed, reservation.returned);
        let units = quantity.unwrap_or(sold);
        match (sold, returned, quantity) {
            (1.., _, _) if units <= sold => {
                self.leave(grant, units, Kind::Returned, now);
                self.remember(grant.sku, Some(grant), ask, key, false, now);
                Ok((about(grant), lapsed))
            }
            (0, 1.., None) => Ok((about(grant), lapsed)),
            (0, 0, _) => Err((No::NotConfirmed, lapsed)),
            _ => Err((No::MoreThanRemains { asked: units, remaining: sold }, lapsed)),
        }
    }

    fn extend(&mut self, grant: Grant, hold_seconds: u64, ask: &Ask, key: Option<Key>, now: u64) -> Result<Yes, Refused> {
        let lapsed = match self.meet(grant, ask, key, now)? {
            Met::Before(yes) => return Ok(yes),
            Met::Now(lapsed) => lapsed,
        };
        let hold_seconds_max = self.stock(grant.sku).expect("a reservation has a stock").terms.hold_seconds_max;
        let reservation = self.one(grant);
        if reservation.held() == 0 {
            let no = match (reservation.confirmed, reservation.given_back_by) {
                (1.., _) if lapsed.is_none() => No::Confirmed,
                (_, Some(GivenBack::Lapsed)) => No::Expired,
                (_, Some(GivenBack::Returned)) => No::Returned,
                _ => No::Released,
            };
            return Err((no, lapsed));
        }
        let (asked, max) = (now + hold_seconds * 1_000, reservation.reserved_at + hold_seconds_max * 1_000);
        if asked > max {
            return Err((No::ExtendedTooFar { asked, max }, None));
        }
        self.change_one(grant, Kind::Extended, now, |reservation| reservation.expires_at = asked);
        self.remember(grant.sku, Some(grant), ask, key, false, now);
        Ok((about(grant), None))
    }

    /// What comes first of every call on a reservation: whether it is there, whether the call is a repeat, whether it is over.
    fn meet(&mut self, grant: Grant, ask: &Ask, key: Option<Key>, now: u64) -> Result<Met, Refused> {
        if self.reservation(grant).is_none() {
            return Err((No::UnknownReservation, None));
        }
        if let Some(yes) = self.repeat(grant.sku, ask, key, now)? {
            return Ok(Met::Before(yes));
        }
        if self.retained(grant, now).is_none() {
            return Err((No::UnknownReservation, None));
        }
        Ok(Met::Now(self.lapse_if_over(grant, now)))
    }

    fn retained(&self, grant: Grant, now: u64) -> Option<&Reservation> {
        self.reservation(grant).filter(|reservation| self.is_retained(reservation, now))
    }

    fn one(&self, grant: Grant) -> Reservation {
        *self.reservation(grant).expect("it was found before")
    }

    /// Held units are sold or given up.
    fn give_up_held(
        &mut self,
        grant: Grant,
        quantity: Option<u64>,
        how: Kind,
        ask: &Ask,
        key: Option<Key>,
        now: u64,
    ) -> Result<Yes, Refused> {
        let lapsed = match self.meet(grant, ask, key, now)? {
            Met::Before(yes) => return Ok(yes),
            Met::Now(lapsed) => lapsed,
        };
        let reservation = self.one(grant);
        let held = reservation.held();
        if held > 0 {
            let units = quantity.unwrap_or(held);
            if units > held {
                return Err((No::MoreThanRemains { asked: units, remaining: held }, None));
            }
            self.leave(grant, units, how, now);
            self.remember(grant.sku, Some(grant), ask, key, false, now);
            return Ok((about(grant), None));
        }
        let is_sold = reservation.confirmed > 0;
        let is_returned = reservation.returned > 0;
        let last = reservation.given_back_by;
        let no = match (how, quantity) {
            // A whole call: confirm is fine if any unit is sold, unless units were held until now; release if none is.
            (Kind::Confirmed, None) if is_sold && lapsed.is_none() => return Ok((about(grant), lapsed)),
            (Kind::Released, None) if !is_sold && !is_returned => return Ok((about(grant), lapsed)),
            (Kind::Released, _) if is_sold => No::Confirmed,
            (Kind::Released, _) if is_returned => No::Returned,
            // A confirm after the end of units that lapsed asks for units that are no longer to be had.
            (Kind::Confirmed, _) if last == Some(GivenBack::Lapsed) => No::Expired,
            (Kind::Confirmed, _) if !is_sold && last == Some(GivenBack::Returned) => No::Returned,
            (Kind::Confirmed, _) if !is_sold => No::Released,
            (_, Some(asked)) => No::MoreThanRemains { asked, remaining: 0 },
            (_, None) => unreachable!("a whole call is answered above"),
        };
        Err((no, lapsed))
    }

    /// `units` leave a reservation.
    fn leave(&mut self, grant: Grant, units: u64, how: Kind, now: u64) {
        self.change_one(grant, how, now, |reservation| {
            match how {
                Kind::Confirmed => reservation.confirmed += units,
                Kind::Returned => {
                    (reservation.confirmed, reservation.returned) = (reservation.confirmed - units, reservation.returned + units);
                    reservation.given_back_by = Some(GivenBack::Returned);
                }
                Kind::Lapsed => {
                    reservation.released += units;
                    reservation.given_back_by = Some(GivenBack::Lapsed);
                }
                _ => {
                    reservation.released += units;
                    reservation.given_back_by = Some(GivenBack::Released);
                }
            }
            if reservation.held() == 0 && reservation.resolved_at.is_none() {
                reservation.resolved_at = Some(now);
            }
        });
    }

    fn change_one(&mut self, grant: Grant, kind: Kind, now: u64, change: impl FnOnce(&mut Reservation)) {
        let place = usize::try_from(grant.sequence - 1).expect("few reservations");
        let reservation = &mut self.stock_mut(grant.sku).reservations[place];
        let before = *reservation;
        change(reservation);
        let after = *reservation;
        self.digest = self.digest.wrapping_sub(digest(&before)).wrapping_add(digest(&after));
        self.open_holds -= u64::from(before.held() > 0 && after.held() == 0);
        self.note(grant.sku, kind, now, Some(after), None);
    }

    /// Notes a change of a reservation, or of the stock itself.
    fn note(&mut self, sku: Name, kind: Kind, at: u64, reservation: Option<Reservation>, adjustment: Option<(i64, Name)>) {
        let stock = self.stock_mut(sku);
        stock.changes += 1;
        let left = reservation.map_or_else(|| Left::Stock(StockRow { adjustment, ..stock.row(at) }), Left::Reservation);
        let number = stock.changes;
        self.changes.push(Change { kind, sku, number, at, left });
    }

    /// The answer to a call whose key is known.
    fn repeat(&mut self, sku: Name, ask: &Ask, key: Option<Key>, now: u64) -> Result<Option<Yes>, Refused> {
        let Some(key) = key else { return Ok(None) };
        let known =
            self.remembered.iter().find(|known| known.key == key && known.sku == sku && now < known.at + self.idempotency_ms);
        let Some(known) = known else { return Ok(None) };
        if known.ask != *ask {
            return Err((No::IdempotencyKeyReused, None));
        }
        let created = known.created;
        let Some(grant) = known.grant else {
            return Ok(Some((Answer::Stock { sku, created, replayed: true }, None)));
        };
        if !self.reservation(grant).is_some_and(|reservation| self.is_shown(reservation, now)) {
            return Err((No::UnknownReservation, None));
        }
        let lapsed = self.lapse_if_over(grant, now);
        Ok(Some((Answer::Reservation { grant, created, replayed: true }, lapsed)))
    }

    fn remember(&mut self, sku: Name, grant: Option<Grant>, ask: &Ask, key: Option<Key>, created: bool, at: u64) {
        let Some(key) = key else { return };
        self.remembered.retain(|known| !(known.key == key && known.sku == sku));
        self.remembered.push(Remembered { sku, key, ask: *ask, grant, created, at });
    }

    fn lapse_if_over(&mut self, grant: Grant, now: u64) -> Option<Grant> {
        let is_due = |reservation: &Reservation| reservation.held() > 0 && reservation.expires_at <= now;
        self.reservation(grant).is_some_and(is_due).then(|| {
            self.lapse(grant, now).expect("it is due and holds something");
            grant
        })
    }
}

const fn about(grant: Grant) -> Answer {
    Answer::Reservation { grant, created: false, replayed: false }
}

/// What a reservation shows, in one number. Equal ones have equal digests, and others hardly ever.
pub(crate) fn digest(reservation: &Reservation) -> u64 {
    let Reservation {
        grant, user, quantity, confirmed, released, returned, reference, reserved_at, expires_at, resolved_at, ..
    } = *reservation;
    let texts = [grant.sku, user, reservation.state()].map(digest_of_text);
    let reference = reference.map_or(0, |number| number + 1);
    let times = [reserved_at, expires_at, resolved_at.unwrap_or(0)];
    let counts = [grant.sequence, quantity, confirmed, released, returned, reference];
    digest_of(texts.into_iter().chain(times).chain(counts))
}

/// Numbers in one number.
pub(crate) fn digest_of(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0x9e37_79b9_7f4a_7c15, |digest: u64, number| {
        let mixed = (digest ^ number).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ mixed >> 32
    })
}

/// A text in one number.
pub(crate) fn digest_of_text(text: &str) -> u64 {
    digest_of(text.bytes().map(u64::from))
}
