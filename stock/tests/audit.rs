//! The auditor: a good history passes, and for each promise a history that breaks it is caught.

#[path = "audit/images.rs"]
mod images;
#[path = "audit/life.rs"]
mod life;
#[path = "audit/snapshot.rs"]
mod snapshot;

use tidegate_stock::{
    Allotment, AuditSummary, AuditedStock, Auditor, Delta, Event, Finding, Fingerprint, GrantSequence, HoldSeconds, Idempotency,
    Partition, Quantity, Reason, Reference, ReservationId, Sku, StockId, StockNumber, StockTerms, Timestamp, UserId,
};

/// Keys are remembered for 100 s in every history.
const IDEMPOTENCY_SECONDS: u32 = 100;

const TEA: StockId = StockId { partition: Partition(3), number: StockNumber(1) };
const CUP: StockId = StockId { partition: Partition(3), number: StockNumber(2) };

const fn at(unix_ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(unix_ms)
}

fn sku(text: &str) -> Sku {
    Sku::new(text).expect("a sku")
}

fn quantity(units: u64) -> Quantity {
    Quantity::new(units).expect("a quantity")
}

fn created(stock: StockId, name: &str, units: u64) -> Event {
    let terms = StockTerms {
        per_user_limit: Some(quantity(3)),
        hold_seconds: HoldSeconds::new(10).expect("a hold"),
        hold_seconds_max: HoldSeconds::new(20).expect("a hold"),
        opens_at: Some(at(1_000)),
        closes_at: Some(at(50_000)),
    };
    Event::StockCreated { stock, sku: sku(name), quantity: Allotment::new(units).expect("an allotment"), terms }
}

fn tea(units: u64) -> (u64, Event) {
    (500, created(TEA, "tea", units))
}

/// A grant of tea.
fn granted(sequence: u64, user: &str, units: u64, expires_at: u64) -> Event {
    granted_of(TEA, sequence, user, units, expires_at)
}

fn granted_of(stock: StockId, sequence: u64, user: &str, units: u64, expires_at: u64) -> Event {
    Event::Reserved {
        stock,
        sequence: GrantSequence(sequence),
        user: UserId::new(user).expect("a user"),
        quantity: quantity(units),
        expires_at: at(expires_at),
        reference: Some(Reference::new("order-7").expect("a reference")),
        idempotency: None,
    }
}

const fn id(stock: StockId, sequence: u64) -> ReservationId {
    ReservationId { stock, sequence: GrantSequence(sequence) }
}

fn confirmed(sequence: u64, units: u64) -> Event {
    Event::Confirmed { reservation: id(TEA, sequence), quantity: quantity(units), idempotency: None }
}

fn released(sequence: u64, units: u64) -> Event {
    Event::Released { reservation: id(TEA, sequence), quantity: quantity(units), idempotency: None }
}

fn expired(sequences: &[u64]) -> Event {
    Event::Expired { reservations: sequences.iter().map(|sequence| id(TEA, *sequence)).collect() }
}

fn returned(sequence: u64, units: u64) -> Event {
    Event::Returned { reservation: id(TEA, sequence), quantity: quantity(units), idempotency: None }
}

fn extended(sequence: u64, expires_at: u64) -> Event {
    Event::Extended { reservation: id(TEA, sequence), expires_at: at(expires_at), idempotency: None }
}

fn adjusted(units: i64) -> Event {
    let (delta, reason) = (Delta::new(units).expect("a delta"), Reason::new("counted anew").expect("a reason"));
    Event::StockAdjusted { stock: TEA, delta, reason, idempotency: None }
}

fn with_key(mut event: Event, key: u128, request: u128) -> Event {
    match &mut event {
        Event::Reserved { idempotency, .. }
        | Event::Confirmed { idempotency, .. }
        | Event::Released { idempotency, .. }
        | Event::Returned { idempotency, .. }
        | Event::Extended { idempotency, .. }
        | Event::StockAdjusted { idempotency, .. } => {
            *idempotency = Some(Idempotency { key: Fingerprint(key), request: Fingerprint(request) });
        }
        other => panic!("{other:?} carries no key"),
    }
    event
}

