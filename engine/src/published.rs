//! The published views: committed counters of every stock, readable from any thread without asking the owner.
//!
//! A view is written by the stock's shard alone, after its group is committed and before the group's replies leave; so whoever has
//! an answer finds it here too. Writing the counters of a stock never waits for their readers; showing a stock with new settings takes a lock
//! for a moment, which those look-ups share.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use tidegate_persistence::{GroupSequence, StreamId};
use tidegate_stock::{Revision, Sku, StockId, StockView, Timestamp};

use crate::answer::{Position, StockAnswer};
use crate::sync::{AtomicU64, Ordering, RwLock, Uncontended, fence, spin_loop, yield_now};

/// Looks at a view that is just being written before the reader lets other threads run.
const READ_SPINS: u32 = 64;

/// Committed views of all stocks of a node.
#[derive(Debug)]
pub(crate) struct Published {
    stocks: RwLock<HashMap<Sku, Arc<PublishedStock>>>,
    /// The same stocks by stream and place, for those who write them: a group of many stocks finds each of them without its name and without the
    /// lock that all readers share. Only the owning shard's thread locks its own.
    owned: Vec<Uncontended<HashMap<StockId, OwnedStock>>>,
    /// The same names in order, and by place.
    names: RwLock<Names>,
    /// For each stream the newest group of which every view is shown.
    shown: Vec<AtomicU64>,
    /// For each stream when the earliest of the holds falls due that the views count, or earlier; in milliseconds.
    due_ms: Vec<AtomicU64>,
}

#[derive(Debug, Default)]
struct Names {
    in_order: BTreeSet<Sku>,
    by_id: HashMap<StockId, Sku>,
}

/// A stock as its shard keeps it.
#[derive(Debug)]
struct OwnedStock {
    /// Of the settings that are shown.
    revision: Revision,
    shown: Arc<PublishedStock>,
}

/// One stock's committed view.
#[derive(Debug)]
struct PublishedStock {
    /// Settings and life as they are, and counters as they were when those were shown first.
    first: StockView,
    stream: StreamId,
    counters: Counters,
}

impl Published {
    /// Nothing yet, of `streams` streams.
    pub(crate) fn new(streams: usize) -> Self {
        let of_each = |value| (0..streams).map(|_| AtomicU64::new(value)).collect();
        let owned = (0..streams).map(|_| Uncontended::new(HashMap::new())).collect();
        Self { stocks: RwLock::default(), owned, names: RwLock::default(), shown: of_each(0), due_ms: of_each(u64::MAX) }
    }

    /// Every view up to `group` of `stream` has been published. Only the owning shard's thread calls this.
    pub(crate) fn show_up_to(&self, stream: StreamId, group: GroupSequence) {
        self.shown[usize::from(stream.0)].store(group.0, Ordering::Release);
    }

    /// The newest group of `stream` of which every view is shown.
    pub(crate) fn shown(&self, stream: StreamId) -> Option<GroupSequence> {
        self.shown.get(usize::from(stream.0)).map(|shown| GroupSequence(shown.load(Ordering::Acquire)))
    }

    /// The views of `stream` are about to count holds of which the earliest falls due at `due`. Only the owning shard's thread calls this.
    pub(crate) fn expect_lapse(&self, stream: StreamId, due: Option<Timestamp>) {
        let due_ms = &self.due_ms[usize::from(stream.0)];
        // Whoever sees counters that are written behind it sees it too, by their order.
        due_ms.store(due_ms.load(Ordering::Relaxed).min(in_ms(due)), Ordering::Relaxed);
    }

    /// The views of `stream` count holds of which the earliest falls due at `due`. Only the owning shard's thread calls this.
    pub(crate) fn show_lapse(&self, stream: StreamId, due: Option<Timestamp>) {
        self.due_ms[usize::from(stream.0)].store(in_ms(due), Ordering::Release);
    }

    /// Shows `views`, which hold as of `group` of `stream`. Only the owning shard's thread calls this.
    pub(crate) fn publish(&self, views: impl IntoIterator<Item = StockView>, stream: StreamId, group: GroupSequence) {
        let mut owned = self.owned[usize::from(stream.0)].lock();
        for view in views {
            let words = [view.allotted, view.available, view.reserved, view.sold, group.0];
            match owned.get(&view.id) {
                Some(stock) if stock.revision == view.revision => stock.shown.counters.write(words),
                known => {
                    let is_new = known.is_none();
                    let (id, revision) = (view.id, view.revision);
                    let shown = self.show(view, stream, words, is_new);
                    owned.insert(id, OwnedStock { revision, shown });
                }
            }
        }
    }

