//! The naive ledger that the real one is held against: rows in a `Vec`, texts for names, and a linear scan for every question.
//!
//! It is written from the contract's sentences and must not know how the crate under test does anything.

/// What is asked for, in plain texts and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Create { sku: String, quantity: u64, terms: Terms },
    Reserve { sku: String, user: String, quantity: u64, hold_seconds: Option<u64>, reference: Option<String> },
    Confirm { grant: Grant, quantity: Option<u64> },
    Release { grant: Grant, quantity: Option<u64> },
    Read { grant: Grant },
    Return { grant: Grant, quantity: Option<u64> },
    Extend { grant: Grant, hold_seconds: u64 },
    Change { sku: String, patch: Patch, if_revision: Option<Vec<u64>> },
    Adjust { sku: String, delta: i64, reason: String },
    Step { sku: String, step: Step },
}

/// A step in a stock's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Pause,
    Reopen,
    Close,
    Archive,
}

/// Which settings become what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::option_option, reason = "a setting left alone and a setting taken away are two things")]
pub(crate) struct Patch {
    pub(crate) per_user_limit: Option<Option<u64>>,
    pub(crate) hold_seconds: Option<u64>,
    pub(crate) hold_seconds_max: Option<u64>,
    pub(crate) opens_at: Option<Option<u64>>,
    pub(crate) closes_at: Option<Option<u64>>,
}

/// A reservation's name: its product and the place of its grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) sku: String,
    pub(crate) sequence: u64,
}

/// A stock's settings; moments in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) per_user_limit: Option<u64>,
    pub(crate) hold_seconds: u64,
    pub(crate) hold_seconds_max: u64,
    pub(crate) opens_at: Option<u64>,
    pub(crate) closes_at: Option<u64>,
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Stock { sku: String, created: bool, replayed: bool },
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

#[derive(Debug, Clone)]
pub(crate) struct Stock {
    pub(crate) sku: String,
    pub(crate) quantity: u64,
    /// Every adjustment there was.
    pub(crate) adjustments: Vec<i64>,
    pub(crate) terms: Terms,
    pub(crate) is_paused: bool,
    pub(crate) is_closed: bool,
    pub(crate) is_archived: bool,
    /// How often settings or life changed, with the creation.
    pub(crate) revision: u64,
}

impl Stock {
    pub(crate) fn allotted(&self) -> u64 {
        self.quantity.checked_add_signed(self.adjustments.iter().sum()).expect("no stock has less than nothing")
    }

    fn is_over(&self, now: u64) -> bool {
        self.is_archived || self.is_closed || self.terms.closes_at.is_some_and(|closes_at| closes_at <= now)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Reserved,
    Sold,
    Released,
    Lapsed,
    Returned,
}

#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) grant: Grant,
    pub(crate) user: String,
    pub(crate) quantity: u64,
    pub(crate) confirmed: u64,
    pub(crate) released: u64,
    pub(crate) returned: u64,
    pub(crate) reference: Option<String>,
    pub(crate) reserved_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) resolved_at: Option<u64>,
    /// Everything that happened to it, in order.
    pub(crate) story: Vec<Happened>,
}

impl Reservation {
    pub(crate) fn held(&self) -> u64 {
        self.quantity - self.confirmed - self.released - self.returned
    }

    /// What took units back last.
    pub(crate) fn given_back_by(&self) -> Option<Happened> {
        let gives_back = |happened: &&Happened| matches!(happened, Happened::Released | Happened::Lapsed | Happened::Returned);
        self.story.iter().rev().find(gives_back).copied()
    }

