//! The clients: each makes one call after the other, from a seed, and writes down what it asked, when, and what it was answered.
//!
//! They get into each other's way on purpose: a few users, few units, reservations of others, the same call with the same key from two
//! at once. Knows nothing of what is right.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::node::{Place, Target};
use crate::record::{Answer, Call, Op, Patch, Reservation, Stock};
use crate::wire::{Lost, Request, Response, Wire};

/// Attempts of one call at most, refusals included.
const ATTEMPTS_MAX: u32 = 1_000;

/// Reservations of a stock that its clients talk about at a time.
const POOL_MAX: usize = 400;

/// Of those, the newest that are talked about most.
const POOL_NEW: usize = 16;

/// Entity tags of a stock that are remembered: the newest, and some that are its no more.
const TAGS_MAX: usize = 3;

/// Most commands of a batch.
const BATCH_MAX: usize = 6;

/// What is done with a stock after its sale, in a large history and in a small one.
const WANTS_AFTER_LARGE: usize = 40;
const WANTS_AFTER_SMALL: usize = 5;

/// Looks until nothing of a stock is reserved any more, at most.
const LOOKS_MAX: usize = 1_000_000;

/// What the clients of a round do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many there are.
    pub clients: usize,
    /// Wants of each client; one want can take several calls.
    pub wants: usize,
    /// The stocks.
    pub skus: Vec<String>,
    /// How many users they buy for.
    pub users: usize,
    /// Units of each stock.
    pub quantity: i64,
    /// Most units of a user.
    pub per_user_limit: u32,
    /// Holds last from 1 s to this.
    pub hold_seconds_max: u32,
    /// Whether some holds are so short that they lapse meanwhile. Then stocks have windows too.
    pub lapses: bool,
    /// Whether some of them ask in batches.
    pub batches: bool,
    /// Whether the first client archives every stock at its end, when nothing of it is reserved any more.
    pub archives: bool,
}

/// What the clients of one stock know of each other.
#[derive(Debug, Default)]
pub struct Shared {
    pool: VecDeque<String>,
    /// What one of them is about to ask, with its key.
    asked: Option<(Op, String)>,
    /// Entity tags that the stock had, oldest first.
    tags: VecDeque<String>,
}

/// A call, with which stock it is about.
#[derive(Debug)]
pub struct Recorded {
    /// The place of its stock in the plan.
    pub sku: usize,
    /// The start of the node that it was sent to.
    pub start: usize,
    /// The call.
    pub call: Call,
}

/// One client.
pub struct Client<'a> {
    number: usize,
    node: &'a dyn Target,
    plan: &'a Plan,
    shared: &'a [Mutex<Shared>],
    /// Hears of every answer.
    answered: Sender<()>,
    rng: SmallRng,
    wire: Option<(usize, Wire)>,
    calls: Vec<Recorded>,
    names: u64,
    refused: u64,
    batches: u64,
    /// Whom it has asked in vain about what it wants now.
    turn: usize,
    /// The stock that it has paused, closed, or given a window.
    shut: Option<usize>,
    /// Wants that are done.
    done: usize,
    /// What it asked or was about to ask when the node was gone.
    pending: Option<Want>,
}

