//! A client that makes large batches: they fill the log, the snapshots and the history, and one batch is one answer about many changes.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tidegate_witness::clients::{Recorded, meaning};
use tidegate_witness::node::{Node, Place};
use tidegate_witness::record::{Answer, Call, Op};
use tidegate_witness::wire::{Lost, Request, Response, Wire};

/// Reservations of one batch.
const RESERVATIONS: usize = 160;

/// Reservations of earlier batches that one batch confirms, releases or returns.
const FOLLOW_UPS: usize = 60;

/// Reservations that later batches may still talk about.
const POOL_MAX: usize = 4_000;

/// Letters that make names, and so the log, longer.
const PADDING: &str = "abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz-abcdefghijklmnopqrstuvwxyz";

/// The stocks of batches.
pub(super) fn skus(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| format!("bulk-{number}"))
}

/// One call of a batch, before it is answered.
#[derive(Debug, Clone)]
struct Wanted {
    sku: usize,
    op: Op,
    key: String,
}

/// The client.
pub(super) struct Bulk<'a> {
    number: usize,
    /// The place of its first stock among all.
    first: usize,
    node: &'a Node,
    skus: &'a [String],
    answered: Sender<()>,
    random: SmallRng,
    names: u64,
    batches: u64,
    pool: VecDeque<(usize, String)>,
    /// What it asked when the node was gone, or was refused.
    pending: Vec<Wanted>,
    calls: Vec<Recorded>,
    refused: u64,
}

impl<'a> Bulk<'a> {
    /// The client of `number`, for stocks that stand from `first` on among all.
    pub(super) fn new(number: usize, first: usize, seed: u64, node: &'a Node, skus: &'a [String], answered: Sender<()>) -> Self {
        let random = SmallRng::seed_from_u64(seed ^ 0xb01d);
        let (pool, pending, calls) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { number, first, node, skus, answered, random, names: 0, batches: 0, pool, pending, calls, refused: 0 }
    }

    /// Makes batches until there is no node.
    pub(super) fn work(&mut self) {
        let Some(mut place) = self.node.place() else { return };
        let mut wire = Wire::new(place.address);
        while let Some(now) = self.node.place() {
            if now.start != place.start {
                (place, wire) = (now, Wire::new(now.address));
            }
            let mut batch = std::mem::take(&mut self.pending);
            if batch.is_empty() {
                batch = self.next();
            }
            self.ask(&mut wire, place, batch);
        }
    }

    /// Its calls since the last time, and how many were refused.
    pub(super) fn take(&mut self) -> (Vec<Recorded>, u64) {
        (std::mem::take(&mut self.calls), std::mem::take(&mut self.refused))
    }

    fn name(&mut self, of: &str) -> String {
        self.names += 1;
        format!("{of}-{}-{PADDING}", self.names)
    }

    fn next(&mut self) -> Vec<Wanted> {
        let mut batch = Vec::new();
        for _ in 0..RESERVATIONS {
            let hold_seconds = self.random.random_range(1..=2);
            let (user, reference, key) = (self.name("user"), self.name("bulk"), self.name("key"));
            let sku = self.random.random_range(0..self.skus.len());
            batch.push(Wanted { sku, op: Op::Reserve { user, quantity: 1, hold_seconds, reference }, key });
        }
        for _ in 0..FOLLOW_UPS.min(self.pool.len()) {
            let (sku, id) = self.pool[self.random.random_range(0..self.pool.len())].clone();
            let op = match self.random.random_range(0..4) {
                0 | 1 => Op::Confirm { id, quantity: None },
                2 => Op::Release { id, quantity: None },
                _ => Op::Return { id, quantity: None },
            };
            batch.push(Wanted { sku, op, key: self.name("key") });
        }
        batch
    }

    fn ask(&mut self, wire: &mut Wire, place: Place, batch: Vec<Wanted>) {
        let commands: Vec<Value> = batch.iter().map(|wanted| command(&self.skus[wanted.sku], wanted)).collect();
        let body = json!({ "commands": commands }).to_string();
        let secret = self.node.secret(self.number);
        let began = self.node.now();
        let request = Request { method: "POST", path: "/v1/batch", secret, body: &body, ..Request::default() };
        let results = match wire.ask(request) {
            Err(Lost::NotSent) => {
                self.refused += 1;
                self.pending = batch;
                return;
            }
            Err(Lost::Unknown) => vec![Some(Answer::Unknown); batch.len()],
            Ok(response) => answers(&response, batch.len()),
        };
        let ended = self.node.now();
        self.batches += 1;
        for (wanted, answer) in batch.into_iter().zip(results) {
            let Some(answer) = answer else {
                self.refused += 1;
                self.pending.push(wanted);
                continue;
            };
            if answer == Answer::Unknown {
                self.pending.push(wanted.clone());
            } else {
                // Nobody listens once the crash is there.
                let _ = self.answered.send(());
            }
            let Wanted { sku, op, key } = wanted;
            if let (Op::Reserve { .. }, Answer::Reservation { shown, .. }) = (&op, &answer) {
                self.pool.push_back((sku, shown.id.clone()));
                if self.pool.len() > POOL_MAX {
                    self.pool.pop_front();
                }
            }
            let call = Call { client: self.number, op, key: Some(key), began, ended, answer, batch: Some(self.batches) };
            self.calls.push(Recorded { sku: self.first + sku, start: place.start, call });
        }
    }
}

fn command(sku: &str, wanted: &Wanted) -> Value {
    let key = &wanted.key;
    match &wanted.op {
        Op::Reserve { user, quantity, hold_seconds, reference } => json!({
            "op": "reserve", "sku": sku, "user": user, "quantity": quantity, "hold_seconds": hold_seconds, "reference": reference,
            "idempotency_key": key,
        }),
        Op::Confirm { id, .. } => json!({ "op": "confirm", "id": id, "idempotency_key": key }),
        Op::Release { id, .. } => json!({ "op": "release", "id": id, "idempotency_key": key }),
        Op::Return { id, .. } => json!({ "op": "return", "id": id, "idempotency_key": key }),
        other => unreachable!("a batch of this client has no {other:?}"),
    }
}

/// The answer to each command of a batch of `count`; `None` for one that was refused.
fn answers(response: &Response, count: usize) -> Vec<Option<Answer>> {
    let results = serde_json::from_slice::<Value>(&response.body).ok();
    let results = results.as_ref().and_then(|body| body["results"].as_array()).filter(|results| results.len() == count);
    let Some(results) = results.filter(|_| response.status == 200) else { return vec![meaning(response); count] };
    let answer = |result: &Value| {
        let shown = result.get("reservation").unwrap_or(result);
        let status = result["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0);
        let is_replayed = result["replayed"] == true;
        meaning(&Response { status, is_replayed, etag: None, may_retry: false, body: shown.to_string().into_bytes() })
    };
    results.iter().map(answer).collect()
}
