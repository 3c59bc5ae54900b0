//! What the writer writes: an endless, legal history of sales for each stream, made from a seed alone.
//!
//! The writer and the checker both make it, so that the checker knows every byte that a group must hold without having been told.
//! Nothing here knows of logs, disks or crashes.

use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tidegate_persistence::{Actor, ActorName, Entry, GroupSequence, PARTITIONS};
use tidegate_stock::limits::{ALLOTTED_MAX, LAPSE_RESERVATIONS_MAX};
use tidegate_stock::{
    Allotment, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Partition, Quantity, Reference, ReservationId, Sku,
    StockId, StockNumber, StockTerms, Timestamp, UserId,
};

/// Streams of a directory, as shards of a node.
pub(crate) const STREAMS: u16 = 3;

/// Most events of a group.
pub(crate) const GROUP_EVENTS_MAX: u32 = 10_000;

/// Products of a stream. One of them has a limit per user.
const STOCKS: u16 = 4;
const STOCK_WITH_LIMIT: u16 = 0;

/// The history's own time: it starts here, and a group comes every so often, whatever the clock says.
const FIRST_GROUP_AT: u64 = 1_750_000_000_000;
const GROUP_EVERY_MS: u64 = 20;

/// Holds that are never settled lapse soon, the others outlive the longest history.
const HOLD_LAPSING_SECONDS: u32 = 1;
const HOLD_SECONDS: u32 = 31_536_000;

/// What images are the beginning of, some of them none of it.
static IMAGE: [u8; 48] = *b"what a reservation was like right after an event";

/// One group of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) sequence: GroupSequence,
    pub(crate) time: Timestamp,
    pub(crate) entries: Vec<Entry<'static>>,
}

/// The history of one stream, from its first group on.
#[derive(Debug)]
pub(crate) struct History {
    random: SmallRng,
    stream: u16,
    sequence: u64,
    actors: [Actor; 2],
    /// Grants of each product; `None` until it is created.
    grants: [Option<u64>; STOCKS as usize],
    settling: VecDeque<(ReservationId, Quantity)>,
    lapsing: VecDeque<(ReservationId, Timestamp)>,
}

