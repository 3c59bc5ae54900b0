//! What a call does to a stock, written once more from the contract and for one state at a time. Knows nothing of the product's code,
//! and nothing of where the states come from: a feed, or a model.

use crate::record::{Answer, Op, Reservation, Stock};

/// How the last held units of a reservation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// None went, or they were sold.
    None,
    /// Given back by the caller.
    Released,
    /// Taken back by the clock.
    Expired,
    /// Given back after they were sold.
    Returned,
}

/// What a key was first used for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyUse {
    /// The call.
    pub op: Op,
    /// The reservation that its answers show; `None` for the stock.
    pub reservation: Option<String>,
}

/// One state of a stock.
pub trait View {
    /// The stock as a read shows it.
    fn stock(&self) -> Stock;
    /// Units of a user, reserved and sold.
    fn units_of(&self, user: &str) -> i64;
    /// A reservation, and how its units last went.
    fn reservation(&self, id: &str) -> Option<(&Reservation, Exit)>;
    /// Whether the change that led to this state is the lapse of this reservation: whoever lapsed it by a call reads `expired`.
    fn has_just_lapsed(&self, id: &str) -> bool;
    /// What a key is remembered for.
    fn key(&self, key: &str) -> Option<&KeyUse>;
}

/// What a call comes to in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It changes something, of so many units.
    Changes(u32),
    /// It changes nothing and shows this reservation, or the stock.
    #[expect(missing_docs, reason = "the answer's own fields")]
    Shows { reservation: Option<String>, created: bool, replayed: bool },
    /// No.
    Rejects(&'static str),
}

/// What `op` comes to in the state `view`.
pub fn step(view: &impl View, op: &Op, key: Option<&str>) -> Step {
    if let Some(used) = key.and_then(|key| view.key(key)) {
        if used.op != *op {
            return Step::Rejects("idempotency_key_reused");
        }
        let created = matches!(op, Op::Reserve { .. });
        return Step::Shows { reservation: used.reservation.clone(), created, replayed: true };
    }
    let shows = |id: &String| Step::Shows { reservation: Some(id.clone()), created: false, replayed: false };
    let stock = Step::Shows { reservation: None, created: false, replayed: false };
    match op {
        Op::ReadStock => stock,
        Op::Pause if view.stock().state == "paused" => stock,
        Op::Reopen if view.stock().state != "paused" => stock,
        Op::Adjust { delta, .. } if view.stock().available + delta < 0 => Step::Rejects("insufficient_stock"),
        Op::Pause | Op::Reopen | Op::Adjust { .. } => Step::Changes(0),
        Op::Reserve { user, quantity, .. } => reserve(view, user, *quantity),
        Op::ReadReservation { id } => view.reservation(id).map_or(Step::Rejects("unknown_reservation"), |_| shows(id)),
        Op::Confirm { id, quantity } | Op::Release { id, quantity } | Op::Return { id, quantity } => {
            let Some((held, exit)) = view.reservation(id) else { return Step::Rejects("unknown_reservation") };
            let outcome = match op {
                Op::Confirm { .. } | Op::Release { .. } if held.reserved > 0 => of_remaining(*quantity, held.reserved),
                Op::Confirm { .. } => confirm_nothing(held, exit, *quantity),
                Op::Release { .. } => release_nothing(held, *quantity),
                _ if held.confirmed > 0 => of_remaining(*quantity, held.confirmed),
                _ => return_nothing(held, *quantity),
            };
            match outcome {
                Ok(Some(units)) => Step::Changes(units),
                Ok(None) => shows(id),
                Err(code) => Step::Rejects(code),
            }
        }
        Op::Extend { id, .. } => match view.reservation(id) {
            None => Step::Rejects("unknown_reservation"),
            Some((held, _)) if held.reserved > 0 => Step::Changes(0),
            Some((held, _)) if held.confirmed > 0 => Step::Rejects("reservation_confirmed"),
            Some((_, exit)) => Step::Rejects(gone(exit)),
        },
    }
}

