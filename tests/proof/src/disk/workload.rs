//! What is written: seeded groups of events, decided by the real rules, for several streams. Knows no store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;
use tidegate_persistence::{Actor, ActorName, Durability, Group, GroupBuilder, GroupSequence, StreamId};
use tidegate_stock::{
    Allotment, Command, Delta, Event, Fingerprint, HoldSeconds, Idempotency, Ledger, Partition, Quantity, Reason, Recall, Request,
    ReservationId, Rules, Sku, StockTerms, Timestamp, UserId, decide, decide_lapse,
};

use super::store::Handover;

/// The time of the first event.
const BEGIN: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// Stocks of each stream.
const STOCKS: u16 = 3;

/// Users, of all streams.
const USERS: u32 = 60;

/// The rules of every ledger here: nothing is refused for want of room.
pub(crate) const RULES: Rules = Rules {
    idempotency_seconds: 86_400,
    idempotency_keys_max: 1_000_000,
    retention_seconds: 604_800,
    reservations_in_memory_max: 1_000_000,
    users_in_memory_max: 1_000_000,
};

/// A group with the events that it was made of.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) group: Group,
    pub(crate) events: Vec<(Event, Timestamp)>,
}

/// What each stream is to hold, oldest group first.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(pub(crate) BTreeMap<StreamId, Vec<Arc<Made>>>);

impl History {
    /// The first groups of each stream, as many as `counts` says.
    pub(crate) fn prefix(&self, counts: &BTreeMap<StreamId, usize>) -> Self {
        Self(self.0.iter().map(|(stream, made)| (*stream, made[..counts[stream]].to_vec())).collect())
    }
}

/// How a log is kept, and how its groups reach it.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) value_bytes_max: usize,
    pub(crate) durability: Durability,
    pub(crate) history: History,
    /// In the order in which they are handed over; the first piece is one group.
    pub(crate) script: VecDeque<Handover>,
}

/// How much is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) groups: usize,
    /// Events of the largest group.
    pub(crate) events_max: usize,
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn new(random: &mut StdRng, size: Size) -> Self {
        let streams: u16 = random.random_range(1..=3);
        let value_bytes_max = [512, 512, 1_024, 6 * 1_024][random.random_range(0..4)];
        let durability = if random.random_bool(0.8) { Durability::PowerLoss } else { Durability::ProcessCrash };
        let empty = History((0..streams).map(|shard| (StreamId::log(shard), Vec::new())).collect());
        let mut plan = Self { value_bytes_max, durability, history: empty, script: VecDeque::new() };
        plan.extend(random, size);
        plan
    }

    /// The plan that goes on where a log stands that holds `held`.
    pub(crate) fn going_on(&self, random: &mut StdRng, held: History, size: Size) -> Self {
        let mut plan = Self { history: held, script: VecDeque::new(), ..*self };
        plan.extend(random, size);
        plan
    }

    fn extend(&mut self, random: &mut StdRng, size: Size) {
        let mut writers: Vec<_> = self.history.0.iter().map(|(stream, made)| Writer::at(*stream, made)).collect();
        let large = random.random_range(0..size.groups);
        for number in 0..size.groups {
            let place = random.random_range(0..writers.len());
            let events = match random.random_range(0..10) {
                _ if number == large => random.random_range(size.events_max / 2..=size.events_max),
                0..5 => random.random_range(1..=3),
                5 => 0,
                _ => random.random_range(1..=size.events_max.min(25)),
            };
            let writer = &mut writers[place];
            let made = Arc::new(writer.group(random, events));
            let handed = (writer.stream, made.group.clone());
            self.history.0.get_mut(&writer.stream).expect("every writer has its stream").push(made);
            // The first is handed over alone: while it is appended, more gathers.
            let joins = self.script.len() > 1 && random.random_bool(0.5);
            match self.script.back_mut().filter(|_| joins) {
                Some(last) => last.groups.push(handed),
                None => self.script.push_back(Handover { at_append: random.random_bool(0.4), groups: vec![handed] }),
            }
        }
    }
}

/// Makes the groups of one stream.
struct Writer {
    stream: StreamId,
    ledger: Ledger,
    grants: Vec<ReservationId>,
    groups: u64,
    now: Timestamp,
}