    /// `reserved` while any unit is held, else `confirmed` while any is sold, else by what happened last.
    pub(crate) fn state(&self) -> &'static str {
        if self.held() > 0 {
            "reserved"
        } else if self.confirmed > 0 {
            "confirmed"
        } else if self.given_back_by() == Some(Happened::Lapsed) {
            "expired"
        } else if self.given_back_by() == Some(Happened::Returned) {
            "returned"
        } else {
            "released"
        }
    }

    fn leave(&mut self, units: u64, how: Happened, now: u64) {
        match how {
            Happened::Sold => self.confirmed += units,
            Happened::Returned => (self.confirmed, self.returned) = (self.confirmed - units, self.returned + units),
            _ => self.released += units,
        }
        self.story.push(how);
        if self.held() == 0 && self.resolved_at.is_none() {
            self.resolved_at = Some(now);
        }
    }
}

/// What is remembered of a call that changed something.
#[derive(Debug, Clone)]
struct Remembered {
    sku: String,
    key: String,
    ask: Ask,
    /// Nothing for the stock itself.
    grant: Option<Grant>,
    created: bool,
    at: u64,
}

/// The naive ledger.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    idempotency_ms: u64,
    retention_ms: u64,
    pub(crate) stocks: Vec<Stock>,
    pub(crate) reservations: Vec<Reservation>,
    remembered: Vec<Remembered>,
}

impl Reference {
    pub(crate) fn new(idempotency_seconds: u64, retention_seconds: u64) -> Self {
        Self {
            idempotency_ms: idempotency_seconds * 1_000,
            retention_ms: retention_seconds * 1_000,
            stocks: Vec::new(),
            reservations: Vec::new(),
            remembered: Vec::new(),
        }
    }

    pub(crate) fn stock(&self, sku: &str) -> Option<&Stock> {
        self.stocks.iter().find(|stock| stock.sku == sku)
    }

    pub(crate) fn reservation(&self, grant: &Grant) -> Option<&Reservation> {
        self.reservations.iter().find(|reservation| reservation.grant == *grant)
    }

    pub(crate) fn reserved(&self, sku: &str) -> u64 {
        self.of(sku).map(Reservation::held).sum()
    }

    pub(crate) fn sold(&self, sku: &str) -> u64 {
        self.of(sku).map(|reservation| reservation.confirmed).sum()
    }

    pub(crate) fn available(&self, sku: &str) -> u64 {
        let quantity = self.stock(sku).map_or(0, Stock::allotted);
        quantity - self.reserved(sku) - self.sold(sku)
    }

    /// A user's units reserved and sold; nobody counts them once the stock is archived.
    pub(crate) fn units_of(&self, sku: &str, user: &str) -> u64 {
        let is_archived = self.stock(sku).is_some_and(|stock| stock.is_archived);
        self.of(sku)
            .filter(|_| !is_archived)
            .filter(|reservation| reservation.user == user)
            .map(|reservation| reservation.held() + reservation.confirmed)
            .sum()
    }

    pub(crate) fn grants(&self, sku: &str) -> u64 {
        self.of(sku).count() as u64
    }

    /// How many keys a call at `now` would be held against.
    pub(crate) fn remembered_keys(&self, now: u64) -> usize {
        self.remembered.iter().filter(|remembered| now < remembered.at + self.idempotency_ms).count()
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

    /// The first that holds of archived, closed, paused, scheduled, sold out, open.
    pub(crate) fn stock_state(&self, sku: &str, now: u64) -> &'static str {
        let stock = self.stock(sku).expect("the stock is there");
        let terms = &stock.terms;
        if stock.is_archived {
            "archived"
        } else if stock.is_closed || terms.closes_at.is_some_and(|closes_at| closes_at <= now) {
            "closed"
        } else if stock.is_paused {
            "paused"
        } else if terms.opens_at.is_some_and(|opens_at| opens_at > now) {
            "scheduled"
        } else if self.available(sku) == 0 {
            "sold_out"
        } else {
            "open"
        }
    }

