//! What is asked next, and when: few products, users and keys, and moments at which something turns, so that every rule is met.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};

use crate::reference::{Ask, Grant, Patch, Step, Terms};
use crate::world::World;

pub(crate) const SKUS: [&str; 6] = ["tea", "cup", "pot", "tray", "spoon", "sugar"];
pub(crate) const USERS: [&str; 5] = ["ann", "bob", "cy", "dee", "eve"];
pub(crate) const KEYS: usize = 10;

impl World<'_> {
    pub(crate) fn later(&self, rng: &mut StdRng) -> u64 {
        let now = self.now;
        match rng.random_range(0..100) {
            0..35 => now,
            35..85 => now + rng.random_range(0..60),
            85..91 => now + rng.random_range(60..1_200),
            91..98 => self.edge(rng).map_or(now, |edge| (edge + rng.random_range(0..3)).saturating_sub(1)).max(now),
            98 => now + rng.random_range(5_000..40_000),
            _ => now + 60_000,
        }
    }

    /// A moment ahead, not far, at which something turns.
    fn edge(&self, rng: &mut StdRng) -> Option<u64> {
        let holds = self.reference.reservations.iter().filter(|one| one.held() > 0).map(|one| one.expires_at);
        let windows = self.reference.stocks.iter().flat_map(|stock| [stock.terms.opens_at, stock.terms.closes_at]).flatten();
        let keys = self.reference.key_ends();
        let ahead = self.now..self.now + 5_000;
        holds.chain(windows).chain(keys).filter(|edge| ahead.contains(edge)).choose(rng)
    }

    pub(crate) fn pick(&self, rng: &mut StdRng) -> (Ask, Option<String>) {
        if rng.random_bool(0.15)
            && let Some(again) = self.asked.iter().rev().take(40).choose(rng)
        {
            return again.clone();
        }
        // An attempt whose key may still be known although nothing is granted any more.
        if rng.random_bool(0.06)
            && let Some(again) =
                self.asked.iter().rev().take(150).filter(|(ask, key)| key.is_some() && self.is_shut(ask)).choose(rng)
        {
            return again.clone();
        }
        if self.created.len() < 3 && rng.random_bool(0.2) {
            return (self.pick_create(rng), None);
        }
        let key = rng.random_bool(0.5).then(|| format!("k{}", rng.random_range(0..KEYS)));
        let quantity = |rng: &mut StdRng| rng.random_bool(0.4).then(|| rng.random_range(1..=4));
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
        self.reference.stock(sku).is_some() && self.reference.stock_state(sku, self.now) != "open"
    }

    fn pick_reserve(&self, rng: &mut StdRng) -> Ask {
        let sku = *SKUS.choose(rng).expect("there are skus");
        let quantity = match rng.random_range(0..100) {
            0..6 => self.reference.available(sku).clamp(1, 1_000_000_000),
            6..9 => rng.random_range(20..400),
            _ => rng.random_range(1..=4),
        };
        Ask::Reserve {
            sku: sku.to_owned(),
            user: (*USERS.choose(rng).expect("there are users")).to_owned(),
            quantity,
            hold_seconds: rng.random_bool(0.3).then(|| rng.random_range(1..=8)),
            reference: rng.random_bool(0.2).then(|| format!("order-{}", rng.random_range(0..100))),
        }
    }

    fn pick_sku(&self, rng: &mut StdRng) -> String {
        // Mostly one that is there.
        let there = self.reference.stocks.choose(rng).filter(|_| rng.random_bool(0.95));
        there.map_or_else(|| (*SKUS.choose(rng).expect("there are skus")).to_owned(), |stock| stock.sku.clone())
    }

    fn pick_change(&self, rng: &mut StdRng) -> Ask {
        let sku = self.pick_sku(rng);
        let revision = self.reference.stock(&sku).map_or(1, |stock| stock.revision);
        let near = |rng: &mut StdRng| self.now + rng.random_range(0..20_000);
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
                _ => patch.closes_at = Some(rng.random_bool(0.3).then(|| near(rng))),
            }
        }
        let if_revision = match rng.random_range(0..10) {
            0 => Some(vec![revision + 1]),
            1 => Some(vec![]),
            2 => Some(vec![revision + 7, revision]),
            3 => Some(vec![revision]),
            _ => None,
        };
        Ask::Change { sku, patch, if_revision }
    }

    fn pick_adjust(&self, rng: &mut StdRng) -> Ask {
        let sku = self.pick_sku(rng);
        let available = i64::try_from(self.reference.available(&sku)).expect("few units");
        let delta = match rng.random_range(0..10) {
            0 => -available - 1,
            1 if available > 0 => -available,
            2 => 1_000_000_000,
            3..6 => -rng.random_range(1..=5),
            _ => rng.random_range(1..=40),
        };
        Ask::Adjust {
            sku,
            delta: delta.max(-1_000_000_000),
            reason: ["counted anew", "damaged"][rng.random_range(0..2)].to_owned(),
        }
    }

    fn pick_step(&self, rng: &mut StdRng) -> Ask {
        let sku = self.pick_sku(rng);
        let is_closed = self.reference.stock(&sku).is_some_and(|stock| stock.is_closed);
        let step = match rng.random_range(0..20) {
            0..3 => Step::Pause,
            3..6 => Step::Close,
            6 => Step::Archive,
            7..9 if is_closed => Step::Archive,
            _ => Step::Reopen,
        };
        Ask::Step { sku, step }
    }

    fn pick_create(&self, rng: &mut StdRng) -> Ask {
        if let Some(stock) = self.reference.stocks.choose(rng)
            && rng.random_bool(0.3)
        {
            let mut ask = (stock.sku.clone(), stock.quantity, stock.terms.clone());
            match rng.random_range(0..5) {
                0 => ask.1 += 1,
                1 => ask.2.hold_seconds_max += 1,
                _ => {}
            }
            return Ask::Create { sku: ask.0, quantity: ask.1, terms: ask.2 };
        }
        let hold_seconds = rng.random_range(1..=6);
        let opens_at = rng.random_bool(0.4).then(|| self.now + rng.random_range(0..15_000));
        let closes_at = rng.random_bool(0.25).then(|| opens_at.unwrap_or(self.now) + rng.random_range(1..80_000));
        let terms = Terms {
            per_user_limit: rng.random_bool(0.5).then(|| rng.random_range(1..=30)),
            hold_seconds,
            hold_seconds_max: hold_seconds + rng.random_range(0..3),
            opens_at,
            closes_at,
        };
        let quantity = *[0, 2, 30, 30, 150, 150, 300, 300, 999_999_999_990].choose(rng).expect("there are quantities");
        Ask::Create { sku: (*SKUS.choose(rng).expect("there are skus")).to_owned(), quantity, terms }
    }

    fn pick_grant(&self, rng: &mut StdRng) -> Grant {
        let all = &self.reference.reservations;
        if all.is_empty() || rng.random_bool(0.03) {
            let sku = (*SKUS.choose(rng).expect("there are skus")).to_owned();
            let sequence = if rng.random_bool(0.2) { 0 } else { self.reference.grants(&sku) + 1 };
            return Grant { sku, sequence };
        }
        if rng.random_bool(0.5)
            && let Some(held) = all.iter().filter(|one| one.held() > 0).choose(rng)
        {
            return held.grant.clone();
        }
        if rng.random_bool(0.9)
            && let Some(retained) = all.iter().filter(|one| self.reference.is_retained(one, self.now)).choose(rng)
        {
            return retained.grant.clone();
        }
        all.choose(rng).expect("something was granted").grant.clone()
    }
}
