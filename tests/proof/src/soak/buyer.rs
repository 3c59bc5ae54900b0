//! A buyer of the soak: opens stocks, buys, pays, cancels, lets lapse, gives back, reads and repeats, and closes and archives each stock
//! in the end. It keeps books of what it was answered, and holds every stock against them. Each has stocks of its own.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::machine::{wait, wait_until};
use tidegate_witness::wire::{Request, Response, Wire};

/// Units of a stock to begin with, and what comes in and goes again.
const UNITS: i64 = 1_000_000;
const COMES_IN: i64 = 10;
const GOES: i64 = -4;

/// Reservations of one batch.
const BATCH: usize = 32;

/// From one batch to the next.
const EVERY: Duration = Duration::from_millis(20);

/// Batches until a stock is closed.
const STOCK_BATCHES: usize = 100;

/// How long what was paid for is kept until it is given back: by then its record has left memory.
const BACK_AFTER: Duration = Duration::from_millis(1_500);

/// What a reservation is called: as long as it may be, so that the log has something to give back.
const REFERENCE: &str =
    "order-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789";

/// Longest wait for the last hold of a closed stock to lapse.
const LAPSE_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often a closed stock is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is wrong, at most so many of each buyer.
const WRONG_MAX: usize = 5;

/// What a buyer was answered.
#[derive(Debug, Default, Clone)]
pub(crate) struct Books {
    /// Commands that were answered.
    pub(crate) commands: u64,
    /// Commands that carried a key of their own.
    pub(crate) keys: u64,
    /// Of those, commands asked again and answered as before.
    pub(crate) repeats: u64,
    /// Archived stocks, each with what it was left with: allotted and sold.
    pub(crate) archived: BTreeMap<String, (i64, i64)>,
    /// What was not as it should be.
    pub(crate) wrong: Vec<String>,
}

/// A stock at work, or closed and waiting for its last hold to lapse.
#[derive(Debug, Default)]
struct Goods {
    sku: String,
    sold: i64,
    batches: usize,
    /// Paid for, and to be given back at its time.
    returns: VecDeque<(Instant, String)>,
}

#[derive(Debug, Deserialize)]
struct Results {
    results: Vec<Outcome>,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    status: u16,
    #[serde(default)]
    code: String,
    #[serde(default)]
    replayed: bool,
    reservation: Option<Reservation>,
}

#[derive(Debug, Deserialize)]
struct Reservation {
    id: String,
}

/// A stock as it is shown.
#[derive(Debug, Deserialize)]
pub(crate) struct Stock {
    pub(crate) sku: String,
    pub(crate) allotted: i64,
    pub(crate) available: i64,
    pub(crate) reserved: i64,
    pub(crate) sold: i64,
    pub(crate) state: String,
}

/// A buyer.
pub(crate) struct Buyer {
    number: usize,
    address: SocketAddr,
    wire: Wire,
    stocks: usize,
    keys: u64,
    books: Books,
}

impl Buyer {
    pub(crate) fn new(number: usize, address: SocketAddr) -> Self {
        Self { number, address, wire: Wire::new(address), stocks: 0, keys: 0, books: Books::default() }
    }

