//! An audit that begins in the middle: with the pieces of a snapshot, and the log from there on.

use tidegate_stock::{
    AuditedStock, Auditor, ChangeSequence, Event, Finding, Fingerprint, GrantSequence, Image, KeyRecord, LastExit, Reference,
    ReservationRecord, Revision, SnapshotItem, StockRecord, UserId, UserRecord,
};

use super::{IDEMPOTENCY_SECONDS, TEA, adjusted, at, confirmed, created, expired, granted, id, released, returned, sku, with_key};

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a user")
}

/// Grant 1 was ann's and is sold; it has left memory. Grant 2 holds one of bob's two, the other is sold. Grant 3 was released.
fn pieces() -> Vec<SnapshotItem> {
    let Event::StockCreated { stock, sku, quantity, terms } = created(TEA, "tea", 10) else {
        unreachable!("that is what it makes")
    };
    vec![
        SnapshotItem::Begin { last_applied: at(5_000) },
        SnapshotItem::Stock(Box::new(StockRecord {
            id: stock,
            sku,
            first_quantity: quantity,
            terms,
            allotted: 12,
            available: 8,
            reserved: 1,
            sold: 3,
            grants: 3,
            changes: ChangeSequence(9),
            revision: Revision(4),
            is_paused: false,
            is_closed: false,
            is_archived: false,
        })),
        SnapshotItem::User(UserRecord { stock, user: user("ann"), units: 2 }),
        SnapshotItem::User(UserRecord { stock, user: user("bob"), units: 2 }),
        SnapshotItem::Reservation(ReservationRecord { reserved: 1, confirmed: 1, resolved_at: None, ..record(2, "bob") }),
        SnapshotItem::Reservation(ReservationRecord { released: 1, last_exit: LastExit::Released, ..record(3, "cy") }),
        SnapshotItem::Key(KeyRecord {
            stock,
            key: Fingerprint(7),
            request: Fingerprint(70),
            reservation: Some(GrantSequence(2)),
            created: true,
            at: at(1_000),
        }),
        SnapshotItem::End { items: 7 },
    ]
}

fn record(sequence: u64, name: &str) -> ReservationRecord {
    ReservationRecord {
        id: id(TEA, sequence),
        user: user(name),
        reference: Some(Reference::new("order-7").expect("a reference")),
        reserved_at: at(1_000),
        expires_at: at(11_000),
        resolved_at: Some(at(4_000)),
        reserved: 0,
        confirmed: 0,
        released: 0,
        returned: 0,
        last_exit: LastExit::None,
    }
}

fn sold() -> ReservationRecord {
    ReservationRecord { confirmed: 2, ..record(1, "ann") }
}

fn loaded() -> Auditor {
    let mut auditor = Auditor::new(IDEMPOTENCY_SECONDS, 1);
    for piece in pieces() {
        auditor.load(&piece).unwrap_or_else(|finding| panic!("{finding}"));
    }
    auditor
}

/// Observes all of them; the last one's finding.
fn observe(history: &[(u64, Event)]) -> Result<(), Finding> {
    let mut auditor = loaded();
    let (last, before) = history.split_last().expect("there is an event");
    for (unix_ms, event) in before {
        auditor.observe(event, at(*unix_ms)).unwrap_or_else(|finding| panic!("{event:?} at {unix_ms}: {finding}"));
    }
    auditor.observe(&last.1, at(last.0))
}

