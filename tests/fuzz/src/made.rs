//! Values of the rules made from arbitrary bytes: few stocks, users and grants, so that they meet.

use arbitrary::{Result, Unstructured};
use tidegate_stock::{
    Allotment, ChangeSequence, Delta, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, KeyRecord, LastExit, LedgerSum,
    Partition, Quantity, Reason, Reference, ReservationId, ReservationRecord, Revision, Sku, SnapshotItem, StockId, StockNumber,
    StockRecord, StockTerms, Timestamp, UserId, UserRecord,
};

const IS_ONE: &str = "it is made within its bounds";

pub(crate) fn event(input: &mut Unstructured<'_>) -> Result<Event> {
    let stock = stock_id(input)?;
    let reservation = reservation_id(input)?;
    Ok(match input.int_in_range(0..=14)? {
        0 => Event::StockCreated { stock, sku: sku(input)?, quantity: allotment(input)?, terms: terms(input)? },
        1 => Event::Reserved {
            stock,
            sequence: reservation.sequence,
            user: user(input)?,
            quantity: quantity(input)?,
            expires_at: moment(input)?,
            reference: reference(input)?,
            idempotency: idempotency(input)?,
        },
        2 => Event::Confirmed { reservation, quantity: quantity(input)?, idempotency: idempotency(input)? },
        3 => Event::Released { reservation, quantity: quantity(input)?, idempotency: idempotency(input)? },
        4 => {
            let count = input.int_in_range(0..=8)?;
            Event::Expired { reservations: (0..count).map(|_| reservation_id(input)).collect::<Result<_>>()? }
        }
        5 => Event::Returned { reservation, quantity: quantity(input)?, idempotency: idempotency(input)? },
        6 => Event::Extended { reservation, expires_at: moment(input)?, idempotency: idempotency(input)? },
        7 => Event::StockChanged { stock, terms: terms(input)? },
        8 => {
            let units = i64::from(quantity(input)?.units()) * if input.arbitrary()? { 1 } else { -1 };
            let reason = Reason::new(&name(input)?).expect(IS_ONE);
            Event::StockAdjusted { stock, delta: Delta::new(units).expect(IS_ONE), reason, idempotency: idempotency(input)? }
        }
        9 => Event::StockPaused { stock },
        10 => Event::StockReopened { stock },
        11 => Event::StockClosed { stock },
        12 => Event::StockArchived { stock },
        13 => Event::Recalled { record: Box::new(reservation_record(input)?) },
        _ => {
            Event::Summed { sum: LedgerSum { stocks: number(input, 8)?, open_holds: number(input, 8)?, hash: input.arbitrary()? } }
        }
    })
}

pub(crate) fn item(input: &mut Unstructured<'_>) -> Result<SnapshotItem> {
    Ok(match input.int_in_range(0..=5)? {
        0 => SnapshotItem::Begin { last_applied: moment(input)? },
        1 => SnapshotItem::Stock(Box::new(stock_record(input)?)),
        2 => SnapshotItem::User(UserRecord { stock: stock_id(input)?, user: user(input)?, units: number(input, 64)? }),
        3 => SnapshotItem::Reservation(reservation_record(input)?),
        4 => SnapshotItem::Key(KeyRecord {
            stock: stock_id(input)?,
            key: Fingerprint(number(input, 8)?.into()),
            request: Fingerprint(number(input, 8)?.into()),
            reservation: if input.arbitrary()? { Some(grant(input)?) } else { None },
            created: input.arbitrary()?,
            at: moment(input)?,
        }),
        _ => SnapshotItem::End { items: number(input, 16)? },
    })
}

fn stock_record(input: &mut Unstructured<'_>) -> Result<StockRecord> {
    let (available, reserved, sold) = (number(input, 64)?, number(input, 64)?, number(input, 64)?);
    // Mostly whole, so that what hangs on a stock is looked at too.
    let allotted = if input.ratio(7, 8)? { available.saturating_add(reserved).saturating_add(sold) } else { input.arbitrary()? };
    Ok(StockRecord {
        id: stock_id(input)?,
        sku: sku(input)?,
        first_quantity: allotment(input)?,
        terms: terms(input)?,
        allotted,
        available,
        reserved,
        sold,
        grants: number(input, 64)?,
        changes: ChangeSequence(number(input, 64)?),
        revision: Revision(number(input, 64)?),
        is_paused: input.arbitrary()?,
        is_closed: input.arbitrary()?,
        is_archived: input.arbitrary()?,
    })
}

