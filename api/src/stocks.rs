//! The calls on stocks.
//!
//! Every call looks at the door before its body, so that a node that cannot answer reads none, and again after it: the door may have
//! shut meanwhile.

use axum::response::Response;
use schemars::JsonSchema;
use serde::Serialize;
use tidegate_engine::partition_of;
use tidegate_stock::{Command, LifeStep};

use crate::bodies;
use crate::call::{Call, Unread};
use crate::cursor;
use crate::documents::StockDocument;
use crate::forward::NOBODY_MAX;
use crate::precondition;
use crate::problem::Problem;
use crate::replies;
use crate::status::{self, Code};

/// A page of stocks, by sku.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "StockPage")]
pub(crate) struct StocksDocument<'a> {
    /// The stocks.
    stocks: Vec<StockDocument<'a>>,
    /// Where the next page begins: the cursor to ask for it; null at the end.
    next_cursor: Option<String>,
}

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
    let is_stale = is_stale(&call)?;
    let sku = call.sku()?;
    let stock = if is_stale { engine.stock(&sku) } else { engine.current_stock(&sku)? };
    let stock = stock.ok_or_else(|| Problem::new(Code::UnknownSku, "there is no stock of this sku"))?;
    replies::stock(status::OK, &stock)
}

/// Whether the caller is content with what this node has, however old it is.
fn is_stale(call: &Call) -> Result<bool, Problem> {
    match call.query().text("consistency") {
        None | Some("linearizable") => Ok(false),
        Some("stale") => Ok(true),
        Some(text) => {
            let what = format!("the parameter `consistency` is {text:?} where linearizable or stale is needed");
            Err(Problem::invalid_request(what))
        }
    }
}

/// `GET /v1/stocks`: the committed views of all stocks, in pages.
pub(crate) async fn list(call: Call) -> Result<Response, Problem> {
    let engine = call.engine()?;
    let limit = call.query().limit()?;
    let is_stale = is_stale(&call)?;
    let after = call.query().text("cursor").map(cursor::read_stock).transpose()?;
    if let Some(cluster) = call.door().cluster().filter(|_| !is_stale) {
        call.bounded(cluster.settle(NOBODY_MAX)).await?.map_err(|why| Problem::new(Code::NoQuorum, why))?;
    }
    // One more than are shown, to know whether there are more.
    let stocks = engine.stocks(after.as_ref(), limit + 1);
    let shown = &stocks[..stocks.len().min(limit)];
    let last = if mutant!(PageSkips) { stocks.last() } else { shown.last() };
    let next_cursor = last.filter(|_| stocks.len() > limit).map(|last| cursor::after_stock(&last.view.sku));
    replies::json(status::OK, &StocksDocument { stocks: shown.iter().map(StockDocument::of).collect(), next_cursor })
}

/// `PATCH /v1/stocks/{sku}`: changes settings.
pub(crate) async fn change(call: Call, body: Unread) -> Result<Response, Problem> {
    call.engine()?;
    let patch = bodies::change(&call.read(body).await?)?;
    let if_revision = precondition::revisions(call.headers())?.filter(|_| !mutant!(IfMatchIgnored));
    let sku = call.sku()?;
    let engine = call.engine()?;
    let answer = call.submit(engine, Command::ChangeStock { sku, patch, if_revision }, None).await?;
    replies::answer(engine, &answer)
}

/// `POST /v1/stocks/{sku}/adjustments`: gives a stock more units, or takes available ones away.
pub(crate) async fn adjust(call: Call, body: Unread) -> Result<Response, Problem> {
    call.engine()?;
    let (delta, reason) = bodies::adjustment(&call.read(body).await?)?;
    let (sku, key) = (call.sku()?, call.key()?);
    let engine = call.engine()?;
    let answer = call.submit(engine, Command::AdjustStock { sku, delta, reason }, key).await?;
    replies::answer(engine, &answer)
}

/// `POST /v1/stocks/{sku}/pause`: grants nothing until it is reopened.
pub(crate) async fn pause(call: Call, body: Unread) -> Result<Response, Problem> {
    step(call, body, LifeStep::Pause).await
}

/// `POST /v1/stocks/{sku}/reopen`: undoes pause and close.
pub(crate) async fn reopen(call: Call, body: Unread) -> Result<Response, Problem> {
    step(call, body, LifeStep::Reopen).await
}

/// `POST /v1/stocks/{sku}/close`: ends the sale.
pub(crate) async fn close(call: Call, body: Unread) -> Result<Response, Problem> {
    step(call, body, LifeStep::Close).await
}

/// `POST /v1/stocks/{sku}/archive`: closes it for ever.
pub(crate) async fn archive(call: Call, body: Unread) -> Result<Response, Problem> {
    step(call, body, LifeStep::Archive).await
}

async fn step(call: Call, body: Unread, step: LifeStep) -> Result<Response, Problem> {
    call.engine()?;
    bodies::nothing(&call.read(body).await?)?;
    let sku = call.sku()?;
    let engine = call.engine()?;
    let answer = call.submit(engine, Command::StepStock { sku, step }, None).await?;
    replies::answer(engine, &answer)
}
