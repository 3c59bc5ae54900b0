//! From the model's plain texts and numbers to the crate's values, and from its rejections back.

use std::hash::{DefaultHasher, Hash, Hasher};

use tidegate_stock::{
    Allotment, Command, Delta, Fingerprint, HoldSeconds, Idempotency, LifeStep, Partition, Quantity, Reason, Reference, Rejection,
    ReservationId, Revision, Sku, StockTerms, TermsError, TermsPatch, Timestamp, UserId,
};

use crate::reference::{Ask, Grant, Key, No, Patch, Step, Terms};

pub(crate) fn no_of(rejection: Rejection) -> No {
    match rejection {
        Rejection::UnknownSku => No::UnknownSku,
        Rejection::UnknownReservation => No::UnknownReservation,
        Rejection::StockExists => No::StockExists,
        Rejection::IdempotencyKeyReused => No::IdempotencyKeyReused,
        Rejection::HoldOverMax { asked, max } => No::HoldOutOfRange { asked: u64::from(asked), max: u64::from(max) },
        Rejection::Closed => No::Closed,
        Rejection::NotOpen { opens_at } => No::NotOpen { opens_at: opens_at.unix_ms() },
        Rejection::LimitReached { limit, has, asked } => No::LimitReached { limit: u64::from(limit), has, asked: u64::from(asked) },
        Rejection::SoldOut { available, asked } => No::SoldOut { available, asked: u64::from(asked) },
        Rejection::ReservationReleased => No::Released,
        Rejection::ReservationExpired => No::Expired,
        Rejection::ReservationConfirmed => No::Confirmed,
        Rejection::QuantityOverRemaining { asked, remaining } => {
            No::MoreThanRemains { asked: u64::from(asked), remaining: u64::from(remaining) }
        }
        Rejection::Paused => No::Paused,
        Rejection::ReservationReturned => No::Returned,
        Rejection::ReservationNotConfirmed => No::NotConfirmed,
        Rejection::ExtendOverMax { asked, max } => No::ExtendedTooFar { asked: asked.unix_ms(), max: max.unix_ms() },
        Rejection::StockInUse { reserved } => No::InUse { reserved },
        Rejection::InsufficientStock { available, delta } => No::TooFewToTake { available, delta },
        Rejection::AllottedOverMax { allotted, delta } => No::TooManyToHave { allotted, delta },
        Rejection::PreconditionFailed => No::Changed,
        Rejection::TermsContradict(TermsError::HoldOverMax(bounds)) => No::HoldOverMax { hold: bounds.given, max: bounds.max },
        Rejection::TermsContradict(TermsError::EmptyWindow { opens_at, closes_at }) => {
            No::EmptyWindow { opens_at: opens_at.unix_ms(), closes_at: closes_at.unix_ms() }
        }
    }
}

/// The text that a reservation's number stands for.
pub(crate) fn reference_text(number: u64) -> String {
    format!("order-{number}")
}

/// `ask` as a command. `partition` says where a product belongs, `id` what a reservation is called.
pub(crate) fn command_of(ask: &Ask, partition: impl Fn(&Sku) -> Partition, id: impl Fn(Grant) -> ReservationId) -> Command {
    let quantity = |units: u64| Quantity::new(units).expect("a quantity");
    let sku = |name: &str| Sku::new(name).expect("an identifier");
    match *ask {
        Ask::Create { sku: name, quantity, terms: plain } => {
            let sku = sku(name);
            let quantity = Allotment::new(quantity).expect("an allotment");
            Command::CreateStock { partition: partition(&sku), sku, quantity, terms: terms(&plain) }
        }
        Ask::Reserve { sku: name, user, quantity: units, hold_seconds, reference } => Command::Reserve {
            sku: sku(name),
            user: UserId::new(user).expect("an identifier"),
            quantity: quantity(units),
            hold_seconds: hold_seconds.map(hold),
            reference: reference.map(|number| Reference::new(&reference_text(number)).expect("an identifier")),
        },
        Ask::Confirm { grant, quantity: units } => Command::Confirm { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Release { grant, quantity: units } => Command::Release { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Read { grant } => Command::ReadReservation { reservation: id(grant) },
        Ask::Return { grant, quantity: units } => Command::Return { reservation: id(grant), quantity: units.map(quantity) },
        Ask::Extend { grant, hold_seconds } => Command::Extend { reservation: id(grant), hold_seconds: hold(hold_seconds) },
        Ask::Change { sku: name, patch: plain, if_revision } => Command::ChangeStock {
            sku: sku(name),
            patch: patch(&plain),
            if_revision: if_revision.map(|revisions| revisions.into_iter().flatten().map(Revision).collect()),
        },
        Ask::Adjust { sku: name, delta, reason } => Command::AdjustStock {
            sku: sku(name),
            delta: Delta::new(delta).expect("a delta"),
            reason: Reason::new(reason).expect("a reason"),
        },
        Ask::Step { sku: name, step } => Command::StepStock {
            sku: sku(name),
            step: match step {
                Step::Pause => LifeStep::Pause,
                Step::Reopen => LifeStep::Reopen,
                Step::Close => LifeStep::Close,
                Step::Archive => LifeStep::Archive,
            },
        },
    }
}

/// What a ledger remembers of `ask` under `key`.
pub(crate) fn fingerprints(ask: &Ask, key: Key) -> Idempotency {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, ask).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    Idempotency { key: Fingerprint(u128::from(key)), request: Fingerprint(half(1) << 64 | half(2)) }
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