    /// Shows a stock that is new or has other settings or another life, which are seldom: it takes the place of the one before.
    fn show(&self, view: StockView, stream: StreamId, words: [u64; 5], is_new: bool) -> Arc<PublishedStock> {
        let (id, sku) = (view.id, view.sku.clone());
        let stock = Arc::new(PublishedStock { stream, counters: Counters::new(words), first: view });
        self.stocks.write().insert(sku.clone(), Arc::clone(&stock));
        // After its view, so that whoever finds a name finds the view too.
        if is_new {
            let mut names = self.names.write();
            names.in_order.insert(sku.clone());
            names.by_id.insert(id, sku);
        }
        stock
    }

    /// The committed view of `sku`; its phase is that at `now`. It holds as of the newest group of its stream, which need not have changed
    /// it: whoever goes on reading changes from there has not to go back as far as its own last one.
    pub(crate) fn get(&self, sku: &Sku, now: Timestamp) -> Option<StockAnswer> {
        let stream = self.stocks.read().get(sku)?.stream;
        // Before the counters: they are at least as new.
        let shown = self.shown[usize::from(stream.0)].load(Ordering::Acquire);
        let stock = Arc::clone(self.stocks.read().get(sku)?);
        let [allotted, available, reserved, sold, group] = stock.counters.read();
        let group = group.max(shown);
        let view = StockView { allotted, available, reserved, sold, ..stock.first.clone() };
        let state = view.state(now);
        Some(StockAnswer { view, state, as_of: Position { stream: stock.stream, group: GroupSequence(group) } })
    }

    /// What `look` makes of the committed view of `sku`: of its settings and life, and of the units that are available. `None` where there is no
    /// such stock, and also while the view may count holds that have fallen due by `now`.
    pub(crate) fn look<T>(&self, sku: &Sku, now: Timestamp, look: impl FnOnce(&StockView, u64) -> T) -> Option<T> {
        let stocks = self.stocks.read();
        let stock = stocks.get(sku)?;
        let due_ms = &self.due_ms[usize::from(stock.stream.0)];
        let is_due = || due_ms.load(Ordering::Acquire) <= now.unix_ms();
        // On both sides of the counters, because they and the time are not read as one: before them for a lapse that is shown meanwhile,
        // behind them for holds that are.
        let was_due = is_due();
        let [_, available, ..] = stock.counters.read();
        (!was_due && !is_due()).then(|| look(&stock.first, available))
    }

    /// Up to `limit` names in order, behind `after`.
    pub(crate) fn names(&self, after: Option<&Sku>, limit: usize) -> Vec<Sku> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.names.read().in_order.range::<Sku, _>((from, Bound::Unbounded)).take(limit).cloned().collect()
    }

    /// The name of a stock.
    pub(crate) fn name(&self, id: StockId) -> Option<Sku> {
        self.names.read().by_id.get(&id).cloned()
    }

    /// The place of a stock.
    pub(crate) fn id(&self, sku: &Sku) -> Option<StockId> {
        self.stocks.read().get(sku).map(|stock| stock.first.id)
    }

    /// How many stocks there are.
    pub(crate) fn len(&self) -> usize {
        self.stocks.read().len()
    }
}

/// A moment that is nobody's is past every other.
fn in_ms(moment: Option<Timestamp>) -> u64 {
    moment.map_or(u64::MAX, Timestamp::unix_ms)
}

/// Words that are read together as they were written together: a sequence lock made of atomics, with one writer.
#[derive(Debug)]
struct Counters {
    /// Odd while a write is under way.
    version: AtomicU64,
    words: [AtomicU64; 5],
}

impl Counters {
    fn new(words: [u64; 5]) -> Self {
        Self { version: AtomicU64::new(0), words: words.map(AtomicU64::new) }
    }

    /// Only the owning shard's thread calls this.
    fn write(&self, words: [u64; 5]) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }

    fn read(&self) -> [u64; 5] {
        let mut looks = 0;
        loop {
            let before = self.version.load(Ordering::Acquire);
            let words = std::array::from_fn(|index| self.words[index].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == before {
                return words;
            }
            looks += 1;
            if looks % READ_SPINS == 0 {
                yield_now();
            } else {
                spin_loop();
            }
        }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn words_that_were_written_together_are_read_together() {
        let counters = Counters::new([0; 5]);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0_u32;
                while !is_over.load(Ordering::Relaxed) || reads < 1_000 {
                    let words = counters.read();
                    assert!(words.iter().all(|word| *word == words[0]), "torn read: {words:?}");
                    reads += 1;
                }
                reads
            });
            for value in 0..200_000 {
                counters.write([value; 5]);
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() >= 1_000);
        });
        assert_eq!(counters.read(), [199_999; 5]);
    }
}
