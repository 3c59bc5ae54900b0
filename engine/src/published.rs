//! The published views: committed counters of every stock, readable from any thread without asking the owner.
//!
//! A view is written by the stock's shard alone, after its group is committed and before the group's replies leave; so whoever has
//! an answer finds it here too. Writing the counters of a stock never waits for a reader; only showing a new stock takes a lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::RwLock;
use tidegate_persistence::{GroupSequence, StreamId};
use tidegate_stock::{Sku, StockTerms, StockView, Timestamp};

use crate::answer::{Position, StockAnswer};

/// Looks at a view that is just being written before the reader lets other threads run.
const READ_SPINS: u32 = 64;

/// Committed views of all stocks of a node.
#[derive(Debug, Default)]
pub(crate) struct Published {
    stocks: RwLock<HashMap<Sku, Arc<PublishedStock>>>,
}

/// One stock's committed view.
#[derive(Debug)]
struct PublishedStock {
    first: StockView,
    version: u64,
    stream: StreamId,
    counters: Counters,
}

impl Published {
    /// Shows `view`, which holds as of `group` of `stream`.
    pub(crate) fn publish(&self, view: StockView, stream: StreamId, group: GroupSequence) {
        let words = [view.allotted, view.available, view.reserved, view.sold, group.0];
        if let Some(stock) = self.stocks.read().get(&view.sku) {
            stock.counters.write(words);
            return;
        }
        let version = terms_version(&view.terms);
        let stock = PublishedStock { version, stream, counters: Counters::new(words), first: view };
        self.stocks.write().insert(stock.first.sku.clone(), Arc::new(stock));
    }

    /// The committed view of `sku`; its phase is that at `now`.
    pub(crate) fn get(&self, sku: &Sku, now: Timestamp) -> Option<StockAnswer> {
        let stock = Arc::clone(self.stocks.read().get(sku)?);
        let [allotted, available, reserved, sold, group] = stock.counters.read();
        let view = StockView { allotted, available, reserved, sold, ..stock.first.clone() };
        let state = view.state(now);
        Some(StockAnswer {
            view,
            state,
            as_of: Position { stream: stock.stream, group: GroupSequence(group) },
            version: stock.version,
        })
    }

    /// How many stocks there are.
    pub(crate) fn len(&self) -> usize {
        self.stocks.read().len()
    }
}

/// A number that changes when the settings do: their 64-bit FNV-1a.
pub(crate) fn terms_version(terms: &StockTerms) -> u64 {
    let optional = |value: Option<u64>| value.map_or([0, 0], |value| [1, value]);
    let [limited, limit] = optional(terms.per_user_limit.map(|limit| u64::from(limit.units())));
    let [opens, opens_at] = optional(terms.opens_at.map(Timestamp::unix_ms));
    let [closes, closes_at] = optional(terms.closes_at.map(Timestamp::unix_ms));
    let hold = u64::from(terms.hold_seconds.seconds());
    let hold_max = u64::from(terms.hold_seconds_max.seconds());
    [limited, limit, hold, hold_max, opens, opens_at, closes, closes_at]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
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
