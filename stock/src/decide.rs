//! Decisions: pure functions of ledger, request and time.
//!
//! A rejection's precedence is the order of the checks below, and is part of the contract: unknown sku or reservation, idempotency,
//! the hold's bound, closed, not open, limit reached, sold out.

use crate::command::{Command, Request};
use crate::event::Event;
use crate::ledger::Ledger;
use crate::limits::LAPSE_RESERVATIONS_MAX;
use crate::rejection::Rejection;
use crate::reservation::{LastExit, Reservation};
use crate::values::{GrantSequence, Idempotency, Quantity, ReservationId, StockId, Timestamp};

/// What an accepted command is about; its answer shows this as it stands once the event is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A stock.
    Stock(StockId),
    /// A reservation.
    Reservation(ReservationId),
}

/// A command that got what it asked for, now or at an earlier attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// What the answer shows.
    pub subject: Subject,
    /// Whether the command brought it into being, now or at the attempt that this one repeats.
    pub created: bool,
    /// Whether this repeats an earlier attempt with the same key.
    pub replayed: bool,
}

/// What follows from a request.
///
/// A rejected request can still carry an event: a command that finds a hold past its time lapses it, whatever becomes of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// To be applied and logged before the answer leaves.
    pub event: Option<Event>,
    /// The answer.
    pub outcome: Result<Accepted, Rejection>,
}

impl Decision {
    const fn reject(rejection: Rejection) -> Self {
        Self { event: None, outcome: Err(rejection) }
    }
}

/// Decides `request` against `ledger` at `now`, which must not be earlier than [`Ledger::last_applied`].
pub fn decide(ledger: &Ledger, request: &Request, now: Timestamp) -> Decision {
    match &request.command {
        Command::CreateStock { .. } => decide_create_stock(ledger, &request.command),
        Command::Reserve { .. } => {
            decide_reserve(ledger, &request.command, request.idempotency, now).unwrap_or_else(Decision::reject)
        }
        Command::Confirm { reservation, quantity } => {
            decide_held(ledger, *reservation, Verb::Confirm(*quantity), request.idempotency, now)
        }
        Command::Release { reservation, quantity } => {
            decide_held(ledger, *reservation, Verb::Release(*quantity), request.idempotency, now)
        }
        Command::ReadReservation { reservation } => decide_held(ledger, *reservation, Verb::Read, None, now),
    }
}

/// The lapse that is due at `now`, of at most [`LAPSE_RESERVATIONS_MAX`] reservations; `None` when no tick of the wheel is due.
pub fn decide_lapse(ledger: &Ledger, now: Timestamp) -> Option<Event> {
    let reservations: Vec<_> = ledger.due(now, LAPSE_RESERVATIONS_MAX).collect();
    (!reservations.is_empty()).then_some(Event::Expired { reservations })
}

fn decide_create_stock(ledger: &Ledger, command: &Command) -> Decision {
    let Command::CreateStock { partition, sku, quantity, terms } = command else { unreachable!("called for CreateStock only") };
    if let Some(slot) = ledger.stock_slot(sku) {
        let stock = &ledger.stocks[slot];
        if stock.first_quantity != *quantity || stock.terms != *terms {
            return Decision::reject(Rejection::StockExists);
        }
        let accepted = Accepted { subject: Subject::Stock(stock.id), created: false, replayed: false };
        return Decision { event: None, outcome: Ok(accepted) };
    }
    let stock = ledger.next_stock_id(*partition);
    Decision {
        event: Some(Event::StockCreated { stock, sku: sku.clone(), quantity: *quantity, terms: terms.clone() }),
        outcome: Ok(Accepted { subject: Subject::Stock(stock), created: true, replayed: false }),
    }
}

fn decide_reserve(
    ledger: &Ledger,
    command: &Command,
    idempotency: Option<Idempotency>,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let Command::Reserve { sku, user, quantity, hold_seconds, reference } = command else {
        unreachable!("called for Reserve only")
    };
    let slot = ledger.stock_slot(sku).ok_or(Rejection::UnknownSku)?;
    if let Some(replay) = decide_replay(ledger, slot, idempotency, now)? {
        return Ok(replay);
    }
    let stock = &ledger.stocks[slot];
    let hold = hold_seconds.unwrap_or(stock.terms.hold_seconds);
    if hold > stock.terms.hold_seconds_max {
        return Err(Rejection::HoldOverMax { asked: hold.seconds(), max: stock.terms.hold_seconds_max.seconds() });
    }
    if stock.terms.closes_at.is_some_and(|closes_at| now >= closes_at) {
        return Err(Rejection::Closed);
    }
    if let Some(opens_at) = stock.terms.opens_at.filter(|opens_at| now < *opens_at) {
        return Err(Rejection::NotOpen { opens_at });
    }
    if let Some(limit) = stock.terms.per_user_limit {
        let has = ledger.units_of(slot, user);
        if has + u64::from(quantity.units()) > u64::from(limit.units()) {
            return Err(Rejection::LimitReached { limit: limit.units(), has, asked: quantity.units() });
        }
    }
    if stock.available < u64::from(quantity.units()) {
        return Err(Rejection::SoldOut { available: stock.available, asked: quantity.units() });
    }
    let sequence = GrantSequence(stock.grants + 1);
    let id = ReservationId { stock: stock.id, sequence };
    Ok(Decision {
        event: Some(Event::Reserved {
            stock: stock.id,
            sequence,
            user: user.clone(),
            quantity: *quantity,
            expires_at: now.plus_seconds(hold.seconds()),
            reference: reference.clone(),
            idempotency,
        }),
        outcome: Ok(Accepted { subject: Subject::Reservation(id), created: true, replayed: false }),
    })
}

