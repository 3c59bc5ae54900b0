//! A ledger made from pieces: those of a copy make it again, and pieces that make none are named.

use std::slice::from_ref;

use tidegate_stock::{
    Allotment, ChangeSequence, Fingerprint, GrantSequence, HoldSeconds, KeyRecord, LastExit, Ledger, LoadError, Loader, Partition,
    ReservationId, ReservationRecord, Revision, Rules, Sku, SnapshotItem, StockId, StockNumber, StockRecord, StockTerms, Timestamp,
    UserId, UserRecord,
};

const STOCK: StockId = StockId { partition: Partition(7), number: StockNumber(1) };

const fn at(ms: u64) -> Timestamp {
    Timestamp::from_unix_ms(ms)
}

fn stock() -> StockRecord {
    let hold = |seconds| HoldSeconds::new(seconds).expect("a hold");
    StockRecord {
        id: STOCK,
        sku: Sku::new("tea").expect("a sku"),
        first_quantity: Allotment::new(10).expect("an allotment"),
        terms: StockTerms {
            per_user_limit: None,
            hold_seconds: hold(600),
            hold_seconds_max: hold(3_600),
            opens_at: None,
            closes_at: None,
        },
        allotted: 10,
        available: 6,
        reserved: 3,
        sold: 1,
        grants: 5,
        changes: ChangeSequence(7),
        revision: Revision(1),
        is_paused: false,
        is_closed: false,
        is_archived: false,
    }
}

fn reservation() -> ReservationRecord {
    ReservationRecord {
        id: ReservationId { stock: STOCK, sequence: GrantSequence(5) },
        user: UserId::new("ann").expect("a user"),
        reference: None,
        reserved_at: at(1_000),
        expires_at: at(601_000),
        resolved_at: None,
        reserved: 3,
        confirmed: 1,
        released: 0,
        returned: 0,
        last_exit: LastExit::None,
    }
}

fn key() -> KeyRecord {
    let (key, request) = (Fingerprint(7), Fingerprint(70));
    KeyRecord { stock: STOCK, key, request, reservation: Some(GrantSequence(5)), created: true, at: at(1_000) }
}

/// What ann has.
fn user() -> SnapshotItem {
    SnapshotItem::User(UserRecord { stock: STOCK, user: reservation().user, units: 4 })
}

/// `pieces` between a beginning and an end that counts them.
fn load(pieces: &[SnapshotItem]) -> Result<Ledger, LoadError> {
    let end = SnapshotItem::End { items: 1 + pieces.len() as u64 };
    add(&[&[SnapshotItem::Begin { last_applied: at(2_000) }], pieces, &[end]].concat())
}

fn add(pieces: &[SnapshotItem]) -> Result<Ledger, LoadError> {
    let rules = Rules {
        idempotency_seconds: 86_400,
        idempotency_keys_max: 10,
        retention_seconds: 604_800,
        reservations_in_memory_max: 10,
        users_in_memory_max: 10,
    };
    let mut loader = Loader::new(rules, 42);
    for piece in pieces {
        loader.add(piece.clone())?;
    }
    loader.finish()
}

/// The stock, its user, `reservation`, and the key.
fn with_reservation(reservation: ReservationRecord) -> Vec<SnapshotItem> {
    let stock = SnapshotItem::Stock(Box::new(stock()));
    vec![stock, user(), SnapshotItem::Reservation(reservation), SnapshotItem::Key(key())]
}

fn error(pieces: &[SnapshotItem]) -> LoadError {
    load(pieces).expect_err("these pieces make no ledger")
}

#[test]
fn the_pieces_of_a_ledger_make_it() {
    let ledger = load(&with_reservation(reservation())).expect("it is whole");
    assert_eq!((ledger.stock_count(), ledger.open_holds(), ledger.key_count()), (1, 1, 1));
    let found = ledger.reservation(reservation().id).expect("it is there");
    assert_eq!((found.quantity.units(), found.reserved, found.confirmed), (4, 3, 1));
    assert_eq!(ledger.user_units(STOCK, &reservation().user), 4);
}

#[test]
fn pieces_out_of_place_are_named() {
    let (begin, end) = (SnapshotItem::Begin { last_applied: at(2_000) }, SnapshotItem::End { items: 1 });
    for pieces in
        [&[][..], from_ref(&end), from_ref(&begin), &[begin.clone(), begin.clone()], &[begin.clone(), end.clone(), end.clone()]]
    {
        assert_eq!(add(pieces).expect_err("they are out of place"), LoadError::OutOfPlace, "{pieces:?}");
    }
    assert_eq!(add(&[begin, SnapshotItem::End { items: 2 }]).map(drop), Err(LoadError::Items { found: 1, expected: 2 }));
}

#[test]
fn what_belongs_to_no_stock_or_comes_twice_is_named() {
    let pieces = with_reservation(reservation());
    for piece in &pieces[1..] {
        assert_eq!(error(from_ref(piece)), LoadError::UnknownStock(STOCK));
    }
    for piece in &pieces {
        assert_eq!(error(&[&pieces[..], from_ref(piece)].concat()), LoadError::Twice(Box::new(piece.clone())));
    }
}

#[test]
fn a_stock_that_does_not_add_up_is_named() {
    for (allotted, available) in [(9, 6), (11, 6), (2, u64::MAX - 1)] {
        let record = Box::new(StockRecord { allotted, available, ..stock() });
        assert_eq!(error(&[SnapshotItem::Stock(record.clone())]), LoadError::NotConserved(record));
    }
    let without = SnapshotItem::Stock(Box::new(stock()));
    assert_eq!(error(&[without]), LoadError::Reserved { stock: STOCK, expected: 3, found: 0 });
}

#[test]
fn a_reservation_that_no_grant_can_be_is_named() {
    let numbered = |sequence| {
        let id = ReservationId { sequence: GrantSequence(sequence), ..reservation().id };
        ReservationRecord { id, ..reservation() }
    };
    for record in [numbered(0), numbered(6)] {
        assert_eq!(error(&with_reservation(record.clone())), LoadError::BeyondGrants(Box::new(record)));
    }
    // A ledger keeps grants in 56 bits, whatever a stock says of how many there were.
    let record = numbered(1 << 56);
    let stock = SnapshotItem::Stock(Box::new(StockRecord { grants: u64::MAX, ..stock() }));
    let pieces = [stock, SnapshotItem::Reservation(record.clone())];
    assert_eq!(error(&pieces), LoadError::BeyondGrants(Box::new(record)));
}

#[test]
fn a_reservation_whose_counts_are_no_quantity_is_named() {
    for (reserved, confirmed, released) in [(0, 0, 0), (1_000_000_000, 1, 0), (u32::MAX, u32::MAX, u32::MAX)] {
        let record = ReservationRecord { reserved, confirmed, released, ..reservation() };
        assert_eq!(error(&with_reservation(record.clone())), LoadError::NoQuantity(Box::new(record)));
    }
}
