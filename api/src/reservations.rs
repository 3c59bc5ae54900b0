//! The calls on reservations.
//!
//! Every call looks at the door before its body, so that a node that cannot answer reads none, and again after it: the door may have
//! shut meanwhile.

use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_engine::ListReservations;
use tidegate_stock::{Command, Quantity, ReservationId, ReservationState};

use crate::bodies::{self, ReserveBody};
use crate::call::{Call, Unread};
use crate::cursor::Shelf;
use crate::documents::{RESERVATION_STATES, ReservationDocument, state_name};
use crate::problem::Problem;
use crate::replies;
use crate::status;

/// A page of a stock's reservations, newest first.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ReservationPage")]
pub(crate) struct ReservationsDocument<'a> {
    /// The reservations. A page can hold fewer than were asked for, even none, and still not be the last.
    reservations: Vec<ReservationDocument<'a>>,
    /// Where the next page begins: the cursor to ask for it; null at the end.
    next_cursor: Option<String>,
}

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

/// `GET /v1/stocks/{sku}/reservations`: a stock's reservations, in pages.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let engine = call.engine()?;
    let query = call.query();
    let limit = query.limit()?;
    let state = query.text("state").map(state_named).transpose()?;
    let (sku, user) = (call.sku()?, query.user()?);
    let shelf = Shelf { sku: &sku, user: user.as_ref(), state };
    let before = query.text("cursor").map(|cursor| shelf.read(cursor)).transpose()?;
    let asked = ListReservations { sku: sku.clone(), user: user.clone(), state, before, limit };
    let page = call.bounded(engine.list(&asked)).await??;
    let ids: Vec<String> = page.reservations.iter().map(|reservation| engine.seal(reservation.id)).collect();
    let reservations = ids.iter().zip(&page.reservations).map(|(id, reservation)| ReservationDocument::of(id, reservation));
    let next_cursor = page.next.map(|grant| shelf.before(grant));
    replies::json(status::OK, &ReservationsDocument { reservations: reservations.collect(), next_cursor })
}

fn state_named(name: &str) -> Result<ReservationState, Problem> {
    RESERVATION_STATES.into_iter().find(|state| state_name(*state) == name).ok_or_else(|| {
        let known = RESERVATION_STATES.map(state_name).join(", ");
        Problem::invalid_request(format!("the parameter `state` is {name:?} where one of {known} is needed"))
    })
}

/// `POST /v1/reservations/{id}/confirm`: held units become sold.
pub(crate) async fn confirm(call: Call, body: Unread) -> Result<Response, Problem> {
    settle(call, body, |reservation, quantity| Command::Confirm { reservation, quantity }).await
}

/// `POST /v1/reservations/{id}/release`: held units become available.
pub(crate) async fn release(call: Call, body: Unread) -> Result<Response, Problem> {
    settle(call, body, |reservation, quantity| Command::Release { reservation, quantity }).await
}

/// `POST /v1/reservations/{id}/return`: sold units become available.
pub(crate) async fn give_back(call: Call, body: Unread) -> Result<Response, Problem> {
    settle(call, body, |reservation, quantity| Command::Return { reservation, quantity }).await
}

/// `POST /v1/reservations/{id}/extend`: held units stay held for longer.
pub(crate) async fn extend(call: Call, body: Unread) -> Result<Response, Problem> {
    call.engine()?;
    let hold_seconds = bodies::extension(&call.read(body).await?)?;
    let key = call.key()?;
    let engine = call.engine()?;
    let answer = call.submit(engine, Command::Extend { reservation: call.reservation(engine)?, hold_seconds }, key).await?;
    replies::answer(engine, &answer)
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
