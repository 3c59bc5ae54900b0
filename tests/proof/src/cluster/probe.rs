//! A steady buyer: reserves one unit after the other of a stock that never ends, with a key each time, asks again until it knows, looks at the
//! stock in between, and counts what it hears by kind. It asks its own node first, whatever became of that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::fleet::Fleet;
use tidegate_witness::clients::{meaning, request_of};
use tidegate_witness::node::Target;
use tidegate_witness::record::{Answer, Call, Moment, Op};
use tidegate_witness::wire::{Lost, Request, Response, Wire};

/// Attempts at one want, at most.
const ATTEMPTS_MAX: usize = 10_000;

/// From one want to the next, so that the probes leave the machine to the nodes.
const PAUSE: Duration = Duration::from_millis(2);

/// One look at the stock in so many wants.
const LOOK_EACH: u64 = 3;

/// How long its units are held: beyond every run.
pub(crate) const HOLD_SECONDS: u32 = 86_400;

/// A grant that a probe was told of: when it asked, and when it had the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
}

/// What a probe heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) calls: Vec<Call>,
    /// Answers, and what stood for one, by kind.
    pub(crate) kinds: BTreeMap<String, u64>,
    /// Refusals that do not say when to ask again.
    pub(crate) without_retry: u64,
    pub(crate) refused: u64,
}

/// One of them.
pub(crate) struct Probe<'a> {
    pub(crate) fleet: &'a Fleet,
    /// Its number among all clients.
    pub(crate) number: usize,
    pub(crate) sku: &'a str,
    /// Hears of every grant.
    pub(crate) granted: Sender<Grant>,
}

impl Probe<'_> {
    /// Asks until `ends`, or until clients are to end.
    pub(crate) fn work(self, ends: &AtomicBool) -> Heard {
        let mut heard = Heard::default();
        let mut wires: BTreeMap<SocketAddr, (usize, Wire)> = BTreeMap::new();
        for want in 1_u64.. {
            if ends.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("probe-{}-{want}", self.number);
            let (op, key) = if want % LOOK_EACH == 0 { (Op::ReadStock, None) } else { (reserve(&name), Some(name)) };
            if self.until_known(&op, key.as_deref(), &mut wires, &mut heard).is_none() {
                break;
            }
            thread::park_timeout(PAUSE);
        }
        heard
    }

    /// `None` when clients are to end.
    fn until_known(
        &self,
        op: &Op,
        key: Option<&str>,
        wires: &mut BTreeMap<SocketAddr, (usize, Wire)>,
        heard: &mut Heard,
    ) -> Option<()> {
        for turn in 0..ATTEMPTS_MAX {
            let place = self.fleet.place(self.number, turn)?;
            let (start, wire) = wires.entry(place.address).or_insert_with(|| (place.start, Wire::new(place.address)));
            if *start != place.start {
                (*start, *wire) = (place.start, Wire::new(place.address));
            }
            let Some(call) = ask(self.fleet, wire, self.number, self.sku, op, key, heard) else {
                self.fleet.refused();
                continue;
            };
            let is_known = call.answer != Answer::Unknown;
            if matches!(call.answer, Answer::Reservation { created: true, replayed: false, .. }) {
                // Nobody listens once the round is over.
                let _ = self.granted.send(Grant { began: call.began, ended: call.ended });
            }
            heard.calls.push(call);
            if is_known {
                return Some(());
            }
        }
        None
    }
}

/// One unit for somebody new.
pub(crate) fn reserve(name: &str) -> Op {
    Op::Reserve { user: name.to_owned(), quantity: 1, hold_seconds: HOLD_SECONDS, reference: name.to_owned() }
}

/// Asks the node at `place` once, on a connection of its own, whatever else clients are told.
pub(crate) fn ask_at(fleet: &Fleet, place: usize, client: usize, sku: &str, op: &Op, key: Option<&str>) -> Option<Call> {
    ask(fleet, &mut Wire::new(fleet.address(place)), client, sku, op, key, &mut Heard::default())
}

/// Asks once. `None` when it was refused or not sent, so that nothing changed.
fn ask(fleet: &Fleet, wire: &mut Wire, client: usize, sku: &str, op: &Op, key: Option<&str>, heard: &mut Heard) -> Option<Call> {
    let (method, path, body) = request_of(sku, op);
    let (secret, began) = (fleet.secret(client), fleet.now());
    let asked = wire.ask(Request { method, path: &path, secret, idempotency_key: key, body: &body, ..Request::default() });
    let ended = fleet.now();
    let answer = match &asked {
        Err(Lost::NotSent) => None,
        Err(Lost::Unknown) => Some(Answer::Unknown),
        Ok(response) => meaning(response),
    };
    heard.count(&asked);
    heard.refused += u64::from(answer.is_none());
    let key = key.map(str::to_owned);
    answer.map(|answer| Call { client, op: op.clone(), key, began, ended, answer, batch: None })
}

impl Heard {
    fn count(&mut self, asked: &Result<Response, Lost>) {
        let kind = match asked {
            Err(Lost::NotSent) => "connection refused".to_owned(),
            Err(Lost::Unknown) => "connection broken".to_owned(),
            Ok(Response { status: status @ (200 | 201), .. }) => status.to_string(),
            Ok(Response { status, body, .. }) => {
                let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
                let code = problem.and_then(|problem| Some(problem.get("code")?.as_str()?.to_owned()));
                code.unwrap_or_else(|| format!("status {status}"))
            }
        };
        *self.kinds.entry(kind).or_default() += 1;
        let lacks_retry = matches!(asked, Ok(Response { status: 429 | 503, may_retry: false, .. }));
        self.without_retry += u64::from(lacks_retry);
    }

    /// Adds what another heard.
    pub(crate) fn add(&mut self, mut other: Self) {
        self.calls.append(&mut other.calls);
        other.kinds.into_iter().for_each(|(kind, count)| *self.kinds.entry(kind).or_default() += count);
        self.without_retry += other.without_retry;
        self.refused += other.refused;
    }
}
