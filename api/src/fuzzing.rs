//! The readers of this crate, bare, for whoever tries them with hostile bytes: bytes in; values of the rules, or a problem's code, out.
//! Behind the feature `fuzzing`.

use tidegate_stock::{
    Allotment, Command, Delta, GrantSequence, HoldSeconds, IdempotencyKey, Quantity, Reason, Reference, ReservationId,
    ReservationState, Sku, StockTerms, TermsPatch, UserId,
};

use crate::bodies::{self, ReserveBody, StockBody};
use crate::call::Form;
use crate::commands;
use crate::cursor::{self, Shelf};
use crate::problem::Problem;

/// What a reader makes of bytes; otherwise the code that the caller is told.
pub type Read<T> = Result<T, &'static str>;

fn code(problem: &Problem) -> &'static str {
    problem.code().name()
}

/// The body that opens a stock.
pub fn stock(body: &[u8]) -> Read<(Allotment, StockTerms)> {
    bodies::stock(body).map(|StockBody { quantity, terms }| (quantity, terms)).map_err(|problem| code(&problem))
}

/// The body that changes a stock's settings.
pub fn change(body: &[u8]) -> Read<TermsPatch> {
    bodies::change(body).map_err(|problem| code(&problem))
}

/// The body that adjusts a stock.
pub fn adjustment(body: &[u8]) -> Read<(Delta, Reason)> {
    bodies::adjustment(body).map_err(|problem| code(&problem))
}

/// The body that asks for a reservation.
pub fn reserve(body: &[u8]) -> Read<(UserId, Quantity, Option<HoldSeconds>, Option<Reference>)> {
    bodies::reserve(body)
        .map(|ReserveBody { user, quantity, hold_seconds, reference }| (user, quantity, hold_seconds, reference))
        .map_err(|problem| code(&problem))
}

/// The body that may name a part of a reservation.
pub fn units(body: &[u8]) -> Read<Option<Quantity>> {
    bodies::units(body).map_err(|problem| code(&problem))
}

/// The body that extends a hold.
pub fn extension(body: &[u8]) -> Read<HoldSeconds> {
    bodies::extension(body).map_err(|problem| code(&problem))
}

/// The body of a call that takes none.
pub fn nothing(body: &[u8]) -> Read<()> {
    bodies::nothing(body).map_err(|problem| code(&problem))
}

/// A command of a batch.
pub type ReadCommand = Read<(Command, Option<IdempotencyKey>)>;

/// A batch: one document, or a command a line. `unseal` says which reservation a text names.
pub fn batch(body: &[u8], is_lines: bool, unseal: &dyn Fn(&str) -> Option<ReservationId>) -> Read<Vec<ReadCommand>> {
    let form = if is_lines { Form::Lines } else { Form::Json };
    let commands = commands::read(unseal, body, form).map_err(|problem| code(&problem))?;
    Ok(commands.into_iter().map(|command| command.map_err(|problem| code(&problem))).collect())
}

/// The cursor of the stocks behind `last`.
pub fn stock_cursor(last: &Sku) -> String {
    cursor::after_stock(last)
}

/// The stock that a cursor stands behind.
pub fn read_stock_cursor(text: &str) -> Read<Sku> {
    cursor::read_stock(text).map_err(|problem| code(&problem))
}

/// The list of the reservations of `sku`, of one user or of all, in one state or in any.
pub type List<'a> = (&'a Sku, Option<&'a UserId>, Option<ReservationState>);

/// The cursor of the reservations older than `grant`.
pub fn reservation_cursor((sku, user, state): List<'_>, grant: GrantSequence) -> String {
    Shelf { sku, user, state }.before(grant)
}

/// The grant before which the list goes on.
pub fn read_reservation_cursor((sku, user, state): List<'_>, text: &str) -> Read<GrantSequence> {
    Shelf { sku, user, state }.read(text).map_err(|problem| code(&problem))
}
