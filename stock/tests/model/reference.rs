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
    Stock { sku: String, created: bool },
    Reservation { grant: Grant, created: bool, replayed: bool },
    No(No),
}

/// An answer, and the reservation that lapsed on the way.
type Yes = (Answer, Option<Grant>);

/// A rejection, and the reservation that lapsed on the way.
type Refused = (No, Option<Grant>);

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
    MoreThanRemains { asked: u64, remaining: u64 },
}

#[derive(Debug)]
pub(crate) struct Stock {
    pub(crate) sku: String,
    pub(crate) quantity: u64,
    pub(crate) terms: Terms,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Reserved,
    Sold,
    Released,
    Lapsed,
}

#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) grant: Grant,
    pub(crate) user: String,
    pub(crate) quantity: u64,
    pub(crate) confirmed: u64,
    pub(crate) released: u64,
    pub(crate) reference: Option<String>,
    pub(crate) reserved_at: u64,
    pub(crate) expires_at: u64,
    pub(crate) resolved_at: Option<u64>,
    /// Everything that happened to it, in order.
    pub(crate) story: Vec<Happened>,
}

impl Reservation {
    pub(crate) fn held(&self) -> u64 {
        self.quantity - self.confirmed - self.released
    }

    /// What took units back last.
    fn given_back_by(&self) -> Option<Happened> {
        self.story.iter().rev().find(|happened| matches!(happened, Happened::Released | Happened::Lapsed)).copied()
    }

    /// `reserved` while any unit is held, else `confirmed` while any is sold, else by what happened last.
    pub(crate) fn state(&self) -> &'static str {
        if self.held() > 0 {
            "reserved"
        } else if self.confirmed > 0 {
            "confirmed"
        } else if self.given_back_by() == Some(Happened::Lapsed) {
            "expired"
        } else {
            "released"
        }
    }

    fn leave(&mut self, units: u64, how: Happened, now: u64) {
        match how {
            Happened::Sold => self.confirmed += units,
            _ => self.released += units,
        }
        self.story.push(how);
        if self.held() == 0 {
            self.resolved_at = Some(now);
        }
    }
}

/// What is remembered of a call that changed something.
#[derive(Debug)]
struct Remembered {
    sku: String,
    key: String,
    ask: Ask,
    grant: Grant,
    created: bool,
    at: u64,
}

/// The naive ledger.
#[derive(Debug)]
pub(crate) struct Reference {
    idempotency_ms: u64,
    pub(crate) stocks: Vec<Stock>,
    pub(crate) reservations: Vec<Reservation>,
    remembered: Vec<Remembered>,
}

impl Reference {
    pub(crate) fn new(idempotency_seconds: u64) -> Self {
        Self { idempotency_ms: idempotency_seconds * 1_000, stocks: Vec::new(), reservations: Vec::new(), remembered: Vec::new() }
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
        let quantity = self.stock(sku).map_or(0, |stock| stock.quantity);
        quantity - self.reserved(sku) - self.sold(sku)
    }

    /// A user's units reserved and sold.
    pub(crate) fn units_of(&self, sku: &str, user: &str) -> u64 {
        self.of(sku)
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

    /// The first that holds of closed, scheduled, sold out, open.
    pub(crate) fn stock_state(&self, sku: &str, now: u64) -> &'static str {
        let terms = &self.stock(sku).expect("the stock is there").terms;
        if terms.closes_at.is_some_and(|closes_at| closes_at <= now) {
            "closed"
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
                        return Ok((Answer::Stock { sku: sku.clone(), created: false }, None));
                    }
                    return no(No::StockExists);
                }
                self.stocks.push(Stock { sku: sku.clone(), quantity: *quantity, terms: terms.clone() });
                Ok((Answer::Stock { sku: sku.clone(), created: true }, None))
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
                    "closed" => return no(No::Closed),
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
                    reference: reference.clone(),
                    reserved_at: now,
                    expires_at: now + hold * 1_000,
                    resolved_at: None,
                    story: vec![Happened::Reserved],
                });
                self.remember(&grant, ask, key, true, now);
                Ok((Answer::Reservation { grant, created: true, replayed: false }, None))
            }
            Ask::Read { grant } => {
                if self.reservation(grant).is_none() {
                    return no(No::UnknownReservation);
                }
                let lapsed = self.lapse_if_over(grant, now);
                Ok((Answer::Reservation { grant: grant.clone(), created: false, replayed: false }, lapsed))
            }
            Ask::Confirm { grant, quantity } => self.leave(grant, *quantity, Happened::Sold, ask, key, now),
            Ask::Release { grant, quantity } => self.leave(grant, *quantity, Happened::Released, ask, key, now),
        }
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
        if self.reservation(grant).is_none() {
            return Err((No::UnknownReservation, None));
        }
        if let Some((answer, lapsed)) = self.repeat(&grant.sku, ask, key, now)? {
            return Ok((answer, lapsed));
        }
        let lapsed = self.lapse_if_over(grant, now);
        let yes = Answer::Reservation { grant: grant.clone(), created: false, replayed: false };
        let reservation = self.reservations.iter_mut().find(|reservation| reservation.grant == *grant).expect("it was found above");
        let held = reservation.held();
        if held > 0 {
            let units = quantity.unwrap_or(held);
            if units > held {
                return Err((No::MoreThanRemains { asked: units, remaining: held }, None));
            }
            reservation.leave(units, how, now);
            self.remember(grant, ask, key, false, now);
            return Ok((yes, None));
        }
        let is_sold = reservation.confirmed > 0;
        let is_lapsed = reservation.given_back_by() == Some(Happened::Lapsed);
        let no = match (how, quantity) {
            // A whole call: confirm is fine if any unit is sold, unless units were held until now; release if none is.
            (Happened::Sold, None) if is_sold && lapsed.is_none() => return Ok((yes, lapsed)),
            (Happened::Released, None) if !is_sold => return Ok((yes, lapsed)),
            (Happened::Released, _) if is_sold => No::Confirmed,
            // A confirm after the end of units that lapsed asks for units that are no longer to be had.
            (Happened::Sold, _) if is_lapsed => No::Expired,
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
        let (grant, created) = (known.grant.clone(), known.created);
        let lapsed = self.lapse_if_over(&grant, now);
        Ok(Some((Answer::Reservation { grant, created, replayed: true }, lapsed)))
    }

    fn remember(&mut self, grant: &Grant, ask: &Ask, key: Option<&str>, created: bool, at: u64) {
        let Some(key) = key else { return };
        self.remembered.retain(|known| !(known.sku == grant.sku && known.key == key));
        let (sku, key) = (grant.sku.clone(), key.to_owned());
        self.remembered.push(Remembered { sku, key, ask: ask.clone(), grant: grant.clone(), created, at });
    }

    fn lapse_if_over(&mut self, grant: &Grant, now: u64) -> Option<Grant> {
        self.lapse(grant, now).ok().map(|()| grant.clone())
    }

    fn of<'a>(&'a self, sku: &'a str) -> impl Iterator<Item = &'a Reservation> + 'a {
        self.reservations.iter().filter(move |reservation| reservation.grant.sku == sku)
    }
}
