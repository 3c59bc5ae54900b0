//! The books of one stock: what every change of it must keep, in plain counters and one row for each grant.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use super::finding::Finding;
use crate::command::StockTerms;
use crate::limits::ALLOTTED_MAX;
use crate::record::{KeyRecord, LastExit, ReservationRecord, StockRecord};
use crate::values::{
    Allotment, Fingerprint, GrantSequence, Idempotency, Quantity, Reference, ReservationId, Sku, StockId, Timestamp, UserId,
};

/// Keys that a stock may gather before those whose time is over are dropped for the first time.
const KEYS_BEFORE_SWEEP: usize = 1_024;

/// Bits of a grant's tag that say what happened last; the others stand for its reference.
const EXIT_MASK: u32 = 0b11;

/// What is written down of one stock.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) id: StockId,
    pub(super) sku: Sku,
    pub(super) first_quantity: Allotment,
    pub(super) terms: StockTerms,
    pub(super) is_paused: bool,
    pub(super) is_closed: bool,
    pub(super) is_archived: bool,
    pub(super) revision: u64,
    pub(super) changes: u64,
    pub(super) allotted: u64,
    pub(super) available: u64,
    pub(super) reserved: u64,
    pub(super) sold: u64,
    /// Grants made before the books began.
    before: u64,
    /// Those of them that are known: from the snapshot, or because they were recalled.
    older: HashMap<u64, Grant, FixedState>,
    /// Grant n stands at n - before - 1.
    grants: Vec<Grant>,
    /// The users, each with a place in `units`.
    users: HashMap<UserId, u32, FixedState>,
    /// Reserved and sold, by user. Not kept up once the stock is archived.
    units: Vec<u64>,
    /// When each remembered key had its effect. Two halves instead of 128 bits save the padding.
    keys: HashMap<(u64, u64), Timestamp, FixedState>,
    sweep_keys_at: usize,
    seed: FixedState,
}

/// One grant. What it was for is the sum of the four counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant {
    reserved_at: Timestamp,
    expires_at: Timestamp,
    /// When the last held unit went; nothing while any is held.
    resolved_at: Timestamp,
    held: u32,
    sold: u32,
    released: u32,
    returned: u32,
    user: u32,
    /// What happened last, and in the other bits what stands for the reference.
    tag: u32,
}

const _: () = assert!(size_of::<Grant>() == 48);

impl Grant {
    fn set_last(&mut self, exit: LastExit) {
        self.tag = self.tag & !EXIT_MASK | code(exit);
    }
}

impl Book {
    /// The books of a stock that was opened just now.
    pub(super) fn opened(id: StockId, sku: &Sku, quantity: Allotment, terms: &StockTerms, seed: &FixedState) -> Self {
        let units = quantity.units();
        Self {
            id,
            sku: sku.clone(),
            first_quantity: quantity,
            terms: terms.clone(),
            is_paused: false,
            is_closed: false,
            is_archived: false,
            revision: 1,
            changes: 1,
            allotted: units,
            available: units,
            reserved: 0,
            sold: 0,
            before: 0,
            older: HashMap::with_hasher(seed.clone()),
            grants: Vec::new(),
            users: HashMap::with_hasher(seed.clone()),
            units: Vec::new(),
            keys: HashMap::with_hasher(seed.clone()),
            sweep_keys_at: KEYS_BEFORE_SWEEP,
            seed: seed.clone(),
        }
    }

    /// The books of a stock that a snapshot tells of.
    pub(super) fn continued(record: &StockRecord, seed: &FixedState) -> Self {
        Self {
            is_paused: record.is_paused,
            is_closed: record.is_closed,
            is_archived: record.is_archived,
            revision: record.revision.0,
            changes: record.changes.0,
            allotted: record.allotted,
            available: record.available,
            reserved: record.reserved,
            sold: record.sold,
            before: record.grants,
            ..Self::opened(record.id, &record.sku, record.first_quantity, &record.terms, seed)
        }
    }

