//! From the model's plain texts and numbers to the crate's values, and from its rejections back.

use std::collections::BTreeMap;

use tidegate_stock::{
    Allotment, Command, Fingerprint, HoldSeconds, Idempotency, Partition, Quantity, Reference, Rejection, Request, ReservationId,
    Sku, StockTerms, Timestamp, UserId,
};

use crate::reference::{Ask, Grant, No, Terms};

pub(crate) fn name_of(rejection: Rejection) -> (&'static str, No) {
    match rejection {
        Rejection::UnknownSku => ("unknown sku", No::UnknownSku),
        Rejection::UnknownReservation => ("unknown reservation", No::UnknownReservation),
        Rejection::StockExists => ("stock exists", No::StockExists),
        Rejection::IdempotencyKeyReused => ("idempotency key reused", No::IdempotencyKeyReused),
        Rejection::HoldOverMax { asked, max } => {
            ("hold over max", No::HoldOutOfRange { asked: u64::from(asked), max: u64::from(max) })
        }
        Rejection::Closed => ("closed", No::Closed),
        Rejection::NotOpen { opens_at } => ("not open", No::NotOpen { opens_at: opens_at.unix_ms() }),
        Rejection::LimitReached { limit, has, asked } => {
            ("limit reached", No::LimitReached { limit: u64::from(limit), has, asked: u64::from(asked) })
        }
        Rejection::SoldOut { available, asked } => ("sold out", No::SoldOut { available, asked: u64::from(asked) }),
        Rejection::ReservationReleased => ("reservation released", No::Released),
        Rejection::ReservationExpired => ("reservation expired", No::Expired),
        Rejection::ReservationConfirmed => ("reservation confirmed", No::Confirmed),
        Rejection::QuantityOverRemaining { asked, remaining } => {
            ("quantity over remaining", No::MoreThanRemains { asked: u64::from(asked), remaining: u64::from(remaining) })
        }
    }
}

/// Three partitions for six skus, so that numbers are shared and not.
pub(crate) fn partition(sku: &str) -> u16 {
    match sku {
        "tea" | "cup" | "pot" => 7,
        "tray" | "spoon" => 8,
        _ => 1_023,
    }
}

pub(crate) fn grant_of(ask: &Ask) -> Option<&Grant> {
    match ask {
        Ask::Confirm { grant, .. } | Ask::Release { grant, .. } | Ask::Read { grant } => Some(grant),
        Ask::Create { .. } | Ask::Reserve { .. } => None,
    }
}

pub(crate) fn request_of(
    ask: &Ask,
    key: Option<&str>,
    fingerprints: &mut BTreeMap<String, u128>,
    id: impl Fn(&Grant) -> ReservationId,
) -> Request {
    let mut fingerprint = |text: String| {
        let next = fingerprints.len() as u128;
        Fingerprint(*fingerprints.entry(text).or_insert(next))
    };
    let idempotency =
        key.map(|key| Idempotency { key: fingerprint(format!("key {key}")), request: fingerprint(format!("{ask:?}")) });
    let quantity = |units: u64| Quantity::new(units).expect("a quantity");
    let command = match ask {
        Ask::Create { sku, quantity, terms: plain } => Command::CreateStock {
            partition: Partition(partition(sku)),
            sku: Sku::new(sku).expect("an identifier"),
            quantity: Allotment::new(*quantity).expect("an allotment"),
            terms: terms(plain),
        },
        Ask::Reserve { sku, user, quantity: units, hold_seconds, reference } => Command::Reserve {
            sku: Sku::new(sku).expect("an identifier"),
            user: UserId::new(user).expect("an identifier"),
            quantity: quantity(*units),
            hold_seconds: hold_seconds.map(|seconds| HoldSeconds::new(seconds).expect("a hold")),
            reference: reference.as_ref().map(|text| Reference::new(text).expect("an identifier")),
        },
        Ask::Confirm { grant, quantity: units } => Command::Confirm { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Release { grant, quantity: units } => Command::Release { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Read { grant } => Command::ReadReservation { reservation: id(grant) },
    };
    Request { command, idempotency }
}

pub(crate) fn terms(plain: &Terms) -> StockTerms {
    let hold = |seconds: u64| HoldSeconds::new(seconds).expect("a hold");
    StockTerms {
        per_user_limit: plain.per_user_limit.map(|units| Quantity::new(units).expect("a quantity")),
        hold_seconds: hold(plain.hold_seconds),
        hold_seconds_max: hold(plain.hold_seconds_max),
        opens_at: plain.opens_at.map(Timestamp::from_unix_ms),
        closes_at: plain.closes_at.map(Timestamp::from_unix_ms),
    }
}