    /// The clock takes back all that a reservation holds. Says no to a lapse that is not allowed.
    pub(crate) fn lapse(&mut self, grant: &Grant, now: u64) -> Result<(), String> {
        let reservation = self.reservations.iter_mut().find(|reservation| reservation.grant == *grant);
        let Some(reservation) = reservation else { return Err(format!("{grant:?} lapsed and was never granted")) };
        if now < reservation.expires_at {
            return Err(format!("{grant:?} lapsed at {now} and is good until {}", reservation.expires_at));
        }
        match reservation.held() {
            0 => Err(format!("{grant:?} lapsed and holds nothing")),
            held => {
                reservation.leave(held, Happened::Lapsed, now);
                Ok(())
            }
        }
    }

    /// A reservation whose units should be back by now, if there is one: they are available again within one second.
    pub(crate) fn overdue(&self, now: u64) -> Option<&Reservation> {
        self.reservations.iter().find(|reservation| reservation.held() > 0 && reservation.expires_at + 1_000 <= now)
    }

    /// Decides and does what is asked. The second part is the reservation that lapses on the way, because the call met it after its
    /// time.
    pub(crate) fn ask(&mut self, ask: &Ask, key: Option<&str>, now: u64) -> (Answer, Option<Grant>) {
        match self.try_ask(ask, key, now) {
            Ok(done) => done,
            Err((no, lapsed)) => (Answer::No(no), lapsed),
        }
    }

    fn try_ask(&mut self, ask: &Ask, key: Option<&str>, now: u64) -> Result<Yes, Refused> {
        let no = |no: No| Err((no, None));
        match ask {
            Ask::Create { sku, quantity, terms } => {
                if let Some(stock) = self.stock(sku) {
                    if stock.quantity == *quantity && stock.terms == *terms {
                        return Ok((Answer::Stock { sku: sku.clone(), created: false, replayed: false }, None));
                    }
                    return no(No::StockExists);
                }
                self.stocks.push(Stock {
                    sku: sku.clone(),
                    quantity: *quantity,
                    adjustments: Vec::new(),
                    terms: terms.clone(),
                    is_paused: false,
                    is_closed: false,
                    is_archived: false,
                    revision: 1,
                });
                Ok((Answer::Stock { sku: sku.clone(), created: true, replayed: false }, None))
            }
            Ask::Reserve { sku, user, quantity, hold_seconds, reference } => {
                let Some(stock) = self.stock(sku) else { return no(No::UnknownSku) };
                let terms = stock.terms.clone();
                if let Some((answer, lapsed)) = self.repeat(sku, ask, key, now)? {
                    return Ok((answer, lapsed));
                }
                let hold = hold_seconds.unwrap_or(terms.hold_seconds);
                if hold > terms.hold_seconds_max {
                    return no(No::HoldOutOfRange { asked: hold, max: terms.hold_seconds_max });
                }
                match self.stock_state(sku, now) {
                    "archived" | "closed" => return no(No::Closed),
                    "paused" => return no(No::Paused),
                    "scheduled" => return no(No::NotOpen { opens_at: terms.opens_at.expect("a scheduled stock has a start") }),
                    _ => {}
                }
                let (has, available) = (self.units_of(sku, user), self.available(sku));
                if let Some(limit) = terms.per_user_limit.filter(|limit| has + quantity > *limit) {
                    return no(No::LimitReached { limit, has, asked: *quantity });
                }
                if available < *quantity {
                    return no(No::SoldOut { available, asked: *quantity });
                }
                let grant = Grant { sku: sku.clone(), sequence: self.grants(sku) + 1 };
                self.reservations.push(Reservation {
                    grant: grant.clone(),
                    user: user.clone(),
                    quantity: *quantity,
                    confirmed: 0,
                    released: 0,
                    returned: 0,
                    reference: reference.clone(),
                    reserved_at: now,
                    expires_at: now + hold * 1_000,
                    resolved_at: None,
                    story: vec![Happened::Reserved],
                });
                self.remember(sku, Some(&grant), ask, key, true, now);
                Ok((Answer::Reservation { grant, created: true, replayed: false }, None))
            }
            Ask::Read { grant } => {
                if self.retained(grant, now).is_none() {
                    return no(No::UnknownReservation);
                }
                let lapsed = self.lapse_if_over(grant, now);
                Ok((Answer::Reservation { grant: grant.clone(), created: false, replayed: false }, lapsed))
            }
            Ask::Confirm { grant, quantity } => self.leave(grant, *quantity, Happened::Sold, ask, key, now),
            Ask::Release { grant, quantity } => self.leave(grant, *quantity, Happened::Released, ask, key, now),
            Ask::Return { grant, quantity } => self.give_back(grant, *quantity, ask, key, now),
            Ask::Extend { grant, hold_seconds } => self.extend(grant, *hold_seconds, ask, key, now),
            Ask::Change { sku, patch, if_revision } => {
                self.change(sku, patch, if_revision.as_deref()).map(|answer| (answer, None)).map_err(|no| (no, None))
            }
            Ask::Adjust { sku, delta, .. } => {
                let Some(stock) = self.stock(sku) else { return no(No::UnknownSku) };
                let allotted = stock.allotted();
                if let Some((answer, lapsed)) = self.repeat(sku, ask, key, now)? {
                    return Ok((answer, lapsed));
                }
                let available = self.available(sku);
                if available.checked_add_signed(*delta).is_none() {
                    return no(No::TooFewToTake { available, delta: *delta });
                }
                if allotted.checked_add_signed(*delta).is_none_or(|after| after > 1_000_000_000_000) {
                    return no(No::TooManyToHave { allotted, delta: *delta });
                }
                self.stock_mut(sku).adjustments.push(*delta);
                self.remember(sku, None, ask, key, false, now);
                Ok((Answer::Stock { sku: sku.clone(), created: false, replayed: false }, None))
            }
            Ask::Step { sku, step } => self.step(sku, *step, now).map(|answer| (answer, None)).map_err(|no| (no, None)),
        }
    }

