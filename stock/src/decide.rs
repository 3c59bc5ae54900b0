//! Decisions: pure functions of ledger, request and time.
//!
//! A rejection's precedence is the order of the checks below, and is part of the contract: unknown sku or reservation, idempotency,
//! the hold's bound, closed, paused, not open, limit reached, sold out.

use crate::command::{Command, LifeStep, Request, StockTerms, TermsPatch};
use crate::event::Event;
use crate::ledger::{Ledger, Rules, Stock};
use crate::limits::{ALLOTTED_MAX, LAPSE_RESERVATIONS_MAX};
use crate::record::{LastExit, ReservationRecord};
use crate::rejection::Rejection;
use crate::values::{
    Delta, GrantSequence, HoldSeconds, Idempotency, Quantity, Reason, ReservationId, Revision, Sku, StockId, Timestamp,
};
use crate::view::{Life, StockView};

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
    /// To be applied and logged before the event: it takes back into memory what the event changes, or lapses what is due of it.
    pub before: Option<Event>,
    /// To be applied and logged before the answer leaves.
    pub event: Option<Event>,
    /// The answer.
    pub outcome: Result<Accepted, Rejection>,
}

impl Decision {
    const fn reject(rejection: Rejection) -> Self {
        Self { before: None, event: None, outcome: Err(rejection) }
    }

    const fn of_stock(event: Option<Event>, stock: StockId) -> Self {
        let accepted = Accepted { subject: Subject::Stock(stock), created: false, replayed: false };
        Self { before: None, event, outcome: Ok(accepted) }
    }
}

/// The request cannot be decided from memory alone: this reservation has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedsRecord(pub ReservationId);

/// What is known of a reservation that a request needs and that is not in memory.
#[derive(Debug, Clone, Copy)]
pub enum Recall<'a> {
    /// Nothing yet.
    NotTried,
    /// The history does not have the reservation that was needed.
    Missing(ReservationId),
    /// The history has it.
    Found(&'a ReservationRecord),
}

/// Decides `request` against `ledger` at `now`, which must not be earlier than [`Ledger::last_applied`].
///
/// # Errors
/// [`NeedsRecord`] when the request is about a reservation that has left memory. Nothing has been decided then: look the record up and
/// ask again with it. What `recall` tells of a reservation that is in memory meanwhile counts for nothing.
pub fn decide(ledger: &Ledger, request: &Request, now: Timestamp, recall: Recall<'_>) -> Result<Decision, NeedsRecord> {
    let look = Look { ledger, now, recall };
    let idempotency = request.idempotency;
    match &request.command {
        Command::CreateStock { .. } => Ok(decide_create_stock(ledger, &request.command)),
        Command::Reserve { sku, .. } => match stock_and_replay(&look, sku, idempotency)? {
            Err(decision) => Ok(decision),
            Ok(slot) => Ok(decide_reserve(ledger, slot, &request.command, idempotency, now).unwrap_or_else(Decision::reject)),
        },
        Command::Confirm { reservation, quantity } => look.decide(*reservation, Verb::Confirm(*quantity), idempotency),
        Command::Release { reservation, quantity } => look.decide(*reservation, Verb::Release(*quantity), idempotency),
        Command::Return { reservation, quantity } => look.decide(*reservation, Verb::Return(*quantity), idempotency),
        Command::Extend { reservation, hold_seconds } => look.decide(*reservation, Verb::Extend(*hold_seconds), idempotency),
        Command::ReadReservation { reservation } => look.decide(*reservation, Verb::Read, None),
        Command::ChangeStock { sku, patch, if_revision } => {
            Ok(decide_change(ledger, sku, patch, if_revision.as_deref()).unwrap_or_else(Decision::reject))
        }
        Command::AdjustStock { sku, delta, reason } => match stock_and_replay(&look, sku, idempotency)? {
            Err(decision) => Ok(decision),
            Ok(slot) => Ok(decide_adjust(&ledger.stocks[slot], *delta, reason, idempotency).unwrap_or_else(Decision::reject)),
        },
        Command::StepStock { sku, step } => Ok(decide_step(ledger, sku, *step, now).unwrap_or_else(Decision::reject)),
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
        return Decision::of_stock(None, stock.id);
    }
    let stock = ledger.next_stock_id(*partition);
    Decision {
        before: None,
        event: Some(Event::StockCreated { stock, sku: sku.clone(), quantity: *quantity, terms: terms.clone() }),
        outcome: Ok(Accepted { subject: Subject::Stock(stock), created: true, replayed: false }),
    }
}