    /// Buys until `ends`, then brings every stock to its end; gives its books.
    pub(crate) fn work(mut self, ends: &AtomicBool) -> Books {
        let mut closed: VecDeque<Goods> = VecDeque::new();
        let mut goods = self.open();
        let mut due = Instant::now();
        while !ends.load(Ordering::Relaxed) && self.books.wrong.len() < WRONG_MAX {
            self.batch(&mut goods);
            if goods.batches >= STOCK_BATCHES {
                self.life(&goods.sku, "close");
                let next = self.open();
                closed.push_back(std::mem::replace(&mut goods, next));
            }
            for goods in &mut closed {
                self.give_back(goods, Instant::now());
            }
            // The oldest first; whether it can be archived shows when it is looked at.
            if let Some(oldest) = closed.pop_front()
                && let Some(oldest) = self.archive(oldest)
            {
                closed.push_front(oldest);
            }
            // After a slow moment it goes on from now: this is a soak, and no test of what can be done.
            due = (due + EVERY).max(Instant::now());
            wait_until(due);
        }
        self.life(&goods.sku, "close");
        closed.push_back(goods);
        for mut goods in closed {
            let began = Instant::now();
            loop {
                self.give_back(&mut goods, Instant::now());
                let Some(same) = self.archive(goods) else { break };
                goods = same;
                if began.elapsed() > LAPSE_WAIT_MAX {
                    self.wrong(format!("{} still holds units {} s after it was closed", goods.sku, LAPSE_WAIT_MAX.as_secs()));
                    break;
                }
                wait(LOOK_EVERY);
            }
        }
        self.books
    }