    fn stock_mut(&mut self, sku: &str) -> &mut Stock {
        self.stocks.iter_mut().find(|stock| stock.sku == sku).expect("the stock is there")
    }

    fn change(&mut self, sku: &str, patch: &Patch, if_revision: Option<&[u64]>) -> Result<Answer, No> {
        let stock = self.stock(sku).ok_or(No::UnknownSku)?;
        if if_revision.is_some_and(|revisions| revisions.iter().all(|revision| *revision != stock.revision)) {
            return Err(No::Changed);
        }
        if stock.is_archived {
            return Err(No::Closed);
        }
        let mut terms = stock.terms.clone();
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
        if terms.hold_seconds > terms.hold_seconds_max {
            return Err(No::HoldOverMax { hold: terms.hold_seconds, max: terms.hold_seconds_max });
        }
        if let (Some(opens_at), Some(closes_at)) = (terms.opens_at, terms.closes_at)
            && opens_at >= closes_at
        {
            return Err(No::EmptyWindow { opens_at, closes_at });
        }
        let stock = self.stock_mut(sku);
        if stock.terms != terms {
            stock.terms = terms;
            stock.revision += 1;
        }
        Ok(Answer::Stock { sku: sku.to_owned(), created: false, replayed: false })
    }

    fn step(&mut self, sku: &str, step: Step, now: u64) -> Result<Answer, No> {
        let stock = self.stock(sku).ok_or(No::UnknownSku)?;
        let (is_over, reserved) = (stock.is_over(now), self.reserved(sku));
        let stock = self.stock_mut(sku);
        let before = (stock.is_paused, stock.is_closed, stock.is_archived);
        match step {
            Step::Pause | Step::Reopen if stock.is_archived => return Err(No::Closed),
            Step::Pause => stock.is_paused = true,
            Step::Reopen => (stock.is_paused, stock.is_closed) = (false, false),
            Step::Close | Step::Archive if stock.is_archived => {}
            Step::Close => stock.is_closed = true,
            Step::Archive if !is_over => return Err(No::InUse { reserved: 0 }),
            Step::Archive if reserved > 0 => return Err(No::InUse { reserved }),
            Step::Archive => stock.is_archived = true,
        }
        let after = (stock.is_paused, stock.is_closed, stock.is_archived);
        if after != before {
            stock.revision += 1;
        }
        Ok(Answer::Stock { sku: sku.to_owned(), created: false, replayed: false })
    }

