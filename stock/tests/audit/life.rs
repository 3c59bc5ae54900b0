//! What may happen after a sale and to a stock: for each promise a history that keeps it and one that breaks it.

use tidegate_stock::{AuditedStock, Event, Finding, GrantSequence, LastExit, ReservationRecord, StockTerms, UserId};

use super::{
    TEA, adjusted, at, audit, check, confirmed, created, expired, extended, granted, id, quantity, released, returned, sku, tea,
    with_key,
};

const PAUSED: Event = Event::StockPaused { stock: TEA };
const REOPENED: Event = Event::StockReopened { stock: TEA };
const CLOSED: Event = Event::StockClosed { stock: TEA };
const ARCHIVED: Event = Event::StockArchived { stock: TEA };

/// Three units for ann at one second, held for ten.
fn grant() -> (u64, Event) {
    (1_000, granted(1, "ann", 3, 11_000))
}

fn changed(change: impl FnOnce(&mut StockTerms)) -> Event {
    let Event::StockCreated { stock, mut terms, .. } = created(TEA, "tea", 1) else { unreachable!("that is what it makes") };
    change(&mut terms);
    Event::StockChanged { stock, terms }
}

/// The first grant once it was sold, as it is recalled.
fn record() -> ReservationRecord {
    ReservationRecord {
        id: id(TEA, 1),
        user: UserId::new("ann").expect("a user"),
        reference: Some(tidegate_stock::Reference::new("order-7").expect("a reference")),
        reserved_at: at(1_000),
        expires_at: at(11_000),
        resolved_at: Some(at(2_000)),
        reserved: 0,
        confirmed: 3,
        released: 0,
        returned: 0,
        last_exit: LastExit::None,
    }
}

fn recalled(record: ReservationRecord) -> Event {
    Event::Recalled { record: Box::new(record) }
}

#[test]
fn a_good_life_passes_and_adds_up() {
    let summary = audit(&[
        tea(10),
        grant(),
        (1_500, extended(1, 21_000)),
        (1_500, PAUSED),
        (1_600, confirmed(1, 2)),
        (1_700, returned(1, 1)),
        (1_800, REOPENED),
        (1_900, changed(|terms| terms.per_user_limit = Some(quantity(2)))),
        (2_000, adjusted(-8)),
        (2_000, adjusted(1)),
        (20_999, released(1, 1)),
        (21_000, granted(2, "ann", 1, 31_000)),
        (30_000, changed(|terms| terms.per_user_limit = None)),
        (30_500, granted(3, "ann", 1, 40_500)),
        (40_600, expired(&[2, 3])),
        (40_700, CLOSED),
        (41_000, ARCHIVED),
        (42_000, adjusted(5)),
        (
            43_000,
            recalled(ReservationRecord {
                expires_at: at(21_000),
                resolved_at: Some(at(20_999)),
                confirmed: 1,
                released: 1,
                returned: 1,
                last_exit: LastExit::Released,
                ..record()
            }),
        ),
        (43_000, returned(1, 1)),
    ]);
    let stock = AuditedStock { stock: TEA, sku: sku("tea"), allotted: 8, available: 8, reserved: 0, sold: 0, grants: 3 };
    assert_eq!(summary.stocks, [stock]);
    let units =
        (summary.granted_units, summary.confirmed_units, summary.released_units, summary.expired_units, summary.returned_units);
    assert_eq!((units, summary.events, summary.reservations), ((5, 2, 1, 2, 2), 20, 3));
}

#[test]
fn more_than_was_sold_does_not_come_back() {
    let finding = |returned, sold| Finding::MoreThanSold { sku: sku("tea"), sequence: GrantSequence(1), returned, sold };
    let none = "1 units of grant 1 of tea came back, of which 0 were sold";
    check(&[tea(10), grant(), (1_000, returned(1, 1))], &finding(1, 0), none);
    let sold = (1_000, confirmed(1, 2));
    let message = "3 units of grant 1 of tea came back, of which 2 were sold";
    check(&[tea(10), grant(), sold.clone(), (1_000, returned(1, 3))], &finding(3, 2), message);
    check(&[tea(10), grant(), sold, (1_000, returned(1, 2)), (1_000, returned(1, 1))], &finding(1, 0), none);
}

