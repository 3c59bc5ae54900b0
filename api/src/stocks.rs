//! The calls on stocks.

use axum::response::Response;
use tidegate_engine::partition_of;
use tidegate_stock::Command;

use crate::bodies;
use crate::call::{Call, Unread};
use crate::problem::Problem;
use crate::replies;
use crate::status::{self, Code};

/// `PUT /v1/stocks/{sku}`: opens a stock, or finds that it is there already.
pub(crate) async fn open(call: Call, body: Unread) -> Result<Response, Problem> {
    call.engine()?;
    let body = bodies::stock(&call.read(body).await?)?;
    let sku = call.sku()?;
    let engine = call.engine()?;
    let command = Command::CreateStock { partition: partition_of(&sku), sku, quantity: body.quantity, terms: body.terms };
    let answer = call.submit(engine, command, None).await?;
    replies::answer(engine, &answer)
}

/// `GET /v1/stocks/{sku}`: its committed view, which no owner is asked for.
pub(crate) async fn read(call: Call) -> Result<Response, Problem> {
    let engine = call.engine()?;
    let sku = call.sku()?;
    let stock = engine.stock(&sku).ok_or_else(|| Problem::new(Code::UnknownSku, "there is no stock of this sku"))?;
    replies::stock(status::OK, &stock)
}