/// The answer to a repeat of a command whose key is known; `None` when there is no key or it is new.
fn decide_replay(
    ledger: &Ledger,
    stock: u32,
    idempotency: Option<Idempotency>,
    now: Timestamp,
) -> Result<Option<Decision>, Rejection> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let Some(entry) = ledger.known_key(stock, idempotency, now) else { return Ok(None) };
    if entry.request != idempotency.request {
        return Err(Rejection::IdempotencyKeyReused);
    }
    let id = ledger.id_of(entry.reservation);
    let accepted = Accepted { subject: Subject::Reservation(id), created: entry.created, replayed: true };
    Ok(Some(Decision { event: lapse_if_due(&ledger.reservations[entry.reservation], id, now), outcome: Ok(accepted) }))
}

/// What is wanted of a reservation that may hold units.
#[derive(Clone, Copy)]
enum Verb {
    Confirm(Option<Quantity>),
    Release(Option<Quantity>),
    Read,
}

fn decide_held(ledger: &Ledger, id: ReservationId, verb: Verb, idempotency: Option<Idempotency>, now: Timestamp) -> Decision {
    let Some(slot) = ledger.reservation_slot(id) else { return Decision::reject(Rejection::UnknownReservation) };
    let reservation = &ledger.reservations[slot];
    match decide_replay(ledger, reservation.stock, idempotency, now) {
        Ok(Some(replay)) => return replay,
        Ok(None) => {}
        Err(rejection) => return Decision::reject(rejection),
    }
    let accepted = Accepted { subject: Subject::Reservation(id), created: false, replayed: false };
    let lapse = lapse_if_due(reservation, id, now);
    let reserved = if lapse.is_some() { 0 } else { reservation.reserved };
    let (wanted, nothing_held): (_, NothingHeld) = match verb {
        Verb::Read => return Decision { event: lapse, outcome: Ok(accepted) },
        Verb::Confirm(wanted) => (wanted, confirm_with_nothing_held),
        Verb::Release(wanted) => (wanted, release_with_nothing_held),
    };
    if reserved == 0 {
        let last_exit = if lapse.is_some() { LastExit::Expired } else { reservation.last_exit };
        let standing = Standing { confirmed: reservation.confirmed, last_exit, lapses: lapse.is_some(), wanted };
        return Decision { event: lapse, outcome: nothing_held(standing).map(|()| accepted) };
    }
    let asked = wanted.map_or(reserved, Quantity::units);
    let quantity = match Quantity::new(u64::from(asked)) {
        Ok(quantity) if asked <= reserved => quantity,
        _ => return Decision::reject(Rejection::QuantityOverRemaining { asked, remaining: reserved }),
    };
    let event = match verb {
        Verb::Confirm(_) => Event::Confirmed { reservation: id, quantity, idempotency },
        Verb::Release(_) => Event::Released { reservation: id, quantity, idempotency },
        Verb::Read => unreachable!("a read has been answered above"),
    };
    Decision { event: Some(event), outcome: Ok(accepted) }
}

/// How a verb answers when nothing is held.
type NothingHeld = fn(Standing) -> Result<(), Rejection>;

/// A reservation with nothing held, and how many units a call named all the same.
#[derive(Clone, Copy)]
struct Standing {
    confirmed: u32,
    last_exit: LastExit,
    /// Whether units were held until this very call.
    lapses: bool,
    wanted: Option<Quantity>,
}

fn confirm_with_nothing_held(standing: Standing) -> Result<(), Rejection> {
    match (standing.wanted, standing.confirmed, standing.last_exit) {
        // Whoever confirms units that were held and are late must not read a yes, though others of the reservation are sold.
        (None, 1.., _) if standing.lapses => Err(Rejection::ReservationExpired),
        (None, 1.., _) => Ok(()),
        // A call that names units wants more of them sold; that some were sold before does not answer it.
        (Some(_), 1.., LastExit::Expired) | (_, 0, LastExit::Expired) => Err(Rejection::ReservationExpired),
        (Some(wanted), 1.., _) => Err(Rejection::QuantityOverRemaining { asked: wanted.units(), remaining: 0 }),
        (_, 0, _) => Err(Rejection::ReservationReleased),
    }
}

fn release_with_nothing_held(standing: Standing) -> Result<(), Rejection> {
    match (standing.wanted, standing.confirmed) {
        (_, 1..) => Err(Rejection::ReservationConfirmed),
        (None, 0) => Ok(()),
        (Some(wanted), 0) => Err(Rejection::QuantityOverRemaining { asked: wanted.units(), remaining: 0 }),
    }
}

/// A command that finds a hold at or past its end lapses it, without waiting for the wheel's tick.
fn lapse_if_due(reservation: &Reservation, id: ReservationId, now: Timestamp) -> Option<Event> {
    reservation.is_due(now).then(|| Event::Expired { reservations: vec![id] })
}