/// What a whole history amounts to.
fn audit(history: &[(u64, Event)]) -> AuditSummary {
    let mut auditor = Auditor::new(IDEMPOTENCY_SECONDS, 1);
    for (unix_ms, event) in history {
        auditor.observe(event, at(*unix_ms)).unwrap_or_else(|finding| panic!("{event:?} at {unix_ms}: {finding}"));
    }
    auditor.finish()
}

/// The history is good up to its last event, which is caught.
fn check(history: &[(u64, Event)], expected: &Finding, message: &str) {
    let mut auditor = Auditor::new(IDEMPOTENCY_SECONDS, 1);
    let ((unix_ms, last), before) = history.split_last().expect("a history has an event");
    for (unix_ms, event) in before {
        auditor.observe(event, at(*unix_ms)).unwrap_or_else(|finding| panic!("{event:?} at {unix_ms}: {finding}"));
    }
    let found = auditor.observe(last, at(*unix_ms)).expect_err("the last event breaks a promise");
    assert_eq!(found, *expected);
    assert_eq!(found.to_string(), message);
}

#[test]
fn a_good_history_passes_and_adds_up() {
    let summary = audit(&[
        (500, created(TEA, "tea", 10)),
        (500, created(CUP, "cup", 5)),
        (1_000, granted(1, "ann", 3, 11_000)),
        (1_000, granted(2, "bob", 3, 21_000)),
        (1_000, granted(3, "cy", 1, 2_000)),
        (1_500, granted_of(CUP, 1, "ann", 2, 11_500)),
        (1_999, confirmed(3, 1)),
        (2_000, confirmed(1, 1)),
        (2_500, released(1, 1)),
        (2_500, granted(4, "ann", 1, 12_500)),
        (21_000, expired(&[1, 2, 4])),
        (49_999, granted(5, "bob", 3, 59_999)),
        (59_998, confirmed(5, 2)),
        (60_000, expired(&[5])),
    ]);
    let stocks = vec![
        AuditedStock { stock: TEA, sku: sku("tea"), allotted: 10, available: 6, reserved: 0, sold: 4, grants: 5 },
        AuditedStock { stock: CUP, sku: sku("cup"), allotted: 5, available: 3, reserved: 2, sold: 0, grants: 1 },
    ];
    let expected = AuditSummary {
        stocks,
        events: 14,
        grants: 6,
        granted_units: 13,
        confirmed_units: 4,
        released_units: 1,
        expired_units: 6,
        returned_units: 0,
        reservations: 6,
        newest: at(60_000),
    };
    assert_eq!(summary, expected);
}

#[test]
fn an_empty_log_amounts_to_nothing() {
    assert_eq!(audit(&[]), AuditSummary::default());
}

#[test]
fn a_stock_without_limit_or_window_grants_on() {
    let mut unbound = created(TEA, "tea", 1_000);
    if let Event::StockCreated { terms, .. } = &mut unbound {
        (terms.per_user_limit, terms.opens_at, terms.closes_at) = (None, None, None);
    }
    let summary = audit(&[(0, unbound), (0, granted(1, "ann", 900, 20_000)), (99_000, granted(2, "ann", 100, 100_000))]);
    assert_eq!((summary.stocks[0].available, summary.stocks[0].reserved), (0, 1_000));
}

#[test]
fn time_that_goes_backwards_is_caught() {
    let history = [tea(10), (2_000, granted(1, "ann", 1, 12_000)), (1_999, confirmed(1, 1))];
    let finding = Finding::TimeBackwards { at: at(1_999), newest: at(2_000) };
    check(&history, &finding, "an event of 1999 ms follows one of 2000 ms");
}

#[test]
fn a_sku_that_is_created_twice_is_caught() {
    let history = [tea(10), (500, created(CUP, "tea", 10))];
    check(&history, &Finding::DuplicateSku { sku: sku("tea") }, "tea was created twice");
}

