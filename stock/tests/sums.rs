//! The sum of a ledger: the number that a small history comes to, worked out by hand of the file's own words, and what makes no difference to it.
//! That it is the sum of all that is in a ledger, whatever happened, is looked at by the model at every comparison.

use tidegate_stock::{
    Allotment, CopyProgress, Event, GrantSequence, HoldSeconds, Ledger, LedgerSum, Loader, Partition, Quantity, ReservationId,
    Rules, Sku, SnapshotItem, StockId, StockNumber, StockTerms, Timestamp, UserId,
};

#[path = "support/sum.rs"]
mod support;

const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 100,
    retention_seconds: 86_400,
    reservations_in_memory_max: 100,
    users_in_memory_max: 100,
};

const STOCK: StockId = StockId { partition: Partition(7), number: StockNumber(1) };

const fn at(ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

const fn id(sequence: u64) -> ReservationId {
    ReservationId { stock: STOCK, sequence: GrantSequence(sequence) }
}

fn units(units: u64) -> Quantity {
    Quantity::new(units).expect("a quantity")
}

fn created() -> Event {
    let terms = StockTerms {
        per_user_limit: Some(units(4)),
        hold_seconds: HoldSeconds::new(600).expect("a hold"),
        hold_seconds_max: HoldSeconds::new(3_600).expect("a hold"),
        opens_at: Some(at(500)),
        closes_at: None,
    };
    let (sku, quantity) = (Sku::new("tea").expect("a sku"), Allotment::new(10).expect("an allotment"));
    Event::StockCreated { stock: STOCK, sku, quantity, terms }
}

fn granted(sequence: u64, user: &str, quantity: u64, expires_at: u64) -> Event {
    Event::Reserved {
        stock: STOCK,
        sequence: GrantSequence(sequence),
        user: UserId::new(user).expect("a user"),
        quantity: units(quantity),
        expires_at: at(expires_at),
        reference: None,
        idempotency: None,
    }
}

fn history() -> [(u64, Event); 5] {
    [
        (1_000, created()),
        (2_000, granted(1, "ann", 3, 602_000)),
        (3_000, Event::Confirmed { reservation: id(1), quantity: units(1), idempotency: None }),
        (4_000, granted(2, "a-rather-long-name", 2, 604_000)),
        (5_000, Event::StockPaused { stock: STOCK }),
    ]
}

fn ledger_of(history: &[(u64, Event)], seed: u64) -> Ledger {
    let mut ledger = Ledger::new(RULES, seed);
    for (ms, event) in history {
        drop(ledger.apply(event, at(*ms)));
    }
    ledger
}

fn copied(ledger: &mut Ledger) -> Vec<SnapshotItem> {
    let mut items = Vec::new();
    ledger.begin_copy();
    assert_eq!(ledger.copy_slice(usize::MAX, |item| items.push(item)), CopyProgress::Done);
    items
}

#[test]
fn a_small_history_comes_to_the_number_that_its_words_make() {
    let history = history();
    assert_eq!(ledger_of(&[], 1).sum(), LedgerSum { stocks: 0, open_holds: 0, hash: 0 });
    assert_eq!(ledger_of(&history[..1], 1).sum(), LedgerSum { stocks: 1, open_holds: 0, hash: 0x8a7a_2018_647f_cbb4 });
    assert_eq!(ledger_of(&history, 1).sum(), LedgerSum { stocks: 1, open_holds: 2, hash: 0xcd13_0057_daa7_cb45 });
}

#[test]
fn neither_the_seed_nor_a_copy_nor_what_leaves_memory_makes_a_difference() {
    let mut history = history().to_vec();
    history.push((6_000, Event::Confirmed { reservation: id(1), quantity: units(2), idempotency: None }));
    let mut ledger = ledger_of(&history, 1);
    let sum = ledger.sum();
    assert_eq!(ledger_of(&history, 2).sum(), sum);
    let items = copied(&mut ledger);
    assert_eq!(support::sum_of(&items), sum);
    let mut loader = Loader::new(RULES, 3);
    for item in items {
        loader.add(item).expect("a piece of a copy");
    }
    assert_eq!(loader.finish().expect("a whole copy").sum(), sum);
    for record in ledger.take_leaving(at(u64::MAX), 10) {
        ledger.has_left(record.id);
    }
    assert_eq!(ledger.reservation(id(1)), None, "it has left memory");
    assert_eq!(ledger.sum(), sum);
}

#[test]
fn one_unit_one_millisecond_or_one_letter_makes_a_difference_and_undoing_it_none() {
    let history = history();
    let sum = ledger_of(&history, 1).sum();
    for other in [
        granted(2, "a-rather-long-name", 1, 604_000),
        granted(2, "a-rather-long-name", 2, 604_001),
        granted(2, "a-rather-long-nama", 2, 604_000),
    ] {
        let mut changed = history.clone();
        changed[3].1 = other;
        assert_ne!(ledger_of(&changed, 1).sum(), sum);
    }
    let mut ledger = ledger_of(&history, 1);
    let expired = Event::Expired { reservations: vec![id(1), id(2)] };
    let inverse = ledger.apply(&expired, at(700_000));
    assert_eq!(ledger.sum().open_holds, 0);
    ledger.undo(inverse);
    assert_eq!(ledger.sum(), sum);
    let said = Event::Summed { sum };
    drop(ledger.apply(&said, at(5_000)));
    assert_eq!(ledger.compare(&said), Ok(()));
    let wrong = LedgerSum { open_holds: 3, ..sum };
    assert_eq!(ledger.compare(&Event::Summed { sum: wrong }), Err((wrong, sum)));
}
