//! Images: what the log says beside each event is what the events come to, or it is caught.

use tidegate_stock::{
    Allotment, Auditor, ChangeSequence, Event, Finding, Image, LastExit, Reference, ReservationRecord, Revision, StockRecord,
    UserId,
};

use super::{
    CUP, IDEMPOTENCY_SECONDS, TEA, adjusted, at, confirmed, created, expired, extended, granted, granted_of, id, returned, sku, tea,
};

/// A history, the image of whose last event is looked at.
fn look(history: &[(u64, Event)], image: &Image) -> Result<(), Finding> {
    let mut auditor = Auditor::new(IDEMPOTENCY_SECONDS, 1);
    for (unix_ms, event) in history {
        auditor.observe(event, at(*unix_ms)).unwrap_or_else(|finding| panic!("{event:?} at {unix_ms}: {finding}"));
    }
    auditor.check_image(&history.last().expect("a history has an event").1, image)
}

fn differs(what: &'static str, image: &Image) -> Result<(), Finding> {
    Err(Finding::ImageDiffers { sku: sku("tea"), what, image: Box::new(image.clone()) })
}

fn record(sequence: u64, user: &str, units: u32, expires_at: u64) -> ReservationRecord {
    ReservationRecord {
        id: id(TEA, sequence),
        user: UserId::new(user).expect("a user"),
        reference: Some(Reference::new("order-7").expect("a reference")),
        reserved_at: at(1_000),
        expires_at: at(expires_at),
        resolved_at: None,
        reserved: units,
        confirmed: 0,
        released: 0,
        returned: 0,
        last_exit: LastExit::None,
    }
}

const fn of_one(change: u64, record: ReservationRecord) -> Image {
    Image::Reservation { change: ChangeSequence(change), record }
}

fn stock(change: impl FnOnce(&mut StockRecord)) -> Image {
    let Event::StockCreated { stock: id, sku, quantity, terms } = created(TEA, "tea", 10) else {
        unreachable!("that is what it makes")
    };
    let mut record = StockRecord {
        id,
        sku,
        first_quantity: quantity,
        terms,
        allotted: 10,
        available: 10,
        reserved: 0,
        sold: 0,
        grants: 0,
        changes: ChangeSequence(1),
        revision: Revision(1),
        is_paused: false,
        is_closed: false,
        is_archived: false,
    };
    change(&mut record);
    Image::Stock(Box::new(record))
}

fn grant() -> (u64, Event) {
    (1_000, granted(1, "ann", 3, 11_000))
}

#[test]
fn the_image_of_a_grant() {
    let history = [tea(10), grant()];
    assert_eq!(look(&history, &Image::Granted { change: ChangeSequence(2) }), Ok(()));
    for change in [1, 3] {
        let image = Image::Granted { change: ChangeSequence(change) };
        assert_eq!(look(&history, &image), differs("change sequence", &image));
    }
    for image in [Image::Nothing, of_one(2, record(1, "ann", 3, 11_000)), stock(|_| ())] {
        assert_eq!(look(&history, &image), differs("kind of image", &image));
    }
}

