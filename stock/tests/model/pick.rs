//! What is asked next, and when: few products, users and keys, and moments at which something turns, so that every rule is met.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::reference::{Ask, Grant, Key, Name, Patch, Reference, Reservation, Step, Terms};

pub(crate) const SKUS: [Name; 6] = ["tea", "cup", "pot", "tray", "spoon", "sugar"];
pub(crate) const USERS: [Name; 5] = ["ann", "bob", "cy", "dee", "eve"];
pub(crate) const REASONS: [Name; 2] = ["counted anew", "damaged"];

/// What a choice is made from.
#[derive(Clone, Copy)]
pub(crate) struct Picker<'a> {
    pub(crate) reference: &'a Reference,
    pub(crate) now: u64,
    /// What was asked so far, with its keys.
    pub(crate) asked: &'a [(Ask, Option<Key>)],
    /// How many keys there are.
    pub(crate) keys: Key,
}

fn one_of(rng: &mut SmallRng, names: &[Name]) -> Name {
    names.choose(rng).expect("there are names")
}

impl Picker<'_> {
    /// The moment of the next call: mostly a little later, sometimes much.
    pub(crate) fn later(&self, rng: &mut SmallRng) -> u64 {
        let now = self.now;
        match rng.random_range(0..1_000) {
            0..400 => now,
            400..870 => now + rng.random_range(0..60),
            870..920 => now + rng.random_range(60..1_200),
            920..992 => self.edge(rng).map_or(now, |edge| (edge + rng.random_range(0..3)).saturating_sub(1)).max(now),
            992..997 => now + rng.random_range(5_000..40_000),
            _ => now + 60_000,
        }
    }

    /// A moment ahead, not far, at which something turns.
    fn edge(&self, rng: &mut SmallRng) -> Option<u64> {
        let holds = self.reference.reservations().filter(|one| one.held() > 0).map(|one| one.expires_at);
        let windows = self.reference.stocks.iter().flat_map(|stock| [stock.terms.opens_at, stock.terms.closes_at]).flatten();
        let keys = self.reference.key_ends();
        let ahead = self.now..self.now + 5_000;
        let edges: Vec<u64> = holds.chain(windows).chain(keys).filter(|edge| ahead.contains(edge)).collect();
        edges.choose(rng).copied()
    }

    pub(crate) fn pick(&self, rng: &mut SmallRng) -> (Ask, Option<Key>) {
        let newest = |count: usize| &self.asked[self.asked.len().saturating_sub(count)..];
        let few = *[4, 40].choose(rng).expect("there are counts");
        if rng.random_bool(0.15)
            && let Some(again) = newest(few).choose(rng)
        {
            return *again;
        }
        // An attempt whose key may still be known although nothing is granted any more.
        if rng.random_bool(0.06)
            && let Some(again) = some(newest(150), rng, |(ask, key)| key.is_some() && self.is_shut(ask))
        {
            return *again;
        }
        if self.reference.stocks.len() < 3 && rng.random_bool(0.2) {
            return (self.pick_create(rng), None);
        }
        let key = rng.random_bool(0.5).then(|| rng.random_range(0..self.keys));
        let quantity = |rng: &mut SmallRng| rng.random_bool(0.4).then(|| rng.random_range(1..=4));
        let ask = match rng.random_range(0..100) {
            0..3 => self.pick_create(rng),
            3..43 => self.pick_reserve(rng),
            43..59 => Ask::Confirm { grant: self.pick_grant(rng), quantity: quantity(rng) },
            59..68 => Ask::Release { grant: self.pick_grant(rng), quantity: quantity(rng) },
            68..80 => Ask::Return { grant: self.pick_grant(rng), quantity: quantity(rng) },
            80..86 => Ask::Extend { grant: self.pick_grant(rng), hold_seconds: rng.random_range(1..=8) },
            86..90 => Ask::Read { grant: self.pick_grant(rng) },
            90..93 => self.pick_change(rng),
            93..96 => self.pick_adjust(rng),
            _ => self.pick_step(rng),
        };
        (ask, key)
    }

    fn is_shut(&self, ask: &Ask) -> bool {
        let Ask::Reserve { sku, .. } = ask else { return false };
        self.reference.stock(sku).is_some_and(|stock| stock.state(self.now) != "open")
    }

    pub(crate) fn pick_reserve(&self, rng: &mut SmallRng) -> Ask {
        let sku = self.pick_sku(rng);
        let quantity = match rng.random_range(0..100) {
            0..6 => self.reference.stock(sku).map_or(1, |stock| stock.available().clamp(1, 1_000_000_000)),
            6..9 => rng.random_range(20..400),
            _ => rng.random_range(1..=4),
        };
        Ask::Reserve {
            sku,
            user: one_of(rng, &USERS),
            quantity,
            hold_seconds: rng.random_bool(0.3).then(|| rng.random_range(1..=8)),
            reference: rng.random_bool(0.2).then(|| rng.random_range(0..100)),
        }
    }

    fn pick_sku(&self, rng: &mut SmallRng) -> Name {
        // Mostly one that is there.
        let there = self.reference.stocks.choose(rng).filter(|_| rng.random_bool(0.95));
        there.map_or_else(|| one_of(rng, &SKUS), |stock| stock.sku)
    }

    fn pick_change(&self, rng: &mut SmallRng) -> Ask {
        let sku = self.pick_sku(rng);
        let revision = self.reference.stock(sku).map_or(1, |stock| stock.revision);
        let near = |rng: &mut SmallRng| self.now + rng.random_range(0..20_000);
        let mut patch = Patch::default();
        if rng.random_bool(0.1) {
            (patch.opens_at, patch.closes_at) = (Some(Some(near(rng))), Some(Some(near(rng))));
        }
        for _ in 0..rng.random_range(0..=2) {
            match rng.random_range(0..5) {
                0 => patch.per_user_limit = Some(rng.random_bool(0.5).then(|| rng.random_range(1..=30))),
                1 => patch.hold_seconds = Some(rng.random_range(1..=7)),
                2 => patch.hold_seconds_max = Some(rng.random_range(1..=9)),
                3 => patch.opens_at = Some(rng.random_bool(0.3).then(|| near(rng))),
                _ => patch.closes_at = Some(rng.random_bool(0.2).then(|| near(rng))),
            }
        }
        let if_revision = match rng.random_range(0..10) {
            0 => Some([Some(revision + 1), None]),
            1 => Some([None, None]),
            2 => Some([Some(revision + 7), Some(revision)]),
            3 => Some([Some(revision), None]),
            _ => None,
        };
        Ask::Change { sku, patch, if_revision }
    }

    fn pick_adjust(&self, rng: &mut SmallRng) -> Ask {
        let sku = self.pick_sku(rng);
        let available = self.reference.stock(sku).map_or(0, crate::reference::Stock::available);
        let available = i64::try_from(available).expect("few units");
        let delta = match rng.random_range(0..10) {
            0 => -available - 1,
            1 if available > 0 => -available,
            2 => 1_000_000_000,
            3..6 => -rng.random_range(1..=5),
            _ => rng.random_range(1..=40),
        };
        Ask::Adjust { sku, delta: delta.max(-1_000_000_000), reason: one_of(rng, &REASONS) }
    }

    fn pick_step(&self, rng: &mut SmallRng) -> Ask {
        let sku = self.pick_sku(rng);
        let is_closed = self.reference.stock(sku).is_some_and(|stock| stock.is_closed);
        let step = match rng.random_range(0..20) {
            0..3 => Step::Pause,
            3..6 => Step::Close,
            6 => Step::Archive,
            7..10 if is_closed => Step::Archive,
            _ => Step::Reopen,
        };
        Ask::Step { sku, step }
    }

    fn pick_create(&self, rng: &mut SmallRng) -> Ask {
        if let Some(stock) = self.reference.stocks.choose(rng)
            && rng.random_bool(0.3)
        {
            let (mut quantity, mut terms) = (stock.quantity, stock.terms);
            match rng.random_range(0..5) {
                0 => quantity += 1,
                1 => terms.hold_seconds_max += 1,
                _ => {}
            }
            return Ask::Create { sku: stock.sku, quantity, terms };
        }
        let hold_seconds = rng.random_range(1..=6);
        let opens_at = rng.random_bool(0.4).then(|| self.now + rng.random_range(0..15_000));
        let closes_at = rng.random_bool(0.15).then(|| opens_at.unwrap_or(self.now) + rng.random_range(1..80_000));
        let terms = Terms {
            per_user_limit: rng.random_bool(0.5).then(|| rng.random_range(1..=30)),
            hold_seconds,
            hold_seconds_max: hold_seconds + rng.random_range(0..3),
            opens_at,
            closes_at,
        };
        let quantity = *[0, 2, 30, 30, 150, 150, 300, 300, 999_999_999_990].choose(rng).expect("there are quantities");
        Ask::Create { sku: one_of(rng, &SKUS), quantity, terms }
    }

    fn pick_grant(&self, rng: &mut SmallRng) -> Grant {
        let stocks = &self.reference.stocks;
        let is_retained = |one: &Reservation| self.reference.is_retained(one, self.now);
        let wanted: fn(&Reservation) -> bool = if rng.random_bool(0.5) { |one| one.held() > 0 } else { |one| one.held() == 0 };
        let fits = |one: &Reservation| wanted(one) && is_retained(one);
        let found = if rng.random_bool(0.95) { some(stocks, rng, |stock| stock.reservations.iter().any(fits)) } else { None };
        if let Some(one) = found.and_then(|stock| some(&stock.reservations, rng, fits)) {
            return one.grant;
        }
        let sku = self.pick_sku(rng);
        let grants = self.reference.grants(sku);
        Grant { sku, sequence: rng.random_range(0..=grants + 1) }
    }
}

/// The first of `all` that `fits`, from a random place on and round.
pub(crate) fn some<'a, T>(all: &'a [T], rng: &mut SmallRng, fits: impl Fn(&T) -> bool) -> Option<&'a T> {
    if all.is_empty() {
        return None;
    }
    let (before, behind) = all.split_at(rng.random_range(0..all.len()));
    behind.iter().chain(before).find(|one| fits(one))
}