    fn give_back(&mut self, grant: &Grant, quantity: Option<u64>, ask: &Ask, key: Option<&str>, now: u64) -> Result<Yes, Refused> {
        let lapsed = match self.meet(grant, ask, key, now)? {
            Met::Before(yes) => return Ok(yes),
            Met::Now(lapsed) => lapsed,
        };
        let yes = Answer::Reservation { grant: grant.clone(), created: false, replayed: false };
        let reservation = self.one_mut(grant);
        let (sold, returned) = (reservation.confirmed, reservation.returned);
        let units = quantity.unwrap_or(sold);
        match (sold, returned, quantity) {
            (1.., _, _) if units <= sold => {
                reservation.leave(units, Happened::Returned, now);
                self.remember(&grant.sku, Some(grant), ask, key, false, now);
                Ok((yes, lapsed))
            }
            (0, 1.., None) => Ok((yes, lapsed)),
            (0, 0, _) => Err((No::NotConfirmed, lapsed)),
            _ => Err((No::MoreThanRemains { asked: units, remaining: sold }, lapsed)),
        }
    }

    fn extend(&mut self, grant: &Grant, hold_seconds: u64, ask: &Ask, key: Option<&str>, now: u64) -> Result<Yes, Refused> {
        let lapsed = match self.meet(grant, ask, key, now)? {
            Met::Before(yes) => return Ok(yes),
            Met::Now(lapsed) => lapsed,
        };
        let hold_seconds_max = self.stock(&grant.sku).expect("a reservation has a stock").terms.hold_seconds_max;
        let reservation = self.one_mut(grant);
        if reservation.held() == 0 {
            let no = match (reservation.confirmed, reservation.given_back_by()) {
                (1.., _) if lapsed.is_none() => No::Confirmed,
                (_, Some(Happened::Lapsed)) => No::Expired,
                (_, Some(Happened::Returned)) => No::Returned,
                _ => No::Released,
            };
            return Err((no, lapsed));
        }
        let (asked, max) = (now + hold_seconds * 1_000, reservation.reserved_at + hold_seconds_max * 1_000);
        if asked > max {
            return Err((No::ExtendedTooFar { asked, max }, None));
        }
        reservation.expires_at = asked;
        self.remember(&grant.sku, Some(grant), ask, key, false, now);
        Ok((Answer::Reservation { grant: grant.clone(), created: false, replayed: false }, None))
    }

    /// What comes first of every call on a reservation: whether it is there, whether the call is a repeat, whether it is over.
    fn meet(&mut self, grant: &Grant, ask: &Ask, key: Option<&str>, now: u64) -> Result<Met, Refused> {
        if self.reservation(grant).is_none() {
            return Err((No::UnknownReservation, None));
        }
        if let Some(yes) = self.repeat(&grant.sku, ask, key, now)? {
            return Ok(Met::Before(yes));
        }
        if self.retained(grant, now).is_none() {
            return Err((No::UnknownReservation, None));
        }
        Ok(Met::Now(self.lapse_if_over(grant, now)))
    }

    fn retained(&self, grant: &Grant, now: u64) -> Option<&Reservation> {
        self.reservation(grant).filter(|reservation| self.is_retained(reservation, now))
    }

    fn one_mut(&mut self, grant: &Grant) -> &mut Reservation {
        self.reservations.iter_mut().find(|reservation| reservation.grant == *grant).expect("it was found before")
    }