#[test]
fn the_image_of_each_change_of_a_reservation() {
    let sold = ReservationRecord { reserved: 1, confirmed: 2, ..record(1, "ann", 3, 11_000) };
    let history = vec![tea(10), grant(), (2_000, confirmed(1, 2))];
    assert_eq!(look(&history, &of_one(3, sold.clone())), Ok(()));
    let back = ReservationRecord { confirmed: 1, returned: 1, last_exit: LastExit::Returned, ..sold.clone() };
    let history = [history, vec![(3_000, returned(1, 1))]].concat();
    assert_eq!(look(&history, &of_one(4, back.clone())), Ok(()));
    let longer = ReservationRecord { expires_at: at(20_000), ..back.clone() };
    let history = [history, vec![(4_000, extended(1, 20_000))]].concat();
    assert_eq!(look(&history, &of_one(5, longer.clone())), Ok(()));
    let release = Event::Released { reservation: id(TEA, 1), quantity: super::quantity(1), idempotency: None };
    let resolved =
        ReservationRecord { resolved_at: Some(at(5_000)), reserved: 0, released: 1, last_exit: LastExit::Released, ..longer };
    let history = [history, vec![(5_000, release)]].concat();
    assert_eq!(look(&history, &of_one(6, resolved.clone())), Ok(()));

    let lies: [(&'static str, ReservationRecord); 10] = [
        ("reservation", ReservationRecord { id: id(TEA, 2), ..resolved.clone() }),
        ("user", ReservationRecord { user: UserId::new("bob").expect("a user"), ..resolved.clone() }),
        ("reference", ReservationRecord { reference: Some(Reference::new("order-8").expect("one")), ..resolved.clone() }),
        ("time of its grant", ReservationRecord { reserved_at: at(1_001), ..resolved.clone() }),
        ("end of its hold", ReservationRecord { expires_at: at(11_000), ..resolved.clone() }),
        ("time of its last held unit", ReservationRecord { resolved_at: None, ..resolved.clone() }),
        ("number of units reserved", ReservationRecord { reserved: 1, ..resolved.clone() }),
        ("number of units sold", ReservationRecord { confirmed: 2, ..resolved.clone() }),
        ("number of units returned", ReservationRecord { returned: 0, ..resolved.clone() }),
        ("last exit", ReservationRecord { last_exit: LastExit::Returned, ..resolved.clone() }),
    ];
    for (what, lie) in lies {
        let image = of_one(6, lie);
        assert_eq!(look(&history, &image), differs(what, &image));
    }
    let image = of_one(5, resolved);
    assert_eq!(look(&history, &image), differs("change sequence", &image));
    assert_eq!(look(&history, &Image::Nothing), differs("kind of image", &Image::Nothing));
}

#[test]
fn the_image_of_a_lapse_numbers_each_reservation_of_each_stock() {
    let (two, cup) = ((1_000, granted(2, "bob", 1, 2_000)), (1_000, granted_of(CUP, 1, "ann", 2, 2_000)));
    let mut both = expired(&[2, 1]);
    if let Event::Expired { reservations } = &mut both {
        reservations.insert(1, id(CUP, 1));
    }
    let history = [tea(10), (500, created(CUP, "cup", 5)), (1_000, granted(1, "ann", 3, 2_000)), two, cup, (2_500, both)];
    let over = |record: ReservationRecord, units| ReservationRecord {
        resolved_at: Some(at(2_500)),
        reserved: 0,
        released: units,
        last_exit: LastExit::Expired,
        ..record
    };
    // Tea was created and granted twice before, the cup created and granted once.
    let (bob, ann) = (over(record(2, "bob", 1, 2_000), 1), over(record(1, "ann", 3, 2_000), 3));
    let cup = ReservationRecord { id: id(CUP, 1), ..over(record(1, "ann", 2, 2_000), 2) };
    let good = vec![(ChangeSequence(4), bob), (ChangeSequence(3), cup), (ChangeSequence(5), ann)];
    assert_eq!(look(&history, &Image::Lapsed(good.clone())), Ok(()));
    let mut swapped = good.clone();
    (swapped[0].0, swapped[2].0) = (swapped[2].0, swapped[0].0);
    let image = Image::Lapsed(swapped);
    assert_eq!(look(&history, &image), differs("change sequence", &image));
    let mut order = good.clone();
    order.swap(0, 2);
    (order[0].0, order[2].0) = (order[2].0, order[0].0);
    let image = Image::Lapsed(order);
    assert_eq!(look(&history, &image), differs("reservation", &image));
    let image = Image::Lapsed(good[..2].to_vec());
    assert_eq!(look(&history, &image), differs("number of reservations", &image));
    let mut lie = good;
    lie[2].1.released = 2;
    let image = Image::Lapsed(lie);
    assert_eq!(look(&history, &image), differs("number of units released", &image));
}

type Lie = fn(&mut StockRecord);

#[test]
fn the_image_of_a_stock() {
    assert_eq!(look(&[tea(10)], &stock(|_| ())), Ok(()));
    let history = [tea(10), grant(), (2_000, confirmed(1, 1)), (2_000, Event::StockPaused { stock: TEA }), (2_000, adjusted(-2))];
    let good = |record: &mut StockRecord| {
        (record.allotted, record.available, record.reserved, record.sold) = (8, 5, 2, 1);
        (record.grants, record.changes, record.revision, record.is_paused) = (1, ChangeSequence(5), Revision(2), true);
    };
    assert_eq!(look(&history, &stock(good)), Ok(()));
    let lies: [(&'static str, Lie); 13] = [
        ("stock", |record| record.id = CUP),
        ("sku", |record| record.sku = sku("cup")),
        ("first quantity", |record| record.first_quantity = Allotment::new(8).expect("an allotment")),
        ("settings", |record| record.terms.per_user_limit = None),
        ("number of units allotted", |record| record.allotted = 10),
        ("number of units available", |record| record.available = 4),
        ("number of units reserved", |record| record.reserved = 3),
        ("number of units sold", |record| record.sold = 0),
        ("number of grants", |record| record.grants = 2),
        ("change sequence", |record| record.changes = ChangeSequence(4)),
        ("revision", |record| record.revision = Revision(1)),
        ("phase of life", |record| record.is_paused = false),
        ("phase of life", |record| record.is_closed = true),
    ];
    for (what, lie) in lies {
        let image = stock(|record| {
            good(record);
            lie(record);
        });
        assert_eq!(look(&history, &image), differs(what, &image));
    }
}

#[test]
fn a_recall_changes_nothing_that_anybody_sees() {
    let sold = ReservationRecord { resolved_at: Some(at(2_000)), reserved: 0, confirmed: 3, ..record(1, "ann", 3, 11_000) };
    let recall = (3_000, Event::Recalled { record: Box::new(sold.clone()) });
    let history = [tea(10), grant(), (2_000, confirmed(1, 3)), recall];
    assert_eq!(look(&history, &Image::Nothing), Ok(()));
    let image = of_one(4, sold.clone());
    assert_eq!(look(&history, &image), differs("kind of image", &image));
    let after = [history.to_vec(), vec![(3_000, returned(1, 3))]].concat();
    let back = ReservationRecord { confirmed: 0, returned: 3, last_exit: LastExit::Returned, ..sold };
    assert_eq!(look(&after, &of_one(4, back)), Ok(()), "and takes no place among the changes");
}