/// The slot of the stock of a command that names one and may carry a key; a decision instead where there is none, or where the key is known.
fn stock_and_replay(look: &Look<'_>, sku: &Sku, idempotency: Option<Idempotency>) -> Result<Result<u32, Decision>, NeedsRecord> {
    let Some(slot) = look.ledger.stock_slot(sku) else { return Ok(Err(Decision::reject(Rejection::UnknownSku))) };
    Ok(look.replay(slot, idempotency)?.map_or(Ok(slot), Err))
}

fn decide_reserve(
    ledger: &Ledger,
    slot: u32,
    command: &Command,
    idempotency: Option<Idempotency>,
    now: Timestamp,
) -> Result<Decision, Rejection> {
    let Command::Reserve { sku: _, user, quantity, hold_seconds, reference } = command else {
        unreachable!("called for Reserve only")
    };
    let stock = &ledger.stocks[slot];
    let asked = Asked { quantity: *quantity, hold_seconds: *hold_seconds, now };
    let hold = asked.hold(&stock.terms, stock.life, stock.available, || ledger.units_of(slot, user))?;
    let sequence = GrantSequence(stock.grants + u64::from(!mutant!(GrantNumberReused)));
    let id = ReservationId { stock: stock.id, sequence };
    Ok(Decision {
        before: None,
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

/// What [`decide`] says of a reservation whose stock knows neither its user nor its key: [`Rejection::SoldOut`] if it says that, and `None` if
/// anything else comes of it. `available` are the units of the stock that is otherwise as in `stock`.
pub fn sold_out_to_a_stranger(
    stock: &StockView,
    available: u64,
    quantity: Quantity,
    hold_seconds: Option<HoldSeconds>,
    now: Timestamp,
) -> Option<Rejection> {
    let asked = Asked { quantity, hold_seconds, now };
    let rejection = asked.hold(&stock.terms, stock.life, available, || 0).err()?;
    matches!(rejection, Rejection::SoldOut { .. }).then_some(rejection)
}

/// What is wanted of a stock.
#[derive(Clone, Copy)]
struct Asked {
    quantity: Quantity,
    hold_seconds: Option<HoldSeconds>,
    now: Timestamp,
}

impl Asked {
    /// How long the units are held that are granted, or why none are. `has` looks up what the user has of the stock already.
    fn hold(&self, terms: &StockTerms, life: Life, available: u64, has: impl FnOnce() -> u64) -> Result<HoldSeconds, Rejection> {
        let Self { quantity, hold_seconds, now } = *self;
        let hold = hold_seconds.unwrap_or(terms.hold_seconds);
        if hold > terms.hold_seconds_max {
            return Err(Rejection::HoldOverMax { asked: hold.seconds(), max: terms.hold_seconds_max.seconds() });
        }
        if life.is_over(terms, now) {
            return Err(Rejection::Closed);
        }
        if life.is_paused && !mutant!(PausedStockGrants) {
            return Err(Rejection::Paused);
        }
        if let Some(opens_at) = terms.opens_at.filter(|opens_at| now < *opens_at && !mutant!(OpensTooEarly)) {
            return Err(Rejection::NotOpen { opens_at });
        }
        if let Some(limit) = terms.per_user_limit {
            let has = has();
            if has + u64::from(quantity.units()) > u64::from(limit.units()) + u64::from(mutant!(LimitOffByOne)) {
                return Err(Rejection::LimitReached { limit: limit.units(), has, asked: quantity.units() });
            }
        }
        if available + u64::from(mutant!(OversellByOne)) < u64::from(quantity.units()) {
            return Err(Rejection::SoldOut { available, asked: quantity.units() });
        }
        Ok(hold)
    }
}

fn decide_change(ledger: &Ledger, sku: &Sku, patch: &TermsPatch, if_revision: Option<&[Revision]>) -> Result<Decision, Rejection> {
    let stock = stock_named(ledger, sku)?;
    if if_revision.is_some_and(|revisions| !revisions.contains(&stock.revision)) {
        return Err(Rejection::PreconditionFailed);
    }
    if stock.life.is_archived {
        return Err(Rejection::Closed);
    }
    let terms = stock.terms.patched(patch);
    terms.check().map_err(Rejection::TermsContradict)?;
    let event = (terms != stock.terms).then_some(Event::StockChanged { stock: stock.id, terms });
    Ok(Decision::of_stock(event, stock.id))
}

/// An archived stock can be adjusted: what is found out after the sale has no other place.
fn decide_adjust(stock: &Stock, delta: Delta, reason: &Reason, idempotency: Option<Idempotency>) -> Result<Decision, Rejection> {
    let units = delta.units();
    if stock.available.checked_add_signed(units).is_none() {
        return Err(Rejection::InsufficientStock { available: stock.available, delta: units });
    }
    if stock.allotted.checked_add_signed(units).is_none_or(|allotted| allotted > ALLOTTED_MAX) {
        return Err(Rejection::AllottedOverMax { allotted: stock.allotted, delta: units });
    }
    let event = Event::StockAdjusted { stock: stock.id, delta, reason: reason.clone(), idempotency };
    Ok(Decision::of_stock(Some(event), stock.id))
}

fn decide_step(ledger: &Ledger, sku: &Sku, step: LifeStep, now: Timestamp) -> Result<Decision, Rejection> {
    let stock = stock_named(ledger, sku)?;
    let (id, life) = (stock.id, stock.life);
    let event = match step {
        LifeStep::Pause | LifeStep::Reopen if life.is_archived => return Err(Rejection::Closed),
        LifeStep::Pause => (!life.is_paused).then_some(Event::StockPaused { stock: id }),
        LifeStep::Reopen => (life.is_paused || life.is_closed).then_some(Event::StockReopened { stock: id }),
        LifeStep::Close => (!life.is_closed && !life.is_archived).then_some(Event::StockClosed { stock: id }),
        LifeStep::Archive if life.is_archived => None,
        LifeStep::Archive if !stock.is_closed(now) || (stock.reserved > 0 && !mutant!(ArchiveOverHolds)) => {
            return Err(Rejection::StockInUse { reserved: if stock.is_closed(now) { stock.reserved } else { 0 } });
        }
        LifeStep::Archive => Some(Event::StockArchived { stock: id }),
    };
    Ok(Decision::of_stock(event, id))
}

fn stock_named<'a>(ledger: &'a Ledger, sku: &Sku) -> Result<&'a Stock, Rejection> {
    ledger.stock_slot(sku).map(|slot| &ledger.stocks[slot]).ok_or(Rejection::UnknownSku)
}

/// What is wanted of a reservation.
#[derive(Clone, Copy)]
enum Verb {
    Confirm(Option<Quantity>),
    Release(Option<Quantity>),
    Return(Option<Quantity>),
    Extend(HoldSeconds),
    Read,
}

/// A reservation as it stands, wherever it is kept.
#[derive(Clone, Copy)]
struct Standing {
    reserved_at: Timestamp,
    reserved: u32,
    confirmed: u32,
    returned: u32,
    last_exit: LastExit,
    /// Whether units were held until this very call.
    lapses: bool,
}

/// What a decision about a reservation looks at.
struct Look<'a> {
    ledger: &'a Ledger,
    now: Timestamp,
    recall: Recall<'a>,
}

