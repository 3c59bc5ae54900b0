//! The stocks of a load: opened before it, read and closed after it. It must not know what was asked of them meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;
use tokio::task::JoinSet;

use super::conserve::Counters;
use super::link::{Link, LinkError};
use super::plan::Plan;
use super::tally::Effect;
use super::wire::{Heading, Path};
use super::words::with_outcome;
use crate::target::Target;

/// Calls about stocks that are under way at a time.
const CALLS_MAX: usize = 16;

/// Why a stock could not be opened, read or closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StockError {
    /// The target did not answer.
    #[error("{call} {sku}")]
    Link {
        /// What was tried.
        call: &'static str,
        /// The stock.
        sku: String,
        /// The cause.
        source: LinkError,
    },
    /// A stock of that name is there already.
    #[error("the stock {sku} exists already (stock_exists): choose another --prefix or --seed")]
    Exists {
        /// The stock.
        sku: String,
    },
    /// The target said something else.
    #[error("{call} {sku} was answered {status} {body}")]
    Refused {
        /// What was tried.
        call: &'static str,
        /// The stock.
        sku: String,
        /// The answer's status.
        status: u16,
        /// Its code, or the beginning of its body.
        body: String,
    },
}

/// How closing went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Closed {
    /// All are.
    All,
    /// The target cannot close stocks: it answered this status.
    NotOffered(u16),
}

/// One kind of call for every stock.
#[derive(Debug, Clone, Copy)]
enum Call {
    Open,
    Read,
    Close,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "opening",
            Self::Read => "reading",
            Self::Close => "closing",
        }
    }
}

/// Opens every stock of the plan.
///
/// # Errors
/// When one could not be opened, or was there already. Those opened before stay.
pub(crate) async fn open(plan: &Arc<Plan>, target: &Target) -> Result<(), StockError> {
    for (number, status, body) in all(plan, target, Call::Open).await? {
        match status {
            201 => {}
            // The same settings are no excuse: units of it may be gone.
            200 => return Err(StockError::Exists { sku: plan.skus[number].clone() }),
            409 if code_of(status, &body).as_deref() == Some("stock_exists") => {
                return Err(StockError::Exists { sku: plan.skus[number].clone() });
            }
            _ => return Err(refused(plan, Call::Open, number, status, &body)),
        }
    }
    Ok(())
}

/// Reads every stock of the plan.
pub(crate) async fn read(plan: &Arc<Plan>, target: &Target) -> Result<Vec<Counters>, StockError> {
    let mut counters = Vec::with_capacity(plan.skus.len());
    for (number, status, body) in all(plan, target, Call::Read).await? {
        let read = if status == 200 { serde_json::from_slice(&body).ok() } else { None };
        counters.push(read.ok_or_else(|| refused(plan, Call::Read, number, status, &body))?);
    }
    Ok(counters)
}

/// Closes every stock of the plan.
pub(crate) async fn close(plan: &Arc<Plan>, target: &Target) -> Result<Closed, StockError> {
    for (number, status, body) in all(plan, target, Call::Close).await? {
        match status {
            200 => {}
            404 | 405 => return Ok(Closed::NotOffered(status)),
            _ => return Err(refused(plan, Call::Close, number, status, &body)),
        }
    }
    Ok(Closed::All)
}

fn refused(plan: &Plan, call: Call, number: usize, status: u16, body: &[u8]) -> StockError {
    let body = code_of(status, body).unwrap_or_else(|| String::from_utf8_lossy(body).chars().take(200).collect());
    StockError::Refused { call: call.name(), sku: plan.skus[number].clone(), status, body }
}

fn code_of(status: u16, body: &[u8]) -> Option<String> {
    with_outcome(status, body, |outcome| {
        (outcome.effect != Effect::Done && outcome.name != "unreadable_answer").then(|| outcome.name.to_owned())
    })
}

/// Makes one call for each stock, some at a time, and gives the answers in the order of the stocks: status and body. The first
/// that fails ends it, and so does the first answer that is none of the call's own, with the answers so far.
async fn all(plan: &Arc<Plan>, target: &Target, call: Call) -> Result<Vec<(usize, u16, Vec<u8>)>, StockError> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut lanes = JoinSet::new();
    for _ in 0..CALLS_MAX.min(plan.skus.len()) {
        lanes.spawn(lane(Arc::clone(plan), target.clone(), call, Arc::clone(&next)));
    }
    let mut answers = Vec::with_capacity(plan.skus.len());
    while let Some(joined) = lanes.join_next().await {
        match joined {
            Ok(answered) => answers.extend(answered?),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    answers.sort_unstable_by_key(|(number, _, _)| *number);
    Ok(answers)
}

async fn lane(
    plan: Arc<Plan>,
    target: Target,
    call: Call,
    next: Arc<AtomicUsize>,
) -> Result<Vec<(usize, u16, Vec<u8>)>, StockError> {
    let mut link: Option<Link> = None;
    let (mut request, mut answers) = (Vec::new(), Vec::new());
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(sku) = plan.skus.get(number) else { return Ok(answers) };
        let failed = |source| StockError::Link { call: call.name(), sku: sku.clone(), source };
        write(&mut request, &plan, &target, call, number);
        let mut there = match link.take() {
            Some(link) => link,
            None => Link::connect(&target, plan.options.timeout).await.map_err(failed)?,
        };
        let answer = there.exchange(&request, Instant::now()).await.map_err(failed)?;
        answers.push((number, answer.status, there.body(&answer).to_vec()));
        if !matches!((call, answer.status), (Call::Open, 201) | (Call::Read | Call::Close, 200)) {
            // The others need not be asked to know that something is wrong.
            next.store(plan.skus.len(), Ordering::Relaxed);
        }
        link = (!answer.closes).then_some(there);
    }
}

fn write(request: &mut Vec<u8>, plan: &Plan, target: &Target, call: Call, number: usize) {
    let sku = &plan.skus[number];
    let (method, after, body) = match call {
        Call::Open => ("PUT", "", settings(plan, number)),
        Call::Read => ("GET", "", Vec::new()),
        Call::Close => ("POST", "/close", Vec::new()),
    };
    Heading::of(target).write(request, method, &Path::Around("/v1/stocks/", sku, after), None, &body);
}

fn settings(plan: &Plan, number: usize) -> Vec<u8> {
    let mut settings = json!({ "quantity": plan.units[number], "hold_seconds": plan.options.hold_seconds });
    if let Some(limit) = plan.options.per_user_limit {
        settings["per_user_limit"] = json!(limit);
    }
    settings.to_string().into_bytes()
}
