//! All that a ledger holds, by name: what two of them must have in common, whichever way each came to be.

use std::collections::BTreeMap;

use tidegate_stock::{CopyProgress, Ledger, LedgerSum, ReservationId, ReservationRecord, SnapshotItem, StockId, Timestamp};

use crate::sum::sum_of;

/// All that is in a ledger.
pub(crate) struct Whole {
    last_applied: Timestamp,
    sum: LedgerSum,
    /// Stocks with all their numbers, users who have units, and keys that count.
    lasting: BTreeMap<(u8, u64, u128, String), SnapshotItem>,
    /// Reservations in memory.
    pub(crate) reservations: BTreeMap<ReservationId, ReservationRecord>,
}

impl Whole {
    /// Keys that were used until `over_ms` count no more.
    pub(crate) fn drop_keys_until(&mut self, over_ms: u64) {
        self.lasting.retain(|_, item| !matches!(item, SnapshotItem::Key(record) if record.at.unix_ms() <= over_ms));
    }

    /// The time, the stocks, the users and the keys are those of `other`.
    #[track_caller]
    pub(crate) fn assert_lasts_as(&self, other: &Self) {
        assert_eq!(self.last_applied, other.last_applied, "time");
        assert_eq!(self.sum, other.sum, "the sum");
        for (name, item) in &other.lasting {
            assert_eq!(self.lasting.get(name), Some(item), "a stock, a user or a key");
        }
        assert_eq!(self.lasting.len(), other.lasting.len(), "{:?} where {:?} is due", self.lasting, other.lasting);
    }
}

/// All that is in `ledger` but keys that were used until `over_ms`. A copy of it that is being made is given up.
pub(crate) fn whole(ledger: &mut Ledger, over_ms: u64) -> Whole {
    let sum = ledger.sum();
    let mut whole = Whole { last_applied: Timestamp::default(), sum, lasting: BTreeMap::new(), reservations: BTreeMap::new() };
    let mut items = Vec::new();
    let stock = |id: StockId| u64::from(id.partition.0) << 32 | u64::from(id.number.0);
    ledger.begin_copy();
    let progress = ledger.copy_slice(usize::MAX, |item| {
        items.push(item.clone());
        let name = match &item {
            SnapshotItem::Begin { last_applied } => {
                whole.last_applied = *last_applied;
                return;
            }
            SnapshotItem::End { .. } => return,
            SnapshotItem::Reservation(record) => {
                assert!(whole.reservations.insert(record.id, record.clone()).is_none(), "twice: {record:?}");
                return;
            }
            SnapshotItem::Stock(record) => (0, stock(record.id), 0, String::new()),
            SnapshotItem::User(record) if record.units == 0 => return,
            SnapshotItem::User(record) => (1, stock(record.stock), 0, record.user.to_string()),
            SnapshotItem::Key(record) if record.at.unix_ms() <= over_ms => return,
            SnapshotItem::Key(record) => (2, stock(record.stock), record.key.0, String::new()),
        };
        let twin = whole.lasting.insert(name, item);
        assert!(twin.is_none(), "twice: {twin:?}");
    });
    assert_eq!(progress, CopyProgress::Done);
    assert_eq!(sum, sum_of(&items), "the sum that is kept up is not that of what is there");
    whole
}