#[test]
fn a_log_goes_on_from_a_snapshot() {
    let mut auditor = loaded();
    let recall = Event::Recalled { record: Box::new(sold()) };
    let history = [
        (6_000, confirmed(2, 1)),
        (6_000, recall),
        (6_000, returned(1, 1)),
        (7_000, granted(4, "ann", 2, 17_000)),
        (17_000, expired(&[4])),
    ];
    for (unix_ms, event) in history {
        auditor.observe(&event, at(unix_ms)).unwrap_or_else(|finding| panic!("{event:?}: {finding}"));
    }
    let adjust = adjusted(3);
    auditor.observe(&adjust, at(18_000)).expect("it is good");
    let SnapshotItem::Stock(mut stock) = pieces()[1].clone() else { unreachable!("the second is the stock") };
    (stock.allotted, stock.available, stock.reserved, stock.sold) = (15, 12, 0, 3);
    (stock.grants, stock.changes) = (4, ChangeSequence(14));
    auditor.check_image(&adjust, &Image::Stock(stock)).expect("changes are counted on, and a recall is none");
    let summary = auditor.finish();
    let tea = AuditedStock { stock: TEA, sku: sku("tea"), allotted: 15, available: 12, reserved: 0, sold: 2, grants: 4 };
    assert_eq!(summary.stocks, [AuditedStock { sold: 3, ..tea }]);
    assert_eq!((summary.events, summary.grants, summary.reservations, summary.newest), (6, 1, 4, at(18_000)));
}

#[test]
fn what_the_snapshot_says_counts() {
    let tea = || sku("tea");
    let limit = Finding::OverLimit { sku: tea(), sequence: GrantSequence(4), has: 2, granted: 2, limit: 3 };
    assert_eq!(observe(&[(6_000, granted(4, "ann", 2, 16_000))]), Err(limit));
    let order = Finding::GrantOutOfOrder { sku: tea(), found: GrantSequence(1), expected: GrantSequence(4) };
    assert_eq!(observe(&[(6_000, granted(1, "ann", 1, 16_000))]), Err(order));
    let key = Finding::KeyUsedTwice { sku: tea(), first_at: at(1_000), at: at(6_000) };
    assert_eq!(observe(&[(6_000, with_key(adjusted(1), 7, 71))]), Err(key));
    let time = Finding::TimeBackwards { at: at(4_999), newest: at(5_000) };
    assert_eq!(observe(&[(4_999, adjusted(1))]), Err(time));
    let below = Finding::AdjustedBelowZero { sku: tea(), available: 8, delta: -9 };
    assert_eq!(observe(&[(6_000, adjusted(-9))]), Err(below));
    let held = Finding::MoreThanHeld { sku: tea(), sequence: GrantSequence(2), left: 2, held: 1 };
    assert_eq!(observe(&[(6_000, released(2, 2))]), Err(held));
    let twice = Finding::DuplicateSku { sku: tea() };
    assert_eq!(observe(&[(6_000, created(super::CUP, "tea", 1))]), Err(twice));
    assert_eq!(observe(&[(6_000, created(super::CUP, "cup", 1))]), Ok(()), "numbers go on");
}

#[test]
fn what_had_left_memory_must_be_recalled() {
    let finding = Finding::NotRecalled { sku: sku("tea"), sequence: GrantSequence(1) };
    assert_eq!(finding.to_string(), "grant 1 of tea had left memory and was changed without being recalled");
    assert_eq!(observe(&[(6_000, returned(1, 1))]), Err(finding.clone()));
    assert_eq!(observe(&[(6_000, confirmed(1, 1))]), Err(finding));
    let unknown = Finding::UnknownReservation { reservation: id(TEA, 4) };
    assert_eq!(observe(&[(6_000, returned(4, 1))]), Err(unknown.clone()));
    let recall = |record| (6_000, Event::Recalled { record: Box::new(record) });
    assert_eq!(observe(&[recall(ReservationRecord { id: id(TEA, 4), ..sold() })]), Err(unknown));
    let otherwise = |sequence, what| Err(Finding::RecalledOtherwise { sku: sku("tea"), sequence: GrantSequence(sequence), what });
    assert_eq!(observe(&[recall(ReservationRecord { confirmed: 0, ..sold() })]), otherwise(1, "quantity than there can be"));
    let known = ReservationRecord { released: 1, last_exit: LastExit::Expired, ..record(3, "cy") };
    assert_eq!(observe(&[recall(known)]), otherwise(3, "last exit"));
    let twice = [recall(sold()), recall(ReservationRecord { confirmed: 3, ..sold() })];
    assert_eq!(observe(&twice), otherwise(1, "number of units sold"), "what was recalled is known from then on");
    let more = ReservationRecord { confirmed: 3, ..sold() };
    let finding = Finding::MoreThanUserHas { sku: sku("tea"), sequence: GrantSequence(1), returned: 3, has: 2 };
    assert_eq!(finding.to_string(), "3 units of grant 1 of tea came back from a user who has 2");
    assert_eq!(observe(&[recall(more), (6_000, returned(1, 3))]), Err(finding));
}