    fn wrong(&mut self, what: String) {
        if self.books.wrong.len() < WRONG_MAX {
            self.books.wrong.push(what);
        }
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Option<Response> {
        match self.wire.ask(Request { method, body, ..Request::get(path) }) {
            Ok(response) if response.status < 300 => Some(response),
            Ok(response) => {
                self.wrong(format!("{method} {path}: {} {}", response.status, String::from_utf8_lossy(&response.body)));
                None
            }
            Err(lost) => {
                self.wrong(format!("{method} {path} at {}: {lost:?}", self.address));
                None
            }
        }
    }

    /// A new stock, adjusted twice.
    fn open(&mut self) -> Goods {
        let sku = format!("soak-{}-{}", self.number, self.stocks);
        self.stocks += 1;
        let path = format!("/v1/stocks/{sku}");
        self.ask("PUT", &path, &format!(r#"{{"quantity":{UNITS},"hold_seconds":1,"per_user_limit":{BATCH}}}"#));
        for delta in [COMES_IN, GOES] {
            self.ask("POST", &format!("{path}/adjustments"), &format!(r#"{{"delta":{delta},"reason":"soak"}}"#));
        }
        Goods { sku, ..Goods::default() }
    }

    fn life(&mut self, sku: &str, step: &str) {
        self.ask("POST", &format!("/v1/stocks/{sku}/{step}"), "");
    }

    /// Sends commands, each `op` with a key of its own; gives their outcomes. `None` where there are none.
    fn commands(&mut self, fields: &[String], keys_from: u64) -> Option<Vec<Outcome>> {
        let mut body = String::from(r#"{"commands":["#);
        for (place, fields) in fields.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let key = keys_from + place as u64;
            write!(body, r#"{comma}{{{fields},"idempotency_key":"k{}-{key}"}}"#, self.number).expect("a text takes all");
        }
        body.push_str("]}");
        let response = self.ask("POST", "/v1/batch", &body)?;
        match serde_json::from_slice::<Results>(&response.body) {
            Ok(Results { results }) if results.len() == fields.len() => {
                self.books.commands += fields.len() as u64;
                Some(results)
            }
            other => {
                self.wrong(format!("a batch of {} commands is answered {other:?}", fields.len()));
                None
            }
        }
    }

    /// The same for commands that must all be done; gives the reservations' ids.
    fn done(&mut self, fields: &[String], status: u16) -> Vec<String> {
        if fields.is_empty() {
            return Vec::new();
        }
        let keys_from = self.keys;
        self.keys += fields.len() as u64;
        self.books.keys += fields.len() as u64;
        let outcomes = self.commands(fields, keys_from).unwrap_or_default();
        let mut ids = Vec::with_capacity(outcomes.len());
        for (outcome, fields) in outcomes.into_iter().zip(fields) {
            match outcome.reservation {
                Some(reservation) if outcome.status == status && !outcome.replayed => ids.push(reservation.id),
                _ => self.wrong(format!("{{{fields}}} is answered {} {}", outcome.status, outcome.code)),
            }
        }
        ids
    }

    /// Buys a batch: a third is paid for, a third is cancelled, a third lapses. One in ten batches asks once more what it has just asked.
    fn batch(&mut self, goods: &mut Goods) {
        let sku = &goods.sku;
        let user = |place| format!("u{}", (goods.batches * BATCH + place) % 1_000);
        let reserve: Vec<String> = (0..BATCH)
            .map(|place| format!(r#""op":"reserve","sku":"{sku}","user":"{}","reference":"{REFERENCE}""#, user(place)))
            .collect();
        let keys_from = self.keys;
        let ids = self.done(&reserve, 201);
        if goods.batches.is_multiple_of(10) && ids.len() == BATCH {
            let again = self.commands(&reserve, keys_from).unwrap_or_default();
            let same = |(outcome, id): (&Outcome, &String)| {
                outcome.status == 201 && outcome.replayed && outcome.reservation.as_ref().is_some_and(|shown| shown.id == *id)
            };
            let is_same = again.len() == ids.len() && again.iter().zip(&ids).all(same);
            if is_same {
                self.books.repeats += ids.len() as u64;
            } else {
                self.wrong(format!("a repeated batch on {} is not answered as the first", goods.sku));
            }
        }
        let settle = |op: &str, ids: &[String]| ids.iter().map(|id| format!(r#""op":"{op}","id":"{id}""#)).collect::<Vec<_>>();
        let (paid, others) = ids.split_at(ids.len() / 3);
        let paid = self.done(&settle("confirm", paid), 200);
        goods.sold += i64::try_from(paid.len()).unwrap_or(i64::MAX);
        self.done(&settle("release", &others[..others.len() / 2]), 200);
        // Half of what was paid for is given back later.
        let at = Instant::now() + BACK_AFTER;
        goods.returns.extend(paid.into_iter().step_by(2).map(|id| (at, id)));
        goods.batches += 1;
        self.give_back(goods, Instant::now());
    }

    /// Gives back whose time has come, having read the first of it.
    fn give_back(&mut self, goods: &mut Goods, now: Instant) {
        let count = goods.returns.iter().take_while(|(at, _)| *at <= now).count();
        let due: Vec<String> = goods.returns.drain(..count).map(|(_, id)| format!(r#""op":"return","id":"{id}""#)).collect();
        for due in due.chunks(BATCH) {
            let ids = self.done(due, 200);
            goods.sold -= i64::try_from(ids.len()).unwrap_or(i64::MAX);
            if let Some(id) = ids.first() {
                self.ask("GET", &format!("/v1/reservations/{id}"), "");
            }
        }
    }

    /// Archives a closed stock that holds nothing any more, if it is as the books say; gives one back that still holds something.
    fn archive(&mut self, goods: Goods) -> Option<Goods> {
        if !goods.returns.is_empty() {
            return Some(goods);
        }
        let response = self.ask("GET", &format!("/v1/stocks/{}", goods.sku), "")?;
        let stock = match serde_json::from_slice::<Stock>(&response.body) {
            Ok(stock) => stock,
            Err(error) => {
                self.wrong(format!("{} is not shown as expected: {error}", goods.sku));
                return None;
            }
        };
        if stock.reserved > 0 {
            return Some(goods);
        }
        let books = (UNITS + COMES_IN + GOES, goods.sold);
        if let Some(what) = differs(&stock, books) {
            self.wrong(what);
        }
        self.life(&goods.sku, "archive");
        self.books.archived.insert(goods.sku, books);
        None
    }
}

/// How a stock that holds nothing differs from the books: allotted and sold.
pub(crate) fn differs(stock: &Stock, (allotted, sold): (i64, i64)) -> Option<String> {
    let is_right = stock.available + stock.reserved + stock.sold == stock.allotted
        && (stock.allotted, stock.reserved, stock.sold) == (allotted, 0, sold);
    (!is_right).then(|| format!("the books say {allotted} allotted and {sold} sold, and it is {stock:?}"))
}
