//! From the model's plain texts and numbers to the crate's values, and from its rejections back.

use std::collections::BTreeMap;

use tidegate_stock::{
    Allotment, Command, Delta, Fingerprint, HoldSeconds, Idempotency, LifeStep, Partition, Quantity, Reason, Reference, Rejection,
    Request, ReservationId, Revision, Sku, StockTerms, TermsError, TermsPatch, Timestamp, UserId,
};

use crate::reference::{Ask, Grant, No, Patch, Step, Terms};

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
        Rejection::Paused => ("paused", No::Paused),
        Rejection::ReservationReturned => ("reservation returned", No::Returned),
        Rejection::ReservationNotConfirmed => ("reservation not confirmed", No::NotConfirmed),
        Rejection::ExtendOverMax { asked, max } => {
            ("extend over max", No::ExtendedTooFar { asked: asked.unix_ms(), max: max.unix_ms() })
        }
        Rejection::StockInUse { reserved } => ("stock in use", No::InUse { reserved }),
        Rejection::InsufficientStock { available, delta } => ("insufficient stock", No::TooFewToTake { available, delta }),
        Rejection::AllottedOverMax { allotted, delta } => ("allotted over max", No::TooManyToHave { allotted, delta }),
        Rejection::PreconditionFailed => ("precondition failed", No::Changed),
        Rejection::TermsContradict(TermsError::HoldOverMax(bounds)) => {
            ("terms contradict by hold", No::HoldOverMax { hold: bounds.given, max: bounds.max })
        }
        Rejection::TermsContradict(TermsError::EmptyWindow { opens_at, closes_at }) => {
            ("terms contradict by window", No::EmptyWindow { opens_at: opens_at.unix_ms(), closes_at: closes_at.unix_ms() })
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
        Ask::Confirm { grant, .. }
        | Ask::Release { grant, .. }
        | Ask::Read { grant }
        | Ask::Return { grant, .. }
        | Ask::Extend { grant, .. } => Some(grant),
        Ask::Create { .. } | Ask::Reserve { .. } | Ask::Change { .. } | Ask::Adjust { .. } | Ask::Step { .. } => None,
    }
}

pub(crate) fn sku_of(ask: &Ask) -> &str {
    match ask {
        Ask::Create { sku, .. }
        | Ask::Reserve { sku, .. }
        | Ask::Change { sku, .. }
        | Ask::Adjust { sku, .. }
        | Ask::Step { sku, .. } => sku,
        Ask::Confirm { grant, .. }
        | Ask::Release { grant, .. }
        | Ask::Read { grant }
        | Ask::Return { grant, .. }
        | Ask::Extend { grant, .. } => &grant.sku,
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
            hold_seconds: hold_seconds.map(hold),
            reference: reference.as_ref().map(|text| Reference::new(text).expect("an identifier")),
        },
        Ask::Confirm { grant, quantity: units } => Command::Confirm { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Release { grant, quantity: units } => Command::Release { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Read { grant } => Command::ReadReservation { reservation: id(grant) },
        Ask::Return { grant, quantity: units } => Command::Return { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Extend { grant, hold_seconds } => Command::Extend { reservation: id(grant), hold_seconds: hold(*hold_seconds) },
        Ask::Change { sku, patch: plain, if_revision } => Command::ChangeStock {
            sku: Sku::new(sku).expect("an identifier"),
            patch: patch(plain),
            if_revision: if_revision.as_ref().map(|revisions| revisions.iter().copied().map(Revision).collect()),
        },
        Ask::Adjust { sku, delta, reason } => Command::AdjustStock {
            sku: Sku::new(sku).expect("an identifier"),
            delta: Delta::new(*delta).expect("a delta"),
            reason: Reason::new(reason).expect("a reason"),
        },
        Ask::Step { sku, step } => Command::StepStock {
            sku: Sku::new(sku).expect("an identifier"),
            step: match step {
                Step::Pause => LifeStep::Pause,
                Step::Reopen => LifeStep::Reopen,
                Step::Close => LifeStep::Close,
                Step::Archive => LifeStep::Archive,
            },
        },
    };
    Request { command, idempotency }
}

fn hold(seconds: u64) -> HoldSeconds {
    HoldSeconds::new(seconds).expect("a hold")
}

fn patch(plain: &Patch) -> TermsPatch {
    TermsPatch {
        per_user_limit: plain.per_user_limit.map(|limit| limit.map(|units| Quantity::new(units).expect("a quantity"))),
        hold_seconds: plain.hold_seconds.map(hold),
        hold_seconds_max: plain.hold_seconds_max.map(hold),
        opens_at: plain.opens_at.map(|at| at.map(Timestamp::from_unix_ms)),
        closes_at: plain.closes_at.map(|at| at.map(Timestamp::from_unix_ms)),
    }
}

pub(crate) fn terms(plain: &Terms) -> StockTerms {
    StockTerms {
        per_user_limit: plain.per_user_limit.map(|units| Quantity::new(units).expect("a quantity")),
        hold_seconds: hold(plain.hold_seconds),
        hold_seconds_max: hold(plain.hold_seconds_max),
        opens_at: plain.opens_at.map(Timestamp::from_unix_ms),
        closes_at: plain.closes_at.map(Timestamp::from_unix_ms),
    }
}