#[test]
fn a_stock_number_that_is_given_twice_or_skips_one_is_caught() {
    let finding = Finding::StockOutOfOrder { stock: TEA, expected: StockNumber(2) };
    check(&[tea(10), (500, created(TEA, "cup", 10))], &finding, "stock 1 of partition 3 was created where 2 was due");
    let finding = Finding::StockOutOfOrder { stock: CUP, expected: StockNumber(1) };
    check(&[(500, created(CUP, "cup", 10))], &finding, "stock 2 of partition 3 was created where 1 was due");
}

#[test]
fn a_grant_of_an_unknown_stock_is_caught() {
    let finding = Finding::UnknownStock { stock: CUP };
    let message = "stock 2 of partition 3 was never created";
    check(&[tea(10), (1_000, granted_of(CUP, 1, "ann", 1, 11_000))], &finding, message);
    let confirm = Event::Confirmed { reservation: id(CUP, 1), quantity: quantity(1), idempotency: None };
    check(&[tea(10), (1_000, confirm)], &finding, message);
}

#[test]
fn a_change_of_an_unknown_reservation_is_caught() {
    let finding = |sequence| Finding::UnknownReservation { reservation: id(TEA, sequence) };
    let message = "grant 1 of stock 1 of partition 3 was never made";
    check(&[tea(10), (1_000, confirmed(1, 1))], &finding(1), message);
    check(&[tea(10), (1_000, released(1, 1))], &finding(1), message);
    check(&[tea(10), (1_000, expired(&[1]))], &finding(1), message);
    let history = [tea(10), (1_000, granted(1, "ann", 1, 11_000)), (1_000, confirmed(0, 1))];
    check(&history, &finding(0), "grant 0 of stock 1 of partition 3 was never made");
}

#[test]
fn a_grant_out_of_order_is_caught() {
    let finding = |found, expected| Finding::GrantOutOfOrder {
        sku: sku("tea"),
        found: GrantSequence(found),
        expected: GrantSequence(expected),
    };
    let one = (1_000, granted(1, "ann", 1, 11_000));
    check(&[tea(10), one.clone(), one.clone()], &finding(1, 2), "grant 1 of tea was made where 2 was due");
    let third = (1_000, granted(3, "ann", 1, 11_000));
    check(&[tea(10), one, third], &finding(3, 2), "grant 3 of tea was made where 2 was due");
    check(&[tea(10), (1_000, granted(0, "ann", 1, 11_000))], &finding(0, 1), "grant 0 of tea was made where 1 was due");
}

#[test]
fn a_grant_outside_the_window_is_caught() {
    let finding = |moment| Finding::OutsideWindow {
        sku: sku("tea"),
        sequence: GrantSequence(1),
        at: at(moment),
        opens_at: Some(at(1_000)),
        closes_at: Some(at(50_000)),
    };
    let message = "grant 1 of tea was made at 999 ms, outside the window from 1000 ms to 50000 ms";
    check(&[tea(10), (999, granted(1, "ann", 1, 10_999))], &finding(999), message);
    let message = "grant 1 of tea was made at 50000 ms, outside the window from 1000 ms to 50000 ms";
    check(&[tea(10), (50_000, granted(1, "ann", 1, 60_000))], &finding(50_000), message);
}

#[test]
fn a_hold_that_is_too_long_or_too_short_is_caught() {
    let finding = |expires_at| Finding::HoldOutOfBounds {
        sku: sku("tea"),
        sequence: GrantSequence(1),
        at: at(1_000),
        expires_at: at(expires_at),
        seconds_max: 20,
    };
    let message = "grant 1 of tea holds from 1000 ms to 21001 ms where 1 to 20 seconds are allowed";
    check(&[tea(10), (1_000, granted(1, "ann", 1, 21_001))], &finding(21_001), message);
    let message = "grant 1 of tea holds from 1000 ms to 1999 ms where 1 to 20 seconds are allowed";
    check(&[tea(10), (1_000, granted(1, "ann", 1, 1_999))], &finding(1_999), message);
}

