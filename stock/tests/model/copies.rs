//! Copies of the ledger, begun at some moment and taken in slices while it goes on, and the ledgers made from them.

use rand::Rng;
use rand::rngs::StdRng;
use tidegate_stock::{Auditor, CopyProgress, Ledger, Loader, SnapshotItem};

use crate::world::World;

/// A copy that is being taken.
pub(crate) struct Copy {
    items: Vec<SnapshotItem>,
    /// How much of the log is in it.
    from: usize,
}

impl World<'_> {
    pub(crate) fn copy(&mut self, rng: &mut StdRng) {
        match &mut self.copy {
            None if rng.random_bool(0.02) => {
                self.ledger.begin_copy();
                self.copy = Some(Copy { items: Vec::new(), from: self.log.len() });
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
                        self.use_copy(&copy, rng);
                    }
                }
            }
        }
    }

    fn use_copy(&mut self, copy: &Copy, rng: &mut StdRng) {
        let mut loader = Loader::new(self.rules, rng.random());
        for item in &copy.items {
            loader.add(item.clone()).unwrap_or_else(|error| panic!("{error}"));
        }
        let mut other = loader.finish().unwrap_or_else(|error| panic!("{error}"));
        let mut auditor = Auditor::new(self.rules.idempotency_seconds, rng.random());
        for item in &copy.items {
            auditor.load(item).unwrap_or_else(|finding| panic!("{finding}"));
        }
        for logged in &self.log[copy.from..] {
            drop(other.apply(&logged.event, logged.at));
            assert_eq!(other.image(&logged.event), logged.image, "image of {:?}", logged.event);
            auditor.observe(&logged.event, logged.at).unwrap_or_else(|finding| panic!("{finding}"));
            auditor.check_image(&logged.event, &logged.image).unwrap_or_else(|finding| panic!("{finding}"));
        }
        if self.log.len() > copy.from {
            self.seen.count("copied amid changes");
        }
        self.compare_with(&other, 60);
        for stock in auditor.finish().stocks {
            let sku = stock.sku.as_str();
            let found = (stock.available, stock.reserved, stock.sold, stock.grants);
            let reference = &self.reference;
            let expected = (reference.available(sku), reference.reserved(sku), reference.sold(sku), reference.grants(sku));
            assert_eq!(found, expected, "the books of {sku} that began with the copy");
        }
        if rng.random_bool(0.4) {
            self.go_on_with(other);
        }
    }

    /// The node dies, and another one goes on from its copy and its log.
    fn go_on_with(&mut self, ledger: Ledger) {
        self.commit_everything();
        self.ledger = ledger;
        // What was on its way out is in the memory of the new one, or in the history.
        for record in std::mem::take(&mut self.leaving) {
            self.history.insert(record.id, record);
        }
        let in_memory: Vec<_> = self.history.keys().copied().filter(|id| self.ledger.reservation(*id).is_some()).collect();
        if !in_memory.is_empty() {
            self.seen.count("in memory and in the history");
        }
        self.seen.count("gone on from a copy");
        self.compare_everything();
    }
}
