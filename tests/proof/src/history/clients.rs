//! The clients: each makes one call after the other, from a seed, and writes down what it asked, when, and what it was answered.
//!
//! They get into each other's way on purpose: a few users, few units, reservations of others, the same call with the same key from two
//! at once. Knows nothing of what is right.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::record::{Answer, Call, Op, Reservation, Stock};
use crate::site::{Place, Site};
use crate::wire::{Lost, Request, Wire};

/// Attempts of one call at most, refusals included.
const ATTEMPTS_MAX: u32 = 1_000;

/// Reservations of a stock that its clients talk about at a time.
const POOL_MAX: usize = 400;

/// Of those, the newest that are talked about most.
const POOL_NEW: usize = 16;

/// What the clients of a round do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) clients: usize,
    /// Wants of each client; one want can take several calls.
    pub(crate) wants: usize,
    pub(crate) skus: Vec<String>,
    pub(crate) users: usize,
    pub(crate) quantity: i64,
    pub(crate) per_user_limit: u32,
    /// Holds last from 1 s to this.
    pub(crate) hold_seconds_max: u32,
    /// Whether some holds are so short that they lapse meanwhile.
    pub(crate) lapses: bool,
}

/// What the clients of one stock know of each other.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pool: VecDeque<String>,
    /// What one of them is about to ask, with its key.
    asked: Option<(Op, String)>,
}

/// A call, with which stock it is about.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) sku: usize,
    pub(crate) start: usize,
    pub(crate) call: Call,
}

