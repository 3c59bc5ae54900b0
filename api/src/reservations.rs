//! The calls on reservations.
//!
//! Every call looks at the door before its body, so that a node that cannot answer reads none, and again after it: the door may have
//! shut meanwhile.

use axum::response::Response;
use tidegate_stock::{Command, Quantity, ReservationId};

use crate::bodies::{self, ReserveBody};
use crate::call::{Call, Unread};
use crate::problem::Problem;
use crate::replies;

/// `POST /v1/stocks/{sku}/reservations`: holds units for a user.
pub(crate) async fn reserve(call: Call, body: Unread) -> Result<Response, Problem> {
    call.engine()?;
    let ReserveBody { user, quantity, hold_seconds, reference } = bodies::reserve(&call.read(body).await?)?;
    let (sku, key) = (call.sku()?, call.key()?);
    let engine = call.engine()?;
    let answer = call.submit(engine, Command::Reserve { sku, user, quantity, hold_seconds, reference }, key).await?;
    replies::answer(engine, &answer)
}

/// `GET /v1/reservations/{id}`: a reservation as its owner sees it.
pub(crate) async fn read(call: Call) -> Result<Response, Problem> {
    let engine = call.engine()?;
    let reservation = call.reservation(engine)?;
    let answer = call.submit(engine, Command::ReadReservation { reservation }, None).await?;
    replies::answer(engine, &answer)
}

/// `POST /v1/reservations/{id}/confirm`: held units become sold.
pub(crate) async fn confirm(call: Call, body: Unread) -> Result<Response, Problem> {
    settle(call, body, |reservation, quantity| Command::Confirm { reservation, quantity }).await
}

/// `POST /v1/reservations/{id}/release`: held units become available.
pub(crate) async fn release(call: Call, body: Unread) -> Result<Response, Problem> {
    settle(call, body, |reservation, quantity| Command::Release { reservation, quantity }).await
}

async fn settle(
    call: Call,
    body: Unread,
    command: impl Fn(ReservationId, Option<Quantity>) -> Command,
) -> Result<Response, Problem> {
    call.engine()?;
    let quantity = bodies::units(&call.read(body).await?)?;
    let key = call.key()?;
    let engine = call.engine()?;
    let answer = call.submit(engine, command(call.reservation(engine)?, quantity), key).await?;
    replies::answer(engine, &answer)
}