    fn leave(
        &mut self,
        grant: &Grant,
        quantity: Option<u64>,
        how: Happened,
        ask: &Ask,
        key: Option<&str>,
        now: u64,
    ) -> Result<Yes, Refused> {
        let lapsed = match self.meet(grant, ask, key, now)? {
            Met::Before(yes) => return Ok(yes),
            Met::Now(lapsed) => lapsed,
        };
        let yes = Answer::Reservation { grant: grant.clone(), created: false, replayed: false };
        let reservation = self.one_mut(grant);
        let held = reservation.held();
        if held > 0 {
            let units = quantity.unwrap_or(held);
            if units > held {
                return Err((No::MoreThanRemains { asked: units, remaining: held }, None));
            }
            reservation.leave(units, how, now);
            self.remember(&grant.sku, Some(grant), ask, key, false, now);
            return Ok((yes, None));
        }
        let is_sold = reservation.confirmed > 0;
        let is_returned = reservation.returned > 0;
        let last = reservation.given_back_by();
        let no = match (how, quantity) {
            // A whole call: confirm is fine if any unit is sold, unless units were held until now; release if none is.
            (Happened::Sold, None) if is_sold && lapsed.is_none() => return Ok((yes, lapsed)),
            (Happened::Released, None) if !is_sold && !is_returned => return Ok((yes, lapsed)),
            (Happened::Released, _) if is_sold => No::Confirmed,
            (Happened::Released, _) if is_returned => No::Returned,
            // A confirm after the end of units that lapsed asks for units that are no longer to be had.
            (Happened::Sold, _) if last == Some(Happened::Lapsed) => No::Expired,
            (Happened::Sold, _) if !is_sold && last == Some(Happened::Returned) => No::Returned,
            (Happened::Sold, _) if !is_sold => No::Released,
            (_, Some(asked)) => No::MoreThanRemains { asked, remaining: 0 },
            (_, None) => unreachable!("a whole call is answered above"),
        };
        Err((no, lapsed))
    }

    /// The answer to a call whose key is known.
    fn repeat(&mut self, sku: &str, ask: &Ask, key: Option<&str>, now: u64) -> Result<Option<Yes>, Refused> {
        let Some(key) = key else { return Ok(None) };
        let known =
            self.remembered.iter().find(|known| known.sku == sku && known.key == key && now < known.at + self.idempotency_ms);
        let Some(known) = known else { return Ok(None) };
        if known.ask != *ask {
            return Err((No::IdempotencyKeyReused, None));
        }
        let created = known.created;
        let Some(grant) = known.grant.clone() else {
            return Ok(Some((Answer::Stock { sku: sku.to_owned(), created, replayed: true }, None)));
        };
        if !self.reservation(&grant).is_some_and(|reservation| self.is_shown(reservation, now)) {
            return Err((No::UnknownReservation, None));
        }
        let lapsed = self.lapse_if_over(&grant, now);
        Ok(Some((Answer::Reservation { grant, created, replayed: true }, lapsed)))
    }

    fn remember(&mut self, sku: &str, grant: Option<&Grant>, ask: &Ask, key: Option<&str>, created: bool, at: u64) {
        let Some(key) = key else { return };
        self.remembered.retain(|known| !(known.sku == sku && known.key == key));
        let (sku, key) = (sku.to_owned(), key.to_owned());
        self.remembered.push(Remembered { sku, key, ask: ask.clone(), grant: grant.cloned(), created, at });
    }

    fn lapse_if_over(&mut self, grant: &Grant, now: u64) -> Option<Grant> {
        self.lapse(grant, now).ok().map(|()| grant.clone())
    }

    fn of<'a>(&'a self, sku: &'a str) -> impl Iterator<Item = &'a Reservation> + 'a {
        self.reservations.iter().filter(move |reservation| reservation.grant.sku == sku)
    }
}