/// One client in a round.
pub(crate) struct Client<'a> {
    pub(crate) number: usize,
    pub(crate) site: &'a Site,
    pub(crate) plan: &'a Plan,
    pub(crate) shared: &'a [Mutex<Shared>],
    /// Hears of every answer.
    pub(crate) answered: Sender<()>,
    rng: SmallRng,
    wire: Option<(usize, Wire)>,
    calls: Vec<Recorded>,
    names: u64,
    refused: u64,
    /// The stock that it has paused.
    paused: Option<usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Client<'a> {
    pub(crate) fn new(
        number: usize,
        seed: u64,
        site: &'a Site,
        plan: &'a Plan,
        shared: &'a [Mutex<Shared>],
        answered: Sender<()>,
    ) -> Self {
        let rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        Self { number, site, plan, shared, answered, rng, wire: None, calls: Vec::new(), names: 0, refused: 0, paused: None }
    }

    /// Does its share; returns its calls in order, and how many were refused.
    pub(crate) fn work(mut self) -> (Vec<Recorded>, u64) {
        for _ in 0..self.plan.wants {
            if !self.want() {
                break;
            }
        }
        (self.calls, self.refused)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn name(&mut self, of: &str) -> String {
        self.names += 1;
        format!("{of}-{}-{}", self.number, self.names)
    }

    /// One want, until it is answered or given up. Returns whether there is still a node.
    fn want(&mut self) -> bool {
        let sku = self.rng.random_range(0..self.plan.skus.len());
        // A pause that lasts would leave nothing to be seen.
        let sku = if self.chance(50) { self.paused.unwrap_or(sku) } else { sku };
        let asked = lock(&self.shared[sku]).asked.clone();
        let double = asked.filter(|_| self.chance(15));
        let (op, key) = match double {
            Some((op, key)) => (op, Some(key)),
            None => self.choose(sku),
        };
        if let (Op::Reserve { .. }, Some(key)) = (&op, &key)
            && self.chance(20)
        {
            lock(&self.shared[sku]).asked = Some((op.clone(), key.clone()));
        }
        let persists = self.chance(75);
        for _ in 0..ATTEMPTS_MAX {
            match self.call(sku, &op, key.as_ref()) {
                None => return false,
                Some(false) if persists && key.is_some() => {}
                Some(_) => break,
            }
        }
        let Some(key) = key else { return true };
        if self.chance(8) && self.call(sku, &op, Some(&key)).is_none() {
            return false;
        }
        // The same key for something else, once it is known to be used.
        let is_used = self.calls.last().is_some_and(|last| matches!(last.call.answer, Answer::Reservation { .. }));
        if let Op::Reserve { user, quantity, hold_seconds, reference } = op
            && is_used
            && self.chance(5)
        {
            let other = Op::Reserve { user, quantity: quantity + 1, hold_seconds, reference };
            return self.call(sku, &other, Some(&key)).is_some();
        }
        true
    }

    fn choose(&mut self, sku: usize) -> (Op, Option<String>) {
        let pool = lock(&self.shared[sku]).pool.clone();
        let since = if self.chance(60) { pool.len().saturating_sub(POOL_NEW) } else { 0 };
        let id = if pool.is_empty() { None } else { Some(pool[self.rng.random_range(since..pool.len())].clone()) };
        let quantity = if self.chance(30) { Some(1) } else { None };
        let hold = if self.plan.lapses && self.chance(50) { 1 } else { self.plan.hold_seconds_max };
        let reopens = self.paused == Some(sku) && self.chance(50);
        let kind = if reopens { 98 } else { self.rng.random_range(0..100) };
        let op = match (kind, id) {
            (42..52, Some(id)) => Op::Confirm { id, quantity },
            (52..60, Some(id)) => Op::Release { id, quantity },
            (60..69, Some(id)) => Op::Return { id, quantity },
            (69..72, Some(id)) if self.plan.lapses => Op::Extend { id, hold_seconds: hold },
            (69..82, Some(id)) => Op::ReadReservation { id },
            (82..95, _) => Op::ReadStock,
            (95..97, _) => Op::Adjust { delta: if self.chance(50) { 2 } else { -2 }, reason: self.name("adjust") },
            // Without a key, so only one client may: nobody could tell whose pause it was.
            (97, _) if self.number == 0 && self.paused.is_none() => Op::Pause,
            (98.., _) if self.number == 0 => Op::Reopen,
            _ => Op::Reserve {
                user: format!("user-{}", self.rng.random_range(0..self.plan.users)),
                quantity: if self.chance(30) { 2 } else { 1 },
                hold_seconds: hold,
                reference: self.name("order"),
            },
        };
        match op {
            Op::Pause => self.paused = Some(sku),
            Op::Reopen if self.paused == Some(sku) => self.paused = None,
            _ => {}
        }
        let is_keyed = match op {
            Op::ReadStock | Op::ReadReservation { .. } | Op::Pause | Op::Reopen => false,
            // Whole ones are safe to repeat as they are.
            Op::Confirm { quantity: None, .. } | Op::Release { quantity: None, .. } => self.chance(50),
            _ => self.chance(90),
        };
        let key = is_keyed.then(|| self.name("key"));
        (op, key)
    }

    /// Makes one call, once, and writes it down unless the node refused it. Returns whether its outcome is known; `None` when there is
    /// no node any more.
    fn call(&mut self, sku: usize, op: &Op, key: Option<&String>) -> Option<bool> {
        for _ in 0..ATTEMPTS_MAX {
            let began = self.site.now();
            let place = self.site.place()?;
            let hangs_up = op.kind().is_some() && self.rng.random_range(0..200) == 0;
            let Some(answer) = self.exchange(place, sku, op, key, hangs_up) else {
                self.refused += 1;
                continue;
            };
            let ended = self.site.now();
            // Nobody listens once all kills are done.
            let _ = self.answered.send(());
            if let (Op::Reserve { .. }, Answer::Reservation { shown, .. }) = (op, &answer) {
                let pool = &mut lock(&self.shared[sku]).pool;
                pool.push_back(shown.id.clone());
                if pool.len() > POOL_MAX {
                    pool.pop_front();
                }
            }
            let is_known = answer != Answer::Unknown;
            let call = Call { client: self.number, op: op.clone(), key: key.cloned(), began, ended, answer };
            self.calls.push(Recorded { sku, start: place.start, call });
            return Some(is_known);
        }
        None
    }

    /// `None` when the node refused the call, so that nothing changed.
    fn exchange(&mut self, place: Place, sku: usize, op: &Op, key: Option<&String>, hangs_up: bool) -> Option<Answer> {
        let (method, path, body) = request_of(&self.plan.skus[sku], op);
        let wire = match &mut self.wire {
            Some((start, wire)) if *start == place.start && wire.address() == place.address => wire,
            other => &mut other.insert((place.start, Wire::new(place.address))).1,
        };
        let secret = self.site.secret(self.number);
        let request = Request { method, path: &path, secret, idempotency_key: key.map(String::as_str), body: &body, hangs_up };
        match wire.ask(request) {
            Err(Lost::NotSent) => None,
            Err(Lost::Unknown) => Some(Answer::Unknown),
            Ok(response) => meaning(response.status, response.is_replayed, &response.body),
        }
    }
}