#[test]
fn what_came_back_may_be_granted_and_no_more() {
    let back = [tea(3), grant(), (1_000, confirmed(1, 3)), (1_000, returned(1, 2))];
    let two = [back.to_vec(), vec![(1_000, granted(2, "ann", 2, 11_000))]].concat();
    assert_eq!(audit(&two).stocks[0].available, 0);
    let three = [back.to_vec(), vec![(1_000, granted(2, "bob", 3, 11_000))]].concat();
    let finding = Finding::Oversold { sku: sku("tea"), sequence: GrantSequence(2), granted: 3, available: 2 };
    check(&three, &finding, "grant 2 of tea gives 3 units where 2 are available");
}

#[test]
fn an_extension_of_what_is_over_is_caught() {
    let finding = |moment, expires_at, held| Finding::ExtendedTooLate {
        sku: sku("tea"),
        sequence: GrantSequence(1),
        at: at(moment),
        expires_at: at(expires_at),
        held,
    };
    let message = "grant 1 of tea, which held 3 until 11000 ms, was extended at 11000 ms";
    check(&[tea(10), grant(), (11_000, extended(1, 12_000))], &finding(11_000, 11_000, 3), message);
    let message = "grant 1 of tea, which held 0 until 11000 ms, was extended at 2000 ms";
    check(&[tea(10), grant(), (2_000, confirmed(1, 3)), (2_000, extended(1, 12_000))], &finding(2_000, 11_000, 0), message);
    let late = Finding::ConfirmedTooLate { sku: sku("tea"), sequence: GrantSequence(1), at: at(5_000), expires_at: at(5_000) };
    let message = "grant 1 of tea was confirmed at 5000 ms, when its hold was over since 5000 ms";
    check(&[tea(10), grant(), (2_000, extended(1, 5_000)), (5_000, confirmed(1, 1))], &late, message);
}

#[test]
fn an_extension_out_of_bounds_is_caught() {
    let finding = |expires_at, seconds_max| Finding::ExtensionOutOfBounds {
        sku: sku("tea"),
        sequence: GrantSequence(1),
        at: at(2_000),
        reserved_at: at(1_000),
        expires_at: at(expires_at),
        seconds_max,
    };
    let bounds = "where at least a second from then and at most";
    let message = format!(
        "grant 1 of tea, made at 1000 ms, was extended at 2000 ms to 21001 ms {bounds} 20 seconds from its grant are allowed"
    );
    check(&[tea(10), grant(), (2_000, extended(1, 21_001))], &finding(21_001, 20), &message);
    let message = format!(
        "grant 1 of tea, made at 1000 ms, was extended at 2000 ms to 2999 ms {bounds} 20 seconds from its grant are allowed"
    );
    check(&[tea(10), grant(), (2_000, extended(1, 2_999))], &finding(2_999, 20), &message);
    let lowered = (1_500, changed(|terms| terms.hold_seconds_max = terms.hold_seconds));
    let message = format!(
        "grant 1 of tea, made at 1000 ms, was extended at 2000 ms to 11001 ms {bounds} 10 seconds from its grant are allowed"
    );
    check(&[tea(10), grant(), lowered.clone(), (2_000, extended(1, 11_001))], &finding(11_001, 10), &message);
    audit(&[tea(10), grant(), lowered, (2_000, extended(1, 11_000))]);
}

#[test]
fn an_adjustment_out_of_bounds_is_caught() {
    let finding = Finding::AdjustedBelowZero { sku: sku("tea"), available: 7, delta: -8 };
    check(&[tea(10), grant(), (1_000, adjusted(-8))], &finding, "tea was adjusted by -8 units where 7 were available");
    let full = (500, created(TEA, "tea", 999_999_999_999));
    let finding = Finding::AdjustedOverMax { sku: sku("tea"), allotted: 999_999_999_999, delta: 2 };
    let message = "tea was adjusted by 2 units where 999999999999 were allotted, and may not have so many";
    check(&[full.clone(), (1_000, adjusted(2))], &finding, message);
    audit(&[full, (1_000, adjusted(1))]);
}