    /// Grants made, which is also the sequence of the newest.
    pub(super) fn grants_made(&self) -> u64 {
        self.before + self.grants.len() as u64
    }

    /// Grants that have a row.
    pub(super) fn grants_known(&self) -> u64 {
        (self.older.len() + self.grants.len()) as u64
    }

    /// Units held and sold, counted over the grants that have a row.
    pub(super) fn counted(&self) -> (u64, u64) {
        let rows = self.older.values().chain(&self.grants);
        rows.fold((0, 0), |(held, sold), grant| (held + u64::from(grant.held), sold + u64::from(grant.sold)))
    }

    pub(super) fn units_of_all(&self) -> u64 {
        self.units.iter().sum()
    }

    pub(super) fn has_begun_empty(&self) -> bool {
        self.before == 0
    }

    fn terms_are_good(terms: &StockTerms) -> bool {
        let window_is_empty = matches!((terms.opens_at, terms.closes_at), (Some(opens), Some(closes)) if opens >= closes);
        terms.hold_seconds <= terms.hold_seconds_max && !window_is_empty
    }

    pub(super) fn check_terms(sku: &Sku, terms: &StockTerms) -> Result<(), Finding> {
        if Self::terms_are_good(terms) { Ok(()) } else { Err(Finding::TermsContradict { sku: sku.clone() }) }
    }

    pub(super) fn change_terms(&mut self, terms: &StockTerms) -> Result<(), Finding> {
        self.check_not_archived()?;
        Self::check_terms(&self.sku, terms)?;
        self.terms = terms.clone();
        Ok(())
    }

    pub(super) fn check_not_archived(&self) -> Result<(), Finding> {
        if self.is_archived { Err(Finding::ArchivedChanged { sku: self.sku.clone() }) } else { Ok(()) }
    }

    pub(super) fn archive(&mut self, at: Timestamp) -> Result<(), Finding> {
        self.check_not_archived()?;
        let is_closed = self.is_closed || self.terms.closes_at.is_some_and(|closes_at| at >= closes_at);
        if !is_closed || self.reserved > 0 {
            return Err(Finding::ArchivedInUse { sku: self.sku.clone(), is_closed, reserved: self.reserved });
        }
        self.is_archived = true;
        Ok(())
    }

    pub(super) fn adjust(&mut self, delta: i64) -> Result<(), Finding> {
        let Some(available) = self.available.checked_add_signed(delta) else {
            return Err(Finding::AdjustedBelowZero { sku: self.sku.clone(), available: self.available, delta });
        };
        let Some(allotted) = self.allotted.checked_add_signed(delta).filter(|allotted| *allotted <= ALLOTTED_MAX) else {
            return Err(Finding::AdjustedOverMax { sku: self.sku.clone(), allotted: self.allotted, delta });
        };
        (self.available, self.allotted) = (available, allotted);
        Ok(())
    }