fn request_of(sku: &str, op: &Op) -> (&'static str, String, String) {
    let part = |quantity: &Option<u32>| quantity.map(|quantity| json!({ "quantity": quantity }).to_string()).unwrap_or_default();
    match op {
        Op::Reserve { user, quantity, hold_seconds, reference } => {
            let body = json!({ "user": user, "quantity": quantity, "hold_seconds": hold_seconds, "reference": reference });
            ("POST", format!("/v1/stocks/{sku}/reservations"), body.to_string())
        }
        Op::Confirm { id, quantity } => ("POST", format!("/v1/reservations/{id}/confirm"), part(quantity)),
        Op::Release { id, quantity } => ("POST", format!("/v1/reservations/{id}/release"), part(quantity)),
        Op::Return { id, quantity } => ("POST", format!("/v1/reservations/{id}/return"), part(quantity)),
        Op::Extend { id, hold_seconds } => {
            ("POST", format!("/v1/reservations/{id}/extend"), json!({ "hold_seconds": hold_seconds }).to_string())
        }
        Op::Adjust { delta, reason } => {
            ("POST", format!("/v1/stocks/{sku}/adjustments"), json!({ "delta": delta, "reason": reason }).to_string())
        }
        Op::Pause => ("POST", format!("/v1/stocks/{sku}/pause"), String::new()),
        Op::Reopen => ("POST", format!("/v1/stocks/{sku}/reopen"), String::new()),
        Op::ReadStock => ("GET", format!("/v1/stocks/{sku}"), String::new()),
        Op::ReadReservation { id } => ("GET", format!("/v1/reservations/{id}"), String::new()),
    }
}

/// What an answer says; `None` for a refusal. One that cannot be read is no answer of the contract, and is kept as a rejection that nothing explains.
fn meaning(status: u16, replayed: bool, body: &[u8]) -> Option<Answer> {
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
    }
    let unreadable = || Answer::Rejected { code: format!("{status} {}", String::from_utf8_lossy(body)) };
    let answer = if status == 200 || status == 201 {
        let reservation = serde_json::from_slice::<Reservation>(body);
        let shown = reservation.map(|shown| Answer::Reservation { created: status == 201, replayed, shown });
        let stock = || serde_json::from_slice::<Stock>(body).map(|shown| Answer::Stock { replayed, shown });
        shown.or_else(|_| stock()).unwrap_or_else(|_| unreadable())
    } else {
        match serde_json::from_slice::<Problem>(body) {
            Ok(Problem { code }) if matches!(code.as_str(), "timeout" | "outcome_unknown" | "internal") => Answer::Unknown,
            Ok(_) if matches!(status, 429 | 503) => return None,
            Ok(Problem { code }) => Answer::Rejected { code },
            Err(_) => unreadable(),
        }
    };
    Some(answer)
}