#[test]
fn settings_that_contradict_each_other_are_caught() {
    let finding = Finding::TermsContradict { sku: sku("tea") };
    let message = "the settings of tea contradict each other";
    let long = changed(|terms| std::mem::swap(&mut terms.hold_seconds, &mut terms.hold_seconds_max));
    check(&[tea(10), (600, long)], &finding, message);
    check(&[tea(10), (600, changed(|terms| terms.closes_at = terms.opens_at))], &finding, message);
    let mut empty = created(TEA, "tea", 10);
    if let Event::StockCreated { terms, .. } = &mut empty {
        terms.opens_at = terms.closes_at;
    }
    check(&[(500, empty)], &finding, message);
}

#[test]
fn the_settings_in_force_count() {
    let lowered = (2_000, changed(|terms| terms.per_user_limit = Some(quantity(2))));
    let more = (2_000, granted(2, "ann", 1, 12_000));
    let finding = Finding::OverLimit { sku: sku("tea"), sequence: GrantSequence(2), has: 3, granted: 1, limit: 2 };
    check(&[tea(10), grant(), lowered, more], &finding, "grant 2 of tea gives 1 units to a user who has 3 where the limit is 2");
    let mut free = created(TEA, "tea", 10);
    if let Event::StockCreated { terms, .. } = &mut free {
        terms.per_user_limit = None;
    }
    let limited = (2_000, changed(|_| ()));
    let finding = Finding::OverLimit { sku: sku("tea"), sequence: GrantSequence(2), has: 5, granted: 1, limit: 3 };
    let history = [(500, free), (1_000, granted(1, "ann", 5, 11_000)), limited, (2_000, granted(2, "ann", 1, 12_000))];
    check(&history, &finding, "grant 2 of tea gives 1 units to a user who has 5 where the limit is 3");
    let ended = (2_000, changed(|terms| terms.closes_at = Some(at(2_500))));
    let finding = Finding::OutsideWindow {
        sku: sku("tea"),
        sequence: GrantSequence(1),
        at: at(2_500),
        opens_at: Some(at(1_000)),
        closes_at: Some(at(2_500)),
    };
    let message = "grant 1 of tea was made at 2500 ms, outside the window from 1000 ms to 2500 ms";
    check(&[tea(10), ended, (2_500, granted(1, "ann", 1, 12_500))], &finding, message);
}

#[test]
fn a_grant_while_nothing_is_granted_is_caught() {
    let finding = |life| Finding::GrantedWhile { sku: sku("tea"), sequence: GrantSequence(1), life };
    let message = |life| format!("grant 1 of tea was made while it was {life}");
    check(&[tea(10), (600, PAUSED), grant()], &finding("paused"), &message("paused"));
    check(&[tea(10), (600, CLOSED), grant()], &finding("closed"), &message("closed"));
    check(&[tea(10), (600, CLOSED), (600, ARCHIVED), grant()], &finding("archived"), &message("archived"));
    audit(&[tea(10), (600, CLOSED), (600, PAUSED), (700, REOPENED), grant()]);
}

#[test]
fn an_archiving_of_what_is_in_use_is_caught() {
    let finding = |is_closed, reserved| Finding::ArchivedInUse { sku: sku("tea"), is_closed, reserved };
    let message = "tea was archived while it was not closed with 0 units reserved";
    check(&[tea(10), (600, ARCHIVED)], &finding(false, 0), message);
    let message = "tea was archived while it was closed with 3 units reserved";
    check(&[tea(10), grant(), (1_000, CLOSED), (1_000, ARCHIVED)], &finding(true, 3), message);
    check(&[tea(10), grant(), (50_000, ARCHIVED)], &finding(true, 3), message);
    audit(&[tea(10), (50_000, ARCHIVED)]);
}

