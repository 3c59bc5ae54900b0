//! After the rush: wait until nothing is held, read everything back over HTTP, and have the logs of the stopped nodes verified.
//!
//! It gathers the evidence and judges nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::books::Books;
use super::checks::Verified;
use super::fleet::{Fleet, in_turn};
use super::plan::Plan;
use crate::child::{NodeError, run_to_end};
use crate::client::{Client, Outcome, Patience, Persisted, Reservation, Stock, persist};

/// Readers at a time.
const READERS: usize = 32;

/// Pause between two looks at the stocks.
const LOOK: Duration = Duration::from_millis(100);

/// How much longer than a hold the last one may take to lapse before the wait for it is given up.
const SETTLE_GRACE: Duration = Duration::from_secs(15);

/// Longest wait for the verification of the log.
const VERIFY_WAIT_MAX: Duration = Duration::from_mins(10);

/// Waits until no stock has a reserved unit, and returns the stocks then, as whoever decides says. Gives up [`SETTLE_GRACE`] after the last
/// hold's end, and returns them as they are.
pub(crate) async fn settle(plan: &Plan, clients: &[Client], fleet: &mut Fleet) -> Result<Vec<Result<Stock, String>>, NodeError> {
    let until = Instant::now() + Duration::from_secs(u64::from(plan.hold_seconds)) + SETTLE_GRACE;
    loop {
        fleet.check_running()?;
        let mut stocks = Vec::with_capacity(plan.products.len());
        for product in &plan.products {
            stocks.push(answer(persist(Patience::default(), in_turn(clients, 0, |client| client.get_stock(&product.sku))).await));
        }
        let is_settled = stocks.iter().all(|stock| stock.as_ref().is_ok_and(|stock| stock.reserved == 0));
        if is_settled || Instant::now() > until {
            return Ok(stocks);
        }
        sleep(LOOK).await;
    }
}

/// Reads every stock of the plan on every node, as that node itself has it.
pub(crate) async fn replicas(plan: &Plan, clients: &[Client]) -> Vec<Vec<Result<Stock, String>>> {
    let mut replicas = Vec::with_capacity(clients.len());
    for client in clients {
        let mut stocks = Vec::with_capacity(plan.products.len());
        for product in &plan.products {
            stocks.push(answer(persist(Patience::default(), || client.get_stock_here(&product.sku)).await));
        }
        replicas.push(stocks);
    }
    replicas
}

/// Reads every grant of the books, in their order, from all nodes in turn.
pub(crate) async fn read_back(clients: &[Client], books: &Books) -> Vec<Result<Reservation, String>> {
    let ids: Arc<[String]> = books.grants().iter().map(|grant| grant.id.clone()).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (clients, ids, next) = (clients.to_vec(), Arc::clone(&ids), Arc::clone(&next));
        readers.spawn(async move {
            let mut read = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(id) = ids.get(index) else { return read };
                let asked = persist(Patience::default(), in_turn(&clients, index, |client| client.get_reservation(id)));
                read.push((index, answer(asked.await)));
            }
        });
    }
    let mut read: Vec<_> = readers.join_all().await.into_iter().flatten().collect();
    read.sort_unstable_by_key(|(index, _)| *index);
    read.into_iter().map(|(_, reservation)| reservation).collect()
}

fn answer<T: std::fmt::Debug>(persisted: Persisted<T>) -> Result<T, String> {
    match persisted.outcome {
        Outcome::Accepted { body, .. } => Ok(body),
        other => Err(format!("{other:?}")),
    }
}

/// Runs `tidegate verify` on the directory and returns what it reports, or why it reports nothing good.
pub(crate) async fn verify(program: &Path, data_dir: &Path) -> Result<Verified, String> {
    #[derive(Deserialize)]
    struct Answer {
        report: Verified,
    }
    let arguments = [OsStr::new("verify"), data_dir.as_os_str(), OsStr::new("--json")];
    let ended = timeout(VERIFY_WAIT_MAX, run_to_end(program, &arguments)).await;
    let ended = ended.map_err(|_| format!("it has not ended within {} s", VERIFY_WAIT_MAX.as_secs()))?;
    let (status, stdout, stderr) = ended.map_err(|error| format!("it could not be run: {error}"))?;
    if status.code() != Some(0) {
        return Err(format!("{status}: {} {}", stdout.trim(), stderr.trim()));
    }
    let answer: Answer =
        serde_json::from_str(&stdout).map_err(|error| format!("its answer {stdout:?} is not understood: {error}"))?;
    Ok(answer.report)
}