fn reservation_record(input: &mut Unstructured<'_>) -> Result<ReservationRecord> {
    let mut units = || Ok(u32::try_from(number(input, 4)?).unwrap_or(u32::MAX));
    let (reserved, confirmed, released, returned) = (units()?, units()?, units()?, units()?);
    Ok(ReservationRecord {
        id: reservation_id(input)?,
        user: user(input)?,
        reference: reference(input)?,
        reserved_at: moment(input)?,
        expires_at: moment(input)?,
        resolved_at: if input.arbitrary()? { Some(moment(input)?) } else { None },
        reserved,
        confirmed,
        released,
        returned,
        last_exit: *input.choose(&[LastExit::None, LastExit::Released, LastExit::Expired, LastExit::Returned])?,
    })
}

/// Mostly below `usual`, and sometimes any number.
fn number(input: &mut Unstructured<'_>, usual: u64) -> Result<u64> {
    if input.ratio(15, 16)? { input.int_in_range(0..=usual) } else { input.arbitrary() }
}

pub(crate) fn moment(input: &mut Unstructured<'_>) -> Result<Timestamp> {
    Ok(Timestamp::from_unix_ms(number(input, 2_000_000_000_000)?))
}

fn stock_id(input: &mut Unstructured<'_>) -> Result<StockId> {
    Ok(StockId {
        partition: Partition(input.int_in_range(0..=1)?),
        number: StockNumber(if input.ratio(15, 16)? { input.int_in_range(1..=2)? } else { input.arbitrary()? }),
    })
}

fn grant(input: &mut Unstructured<'_>) -> Result<GrantSequence> {
    Ok(GrantSequence(number(input, 200)?))
}

fn reservation_id(input: &mut Unstructured<'_>) -> Result<ReservationId> {
    Ok(ReservationId { stock: stock_id(input)?, sequence: grant(input)? })
}

fn terms(input: &mut Unstructured<'_>) -> Result<StockTerms> {
    let hold = |input: &mut Unstructured<'_>| Ok(HoldSeconds::new(input.int_in_range(1..=31_536_000)?).expect(IS_ONE));
    let window = |input: &mut Unstructured<'_>| if input.arbitrary()? { Ok(Some(moment(input)?)) } else { Ok(None) };
    Ok(StockTerms {
        per_user_limit: if input.arbitrary()? { Some(quantity(input)?) } else { None },
        hold_seconds: hold(input)?,
        hold_seconds_max: hold(input)?,
        opens_at: window(input)?,
        closes_at: window(input)?,
    })
}

fn quantity(input: &mut Unstructured<'_>) -> Result<Quantity> {
    Ok(Quantity::new(input.int_in_range(1..=1_000_000_000)?).expect(IS_ONE))
}

fn allotment(input: &mut Unstructured<'_>) -> Result<Allotment> {
    Ok(Allotment::new(input.int_in_range(0..=1_000_000_000_000)?).expect(IS_ONE))
}

fn idempotency(input: &mut Unstructured<'_>) -> Result<Option<Idempotency>> {
    if input.arbitrary()? {
        return Ok(Some(Idempotency { key: Fingerprint(input.arbitrary()?), request: Fingerprint(input.arbitrary()?) }));
    }
    Ok(None)
}

fn name(input: &mut Unstructured<'_>) -> Result<String> {
    let letter = char::from(*input.choose(b"abcdXYZ.~-")?);
    let length = if input.ratio(15, 16)? { 1 } else { input.int_in_range(1..=128)? };
    Ok(letter.to_string().repeat(length))
}

fn sku(input: &mut Unstructured<'_>) -> Result<Sku> {
    Ok(Sku::new(&name(input)?).expect(IS_ONE))
}

fn user(input: &mut Unstructured<'_>) -> Result<UserId> {
    Ok(UserId::new(&name(input)?).expect(IS_ONE))
}

fn reference(input: &mut Unstructured<'_>) -> Result<Option<Reference>> {
    if input.arbitrary()? { Ok(Some(Reference::new(&name(input)?).expect(IS_ONE))) } else { Ok(None) }
}