/// A reservation that was found.
struct Found<'a> {
    standing: Standing,
    /// It lapses now.
    lapse: Option<Event>,
    /// It is not in memory.
    recalled: Option<&'a ReservationRecord>,
}

impl<'a> Look<'a> {
    fn decide(&self, id: ReservationId, verb: Verb, idempotency: Option<Idempotency>) -> Result<Decision, NeedsRecord> {
        let granted = |stock: &u32| (1..=self.ledger.stocks[*stock].grants).contains(&id.sequence.0);
        let Some(stock) = self.ledger.stock_slot_of(id.stock).filter(granted) else {
            return Ok(Decision::reject(Rejection::UnknownReservation));
        };
        if let Some(replay) = self.replay(stock, idempotency)? {
            return Ok(replay);
        }
        let Some(found) = self.find(id, self.ledger.rules.retention_seconds)? else {
            return Ok(Decision::reject(Rejection::UnknownReservation));
        };
        let accepted = Accepted { subject: Subject::Reservation(id), created: false, replayed: false };
        let event = match self.event(id, stock, verb, &found.standing, idempotency) {
            Ok(event) => event,
            Err(rejection) => return Ok(Decision { before: None, event: found.lapse, outcome: Err(rejection) }),
        };
        let before = event.as_ref().and(found.recalled).map(|record| Event::Recalled { record: Box::new(record.clone()) });
        let (before, event) = match (event, found.lapse) {
            // Sold units come back while others, held until now, are due: those lapse first, so that no answer shows them as held.
            (Some(event), Some(lapse)) => (Some(lapse), Some(event)),
            (event, lapse) => (before, event.or(lapse)),
        };
        Ok(Decision { before, event, outcome: Ok(accepted) })
    }