#[test]
fn a_user_over_the_limit_is_caught() {
    let finding =
        |sequence, has, granted| Finding::OverLimit { sku: sku("tea"), sequence: GrantSequence(sequence), has, granted, limit: 3 };
    let message = "grant 1 of tea gives 4 units to a user who has 0 where the limit is 3";
    check(&[tea(10), (1_000, granted(1, "ann", 4, 11_000))], &finding(1, 0, 4), message);
    let message = "grant 2 of tea gives 1 units to a user who has 3 where the limit is 3";
    let three = (1_000, granted(1, "ann", 3, 11_000));
    let more = (1_000, granted(2, "ann", 1, 11_000));
    check(&[tea(10), three.clone(), more.clone()], &finding(2, 3, 1), message);
    check(&[tea(10), three.clone(), (1_000, confirmed(1, 3)), more.clone()], &finding(2, 3, 1), message);
    let message = "grant 2 of tea gives 2 units to a user who has 2 where the limit is 3";
    let two = (1_000, granted(2, "ann", 2, 11_000));
    check(&[tea(10), three, (1_000, released(1, 1)), two], &finding(2, 2, 2), message);
}

#[test]
fn an_oversold_stock_is_caught() {
    let finding = |available| Finding::Oversold { sku: sku("tea"), sequence: GrantSequence(3), granted: 2, available };
    let third = (1_000, granted(3, "cy", 2, 11_000));
    let history = [tea(5), (1_000, granted(1, "ann", 3, 11_000)), (1_000, granted(2, "bob", 1, 11_000)), third.clone()];
    check(&history, &finding(1), "grant 3 of tea gives 2 units where 1 are available");
    let history =
        [tea(3), (1_000, granted(1, "ann", 2, 11_000)), (1_000, granted(2, "bob", 1, 11_000)), (1_000, confirmed(1, 2)), third];
    check(&history, &finding(0), "grant 3 of tea gives 2 units where 0 are available");
}

#[test]
fn more_than_is_held_is_caught() {
    let finding = |left, held| Finding::MoreThanHeld { sku: sku("tea"), sequence: GrantSequence(1), left, held };
    let grant = (1_000, granted(1, "ann", 3, 11_000));
    let message = "4 units left grant 1 of tea, which held 3";
    check(&[tea(10), grant.clone(), (1_000, confirmed(1, 4))], &finding(4, 3), message);
    check(&[tea(10), grant.clone(), (1_000, released(1, 4))], &finding(4, 3), message);
    let message = "2 units left grant 1 of tea, which held 1";
    check(&[tea(10), grant.clone(), (1_000, confirmed(1, 2)), (1_000, released(1, 2))], &finding(2, 1), message);
    let message = "1 units left grant 1 of tea, which held 0";
    check(&[tea(10), grant.clone(), (1_000, released(1, 3)), (1_000, confirmed(1, 1))], &finding(1, 0), message);
    check(&[tea(10), grant, (11_000, expired(&[1])), (11_000, released(1, 1))], &finding(1, 0), message);
}

#[test]
fn a_confirm_at_the_end_of_a_hold_is_caught() {
    let finding =
        |moment| Finding::ConfirmedTooLate { sku: sku("tea"), sequence: GrantSequence(1), at: at(moment), expires_at: at(11_000) };
    let grant = (1_000, granted(1, "ann", 3, 11_000));
    let message = "grant 1 of tea was confirmed at 11000 ms, when its hold was over since 11000 ms";
    check(&[tea(10), grant.clone(), (11_000, confirmed(1, 3))], &finding(11_000), message);
    let message = "grant 1 of tea was confirmed at 12000 ms, when its hold was over since 11000 ms";
    check(&[tea(10), grant, (11_000, expired(&[1])), (12_000, confirmed(1, 3))], &finding(12_000), message);
}

#[test]
fn a_lapse_before_its_time_is_caught() {
    let finding = Finding::LapsedTooEarly { sku: sku("tea"), sequence: GrantSequence(2), at: at(11_999), expires_at: at(12_000) };
    let message = "grant 2 of tea lapsed at 11999 ms, when its hold was good until 12000 ms";
    let history =
        [tea(10), (1_000, granted(1, "ann", 1, 11_000)), (1_000, granted(2, "bob", 1, 12_000)), (11_999, expired(&[1, 2]))];
    check(&history, &finding, message);
}