    pub(super) fn grant(
        &mut self,
        sequence: GrantSequence,
        user: &UserId,
        quantity: Quantity,
        expires_at: Timestamp,
        reference: Option<&Reference>,
        at: Timestamp,
    ) -> Result<(), Finding> {
        let sku = || self.sku.clone();
        let expected = GrantSequence(self.grants_made() + 1);
        if sequence != expected {
            return Err(Finding::GrantOutOfOrder { sku: sku(), found: sequence, expected });
        }
        let lives = [(self.is_archived, "archived"), (self.is_closed, "closed"), (self.is_paused, "paused")];
        if let Some((_, life)) = lives.into_iter().find(|(is_so, _)| *is_so) {
            return Err(Finding::GrantedWhile { sku: sku(), sequence, life });
        }
        let StockTerms { per_user_limit, hold_seconds: _, hold_seconds_max, opens_at, closes_at } = self.terms;
        if opens_at.is_some_and(|opens_at| at < opens_at) || closes_at.is_some_and(|closes_at| at >= closes_at) {
            return Err(Finding::OutsideWindow { sku: sku(), sequence, at, opens_at, closes_at });
        }
        let seconds_max = hold_seconds_max.seconds();
        if expires_at < at.plus_seconds(1) || expires_at > at.plus_seconds(seconds_max) {
            return Err(Finding::HoldOutOfBounds { sku: sku(), sequence, at, expires_at, seconds_max });
        }
        let granted = quantity.units();
        let Some(rest) = self.available.checked_sub(u64::from(granted)) else {
            return Err(Finding::Oversold { sku: sku(), sequence, granted, available: self.available });
        };
        let user = self.place_of(user);
        let has = self.units[user as usize];
        if let Some(limit) = per_user_limit.filter(|limit| has + u64::from(granted) > u64::from(limit.units())) {
            return Err(Finding::OverLimit { sku: self.sku.clone(), sequence, has, granted, limit: limit.units() });
        }
        self.units[user as usize] += u64::from(granted);
        self.available = rest;
        self.reserved += u64::from(granted);
        self.grants.push(Grant {
            reserved_at: at,
            expires_at,
            resolved_at: Timestamp::default(),
            held: granted,
            sold: 0,
            released: 0,
            returned: 0,
            user,
            tag: self.tag(reference, LastExit::None),
        });
        Ok(())
    }

    pub(super) fn confirm(&mut self, sequence: GrantSequence, quantity: Quantity, at: Timestamp) -> Result<(), Finding> {
        let expires_at = self.row(sequence)?.expires_at;
        if at >= expires_at {
            return Err(Finding::ConfirmedTooLate { sku: self.sku.clone(), sequence, at, expires_at });
        }
        self.take_held(sequence, quantity.units(), at)?;
        self.row_mut(sequence)?.sold += quantity.units();
        self.sold += u64::from(quantity.units());
        Ok(())
    }

    pub(super) fn release(&mut self, sequence: GrantSequence, quantity: Quantity, at: Timestamp) -> Result<(), Finding> {
        self.take_held(sequence, quantity.units(), at)?;
        self.give_back_unsold(sequence, quantity.units(), LastExit::Released)
    }

    /// The clock takes everything that is held; returns how much that is.
    pub(super) fn lapse(&mut self, sequence: GrantSequence, at: Timestamp) -> Result<u32, Finding> {
        let Grant { expires_at, held, .. } = *self.row(sequence)?;
        if at < expires_at {
            return Err(Finding::LapsedTooEarly { sku: self.sku.clone(), sequence, at, expires_at });
        }
        if held == 0 {
            return Err(Finding::LapsedNothing { sku: self.sku.clone(), sequence });
        }
        self.take_held(sequence, held, at)?;
        self.give_back_unsold(sequence, held, LastExit::Expired)?;
        Ok(held)
    }

    pub(super) fn take_back(&mut self, sequence: GrantSequence, quantity: Quantity) -> Result<(), Finding> {
        let returned = quantity.units();
        let sku = self.sku.clone();
        let grant = self.row_mut(sequence)?;
        let Some(rest) = grant.sold.checked_sub(returned) else {
            return Err(Finding::MoreThanSold { sku, sequence, returned, sold: grant.sold });
        };
        grant.sold = rest;
        grant.returned += returned;
        grant.set_last(LastExit::Returned);
        self.sold -= u64::from(returned);
        self.give_back(sequence, returned)
    }

    pub(super) fn extend(&mut self, sequence: GrantSequence, expires_at: Timestamp, at: Timestamp) -> Result<(), Finding> {
        let seconds_max = self.terms.hold_seconds_max.seconds();
        let Grant { reserved_at, expires_at: before, held, .. } = *self.row(sequence)?;
        if held == 0 || at >= before {
            return Err(Finding::ExtendedTooLate { sku: self.sku.clone(), sequence, at, expires_at: before, held });
        }
        if expires_at < at.plus_seconds(1) || expires_at > reserved_at.plus_seconds(seconds_max) {
            let sku = self.sku.clone();
            return Err(Finding::ExtensionOutOfBounds { sku, sequence, at, reserved_at, expires_at, seconds_max });
        }
        self.row_mut(sequence)?.expires_at = expires_at;
        Ok(())
    }