    /// The event that `verb` brings about; `None` where it is accepted and changes nothing.
    fn event(
        &self,
        id: ReservationId,
        stock: u32,
        verb: Verb,
        standing: &Standing,
        idempotency: Option<Idempotency>,
    ) -> Result<Option<Event>, Rejection> {
        let reservation = id;
        match verb {
            Verb::Read => Ok(None),
            Verb::Confirm(wanted) if standing.reserved == 0 => confirm_with_nothing_held(standing, wanted).map(|()| None),
            Verb::Confirm(wanted) => {
                let wanted = wanted.filter(|_| !mutant!(PartialConfirmTakesAll));
                let quantity = of_remaining(wanted, standing.reserved)?;
                Ok(Some(Event::Confirmed { reservation, quantity, idempotency }))
            }
            Verb::Release(wanted) if standing.reserved == 0 => release_with_nothing_held(standing, wanted).map(|()| None),
            Verb::Release(wanted) => {
                let quantity = of_remaining(wanted, standing.reserved)?;
                Ok(Some(Event::Released { reservation, quantity, idempotency }))
            }
            Verb::Return(wanted) if standing.confirmed == 0 => return_with_nothing_sold(standing, wanted).map(|()| None),
            Verb::Return(wanted) => {
                let quantity = of_remaining(wanted, if mutant!(ReturnBeyondSold) { u32::MAX } else { standing.confirmed })?;
                Ok(Some(Event::Returned { reservation, quantity, idempotency }))
            }
            Verb::Extend(_) if standing.reserved == 0 => Err(extend_with_nothing_held(standing)),
            Verb::Extend(hold) => {
                let hold_max = self.ledger.stocks[stock].terms.hold_seconds_max;
                let (expires_at, max) =
                    (self.now.plus_seconds(hold.seconds()), standing.reserved_at.plus_seconds(hold_max.seconds()));
                if expires_at > max && !mutant!(ExtendPastMaximum) {
                    return Err(Rejection::ExtendOverMax { asked: expires_at, max });
                }
                Ok(Some(Event::Extended { reservation, expires_at, idempotency }))
            }
        }
    }

    /// The answer to a repeat of a command whose key is known; `None` when there is no key or it is new.
    fn replay(&self, stock: u32, idempotency: Option<Idempotency>) -> Result<Option<Decision>, NeedsRecord> {
        let Some(idempotency) = idempotency else { return Ok(None) };
        let Some(entry) = self.ledger.keys.get(stock, idempotency.key, self.now) else { return Ok(None) };
        if mutant!(ReplayReapplies) || (mutant!(KeysForgottenAtArchiving) && self.ledger.stocks[stock].life.is_archived) {
            return Ok(None);
        }
        if entry.request() != idempotency.request && !mutant!(KeyMeansAnything) {
            return Ok(Some(Decision::reject(Rejection::IdempotencyKeyReused)));
        }
        let id = self.ledger.stocks[stock].id;
        let (subject, event) = match entry.reservation() {
            None => (Subject::Stock(id), None),
            Some(sequence) => {
                let id = ReservationId { stock: id, sequence };
                // Whoever changed it at the last moment may repeat that for as long as the key is remembered.
                let Rules { retention_seconds, idempotency_seconds, .. } = self.ledger.rules;
                let retained_seconds = retention_seconds.saturating_add(idempotency_seconds);
                let Some(found) = self.find(id, retained_seconds)? else {
                    return Ok(Some(Decision::reject(Rejection::UnknownReservation)));
                };
                (Subject::Reservation(id), found.lapse)
            }
        };
        let accepted = Accepted { subject, created: entry.created, replayed: true };
        Ok(Some(Decision { before: None, event, outcome: Ok(accepted) }))
    }