#[test]
fn a_lapse_of_nothing_is_caught() {
    let finding = Finding::LapsedNothing { sku: sku("tea"), sequence: GrantSequence(1) };
    let message = "grant 1 of tea lapsed and held nothing";
    let grant = (1_000, granted(1, "ann", 1, 11_000));
    check(&[tea(10), grant.clone(), (11_000, expired(&[1, 1]))], &finding, message);
    check(&[tea(10), grant, (1_000, confirmed(1, 1)), (11_000, expired(&[1]))], &finding, message);
}

#[test]
fn a_key_that_has_its_effect_twice_is_caught() {
    let finding = |first, second| Finding::KeyUsedTwice { sku: sku("tea"), first_at: at(first), at: at(second) };
    let grant = |sequence, key| with_key(granted(sequence, "ann", 1, 11_000), key, 70);
    let history = [tea(10), (1_000, grant(1, 7)), (1_001, grant(2, 7))];
    let message = "a key of tea that had its effect at 1000 ms had another at 1001 ms, while it was remembered";
    check(&history, &finding(1_000, 1_001), message);
    let history = [tea(10), (1_000, grant(1, 7)), (1_001, with_key(confirmed(1, 1), 7, 71))];
    check(&history, &finding(1_000, 1_001), message);
    let history = [
        tea(10),
        (1_000, granted(1, "ann", 2, 11_000)),
        (1_000, with_key(confirmed(1, 1), 7, 71)),
        (1_001, with_key(released(1, 1), 7, 72)),
    ];
    check(&history, &finding(1_000, 1_001), message);
}

#[test]
fn a_key_counts_for_its_time_and_its_product_only() {
    let mut open = created(TEA, "tea", 10);
    if let Event::StockCreated { terms, .. } = &mut open {
        terms.closes_at = None;
    }
    let good = [
        (500, open),
        (500, created(CUP, "cup", 10)),
        (1_000, with_key(granted(1, "ann", 1, 11_000), 7, 70)),
        (1_000, with_key(granted_of(CUP, 1, "ann", 1, 11_000), 7, 70)),
        (1_000, with_key(granted(2, "ann", 1, 11_000), 7 << 64, 70)),
        (101_000, with_key(granted(3, "ann", 1, 111_000), 7, 70)),
    ];
    let summary = audit(&good);
    assert_eq!((summary.grants, summary.events), (4, 6));

    let mut early = good;
    early[5].0 = 100_999;
    let finding = Finding::KeyUsedTwice { sku: sku("tea"), first_at: at(1_000), at: at(100_999) };
    let message = "a key of tea that had its effect at 1000 ms had another at 100999 ms, while it was remembered";
    check(&early, &finding, message);
}

#[test]
fn keys_in_great_number_are_caught_too() {
    let mut auditor = Auditor::new(IDEMPOTENCY_SECONDS, 1);
    let mut open = created(TEA, "tea", 1_000_000);
    if let Event::StockCreated { terms, .. } = &mut open {
        (terms.per_user_limit, terms.closes_at) = (None, None);
    }
    auditor.observe(&open, at(1_000)).unwrap();
    // One grant in 10 ms: 10,000 keys are remembered at any time, and the older ones are dropped on the way.
    for sequence in 1..=50_000_u64 {
        let now = 1_000 + sequence * 10;
        let event = with_key(granted(sequence, "ann", 1, now + 5_000), u128::from(sequence), 0);
        auditor.observe(&event, at(now)).unwrap();
    }
    let now = 1_000 + 50_000 * 10;
    let again = |key| with_key(granted(50_001, "ann", 1, now + 5_000), key, 0);
    let oldest_remembered = 40_001;
    let found = auditor.observe(&again(oldest_remembered), at(now)).unwrap_err();
    assert_eq!(found, Finding::KeyUsedTwice { sku: sku("tea"), first_at: at(401_010), at: at(now) });
    assert_eq!(auditor.observe(&again(40_000), at(now)), Ok(()), "a key whose time is over may be used again");
}