    /// Takes in what was recalled, and checks it against what is known.
    pub(super) fn recall(&mut self, record: &ReservationRecord) -> Result<(), Finding> {
        let sequence = record.id.sequence;
        let otherwise = |what| Finding::RecalledOtherwise { sku: self.sku.clone(), sequence, what };
        if sequence.0 == 0 || sequence.0 > self.grants_made() {
            return Err(Finding::UnknownReservation { reservation: record.id });
        }
        if record.reserved > 0 || record.resolved_at.is_none() {
            return Err(otherwise("standing: units are held"));
        }
        if self.row(sequence).is_ok() {
            return self
                .compare(record)
                .map_or(Ok(()), |what| Err(Finding::RecalledOtherwise { sku: self.sku.clone(), sequence, what }));
        }
        if !counts_are_good(record) {
            return Err(otherwise("quantity than there can be"));
        }
        self.add_older(record);
        Ok(())
    }

    /// A reservation that a snapshot tells of. Says what is wrong with it.
    pub(super) fn add_from_snapshot(&mut self, record: &ReservationRecord) -> Result<(), &'static str> {
        let sequence = record.id.sequence.0;
        if sequence == 0 || sequence > self.before {
            return Err("a reservation that was not granted yet");
        }
        if self.older.contains_key(&sequence) {
            return Err("a reservation twice");
        }
        if !counts_are_good(record) || (record.reserved > 0) != record.resolved_at.is_none() {
            return Err("a reservation whose counts cannot be");
        }
        self.add_older(record);
        Ok(())
    }

    /// A user that a snapshot tells of. Says what is wrong with them.
    pub(super) fn add_user(&mut self, user: &UserId, units: u64) -> Result<(), &'static str> {
        if self.users.contains_key(user) {
            return Err("a user twice, or after a reservation of theirs");
        }
        let place = self.place_of(user);
        self.units[place as usize] = units;
        Ok(())
    }

    /// A key that a snapshot tells of. Says what is wrong with it.
    pub(super) fn add_key(&mut self, record: &KeyRecord) -> Result<(), &'static str> {
        if self.keys.insert(halves(record.key), record.at).is_some() { Err("a key twice") } else { Ok(()) }
    }

    pub(super) fn use_key(&mut self, idempotency: Option<Idempotency>, at: Timestamp, remembered_ms: u64) -> Result<(), Finding> {
        let Some(Idempotency { key, request: _ }) = idempotency else { return Ok(()) };
        let is_remembered = |since: Timestamp| at.unix_ms() < since.unix_ms().saturating_add(remembered_ms);
        match self.keys.insert(halves(key), at) {
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

    /// In what `record` differs from the row of its grant, if it does.
    pub(super) fn compare(&self, record: &ReservationRecord) -> Option<&'static str> {
        let Ok(grant) = self.row(record.id.sequence) else { return Some("reservation") };
        let resolved_at = (grant.held == 0).then_some(grant.resolved_at);
        let checks = [
            (record.id.stock == self.id, "stock"),
            (self.users.get(&record.user) == Some(&grant.user), "user"),
            (self.tag(record.reference.as_ref(), record.last_exit) & !EXIT_MASK == grant.tag & !EXIT_MASK, "reference"),
            (record.reserved_at == grant.reserved_at, "time of its grant"),
            (record.expires_at == grant.expires_at, "end of its hold"),
            (record.resolved_at == resolved_at, "time of its last held unit"),
            (record.reserved == grant.held, "number of units reserved"),
            (record.confirmed == grant.sold, "number of units sold"),
            (record.released == grant.released, "number of units released"),
            (record.returned == grant.returned, "number of units returned"),
            (code(record.last_exit) == grant.tag & EXIT_MASK, "last exit"),
        ];
        checks.into_iter().find(|(is_same, _)| !is_same).map(|(_, what)| what)
    }

    fn row(&self, sequence: GrantSequence) -> Result<&Grant, Finding> {
        let row = match sequence.0.checked_sub(self.before + 1) {
            Some(place) => usize::try_from(place).ok().and_then(|place| self.grants.get(place)),
            None => self.older.get(&sequence.0),
        };
        row.ok_or_else(|| self.unknown(sequence))
    }

    fn row_mut(&mut self, sequence: GrantSequence) -> Result<&mut Grant, Finding> {
        let unknown = self.unknown(sequence);
        let row = match sequence.0.checked_sub(self.before + 1) {
            Some(place) => usize::try_from(place).ok().and_then(|place| self.grants.get_mut(place)),
            None => self.older.get_mut(&sequence.0),
        };
        row.ok_or(unknown)
    }

    fn unknown(&self, sequence: GrantSequence) -> Finding {
        if (1..=self.before).contains(&sequence.0) {
            Finding::NotRecalled { sku: self.sku.clone(), sequence }
        } else {
            Finding::UnknownReservation { reservation: ReservationId { stock: self.id, sequence } }
        }
    }

    fn take_held(&mut self, sequence: GrantSequence, left: u32, at: Timestamp) -> Result<(), Finding> {
        let sku = self.sku.clone();
        let grant = self.row_mut(sequence)?;
        let Some(rest) = grant.held.checked_sub(left) else {
            return Err(Finding::MoreThanHeld { sku, sequence, left, held: grant.held });
        };
        grant.held = rest;
        if rest == 0 {
            grant.resolved_at = at;
        }
        self.reserved -= u64::from(left);
        Ok(())
    }

    fn give_back_unsold(&mut self, sequence: GrantSequence, units: u32, exit: LastExit) -> Result<(), Finding> {
        let grant = self.row_mut(sequence)?;
        grant.released += units;
        grant.set_last(exit);
        self.give_back(sequence, units)
    }

    fn give_back(&mut self, sequence: GrantSequence, units: u32) -> Result<(), Finding> {
        self.available += u64::from(units);
        if self.is_archived {
            return Ok(());
        }
        let user = self.row(sequence)?.user;
        let has = self.units[user as usize];
        match has.checked_sub(u64::from(units)) {
            Some(rest) => self.units[user as usize] = rest,
            None => return Err(Finding::MoreThanUserHas { sku: self.sku.clone(), sequence, returned: units, has }),
        }
        Ok(())
    }

    fn add_older(&mut self, record: &ReservationRecord) {
        let grant = Grant {
            reserved_at: record.reserved_at,
            expires_at: record.expires_at,
            resolved_at: record.resolved_at.unwrap_or_default(),
            held: record.reserved,
            sold: record.confirmed,
            released: record.released,
            returned: record.returned,
            user: self.place_of(&record.user),
            tag: self.tag(record.reference.as_ref(), record.last_exit),
        };
        self.older.insert(record.id.sequence.0, grant);
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

    #[expect(clippy::cast_possible_truncation, reason = "some bits of a hash are a hash")]
    fn tag(&self, reference: Option<&Reference>, exit: LastExit) -> u32 {
        reference.map_or(0, |reference| (self.seed.hash_one(reference) as u32 | (EXIT_MASK + 1)) & !EXIT_MASK) | code(exit)
    }
}

const fn code(exit: LastExit) -> u32 {
    match exit {
        LastExit::None => 0,
        LastExit::Released => 1,
        LastExit::Expired => 2,
        LastExit::Returned => 3,
    }
}

fn counts_are_good(record: &ReservationRecord) -> bool {
    let counts = [record.reserved, record.confirmed, record.released, record.returned];
    Quantity::new(counts.into_iter().map(u64::from).sum()).is_ok()
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves together are the whole")]
const fn halves(Fingerprint(key): Fingerprint) -> (u64, u64) {
    ((key >> 64) as u64, key as u64)
}