    /// A reservation that was granted once; `None` where it was resolved `retained_seconds` ago.
    fn find(&self, id: ReservationId, retained_seconds: u32) -> Result<Option<Found<'a>>, NeedsRecord> {
        let retained = |resolved_at: Option<Timestamp>| resolved_at.is_none_or(|at| self.now < at.plus_seconds(retained_seconds));
        let is_stale = mutant!(StaleRecordDecides) && matches!(self.recall, Recall::Found(record) if record.id == id);
        if let Some(slot) = self.ledger.reservation_slot(id).filter(|_| !is_stale) {
            let reservation = &self.ledger.reservations[slot];
            let lapses = reservation.reserved > 0 && reservation.expires_at() <= self.now && !mutant!(ConfirmAfterLapse);
            return Ok(retained(reservation.resolved_at()).then(|| Found {
                standing: Standing {
                    reserved_at: reservation.reserved_at(),
                    reserved: if lapses { 0 } else { reservation.reserved },
                    confirmed: reservation.confirmed,
                    returned: reservation.returned,
                    last_exit: if lapses { LastExit::Expired } else { reservation.last_exit() },
                    lapses,
                },
                // A command that finds a hold at or past its end lapses it, without waiting for the wheel's tick.
                lapse: lapses.then(|| Event::Expired { reservations: vec![id] }),
                recalled: None,
            }));
        }
        match self.recall {
            Recall::Found(record) if record.id == id => Ok(retained(record.resolved_at).then_some(Found {
                standing: Standing {
                    reserved_at: record.reserved_at,
                    reserved: record.reserved,
                    confirmed: record.confirmed,
                    returned: record.returned,
                    last_exit: record.last_exit,
                    lapses: false,
                },
                lapse: None,
                recalled: Some(record),
            })),
            Recall::Missing(missing) if missing == id => Ok(None),
            _ => Err(NeedsRecord(id)),
        }
    }
}

/// As many units as were named, or all that remain.
fn of_remaining(wanted: Option<Quantity>, remaining: u32) -> Result<Quantity, Rejection> {
    let asked = wanted.map_or(remaining, Quantity::units);
    let quantity = Quantity::new(u64::from(asked)).ok().filter(|_| asked <= remaining);
    quantity.ok_or(Rejection::QuantityOverRemaining { asked, remaining })
}

fn over_nothing(wanted: Quantity) -> Rejection {
    Rejection::QuantityOverRemaining { asked: wanted.units(), remaining: 0 }
}

/// What became of a reservation of which nothing is held or sold.
const fn gone(last_exit: LastExit) -> Rejection {
    match last_exit {
        LastExit::Expired => Rejection::ReservationExpired,
        LastExit::Returned => Rejection::ReservationReturned,
        LastExit::Released | LastExit::None => Rejection::ReservationReleased,
    }
}

fn confirm_with_nothing_held(standing: &Standing, wanted: Option<Quantity>) -> Result<(), Rejection> {
    match (wanted, standing.confirmed, standing.last_exit) {
        // Whoever confirms units that were held and are late must not read a yes, though others of the reservation are sold.
        (None, 1.., _) if standing.lapses => Err(Rejection::ReservationExpired),
        (None, 1.., _) => Ok(()),
        // A call that names units wants more of them sold; that some were sold before does not answer it.
        (Some(_), 1.., LastExit::Expired) => Err(Rejection::ReservationExpired),
        (Some(wanted), 1.., _) => Err(over_nothing(wanted)),
        (_, 0, last_exit) => Err(gone(last_exit)),
    }
}

fn release_with_nothing_held(standing: &Standing, wanted: Option<Quantity>) -> Result<(), Rejection> {
    if mutant!(ReleaseOfSold) {
        return Ok(());
    }
    match (wanted, standing.confirmed, standing.returned) {
        (_, 1.., _) => Err(Rejection::ReservationConfirmed),
        (_, 0, 1..) => Err(Rejection::ReservationReturned),
        (None, 0, 0) => Ok(()),
        (Some(wanted), 0, 0) => Err(over_nothing(wanted)),
    }
}

fn return_with_nothing_sold(standing: &Standing, wanted: Option<Quantity>) -> Result<(), Rejection> {
    match (wanted, standing.returned) {
        (_, 0) => Err(Rejection::ReservationNotConfirmed),
        (None, 1..) => Ok(()),
        (Some(wanted), 1..) => Err(over_nothing(wanted)),
    }
}

const fn extend_with_nothing_held(standing: &Standing) -> Rejection {
    match standing.confirmed {
        1.. if !standing.lapses => Rejection::ReservationConfirmed,
        _ => gone(standing.last_exit),
    }
}
