//! Copies of the ledger, begun at some moment and taken in slices while it goes on; and the lives of a node: one ends, the next begins
//! from a copy and the log behind it, or from the log alone.

use rand::Rng;
use rand::rngs::SmallRng;
use tidegate_stock::{Auditor, CopyProgress, Ledger, Loader, SnapshotItem};

use crate::whole::{Whole, whole};
use crate::world::{Logged, World};

/// Answers that are compared with those of a ledger that a new life could begin with.
const ANSWERS_COMPARED: usize = 20;

/// A copy that is being taken.
pub(crate) struct Copy {
    items: Vec<SnapshotItem>,
    /// How much of the log is in it.
    from: usize,
    /// What the ledger held at that moment, but for keys that were over by then.
    as_of: Whole,
    over_ms: u64,
}

impl World<'_> {
    pub(crate) fn copy(&mut self, rng: &mut SmallRng) {
        match &mut self.copy {
            None if rng.random_bool(0.01) => {
                let over_ms = self.over_ms(self.ledger.last_applied().unix_ms());
                let as_of = whole(&mut self.ledger, over_ms);
                self.ledger.begin_copy();
                self.copy = Some(Copy { items: Vec::new(), from: self.log.len(), as_of, over_ms });
            }
            None => {}
            Some(copy) => {
                assert!(self.ledger.is_copying(), "a copy ends at its end");
                let looks_max = rng.random_range(0..30);
                if rng.random_bool(0.2) {
                    self.ledger.copy_early(|item| copy.items.push(item));
                }
                let before = copy.items.len();
                let progress = self.ledger.copy_slice(looks_max, |item| copy.items.push(item));
                assert!(copy.items.len() - before <= looks_max, "a slice is as long as it may be");
                assert_ne!(progress, CopyProgress::None);
                if progress == CopyProgress::Done {
                    assert!(!self.ledger.is_copying());
                    self.seen.count("copied");
                    if let Some(copy) = self.copy.take() {
                        self.use_copy(copy, rng);
                    }
                }
            }
        }
    }

    fn use_copy(&mut self, mut copy: Copy, rng: &mut SmallRng) {
        let mut loader = Loader::new(self.rules, rng.random());
        for item in &copy.items {
            loader.add(item.clone()).unwrap_or_else(|error| panic!("{error}"));
        }
        let mut other = loader.finish().unwrap_or_else(|error| panic!("{error}"));
        // Whatever happened meanwhile, it is as it was; only what was dropped as over may be missing.
        let over_ms = self.over_ms(0).max(copy.over_ms);
        copy.as_of.drop_keys_until(over_ms);
        let begun_with = whole(&mut other, over_ms);
        begun_with.assert_lasts_as(&copy.as_of);
        for (id, record) in &begun_with.reservations {
            assert_eq!(copy.as_of.reservations.get(id), Some(record), "what was in memory at the moment of the copy");
        }
        let left = copy.as_of.reservations.iter().filter(|(id, _)| !begun_with.reservations.contains_key(*id));
        left.for_each(|(_, record)| assert_eq!(record.reserved, 0, "held, and not in the copy: {record:?}"));
        let mut auditor = Auditor::new(self.rules.idempotency_seconds, rng.random());
        for item in &copy.items {
            auditor.load(item).unwrap_or_else(|finding| panic!("{finding}"));
        }
        let behind = &self.log[copy.from..];
        replay(&mut other, behind, self.rules.idempotency_seconds.is_multiple_of(2));
        for logged in behind {
            auditor.observe(&logged.event, logged.at).unwrap_or_else(|finding| panic!("{finding}"));
            auditor.check_image(&logged.event, &logged.image).unwrap_or_else(|finding| panic!("{finding}"));
        }
        if !behind.is_empty() {
            self.seen.count("copied amid changes");
        }
        for stock in auditor.finish().stocks {
            let row = self.reference.stock(stock.sku.as_str()).expect("the stock is there").row(0);
            let found = (stock.available, stock.reserved, stock.sold, stock.grants);
            let expected = (row.available, row.reserved, row.sold, row.grants);
            assert_eq!(found, expected, "the books of {} that began with the copy", stock.sku);
        }
        self.compare_with(&mut other, ANSWERS_COMPARED);
        if rng.random_bool(0.4) {
            self.commit_everything();
            self.seen.count("gone on from a copy");
            self.go_on_with(other);
        }
    }

    /// Keys used until then are over at `now`. What was dropped as over at a time that was taken back since is over all the same.
    fn over_ms(&self, now: u64) -> u64 {
        now.max(self.tidied).saturating_sub(u64::from(self.rules.idempotency_seconds) * 1_000)
    }

    /// The process ends, and another one begins from the log alone.
    pub(crate) fn start_again(&mut self, rng: &mut SmallRng) {
        self.die(rng);
        let mut other = self.replayed();
        self.compare_with(&mut other, ANSWERS_COMPARED);
        self.seen.count("gone on from the log");
        self.go_on_with(other);
    }

    /// A ledger that was told the log and nothing else.
    pub(crate) fn replayed(&self) -> Ledger {
        let mut ledger = Ledger::new(self.rules, 0x5eed);
        replay(&mut ledger, &self.log, self.log.len().is_multiple_of(2));
        ledger
    }

    fn go_on_with(&mut self, ledger: Ledger) {
        self.ledger = ledger;
        // What was on its way out is in the memory of the new one, or in the history.
        for record in std::mem::take(&mut self.leaving) {
            self.history.insert(record.id, record);
        }
        self.gone.retain(|id, _| self.ledger.reservation(*id).is_none());
        if self.history.keys().any(|id| self.ledger.reservation(*id).is_some()) {
            self.seen.count("in memory and in the history");
        }
        self.compare_digest();
    }

    /// `other` holds, shows, and would answer to the newest `answers` calls, what the world's own ledger does. A copy that is being made
    /// of that is given up.
    pub(crate) fn compare_with(&mut self, other: &mut Ledger, answers: usize) {
        let over_ms = self.over_ms(self.ledger.last_applied().unix_ms());
        let (own, found) = (whole(&mut self.ledger, over_ms), whole(other, over_ms));
        self.copy = None;
        found.assert_lasts_as(&own);
        for (id, record) in &own.reservations {
            assert_eq!(found.reservations.get(id), Some(record), "what is in memory");
        }
        // What is in memory of the other alone has left that of the world's own, as it is.
        for (id, record) in found.reservations.iter().filter(|(id, _)| !own.reservations.contains_key(*id)) {
            let kept = self.history.get(id);
            assert!(kept.is_none_or(|kept| kept == record), "{record:?} is in the history as {kept:?}");
            assert!(kept.is_some() || self.gone.contains_key(id), "lost: {record:?}");
        }
        self.compare_shown(other, answers);
    }
}

/// Tells `ledger` what happened, and compares what each event leaves behind. A node that reads its log tidies on the way.
fn replay(ledger: &mut Ledger, log: &[Logged], tidies: bool) {
    for logged in log {
        drop(ledger.apply(&logged.event, logged.at));
        assert_eq!(ledger.image(&logged.event), logged.image, "image of {:?} at replay", logged.event);
        if tidies {
            ledger.tidy(logged.at, 2);
        }
    }
}