impl History {
    /// The history of `stream` in a directory whose content comes from `seed`.
    pub(crate) fn new(seed: u64, stream: u16) -> Self {
        let actor = |name| Actor::Key(ActorName::new(name).expect("the name is an identifier"));
        Self {
            random: SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(stream)),
            stream,
            sequence: 0,
            actors: [actor("frontend"), actor("checkout")],
            grants: [None; STOCKS as usize],
            settling: VecDeque::new(),
            lapsing: VecDeque::new(),
        }
    }

    /// The next group.
    pub(crate) fn next_group(&mut self) -> Content {
        self.sequence += 1;
        let events = self.group_events();
        let time = FIRST_GROUP_AT + self.sequence * GROUP_EVERY_MS;
        let at = |event: u32| Timestamp::from_unix_ms(time + u64::from(event) * GROUP_EVERY_MS / u64::from(events));
        let entries = (0..events).map(|event| self.next_entry(at(event))).collect();
        Content { sequence: GroupSequence(self.sequence), time: Timestamp::from_unix_ms(time), entries }
    }

    /// As many groups have one event, or all that a group may have, as lie between two powers of two.
    fn group_events(&mut self) -> u32 {
        let most = 1_u32 << self.random.random_range(0..=14);
        self.random.random_range(most / 2 + 1..=most).min(GROUP_EVENTS_MAX)
    }

    fn next_entry(&mut self, at: Timestamp) -> Entry<'static> {
        let image = &IMAGE[..usize::try_from(at.unix_ms()).unwrap_or(0) % (IMAGE.len() + 1)];
        if let Some(event) = self.lapse(at) {
            return Entry { at, actor: Actor::Clock, event, image };
        }
        let actor = self.actors[self.random.random_range(0..self.actors.len())].clone();
        let event = if self.random.random_bool(0.45) { self.settle() } else { None };
        let event = event.unwrap_or_else(|| self.grant(at));
        Entry { at, actor, event, image }
    }

    fn lapse(&mut self, at: Timestamp) -> Option<Event> {
        let due = self.lapsing.iter().take(LAPSE_RESERVATIONS_MAX).take_while(|(_, expires_at)| *expires_at <= at).count();
        let reservations = self.lapsing.drain(..due).map(|(reservation, _)| reservation).collect::<Vec<_>>();
        (due > 0).then_some(Event::Expired { reservations })
    }

    fn settle(&mut self) -> Option<Event> {
        let (reservation, quantity) = self.settling.pop_front()?;
        let idempotency = self.idempotency();
        Some(if self.random.random_bool(0.7) {
            Event::Confirmed { reservation, quantity, idempotency }
        } else {
            Event::Released { reservation, quantity, idempotency }
        })
    }

    fn grant(&mut self, at: Timestamp) -> Event {
        let place = self.random.random_range(0..STOCKS);
        let first_partition = (u32::from(self.stream) * u32::from(PARTITIONS)).div_ceil(u32::from(STREAMS));
        let partition = u16::try_from(first_partition).expect("the first partition of a stream is one of them") + place;
        let stock = StockId { partition: Partition(partition), number: StockNumber(1) };
        let grants = &mut self.grants[usize::from(place)];
        let Some(sequence) = grants else {
            *grants = Some(0);
            return Event::StockCreated {
                stock,
                sku: Sku::new(&format!("rig-{}-{place}", self.stream)).expect("the name is an identifier"),
                quantity: Allotment::new(ALLOTTED_MAX).expect("the largest allotment is one"),
                terms: StockTerms {
                    per_user_limit: (place == STOCK_WITH_LIMIT).then(|| quantity(3)),
                    hold_seconds: hold(HOLD_SECONDS),
                    hold_seconds_max: hold(HOLD_SECONDS),
                    opens_at: None,
                    closes_at: None,
                },
            };
        };
        *sequence += 1;
        let sequence = GrantSequence(*sequence);
        let quantity = quantity(self.random.random_range(1..=3));
        let reservation = ReservationId { stock, sequence };
        let is_lapsing = self.random.random_bool(0.1);
        let expires_at = at.plus_seconds(if is_lapsing { HOLD_LAPSING_SECONDS } else { HOLD_SECONDS });
        if is_lapsing {
            self.lapsing.push_back((reservation, expires_at));
        } else {
            self.settling.push_back((reservation, quantity));
        }
        let name = format!("{}-{place}-{}", self.stream, sequence.0);
        let reference = Reference::new(&format!("order-{name}")).expect("the name is an identifier");
        Event::Reserved {
            stock,
            sequence,
            user: UserId::new(&format!("buyer-{name}")).expect("the name is an identifier"),
            quantity,
            expires_at,
            reference: self.random.random_bool(0.5).then_some(reference),
            idempotency: self.idempotency(),
        }
    }

    fn idempotency(&mut self) -> Option<Idempotency> {
        let (key, request) = (Fingerprint(self.random.random()), Fingerprint(self.random.random()));
        self.random.random_bool(0.5).then_some(Idempotency { key, request })
    }
}

fn quantity(units: u64) -> Quantity {
    Quantity::new(units).expect("one to three units are a quantity")
}

fn hold(seconds: u32) -> HoldSeconds {
    HoldSeconds::new(u64::from(seconds)).expect("a second to a year are a hold")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidegate_stock::Auditor;

    use super::*;

    #[test]
    fn a_history_is_legal_and_uses_every_kind_of_event() {
        let mut history = History::new(7, 1);
        let mut auditor = Auditor::new(86_400, 0);
        let mut kinds = BTreeSet::new();
        for _ in 0..200 {
            for entry in history.next_group().entries {
                auditor.observe(&entry.event, entry.at).unwrap();
                kinds.insert(match entry.event {
                    Event::StockCreated { .. } => "created",
                    Event::Reserved { .. } => "reserved",
                    Event::Confirmed { .. } => "confirmed",
                    Event::Released { .. } => "released",
                    Event::Expired { .. } => "expired",
                    other => panic!("the history never makes {other:?}"),
                });
            }
        }
        assert_eq!(kinds.len(), 5, "only {kinds:?}");
        assert_eq!(auditor.finish().stocks.len(), usize::from(STOCKS));
    }

    #[test]
    fn groups_have_from_one_event_to_the_most() {
        let mut history = History::new(7, 0);
        let sizes = (0..200).map(|_| history.next_group().entries.len()).collect::<BTreeSet<_>>();
        assert_eq!(sizes.first(), Some(&1));
        assert_eq!(sizes.last(), Some(&(GROUP_EVENTS_MAX as usize)));
    }

    #[test]
    fn the_same_seed_gives_the_same_history_and_another_gives_another() {
        let first = |seed, stream| {
            let mut history = History::new(seed, stream);
            (0..20).map(|_| history.next_group()).collect::<Vec<_>>()
        };
        assert_eq!(first(7, 0), first(7, 0));
        assert_ne!(first(7, 0), first(8, 0));
        assert_ne!(first(7, 0), first(7, 1));
    }
}
