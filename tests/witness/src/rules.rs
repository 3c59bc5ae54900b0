//! What a call does to a stock, written once more from the contract and for one state at a time. Knows nothing of the product's code,
//! and nothing of where the states come from: a feed, or a model.
//!
//! One choice of the product's own is pinned here: the entity tag of a stock's n-th settings is n in hexadecimal.

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

/// What was done to a stock's life by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Life {
    /// It grants nothing for the time being.
    pub is_paused: bool,
    /// Its sale is over.
    pub is_closed: bool,
    /// It was put away.
    pub is_archived: bool,
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
    /// Its counts, settings and entity tag; its state is for [`stock_state`].
    fn stock(&self) -> &Stock;
    /// What was done to its life.
    fn life(&self) -> Life;
    /// Units of a user, reserved and sold.
    fn units_of(&self, user: &str) -> i64;
    /// A reservation, and how its units last went.
    fn reservation(&self, id: &str) -> Option<(&Reservation, Exit)>;
    /// Every reservation, or every one of a user, newest first.
    fn newest(&self, user: Option<&str>) -> impl Iterator<Item = &Reservation>;
    /// Whether the change that led to this state is the lapse of this reservation: whoever lapsed it by a call reads `expired`.
    fn has_just_lapsed(&self, id: &str) -> bool;
    /// What a key is remembered for.
    fn key(&self, key: &str) -> Option<&KeyUse>;
    /// From when to when it may have been looked at, as the node tells time.
    fn span(&self) -> (&str, &str);
}

/// What a call comes to in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It changes something, of so many units.
    Changes(u32),
    /// It changes nothing and shows this reservation, or the stock.
    #[expect(missing_docs, reason = "the answer's own fields")]
    Shows { reservation: Option<String>, created: bool, replayed: bool },
    /// It changes nothing and shows reservations.
    Lists,
    /// No.
    Rejects(&'static str),
}

/// The entity tag of a stock whose settings or life changed so often, its creation included.
pub fn tag(revision: u64) -> String {
    format!("\"{revision:x}\"")
}

/// What `op` comes to in the state `view` at the moment `now`.
pub fn step(view: &impl View, op: &Op, key: Option<&str>, now: &str) -> Step {
    if let Some(used) = key.and_then(|key| view.key(key)) {
        if used.op != *op {
            return Step::Rejects("idempotency_key_reused");
        }
        let created = matches!(op, Op::Reserve { .. });
        return Step::Shows { reservation: used.reservation.clone(), created, replayed: true };
    }
    let shows = |id: &String| Step::Shows { reservation: Some(id.clone()), created: false, replayed: false };
    let stock = Step::Shows { reservation: None, created: false, replayed: false };
    let changes = |changes: bool| if changes { Step::Changes(0) } else { stock.clone() };
    let life = view.life();
    match op {
        Op::ReadStock => stock,
        Op::List { .. } => Step::Lists,
        Op::Patch { if_match: Some(tag), .. } if view.stock().etag.as_ref() != Some(tag) => Step::Rejects("precondition_failed"),
        Op::Patch { .. } | Op::Pause | Op::Reopen if life.is_archived => Step::Rejects("closed"),
        Op::Patch { patch, .. } => {
            let mut patched = view.stock().clone();
            patch.lay_over(&mut patched);
            match (&patched.opens_at, &patched.closes_at) {
                (Some(opens_at), Some(closes_at)) if opens_at >= closes_at => Step::Rejects("out_of_range"),
                _ => changes(patched != *view.stock()),
            }
        }
        Op::Pause => changes(!life.is_paused),
        Op::Reopen => changes(life.is_paused || life.is_closed),
        Op::Close => changes(!life.is_closed && !life.is_archived),
        Op::Archive if life.is_archived => stock,
        Op::Archive if !is_over(view, now) || view.stock().reserved > 0 => Step::Rejects("stock_in_use"),
        Op::Adjust { delta, .. } if view.stock().available + delta < 0 => Step::Rejects("insufficient_stock"),
        Op::Archive | Op::Adjust { .. } => Step::Changes(0),
        Op::Reserve { user, quantity, .. } => reserve(view, user, *quantity, now),
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

/// Whether `answer` is what a call that changes nothing in the state `view` is answered, at some moment of its span.
pub fn explains(view: &impl View, op: &Op, key: Option<&str>, answer: &Answer) -> bool {
    let (from, to) = view.span();
    let turns = [&view.stock().opens_at, &view.stock().closes_at].into_iter().flatten().map(String::as_str);
    let mut moments = std::iter::once(from).chain(turns.filter(|turn| from < *turn && *turn <= to));
    moments.any(|now| explains_at(view, op, key, answer, now))
}

fn explains_at(view: &impl View, op: &Op, key: Option<&str>, answer: &Answer, now: &str) -> bool {
    match (step(view, op, key, now), answer) {
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
            replayed == *given && view.stock().is_shown_by(shown) && shown.state == stock_state(view.stock(), view.life(), now)
        }
        (Step::Lists, Answer::List { shown, more }) => is_list(view, op, shown, *more),
        _ => false,
    }
}

/// Whether a list shows what it was asked for, newest first, and tells whether that is all. It may tell less than it was asked for.
fn is_list(view: &impl View, op: &Op, shown: &[Reservation], more: bool) -> bool {
    let Op::List { user, state, limit } = op else { return false };
    let fits = |one: &&Reservation| state.as_ref().is_none_or(|state| *state == one.state);
    let mut expected = view.newest(user.as_deref()).filter(fits);
    shown.len() <= *limit && shown.iter().all(|one| expected.next() == Some(one)) && (more || expected.next().is_none())
}

/// The state of a stock at a moment.
pub fn stock_state(stock: &Stock, life: Life, now: &str) -> &'static str {
    let is_past = |moment: &Option<String>| moment.as_ref().is_some_and(|moment| moment.as_str() <= now);
    if life.is_archived {
        "archived"
    } else if life.is_closed || is_past(&stock.closes_at) {
        "closed"
    } else if life.is_paused {
        "paused"
    } else if stock.opens_at.is_some() && !is_past(&stock.opens_at) {
        "scheduled"
    } else if stock.available == 0 {
        "sold_out"
    } else {
        "open"
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

fn is_over(view: &impl View, now: &str) -> bool {
    matches!(stock_state(view.stock(), view.life(), now), "archived" | "closed")
}

fn reserve(view: &impl View, user: &str, quantity: u32, now: &str) -> Step {
    let stock = view.stock();
    match stock_state(stock, view.life(), now) {
        "archived" | "closed" => return Step::Rejects("closed"),
        "paused" => return Step::Rejects("paused"),
        "scheduled" => return Step::Rejects("not_open"),
        _ => {}
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