#[test]
fn a_change_of_what_is_archived_is_caught() {
    let archived = [tea(10), (50_000, ARCHIVED)];
    for step in [PAUSED, REOPENED, CLOSED, ARCHIVED, changed(|_| ())] {
        let history = [archived.to_vec(), vec![(50_000, step)]].concat();
        check(&history, &Finding::ArchivedChanged { sku: sku("tea") }, "tea was changed after it was archived");
    }
}

#[test]
fn keys_of_every_kind_share_one_space_which_outlives_an_archiving() {
    let finding = Finding::KeyUsedTwice { sku: sku("tea"), first_at: at(1_000), at: at(1_001) };
    let message = "a key of tea that had its effect at 1000 ms had another at 1001 ms, while it was remembered";
    let first = (1_000, with_key(granted(1, "ann", 2, 11_000), 7, 70));
    for second in [adjusted(1), extended(1, 12_000), confirmed(1, 1)] {
        check(&[tea(10), first.clone(), (1_001, with_key(second, 7, 71))], &finding, message);
    }
    let adjust = (1_000, with_key(adjusted(1), 7, 70));
    check(&[tea(10), adjust.clone(), (1_001, with_key(granted(1, "ann", 1, 11_000), 7, 70))], &finding, message);
    let sold = [tea(10), grant(), (1_000, confirmed(1, 3)), adjust.clone()];
    check(&[sold.to_vec(), vec![(1_001, with_key(returned(1, 1), 7, 71))]].concat(), &finding, message);
    let archived = [sold.to_vec(), vec![(50_000, ARCHIVED), (50_000, with_key(returned(1, 1), 7, 70))]].concat();
    let finding = Finding::KeyUsedTwice { sku: sku("tea"), first_at: at(1_000), at: at(50_000) };
    let message = "a key of tea that had its effect at 1000 ms had another at 50000 ms, while it was remembered";
    check(&archived, &finding, message);
}

#[test]
fn a_recall_that_says_something_else_is_caught() {
    let given = [tea(10), grant(), (2_000, confirmed(1, 3))];
    let history = |record| [given.to_vec(), vec![(3_000, recalled(record))]].concat();
    audit(&history(record()));
    let mut wrong: Vec<(&'static str, ReservationRecord)> = vec![
        ("user", ReservationRecord { user: UserId::new("bob").expect("a user"), ..record() }),
        ("reference", ReservationRecord { reference: None, ..record() }),
        ("time of its grant", ReservationRecord { reserved_at: at(999), ..record() }),
        ("end of its hold", ReservationRecord { expires_at: at(11_001), ..record() }),
        ("time of its last held unit", ReservationRecord { resolved_at: Some(at(2_001)), ..record() }),
        ("number of units sold", ReservationRecord { confirmed: 2, ..record() }),
        ("number of units released", ReservationRecord { released: 1, ..record() }),
        ("number of units returned", ReservationRecord { returned: 1, ..record() }),
        ("last exit", ReservationRecord { last_exit: LastExit::Released, ..record() }),
        ("standing: units are held", ReservationRecord { reserved: 1, ..record() }),
    ];
    wrong.push(("standing: units are held", ReservationRecord { resolved_at: None, ..record() }));
    for (what, record) in wrong {
        let finding = Finding::RecalledOtherwise { sku: sku("tea"), sequence: GrantSequence(1), what };
        check(&history(record), &finding, &format!("grant 1 of tea was recalled with another {what}"));
    }
    let unknown = ReservationRecord { id: id(TEA, 2), ..record() };
    let finding = Finding::UnknownReservation { reservation: id(TEA, 2) };
    check(&history(unknown), &finding, "grant 2 of stock 1 of partition 3 was never made");
    let held = [tea(10), grant(), (2_000, recalled(record()))];
    let finding = Finding::RecalledOtherwise { sku: sku("tea"), sequence: GrantSequence(1), what: "time of its last held unit" };
    check(&held, &finding, "grant 1 of tea was recalled with another time of its last held unit");
}