/// The stock, what to do with it, and the key.
type Want = (usize, Op, Option<String>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Client<'a> {
    /// Client `number` of those that `seed` makes; `answered` hears of every answer.
    pub fn new(
        number: usize,
        seed: u64,
        node: &'a dyn Target,
        plan: &'a Plan,
        shared: &'a [Mutex<Shared>],
        answered: Sender<()>,
    ) -> Self {
        let rng = SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
        Self {
            number,
            node,
            plan,
            shared,
            answered,
            rng,
            wire: None,
            calls: Vec::new(),
            names: 0,
            refused: 0,
            batches: 0,
            turn: 0,
            shut: None,
            done: 0,
            pending: None,
        }
    }

    /// Does its share, or what of it can be done until there is no node. Called again, it goes on with what it still wants to know.
    pub fn work(&mut self) {
        while self.done < self.plan.wants && self.want() {
            self.done += 1;
        }
        if self.done == self.plan.wants && self.number == 0 && self.plan.archives {
            // There is nothing more to do where there is no node any more.
            let _ = self.end_sales();
        }
    }

    /// Its calls since the last time, in order, and how many were refused.
    pub fn take(&mut self) -> (Vec<Recorded>, u64) {
        (std::mem::take(&mut self.calls), std::mem::take(&mut self.refused))
    }

    /// Makes one call without a key, once, unless there is no node.
    pub fn ask(&mut self, sku: usize, op: &Op) {
        // What came of it is written down like that of any other.
        let _ = self.call(sku, op, None);
    }

    /// Closes every stock, archives it once nothing of it is reserved any more, and goes on talking about it.
    fn end_sales(&mut self) -> Option<()> {
        for sku in 0..self.plan.skus.len() {
            self.call(sku, &Op::Close, None)?;
            self.call(sku, &Op::Archive, None)?;
        }
        for sku in 0..self.plan.skus.len() {
            if self.plan.lapses {
                let path = format!("/v1/stocks/{}", self.plan.skus[sku]);
                let is_at_rest = |shown: Option<Stock>| shown.is_some_and(|stock| stock.reserved == 0);
                (0..LOOKS_MAX).find(|_| is_at_rest(self.look(&path)))?;
                self.call(sku, &Op::Archive, None)?;
            }
            let wants = if self.plan.lapses { WANTS_AFTER_LARGE } else { WANTS_AFTER_SMALL };
            for _ in 0..wants {
                let (op, key) = self.choose(sku);
                self.call(sku, &op, key.as_ref())?;
            }
        }
        Some(())
    }

    /// A look that is not part of the history.
    fn look<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Option<T> {
        let place = self.place()?;
        let secret = self.node.secret(self.number);
        let response = self.wire(place).ask(Request { path, secret, ..Request::default() }).ok()?;
        serde_json::from_slice(&response.body).ok()
    }

    fn place(&self) -> Option<Place> {
        self.node.place(self.number, self.turn)
    }

    /// Nobody has heard, or somebody has refused: the next one is to be asked.
    fn ask_another(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    fn refused(&mut self, commands: u64) {
        self.refused += commands;
        self.ask_another();
        self.node.refused();
    }

    fn wire(&mut self, place: Place) -> &mut Wire {
        let is_there = |(start, wire): &(usize, Wire)| *start == place.start && wire.address() == place.address;
        self.wire = self.wire.take().filter(is_there);
        &mut self.wire.get_or_insert_with(|| (place.start, Wire::new(place.address))).1
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
        let is_asked_again = self.pending.is_some();
        self.turn = 0;
        let (sku, op, key) = if let Some(pending) = self.pending.take() {
            pending
        } else {
            let sku = self.choose_stock();
            match self.rng.random_range(0..100) {
                0..8 if self.plan.batches => return self.want_batch(sku),
                8..10 if self.node.lists_all() => return self.call_stocks().is_some(),
                _ => self.next(sku),
            }
        };
        let persists = is_asked_again || self.chance(75);
        for _ in 0..ATTEMPTS_MAX {
            match self.call(sku, &op, key.as_ref()) {
                None => {
                    self.pending = key.map(|key| (sku, op, Some(key))).filter(|_| persists);
                    return false;
                }
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

    fn choose_stock(&mut self) -> usize {
        let sku = self.rng.random_range(0..self.plan.skus.len());
        // A stock that stays shut would leave nothing to be seen.
        if self.chance(50) { self.shut.unwrap_or(sku) } else { sku }
    }

    /// What it wants of a stock next, and with which key.
    fn next(&mut self, sku: usize) -> Want {
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
        (sku, op, key)
    }

    fn choose(&mut self, sku: usize) -> (Op, Option<String>) {
        let pool = lock(&self.shared[sku]).pool.clone();
        let since = if self.chance(60) { pool.len().saturating_sub(POOL_NEW) } else { 0 };
        let id = if pool.is_empty() { None } else { Some(pool[self.rng.random_range(since..pool.len())].clone()) };
        let quantity = if self.chance(30) { Some(1) } else { None };
        let hold = if self.plan.lapses && self.chance(50) { 1 } else { self.plan.hold_seconds_max };
        let reopens = self.shut == Some(sku) && self.chance(50);
        let kind = if reopens { 98 } else { self.rng.random_range(0..100) };
        let op = match (kind, id) {
            (38..42, _) => self.choose_list(),
            (42..52, Some(id)) => Op::Confirm { id, quantity },
            (52..60, Some(id)) => Op::Release { id, quantity },
            (60..69, Some(id)) => Op::Return { id, quantity },
            // Half as long, so that it ends before the longest hold that there may be.
            (69..72, Some(id)) => Op::Extend { id, hold_seconds: hold.div_ceil(2) },
            (69..82, Some(id)) => Op::ReadReservation { id },
            (82..95, _) => Op::ReadStock,
            (95..97, _) => Op::Adjust { delta: if self.chance(50) { 2 } else { -2 }, reason: self.name("adjust") },
            // Without a key, so few clients may: of two alike by one client nobody could tell which was heard.
            (97, _) if self.number == 0 && self.shut.is_none() => {
                if self.chance(50) {
                    Op::Pause
                } else {
                    Op::Close
                }
            }
            (97, _) if self.number == 0 => Op::Archive,
            (98.., _) if self.number == 0 => Op::Reopen,
            (97.., _) if self.number == 1 => self.choose_patch(sku),
            _ => Op::Reserve {
                user: format!("user-{}", self.rng.random_range(0..self.plan.users)),
                quantity: if self.chance(30) { 2 } else { 1 },
                hold_seconds: hold,
                reference: self.name("order"),
            },
        };
        match &op {
            Op::Pause | Op::Close => self.shut = Some(sku),
            Op::Reopen if self.shut == Some(sku) => self.shut = None,
            Op::Patch { patch, .. } => {
                let shuts = patch.opens_at.iter().chain(&patch.closes_at).any(Option::is_some);
                self.shut = if shuts { Some(sku) } else { self.shut.filter(|shut| *shut != sku) };
            }
            _ => {}
        }
        let is_keyed = match op {
            Op::ReadStock
            | Op::ReadReservation { .. }
            | Op::List { .. }
            | Op::Pause
            | Op::Reopen
            | Op::Close
            | Op::Archive
            | Op::Patch { .. } => false,
            // Whole ones are safe to repeat as they are.
            Op::Confirm { quantity: None, .. } | Op::Release { quantity: None, .. } => self.chance(50),
            _ => self.chance(90),
        };
        let key = is_keyed.then(|| self.name("key"));
        (op, key)
    }

    fn choose_list(&mut self) -> Op {
        let states = ["reserved", "confirmed", "released", "expired", "returned"];
        let all_users = !self.plan.lapses && self.chance(50);
        let user = (!all_users).then(|| format!("user-{}", self.rng.random_range(0..self.plan.users)));
        let state = self.chance(40).then(|| states[self.rng.random_range(0..states.len())].to_owned());
        let limit = if self.plan.lapses { 10 } else { [5, 200][self.rng.random_range(0..2)] };
        Op::List { user, state, limit }
    }

    /// Another limit, or a window that opens or closes soon, or none; sometimes on condition of a tag that the stock has or had.
    fn choose_patch(&mut self, sku: usize) -> Op {
        #[derive(serde::Deserialize)]
        struct Time {
            now: String,
        }
        let tags = lock(&self.shared[sku]).tags.clone();
        let mut if_match =
            if tags.is_empty() || self.chance(40) { None } else { Some(tags[self.rng.random_range(0..tags.len())].clone()) };
        let mut patch = Patch::default();
        if !self.plan.lapses || self.chance(40) {
            patch.per_user_limit = Some(self.plan.per_user_limit + self.rng.random_range(0..2));
        } else if self.shut == Some(sku) {
            // Without condition, so that it does not stay shut.
            (patch.opens_at, patch.closes_at, if_match) = (Some(None), Some(None), None);
        } else {
            let ms = self.rng.random_range(20..300);
            let soon = self.look::<Time>("/v1/time").and_then(|time| later(&time.now, ms));
            if self.chance(50) { patch.opens_at = Some(soon) } else { patch.closes_at = Some(soon) }
        }
        Op::Patch { patch, if_match }
    }

    /// Several commands in one request, and the same again when nobody heard. Returns whether there is still a node.
    fn want_batch(&mut self, sku: usize) -> bool {
        let mut members: Vec<Want> = Vec::new();
        for _ in 0..self.rng.random_range(2..=BATCH_MAX) {
            let sku = if self.chance(70) { sku } else { self.rng.random_range(0..self.plan.skus.len()) };
            let (op, key) = self.choose_in_batch(sku);
            members.push((sku, op, key));
        }
        let persists = self.chance(75) && members.iter().all(|(_, _, key)| key.is_some());
        for _ in 0..ATTEMPTS_MAX {
            match self.call_batch(&members) {
                None => return false,
                Some(false) if persists => {}
                Some(_) => break,
            }
        }
        true
    }

    fn choose_in_batch(&mut self, sku: usize) -> (Op, Option<String>) {
        for _ in 0..ATTEMPTS_MAX {
            let shut = self.shut;
            let (op, key) = self.choose(sku);
            if in_batch(&self.plan.skus[sku], &op, None).is_some() {
                return (op, key);
            }
            // What is not asked shuts nothing, and opens nothing.
            self.shut = shut;
        }
        unreachable!("most of what is chosen can be in a batch")
    }

    /// Makes one request of several commands, and writes each down as a call. Returns whether all outcomes are known; `None` when there is
    /// no node any more.
    fn call_batch(&mut self, members: &[Want]) -> Option<bool> {
        let commands: Vec<Value> = members
            .iter()
            .map(|(sku, op, key)| in_batch(&self.plan.skus[*sku], op, key.as_deref()).expect("it was chosen for a batch"))
            .collect();
        let in_lines = self.chance(50);
        let (content_type, body) = if in_lines {
            ("application/x-ndjson", commands.iter().flat_map(|command| [command.to_string(), "\n".to_owned()]).collect())
        } else {
            ("application/json", json!({ "commands": commands }).to_string())
        };
        for _ in 0..ATTEMPTS_MAX {
            let began = self.node.now();
            let place = self.place()?;
            let hangs_up = self.rng.random_range(0..200) == 0;
            let secret = self.node.secret(self.number);
            let request =
                Request { method: "POST", path: "/v1/batch", secret, content_type, body: &body, hangs_up, ..Request::default() };
            let answers = match self.wire(place).ask(request) {
                Err(Lost::NotSent) => None,
                Err(Lost::Unknown) => Some(vec![Some(Answer::Unknown); members.len()]),
                Ok(response) if response.status == 200 => Some(meanings(&response.body, in_lines, members.len())),
                // The whole of it has one answer.
                Ok(response) => meaning(&response).map(|answer| vec![Some(answer); members.len()]),
            };
            let Some(answers) = answers else {
                self.refused(members.len() as u64);
                continue;
            };
            let ended = self.node.now();
            self.batches += 1;
            let is_known = answers.iter().all(|answer| *answer != Some(Answer::Unknown));
            if !is_known {
                self.ask_another();
            }
            for ((sku, op, key), answer) in members.iter().zip(answers) {
                let _ = self.answered.send(());
                // A command that was refused changed nothing.
                let Some(answer) = answer else {
                    self.refused += 1;
                    continue;
                };
                let batch = Some(self.batches);
                let call = Call { client: self.number, op: op.clone(), key: key.clone(), began, ended, answer, batch };
                self.record(*sku, place.start, call);
            }
            return Some(is_known);
        }
        None
    }

    /// Looks at all stocks at once: to each of them a read of its own.
    fn call_stocks(&mut self) -> Option<()> {
        #[derive(serde::Deserialize)]
        struct Named {
            sku: String,
            #[serde(flatten)]
            stock: Stock,
        }
        #[derive(serde::Deserialize)]
        struct Page {
            stocks: Vec<Named>,
        }
        let began = self.node.now();
        let place = self.place()?;
        let Some(page) = self.look::<Page>("/v1/stocks?limit=1000") else { return Some(()) };
        let ended = self.node.now();
        for (sku, name) in self.plan.skus.iter().enumerate() {
            let shown = page.stocks.iter().find(|named| named.sku == *name).map(|named| named.stock.clone());
            let answer =
                shown.map_or(Answer::Rejected { code: "unknown_sku".to_owned() }, |shown| Answer::Stock { replayed: false, shown });
            // Side by side, as the commands of a batch are, where there are several.
            let batch = (self.plan.skus.len() > 1).then_some(self.batches + 1);
            let call = Call { client: self.number, op: Op::ReadStock, key: None, began, ended, answer, batch };
            self.record(sku, place.start, call);
        }
        self.batches += 1;
        Some(())
    }

    fn record(&mut self, sku: usize, start: usize, call: Call) {
        match (&call.op, &call.answer) {
            (Op::Reserve { .. }, Answer::Reservation { shown, .. }) => {
                let pool = &mut lock(&self.shared[sku]).pool;
                pool.push_back(shown.id.clone());
                if pool.len() > POOL_MAX {
                    pool.pop_front();
                }
            }
            (_, Answer::Stock { shown: Stock { etag: Some(tag), .. }, .. }) => {
                let tags = &mut lock(&self.shared[sku]).tags;
                if !tags.contains(tag) {
                    tags.push_back(tag.clone());
                }
                if tags.len() > TAGS_MAX {
                    tags.pop_front();
                }
            }
            _ => {}
        }
        self.calls.push(Recorded { sku, start, call });
    }

    /// Makes one call, once, and writes it down unless the node refused it. Returns whether its outcome is known; `None` when there is
    /// no node any more.
    fn call(&mut self, sku: usize, op: &Op, key: Option<&String>) -> Option<bool> {
        for _ in 0..ATTEMPTS_MAX {
            let began = self.node.now();
            let place = self.place()?;
            let hangs_up = op.kind().is_some() && self.rng.random_range(0..200) == 0;
            let Some(answer) = self.exchange(place, sku, op, key, hangs_up) else {
                self.refused(1);
                continue;
            };
            let ended = self.node.now();
            // Nobody listens once all kills are done.
            let _ = self.answered.send(());
            let is_known = answer != Answer::Unknown;
            if !is_known {
                self.ask_another();
            }
            let call = Call { client: self.number, op: op.clone(), key: key.cloned(), began, ended, answer, batch: None };
            self.record(sku, place.start, call);
            return Some(is_known);
        }
        None
    }

    /// `None` when the node refused the call, so that nothing changed.
    fn exchange(&mut self, place: Place, sku: usize, op: &Op, key: Option<&String>, hangs_up: bool) -> Option<Answer> {
        let (method, path, body) = request_of(&self.plan.skus[sku], op);
        let secret = self.node.secret(self.number);
        let if_match = if let Op::Patch { if_match, .. } = op { if_match.as_deref() } else { None };
        let idempotency_key = key.map(String::as_str);
        let request =
            Request { method, path: &path, secret, idempotency_key, if_match, body: &body, hangs_up, ..Request::default() };
        match self.wire(place).ask(request) {
            Err(Lost::NotSent) => None,
            Err(Lost::Unknown) => Some(Answer::Unknown),
            Ok(response) => meaning(&response),
        }
    }
}

/// `ms` milliseconds after a time of the node's, within the same hour.
fn later(time: &str, ms: u32) -> Option<String> {
    let (hour, rest) = time.split_at_checked("2026-01-01T00:".len())?;
    let number = |text: &str| text.parse::<u32>().ok();
    let (minutes, seconds, millis) = (number(rest.get(0..2)?)?, number(rest.get(3..5)?)?, number(rest.get(6..9)?)?);
    let all = (minutes * 60 + seconds) * 1_000 + millis + ms;
    (all < 3_600_000).then(|| format!("{hour}{:02}:{:02}.{:03}Z", all / 60_000, all / 1_000 % 60, all % 1_000))
}

/// Method, path and body of what is asked about a stock.
pub fn request_of(sku: &str, op: &Op) -> (&'static str, String, String) {
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
        Op::Patch { patch: Patch { per_user_limit, opens_at, closes_at }, .. } => {
            let mut body = serde_json::Map::new();
            body.extend(per_user_limit.map(|limit| ("per_user_limit".to_owned(), json!(limit))));
            body.extend(opens_at.as_ref().map(|at| ("opens_at".to_owned(), json!(at))));
            body.extend(closes_at.as_ref().map(|at| ("closes_at".to_owned(), json!(at))));
            ("PATCH", format!("/v1/stocks/{sku}"), Value::Object(body).to_string())
        }
        Op::Pause => ("POST", format!("/v1/stocks/{sku}/pause"), String::new()),
        Op::Reopen => ("POST", format!("/v1/stocks/{sku}/reopen"), String::new()),
        Op::Close => ("POST", format!("/v1/stocks/{sku}/close"), String::new()),
        Op::Archive => ("POST", format!("/v1/stocks/{sku}/archive"), String::new()),
        Op::ReadStock => ("GET", format!("/v1/stocks/{sku}"), String::new()),
        Op::ReadReservation { id } => ("GET", format!("/v1/reservations/{id}"), String::new()),
        Op::List { user, state, limit } => {
            let user = user.as_ref().map(|user| format!("&user={user}")).unwrap_or_default();
            let state = state.as_ref().map(|state| format!("&state={state}")).unwrap_or_default();
            ("GET", format!("/v1/stocks/{sku}/reservations?limit={limit}{user}{state}"), String::new())
        }
    }
}

/// A command as it stands in a batch; `None` for what cannot be in one.
fn in_batch(sku: &str, op: &Op, key: Option<&str>) -> Option<Value> {
    let mut command = match op {
        Op::Reserve { user, quantity, hold_seconds, reference } => json!({
            "op": "reserve", "sku": sku, "user": user, "quantity": quantity, "hold_seconds": hold_seconds, "reference": reference
        }),
        Op::Confirm { id, quantity: None } => json!({ "op": "confirm", "id": id }),
        Op::Confirm { id, quantity } => json!({ "op": "confirm", "id": id, "quantity": quantity }),
        Op::Release { id, quantity: None } => json!({ "op": "release", "id": id }),
        Op::Release { id, quantity } => json!({ "op": "release", "id": id, "quantity": quantity }),
        Op::Return { id, quantity: None } => json!({ "op": "return", "id": id }),
        Op::Return { id, quantity } => json!({ "op": "return", "id": id, "quantity": quantity }),
        Op::Extend { id, hold_seconds } => json!({ "op": "extend", "id": id, "hold_seconds": hold_seconds }),
        _ => return None,
    };
    if let Some(key) = key {
        command["idempotency_key"] = json!(key);
    }
    Some(command)
}

/// What the answer to a batch says of each of its commands; `None` for a refusal. An answer that cannot be read is of no use to anybody.
fn meanings(body: &[u8], in_lines: bool, count: usize) -> Vec<Option<Answer>> {
    #[derive(serde::Deserialize)]
    struct Done {
        status: u16,
        #[serde(default)]
        replayed: bool,
        reservation: Option<Reservation>,
        code: Option<String>,
    }
    #[derive(serde::Deserialize)]
    struct Whole {
        results: Vec<Done>,
    }
    let results: Option<Vec<Done>> = if in_lines {
        body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).ok()).collect()
    } else {
        serde_json::from_slice::<Whole>(body).ok().map(|whole| whole.results)
    };
    let unreadable = || Answer::Rejected { code: format!("200 {}", String::from_utf8_lossy(body)) };
    let Some(results) = results.filter(|results| results.len() == count) else { return vec![Some(unreadable()); count] };
    let answer = |done: Done| match (done.status, done.reservation, done.code) {
        (status @ (200 | 201), Some(shown), None) => {
            Some(Answer::Reservation { created: status == 201, replayed: done.replayed, shown })
        }
        (status, None, Some(code)) => no(status, code),
        _ => Some(unreadable()),
    };
    results.into_iter().map(answer).collect()
}

/// What an error says; `None` for a refusal.
fn no(status: u16, code: String) -> Option<Answer> {
    match code.as_str() {
        "timeout" | "outcome_unknown" | "internal" => Some(Answer::Unknown),
        _ if matches!(status, 429 | 503) => None,
        _ => Some(Answer::Rejected { code }),
    }
}

/// What an answer says; `None` for a refusal. One that cannot be read is no answer of the contract, and is kept as a rejection that nothing explains.
pub fn meaning(response: &Response) -> Option<Answer> {
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
    }
    #[derive(serde::Deserialize)]
    struct Page {
        reservations: Vec<Reservation>,
        next_cursor: Option<String>,
    }
    let Response { status, is_replayed: replayed, etag, body, .. } = response;
    let (status, replayed) = (*status, *replayed);
    let unreadable = || Some(Answer::Rejected { code: format!("{status} {}", String::from_utf8_lossy(body)) });
    if status != 200 && status != 201 {
        return serde_json::from_slice::<Problem>(body).map_or_else(|_| unreadable(), |problem| no(status, problem.code));
    }
    if let Ok(shown) = serde_json::from_slice::<Reservation>(body) {
        return Some(Answer::Reservation { created: status == 201, replayed, shown });
    }
    if let Ok(shown) = serde_json::from_slice::<Stock>(body) {
        return Some(Answer::Stock { replayed, shown: Stock { etag: etag.clone(), ..shown } });
    }
    let page = serde_json::from_slice::<Page>(body);
    page.map_or_else(|_| unreadable(), |page| Some(Answer::List { shown: page.reservations, more: page.next_cursor.is_some() }))
}