#[test]
fn pieces_that_cannot_be_are_caught() {
    let with = |place: usize, change: &dyn Fn(&mut SnapshotItem)| {
        let mut pieces = pieces();
        change(&mut pieces[place]);
        let mut auditor = Auditor::new(IDEMPOTENCY_SECONDS, 1);
        pieces.iter().try_for_each(|piece| auditor.load(piece)).map_err(|finding| match finding {
            Finding::SnapshotPiece { what, .. } | Finding::SnapshotSum { what, .. } => what,
            other => panic!("{other}"),
        })
    };
    let again = |place: usize| pieces()[place].clone();
    assert_eq!(with(0, &|_| ()), Ok(()));
    assert_eq!(with(0, &|piece| *piece = again(1)), Err("a piece out of place"));
    assert_eq!(with(1, &|piece| *piece = again(0)), Err("a piece out of place"));
    assert_eq!(with(1, &|piece| *piece = again(2)), Err("a user of no stock"));
    assert_eq!(with(1, &|piece| *piece = again(4)), Err("a reservation of no stock"));
    assert_eq!(with(1, &|piece| *piece = again(6)), Err("a key of no stock"));
    assert_eq!(with(2, &|piece| *piece = again(1)), Err("a stock twice"));
    assert_eq!(with(3, &|piece| *piece = again(2)), Err("a user twice, or after a reservation of theirs"));
    assert_eq!(with(5, &|piece| *piece = again(4)), Err("a reservation twice"));
    assert_eq!(with(7, &|piece| *piece = again(6)), Err("a key twice"));
    assert_eq!(with(7, &|piece| *piece = SnapshotItem::End { items: 6 }), Err("another number of pieces"));
    let stock = |change: fn(&mut StockRecord)| {
        with(1, &|piece| {
            let SnapshotItem::Stock(record) = piece else { unreachable!("the second is the stock") };
            change(record);
        })
    };
    assert_eq!(stock(|record| record.available = 7), Err("a stock whose counts do not add up"));
    assert_eq!(stock(|record| record.sold = u64::MAX), Err("a stock whose counts do not add up"));
    assert_eq!(stock(|record| record.terms.opens_at = record.terms.closes_at), Err("a stock whose settings contradict each other"));
    assert_eq!(stock(|record| record.grants = 2), Err("a reservation that was not granted yet"));
    assert_eq!(stock(|record| (record.reserved, record.available) = (2, 7)), Err("units reserved"));
    assert_eq!(stock(|record| (record.sold, record.available) = (0, 11)), Err("units sold"));
    assert_eq!(stock(|record| (record.sold, record.available) = (2, 9)), Err("units of users"));
    let reservation = |change: fn(&mut ReservationRecord)| {
        with(4, &|piece| {
            let SnapshotItem::Reservation(record) = piece else { unreachable!("the fifth is a reservation") };
            change(record);
        })
    };
    assert_eq!(reservation(|record| record.resolved_at = Some(at(1))), Err("a reservation whose counts cannot be"));
    assert_eq!(reservation(|record| record.reserved = u32::MAX), Err("a reservation whose counts cannot be"));
    assert_eq!(reservation(|record| record.id.sequence = GrantSequence(0)), Err("a reservation that was not granted yet"));
    let later = with(6, &|piece| {
        let SnapshotItem::Key(record) = piece else { unreachable!("the seventh is a key") };
        record.at = at(5_001);
    });
    assert_eq!(later, Err("a key of later"));
}

#[test]
#[should_panic(expected = "an event came before the snapshot's last piece")]
fn an_event_amid_the_pieces_is_a_mistake() {
    let mut auditor = Auditor::new(IDEMPOTENCY_SECONDS, 1);
    auditor.load(&pieces()[0]).expect("it is the first");
    drop(auditor.observe(&adjusted(1), at(6_000)));
}