impl Writer {
    /// Behind `made`.
    fn at(stream: StreamId, made: &[Arc<Made>]) -> Self {
        let now = made.last().map_or(BEGIN, |made| made.group.time);
        let mut writer = Self { stream, ledger: Ledger::new(RULES, 7), grants: Vec::new(), groups: made.len() as u64, now };
        for (event, at) in made.iter().flat_map(|made| &made.events) {
            writer.apply(event, *at);
        }
        writer.now = writer.now.max(writer.ledger.last_applied());
        writer
    }

    fn apply(&mut self, event: &Event, at: Timestamp) {
        if let Event::Reserved { stock, sequence, .. } = event {
            self.grants.push(ReservationId { stock: *stock, sequence: *sequence });
        }
        // What is in the log is never undone.
        drop(self.ledger.apply(event, at));
    }

    /// The next group, of `events` events or one more.
    fn group(&mut self, random: &mut StdRng, events: usize) -> Made {
        self.groups += 1;
        self.later(random);
        let mut builder = GroupBuilder::new(GroupSequence(self.groups), self.now);
        let actor = Actor::Key(ActorName::new("shop").expect("it is an identifier"));
        let mut made = Vec::new();
        while made.len() < events {
            if random.random_bool(0.2) {
                self.later(random);
            }
            let found = self.decide(random);
            for event in found {
                self.apply(&event, self.now);
                let image: Vec<u8> = (0..random.random_range(0..40)).map(|_| random.random()).collect();
                builder.push(&event, if random.random_bool(0.9) { &actor } else { &Actor::Clock }, self.now, &image);
                made.push((event, self.now));
            }
        }
        Made { group: builder.finish(), events: made }
    }

    fn later(&mut self, random: &mut StdRng) {
        self.now = Timestamp::from_unix_ms(self.now.unix_ms() + random.random_range(0..2_000));
    }

    /// The events of one request that is not rejected, or of a lapse.
    fn decide(&self, random: &mut StdRng) -> Vec<Event> {
        if random.random_bool(0.1)
            && let Some(event) = decide_lapse(&self.ledger, self.now)
        {
            return vec![event];
        }
        let idempotency = random.random_bool(0.3).then(|| Idempotency {
            key: Fingerprint(random.random_range(0..1_000_000_000)),
            request: Fingerprint(random.random()),
        });
        let request = Request { command: self.pick(random), idempotency };
        match decide(&self.ledger, &request, self.now, Recall::NotTried) {
            Ok(decision) => decision.before.into_iter().chain(decision.event).collect(),
            Err(_) => Vec::new(),
        }
    }

    fn pick(&self, random: &mut StdRng) -> Command {
        let stock = random.random_range(0..STOCKS);
        let sku = Sku::new(&format!("sku-{}-{stock}", self.stream.shard())).expect("it is an identifier");
        if self.ledger.stock_count() < usize::from(STOCKS) {
            let hold_seconds = HoldSeconds::new(20).expect("it is within its bounds");
            return Command::CreateStock {
                partition: Partition(self.stream.shard() * STOCKS + stock),
                sku,
                quantity: Allotment::new(1_000_000).expect("it is within its bounds"),
                terms: StockTerms {
                    per_user_limit: None,
                    hold_seconds,
                    hold_seconds_max: hold_seconds.default_max(),
                    opens_at: None,
                    closes_at: None,
                },
            };
        }
        let quantity = random.random_bool(0.5).then_some(Quantity::ONE);
        let reservation = (!self.grants.is_empty()).then(|| self.grants[random.random_range(0..self.grants.len())]);
        match (random.random_range(0..100), reservation) {
            (0..15, Some(reservation)) => Command::Confirm { reservation, quantity },
            (15..25, Some(reservation)) => Command::Release { reservation, quantity },
            (25..32, Some(reservation)) => Command::Return { reservation, quantity },
            (32..37, Some(reservation)) => {
                Command::Extend { reservation, hold_seconds: HoldSeconds::new(90).expect("it is within its bounds") }
            }
            (37..40, _) => Command::AdjustStock {
                sku,
                delta: Delta::new(if random.random_bool(0.5) { 3 } else { -2 }).expect("it is within its bounds"),
                reason: Reason::new("counted anew").expect("it is a reason"),
            },
            _ => Command::Reserve {
                sku,
                user: UserId::new(&format!("user-{}", random.random_range(0..USERS))).expect("it is an identifier"),
                quantity: Quantity::new(random.random_range(1..=3)).expect("it is within its bounds"),
                hold_seconds: None,
                reference: None,
            },
        }
    }
}