/// Whether `answer` is what a call that changes nothing in the state `view` is answered.
pub fn explains(view: &impl View, op: &Op, key: Option<&str>, answer: &Answer) -> bool {
    match (step(view, op, key), answer) {
        (Step::Rejects(expected), Answer::Rejected { code }) if expected == code => true,
        // A call that finds a hold past its end lapses it and reads that, whatever else is sold of the reservation.
        (Step::Rejects(_) | Step::Shows { replayed: false, .. }, Answer::Rejected { code }) => {
            code == "reservation_expired"
                && matches!(op, Op::Confirm { .. } | Op::Extend { .. })
                && op.reservation().is_some_and(|id| view.has_just_lapsed(id))
        }
        (
            Step::Shows { reservation: Some(id), created, replayed },
            Answer::Reservation { created: given_created, replayed: given_replayed, shown },
        ) => {
            (created, replayed) == (*given_created, *given_replayed)
                && view.reservation(&id).is_some_and(|(reservation, _)| reservation == shown)
        }
        (Step::Shows { reservation: None, replayed, .. }, Answer::Stock { replayed: given, shown }) => {
            replayed == *given && view.stock() == *shown
        }
        _ => false,
    }
}

/// The state of a stock by its counts.
pub fn stock_state(available: i64, is_paused: bool) -> &'static str {
    match (is_paused, available) {
        (true, _) => "paused",
        (false, 0) => "sold_out",
        (false, _) => "open",
    }
}

/// The state of a reservation by its counts.
pub fn reservation_state(reserved: u32, confirmed: u32, exit: Exit) -> &'static str {
    match (reserved, confirmed, exit) {
        (1.., ..) => "reserved",
        (0, 1.., _) => "confirmed",
        (0, 0, Exit::Returned) => "returned",
        (0, 0, Exit::Expired) => "expired",
        (0, 0, _) => "released",
    }
}

fn reserve(view: &impl View, user: &str, quantity: u32) -> Step {
    let stock = view.stock();
    if stock.state == "paused" {
        return Step::Rejects("paused");
    }
    if stock.per_user_limit.is_some_and(|limit| view.units_of(user) + i64::from(quantity) > i64::from(limit)) {
        return Step::Rejects("limit_reached");
    }
    if stock.available < i64::from(quantity) { Step::Rejects("sold_out") } else { Step::Changes(quantity) }
}

fn of_remaining(wanted: Option<u32>, remaining: u32) -> Result<Option<u32>, &'static str> {
    let wanted = wanted.unwrap_or(remaining);
    if wanted <= remaining { Ok(Some(wanted)) } else { Err("invalid_quantity") }
}

fn confirm_nothing(held: &Reservation, exit: Exit, wanted: Option<u32>) -> Result<Option<u32>, &'static str> {
    match (held.confirmed, wanted, exit) {
        (0, ..) => Err(gone(exit)),
        (1.., None, _) => Ok(None),
        (1.., Some(_), Exit::Expired) => Err("reservation_expired"),
        (1.., Some(_), _) => Err("invalid_quantity"),
    }
}

fn release_nothing(held: &Reservation, wanted: Option<u32>) -> Result<Option<u32>, &'static str> {
    match (held.confirmed, held.returned, wanted) {
        (1.., ..) => Err("reservation_confirmed"),
        (0, 1.., _) => Err("reservation_returned"),
        (0, 0, None) => Ok(None),
        (0, 0, Some(_)) => Err("invalid_quantity"),
    }
}

fn return_nothing(held: &Reservation, wanted: Option<u32>) -> Result<Option<u32>, &'static str> {
    match (held.returned, wanted) {
        (0, _) => Err("reservation_not_confirmed"),
        (1.., None) => Ok(None),
        (1.., Some(_)) => Err("invalid_quantity"),
    }
}

const fn gone(exit: Exit) -> &'static str {
    match exit {
        Exit::Expired => "reservation_expired",
        Exit::Returned => "reservation_returned",
        Exit::Released | Exit::None => "reservation_released",
    }
}
